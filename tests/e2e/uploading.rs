//! Each way to write a file makes exactly one active image with the same bytes, or an error that the
//! program hears of.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Cloud, Mount, background, epoch, eventually, fails, leave_out, pattern, run, sh};

const MIB: usize = 1024 * 1024;

/// There is one image of this name, active, raw, and Glance's checksum is that of `file`.
#[track_caller]
fn uploaded(cloud: &Cloud, name: &str, file: &str) -> serde_json::Value {
    let record = cloud.only(name);
    assert_eq!(record["checksum"].as_str(), Some(&*sh!("md5sum < {file} | cut -d' ' -f1")), "{name}");
    assert_eq!(record["container_format"], "bare");
    record
}

fn source(mount: &Mount, seed: u64, length: usize) -> String {
    mount.beside().file(&format!("source-{seed}"), pattern(seed, length))
}

#[test]
fn each_way_to_write_makes_one_image_of_the_same_bytes() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let from = source(&mount, 50, 3 * MIB + 11);
    let ways = [
        ("cp", "cp SRC TO"),
        ("cp-p", "cp -p SRC TO"),
        ("cp-a", "cp -a SRC TO"),
        ("cat", "cat SRC > TO"),
        ("tee", "tee TO < SRC > /dev/null"),
        ("dd", "dd if=SRC of=TO bs=1M status=none"),
        ("dd-fsync", "dd if=SRC of=TO bs=64k conv=fsync status=none"),
        ("dd-notrunc", "dd if=SRC of=TO bs=1M conv=notrunc,fdatasync status=none"),
        ("dd-direct", "dd if=SRC of=TO bs=1M oflag=direct status=none"),
        ("install", "install -m 644 SRC TO"),
        ("rsync", "rsync SRC TO"),
        ("rsync-a", "rsync -a SRC TO"),
        ("rsync-inplace", "rsync --inplace SRC TO"),
        ("rsync-whole", "rsync -W --no-times SRC TO"),
        ("curl-o", "curl -sS -o TO file://SRC"),
        ("mv", "cp SRC SRC.moved && mv SRC.moved TO"),
        ("python-copy", "python3 -c 'import shutil; shutil.copyfile(\"SRC\", \"TO\")'"),
        ("python-copy2", "python3 -c 'import shutil; shutil.copy2(\"SRC\", \"TO\")'"),
        ("two-writers", "{ head -c 1000000 SRC; tail -c +1000001 SRC; } > TO"),
        ("append", "head -c 1000000 SRC > TO.part && cat TO.part > /dev/null; cat SRC > TO"),
        ("no-clobber", "set -C; cat SRC > TO"),
        ("exec", "exec 3> TO; cat SRC >&3; exec 3>&-"),
        (
            "backward",
            "python3 -c '
data = open(\"SRC\", \"rb\").read()
with open(\"TO\", \"wb\") as file:
    for at in reversed(range(0, len(data), 300_000)):
        file.seek(at)
        file.write(data[at:at + 300_000])
'",
        ),
        (
            "truncating",
            "python3 -c '
data = open(\"SRC\", \"rb\").read()
with open(\"TO\", \"w+b\") as file:
    file.truncate(10 * len(data))
    file.seek(5_000_000); file.write(b\"rubbish\")
    file.truncate(1000)
    file.truncate(len(data))
    file.seek(0); file.write(data)
    file.flush()
    file.seek(123_456)
    assert file.read(1000) == data[123_456:124_456]
'",
        ),
    ];
    for (name, line) in ways {
        let name = format!("by-{name}.raw");
        let line = line.replace("SRC", &from).replace("TO", &mount.path(&name));
        let began = std::time::Instant::now();
        sh!("{line}");
        let record = uploaded(cloud, &name, &from);
        assert_eq!(record["disk_format"], "raw", "{name}");
        assert_eq!(sh!("cmp {from} {mount}/{name}; stat -c %s {mount}/{name}"), (3 * MIB + 11).to_string());
        eprintln!("{name}: {:?}", began.elapsed());
    }
    // No temporary name is left, in the cloud or in the spool.
    let strays: Vec<_> = mount.names().into_iter().filter(|name| name.starts_with(".by-")).collect();
    assert!(strays.is_empty(), "{strays:?}");
    assert_eq!(sh!("find {}/spool -type f | wc -l", mount.beside()), "0");
}

#[test]
fn what_was_uploaded_is_read_back_without_a_download() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let from = source(&mount, 51, 5 * MIB);
    sh!("cp {from} {mount}/spool-to-cache.raw");
    let id = uploaded(cloud, "spool-to-cache.raw", &from)["id"].as_str().unwrap().to_owned();
    sh!("cmp {mount}/spool-to-cache.raw {from}");
    assert_eq!(mount.xattr("spool-to-cache.raw", "user.glancefs.verified"), "sha512");
    mount.remount();
    sh!("cmp {mount}/spool-to-cache.raw {from}");
    assert_eq!(cloud.downloads(&id), Vec::<String>::new());
}

#[test]
fn a_folder_is_synchronised_once() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let folder = mount.beside().path("folder");
    sh!("mkdir {folder}");
    for number in 0..6_u8 {
        std::fs::write(
            format!("{folder}/sync-{number}.raw"),
            pattern(u64::from(number), 100_000 + usize::from(number)),
        )
        .unwrap();
    }
    sh!("rsync -rt {folder}/ {mount}/");
    let ids = |_: ()| {
        (0..6).map(|number| cloud.only(&format!("sync-{number}.raw"))["id"].clone()).collect::<Vec<_>>()
    };
    let first = ids(());
    for number in 0..6 {
        sh!("cmp {folder}/sync-{number}.raw {mount}/sync-{number}.raw");
    }
    // By size, since the times of an image are those of its creation.
    sh!("rsync -r --size-only {folder}/ {mount}/");
    for id in &first {
        let puts = cloud.requests(&format!("PUT /v2/images/{}/file", id.as_str().unwrap()));
        assert_eq!(puts.len(), 1, "it was uploaded once: {puts:#?}");
    }
    assert_eq!(ids(()), first, "and nothing took its place");
    // And back: a second run has nothing to do.
    let back = mount.beside().path("back");
    sh!("rsync -a --include 'sync-*' --exclude '*' {mount}/ {back}/");
    let again = sh!("rsync -ai --include 'sync-*' --exclude '*' {mount}/ {back}/ | grep -c '^>f' || true");
    assert_eq!(again, "0", "mtime is that of the data, so nothing is copied again");
    assert_eq!(ids(()), first);
}

#[test]
fn tar_unpacks_into_the_mount() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let from = source(&mount, 52, 700_001);
    let beside = mount.beside();
    sh!("cp {from} {beside}/from-tar.raw && tar -C {beside} -cf {beside}/archive.tar from-tar.raw");
    sh!("tar -C {mount} -xf {beside}/archive.tar");
    uploaded(cloud, "from-tar.raw", &from);
}

#[test]
fn touch_reserves_and_cp_fills_the_same_image() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    sh!("touch {mount}/reserved.raw");
    let records = cloud.named("reserved.raw");
    assert_eq!(records.len(), 1, "the record exists when touch returns");
    assert_eq!((&records[0]["status"], &records[0]["size"]), (&json!("queued"), &json!(null)));
    assert!(fails!("cat {mount}/reserved.raw").contains("No data available"));
    let from = source(&mount, 53, 200_000);
    sh!("cp {from} {mount}/reserved.raw");
    assert_eq!(uploaded(cloud, "reserved.raw", &from)["id"], records[0]["id"]);
    sh!("cmp {from} {mount}/reserved.raw");
}

#[test]
fn a_reservation_of_someone_else_is_filled_too() {
    let cloud = Cloud::open();
    let id =
        cloud.reserve(json!({"name": "by-someone.qcow2", "disk_format": "qcow2", "os_distro": "debian"}));
    let mount = cloud.mount("");
    let image = mount.beside().path("image");
    sh!("qemu-img create -q -f qcow2 {image} 10M && cp {image} {mount}/by-someone.qcow2");
    let record = uploaded(cloud, "by-someone.qcow2", &image);
    assert_eq!((&record["id"], &record["os_distro"]), (&json!(id), &json!("debian")));
}

#[test]
fn an_empty_file_is_a_reservation() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    sh!(": > {mount}/empty-file.raw");
    let records = cloud.named("empty-file.raw");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["status"], "queued", "a file closed without a write uploads nothing");
    sh!("echo data > {mount}/empty-file.raw");
    assert_eq!(cloud.only("empty-file.raw")["id"], records[0]["id"]);
}

#[test]
fn the_format_is_told_by_the_content() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let beside = mount.beside();
    sh!(
        "cd {beside} && mkdir iso && echo hello > iso/hello && xorriso -as mkisofs -quiet -o fmt.iso iso 2>/dev/null
         head -c 3M /dev/urandom > fmt.raw
         for format in qcow2 vmdk vhdx vdi; do qemu-img convert -f raw -O $format fmt.raw fmt.$format; done
         qemu-img convert -f raw -O vpc -o subformat=dynamic fmt.raw fmt.vhd
         qemu-img convert -f raw -O qcow2 -c fmt.raw fmt-c.qcow2"
    );
    for (file, format) in [
        ("fmt.raw", "raw"),
        ("fmt.qcow2", "qcow2"),
        ("fmt-c.qcow2", "qcow2"),
        ("fmt.vmdk", "vmdk"),
        ("fmt.vhdx", "vhdx"),
        ("fmt.vdi", "vdi"),
        ("fmt.vhd", "vhd"),
        ("fmt.iso", "iso"),
    ] {
        // The name says nothing: the content does.
        sh!("cp {beside}/{file} {mount}/{file}.image");
        let record = uploaded(cloud, &format!("{file}.image"), &format!("{beside}/{file}"));
        assert_eq!(record["disk_format"], format, "{file}");
    }
}

#[test]
fn a_killed_writer_publishes_nothing_and_its_spool_is_told() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    for signal in [Signal::KILL, Signal::TERM, Signal::HUP] {
        let name = format!("killed-{}.raw", signal.as_raw());
        let writer = background(&format!(
            "exec python3 -c '
import signal, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup, which is inherited
file = open(\"{mount}/{name}\", \"wb\", buffering=0)
file.write(b\"half of an image\")
time.sleep(600)
'"
        ));
        eventually("something is written", || {
            std::fs::metadata(mount.path(&name)).is_ok_and(|metadata| metadata.len() > 0)
        });
        writer.signal(signal);
        assert!(!writer.finish().succeeded());
        eventually("the spool is named", || mount.errors().contains(&name));
        assert!(cloud.named(&name).iter().all(|image| image["status"] == "queued"), "nothing is published");
        assert!(!mount.names().contains(&name), "and nothing looks complete");
    }
    let kept = sh!("grep -rl 'half of an image' {}/spool | wc -l", mount.beside());
    assert_eq!(kept, "3", "what was written is kept");
    let spool = mount.beside().path("spool");
    assert!(mount.errors().contains(&spool), "the message says where: {}", mount.errors());
    mount.remount();
    assert!(mount.errors().contains("killed-9.raw"), "and again at the next mount: {}", mount.errors());
}

#[test]
fn a_writer_killed_during_the_upload_publishes_nothing() {
    let cloud = Cloud::open();
    let gate = crate::harness::Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {}", gate.url()));
    let from = source(&mount, 54, 300_000);
    let copy = background(&format!(
        "exec python3 -c '
import time
file = open(\"{mount}/stuck.raw\", \"wb\", buffering=0)
file.write(open(\"{from}\", \"rb\").read())
time.sleep(2)
file.close()
'"
    ));
    eventually("the file is there", || mount.names().contains(&"stuck.raw".to_owned()));
    // From here on the server does not answer, so that the writer waits in close(2).
    gate.silence();
    std::thread::sleep(std::time::Duration::from_secs(4));
    copy.signal(Signal::KILL);
    let outcome = copy.finish();
    assert!(outcome.took < std::time::Duration::from_secs(15), "it was not let go: {outcome}");
    assert!(!outcome.succeeded());
    assert!(mount.log().contains("killed during the upload"));
    gate.open();
    assert!(cloud.named("stuck.raw").iter().all(|image| image["status"] != "active"));
    assert!(mount.errors().contains("stuck.raw"));
}

#[test]
fn two_uploads_at_once_do_not_disturb_each_other() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let files: Vec<_> = (60..66).map(|seed| source(&mount, seed, 2 * MIB)).collect();
    let copies: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(number, file)| background(&format!("cp {file} {mount}/parallel-{number}.raw")))
        .collect();
    copies.into_iter().for_each(|copy| drop(copy.finish().expect_success()));
    for (number, file) in files.iter().enumerate() {
        uploaded(cloud, &format!("parallel-{number}.raw"), file);
    }
}

#[test]
fn an_upload_is_an_image_of_now_and_takes_no_times() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let from = source(&mount, 55, 1000);
    sh!("touch -d '2001-02-03' {from}; cp -p {from} {mount}/times.raw; touch {mount}/times.raw");
    let record = cloud.only("times.raw");
    assert_eq!(sh!("stat -c %Y {mount}/times.raw"), epoch(&record["created_at"]).to_string());
}

#[test]
fn quotas_reach_the_program_as_errors() {
    let cloud =
        Cloud::new("none", "--set DEFAULT.user_storage_quota=10MB --set DEFAULT.image_size_cap=5000000");
    let mount = cloud.mount("");
    let fits = source(&mount, 56, 4_000_000);
    let over_cap = source(&mount, 58, 6_000_000);
    let over_cap = fails!("cp {over_cap} {mount}/over-cap.raw");
    assert!(over_cap.contains("File too large"), "{over_cap}");
    sh!("cp {fits} {mount}/fits-1.raw && cp {fits} {mount}/fits-2.raw");
    for line in [
        "cp FROM TO",
        "cat FROM > TO",
        "dd if=FROM of=TO bs=1M status=none",
        "rsync FROM TO",
        "tee TO < FROM > /dev/null",
    ] {
        let said = fails!("{}", line.replace("FROM", &fits).replace("TO", &mount.path("over-quota.raw")));
        assert!(said.contains("Disk quota exceeded"), "{line}: {said}");
        assert!(cloud.named("over-quota.raw").is_empty(), "{line}: nothing is left behind");
        assert!(!mount.names().contains(&"over-quota.raw".to_owned()), "{line}");
    }
    for name in ["over-quota.raw", "over-cap.raw"] {
        assert!(mount.errors().contains(name), "{}", mount.errors());
    }
    // Nothing of that stands in the way of the next one.
    sh!("head -c 100000 {fits} > {mount}/over-quota.raw");
    assert_eq!(cloud.only("over-quota.raw")["size"], 100_000);
}

#[test]
fn content_that_glance_refuses_is_the_wrong_medium() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    // A boot sector of FAT: the mark of a partition table, and no valid table.
    let mut boot_sector = pattern(59, 1_048_576);
    boot_sector[0..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    boot_sector[3..11].copy_from_slice(b"MSDOS5.0");
    boot_sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    let from = mount.beside().file("fat.img", &boot_sector);
    assert!(fails!("cp {from} {mount}/fat.raw").contains("Wrong medium type"));
    assert!(cloud.named("fat.raw").is_empty(), "what Glance has poisoned is removed");
    assert!(mount.errors().contains("fat.raw"), "{}", mount.errors());
    // One that other files belong to.
    let backing = source(&mount, 60, 1_048_576);
    let overlay = mount.beside().path("overlay.qcow2");
    sh!("qemu-img create -q -f qcow2 -b {backing} -F raw {overlay}");
    assert!(fails!("cp {overlay} {mount}/overlay.qcow2").contains("Wrong medium type"));
    assert!(cloud.named("overlay.qcow2").is_empty());
}

#[test]
fn the_spool_has_its_limit() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--spool-size 4M");
    let large = source(&mount, 61, 6 * MIB);
    let small = source(&mount, 62, 3 * MIB);
    assert!(fails!("cp {large} {mount}/too-large.raw").contains("No space left on device"));
    assert!(cloud.named("too-large.raw").iter().all(|image| image["status"] == "queued"));
    // Half a file is of no use to anybody, and takes no room.
    assert!(mount.errors().contains("too-large.raw"), "{}", mount.errors());
    assert_eq!(sh!("find {}/spool -type f | wc -l", mount.beside()), "0");
    sh!("cp {small} {mount}/small-enough.raw");
    uploaded(cloud, "small-enough.raw", &small);
}

/// A cloud whose quota is used up but for 1 MB by an image; its id.
fn full_cloud() -> (Cloud, String) {
    let cloud = Cloud::new("none", "--set DEFAULT.user_storage_quota=5MB");
    let filler = cloud.image("filler.raw", &pattern(73, 4_000_000));
    (cloud, filler)
}

#[test]
fn tries_that_fail_keep_one_copy_and_success_removes_it() {
    let (cloud, filler) = full_cloud();
    let mount = cloud.mount("");
    let from = source(&mount, 69, 2 * MIB);
    let kept = || sh!("find {}/spool -name '*.data'", mount.beside());
    for _ in 0..3 {
        fails!("cp {from} {mount}/retried.raw");
    }
    eventually("one copy is kept", || kept().lines().count() == 1);
    sh!("cmp {} {from}", kept());
    // Each failure is told once, with the file that is kept, and each removal.
    for said in [mount.log(), mount.errors()] {
        let of_it: Vec<_> = said.lines().filter(|line| line.contains("\"retried.raw\"")).collect();
        let failures = of_it.iter().filter(|line| line.contains("failed") && line.contains("is kept in"));
        let removals =
            of_it.iter().filter(|line| line.contains("removed, because the same bytes are kept in"));
        assert_eq!((failures.count(), removals.count(), of_it.len()), (3, 2, 5), "{said}");
    }
    cloud.delete(&filler);
    sh!("cp {from} {mount}/retried.raw");
    uploaded(&cloud, "retried.raw", &from);
    eventually("nothing is kept", || kept().is_empty());
    eventually("it is told", || mount.errors().contains("has the same bytes"));
}

#[test]
fn what_failed_long_ago_goes_for_a_new_upload_and_at_the_next_mount() {
    let (cloud, _) = full_cloud();
    let mount = cloud.mount("--spool-size 6M");
    let [first, second] = [70, 71].map(|seed| source(&mount, seed, 2 * MIB));
    let third = source(&mount, 72, 3 * MIB);
    let spool = format!("{}/spool", mount.beside());
    fails!("cp {first} {mount}/failed-1.raw");
    sh!("touch -d '2 hours ago' {spool}/*");
    fails!("cp {second} {mount}/failed-2.raw");
    // There is room for a third without the first. What failed just now stays.
    assert!(fails!("cp {third} {mount}/failed-3.raw").contains("quota"));
    assert_eq!(sh!("find {spool} -name '*.data' | wc -l"), "2");
    for said in [mount.log(), mount.errors()] {
        let line = said.lines().find(|line| line.contains("needs the room")).expect("it is told");
        assert!(line.contains("failed-1.raw") && line.contains("removed"), "{line}");
    }
    assert!(fails!("cp {third} {mount}/failed-4.raw").contains("No space left"));
    mount.down();
    sh!("touch -d '8 days ago' {spool}/*");
    mount.up();
    assert_eq!(sh!("find {spool} -type f | wc -l"), "0");
    for name in ["failed-2.raw", "failed-3.raw"] {
        let told = |text: &str| text.lines().any(|line| line.contains("168 h") && line.contains(name));
        assert!(told(&mount.errors()) && told(&mount.log()), "{}", mount.errors());
    }
}

#[test]
fn a_full_disk_reaches_the_program_and_heals() {
    if !crate::harness::is_root() {
        leave_out!("a small disk needs root");
    }
    let cloud = Cloud::open();
    let mount = cloud.mount_later("");
    let disk = mount.beside().path("disk");
    sh!("mkdir {disk} && mount -t tmpfs -o size=4m none {disk}");
    let small = cloud.mount(&format!("--spool-dir {disk}/spool"));
    let large = source(&mount, 65, 6 * MIB);
    let fits = source(&mount, 66, 2 * MIB);
    let refused = run(&format!("cp {large} {small}/full.raw"));
    let accepted = run(&format!("cp {fits} {small}/fits-again.raw"));
    drop(small);
    sh!("umount {disk}");
    assert!(refused.expect_failure().contains("No space left on device"));
    accepted.expect_success();
    uploaded(cloud, "fits-again.raw", &fits);
    assert!(cloud.named("full.raw").is_empty());
}

#[test]
fn holes_of_a_sparse_file_are_zeros() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let sparse = mount.beside().path("sparse");
    sh!("truncate -s 20M {sparse}; printf x | dd of={sparse} bs=1 seek=10000000 conv=notrunc status=none");
    for (name, line) in [("as-it-is", "cp"), ("always", "cp --sparse=always"), ("rsync", "rsync -S")] {
        sh!("{line} {sparse} {mount}/sparse-{name}.raw");
        uploaded(cloud, &format!("sparse-{name}.raw"), &sparse);
        sh!("cmp {sparse} {mount}/sparse-{name}.raw");
    }
}

#[test]
fn a_program_that_starts_others_while_it_writes_is_not_held_up() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    // The child closes what it inherits inside execve(2), while the kernel lets nobody look at it.
    let program = "import os, subprocess, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
for _ in range(20):
    os.write(out, b'x' * 1000)
    subprocess.run(['/bin/true'], close_fds=False, check=True)
os.close(out)
";
    let program = mount.beside().file("program.py", program.as_bytes());
    sh!("timeout 30 python3 {program} {mount}/starts-others.raw");
    assert_eq!(cloud.only("starts-others.raw")["size"], 20_000);
}

#[test]
fn a_child_that_outlives_the_opener_finishes_the_file() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    sh!("python3 -c '
import os, time
file = os.open(\"{mount}/inherited.raw\", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
if os.fork(): os._exit(0)
time.sleep(1)
os.write(file, b\"from the child\")
'");
    eventually("the child is done", || cloud.named("inherited.raw").iter().any(|image| image["size"] == 14));
    assert_eq!(cloud.only("inherited.raw")["size"], 14);
    assert_eq!(mount.read("inherited.raw"), b"from the child");
}

#[test]
fn of_two_writers_of_one_name_one_wins_and_the_other_is_told() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let [one, other] = [67, 68].map(|seed| source(&mount, seed, MIB));
    let slow =
        background(&format!("(head -c 50000 {one}; sleep 2; tail -c +50001 {one}) > {mount}/contested.raw"));
    eventually("the first writes", || mount.names().contains(&"contested.raw".to_owned()));
    sh!("cat {other} > {mount}/contested.raw");
    assert!(!slow.finish().succeeded());
    uploaded(cloud, "contested.raw", &other);
}

#[test]
fn a_folder_is_unpacked_and_copied_with_its_own_entry() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let beside = mount.beside();
    sh!(
        "mkdir -m 755 {beside}/dir && echo tar > {beside}/dir/with-dot-tar.raw && tar -C {beside}/dir -cf {beside}/dot.tar .
         tar -C {mount} -xf {beside}/dot.tar
         mkdir -m 755 {beside}/dir2 && echo cp > {beside}/dir2/with-dot-cp.raw
         cp -a {beside}/dir2/. {mount}/"
    );
    cloud.only("with-dot-tar.raw");
    cloud.only("with-dot-cp.raw");
}

#[test]
fn a_file_that_is_being_written_can_be_removed_and_renamed() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    sh!("exec 3> {mount}/given-up.raw; echo data >&3; rm {mount}/given-up.raw; exec 3>&-");
    assert!(cloud.named("given-up.raw").is_empty(), "no option is needed for what was never published");
    sh!(
        "exec 3> {mount}/old-name.raw; echo data >&3; mv {mount}/old-name.raw {mount}/new-name.raw; exec 3>&-"
    );
    assert_eq!(cloud.only("new-name.raw")["size"], 5);
    assert!(cloud.named("old-name.raw").is_empty());
}

#[test]
fn a_file_that_is_open_while_it_becomes_an_image_reads_on() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let from = source(&mount, 64, 3 * MIB);
    sh!("exec 4> {mount}/reads-on.raw; cat {from} >&4; exec 3< {mount}/reads-on.raw
         exec 4>&-
         cmp {from} <(cat <&3)");
    uploaded(cloud, "reads-on.raw", &from);
}

#[test]
fn a_failed_upload_can_be_tried_again_when_the_server_is_back() {
    let cloud = Cloud::open();
    let gate = crate::harness::Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {} --timeout 2s", gate.url()));
    let from = source(&mount, 63, 500_000);
    // It goes away between the first byte and the last.
    let mut copy = background(&format!("(cat {from}; sleep 1) > {mount}/later.raw"));
    eventually("it is being written", || mount.names().contains(&"later.raw".to_owned()));
    gate.shut();
    assert!(copy.is_running());
    let said = copy.finish().expect_failure();
    assert!(said.contains("timed out"), "{said}");
    gate.open();
    assert!(cloud.named("later.raw").is_empty());
    assert!(mount.errors().contains("later.raw"), "{}", mount.errors());
    crate::harness::eventually("the second try works", || {
        crate::harness::run(&format!("cp {from} {mount}/later.raw")).succeeded()
    });
    uploaded(cloud, "later.raw", &from);
}
