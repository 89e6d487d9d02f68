//! Servers that are down, hang, or come back.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Cloud, Gate, Mount, background, eventually, fails, pattern, run, sh};

const MIB: usize = 1024 * 1024;

/// A mount of the shared cloud through a gate that the test can shut.
fn behind_a_gate(options: &str) -> (Gate, Mount) {
    let gate = Gate::to(&Cloud::open().url);
    let mount = Cloud::open().mount_later(&format!("--endpoint {} {options}", gate.url()));
    (gate, mount)
}

#[test]
fn a_server_that_is_down_at_the_start_is_named() {
    let (gate, mount) = behind_a_gate("--timeout 2s");
    gate.shut();
    let outcome = mount.try_up();
    assert!(outcome.took < Duration::from_secs(30), "{outcome}");
    let said = outcome.expect_failure();
    assert!(said.contains(&gate.address()) && said.contains("--endpoint"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert!(!mount.is_mounted() && mount.daemon().is_none());
    gate.open();
    mount.up();
}

#[test]
fn a_copy_during_which_glance_is_killed_arrives_as_another_record() {
    let cloud = Cloud::new("none", "");
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {} --timeout 10s", gate.url()));
    let source = mount.beside().file("source", pattern(84, 12 * MIB));
    gate.slow();
    let copy = background(&format!("cp {source} {mount}/survives.raw"));
    let record = || cloud.named("survives.raw").first().cloned();
    eventually("the data are on their way", || record().is_some_and(|image| image["status"] == "saving"));
    let stuck = record().unwrap();
    cloud.stop("glance");
    cloud.start();
    gate.open();
    assert_eq!(record().unwrap()["status"], "saving", "Glance never finds out");
    copy.finish().expect_success();
    let image = cloud.only("survives.raw");
    assert_eq!((&image["status"], &image["size"]), (&json!("active"), &json!(12 * MIB)));
    assert_ne!(image["id"], stuck["id"]);
    sh!("cmp {source} {mount}/survives.raw");
}

#[test]
fn a_real_outage_from_one_end_to_the_other() {
    let cloud = Cloud::new("none", "");
    let content = pattern(80, 3 * MIB + 1);
    cloud.image("kept.raw", &content);
    cloud.image("never-read.raw", &pattern(81, 2 * MIB));
    let mount = cloud.mount("--metadata-ttl 1s --timeout 3s");
    let source = mount.beside().file("source", &content);
    sh!("cmp {mount}/kept.raw {source}");
    let names = mount.names();

    cloud.stop("glance");
    std::thread::sleep(Duration::from_millis(1500)); // The list is older than its TTL now.
    for _ in 0..3 {
        let listing = run(&format!("ls -l {mount}"));
        assert!(listing.succeeded() && listing.took < Duration::from_secs(5), "{listing}");
        assert_eq!(mount.names(), names, "the last good list stays");
        std::thread::sleep(Duration::from_millis(400));
    }
    sh!("cmp {mount}/kept.raw {source}");
    sh!("dd if={mount}/kept.raw bs=1M iflag=direct status=none | cmp - {source}");
    let read = run(&format!("cat {mount}/never-read.raw"));
    assert!(read.took < Duration::from_secs(30), "{read}");
    let said = read.expect_failure();
    assert!(said.contains("timed out") || said.contains("Input/output error"), "{said}");
    let unknown = run(&format!("cat {mount}/unknown.raw"));
    assert!(!unknown.succeeded() && unknown.took < Duration::from_secs(30), "{unknown}");
    assert!(mount.errors().contains("never-read") || mount.errors().contains("image"), "{}", mount.errors());
    assert!(sh!("cat {mount}/.glancefs/status").contains("do not answer"), "the status says so");

    // A fresh mount needs to be told that an old list will do.
    mount.down();
    let refused = mount.try_up();
    assert!(!refused.succeeded(), "{refused}");
    let stale = mount.try_up_with("--allow-stale");
    assert!(stale.succeeded(), "{stale}\n{}", mount.log());
    assert_eq!(mount.names(), names);
    sh!("cmp {mount}/kept.raw {source}");
    assert_eq!(sh!("stat -c %s {mount}/never-read.raw"), (2 * MIB).to_string());

    cloud.start();
    eventually("it works again", || std::fs::read(mount.path("never-read.raw")).is_ok());
    assert_eq!(mount.read("never-read.raw"), pattern(81, 2 * MIB));
    cloud.image("after.raw", b"after");
    eventually("the list follows again", || mount.names().contains(&"after.raw".to_owned()));
}

#[test]
fn a_saved_list_of_nothing_is_no_help() {
    let (gate, mount) = behind_a_gate("--timeout 2s --allow-stale");
    gate.shut();
    let said = mount.try_up().expect_failure();
    assert!(said.contains(&gate.address()), "{said}");
}

#[test]
fn a_server_that_hangs_holds_nobody_for_ever() {
    // Its own: a list that a refresh brings just before the silence would miss what another test removed.
    let cloud = Cloud::new("none", "");
    cloud.image("hangs.raw", &pattern(82, 4 * MIB));
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {} --timeout 2s --metadata-ttl 1s", gate.url()));
    assert_eq!(mount.names(), ["hangs.raw"]);
    gate.silence();
    let read = run(&format!("dd if={mount}/hangs.raw of=/dev/null bs=1M"));
    assert!(!read.succeeded() && read.took < Duration::from_secs(30), "{read}");
    let listing = run(&format!("ls {mount}"));
    assert!(listing.succeeded() && listing.took < Duration::from_secs(10), "{listing}");
    assert_eq!(listing.stdout, "hangs.raw\n");
    // Nor does it keep the mount from ending.
    let down = run(&format!("{} umount {mount}", env!("CARGO_BIN_EXE_glancefs")));
    assert!(down.succeeded() && down.took < Duration::from_secs(20), "{down}");
}

#[test]
fn a_reader_of_a_hanging_server_can_be_killed() {
    let cloud = Cloud::open();
    cloud.image("killable.raw", &pattern(83, 4 * MIB));
    let (gate, mount) = behind_a_gate("--timeout 8s");
    mount.up();
    gate.silence();
    let reader = background(&format!("exec cat {mount}/killable.raw"));
    std::thread::sleep(Duration::from_millis(500));
    reader.signal(rustix::process::Signal::KILL);
    let outcome = reader.finish();
    assert!(outcome.took < Duration::from_secs(30), "{outcome}");
}

#[test]
fn a_download_that_is_cut_goes_on() {
    let cloud = Cloud::open();
    let content = pattern(84, 32 * MIB);
    cloud.image("resumed.raw", &content);
    let (gate, mount) = behind_a_gate("--timeout 10s");
    mount.up();
    let source = mount.beside().file("source", &content);
    let copy = background(&format!("cmp {mount}/resumed.raw {source}"));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(60));
        gate.shut();
        gate.open();
    }
    copy.finish().expect_success();
}

#[test]
fn a_streamed_download_that_is_cut_goes_on() {
    let cloud = Cloud::open();
    let content = pattern(85, 32 * MIB);
    let (gate, mount) = behind_a_gate("--timeout 10s");
    let source = mount.beside().file("source", &content);
    cloud.http_image("resumed-stream.raw", &source, &[]);
    mount.up();
    let copy = background(&format!("cmp {mount}/resumed-stream.raw {source}"));
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(80));
        gate.shut();
        gate.open();
    }
    copy.finish().expect_success();
}

#[test]
fn uploads_wait_for_no_dead_server_for_ever() {
    let (gate, mount) = behind_a_gate("--timeout 2s");
    mount.up();
    gate.silence();
    let outcome =
        run(&format!("cp /etc/services {mount}/to-nowhere.raw || cp /etc/passwd {mount}/to-nowhere.raw"));
    assert!(!outcome.succeeded() && outcome.took < Duration::from_secs(60), "{outcome}");
    gate.open();
    assert!(Cloud::open().named("to-nowhere.raw").iter().all(|image| image["status"] != "active"));
    assert!(fails!("cat {mount}/to-nowhere.raw").len() > 1);
}

/// The last mount's list and cache serve; nothing else is asked of the cloud.
#[track_caller]
fn serves_without_the_cloud(mount: &Mount, name: &str, content: &[u8]) {
    assert!(mount.read(name) == content);
    let source = mount.beside().file("source", content);
    sh!("dd if={mount}/{name} bs=1M iflag=direct status=none | cmp - {source}");
    assert!(sh!("cat {mount}/.glancefs/status").contains("do not answer"), "the status says so");
}

#[test]
fn a_stale_list_serves_when_keystone_is_down_as_well() {
    let cloud = Cloud::new("keystone", "");
    let content = pattern(86, MIB);
    cloud.image("offline.raw", &content);
    cloud.image("never-read.raw", &pattern(87, MIB));
    let mount = cloud.mount("--timeout 3s --metadata-ttl 1s");
    assert!(mount.read("offline.raw") == content);
    mount.down();

    // Wrong credentials are refused while Keystone can, whatever is kept of earlier logins.
    let clouds = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    let wrong = mount.beside().file("clouds.yaml", clouds.replace("alicepw", "wrong"));
    let mut variables = cloud.variables(None);
    let file = variables.iter_mut().find(|(name, _)| name == "OS_CLIENT_CONFIG_FILE").unwrap();
    file.1 = wrong;
    let stranger = Mount::new(variables, &format!("--allow-stale --cache-dir {}/cache", mount.beside()));
    let said = stranger.try_up().expect_failure();
    assert!(said.contains("401") && !stranger.is_mounted(), "{said}");

    // A mount needs a token even where Glance still answers.
    cloud.stop("keystone");
    let refused = mount.try_up();
    assert!(refused.took < Duration::from_secs(30), "{refused}");
    let said = refused.expect_failure();
    assert!(said.contains("Keystone at") && said.contains("--allow-stale"), "{said}");
    let stale = mount.try_up_with("--allow-stale");
    assert!(stale.succeeded(), "{stale}\n{}", mount.log());
    serves_without_the_cloud(&mount, "offline.raw", &content);
    mount.down();

    cloud.stop("glance");
    let stale = mount.try_up_with("--allow-stale");
    assert!(stale.succeeded(), "{stale}\n{}", mount.log());
    assert_eq!(mount.names(), ["never-read.raw", "offline.raw"]);
    serves_without_the_cloud(&mount, "offline.raw", &content);
    let read = run(&format!("cat {mount}/never-read.raw"));
    assert!(!read.succeeded() && read.took < Duration::from_secs(30), "{read}");
    let warnings = mount.log().lines().filter(|line| line.contains("mounted with the saved list")).count();
    assert_eq!(warnings, 2, "one for each mount: {}", mount.log());

    // Both come back: no remount is needed.
    cloud.start();
    cloud.image("online.raw", b"online");
    eventually("it works again", || mount.names().contains(&"online.raw".to_owned()));
    assert_eq!(mount.read("online.raw"), b"online");
    assert_eq!(mount.read("never-read.raw"), pattern(87, MIB));
    sh!("cp {mount}/online.raw {mount}/written.raw");
    assert_eq!(cloud.only("written.raw")["size"], 6);
    let kept = sh!("cd {}/cache/v1 && stat -c '%a' *.login && cat *.login", mount.beside());
    assert!(kept.starts_with("600\n{") && !kept.contains("gAAAA") && !kept.contains("alicepw"), "{kept}");
}

#[test]
fn nothing_kept_of_a_login_is_no_help() {
    let cloud = Cloud::new("keystone", "");
    let mount = cloud.mount_later("--timeout 3s --allow-stale");
    cloud.stop("keystone");
    let said = mount.try_up().expect_failure();
    assert!(said.contains("Keystone at") && said.contains("--allow-stale found nothing kept"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[test]
fn after_an_outage_the_catalogue_says_where_the_token_goes() {
    let cloud = Cloud::new("keystone", "");
    let content = pattern(88, MIB);
    cloud.image("kept.raw", &content);
    let mount = cloud.mount("--timeout 3s --metadata-ttl 1s");
    assert!(mount.read("kept.raw") == content);
    mount.down();
    cloud.stop("keystone");
    let stale = mount.try_up_with("--allow-stale");
    assert!(stale.succeeded(), "{stale}\n{}", mount.log());

    // Glance has moved meanwhile; its old address still answers, as a foreign server there would. Nobody uses the
    // mount yet, so it has not logged in.
    cloud.start();
    let gate = Gate::to(&cloud.url);
    let clouds = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    let keystone = clouds.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap();
    sh!(
        "token={}
         call() {{ curl -sSf -m 30 --noproxy '*' -H \"X-Auth-Token: $token\" -H 'Content-Type: application/json' \"$@\"; }}
         for endpoint in $(call {keystone}/endpoints | python3 -c 'import json, sys
for endpoint in json.load(sys.stdin)[\"endpoints\"]:
    if endpoint[\"url\"].startswith(\"{}\"): print(endpoint[\"id\"])'); do
           call -X PATCH -d '{{\"endpoint\": {{\"url\": \"{}\"}}}}' {keystone}/endpoints/$endpoint > /dev/null
         done",
        cloud.token("admin"),
        cloud.url,
        gate.url()
    );
    gate.shut();
    let before = cloud.requests("GET /v2/images").len();
    cloud.image("behind-the-gate.raw", b"behind");
    std::thread::sleep(Duration::from_millis(1500));
    for _ in 0..2 {
        assert_eq!(mount.names(), ["kept.raw"], "nobody answers at the new address");
        std::thread::sleep(Duration::from_millis(1100));
    }
    assert_eq!(cloud.requests("GET /v2/images").len(), before, "the old address is not asked");
    assert!(mount.log().contains("names another image endpoint"), "{}", mount.log());
    gate.open();
    eventually("the new address is asked", || mount.names().contains(&"behind-the-gate.raw".to_owned()));
    assert!(mount.read("kept.raw") == content, "the cache is the same");
}
