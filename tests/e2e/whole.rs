//! `glancefs prefetch`, `evict` and `status`, and `--prefetch open`, as a person types them.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Cloud, Gate, Mount, Outcome, background, eventually, fails, json as parse, leave_out, pattern, run, sh,
};

const MIB: usize = 1024 * 1024;
const GLANCEFS: &str = env!("CARGO_BIN_EXE_glancefs");

fn glancefs(arguments: &str) -> Outcome {
    run(&format!("{GLANCEFS} {arguments}"))
}

/// A mount of the shared cloud through a gate that the test can shut.
fn behind_a_gate(options: &str) -> (Gate, Mount) {
    let gate = Gate::to(&Cloud::open().url);
    let mount = Cloud::open().mount(&format!("--endpoint {} {options}", gate.url()));
    (gate, mount)
}

fn status(mount: &Mount) -> Value {
    parse(&glancefs(&format!("status --json {mount}")).expect_success())
}

/// What the status says of an image; `Null`: nothing of it is cached.
fn cached(mount: &Mount, name: &str) -> Value {
    let status = status(mount);
    let images = status["cached_images"].as_array().unwrap();
    images.iter().find(|image| image["name"] == name).cloned().unwrap_or(Value::Null)
}

fn cached_bytes(mount: &Mount, name: &str) -> u64 {
    mount.xattr(name, "user.glancefs.cached_bytes").parse().unwrap()
}

#[test]
fn prefetch_brings_an_image_and_proves_it() {
    let cloud = Cloud::open();
    let content = pattern(200, 20 * MIB + 77);
    let id = cloud.image("fetched.raw", &content);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    let outcome = glancefs(&format!("prefetch {mount}/fetched.raw"));
    assert!(outcome.succeeded(), "{outcome}");
    assert_eq!(outcome.stdout, format!("{mount}/fetched.raw: 20.0 MiB, verified (sha512)\n"));
    assert!(outcome.stderr.contains(" % (") && !outcome.stderr.contains(['\r', '\x1b']), "{outcome}");
    assert_eq!(mount.xattr("fetched.raw", "user.glancefs.verified"), "sha512");
    assert_eq!(cached_bytes(&mount, "fetched.raw"), content.len() as u64);
    let asked = cloud.downloads(&id).len();
    sh!("cmp {mount}/fetched.raw {source}");
    let again = glancefs(&format!("prefetch {mount}/fetched.raw {mount}/.by-id/{id}")).expect_success();
    assert!(again.ends_with("\n2 images in the cache"), "{again}");
    mount.remount();
    sh!("cmp {mount}/fetched.raw {source}");
    assert_eq!(cloud.downloads(&id).len(), asked, "nothing is fetched twice");
}

#[test]
fn prefetch_of_what_comes_as_a_stream_is_one_stream() {
    let cloud = Cloud::open();
    let content = pattern(201, 20 * MIB);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    let id = cloud.http_image("fetched-stream.raw", &source, &[]);
    cloud.http_image("fetched-no-hash.raw", &source, &["--no-hash"]);
    let said = glancefs(&format!("prefetch {mount}/fetched-stream.raw {mount}/fetched-no-hash.raw"));
    let said = said.expect_success();
    assert!(said.contains("fetched-stream.raw: 20.0 MiB, verified (sha512)"), "{said}");
    assert!(said.contains("fetched-no-hash.raw: 20.0 MiB, complete; it has no hash"), "{said}");
    let whole = cloud.downloads(&id).iter().filter(|line| line.contains(" 200 ")).count();
    assert_eq!(whole, 1, "{:#?}", cloud.downloads(&id));
    let shown = cached(&mount, "fetched-stream.raw");
    assert_eq!((&shown["source"], &shown["verified"]), (&json!("streamed"), &json!("sha512")));
    assert_eq!(cached(&mount, "fetched-no-hash.raw")["cached_bytes"], json!(content.len()));
}

#[test]
fn prefetch_of_what_is_no_image_says_so_and_goes_on() {
    let cloud = Cloud::open();
    let queued = cloud.reserve(json!({"name": "fetch-queued.raw"}));
    cloud.image("fetch-empty.raw", b"");
    cloud.image("fetch good.raw", &pattern(202, MIB));
    let mount = cloud.mount("");
    let line = format!(
        "prefetch /etc/hostname {mount}/no-such.raw {mount} {mount}/.glancefs/errors {mount}/.by-id/{queued} \
         /dev/null '{mount}/fetch good.raw' {mount}/fetch-empty.raw"
    );
    let outcome = glancefs(&line);
    assert!(!outcome.succeeded(), "{outcome}");
    let lines: Vec<_> = outcome.stderr.lines().filter(|line| line.starts_with("glancefs: ")).collect();
    for (at, words) in [
        "/etc/hostname: is not on a glancefs mount",
        "no-such.raw: cannot be found: No such file",
        "is a directory: name images, such as",
        "errors: is no image of a glancefs mount",
        "is queued: it has no data yet",
        "/dev/null: is not on a glancefs mount",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(lines[at].contains(words), "{words:?} is not in {:?}", lines[at]);
    }
    assert_eq!(lines.len(), 6, "{outcome}");
    assert!(outcome.stdout.contains("fetch good.raw: 1.0 MiB, verified"), "{outcome}");
    assert!(outcome.stdout.contains("fetch-empty.raw: 0 B, "), "{outcome}");
    assert!(outcome.stdout.ends_with("2 of 8 images in the cache, 6 failed\n"), "{outcome}");
    assert!(fails!("{GLANCEFS} prefetch").contains("IMAGE"));
}

#[test]
fn prefetch_of_more_than_the_cache_may_hold_fails_before_it_begins() {
    let cloud = Cloud::open();
    let id = cloud.image("fetch-large.raw", &pattern(203, 6 * MIB));
    let mount = cloud.mount("--cache-size 4M");
    let said = glancefs(&format!("prefetch {mount}/fetch-large.raw")).expect_failure();
    assert!(said.contains("6.0 MiB") && said.contains("4MiB") && said.contains("--cache-size"), "{said}");
    assert!(cloud.downloads(&id).is_empty());
}

#[test]
fn prefetch_of_what_does_not_match_its_hash_fails_and_keeps_nothing() {
    let cloud = Cloud::open();
    let content = pattern(204, 3 * MIB);
    let id = cloud.image("fetch-tampered.raw", &content);
    let mut tampered = content.clone();
    tampered[2_000_000] ^= 1;
    std::fs::write(cloud.blob(&id), &tampered).unwrap();
    let mount = cloud.mount("");
    let said = glancefs(&format!("prefetch {mount}/fetch-tampered.raw")).expect_failure();
    assert!(said.contains("fetch-tampered.raw: ") && said.contains("does not match its hash"), "{said}");
    assert_eq!(cached(&mount, "fetch-tampered.raw"), Value::Null);
    std::fs::write(cloud.blob(&id), &content).unwrap();
    glancefs(&format!("prefetch {mount}/fetch-tampered.raw")).expect_success();
}

#[test]
fn prefetch_tells_that_the_server_fails_and_goes_on_from_there_later() {
    let cloud = Cloud::open();
    cloud.image("fetch-outage.raw", &pattern(205, 12 * MIB));
    let (gate, mount) = behind_a_gate("--timeout 2s");
    sh!("head -c 1000000 {mount}/fetch-outage.raw > /dev/null");
    gate.shut();
    let outcome = glancefs(&format!("prefetch {mount}/fetch-outage.raw"));
    assert!(outcome.took < Duration::from_secs(60), "{outcome}");
    assert!(outcome.expect_failure().contains("glancefs: "));
    assert!(cached_bytes(&mount, "fetch-outage.raw") >= 1_000_000);
    gate.open();
    glancefs(&format!("prefetch {mount}/fetch-outage.raw")).expect_success();
}

#[test]
fn a_prefetch_that_is_interrupted_stops_and_leaves_what_came() {
    let cloud = Cloud::open();
    let size = 160 * MIB;
    cloud.image("fetch-interrupted.raw", &pattern(206, size));
    let (gate, mount) = behind_a_gate("");
    let filling = || cached(&mount, "fetch-interrupted.raw")["filling"] == json!(true);
    for signal in [Signal::INT, Signal::KILL] {
        gate.slow();
        let before = cached_bytes(&mount, "fetch-interrupted.raw");
        // Who started the tests in the background made them ignore SIGINT.
        let program = format!("env --default-signal=INT {GLANCEFS}");
        let command = background(&format!("exec {program} prefetch {mount}/fetch-interrupted.raw"));
        eventually("some of it came", || cached_bytes(&mount, "fetch-interrupted.raw") > before);
        assert!(filling());
        command.signal(signal);
        let outcome = command.finish();
        assert!(!outcome.succeeded() && outcome.took < Duration::from_secs(60), "{outcome}");
        eventually("the fill has ended", || !filling());
        // What was asked for by then still comes, 4 requests of 16 MiB at most.
        gate.open();
        eventually("the last requests end", || status(&mount)["transfers"]["open"] == json!(0));
        let left = cached_bytes(&mount, "fetch-interrupted.raw");
        assert!(left > before && left < size as u64, "{before} < {left} < {size}");
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(cached_bytes(&mount, "fetch-interrupted.raw"), left, "it has stopped");
    }
    glancefs(&format!("prefetch {mount}/fetch-interrupted.raw")).expect_success();
}

#[test]
fn readers_go_before_a_prefetch() {
    let cloud = Cloud::open();
    let content = pattern(207, 160 * MIB);
    cloud.image("fetch-behind.raw", &content);
    cloud.image("fetch-reader.raw", &content[..MIB]);
    let (gate, mount) = behind_a_gate("--max-connections 3");
    gate.slow();
    let mut command = background(&format!("{GLANCEFS} prefetch {mount}/fetch-behind.raw"));
    eventually("it runs", || cached(&mount, "fetch-behind.raw")["filling"] == json!(true));
    let source = mount.beside().file("source", &content[..MIB]);
    sh!("cmp {mount}/fetch-reader.raw {source}");
    assert!(command.is_running(), "the reader did not wait for it");
    gate.open();
    assert!(command.finish().succeeded());
}

#[test]
fn a_prefetch_shows_a_bar_on_a_terminal() {
    let cloud = Cloud::open();
    cloud.image("fetch-bar.raw", &pattern(208, 24 * MIB));
    let (gate, mount) = behind_a_gate("");
    gate.slow();
    let said = sh!("script -qec 'stty cols 100; {GLANCEFS} prefetch {mount}/fetch-bar.raw' /dev/null");
    assert!(
        said.contains("fetch-bar.raw ") && said.contains(" of 24.00 MiB") && said.contains("/s"),
        "{said}"
    );
    assert!(said.contains('\r'), "{said}");
    assert!(said.trim_end().ends_with(": 24.0 MiB, verified (sha512)"), "{said}");
}

#[test]
fn evict_drops_an_image_also_while_it_is_open() {
    let cloud = Cloud::open();
    let content = pattern(209, 5 * MIB + 3);
    let id = cloud.image("evicted.raw", &content);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    let file = mount.path("evicted.raw");
    assert_eq!(glancefs(&format!("evict {file}")).expect_success(), format!("{file}: nothing to free"));
    // A part, while it is open.
    sh!("exec 3< {file}; head -c 100000 <&3 > /dev/null
         {GLANCEFS} evict {file}
         cmp - {source} < {file}");
    assert!(cached_bytes(&mount, "evicted.raw") > 0);
    // All of it, verified.
    glancefs(&format!("prefetch {file}")).expect_success();
    let said = glancefs(&format!("evict {file} {mount}/.by-id/{id}")).expect_success();
    assert_eq!(
        said,
        format!("{file}: 5.0 MiB freed\n{mount}/.by-id/{id}: nothing to free\n2 images evicted")
    );
    assert_eq!(cached_bytes(&mount, "evicted.raw"), 0);
    assert_eq!(mount.xattr("evicted.raw", "user.glancefs.verified"), "none");
    assert_eq!(cached(&mount, "evicted.raw"), Value::Null);
    let data = sh!("du -s --apparent-size -B1 {}/cache/v1/images | cut -f1", mount.beside());
    assert!(data.parse::<usize>().unwrap() < MIB, "{data}");
    // The kernel forgets it as well: the next read comes from the server.
    let asked = cloud.downloads(&id).len();
    eventually("it is fetched again", || {
        sh!("cmp {file} {source}");
        cloud.downloads(&id).len() > asked
    });
}

#[test]
fn evict_ends_a_prefetch() {
    let cloud = Cloud::open();
    cloud.image("evicted-filling.raw", &pattern(210, 160 * MIB));
    let (gate, mount) = behind_a_gate("");
    gate.slow();
    let command = background(&format!("{GLANCEFS} prefetch {mount}/evicted-filling.raw"));
    eventually("some of it came", || cached_bytes(&mount, "evicted-filling.raw") > 0);
    glancefs(&format!("evict {mount}/evicted-filling.raw")).expect_success();
    let said = command.finish().expect_failure();
    assert!(said.contains("evicted meanwhile"), "{said}");
}

#[test]
fn evict_waits_for_what_is_read_past_the_daemon_and_then_says_so() {
    let cloud = Cloud::open();
    cloud.image("evicted-pinned.raw", &pattern(211, 2 * MIB));
    let mount = cloud.mount("");
    let file = mount.path("evicted-pinned.raw");
    glancefs(&format!("prefetch {file}")).expect_success();
    let data = sh!("ls {}/cache/v1/images/*.data", mount.beside());
    // The lock by which a file is held that the kernel reads by itself.
    let holder = background(&format!("exec flock --shared {data} sleep 60"));
    eventually("it is held", || !run(&format!("flock --exclusive --nonblock {data} true")).succeeded());
    let mut evicting = background(&format!("{GLANCEFS} evict {file}"));
    std::thread::sleep(Duration::from_secs(1));
    assert!(evicting.is_running(), "it is tried again");
    holder.signal(Signal::KILL);
    assert!(evicting.finish().expect_success().contains("2.0 MiB freed"));
    // Held for longer than a person waits.
    glancefs(&format!("prefetch {file}")).expect_success();
    let data = sh!("ls {}/cache/v1/images/*.data", mount.beside());
    let _holder = background(&format!("exec flock --shared {data} sleep 60"));
    eventually("it is held", || !run(&format!("flock --exclusive --nonblock {data} true")).succeeded());
    let said = glancefs(&format!("evict {file}")).expect_failure();
    assert!(said.contains("is in use") && said.contains("close it first"), "{said}");
    assert_eq!(cached_bytes(&mount, "evicted-pinned.raw"), 2 * MIB as u64);
}

#[test]
fn evict_drops_a_complete_image_soon_after_its_last_close() {
    let cloud = Cloud::open();
    let content = pattern(216, 2 * MIB);
    cloud.image("evicted-closed.raw", &content);
    let mount = cloud.mount("");
    let (file, source) = (mount.path("evicted-closed.raw"), mount.beside().file("source", &content));
    let past_us = status(&mount)["complete_images"].as_str().unwrap().contains("passthrough");
    for _ in 0..3 {
        glancefs(&format!("prefetch {file}")).expect_success();
        sh!("cmp {file} {source}");
        let evicted = glancefs(&format!("evict {file}"));
        assert!(evicted.took < Duration::from_secs(10), "{evicted}");
        assert!(evicted.expect_success().contains("2.0 MiB freed"));
    }
    glancefs(&format!("prefetch {file}")).expect_success();
    let holder = background(&format!("exec 3< {file}; exec sleep 60"));
    eventually("it is open", || cached(&mount, "evicted-closed.raw")["open"] == json!(true));
    let evicted = glancefs(&format!("evict {file}"));
    assert_eq!(evicted.succeeded(), !past_us, "{evicted}");
    assert_eq!(evicted.stderr.contains("close it first"), past_us, "{evicted}");
    sh!("cmp {file} {source}");
    holder.signal(Signal::KILL);
    glancefs(&format!("evict {file}")).expect_success();
}

#[test]
fn evict_is_for_the_owner_and_for_images_only() {
    let cloud = Cloud::open();
    let id = cloud.image("evict-mine.raw", &pattern(212, MIB));
    let mount = cloud.mount("--allow-other");
    glancefs(&format!("prefetch {mount}/evict-mine.raw")).expect_success();
    for (path, words) in [
        ("/etc/hostname".to_owned(), "is not on a glancefs mount"),
        (mount.path("gone.raw"), "No such file"),
        (mount.to_string(), "is a directory"),
        (mount.path(".glancefs/metrics"), "is no image of a glancefs mount"),
        (mount.path(&format!(".glancefs/images/{id}.json")), "is no image of a glancefs mount"),
    ] {
        let said = glancefs(&format!("evict {path}")).expect_failure();
        assert!(said.contains(words) && said.trim().lines().count() == 1, "{said}");
    }
    if !crate::harness::is_root() {
        leave_out!("becoming another user needs root");
    }
    // The folders above are the tests' own and closed to others.
    sh!("chmod 755 $(dirname $(dirname {mount})) $(dirname {mount})");
    let program = mount.beside().path("program");
    sh!("cp {GLANCEFS} {program} && chmod 755 {program}");
    let as_nobody = format!("setpriv --reuid 65534 --regid 65534 --clear-groups {program}");
    let said = fails!("{as_nobody} evict {mount}/evict-mine.raw");
    assert!(said.contains("only the user who mounted, and root"), "{said}");
    assert_eq!(cached_bytes(&mount, "evict-mine.raw"), MIB as u64);
    // Who may read may prefetch, and see how the mount is.
    sh!("{as_nobody} prefetch {mount}/evict-mine.raw && {as_nobody} status {mount}");
}

#[test]
fn the_status_tells_the_same_to_people_and_to_programs() {
    let cloud = Cloud::open();
    let content = pattern(213, 2 * MIB + 1);
    let id = cloud.image("shown in status.raw", &content);
    cloud.image("not-in-status.raw", b"not read");
    let mount = cloud.mount("--cache-size 64M --passthrough off");
    let empty = glancefs(&format!("status {mount}")).expect_success();
    assert!(
        empty.contains("cached images: 0") && empty.contains("hits: nothing was read through the daemon yet"),
        "{empty}"
    );
    glancefs(&format!("prefetch '{mount}/shown in status.raw'")).expect_success();
    sh!("cat '{mount}/shown in status.raw' > /dev/null");

    let shown = status(&mount);
    assert_eq!(shown["cache"]["limit"], json!(64 * MIB));
    let folder = mount.beside().path("cache");
    assert_eq!(shown["cache"]["folder"], json!(folder));
    assert!(shown["cache"]["bytes"].as_u64().unwrap() > 2 * MIB as u64, "{shown:#}");
    assert_eq!(shown["reads"]["hit_ratio"], json!(1.0), "{shown:#}");
    assert_eq!(shown["transfers"]["limit"], json!(8));
    assert!(shown["transfers"]["fetched_bytes"].as_u64().unwrap() >= content.len() as u64);
    assert_eq!(shown["stores"], json!([{"name": "file", "source": "ranged"}]));
    assert_eq!(shown["images"], json!(mount.names().len()));
    let expected = json!([{
        "id": id, "name": "shown in status.raw", "size": content.len(), "cached_bytes": content.len(),
        "verified": "sha512", "source": "ranged", "open": false, "filling": false, "held": false,
    }]);
    eventually("it is closed", || status(&mount)["cached_images"] == expected);

    let text = glancefs(&format!("status {mount}/")).expect_success();
    for words in
        ["cloud: http", "of 64.0 MiB on disk in", "hits: 100.0 %", "store file: ranged", "cached images: 1"]
    {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    assert!(text.lines().last().unwrap().ends_with("shown in status.raw"), "{text}");
    assert!(text.lines().last().unwrap().contains("  100  sha512     ranged "), "{text}");
    // The mount itself is the source of both.
    assert_eq!(sh!("cat {mount}/.glancefs/status"), text);
    assert_eq!(parse(&sh!("cat {mount}/.glancefs/status.json"))["cached_images"], expected);
    sh!("{GLANCEFS} status {mount} | head -1; {GLANCEFS} status {mount} > /dev/full 2>&1 && exit 1 || true");
}

#[test]
fn the_status_of_what_is_no_mount_is_an_error() {
    let mount = Cloud::open().mount("");
    for (path, words) in [
        ("/etc".to_owned(), "no glancefs is mounted at /etc: findmnt"),
        (mount.path(".by-id"), "no glancefs is mounted at"),
        (mount.path("gone"), "No such file"),
        ("/dev/null".to_owned(), "no glancefs is mounted at"),
    ] {
        for option in ["", "--json "] {
            let outcome = glancefs(&format!("status {option}{path}"));
            assert_eq!(outcome.stdout, "");
            let said = outcome.expect_failure();
            assert!(said.contains(words) && said.trim().lines().count() == 1, "{said}");
        }
    }
    // A daemon that was killed leaves a mount that nobody serves.
    let daemon = mount.daemon().unwrap();
    sh!("kill -KILL {daemon}");
    eventually("it is gone", || mount.daemon().is_none());
    for line in [format!("status {mount}"), format!("prefetch {mount}/a"), format!("evict {mount}/a")] {
        let said = glancefs(&line).expect_failure();
        assert!(said.contains("the daemon of this mount has ended"), "{said}");
    }
}

#[test]
fn with_prefetch_open_an_image_is_filled_while_it_is_open() {
    let cloud = Cloud::open();
    let content = pattern(214, 20 * MIB);
    cloud.image("opened.raw", &content);
    let looked = cloud.image("looked-at.raw", &content[..6 * MIB]);
    let mount = cloud.mount("--prefetch open");
    sh!("head -c 65536 {mount}/looked-at.raw > /dev/null");
    let holder = background(&format!("exec 3< {mount}/opened.raw; exec sleep 60"));
    eventually("all of it is here", || mount.xattr("opened.raw", "user.glancefs.verified") == "sha512");
    assert_eq!(cached_bytes(&mount, "opened.raw"), content.len() as u64);
    holder.signal(Signal::KILL);
    let some = cached_bytes(&mount, "looked-at.raw");
    assert!(some < 6 * MIB as u64, "who only looks gets what he reads: {:?}", cloud.downloads(&looked));
    assert!(fails!("{GLANCEFS} mount --prefetch always {mount}").contains("off, open"));
}

#[test]
fn without_it_an_open_image_is_not_filled() {
    let cloud = Cloud::open();
    let id = cloud.image("only-opened.raw", &pattern(215, 4 * MIB));
    let mount = cloud.mount("");
    sh!("exec 3< {mount}/only-opened.raw; sleep 3");
    assert_eq!(cached_bytes(&mount, "only-opened.raw"), 0);
    assert!(cloud.downloads(&id).is_empty());
}
