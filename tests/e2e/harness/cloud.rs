//! A real Glance, and a real Keystone where asked, made by `scripts/devcloud`; and its API.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::{Value, json};

use super::devcloud::Devcloud;
use super::mount::Mount;
use super::proxy::http;
use super::run::run_folder;
use super::shell::run;

/// A running cloud.
pub struct Cloud {
    devcloud: Devcloud,
    /// Glance's address.
    pub url: String,
    /// The user whose token calls of the API carry; none without authentication.
    user: Option<&'static str>,
    tokens: Mutex<HashMap<String, String>>,
    /// Which test made images of a name.
    makers: Mutex<HashMap<String, String>>,
}

impl Cloud {
    /// The shared one that asks for no authentication: every caller is admin, without a project. It
    /// has a `file` store, which serves ranges, and an `http` store, which does not.
    pub fn open() -> &'static Self {
        static CLOUD: LazyLock<Cloud> = LazyLock::new(|| Cloud::new("none", "--stores file,http"));
        &CLOUD
    }

    /// The shared one with two stores for data, `file` and `file2`, and `http`. Calls are an administrator's with a project: without
    /// one Glance can make no tasks.
    pub fn of_stores() -> &'static Self {
        static CLOUD: LazyLock<Cloud> = LazyLock::new(|| Cloud::new("fake", "--stores file,file2,http"));
        &CLOUD
    }

    /// The shared one with Keystone and the users alice, bob, rita and admin. Calls of the API are alice's.
    pub fn keystone() -> &'static Self {
        static CLOUD: LazyLock<Cloud> = LazyLock::new(|| Cloud::new("keystone", ""));
        &CLOUD
    }

    /// The one that the fault matrix shares, with an image that is always there: its lists hold nothing of other tests.
    pub fn for_faults() -> &'static Self {
        static CLOUD: LazyLock<Cloud> = LazyLock::new(|| {
            let cloud = Cloud::new("none", "");
            cloud.image("anchor.raw", b"always there");
            cloud
        });
        &CLOUD
    }

    /// One with these options of `devcloud up`, taken down when dropped: for tests that stop it, fill
    /// it, or need another configuration.
    pub fn new(auth: &str, options: &str) -> Self {
        let options: Vec<_> = options.split_whitespace().collect();
        let devcloud = Devcloud::up_below(run_folder(), auth, &options);
        let url = devcloud.endpoint().to_owned();
        let user = match auth {
            "keystone" => Some("alice"),
            "fake" => Some("admin"),
            _ => None,
        };
        Self { devcloud, url, user, tokens: Mutex::default(), makers: Mutex::default() }
    }

    /// Stops a server, `glance` or `keystone`.
    pub fn stop(&self, service: &str) {
        self.devcloud.stop(service);
    }

    /// Starts what was stopped.
    pub fn start(&self) {
        self.devcloud.up_again();
    }

    /// An active image whose data are in the `http` store; its id. For one without any hash,
    /// `options` is `--no-hash`.
    pub fn http_image(&self, name: &str, file: &str, options: &[&str]) -> String {
        self.is_of_one_test(name);
        self.devcloud.http_image_with("alice", name, Path::new(file), options)
    }

    /// Offers a file by HTTP, from where the cloud may fetch it; its address.
    pub fn offer(&self, name: &str, content: &[u8]) -> String {
        std::fs::write(self.folder().join("files/data").join(name), content).unwrap();
        format!("{}/{name}", self.devcloud.files())
    }

    /// Puts records of `count` active images without data into Glance's database, named `image-000001` and on.
    #[track_caller]
    pub fn fill(&self, count: usize) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/fill_glance.py");
        let database = self.folder().join("glance/glance.db");
        run(&format!("python3 {script} {} {count}", database.display())).expect_success();
    }

    /// The folder with everything that the servers keep.
    pub fn folder(&self) -> PathBuf {
        self.devcloud.dir().to_owned()
    }

    /// Variables by which a client logs in, as the default user or as `user`.
    pub fn variables(&self, user: Option<&str>) -> Vec<(String, String)> {
        self.devcloud.env(user.or(self.user).unwrap_or("alice"))
    }

    /// Mounts it with these options of `glancefs mount`.
    #[track_caller]
    pub fn mount(&self, options: &str) -> Mount {
        let mount = self.mount_later(options);
        mount.up();
        mount
    }

    /// The same, not mounted yet.
    pub fn mount_later(&self, options: &str) -> Mount {
        Mount::new(self.variables(None), options)
    }

    /// One call of the API: the HTTP status and the answer, `Null` when that is not JSON.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let content_type = if method == "PATCH" {
            "application/openstack-images-v2.1-json-patch"
        } else {
            "application/json"
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let (mut status, mut answer) = self.exchange(method, path, content_type, body.as_bytes());
        if status == 401 {
            // The token may have expired.
            self.tokens.lock().unwrap().clear();
            (status, answer) = self.exchange(method, path, content_type, body.as_bytes());
        }
        (status, serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    /// The same; it must succeed.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, Some(body).filter(|body| !body.is_null()));
        assert!((200..300).contains(&status), "{method} {path} gave {status}: {answer}");
        answer
    }

    fn exchange(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut headers =
            vec![("content-type", content_type.to_owned()), ("accept", "application/json".to_owned())];
        headers.extend(self.user.map(|user| ("x-auth-token", self.token(user))));
        http::exchange(&self.url, method, path, &headers, body).expect("an answer of Glance")
    }

    /// A token of `user`, as `devcloud token` gets it.
    pub fn token(&self, user: &str) -> String {
        let mut tokens = self.tokens.lock().unwrap();
        let new = || self.devcloud.token(user);
        tokens.entry(user.to_owned()).or_insert_with(new).clone()
    }

    /// Tests that share a cloud leave their images in it: the file of a name would be that of another test.
    #[track_caller]
    fn is_of_one_test(&self, name: &str) {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let mut makers = self.makers.lock().unwrap_or_else(PoisonError::into_inner);
        let maker = makers.entry(name.to_owned()).or_insert_with(|| test.clone());
        assert_eq!(*maker, test, "two tests make an image named {name:?} in the cloud they share");
    }

    /// Makes a record in status `queued`; its id. `name` may be any JSON.
    #[track_caller]
    pub fn reserve(&self, record: Value) -> String {
        if let Some(name) = record["name"].as_str() {
            self.is_of_one_test(name);
        }
        let mut whole = json!({"disk_format": "raw", "container_format": "bare"});
        whole.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
        self.api("POST", "/v2/images", &whole)["id"].as_str().unwrap().to_owned()
    }

    /// Uploads the data of a reserved image.
    #[track_caller]
    pub fn upload(&self, id: &str, content: &[u8]) {
        let path = format!("/v2/images/{id}/file");
        let (status, answer) = self.exchange("PUT", &path, "application/octet-stream", content);
        assert_eq!(status, 204, "{}", String::from_utf8_lossy(&answer));
    }

    /// Makes an active raw image; its id.
    #[track_caller]
    pub fn image(&self, name: &str, content: &[u8]) -> String {
        self.image_of(json!({"name": name}), content)
    }

    /// The same with more in its record.
    #[track_caller]
    pub fn image_of(&self, record: Value, content: &[u8]) -> String {
        let id = self.reserve(record);
        self.upload(&id, content);
        id
    }

    /// An image's record.
    #[track_caller]
    pub fn record(&self, id: &str) -> Value {
        self.api("GET", &format!("/v2/images/{id}"), &Value::Null)
    }

    /// The records of all images of this name, in any status.
    #[track_caller]
    pub fn named(&self, name: &str) -> Vec<Value> {
        let mut encoded = String::new();
        for byte in name.bytes() {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        let answer = self.api("GET", &format!("/v2/images?limit=1000&name=eq:{encoded}"), &Value::Null);
        answer["images"].as_array().unwrap().clone()
    }

    /// The record of the one image of this name, which must be active.
    #[track_caller]
    pub fn only(&self, name: &str) -> Value {
        let mut found = self.named(name);
        assert_eq!(found.len(), 1, "images named {name:?}: {found:#?}");
        assert_eq!(found[0]["status"], "active", "{found:#?}");
        found.remove(0)
    }

    /// Sets an attribute or a property.
    #[track_caller]
    pub fn set(&self, id: &str, key: &str, value: Value) {
        let change = json!([{"op": "add", "path": format!("/{key}"), "value": value}]);
        self.api("PATCH", &format!("/v2/images/{id}"), &change);
    }

    /// Deletes an image.
    #[track_caller]
    pub fn delete(&self, id: &str) {
        self.api("DELETE", &format!("/v2/images/{id}"), &Value::Null);
    }

    /// The lines of Glance's access log that contain `text`: one for each finished request.
    pub fn requests(&self, text: &str) -> Vec<String> {
        self.devcloud.requests("glance", text)
    }

    /// The same of Keystone's.
    pub fn keystone_requests(&self, text: &str) -> Vec<String> {
        self.devcloud.requests("keystone", text)
    }

    /// The requests for the data of an image.
    pub fn downloads(&self, id: &str) -> Vec<String> {
        self.requests(&format!("GET /v2/images/{id}/file"))
    }

    /// The file in which the `file` store keeps an image's data.
    pub fn blob(&self, id: &str) -> PathBuf {
        self.devcloud.dir().join("glance/images").join(id)
    }
}
