//! Logging in to a real Keystone, in every way, and staying logged in.
//!
//! What a program finds in its environment belongs to the whole process, so each login here runs in a process of its
//! own: this test program again, as `child`, told by variables what to do.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use glancefs::auth::Auth;
use glancefs::config::{AuthConfig, AuthMethod, HttpConfig};
use glancefs::glance::Glance;
use serde_json::{Value, json};

use crate::devcloud::Devcloud;
use crate::start;

const CHILD: &str = "GLANCEFS_TEST_LIST_FOR";

/// The process that the tests below start: logs in as the environment says, lists images for so many seconds, and
/// prints what it saw. Without the variable [`CHILD`], as among the other tests, it does nothing.
#[tokio::test]
async fn child() {
    let Ok(seconds) = std::env::var(CHILD) else { return };
    let http = HttpConfig {
        timeout: Duration::from_secs(10),
        hard: false,
        retries: 3,
        ca_cert: None,
        client_cert: None,
        insecure: false,
        max_connections: 1,
    };
    let config = AuthConfig {
        method: AuthMethod::Keystone { cloud: std::env::var("OS_CLOUD").ok() },
        auth_type: None,
        endpoints: Vec::new(),
        region: std::env::var("OS_REGION_NAME").ok().filter(|name| !name.is_empty()),
        interface: std::env::var("OS_INTERFACE").ok(),
    };
    let auth = match Auth::connect(&config, &http, None).await {
        Ok(auth) => auth,
        Err(error) => return println!("FAILED {:?} {error}", error.kind()),
    };
    println!("PROJECT {}", auth.project_id().unwrap_or("none"));
    println!("ENDPOINTS {:?}", auth.endpoints());
    println!("DEBUG {auth:?} {:?}", auth.credential().await);
    let glance = Glance::new(auth.clone(), &http).unwrap();
    let begun = Instant::now();
    let mut lists = 0;
    while begun.elapsed().as_secs() < seconds.parse().unwrap() {
        match glance.list(10, None).await {
            Ok(_) => lists += 1,
            Err(error) => println!("LIST {:?} {error}", error.kind()),
        }
        std::io::stdout().flush().unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("LISTS {lists}");
    println!("LOGINS {}", auth.credential().await.map_or(0, |credential| credential.generation));
}

/// Runs `child` with this environment and no other OpenStack variable.
fn run(seconds: u64, dir: &Path, env: &[(&str, &str)]) -> String {
    text(&command(seconds, dir, env).output().unwrap())
}

fn command(seconds: u64, dir: &Path, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "keystone::child", "--nocapture"]).current_dir(dir);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OS_")) {
        command.env_remove(name);
    }
    // No clouds.yaml of the person who runs the tests may be found.
    command.env("HOME", dir).env("XDG_CONFIG_HOME", dir).env(CHILD, seconds.to_string());
    command.envs(env.iter().copied());
    command
}

fn text(output: &Output) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for secret in ["alicepw", "bobpw", "s3cr3t", "gAAAA"] {
        assert!(!text.contains(secret), "a secret shows: {text}");
    }
    text
}

fn keystone(cloud: &Devcloud) -> String {
    let clouds = std::fs::read_to_string(cloud.dir().join("clouds.yaml")).unwrap();
    clouds.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap().to_owned()
}

/// A request to Keystone itself.
async fn ask(method: &str, url: &str, token: &str, body: Value) -> Value {
    let method = method.parse().unwrap();
    let request = reqwest::Client::new().request(method, url).header("X-Auth-Token", token);
    let answer = request.header("X-Subject-Token", token).json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn every_way_to_log_in_leads_to_the_images() {
    let cloud = start("keystone", &[]);
    let dir = tempfile::tempdir().unwrap();
    let url = keystone(&cloud);
    let clouds = cloud.dir().join("clouds.yaml");
    let password = [
        ("OS_AUTH_URL", url.as_str()),
        ("OS_USERNAME", "alice"),
        ("OS_PASSWORD", "alicepw"),
        ("OS_PROJECT_NAME", "alpha"),
    ];
    let with = |more: &[(&'static str, &str)]| {
        let mut env: Vec<(&str, String)> =
            password.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        env.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        env.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        run(1, dir.path(), &env)
    };

    // clouds.yaml, named by a variable and found in the working directory.
    let by_variable =
        run(1, dir.path(), &[("OS_CLIENT_CONFIG_FILE", clouds.to_str().unwrap()), ("OS_CLOUD", "alice")]);
    assert!(by_variable.contains("LISTS "), "{by_variable}");
    let found = run(1, cloud.dir(), &[("OS_CLOUD", "alice")]);
    assert!(found.contains("LISTS "), "{found}");
    let project = found.lines().find(|line| line.starts_with("PROJECT ")).unwrap().to_owned();
    let same = |way: &str, output: String| {
        assert!(
            output.contains(&project) && output.contains("LISTS ") && !output.contains("FAILED"),
            "{way}: {output}"
        );
    };
    same("a variable", by_variable);

    // OS_*, as openrc files write them: empty variables, domains by name, the old names, an address without a version.
    same("a password", with(&[]));
    same("empty variables", with(&[("OS_REGION_NAME", ""), ("OS_USER_DOMAIN_NAME", ""), ("OS_CACERT", "")]));
    same("domains", with(&[("OS_USER_DOMAIN_NAME", "Default"), ("OS_PROJECT_DOMAIN_ID", "default")]));
    same("the old names", with(&[("OS_PROJECT_NAME", ""), ("OS_TENANT_NAME", "alpha")]));
    same("no version", with(&[("OS_AUTH_URL", url.strip_suffix("/v3").unwrap())]));
    same("the region", with(&[("OS_REGION_NAME", "RegionOne"), ("OS_INTERFACE", "publicURL")]));
    let token = cloud.token("alice");
    let by_token =
        [("OS_TOKEN", token.as_str()), ("OS_AUTH_TYPE", "v3token"), ("OS_USERNAME", ""), ("OS_PASSWORD", "")];
    same("a token", with(&by_token));

    // Application credentials, by id and by name.
    let me = ask("GET", &format!("{url}/auth/tokens"), &token, json!({})).await;
    let user = me["token"]["user"]["id"].as_str().unwrap();
    let credentials = format!("{url}/users/{user}/application_credentials");
    let wanted = json!({"application_credential": {"name": "backup", "secret": "s3cr3t"}});
    let made = ask("POST", &credentials, &token, wanted).await;
    let id = made["application_credential"]["id"].as_str().unwrap();
    let by_id = [
        ("OS_AUTH_URL", url.as_str()),
        ("OS_AUTH_TYPE", "v3applicationcredential"),
        ("OS_APPLICATION_CREDENTIAL_ID", id),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "s3cr3t"),
    ];
    same("a credential by id", run(1, dir.path(), &by_id));
    let by_name = |user: [(&'static str, &'static str); 2]| {
        let mut env = vec![
            ("OS_AUTH_URL", url.as_str()),
            ("OS_APPLICATION_CREDENTIAL_NAME", "backup"),
            ("OS_APPLICATION_CREDENTIAL_SECRET", "s3cr3t"),
            ("OS_PROJECT_NAME", "alpha"),
        ];
        env.extend(user);
        run(1, dir.path(), &env)
    };
    same("a credential by name", by_name([("OS_USERNAME", "alice"), ("OS_USER_DOMAIN_ID", "default")]));
    same("a credential by name", by_name([("OS_USERNAME", "alice"), ("OS_USER_DOMAIN_NAME", "Default")]));

    // What is refused says why, and what helps.
    let refused = |output: String, kind: &str, hints: &[&str]| {
        assert!(output.contains(&format!("FAILED {kind} ")), "{output}");
        for hint in hints {
            assert!(output.contains(hint), "{hint}: {output}");
        }
    };
    refused(with(&[("OS_PASSWORD", "wrong")]), "NotAuthenticated", &[&url, "HTTP 401", "OS_PASSWORD"]);
    refused(with(&[("OS_PASSWORD", "")]), "Config", &["OS_PASSWORD is missing"]);
    refused(with(&[("OS_AUTH_URL", "")]), "Config", &["OS_AUTH_URL", "OS_CLOUD", "OS_AUTH_TYPE=none"]);
    refused(with(&[("OS_REGION_NAME", "Atlantis")]), "Config", &["Atlantis", "public in RegionOne"]);
    refused(with(&[("OS_AUTH_TYPE", "v3kerberos")]), "Config", &["v3kerberos"]);
    refused(with(&[("OS_AUTH_URL", "http://127.0.0.1:1/v3")]), "Unreachable", &["127.0.0.1:1", "refused"]);
    refused(with(&[("OS_AUTH_URL", cloud.endpoint())]), "Config", &["no Keystone", "OS_AUTH_URL"]);
    refused(run(1, cloud.dir(), &[("OS_CLOUD", "nobody")]), "Config", &["nobody", "admin, alice, bob, rita"]);
    refused(
        run(1, dir.path(), &[("OS_CLOUD", "alice")]),
        "Config",
        &["clouds.yaml", "OS_CLIENT_CONFIG_FILE"],
    );
    let nowhere = [("OS_CLOUD", "alice"), ("OS_CLIENT_CONFIG_FILE", "/nowhere/clouds.yaml")];
    refused(run(1, cloud.dir(), &nowhere), "Config", &["/nowhere/clouds.yaml"]);
    ask("DELETE", &format!("{credentials}/{id}"), &token, json!({})).await;
    refused(run(1, dir.path(), &by_id), "NotAuthenticated", &["revoked"]);

    // No token is left on disk.
    for path in walk(dir.path()) {
        assert!(!path.is_file(), "{} was written", path.display());
    }
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(walk(&path));
        }
        paths.push(path);
    }
    paths
}

/// The cloud of the tests that want to see many logins.
fn hasty() -> &'static Devcloud {
    static CLOUD: LazyLock<Devcloud> =
        LazyLock::new(|| start("keystone", &["--token-expiration", "5", "--token-cache-time", "5"]));
    &CLOUD
}

/// Starts `child` as a user of clouds.yaml.
fn start_child(seconds: u64, cloud: &Devcloud, user: &str) -> std::process::Child {
    let mut command = command(seconds, cloud.dir(), &[("OS_CLOUD", user)]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn number(output: &str, word: &str) -> u64 {
    output.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim().parse().unwrap()
}

#[test]
fn tokens_of_five_seconds_are_enough_for_as_long_as_it_takes() {
    let seconds = if std::env::var_os("GLANCEFS_TEST_LONG").is_some() { 60 } else { 20 };
    let output = run(seconds, hasty().dir(), &[("OS_CLOUD", "alice")]);
    assert!(!output.contains("LIST ") && !output.contains("FAILED"), "{output}");
    assert!(number(&output, "LISTS ") > seconds, "{output}");
    // One every 3.75 s.
    assert!((seconds / 6..=seconds / 3).contains(&number(&output, "LOGINS ")), "{output}");
}

#[test]
fn a_new_password_in_clouds_yaml_is_found_when_the_old_one_is_refused() {
    let cloud = hasty();
    let url = keystone(cloud);
    let child = start_child(16, cloud, "bob");
    std::thread::sleep(Duration::from_secs(3));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let token = cloud.token("bob");
        let me = ask("GET", &format!("{url}/auth/tokens"), &token, json!({})).await;
        let user = me["token"]["user"]["id"].as_str().unwrap();
        let change = json!({"user": {"password": "new-s3cr3t", "original_password": "bobpw"}});
        ask("POST", &format!("{url}/users/{user}/password"), &token, change).await;
    });
    // By a rename, as others read it meanwhile.
    let (path, new) = (cloud.dir().join("clouds.yaml"), cloud.dir().join("clouds.yaml.new"));
    let clouds = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&new, clouds.replace("bobpw", "new-s3cr3t")).unwrap();
    std::fs::rename(new, path).unwrap();
    let output = text(&child.wait_with_output().unwrap());
    let failed = output.lines().filter(|line| line.starts_with("LIST ")).count() as u64;
    let lists = number(&output, "LISTS ");
    assert!(lists > 10 * failed, "more than a moment without a token: {output}");
    // More than the one of before the change.
    assert!(number(&output, "LOGINS ") > 2, "{output}");
}

#[test]
fn a_keystone_that_is_away_for_a_while_is_survived() {
    let cloud = start("keystone", &["--token-expiration", "30"]);
    let child = start_child(20, &cloud, "alice");
    std::thread::sleep(Duration::from_secs(3));
    cloud.stop("keystone");
    let output = text(&child.wait_with_output().unwrap());
    assert!(!output.contains("LIST "), "a token of 30 s is good for 20 s without Keystone: {output}");
    assert!(number(&output, "LISTS ") > 20, "{output}");
}
