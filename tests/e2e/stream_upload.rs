//! `--upload stream`: what is written in order becomes an image without local space, and what is not written to
//! its end becomes none.

use std::fs::File;
use std::io::Write;

use rustix::process::Signal;

use crate::harness::{
    Background, Cloud, Detour, Fault, Gate, Mount, PROGRAM, Proxy, Rule, background, eventually, fails,
    pattern, sh,
};

const MIB: usize = 1024 * 1024;

fn source(mount: &Mount, seed: u64, length: usize) -> String {
    mount.beside().file(&format!("source-{seed}"), pattern(seed, length))
}

#[test]
fn what_is_written_in_order_becomes_an_image_without_local_space() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--upload stream --spool-size 64K");
    let from = source(&mount, 110, 9 * MIB + 11);
    for (name, line) in [
        ("cp", "cp SRC TO"),
        ("cat", "cat SRC > TO"),
        ("dd", "dd if=SRC of=TO bs=1M status=none"),
        ("dd-small", "dd if=SRC of=TO bs=4000 status=none"),
        ("rsync", "rsync SRC TO"),
        ("two-writers", "{ head -c 1000000 SRC; tail -c +1000001 SRC; } > TO"),
    ] {
        let name = format!("stream-{name}.raw");
        sh!("{}", line.replace("SRC", &from).replace("TO", &mount.path(&name)));
        let record = cloud.only(&name);
        assert_eq!(record["checksum"].as_str(), Some(&*sh!("md5sum < {from} | cut -d' ' -f1")), "{name}");
        assert_eq!(record["disk_format"], "raw");
        sh!("cmp {from} {mount}/{name}");
    }
    assert_eq!(sh!("find {}/spool -type f | wc -l", mount.beside()), "0");
    // The first bytes tell the format, before all are there.
    let image = mount.beside().path("image");
    sh!("qemu-img convert -f raw -O qcow2 {from} {image} && cat {image} > {mount}/stream-named.img");
    assert_eq!(cloud.only("stream-named.img")["disk_format"], "qcow2");
    sh!("touch {mount}/stream-reserved.raw && echo data > {mount}/stream-reserved.raw");
    assert_eq!(cloud.only("stream-reserved.raw")["size"], 5);
}

#[test]
fn what_is_set_before_the_data_goes_with_a_stream_too() {
    let cloud = Cloud::of_stores();
    let mount = cloud.mount("--upload stream --metadata-ttl 1s");
    let from = source(&mount, 118, 2 * MIB);
    let base = cloud.image("stream-base.raw", b"base");
    sh!("exec 3> {mount}/stream-stored.raw
         setfattr -n user.glance.store -v file2 {mount}/stream-stored.raw
         setfattr -n user.glance.base_image_ref -v {base} {mount}/stream-stored.raw
         setfattr -n user.glance.property.os_distro -v debian {mount}/stream-stored.raw
         cat {from} >&3; exec 3>&-");
    let record = cloud.only("stream-stored.raw");
    assert_eq!((&record["stores"], &record["os_distro"]), (&"file2".into(), &"debian".into()));
    sh!("cmp {from} {mount}/stream-stored.raw");
    // Also of a record that is there already, and by the store of the mount.
    sh!("touch {mount}/stream-reserved.raw
         setfattr -n user.glance.store -v file2 {mount}/stream-reserved.raw
         cat {from} > {mount}/stream-reserved.raw");
    assert_eq!(cloud.only("stream-reserved.raw")["stores"], "file2");
    let mount = cloud.mount("--upload stream --store file2");
    sh!("cp {from} {mount}/stream-default.raw");
    assert_eq!(cloud.only("stream-default.raw")["stores"], "file2");
}

#[test]
fn what_is_not_written_in_order_is_refused_and_publishes_nothing() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--upload stream");
    let from = source(&mount, 111, 2 * MIB);
    let said = fails!("dd if={from} of={mount}/seeking.raw bs=1M seek=1 status=none");
    assert!(said.contains("Illegal seek"), "{said}");
    fails!(
        "python3 -c '
file = open(\"{mount}/back.raw\", \"wb\", buffering=0)
file.write(b\"x\" * 1000000)
file.seek(0)
file.write(b\"header\")
'"
    );
    fails!("qemu-img convert -f raw -O qcow2 {from} {mount}/container.qcow2");
    for name in ["seeking.raw", "back.raw", "container.qcow2"] {
        // qemu-img goes without a close that tells it: its end settles the file.
        eventually(name, || cloud.named(name).is_empty() && !mount.names().contains(&name.to_owned()));
    }
    assert!(mount.errors().contains("in order only"), "{}", mount.errors());
}

/// `cp` that has written this much to `name` and waits for more.
fn half_written(mount: &Mount, name: &str, content: &[u8]) -> (Background, File) {
    let pipe = mount.beside().path(&format!("{name}.pipe"));
    sh!("mkfifo {pipe}");
    let copy = background(&format!("exec env --default-signal=INT cp /dev/stdin {mount}/{name} < {pipe}"));
    let mut feed = File::options().write(true).open(&pipe).unwrap();
    feed.write_all(content).unwrap();
    eventually("that much is written", || {
        std::fs::metadata(mount.path(name)).is_ok_and(|found| found.len() == content.len() as u64)
    });
    (copy, feed)
}

#[test]
fn a_writer_that_is_killed_half_way_publishes_nothing_and_its_record_goes() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--upload stream");
    let content = pattern(112, 8 * MIB);
    for (signal, word) in [(Signal::KILL, "kill"), (Signal::INT, "ctrl-c")] {
        for written in [0, 1000, 65_536, MIB, 8 * MIB] {
            let name = format!("stream-{word}-at-{written}.raw");
            let (copy, feed) = half_written(&mount, &name, &content[..written]);
            if written >= 65_536 {
                eventually("it is being sent", || {
                    cloud.named(&name).iter().any(|image| image["status"] == "saving")
                });
            }
            copy.signal(signal);
            assert!(!copy.finish().succeeded());
            drop(feed);
            eventually("the record is gone", || cloud.named(&name).is_empty());
            assert!(!mount.names().contains(&name));
        }
    }
    eventually("nothing is left here", || sh!("find {}/spool -type f | wc -l", mount.beside()) == "0");
}

#[test]
fn a_server_that_goes_away_half_way_fails_the_writer_and_publishes_nothing() {
    let cloud = Cloud::new("none", "");
    let mount = cloud.mount("--upload stream --timeout 5s");
    let (copy, mut feed) = half_written(&mount, "restarted.raw", &pattern(113, 2 * MIB));
    eventually("it is being sent", || !cloud.named("restarted.raw").is_empty());
    cloud.stop("glance");
    cloud.start();
    // More than sockets hold: the write fails, or the close does.
    let _ = feed.write_all(&pattern(114, 16 * MIB));
    drop(feed);
    let said = copy.finish().expect_failure();
    assert!(said.contains("restarted.raw"), "{said}");
    assert!(cloud.named("restarted.raw").iter().all(|image| image["status"] != "active"));
    // While the server is away its record cannot be deleted: that is noted, and done as soon as it can.
    mount.remount();
    eventually("the record is gone", || cloud.named("restarted.raw").is_empty());
    let from = source(&mount, 115, MIB);
    eventually("the next one works", || {
        crate::harness::run(&format!("cp {from} {mount}/after-restart.raw")).succeeded()
    });
    cloud.only("after-restart.raw");
}

#[test]
fn a_record_that_could_not_be_deleted_is_listed_and_goes_as_soon_as_it_can() {
    let cloud = Cloud::open();
    let proxy = Proxy::to(&cloud.url);
    let mount = cloud.mount(&format!("--upload stream --timeout 3s --endpoint {}", proxy.url()));
    let from = source(&mount, 120, MIB);
    for (name, lost) in [("refused.raw", Fault::Status(503, None)), ("unanswered.raw", Fault::LostAnswer)] {
        proxy.add(Rule::new("PUT", "/v2/images/*/file", Fault::Status(502, None)));
        proxy.add(Rule::new("DELETE", "/v2/images/*", lost));
        fails!("cp {from} {mount}/{name}");
        let listed = sh!("{PROGRAM} uploads {mount}");
        assert!(listed.contains(name) && listed.contains("of a failed try is still in Glance"), "{listed}");
        proxy.heal();
        eventually("nothing is left here", || sh!("find {}/spool -type f | wc -l", mount.beside()) == "0");
        assert!(cloud.named(name).is_empty(), "{:?}", cloud.named(name));
    }
}

#[test]
fn a_quota_reaches_the_writer_of_a_stream_and_nothing_stays_in_saving() {
    let cloud = Cloud::new("none", "--set DEFAULT.user_storage_quota=5MB");
    let mount = cloud.mount("--upload stream");
    let from = source(&mount, 116, 24 * MIB);
    let said = fails!("cp {from} {mount}/over-quota.raw");
    assert!(said.contains("Disk quota exceeded"), "{said}");
    eventually("the record is gone", || cloud.named("over-quota.raw").is_empty());
}

#[test]
fn a_crash_of_the_daemon_half_way_leaves_a_record_that_the_next_mount_deletes() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--upload stream");
    let (copy, feed) = half_written(&mount, "stream-crashed.raw", &pattern(117, 2 * MIB));
    eventually("it is being sent", || !cloud.named("stream-crashed.raw").is_empty());
    sh!("kill -KILL {}", mount.daemon().expect("a daemon"));
    eventually("it has ended", || mount.daemon().is_none());
    drop(feed);
    assert!(!copy.finish().succeeded());
    crate::harness::run(&format!("umount -l {mount} || fusermount3 -uz {mount}"));
    mount.up();
    eventually("the record is gone", || cloud.named("stream-crashed.raw").is_empty());
    assert!(mount.errors().contains("stream-crashed.raw"), "{}", mount.errors());
    eventually("nothing is left here", || sh!("find {}/spool -type f | wc -l", mount.beside()) == "0");
}

#[test]
fn a_token_that_is_refused_half_way_is_renewed_and_the_writer_begins_again() {
    let cloud = Cloud::keystone();
    let detour = Detour::to(&cloud.url, "PUT ", 1, "401 Unauthorized", "");
    let mount = cloud.mount(&format!("--upload stream --endpoint {}", detour.url()));
    // A token that is younger than a second is not replaced.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let from = source(&mount, 119, 8 * MIB);
    let said = fails!("cp {from} {mount}/stream-refused.raw");
    assert!(said.contains("Input/output error"), "{said}");
    let told = mount.errors();
    assert!(told.contains("HTTP 401") && told.contains("write the file again from its beginning"), "{told}");
    eventually("the record is gone", || cloud.named("stream-refused.raw").is_empty());
    sh!("cp {from} {mount}/stream-refused.raw");
    assert_eq!(cloud.only("stream-refused.raw")["size"], 8 * MIB);
}

#[test]
fn a_crash_of_the_daemon_after_the_last_byte_is_settled_by_what_arrived() {
    let cloud = Cloud::open();
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--upload stream --endpoint {}", gate.url()));
    let from = source(&mount, 120, 3 * MIB);
    gate.lose("HTTP/1.1 204");
    let copy = background(&format!("cp {from} {mount}/stream-arrived.raw"));
    eventually("Glance has it", || {
        cloud.named("stream-arrived.raw").iter().any(|image| image["status"] == "active")
    });
    sh!("kill -KILL {}", mount.daemon().expect("a daemon"));
    eventually("it has ended", || mount.daemon().is_none());
    assert!(!copy.finish().succeeded());
    crate::harness::run(&format!("umount -l {mount} || fusermount3 -uz {mount}"));
    gate.lose("nothing is lost any more");
    mount.up();
    eventually("it is told", || {
        mount.errors().contains("\"stream-arrived.raw\", which a crash interrupted, had arrived")
    });
    assert_eq!(cloud.only("stream-arrived.raw")["size"], 3 * MIB);
    sh!("cmp {from} {mount}/stream-arrived.raw");
    eventually("nothing is left here", || sh!("find {}/spool -type f | wc -l", mount.beside()) == "0");
}
