//! Every way to log in, against a real Keystone; what is wrong is told in one message, and a token
//! never shows.

use serde_json::{Value, json};

use crate::harness::{Cloud, Folder, Mount, Outcome, eventually, left_out, long, pattern, sh};

type Variables = Vec<(String, String)>;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The address of Keystone.
fn keystone(cloud: &Cloud) -> String {
    let clouds = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    let line = clouds.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap();
    line.to_owned()
}

/// `OS_*` of alice, as an openrc file sets them.
pub fn openrc(cloud: &Cloud) -> Variables {
    variables(&[
        ("OS_AUTH_URL", &keystone(cloud)),
        ("OS_USERNAME", "alice"),
        ("OS_PASSWORD", "alicepw"),
        ("OS_PROJECT_NAME", "alpha"),
        ("OS_USER_DOMAIN_ID", "default"),
        ("OS_PROJECT_DOMAIN_ID", "default"),
        ("OS_REGION_NAME", "RegionOne"),
        ("OS_IDENTITY_API_VERSION", "3"),
    ])
}

/// One call to Keystone by curl, with alice's token.
fn identity(cloud: &Cloud, method: &str, path: &str, body: &Value) -> Value {
    let answer = sh!(
        "curl -sSf -m 30 --noproxy '*' -X {method} -H 'X-Auth-Token: {}' -H 'Content-Type: application/json' \
         -d '{body}' {}/{path}",
        cloud.token("alice"),
        keystone(cloud)
    );
    serde_json::from_str(&answer).unwrap_or(Value::Null)
}

/// A mount with these variables lists and reads an image of alice's, uploads one, and its log has no token.
#[track_caller]
fn works(cloud: &Cloud, how: &str, variables: Variables, options: &str) -> Mount {
    let name = format!("login-{how}.raw");
    let content = pattern(70, 200_000);
    cloud.image(&name, &content);
    let mount = Mount::new(variables, options);
    mount.up();
    assert!(mount.read(&name) == content, "{how}");
    let uploaded = format!("upload-{how}.raw");
    sh!("cp {mount}/{name} {mount}/{uploaded}");
    assert_eq!(cloud.only(&uploaded)["size"], 200_000, "{how}");
    has_no_secret(cloud, &mount.log());
    has_no_secret(cloud, &mount.errors());
    mount
}

/// Neither alice's password nor anything that looks like a token of Keystone (`gAAAA...`).
#[track_caller]
fn has_no_secret(cloud: &Cloud, text: &str) {
    assert!(!text.contains("alicepw"), "a password: {text}");
    assert!(!text.contains("gAAAA"), "a token: {text}");
    assert!(!text.contains(&cloud.token("alice")), "a token: {text}");
}

#[test]
fn a_password_from_clouds_yaml() {
    let cloud = Cloud::keystone();
    works(cloud, "clouds-yaml", cloud.variables(Some("alice")), "");
    let file = variables(&[("OS_CLIENT_CONFIG_FILE", cloud.folder().join("clouds.yaml").to_str().unwrap())]);
    works(cloud, "os-cloud", file, "--os-cloud alice");
}

#[test]
fn a_password_in_secure_yaml() {
    let cloud = Cloud::keystone();
    let folder = Folder::new("clouds");
    let clouds = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    let public: String =
        clouds.lines().filter(|line| !line.contains("alicepw")).map(|line| format!("{line}\n")).collect();
    folder.file("clouds.yaml", public);
    folder.file("secure.yaml", "clouds:\n  alice:\n    auth:\n      password: alicepw\n");
    let variables = variables(&[
        ("OS_CLIENT_CONFIG_FILE", &folder.path("clouds.yaml")),
        ("OS_CLIENT_SECURE_FILE", &folder.path("secure.yaml")),
        ("OS_CLOUD", "alice"),
    ]);
    works(cloud, "secure-yaml", variables, "");
}

#[test]
fn a_password_from_variables() {
    let cloud = Cloud::keystone();
    works(cloud, "openrc", openrc(cloud), "");
}

#[test]
fn the_log_has_no_token_even_at_the_highest_level() {
    let cloud = Cloud::keystone();
    let mut variables = openrc(cloud);
    variables
        .push(("GLANCEFS_LOG".to_owned(), "trace,hyper=trace,reqwest=trace,openstack_sdk=trace".to_owned()));
    let mount = works(cloud, "trace", variables, "");
    assert!(mount.log().contains("DEBUG") || mount.log().contains("TRACE"), "{}", mount.log());
}

#[test]
fn a_token() {
    let cloud = Cloud::keystone();
    let token = cloud.token("alice");
    let url = keystone(cloud);
    let mut with_keystone =
        variables(&[("OS_AUTH_TYPE", "token"), ("OS_AUTH_URL", &url), ("OS_TOKEN", &token)]);
    with_keystone.extend(variables(&[("OS_PROJECT_NAME", "alpha"), ("OS_PROJECT_DOMAIN_ID", "default")]));
    works(cloud, "token", with_keystone, "");
    let admin_token =
        variables(&[("OS_AUTH_TYPE", "admin_token"), ("OS_ENDPOINT", &cloud.url), ("OS_TOKEN", &token)]);
    works(cloud, "admin-token", admin_token, "");
}

#[test]
fn an_application_credential() {
    let cloud = Cloud::keystone();
    let folder = Folder::new("credential");
    let me = sh!(
        "curl -sSf --noproxy '*' -H 'X-Auth-Token: {token}' -H 'X-Subject-Token: {token}' {}/auth/tokens",
        keystone(cloud),
        token = cloud.token("alice")
    );
    let me: Value = serde_json::from_str(&me).unwrap();
    let user = me["token"]["user"]["id"].as_str().unwrap();
    let wanted = json!({"application_credential": {"name": "glancefs", "secret": "open-sesame"}});
    let made = identity(cloud, "POST", &format!("users/{user}/application_credentials"), &wanted);
    let id = made["application_credential"]["id"].as_str().unwrap();
    let by_variables = variables(&[
        ("OS_AUTH_TYPE", "v3applicationcredential"),
        ("OS_AUTH_URL", &keystone(cloud)),
        ("OS_APPLICATION_CREDENTIAL_ID", id),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "open-sesame"),
        ("OS_REGION_NAME", "RegionOne"),
    ]);
    let mount = works(cloud, "credential", by_variables.clone(), "");
    assert!(!mount.log().contains("open-sesame"));
    let clouds = format!(
        "clouds:\n  robot:\n    region_name: RegionOne\n    auth_type: v3applicationcredential\n    auth:\n      \
         auth_url: {}\n      application_credential_id: {id}\n      application_credential_secret: open-sesame\n",
        keystone(cloud)
    );
    let file = variables(&[("OS_CLIENT_CONFIG_FILE", &folder.file("clouds.yaml", clouds))]);
    works(cloud, "credential-yaml", file, "--os-cloud robot");

    let mut wrong = by_variables;
    wrong[3].1 = "open-barley".to_owned();
    refused(cloud, Mount::new(wrong, "").try_up(), &["credential"]);
}

#[test]
fn a_command_that_prints_a_token() {
    let cloud = Cloud::keystone();
    let folder = Folder::new("command");
    let calls = folder.path("calls");
    let command = folder.file(
        "token",
        format!("#!/bin/sh\necho called >> {calls}\necho '{}'\necho not a token\n", cloud.token("alice")),
    );
    sh!("chmod +x {command}");
    let url = &cloud.url;
    works(cloud, "command", Vec::new(), &format!("--token-command {command} --endpoint {url}"));
    assert_eq!(sh!("wc -l < {calls}"), "1", "a token is kept");
    let mount = Mount::new(Vec::new(), &format!("--token-command 'echo oops >&2; exit 3' --endpoint {url}"));
    let outcome = mount.try_up();
    refused(cloud, outcome, &["token"]);
}

#[test]
fn no_authentication() {
    let cloud = Cloud::open();
    cloud.image("no-auth.raw", b"open to all");
    let by_variables = variables(&[("OS_AUTH_TYPE", "none"), ("OS_ENDPOINT", &cloud.url)]);
    let by_options = variables(&[("OS_AUTH_TYPE", "none")]);
    for (variables, options) in
        [(by_variables, String::new()), (by_options, format!("--endpoint {}", cloud.url))]
    {
        let mount = Mount::new(variables, &options);
        mount.up();
        assert_eq!(mount.read("no-auth.raw"), b"open to all");
    }
}

/// It failed with one message that has these words and no secret, and left no mount.
#[track_caller]
fn refused(cloud: &Cloud, outcome: Outcome, words: &[&str]) {
    let message = outcome.expect_failure();
    let message = message.trim();
    assert!(message.starts_with("glancefs: "), "{message}");
    assert_eq!(message.lines().count(), 1, "one message: {message}");
    for word in words {
        assert!(message.to_lowercase().contains(&word.to_lowercase()), "no {word:?} in: {message}");
    }
    has_no_secret(cloud, message);
}

#[test]
fn a_refused_login_is_told_in_one_message() {
    let cloud = Cloud::keystone();
    let url = keystone(cloud);
    let with = |name: &str, value: &str| {
        let mut variables = openrc(cloud);
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), value.to_owned()));
        variables
    };
    let try_up = |variables: Variables, options: &str| Mount::new(variables, options).try_up();
    refused(cloud, try_up(with("OS_PASSWORD", "wrong"), ""), &["OS_PASSWORD"]);
    refused(cloud, try_up(with("OS_PROJECT_NAME", "no-such-project"), ""), &["refused", "OS_"]);
    refused(cloud, try_up(with("OS_AUTH_URL", "http://127.0.0.1:1/v3"), "--timeout 2s"), &["127.0.0.1:1"]);
    refused(cloud, try_up(with("OS_REGION_NAME", "Nowhere"), ""), &["Nowhere"]);
    // Here the cure is a list of ways.
    let said = try_up(Vec::new(), "").expect_failure();
    assert!(
        said.starts_with("glancefs: ") && said.contains("OS_CLOUD") && said.contains("--endpoint"),
        "{said}"
    );
    let mut file = cloud.variables(Some("alice"));
    file.retain(|(name, _)| name != "OS_CLOUD");
    refused(cloud, try_up(file, "--os-cloud no-such-cloud"), &["no-such-cloud"]);
    let garbage = variables(&[("OS_AUTH_TYPE", "token"), ("OS_AUTH_URL", &url), ("OS_TOKEN", "garbage")]);
    refused(cloud, try_up(garbage, ""), &["token"]);
    let garbage =
        variables(&[("OS_AUTH_TYPE", "admin_token"), ("OS_ENDPOINT", &cloud.url), ("OS_TOKEN", "garbage")]);
    refused(cloud, try_up(garbage, ""), &["OS_TOKEN"]);
}

#[test]
fn images_of_another_project_are_absent() {
    let cloud = Cloud::keystone();
    let mine = cloud.image_of(json!({"name": "alices-own.raw", "visibility": "private"}), b"alice's");
    let bob = Mount::new(cloud.variables(Some("bob")), "");
    bob.up();
    let alice = cloud.mount("");
    assert_eq!(alice.read("alices-own.raw"), b"alice's");
    assert!(!bob.names().contains(&"alices-own.raw".to_owned()));
    for path in ["alices-own.raw", &format!(".by-id/{mine}"), &format!(".glancefs/images/{mine}.json")] {
        assert!(!std::path::Path::new(&bob.path(path)).exists(), "{path}");
    }
    // One cache folder for both does not change that.
    let shared = format!("--cache-dir {}/cache", alice.beside());
    let sharing = Mount::new(cloud.variables(Some("bob")), &shared);
    sharing.up();
    assert!(!std::path::Path::new(&sharing.path(&format!(".by-id/{mine}"))).exists());
    // A name of another project can be used, and each sees their own.
    sh!("echo -n \"bob's\" > {bob}/alices-own.raw");
    assert_eq!(bob.read("alices-own.raw"), b"bob's");
    assert_eq!(alice.read("alices-own.raw"), b"alice's");
}

#[test]
fn a_reader_sees_and_gets_permission_denied() {
    let cloud = Cloud::keystone();
    cloud.image("members-only.raw", b"data");
    let mount = Mount::new(cloud.variables(Some("rita")), "");
    mount.up();
    assert_eq!(sh!("stat -c %s {mount}/members-only.raw"), "4");
    assert!(crate::harness::fails!("cat {mount}/members-only.raw").contains("Permission denied"));
    assert!(crate::harness::fails!("cp /etc/hostname {mount}/by-reader.raw").contains("Permission denied"));
}

#[test]
fn several_endpoints_of_which_one_is_dead() {
    let cloud = Cloud::keystone();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = format!("--endpoint http://{dead} --endpoint {}", cloud.url);
    // Their order is shuffled: each mount meets the dead one sooner or later.
    for round in 0..3 {
        let mount = works(cloud, &format!("endpoints-{round}"), cloud.variables(None), &options);
        for _ in 0..5 {
            sh!("dd if={mount}/login-endpoints-{round}.raw of=/dev/null iflag=direct bs=64k status=none");
        }
    }
}

#[test]
fn tokens_are_renewed_under_a_mount() {
    let seconds = if long() { 60 } else { 20 };
    if seconds == 20 {
        left_out("tokens_are_renewed_under_a_mount", "runs for 20 s; for a minute with GLANCEFS_TEST_LONG=1");
    }
    let cloud = Cloud::new("keystone", "--token-expiration 5 --token-cache-time 1");
    let content = pattern(71, 1_000_000);
    // Its token is too short-lived to be kept for the test's own calls: everything goes through the mount.
    let mount = cloud.mount("--metadata-ttl 1s");
    let source = mount.beside().file("source", &content);
    sh!(
        "end=$((SECONDS + {seconds})); round=0
         while [ $SECONDS -lt $end ]; do
           round=$((round + 1))
           cp {source} {mount}/renewed-$round.raw
           cmp {source} {mount}/renewed-$round.raw
           [ $(ls {mount} | grep -c renewed-) -eq $round ]
           rm -rf {cache}/nothing
           sleep 0.7
         done",
        cache = mount.beside()
    );
    let log = mount.log();
    assert!(!log.contains("gAAAA") && !log.contains("alicepw"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    eventually("the list is still fresh", || sh!("cat {mount}/.glancefs/status").contains("fresh"));
}

#[test]
fn a_revoked_token_is_renewed_once_for_all_that_wait() {
    // Keystone forgets all tokens of a user whose password changes; Glance must not remember them.
    let cloud = Cloud::new("keystone", "--token-cache-time 1");
    let content = pattern(72, 8_000_000);
    let mount = cloud.mount("--metadata-ttl 1h");
    let source = mount.beside().file("source", &content);
    sh!("cp {source} {mount}/revoked.raw");
    mount.down();
    sh!("rm -rf {}/cache", mount.beside());
    mount.up();
    let url = keystone(&cloud);
    sh!(
        "token={token}
         id=$(curl -sSf --noproxy '*' -H \"X-Auth-Token: $token\" '{url}/users?name=alice' | grep -o '\"id\": *\"[0-9a-f]*\"' | head -n 1 | grep -o '[0-9a-f]\\{{32\\}}')
         for password in changed alicepw; do
           curl -sSf --noproxy '*' -X PATCH -H \"X-Auth-Token: $token\" -H 'Content-Type: application/json' \
             -d '{{\"user\": {{\"password\": \"'$password'\"}}}}' {url}/users/$id > /dev/null
         done; sleep 1.5",
        token = cloud.token("admin")
    );
    let logins = || cloud.keystone_requests("POST /v3/auth/tokens").len();
    let before = logins();
    sh!(
        "for part in 0 1 2 3 4 5 6 7; do
           cmp <(dd if={mount}/revoked.raw bs=1M skip=$part count=1 status=none) <(dd if={source} bs=1M skip=$part count=1 status=none) &
         done; wait; cmp {mount}/revoked.raw {source}"
    );
    // Glance itself logs in again as well when its own token is asked for; ours is one.
    assert!(logins() - before <= 3, "{} log-ins", logins() - before);
}
