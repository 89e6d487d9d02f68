//! `glancefs doctor`: finds each fault that is planted, one at a time, with its cure, and nothing where nothing is wrong.

use std::sync::LazyLock;

use serde_json::Value;

use crate::auth::openrc;
use crate::harness::{
    Authority, Cloud, Fault, Folder, Mount, PROGRAM, Proxy, Rule, eventually, is_root, pattern, run,
    run_with, sh,
};

type Variables = Vec<(String, String)>;

/// One of these tests' own: the doctor reads a byte of whatever image is listed, and other tests count what is read of theirs.
fn cloud() -> &'static Cloud {
    static CLOUD: LazyLock<Cloud> = LazyLock::new(|| Cloud::new("none", ""));
    &CLOUD
}

/// The variables with these instead.
fn with(variables: &Variables, more: &[(&str, &str)]) -> Variables {
    let kept = variables.iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name)).cloned();
    kept.chain(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).collect()
}

fn no_login(endpoint: &str) -> Variables {
    with(&Vec::new(), &[("OS_AUTH_TYPE", "none"), ("OS_ENDPOINT", endpoint)])
}

/// Folders that are well.
fn folders(at: &Folder) -> String {
    format!("--cache-dir {at}/cache --spool-dir {at}/spool")
}

/// There is exactly one finding, of this check, with these words, and a cure with those.
#[track_caller]
fn finds(variables: &Variables, options: &str, check: &str, words: &[&str], cure: &[&str]) {
    let line = format!("set +e; {PROGRAM} doctor --json --timeout 5s {options}; echo \"exit $?\"");
    let said = run_with(&line, variables).expect_success();
    judge(&said, check, words, cure);
}

#[track_caller]
fn judge(said: &str, check: &str, words: &[&str], cure: &[&str]) {
    let (json, code) = said.trim_end().rsplit_once("\nexit ").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(code, "1", "{said}");
    let told: Value = serde_json::from_str(json).unwrap();
    let looks = told["looks"].as_array().unwrap();
    let found: Vec<&Value> = looks.iter().filter(|look| look["found"] == true).collect();
    assert_eq!((found.len(), &told["findings"]), (1, &1.into()), "{said}");
    assert_eq!(found[0]["check"], check, "{said}");
    for (place, words) in [("said", words), ("cure", cure)] {
        let text = found[0][place].as_str().unwrap();
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text:?}");
        }
    }
}

/// Nothing is found: it is silent where it is asked to be, and says so else.
#[track_caller]
fn finds_nothing(variables: &Variables, options: &str) {
    let quiet = run_with(&format!("{PROGRAM} doctor --quiet {options}"), variables);
    assert_eq!(quiet.expect_success(), "");
    let told = run_with(&format!("{PROGRAM} doctor {options}"), variables).expect_success();
    assert!(told.ends_with("nothing is wrong") && !told.contains("FOUND"), "{told}");
    assert!(told.lines().count() > 8, "{told}");
}

#[test]
fn doctor_finds_what_is_wrong_with_the_cloud_and_how_it_is_reached() {
    let (secured, open) = (Cloud::keystone(), cloud());
    secured.image("doctor-keystone.raw", b"data");
    open.image("doctor-open.raw", b"data");
    let folder = Folder::new("doctor");
    let at = folders(&folder);
    let variables = openrc(secured);
    finds_nothing(&variables, &at);
    assert!(!folder.root().join("cache").exists(), "it makes nothing");
    // Port 1 has nobody.
    let password = with(&variables, &[("OS_PASSWORD", "wrong")]);
    finds(&password, &at, "login", &["401"], &["OS_PASSWORD"]);
    let keystone = with(&variables, &[("OS_AUTH_URL", "http://127.0.0.1:1/v3")]);
    finds(&keystone, &at, "login", &["127.0.0.1:1"], &["OS_AUTH_URL", "running"]);
    let glance = with(&variables, &[("OS_ENDPOINT", "http://127.0.0.1:1")]);
    finds(&glance, &at, "glance", &["127.0.0.1:1"], &["OS_ENDPOINT", "running"]);

    let authority = Authority::new();
    let front = authority.front(&open.url, "127.0.0.1");
    let (right, wrong) =
        (folder.file("ca.pem", authority.pem()), folder.file("other.pem", Authority::new().pem()));
    let secure = no_login(&front.url());
    finds_nothing(&secure, &format!("--os-cacert {right} {at}"));
    finds(&secure, &format!("--os-cacert {wrong} {at}"), "tls", &["authority unknown"], &["OS_CACERT"]);

    let proxy = Proxy::to(&open.url);
    finds_nothing(&no_login(&proxy.url()), &at);
    proxy.add(Rule::new("*", "*", Fault::Date("Sun, 06 Nov 2050 08:49:37 GMT".into())));
    finds(&no_login(&proxy.url()), &at, "clock", &["behind"], &["timedatectl", "chronyc"]);
    proxy.heal();
    proxy.add(Rule::new("*", "*", Fault::Status(503, None)));
    finds(&no_login(&proxy.url()), &at, "glance", &["503"], &["log of Glance"]);
    finds(&Vec::new(), &at, "login", &["no cloud is given"], &["OS_CLOUD"]);
}

#[test]
fn doctor_finds_what_is_wrong_with_the_folders() {
    let cloud = cloud();
    cloud.image("doctor-index.raw", &pattern(71, 200_000));
    let variables = cloud.variables(None);
    let folder = Folder::new("doctor");
    let spool = format!("--spool-dir {folder}/spool");

    let file = folder.file("file", "x");
    finds(&variables, &format!("--cache-dir {file} {spool}"), "cache", &["a file"], &["--cache-dir"]);
    let foreign = match is_root() {
        true => sh!("mkdir -m 0700 {folder}/foreign; chown 12345 {folder}/foreign; echo {folder}/foreign"),
        false => "/usr".to_owned(),
    };
    finds(&variables, &format!("--cache-dir {foreign} {spool}"), "cache", &["belongs to user"], &["chown"]);

    let mount = cloud.mount("");
    sh!("cat {mount}/doctor-index.raw > /dev/null");
    mount.down();
    let of_mount = format!("--cache-dir {0}/cache --spool-dir {0}/spool", mount.beside());
    finds_nothing(&variables, &of_mount);
    sh!(
        "printf damaged | dd of=$(ls {}/cache/v1/images/*.index) bs=1 seek=40 conv=notrunc status=none",
        mount.beside()
    );
    finds(&variables, &of_mount, "cache", &["index", "damaged"], &["rm ", ".index"]);

    // In a view of the machine of its own, where disks can be made.
    if !run("unshare -Urm true").succeeded() {
        crate::harness::leave_out!("user namespaces are not allowed here");
    }
    let disk = |options: &str, fill: &str| {
        let line = format!(
            "unshare -Urm bash -c 'set -e; mkdir -p {folder}/disk; mount -t tmpfs -o mode=0700,{options} none {folder}/disk
             {fill}
             set +e; {PROGRAM} doctor --json --cache-dir {folder}/c --spool-dir {folder}/s DISK; echo \"exit $?\"'"
        );
        let folders = if fill.is_empty() { "--spool-dir" } else { "--cache-dir" };
        run_with(&line.replace("DISK", &format!("{folders} {folder}/disk")), &variables).expect_success()
    };
    let full =
        disk("size=2m", &format!("dd if=/dev/zero of={folder}/disk/filling bs=4k status=none || true"));
    judge(&full, "cache", &["full", "0 B of"], &["make room"]);
    judge(&disk("ro", ""), "spool", &["cannot be written", "Read-only"], &["read-only", "--spool-dir"]);
}

#[test]
fn doctor_finds_what_is_wrong_with_a_mount_and_its_uploads() {
    let cloud = cloud();
    let proxy = Proxy::to(&cloud.url);
    let mount = Mount::new(no_login(&proxy.url()), "--timeout 5s --metadata-ttl 1s");
    mount.up();
    let at = format!("--cache-dir {0}/cache --spool-dir {0}/spool {mount}", mount.beside());
    finds_nothing(&no_login(&proxy.url()), &at);
    // The mount's own login may be one that this shell does not have.
    finds_nothing(&Vec::new(), &at);

    proxy.add(Rule::new("PUT", "*/file", Fault::Status(403, None)));
    let source = mount.beside().file("source", pattern(72, 100_000));
    assert!(!run(&format!("cp {source} {mount}/doctor-left.raw")).succeeded());
    proxy.heal();
    let cure = ["glancefs uploads", "retry", "discard"];
    finds(&no_login(&proxy.url()), &at, "uploads", &["doctor-left.raw", "403"], &cure);
    sh!("rm {}/spool/*", mount.beside());
    finds_nothing(&no_login(&proxy.url()), &at);

    // Nobody answers it, and it shows its last good list.
    proxy.add(Rule::new("*", "*", Fault::Reset));
    eventually("the mount notices", || {
        let _ = std::fs::read_dir(mount.path("")).map(Iterator::count);
        let status = mount.read(".glancefs/status");
        String::from_utf8(status).unwrap().contains("the last good one")
    });
    finds(&Vec::new(), &at, "list", &["last good one"], &[".glancefs/errors"]);
    proxy.heal();

    let daemon = mount.daemon().unwrap();
    sh!("kill -KILL {daemon}");
    eventually("it is gone", || mount.daemon().is_none());
    finds(&no_login(&proxy.url()), &at, "mount", &["died"], &["glancefs umount"]);
    sh!("{PROGRAM} umount {mount}");
    finds_nothing(&no_login(&proxy.url()), &at);
    finds(&no_login(&proxy.url()), &format!("{at}/gone"), "mount", &["No such file"], &["mkdir -p"]);
}
