//! Guests that run from images of the mount: deletion under them, locks, and the ways in which QEMU reads.

use std::path::Path;

use serde_json::Value;

use crate::harness::{
    Background, Cloud, Gate, Mount, background, eventually, json as parse, leave_out, pattern, run, sh,
};

const MIB: usize = 1024 * 1024;
const GLANCEFS: &str = env!("CARGO_BIN_EXE_glancefs");

/// Opens an image, reads its first block, makes the file `ready`, waits for the file `go`, and compares it with a source.
/// The arguments: image, source, ready, go. What fails is printed: its offset and its errno.
const GUEST: &str = r#"
import os, sys, time
image, source, ready, go = sys.argv[1:]
wanted = open(source, "rb").read()
disk = os.open(image, os.O_RDONLY)
assert os.pread(disk, 65536, 0) == wanted[:65536]
open(ready, "w")
while not os.path.exists(go):
    time.sleep(0.01)
for at in range(0, len(wanted), 65536):
    try:
        assert os.pread(disk, 65536, at) == wanted[at:at + 65536], at
    except OSError as error:
        print(at, os.strerror(error.errno))
        break
"#;

/// A program that has an image open.
struct Guest {
    program: Background,
    go: String,
}

impl Guest {
    fn start(mount: &Mount, name: &str, content: &[u8]) -> Self {
        let beside = mount.beside();
        let (script, source) =
            (beside.file("guest.py", GUEST), beside.file(&format!("{name}.source"), content));
        let (ready, go) = (beside.path(&format!("{name}.ready")), beside.path(&format!("{name}.go")));
        let program = background(&format!("python3 {script} {mount}/{name} {source} {ready} {go}"));
        eventually("it has the image open", || Path::new(&ready).exists());
        Self { program, go }
    }

    /// Lets it read on; what it could not read.
    fn end(self) -> String {
        std::fs::write(&self.go, "").unwrap();
        self.program.finish().expect_success()
    }
}

fn shown(mount: &Mount, id: &str) -> Value {
    let status = parse(&sh!("{GLANCEFS} status --json {mount}"));
    let images = status["cached_images"].as_array().unwrap();
    images.iter().find(|image| image["id"] == id).cloned().unwrap_or(Value::Null)
}

#[test]
fn a_held_image_outlives_its_deletion() {
    let cloud = Cloud::open();
    let content = pattern(910, 9 * MIB + 5);
    let id = cloud.image("held-open.raw", &content);
    let other = pattern(911, 14 * MIB);
    cloud.image("held-beside.raw", &other);
    let mount = cloud.mount("--hold open --cache-size 12M --passthrough off --metadata-ttl 1s");
    let guest = Guest::start(&mount, "held-open.raw", &content);
    eventually("all of it is here", || shown(&mount, &id)["held"] == true);
    let status = sh!("{GLANCEFS} status {mount} | grep held-open.raw");
    assert!(status.contains(" held ") && status.contains(" 100 "), "{status}");
    // Others need the room, and do not get it.
    sh!("cat {mount}/held-beside.raw > /dev/null");
    cloud.delete(&id);
    eventually("it is gone", || !mount.names().contains(&"held-open.raw".to_owned()));
    sh!("{GLANCEFS} status {mount} | grep {id} | grep held");
    assert_eq!(guest.end(), "");
    let what = mount.errors();
    assert!(!what.contains(&id), "{what}");
}

#[test]
fn an_image_that_is_not_held_is_stale_where_it_was_not_read() {
    let cloud = Cloud::open();
    let content = pattern(912, 40 * MIB);
    let id = cloud.image("not-held.raw", &content);
    let mount = cloud.mount("");
    let guest = Guest::start(&mount, "not-held.raw", &content);
    cloud.delete(&id);
    let failed = guest.end();
    assert!(failed.ends_with(" Stale file handle"), "{failed}");
    assert!(mount.errors().contains(&id), "{}", mount.errors());
}

#[test]
fn an_image_that_is_deleted_before_it_is_held_is_told_of_once() {
    let cloud = Cloud::open();
    let content = pattern(913, 40 * MIB);
    let id = cloud.image("held-late.raw", &content);
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--hold open --endpoint {}", gate.url()));
    // What the guest reads first is here, so that it can be started while no server answers.
    sh!("head -c 65536 {mount}/held-late.raw > /dev/null");
    gate.shut();
    let guest = Guest::start(&mount, "held-late.raw", &content);
    cloud.delete(&id);
    gate.open();
    let told = format!("image {id} was deleted while it is open: ");
    eventually("it is told", || mount.errors().contains(&told));
    assert!(mount.errors().contains(" of 40.0 MiB are here and stay, reads of the rest give ESTALE"));
    let failed = guest.end();
    assert!(failed.ends_with(" Stale file handle"), "{failed}");
    assert_eq!(mount.errors().matches(&told).count(), 1, "{}", mount.errors());
}

#[test]
fn what_the_cache_cannot_hold_is_not_begun_and_told_with_a_cure() {
    let cloud = Cloud::open();
    let (one, two) = (pattern(914, 5 * MIB), pattern(915, 4 * MIB));
    let ids = [cloud.image("hold-one.raw", &one), cloud.image("hold-two.raw", &two)];
    let large = pattern(916, 9 * MIB);
    let too_large = cloud.image("hold-large.raw", &large);
    let mount = cloud.mount("--hold open --cache-size 8M");
    let guests = [Guest::start(&mount, "hold-one.raw", &one)];
    eventually("it is held", || shown(&mount, &ids[0])["held"] == true);
    let others = [Guest::start(&mount, "hold-two.raw", &two), Guest::start(&mount, "hold-large.raw", &large)];
    let told = |words: &str| mount.errors().contains(words);
    eventually("both are told of", || {
        told(&format!(
            "image {} is open and not held: it has 4.0 MiB, beside 5.0 MiB that are held, and the cache may hold 8MiB: mount with a larger --cache-size",
            ids[1]
        )) && told(&format!("image {too_large} is open and not held: it has 9.0 MiB, beside"))
    });
    for guest in guests.into_iter().chain(others) {
        assert_eq!(guest.end(), "", "they are read all the same");
    }
}

/// The blocks of `docs/hypervisors.md` that can be run here.
fn documented() -> Vec<&'static str> {
    let page = include_str!("../../docs/hypervisors.md");
    let blocks = page.split("```sh run\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0).collect()
}

#[test]
fn the_commands_for_hypervisors_work() {
    let cloud = Cloud::open();
    cloud.image("hypervisors-page.raw", &pattern(919, 8 * MIB));
    let mount = cloud.mount("--hold open");
    let guests = mount.beside().path("guests");
    sh!("mkdir {guests}");
    let folder = Path::new(GLANCEFS).parent().unwrap().display().to_string();
    let blocks = documented();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        assert!(block.starts_with("id="), "{block}");
        let here = block
            .replace("/mnt/images", &mount.path(""))
            .replace("/srv/guests", &guests)
            .replace("debian-12", "hypervisors-page");
        run(&format!("set -e; PATH={folder}:$PATH\n{here}")).expect_success();
    }
}

/// Locks as programs take them on a file that they may read: what each gives.
const LOCKS: &str = r#"
import fcntl, os, struct, sys
one, other = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[1], os.O_RDONLY)
def tried(name, act):
    try:
        print(name, act() or "ok")
    except OSError as error:
        print(name, error.strerror)
def ofd(descriptor, kind, start, command=fcntl.F_OFD_SETLK):
    lock = struct.pack("hhqqixxxx", kind, os.SEEK_SET, start, 1, 0)
    answer = fcntl.fcntl(descriptor, command, lock)
    return struct.unpack("hhqqixxxx", answer)[0]
tried("flock shared", lambda: fcntl.flock(one, fcntl.LOCK_SH | fcntl.LOCK_NB))
tried("flock shared by two", lambda: fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB))
tried("flock exclusive", lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
tried("flock end", lambda: fcntl.flock(one, fcntl.LOCK_UN))
tried("flock exclusive alone", lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
for byte in (100, 101, 103, 201, 203):
    tried(f"OFD read lock {byte}", lambda: ofd(one, fcntl.F_RDLCK, byte))
    tried(f"OFD read lock {byte} by two", lambda: ofd(other, fcntl.F_RDLCK, byte))
    tried(f"OFD test for writing {byte}", lambda: ofd(other, fcntl.F_WRLCK, byte, fcntl.F_OFD_GETLK))
tried("OFD write lock", lambda: ofd(one, fcntl.F_WRLCK, 100))
tried("POSIX read lock", lambda: fcntl.lockf(one, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 300))
tried("POSIX write lock", lambda: fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 300))
"#;

#[test]
fn locks_do_what_they_do_on_a_local_file() {
    let cloud = Cloud::open();
    let content = pattern(917, 2 * MIB);
    let id = cloud.image("locked.raw", &content);
    let mount = cloud.mount("");
    let (local, script) =
        (mount.beside().file("local.raw", &content), mount.beside().file("locks.py", LOCKS));
    let image = format!("{mount}/.by-id/{id}");
    assert_eq!(sh!("python3 {script} {image}"), sh!("python3 {script} {local}"));
    // QEMU's own locks: two guests share a base, each has its overlay for itself.
    let beside = mount.beside();
    for base in [&image, &local] {
        sh!("cd {beside} && rm -f one two && for disk in one two; do
                 qemu-img create -q -f qcow2 -b {base} -F raw $disk; done");
        let guest = |disk: &str| {
            let commands = format!(
                "echo write 0 64k; echo; while [ ! -e {beside}/{disk}.go ]; do sleep 0.05; done; echo q"
            );
            background(&format!(
                "rm -f {beside}/{disk}.go; ({commands}) | qemu-io {beside}/{disk} > {beside}/{disk}.out 2>&1"
            ))
        };
        let guests = ["one", "two"].map(|disk| (disk, guest(disk)));
        for disk in ["one", "two"] {
            eventually("it writes", || {
                sh!("cat {beside}/{disk}.out 2> /dev/null || true").contains("wrote 65536/65536")
            });
        }
        let info = |options: &str| run(&format!("qemu-img info {options} {beside}/one"));
        assert!(info("").expect_failure().contains("Failed to get shared \"write\" lock"), "{base}");
        info("-U").expect_success();
        sh!("qemu-img info {base} && qemu-io -r -f raw -c 'read 0 64k' {base}");
        for (disk, guest) in guests {
            std::fs::write(beside.path(&format!("{disk}.go")), "").unwrap();
            guest.finish().expect_success();
        }
    }
    // A guest that has the image itself and writes to it is refused at once.
    let refused = run(&format!("qemu-io -f raw -c 'write 0 64k' {image}"));
    assert!(format!("{refused}").contains("Operation not permitted"), "{refused}");
}

#[test]
fn qemu_reads_past_the_page_cache_and_without_waiting() {
    let cloud = Cloud::open();
    let content = pattern(918, 24 * MIB + 4096);
    let id = cloud.image("direct-io.raw", &content);
    let complete = cloud.image("direct-io-complete.raw", &content);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    sh!("{GLANCEFS} prefetch {mount}/direct-io-complete.raw");
    let mut missing = Vec::new();
    for aio in ["threads", "native", "io_uring"] {
        let convert = |image: &str| {
            let out = mount.beside().path(&format!("{aio}.raw"));
            let file = format!(
                "driver=raw,file.driver=file,file.filename={image},file.aio={aio},file.cache.direct=on"
            );
            run(&format!("qemu-img convert --image-opts -O raw {file} {out} && cmp {out} {source}"))
        };
        let local = convert(&source);
        if !local.succeeded() {
            missing.push(format!("{aio}: {}", local.stderr.trim()));
            continue;
        }
        convert(&format!("{mount}/.by-id/{id}")).expect_success();
        convert(&format!("{mount}/.by-id/{complete}")).expect_success();
        // In QEMU the same is said of a whole chain.
        sh!(
            "cd {} && qemu-img create -q -f qcow2 -b {mount}/.by-id/{id} -F raw top && \
             qemu-io -t none -n -i {aio} -c 'aio_read 4k 1M' -c 'aio_read 8M 64k' -c 'aio_write 12M 64k' -c aio_flush top && rm top",
            mount.beside()
        );
    }
    if !missing.is_empty() {
        leave_out!("not on a local file either: {}", missing.join("; "));
    }
}
