//! `glancefs uploads`: what is in the spool is listed, tried again and thrown away; and what a crash of the
//! daemon left is finished or told by the next mount.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Cloud, Gate, Mount, PROGRAM, background, eventually, fails, pattern, run, sh};

const MIB: usize = 1024 * 1024;

/// What `glancefs uploads --json` tells.
#[track_caller]
fn listed(arguments: &str) -> Vec<Value> {
    let found = crate::harness::json(&sh!("{PROGRAM} uploads --json {arguments}"));
    found["uploads"].as_array().unwrap().clone()
}

/// A cloud in which 4 MB fit and no more, and the image that fills it.
fn full_cloud() -> (Cloud, String) {
    let cloud = Cloud::new("none", "--set DEFAULT.user_storage_quota=5MB");
    let filler = cloud.image("filler.raw", &pattern(100, 4_000_000));
    (cloud, filler)
}

fn source(mount: &Mount, seed: u64, length: usize) -> String {
    mount.beside().file(&format!("source-{seed}"), pattern(seed, length))
}

#[test]
fn a_failed_upload_is_listed_and_uploaded_again_from_the_spool() {
    let (cloud, filler) = full_cloud();
    let mount = cloud.mount("");
    let from = source(&mount, 101, 2 * MIB);
    assert!(sh!("{PROGRAM} uploads {mount} 2>&1").contains("no uploads in"));
    fails!("cp {from} {mount}/again.raw");
    let found = listed(&mount.to_string());
    assert_eq!(found.len(), 1, "{found:#?}");
    let upload = &found[0];
    assert_eq!(
        (&upload["name"], &upload["state"], &upload["bytes"]),
        (&json!("again.raw"), &json!("failed"), &json!(2 * MIB))
    );
    assert!(upload["reason"].as_str().unwrap().contains("quota"), "{upload:#}");
    sh!("cmp {} {from}", upload["file"].as_str().unwrap());
    // The same without a mount, for a person, and in the status.
    let spool = mount.beside().path("spool");
    assert_eq!(listed(&format!("--spool-dir {spool}")), found);
    for line in ["uploads", "status"] {
        let text = sh!("{PROGRAM} {line} {mount}");
        assert!(text.contains("again.raw") && text.contains("2.0 MiB") && text.contains("quota"), "{text}");
    }
    let id = upload["id"].as_str().unwrap();
    let first_digits = &id[..8];
    // It fails as cp did, with the reason and exit code 1.
    let said = fails!("{PROGRAM} uploads retry {first_digits}");
    assert!(said.contains("quota") && said.contains("again.raw"), "{said}");
    assert_eq!(listed(&mount.to_string()).len(), 1, "it is still there");
    cloud.delete(&filler);
    let said = sh!("{PROGRAM} uploads retry {first_digits} 2>&1");
    let record = cloud.only("again.raw");
    assert!(
        said.contains(&format!("again.raw: uploaded as image {}", record["id"].as_str().unwrap())),
        "{said}"
    );
    assert_eq!(record["checksum"].as_str(), Some(&*sh!("md5sum < {from} | cut -d' ' -f1")));
    sh!("cmp {from} {mount}/again.raw");
    assert!(listed(&mount.to_string()).is_empty());
    assert_eq!(sh!("find {spool} -type f | wc -l"), "0");
    assert!(
        fails!("{PROGRAM} uploads retry {first_digits} --mountpoint {mount}")
            .contains("glancefs uploads lists them")
    );
}

/// Has a writer killed, and gives the id of what it left.
fn killed(mount: &Mount, from: &str, name: &str) -> String {
    let writer = background(&format!("(cat {from}; sleep 600) | exec cp /dev/stdin {mount}/{name}"));
    let size = std::fs::metadata(from).unwrap().len();
    eventually("it is written", || {
        std::fs::metadata(mount.path(name)).is_ok_and(|found| found.len() == size)
    });
    writer.signal(Signal::KILL);
    drop(writer);
    let left = || {
        listed(&mount.to_string())
            .into_iter()
            .find(|upload| upload["name"] == name && upload["state"] == "kept")
    };
    eventually("it is kept", || left().is_some());
    left().unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn what_a_killed_writer_left_is_uploaded_under_another_name_or_thrown_away() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let from = source(&mount, 102, 300_000);
    let id = killed(&mount, &from, "left.raw");
    sh!("cp {from} {mount}/taken-before.raw");
    let said = fails!("{PROGRAM} uploads retry {id} --as taken-before.raw");
    assert!(said.contains("--as NAME"), "an image of a name is not doubled: {said}");
    assert!(fails!("{PROGRAM} uploads retry {id} --as .glancefs/x").contains(&id));
    sh!("{PROGRAM} uploads retry --as found.raw {id}");
    sh!("cmp {from} {mount}/found.raw");
    assert!(cloud.named("left.raw").is_empty());
    cloud.only("found.raw");
    let id = killed(&mount, &from, "unwanted.raw");
    let said = sh!("{PROGRAM} uploads discard {id}");
    assert!(said.contains("discarded") && said.contains("unwanted.raw"), "{said}");
    assert!(listed(&mount.to_string()).is_empty() && cloud.named("unwanted.raw").is_empty());
    assert_eq!(sh!("find {}/spool -type f | wc -l", mount.beside()), "0");
}

#[test]
fn a_mount_with_another_spool_can_be_unmounted_while_an_upload_is_looked_for() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let mut looking = background(&format!(
        "until XDG_CACHE_HOME={}/none {PROGRAM} uploads retry 01234567 2> /dev/null; do :; done",
        mount.beside()
    ));
    for _ in 0..20 {
        mount.down();
        mount.up();
    }
    assert!(looking.is_running());
}

#[test]
fn what_runs_is_listed_with_its_progress_and_not_to_be_had() {
    let cloud = Cloud::open();
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {}", gate.url()));
    let from = source(&mount, 103, 12 * MIB);
    gate.slow();
    let copy = background(&format!("cp {from} {mount}/running.raw"));
    let sent = || listed(&mount.to_string()).first().and_then(|upload| upload["sent"].as_u64()).unwrap_or(0);
    eventually("bytes are sent", || sent() > 0);
    let upload = &listed(&mount.to_string())[0];
    assert_eq!((&upload["state"], &upload["bytes"]), (&json!("uploading"), &json!(12 * MIB)));
    let progress = mount.xattr("running.raw", "user.glancefs.upload_progress");
    let (part, all) = progress.split_once('/').unwrap();
    assert_eq!(all, (12 * MIB).to_string());
    assert!((1..=12 * MIB).contains(&part.parse().unwrap()), "{progress}");
    assert!(sh!("getfattr --absolute-names -d {mount}/running.raw").contains("upload_progress"));
    let status = sh!("{PROGRAM} status {mount}");
    assert!(status.contains("uploading") && status.contains("running.raw"), "{status}");
    let id = upload["id"].as_str().unwrap();
    for verb in ["retry", "discard"] {
        assert!(fails!("{PROGRAM} uploads {verb} {id}").contains("is being written or uploaded"));
    }
    gate.open();
    drop(copy);
}

#[test]
fn a_retry_that_is_interrupted_publishes_nothing_and_keeps_the_bytes() {
    let cloud = Cloud::open();
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {}", gate.url()));
    let from = source(&mount, 104, 12 * MIB);
    let id = killed(&mount, &from, "interrupted.raw");
    for signal in [Signal::INT, Signal::KILL] {
        gate.slow();
        let retry = background(&format!("exec env --default-signal=INT {PROGRAM} uploads retry {id}"));
        let sent = || listed(&mount.to_string())[0]["sent"].as_u64().unwrap_or(0);
        eventually("bytes are sent", || sent() > 0);
        retry.signal(signal);
        assert!(!retry.finish().succeeded());
        gate.open();
        eventually("it is left again", || listed(&mount.to_string())[0]["state"] == "failed");
        eventually("the record is gone", || cloud.named("interrupted.raw").is_empty());
    }
    sh!("{PROGRAM} uploads retry {id}");
    cloud.only("interrupted.raw");
}

#[test]
fn an_upload_of_another_cloud_is_refused_with_the_cure() {
    let (cloud, _) = full_cloud();
    let mount = cloud.mount("");
    let from = source(&mount, 105, 2 * MIB);
    fails!("cp {from} {mount}/of-another-cloud.raw");
    let id = listed(&mount.to_string())[0]["id"].as_str().unwrap().to_owned();
    mount.down();
    let spool = mount.beside().path("spool");
    // Without a mount it can be seen, and not worked on.
    assert_eq!(listed(&format!("--spool-dir {spool}")).len(), 1);
    let said = fails!(
        "{PROGRAM} uploads --spool-dir {spool} 2>&1 && XDG_CACHE_HOME={spool} {PROGRAM} uploads retry {id}"
    );
    assert!(said.contains("glancefs uploads lists them"), "{said}");
    let other = Cloud::open().mount(&format!("--spool-dir {spool}"));
    for line in [format!("retry {id}"), format!("discard {id} --mountpoint {other}")] {
        let said = fails!("{PROGRAM} uploads {line}");
        assert!(said.contains(&format!("--spool-dir {spool}")), "{said}");
    }
}

#[test]
fn a_refusal_in_the_middle_of_a_large_body_is_the_error_that_the_program_hears() {
    let cloud = Cloud::new("none", "--set DEFAULT.image_size_cap=1000000");
    for options in ["", "--upload stream"] {
        let mount = cloud.mount(options);
        let from = source(&mount, 108, 64 * MIB);
        for line in ["cp FROM TO", "cat FROM > TO", "dd if=FROM of=TO bs=1M status=none"] {
            let said = fails!("{}", line.replace("FROM", &from).replace("TO", &mount.path("too-large.raw")));
            assert!(said.contains("File too large"), "{options} {line}: {said}");
            eventually("nothing is left behind", || cloud.named("too-large.raw").is_empty());
        }
    }
}

#[test]
fn a_reservation_that_a_415_has_poisoned_is_kept_and_said_to_be_deleted() {
    let cloud = Cloud::open();
    // A boot sector whose partition table makes no sense: Glance refuses it as anything.
    let mut content = pattern(109, MIB);
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    for options in ["", "--upload stream"] {
        let name = format!("poisoned{}.raw", options.len());
        let id = cloud.reserve(json!({"name": name}));
        let mount = cloud.mount(options);
        let from = mount.beside().file("refused", &content);
        for _ in 0..2 {
            assert!(fails!("cp {from} {mount}/{name}").contains("Wrong medium type"));
            let errors = mount.errors();
            let said = errors.lines().last().unwrap();
            assert!(said.contains(&format!("image {id} is spoilt")) && said.contains("delete it"), "{said}");
        }
        assert_eq!(cloud.record(&id)["status"], "queued", "what was there before stays");
        cloud.delete(&id);
    }
}

/// Ends the daemon as a crash does, with the mount it leaves behind.
fn crash(mount: &Mount) {
    sh!("kill -KILL {}", mount.daemon().expect("a daemon"));
    eventually("it has ended", || mount.daemon().is_none());
    run(&format!("umount -l {mount} || fusermount3 -uz {mount}"));
}

#[test]
fn what_a_crash_of_the_daemon_left_is_told_and_its_record_goes() {
    let cloud = Cloud::open();
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {} --timeout 5s", gate.url()));
    let from = source(&mount, 106, 12 * MIB);
    let journal = |step: &str| {
        let found = format!("grep -l '\"step\": \"{step}\"' {}/spool/*.json", mount.beside());
        run(&found).succeeded()
    };
    for step in ["spooling", "creating", "uploading"] {
        let name = format!("crashed-{step}.raw");
        let pipe = mount.beside().path(&format!("{name}.pipe"));
        sh!("mkfifo {pipe}");
        let copy = background(&format!("cat {pipe} > {mount}/{name}"));
        let mut feed = std::fs::File::options().write(true).open(&pipe).unwrap();
        std::io::copy(&mut std::fs::File::open(&from).unwrap(), &mut feed).unwrap();
        eventually("all is written", || {
            std::fs::metadata(mount.path(&name)).is_ok_and(|found| found.len() == 12 * MIB as u64)
        });
        match step {
            "creating" => gate.silence(),
            "uploading" => gate.slow(),
            _ => {}
        }
        let unfinished = (step == "spooling").then_some(feed);
        eventually(step, || journal(step));
        if step == "uploading" {
            eventually("the record is there", || !cloud.named(&name).is_empty());
        }
        crash(&mount);
        drop(unfinished);
        assert!(!copy.finish().succeeded(), "{step}: its program is told");
        gate.open();
        mount.up();
        assert!(mount.errors().contains(&name), "{}", mount.errors());
        eventually("no record is left", || cloud.named(&name).is_empty());
        let upload = &listed(&mount.to_string())[0];
        assert_eq!((&upload["name"], &upload["bytes"]), (&json!(name), &json!(12 * MIB)));
        sh!("cmp {} {from}", upload["file"].as_str().unwrap());
        if step == "uploading" {
            eventually("it is told", || mount.errors().contains("glancefs uploads retry"));
        }
        sh!("{PROGRAM} uploads retry {}", upload["id"].as_str().unwrap());
        cloud.only(&name);
        assert!(listed(&mount.to_string()).is_empty());
    }
}

#[test]
fn an_upload_that_arrived_before_the_crash_is_finished_by_the_next_mount() {
    let cloud = Cloud::open();
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {}", gate.url()));
    let from = source(&mount, 107, 3 * MIB);
    // Between the last byte and the answer; and after the answer, before the comparison.
    for (lost, step, name) in
        [("HTTP/1.1 204", "uploading", "arrived.raw"), ("\"checksum\": \"", "verifying", "answered.raw")]
    {
        gate.lose(lost);
        let copy = background(&format!("cp {from} {mount}/{name}"));
        eventually("Glance has it", || cloud.named(name).iter().any(|image| image["status"] == "active"));
        let journal = format!("grep -l '\"step\": \"{step}\"' {}/spool/*.json", mount.beside());
        eventually(step, || run(&journal).succeeded());
        crash(&mount);
        assert!(!copy.finish().succeeded());
        gate.lose("nothing is lost any more");
        mount.up();
        eventually("it is finished", || {
            mount.errors().contains(&format!("{name:?}, which a crash interrupted"))
        });
        let id = cloud.only(name)["id"].as_str().unwrap().to_owned();
        sh!("cmp {from} {mount}/{name}");
        assert!(cloud.downloads(&id).is_empty(), "its bytes are in the cache");
        assert!(listed(&mount.to_string()).is_empty());
        assert_eq!(sh!("find {}/spool -type f | wc -l", mount.beside()), "0");
    }
}
