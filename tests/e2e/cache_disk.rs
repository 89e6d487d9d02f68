//! The disk of the cache and of the spool as an enemy: full, read-only, failing, gone, with flipped bits, cut files
//! and files of other versions, and shared by two daemons. Reads stay right, and the log says what happened, once.

use crate::harness::{Cloud, Disk, Failure, Mount, PROGRAM, background, eventually, long, pattern, run, sh};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// An image in Glance, and a file with its bytes.
struct Sample {
    name: String,
    source: String,
    /// The image's bytes.
    length: usize,
}

impl Sample {
    fn new(cloud: &Cloud, mount: &Mount, name: &str, seed: u64) -> Self {
        let content = pattern(seed, 2 * MIB + 4321);
        cloud.image(name, &content);
        let source = mount.beside().file(&format!("source-{seed}"), &content);
        Self { name: name.to_owned(), source, length: content.len() }
    }

    /// Reads all of it past the kernel's page cache.
    #[track_caller]
    fn is_right(&self, mount: &Mount, when: &str) {
        let Self { name, source, .. } = self;
        let read = run(&format!("dd if={mount}/{name} bs=128k iflag=direct status=none | cmp - {source}"));
        assert!(read.succeeded(), "{when}: {read}");
    }
}

/// A mount with its cache and its spool on `disk`, not mounted yet. The daemon reads all by itself, so that each
/// byte is checked.
fn mount_on(cloud: &Cloud, disk: &Disk, options: &str) -> Mount {
    let (cache, spool) = (disk.path("cache"), disk.path("spool"));
    cloud.mount_later(&format!(
        "--cache-dir {cache} --spool-dir {spool} --cache-free-percent 0 --memory-limit 32M --passthrough off {options}"
    ))
}

/// Warnings and errors in the log since it had `from` bytes.
fn complaints(mount: &Mount, from: usize) -> Vec<String> {
    let log = mount.log()[from..].to_owned();
    let is_one = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
    log.lines().filter(is_one).map(str::to_owned).collect()
}

#[test]
fn a_cache_disk_that_fails_slows_reads_down_and_is_told_once() {
    let cloud = Cloud::open();
    for (failure, word) in [
        (Failure::Reads, "reading"),
        (Failure::Writes, "writing"),
        (Failure::ReadOnly, "readonly"),
        (Failure::All, "all"),
    ] {
        let disk = Disk::new();
        let mount = mount_on(cloud, &disk, "");
        let cached = Sample::new(cloud, &mount, &format!("fails-{word}-cached.raw"), 140);
        let fresh = Sample::new(cloud, &mount, &format!("fails-{word}-fresh.raw"), 141);
        mount.up();
        cached.is_right(&mount, word);
        // What is in memory is gone, and the cache is open.
        mount.remount();
        sh!("head -c 100 {mount}/{} > /dev/null", cached.name);
        let from = mount.log().len();
        disk.fail(Some(failure));
        for _ in 0..2 {
            cached.is_right(&mount, word);
            fresh.is_right(&mount, word);
        }
        assert!(disk.refused() > 0, "{word}: the disk was not even asked");
        eventually("it is told", || !complaints(&mount, from).is_empty());
        let told = complaints(&mount, from);
        // What is on the disk besides blocks: where reads fail, the records of images.
        let (of_records, of_blocks): (Vec<_>, Vec<_>) =
            told.iter().partition(|line| line.contains("the server is asked for them"));
        assert!(of_blocks.len() == 1 && of_blocks[0].contains("left alone"), "{word}: {told:#?}");
        assert!(of_records.len() <= 1, "{word}: {told:#?}");
        mount.down();
        // The next mount on a disk that works has all it needs.
        disk.fail(None);
        mount.up();
        cached.is_right(&mount, word);
        fresh.is_right(&mount, word);
        mount.down();
    }
}

#[test]
fn a_cache_disk_that_fails_from_the_start_is_told_with_the_cure() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let mount = mount_on(cloud, &disk, "");
    for failure in [Failure::Writes, Failure::ReadOnly, Failure::All] {
        disk.fail(Some(failure));
        let said = mount.try_up().expect_failure();
        assert!(said.contains("--cache-dir") && said.trim().lines().count() == 1, "{failure:?}: {said}");
        assert!(!mount.is_mounted());
    }
    // One that is read-only later, with all that is needed on it.
    disk.fail(None);
    let sample = Sample::new(cloud, &mount, "fails-from-start.raw", 142);
    mount.up();
    sample.is_right(&mount, "at first");
    mount.down();
    let from = mount.log().len();
    disk.fail(Some(Failure::ReadOnly));
    let began = mount.try_up();
    if began.succeeded() {
        sample.is_right(&mount, "read-only from the start");
        assert!(complaints(&mount, from).len() <= 2, "{:#?}", complaints(&mount, from));
        mount.down();
    } else {
        assert!(began.expect_failure().contains("--spool-dir"));
    }
}

#[test]
fn a_full_cache_disk_is_told_once_and_reads_go_on() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let mount = mount_on(cloud, &disk, "");
    let cached = Sample::new(cloud, &mount, "full-cached.raw", 143);
    let fresh = Sample::new(cloud, &mount, "full-fresh.raw", 144);
    mount.up();
    cached.is_right(&mount, "before");
    // Somebody else takes all that is free, and more than the cache could give back.
    disk.limit(1);
    let from = mount.log().len();
    for _ in 0..2 {
        fresh.is_right(&mount, "full");
        cached.is_right(&mount, "full");
    }
    eventually("it is told", || !complaints(&mount, from).is_empty());
    let told = complaints(&mount, from);
    assert_eq!(told.len(), 1, "{told:#?}");
    mount.down();
    // And one with room for half an image.
    disk.limit(disk.occupied() + MIB as u64);
    mount.up();
    for _ in 0..2 {
        fresh.is_right(&mount, "nearly full");
        cached.is_right(&mount, "nearly full");
    }
    mount.down();
}

#[test]
fn a_cache_that_vanishes_from_under_the_daemon_is_not_missed_by_readers() {
    let cloud = Cloud::open();
    for way in ["rm -rf", "umount"] {
        let mut disk = Disk::new();
        let mount = mount_on(cloud, &disk, "");
        let cached = Sample::new(cloud, &mount, &format!("vanishes-{}-1.raw", way.len()), 145);
        let fresh = Sample::new(cloud, &mount, &format!("vanishes-{}-2.raw", way.len()), 146);
        mount.up();
        cached.is_right(&mount, way);
        mount.remount();
        let from = mount.log().len();
        match way {
            "umount" => disk.vanish(),
            _ => drop(sh!("rm -rf {}", disk.path("cache"))),
        }
        for _ in 0..2 {
            cached.is_right(&mount, way);
            fresh.is_right(&mount, way);
        }
        let told = complaints(&mount, from);
        // Unmounted lazily, the disk stays with who has it open.
        let expected = usize::from(way != "umount");
        assert_eq!(told.len(), expected, "{way}: {told:#?}");
        mount.down();
    }
}

/// How a file is spoilt, and what the log says then: of the index, of blocks, or nothing.
type Spoilt = (&'static str, fn(&mut Vec<u8>), &'static str);

const INDEX: &str = "an index in the cache is damaged";
const BLOCKS: &str = "blocks of this image in the cache are damaged";

/// Bit by bit the header is flipped in `cache::disk::index`; here one of each kind, with the whole program.
const SPOILT: &[Spoilt] = &[
    // Data.
    (".data", |bytes| flip(bytes, 0), BLOCKS),
    (".data", |bytes| [65_535, 65_536, 1_000_000].iter().for_each(|at| flip(bytes, *at)), BLOCKS),
    (".data", |bytes| flip(bytes, 2 * MIB + 4320), BLOCKS),
    (".data", |bytes| bytes.fill(0), BLOCKS),
    (".data", |bytes| bytes.truncate(0), BLOCKS),
    (".data", |bytes| bytes.truncate(1_000_001), BLOCKS),
    (".data", |bytes| bytes.extend([7; 100_000]), ""),
    // Entries: a checksum, a stamp that says absent, one of the far future, all of them the same.
    (".index", |bytes| flip(bytes, 4096), BLOCKS),
    (".index", |bytes| bytes[4100..4104].fill(0), ""),
    (".index", |bytes| bytes[4100..4104].fill(0xff), ""),
    (".index", |bytes| bytes[4096..].fill(0xff), BLOCKS),
    (
        ".index",
        |bytes| {
            let one = bytes[4096..4104].to_vec();
            bytes[4104..4112].copy_from_slice(&one);
        },
        BLOCKS,
    ),
    // The header: magic, version, block size, size, keys, proof, line, checksum.
    (".index", |bytes| flip(bytes, 0), INDEX),
    (".index", |bytes| flip(bytes, 8), INDEX),
    (".index", |bytes| flip(bytes, 12), INDEX),
    (".index", |bytes| flip(bytes, 16), INDEX),
    (".index", |bytes| flip(bytes, 24), INDEX),
    (".index", |bytes| flip(bytes, 56), INDEX),
    (".index", |bytes| flip(bytes, 88), INDEX),
    (".index", |bytes| flip(bytes, 128), INDEX),
    (".index", |bytes| flip(bytes, 4092), INDEX),
    // Cut and lengthened.
    (".index", |bytes| bytes.truncate(0), ""),
    (".index", |bytes| bytes.truncate(4095), INDEX),
    (".index", |bytes| bytes.truncate(4096), ""),
    (".index", |bytes| bytes.truncate(4107), ""),
    (".index", |bytes| bytes.extend([7; 5000]), ""),
    // Written well, by another version; for another image; of another size.
    (".index", |bytes| sealed(bytes, 8, 2), INDEX),
    (".index", |bytes| sealed(bytes, 12, 1), INDEX),
    (".index", |bytes| sealed(bytes, 24, 0x55), INDEX),
    (".index", |bytes| sealed(bytes, 23, 0x7f), INDEX),
    // What is saved beside: not believed, or not needed.
    (".list", |bytes| bytes.fill(b'x'), ""),
    (".login", |bytes| bytes.fill(b'x'), ""),
];

fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 0x10;
}

/// Sets a byte of a header and makes its checksum right.
fn sealed(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn whatever_is_spoilt_on_the_cache_disk_the_bytes_are_right_and_it_is_told_once() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let mount = mount_on(cloud, &disk, "");
    let sample = Sample::new(cloud, &mount, "spoilt.raw", 147);
    mount.up();
    sample.is_right(&mount, "at first");
    eventually("it is verified", || mount.xattr(&sample.name, "user.glancefs.verified") == "sha512");
    mount.down();
    let whole = disk.contents();
    let indices = disk.files(".index");
    assert_eq!(indices.len(), 1);
    assert_eq!(indices[0].1.len(), 4096 + 8 * sample.length.div_ceil(64 * KIB));
    for (number, (file, spoil, expected)) in SPOILT.iter().enumerate() {
        // The unit tests flip each byte of the header.
        if !long() && *expected == INDEX && number % 3 != 0 {
            continue;
        }
        let what = format!("{file} spoilt, number {number}");
        disk.set(&whole);
        disk.spoil(file, spoil);
        let from = mount.log().len();
        mount.up();
        for _ in 0..2 {
            sample.is_right(&mount, &what);
        }
        mount.down();
        let told = complaints(&mount, from);
        assert_eq!(told.len(), usize::from(!expected.is_empty()), "{what}: {told:#?}");
        assert!(told.iter().all(|line| line.contains(expected)), "{what}: {told:#?}");
        // Repaired by now.
        let from = mount.log().len();
        mount.up();
        sample.is_right(&mount, &what);
        mount.down();
        assert_eq!(complaints(&mount, from), [""; 0], "{what}, once more");
    }
}

/// Bytes that the blocks in the cache occupy.
fn data(disk: &Disk) -> u64 {
    disk.occupied_by(".data")
}

#[test]
fn two_daemons_fill_and_empty_one_small_cache_and_one_is_killed() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let small = "--cache-size 3M";
    let one = mount_on(cloud, &disk, small);
    let other = mount_on(cloud, &disk, small);
    let samples = [1, 2, 3, 4].map(|n| Sample::new(cloud, &one, &format!("two-daemons-{n}.raw"), 148 + n));
    one.up();
    other.up();
    // Each begins with images of its own, so that each fills all of the cache.
    let reading = |mount: &Mount, first: usize| {
        let order = samples.iter().cycle().skip(first).take(samples.len());
        let each = order.map(|Sample { name, source, .. }| {
            format!("dd if={mount}/{name} bs=128k iflag=direct status=none | cmp - {source}")
        });
        let each: Vec<_> = each.collect();
        background(&format!("for i in 1 2 3 4; do {}; done", each.join("; ")))
    };
    let (first, second) = (reading(&one, 0), reading(&other, 2));
    eventually("the cache is full", || data(&disk) > 2 * MIB as u64);
    sh!("kill -KILL {}", one.daemon().expect("a daemon"));
    eventually("the daemon has ended", || one.daemon().is_none());
    drop(first);
    one.up();
    let (mut first, mut second) = (reading(&one, 0), second);
    let mut most = data(&disk);
    while first.is_running() || second.is_running() {
        most = most.max(data(&disk));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    first.finish().expect_success();
    second.finish().expect_success();
    // The other one may write a tenth of it before it counts again.
    assert!(most <= (3 * MIB + 3 * MIB / 10) as u64, "{most} bytes for a cache of 3 MiB");
    for mount in [&one, &other] {
        samples.iter().for_each(|sample| sample.is_right(mount, "at the end"));
        let told = complaints(mount, 0);
        let others: Vec<_> = told.iter().filter(|line| !line.contains("has lost its daemon")).collect();
        assert_eq!(others, [""; 0]);
        mount.down();
    }
}

#[test]
fn a_spool_disk_that_fails_fails_the_copy_and_publishes_nothing() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let mount = mount_on(cloud, &disk, "");
    let from = mount.beside().file("source", pattern(150, MIB));
    mount.up();
    for (failure, said) in [
        (Some(Failure::Writes), "Input/output error"),
        (Some(Failure::ReadOnly), "Read-only file system"),
        (Some(Failure::All), "Input/output error"),
        (None, "No space left on device"),
    ] {
        disk.fail(failure);
        disk.limit(if failure.is_none() { disk.occupied() + 100 * KIB as u64 } else { 1 << 40 });
        let outcome = run(&format!("cp {from} {mount}/spool-fails.raw"));
        assert!(!outcome.succeeded() && outcome.stderr.contains(said), "{failure:?}: {outcome}");
        disk.fail(None);
        disk.limit(1 << 40);
        eventually("nothing is published", || cloud.named("spool-fails.raw").is_empty());
    }
    // The bytes cannot be read back while they are sent.
    let program = "import os, sys, time
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
os.write(out, open(sys.argv[2], 'rb').read())
while not os.path.exists(sys.argv[3]):
    time.sleep(0.05)
os.close(out)
";
    let program = mount.beside().file("program.py", program.as_bytes());
    let go = format!("{}/go", mount.beside());
    let mut writer = background(&format!("python3 {program} {mount}/spool-fails.raw {from} {go}"));
    eventually("all is written", || {
        std::fs::metadata(mount.path("spool-fails.raw")).is_ok_and(|found| found.len() == MIB as u64)
    });
    assert!(writer.is_running());
    // Once: what fails now must not be published later, when the disk works.
    disk.fail_one_read();
    mount.beside().file("go", "");
    let said = writer.finish().expect_failure();
    assert!(said.contains("Input/output error"), "{said}");
    eventually("the last close is seen", || mount.errors().contains("Input/output error"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(cloud.named("spool-fails.raw"), [serde_json::Value::Null; 0], "nothing is published");
    let listed = sh!("{PROGRAM} uploads --json {mount}");
    assert!(listed.contains("spool-fails.raw") && listed.contains("rror"), "{listed}");
    // And then it works.
    sh!("cp {from} {mount}/spool-fails.raw");
    cloud.only("spool-fails.raw");
    sh!("cmp {mount}/spool-fails.raw {from}");
    mount.down();
}
