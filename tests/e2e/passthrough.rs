//! Complete, verified images are read by the kernel past the daemon; whatever else is open, evicted or
//! killed meanwhile, programs get the right bytes and no errors.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Cloud, Mount, eventually, fails, leave_out, pattern, run_with, sh, within};

const MIB: usize = 1024 * 1024;

/// Opens an image, says so by making the file `ready`, waits for the file `go`, and reads the image in
/// every way that a program has. The arguments: image, source to compare with, ready, go.
const EVERY_WAY: &str = r#"
import mmap, os, sys, time
image, source, ready, go = sys.argv[1:]
wanted = open(source, "rb").read()
size = len(wanted)
plain = os.open(image, os.O_RDONLY)
direct = os.open(image, os.O_RDONLY | os.O_DIRECT)
mapped = mmap.mmap(plain, 0, prot=mmap.PROT_READ)
open(ready, "w")
while not os.path.exists(go):
    time.sleep(0.01)
assert b"".join(os.pread(plain, 1000003, at) for at in range(0, size, 1000003)) == wanted, "read"
buffer = mmap.mmap(-1, 1 << 20)
for at in range(0, size, 1 << 20):
    count = os.preadv(direct, [buffer], at)
    assert count == min(1 << 20, size - at) and buffer[:count] == wanted[at:at + count], "O_DIRECT"
assert mapped[:] == wanted, "mmap"
def through(send, name):
    out = os.memfd_create(name)
    done = 0
    while done < size:
        count = send(out, done)
        assert count > 0, name
        done += count
    assert os.pread(out, size + 1, 0) == wanted, name
through(lambda out, at: os.sendfile(out, plain, at, size - at), "sendfile")
outlet, inlet = os.pipe()
def splice(out, at):
    count = os.splice(plain, inlet, 65536, offset_src=at)
    left = count
    while left > 0:
        left -= os.splice(outlet, out, left)
    return count
through(splice, "splice")
assert os.pread(plain, 10, size) == b"", "beyond the end"
"#;

/// How many files were opened in a mode so far.
fn opens(mount: &Mount, mode: &str) -> u64 {
    let metrics = String::from_utf8(mount.read(".glancefs/metrics")).unwrap();
    let wanted = format!("glancefs_opens_total{{mode=\"{mode}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&wanted)).unwrap().parse().unwrap()
}

/// Passthrough works here: else the tests of it have nothing to test.
fn works(mount: &Mount) -> bool {
    let status = String::from_utf8(mount.read(".glancefs/status")).unwrap();
    status.contains("complete images: read from the cache by the kernel")
}

/// Reads an image once, whole, and waits until it is verified and all is closed.
fn fill(mount: &Mount, name: &str) {
    sh!("cat {mount}/{name} > /dev/null");
    eventually("it is verified", || mount.xattr(name, "user.glancefs.verified") == "sha512");
    eventually("it is closed", || {
        let status = String::from_utf8(mount.read(".glancefs/status")).unwrap();
        // The status itself is open.
        status.contains("open files: 0") || status.contains("open files: 1")
    });
}

fn data_files(mount: &Mount) -> Vec<PathBuf> {
    let folder = mount.beside().root().join("cache/v1/images");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "data")).collect()
}

/// Stops a process, and lets it go on when dropped.
struct Stopped(Pid);

impl Stopped {
    fn daemon_of(mount: &Mount) -> Self {
        let pid = Pid::from_raw(i32::try_from(mount.daemon().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn kill(mount: &Mount) {
    let pid = mount.daemon().unwrap();
    sh!("kill -KILL {pid}");
    eventually("it is dead", || mount.daemon().is_none());
}

#[test]
fn a_complete_image_is_read_in_every_way_without_the_daemon() {
    let cloud = Cloud::open();
    let content = pattern(70, 9 * MIB + 123);
    cloud.image("past-us.raw", &content);
    let mount = cloud.mount("");
    if !works(&mount) {
        leave_out!("no FUSE passthrough here");
    }
    let source = mount.beside().file("source", &content);
    let script = mount.beside().file("every-way.py", EVERY_WAY);
    fill(&mount, "past-us.raw");
    assert_eq!((opens(&mount, "passthrough"), opens(&mount, "cached")), (0, 1));
    let (ready, go) = (mount.beside().path("ready"), mount.beside().path("go"));
    let reader =
        crate::harness::background(&format!("python3 {script} {mount}/past-us.raw {source} {ready} {go}"));
    eventually("it has opened", || std::path::Path::new(&ready).exists());
    {
        let _stopped = Stopped::daemon_of(&mount);
        std::fs::write(&go, "").unwrap();
        reader.finish().expect_success();
    }
    assert_eq!((opens(&mount, "passthrough"), opens(&mount, "cached")), (2, 1));
    assert!(mount.log().contains("FUSE passthrough"), "the log says which one is in use");
}

#[test]
fn every_way_to_read_works_in_the_other_mode_too() {
    let cloud = Cloud::open();
    let content = pattern(71, 9 * MIB + 123);
    cloud.image("through-us.raw", &content);
    let mount = cloud.mount("--passthrough off");
    let source = mount.beside().file("source", &content);
    let script = mount.beside().file("every-way.py", EVERY_WAY);
    let ready = mount.beside().path("ready");
    let every_way = format!("python3 {script} {mount}/through-us.raw {source} {ready} {source}");
    sh!("{every_way}");
    fill(&mount, "through-us.raw");
    sh!("{every_way}");
    mount.remount();
    sh!("{every_way}");
    assert_eq!(opens(&mount, "passthrough"), 0);
    assert!(mount.log().contains("--passthrough off"));
    assert!(String::from_utf8(mount.read(".glancefs/status")).unwrap().contains("--passthrough off"));
}

#[test]
fn without_the_privilege_images_are_read_through_the_daemon() {
    let cloud = Cloud::open();
    let content = pattern(72, 3 * MIB);
    cloud.image("unprivileged.raw", &content);
    let mount = cloud.mount_later("");
    let source = mount.beside().file("source", &content);
    let (program, folder) = (env!("CARGO_BIN_EXE_glancefs"), mount.beside().path("own"));
    // Root of a user namespace of its own: it may mount, and has the capability, but not where it counts.
    let line = format!(
        "unshare -Urm bash -euo pipefail -c '
            {program} mount --cache-dir {folder} --log-file {folder}.log {mount}
            trap \"{program} umount {mount}\" EXIT
            cmp {mount}/unprivileged.raw {source}
            for _ in $(seq 100); do
              [ \"$(getfattr --absolute-names --only-values -n user.glancefs.verified {mount}/unprivileged.raw)\" != sha512 ] || break
              sleep 0.1
            done
            for _ in 1 2 3; do sleep 0.3; cmp {mount}/unprivileged.raw {source}; done
            cat {mount}/.glancefs/metrics {mount}/.glancefs/status
         '"
    );
    let variables = cloud.variables(None);
    if !run_with("unshare -Urm true", &variables).succeeded() {
        leave_out!("user namespaces are not allowed here");
    }
    let said = run_with(&line, &variables).expect_success();
    assert!(said.contains("opens_total{mode=\"passthrough\"} 0\n"), "{said}");
    assert!(said.contains("complete images: read through the daemon: "), "{said}");
    let log = std::fs::read_to_string(format!("{folder}.log")).unwrap();
    assert_eq!(log.matches("all images are read through this process").count(), 1, "told once: {log}");
}

#[test]
fn programs_read_on_when_the_daemon_is_killed() {
    let cloud = Cloud::open();
    let content = pattern(73, 16 * MIB);
    cloud.image("guest.raw", &content);
    cloud.image("pressure.raw", &pattern(74, 16 * MIB));
    let mount = cloud.mount_later("--cache-size 24M --memory-limit 32M --cache-free-percent 0");
    mount.up();
    if !works(&mount) {
        leave_out!("no FUSE passthrough here");
    }
    fill(&mount, "guest.raw");
    let data = File::open(data_files(&mount).remove(0)).unwrap();
    let guest = File::open(mount.path("guest.raw")).unwrap();
    assert_eq!(opens(&mount, "passthrough"), 1);
    // A program may map a file and close it.
    let mapped = Mapping::of(&File::open(mount.path("guest.raw")).unwrap(), content.len());
    let is_right = |guest: &File| {
        let mut bytes = vec![0; content.len()];
        guest.read_exact_at(&mut bytes, 0).unwrap();
        bytes == content && mapped.bytes() == content
    };
    kill(&mount);
    assert!(is_right(&guest));
    // The next daemon needs room in the same cache, and finds none in that file.
    mount.up();
    for _ in 0..2 {
        sh!("cat {mount}/pressure.raw > /dev/null");
        sh!("echo 3 > /proc/sys/vm/drop_caches || true");
        assert!(is_right(&guest));
    }
    drop(guest);
    std::thread::sleep(Duration::from_millis(300));
    sh!("cat {mount}/pressure.raw > /dev/null; echo 3 > /proc/sys/vm/drop_caches || true");
    assert!(mapped.bytes() == content);
    assert!(data.try_lock().is_err(), "a mapping alone keeps the file");
}

/// A private mapping that outlives its descriptor.
struct Mapping {
    at: *mut std::ffi::c_void,
    length: usize,
}

impl Mapping {
    fn of(file: &File, length: usize) -> Self {
        use std::os::fd::AsRawFd;
        // SAFETY: a new mapping at a place of the kernel's choice, of a file that nobody cuts: that is
        // what the tests are about.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED);
        Self { at, length }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and nothing borrows it any more.
        unsafe { libc::munmap(self.at, self.length) };
    }
}

#[test]
fn room_is_never_made_in_a_file_that_is_open_or_mapped() {
    let cloud = Cloud::open();
    let content = pattern(75, 16 * MIB);
    cloud.image("pinned.raw", &content);
    cloud.image("in-need.raw", &pattern(76, 16 * MIB));
    let mount = cloud.mount("--cache-size 24M --memory-limit 32M --cache-free-percent 0");
    if !works(&mount) {
        leave_out!("no FUSE passthrough here");
    }
    fill(&mount, "pinned.raw");
    let data = File::open(data_files(&mount).remove(0)).unwrap();
    let mapped = Mapping::of(&File::open(mount.path("pinned.raw")).unwrap(), content.len());
    // Longer than it takes to give a file back that nothing uses.
    let is_whole = || {
        sh!("cat {mount}/in-need.raw > /dev/null");
        sh!("echo 3 > /proc/sys/vm/drop_caches || true");
        mapped.bytes() == content
    };
    assert!(!within(Duration::from_secs(14), || !is_whole()));
    // Which blocks go is a matter of age and chance; that these cannot is not.
    assert!(data.try_lock().is_err(), "a mapping alone keeps the file");
    assert_eq!(mount.xattr("pinned.raw", "user.glancefs.cached_bytes"), content.len().to_string());
    drop(mapped);
    eventually("it is given back", || data.try_lock().is_ok());
    drop(data);
    let source = mount.beside().file("source", &content);
    sh!("cmp {mount}/pinned.raw {source}");
}

#[test]
fn a_file_that_was_touched_is_verified_again_before_it_is_read_past_the_daemon() {
    let cloud = Cloud::open();
    let content = pattern(77, 5 * MIB);
    cloud.image("touched.raw", &content);
    let mount = cloud.mount("");
    if !works(&mount) {
        leave_out!("no FUSE passthrough here");
    }
    let source = mount.beside().file("source", &content);
    fill(&mount, "touched.raw");
    let data = data_files(&mount).remove(0);
    // A byte is changed behind our back.
    let file = File::options().read(true).write(true).open(&data).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3_000_000).unwrap();
    file.write_all_at(&[!byte[0]], 3_000_000).unwrap();
    mount.remount();
    sh!("cmp {mount}/touched.raw {source}");
    assert_eq!(opens(&mount, "passthrough"), 0);
    eventually("it is whole, verified and used again", || {
        sh!("cmp {mount}/touched.raw {source}");
        opens(&mount, "passthrough") > 0
    });
}

#[test]
fn an_image_that_is_open_past_the_daemon_is_not_written_over() {
    let cloud = Cloud::open();
    let content = pattern(78, 2 * MIB);
    cloud.image("in-use.raw", &content);
    let mount = cloud.mount("--allow-overwrite");
    if !works(&mount) {
        leave_out!("no FUSE passthrough here");
    }
    let source = mount.beside().file("source", &content);
    let new = mount.beside().file("new", pattern(79, MIB));
    fill(&mount, "in-use.raw");
    let data = data_files(&mount).remove(0);
    let reader = File::open(mount.path("in-use.raw")).unwrap();
    assert_eq!(opens(&mount, "passthrough"), 1);
    for line in [
        format!("cp {new} {mount}/in-use.raw"),
        format!("echo x >> {mount}/in-use.raw"),
        format!("python3 -c 'import os; os.open(\"{mount}/in-use.raw\", os.O_RDWR)'"),
        format!("python3 -c 'import os; os.open(\"{mount}/in-use.raw\", os.O_RDONLY | os.O_TRUNC)'"),
    ] {
        assert!(fails!("{line}").contains("Device or resource busy"), "{line}");
    }
    sh!("cmp {mount}/in-use.raw {source} && cmp {} {source}", data.display());
    drop(reader);
    // At once: the RELEASE of the reader comes later than its close.
    sh!("cp {new} {mount}/in-use.raw && cmp {mount}/in-use.raw {new}");
    // Without the option the reason is another.
    let mount = cloud.mount("");
    fill(&mount, "in-use.raw");
    let _reader = File::open(mount.path("in-use.raw")).unwrap();
    assert!(fails!("echo x >> {mount}/in-use.raw").contains("Operation not permitted"));
}

#[test]
fn no_open_fails_while_others_open_and_close_and_the_image_becomes_complete() {
    let cloud = Cloud::open();
    let content = pattern(80, 12 * MIB + 77);
    cloud.image("hustle.raw", &content);
    let mount = cloud.mount("");
    let file = mount.path("hustle.raw");
    let done = AtomicBool::new(false);
    let deadline = std::time::Instant::now() + Duration::from_secs(8);
    std::thread::scope(|scope| {
        for reader in 0..6_usize {
            let (file, content, done) = (&file, &content, &done);
            scope.spawn(move || {
                let mut turn = reader;
                while !done.load(Ordering::Relaxed) {
                    turn += 1;
                    let open = File::open(file).unwrap_or_else(|error| panic!("reader {reader}: {error}"));
                    let at = (turn * 7_919_777) % (content.len() - 200_000);
                    let mut bytes = vec![0; 1 + turn % 200_000];
                    open.read_exact_at(&mut bytes, at as u64).unwrap();
                    assert!(bytes == content[at..at + bytes.len()], "reader {reader}");
                    drop(open);
                    if turn % 5 == reader % 5 {
                        // Now and then nothing is open, and the next one decides anew.
                        std::thread::sleep(Duration::from_millis(turn as u64 % 40));
                    }
                }
            });
        }
        let passthrough = works(&mount);
        // Both modes must have been seen when there are two.
        while std::time::Instant::now() < deadline && !(passthrough && opens(&mount, "passthrough") > 100) {
            std::thread::sleep(Duration::from_millis(100));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(opens(&mount, "cached") > 0);
}
