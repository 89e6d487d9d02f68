//! Mounting, unmounting, the background process, and what a dead one leaves.

use crate::harness::{
    Cloud, Mount, background, eventually, fails, free_port, is_glancefs, is_root, leave_out, pattern, run,
    sh, within,
};
use rustix::process::Signal;
use std::io::Read;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_glancefs");

#[test]
fn mount_returns_when_the_images_can_be_listed() {
    let cloud = Cloud::open();
    cloud.image("at-once.raw", b"at once");
    let mount = cloud.mount_later("");
    assert!(mount.try_up().succeeded());
    // No waiting: the next command of a script.
    assert_eq!(mount.read("at-once.raw"), b"at once");
    assert!(mount.names().contains(&"at-once.raw".to_owned()));
    let line = sh!("grep ' {mount} ' /proc/self/mounts");
    assert!(line.contains(" fuse.glancefs ") && line.contains("nosuid,nodev"), "{line}");
    mount.down();
    assert!(!mount.is_mounted());
    assert_eq!(sh!("ls -A {mount}"), "");
}

#[test]
fn the_background_process_holds_nothing_of_its_caller() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let daemon = mount.daemon().expect("a daemon");
    for descriptor in 0..3 {
        assert_eq!(sh!("readlink /proc/{daemon}/fd/{descriptor}"), "/dev/null");
    }
    assert_eq!(sh!("readlink /proc/{daemon}/cwd"), "/");
    // A session of its own, without a terminal: field 6 is the session, field 7 the terminal.
    assert_eq!(sh!("sed 's/.*) //' /proc/{daemon}/stat | cut -d' ' -f4,5"), format!("{daemon} 0"));
    // A caller that reads the output to its end is not kept waiting, and neither is one that holds a lock.
    let other = cloud.mount_later("");
    let lock = other.beside().path("lock");
    let outcome = other.try_up_with(&format!("--uid 0 2>&1 9>{lock} | cat; true"));
    assert!(outcome.took < Duration::from_secs(30), "{outcome}");
}

#[test]
fn the_log_goes_to_its_file_which_is_private() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    assert!(!mount.log().is_empty());
    assert_eq!(sh!("stat -c %a {}/log", mount.beside()), "600");
}

#[test]
fn signals_unmount() {
    let cloud = Cloud::open();
    let mount = cloud.mount_later("");
    for signal in ["TERM", "INT"] {
        mount.up();
        let daemon = mount.daemon().expect("a daemon");
        sh!("kill -{signal} {daemon}");
        eventually("the daemon has ended", || mount.daemon().is_none());
        assert!(!mount.is_mounted(), "SIG{signal}");
        assert_eq!(sh!("ls -A {mount}"), "");
    }
}

#[test]
fn an_upload_under_way_is_finished_after_a_signal() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let writer =
        background(&format!("exec 3> {mount}/under-way.raw; echo one >&3; sleep 2; echo two >&3; exec 3>&-"));
    eventually("it is being written", || mount.names().contains(&"under-way.raw".to_owned()));
    sh!("kill -TERM {}", mount.daemon().expect("a daemon"));
    eventually("it is unmounted", || !mount.is_mounted());
    writer.finish().expect_success();
    assert_eq!(cloud.only("under-way.raw")["size"], 8);
    eventually("the daemon has ended", || mount.daemon().is_none());
}

#[test]
fn in_the_foreground_it_logs_to_standard_error_and_ends_with_a_signal() {
    let cloud = Cloud::open();
    cloud.image("foreground.raw", b"foreground");
    let mount = cloud.mount_later("");
    let beside = mount.beside();
    let variables = format!("OS_AUTH_TYPE=none OS_ENDPOINT={}", cloud.url);
    let mut process = background(&format!(
        "exec env {variables} {PROGRAM} mount --foreground --cache-dir {beside}/cache --spool-dir {beside}/spool {mount}"
    ));
    eventually("it is mounted", || mount.is_mounted());
    eventually("it lists", || mount.names().contains(&"foreground.raw".to_owned()));
    assert!(process.is_running());
    process.signal(Signal::INT);
    let outcome = process.finish();
    assert!(outcome.succeeded(), "{outcome}");
    assert!(!outcome.stderr.is_empty(), "its log");
    assert!(!mount.is_mounted());
}

#[test]
fn umount_returns_when_all_is_released() {
    let cloud = Cloud::open();
    cloud.image("released.raw", b"released");
    let mount = cloud.mount("");
    for _ in 0..5 {
        sh!("cat {mount}/released.raw");
        let daemon = mount.daemon().expect("a daemon");
        mount.down();
        assert!(!std::path::Path::new(&format!("/proc/{daemon}/fd/0")).exists(), "the daemon has ended");
        mount.up();
    }
}

#[test]
fn a_busy_mount_says_so_and_can_be_detached() {
    let cloud = Cloud::open();
    cloud.image("busy.raw", b"busy");
    let mount = cloud.mount("");
    let user = background(&format!("exec 3< {mount}/busy.raw; sleep 600"));
    eventually("the file is open", || {
        sh!("find /proc/[0-9]*/fd -lname {mount}/busy.raw 2>/dev/null || true") != ""
    });
    let said = fails!("{PROGRAM} umount {mount}");
    assert!(said.contains("glancefs: ") && said.contains(&mount.to_string()), "{said}");
    assert!(mount.is_mounted());
    sh!("{PROGRAM} umount --lazy {mount}");
    assert!(!mount.is_mounted());
    user.signal(Signal::KILL);
    drop(user);
    eventually("the daemon ends with its last file", || mount.daemon().is_none());
}

#[test]
fn a_new_mount_takes_the_place_of_one_that_was_detached_with_open_files() {
    let cloud = Cloud::open();
    let content = pattern(660, 3_000_000);
    cloud.image("below.raw", &content);
    let mount = cloud.mount(&format!("--metrics-listen {}", free_port()));
    let former = mount.daemon().expect("a daemon");
    let mut guest = std::fs::File::open(mount.path("below.raw")).unwrap();
    let mut read = vec![0; 100_000];
    guest.read_exact(&mut read).unwrap();
    sh!("umount -l {mount} || fusermount3 -uz {mount}");
    // No matter that it is the same place, the same port, and only just detached.
    mount.up();
    // Whoever ends the former one means that, which goes on for the guest.
    sh!("kill -TERM {former}");
    eventually("it says so", || mount.log().contains("a second signal ends at once"));
    assert_eq!(mount.read("below.raw"), content, "of the new one");
    guest.read_to_end(&mut read).unwrap();
    assert!(read == content, "of the former one");
    drop(guest);
    eventually("the former daemon has ended", || !std::path::Path::new(&format!("/proc/{former}")).exists());
    assert_eq!(sh!("grep -c ' {mount} ' /proc/self/mounts"), "1");
    assert_eq!(mount.read("below.raw"), content);
    mount.down();
}

#[test]
fn a_detached_daemon_that_is_told_to_end_leaves_alone_what_is_mounted_there_by_now() {
    if !is_root() {
        leave_out!("a second mount needs root");
    }
    let cloud = Cloud::open();
    cloud.image("detached.raw", b"detached");
    let mount = cloud.mount("");
    let daemon = mount.daemon().expect("a daemon");
    let file = std::fs::File::open(mount.path("detached.raw")).unwrap();
    sh!("{PROGRAM} umount --lazy {mount}");
    // As an automount has its trigger there.
    sh!("mount -t tmpfs none {mount}");
    sh!("kill -TERM {daemon}");
    eventually("it was told", || mount.log().contains("is detached already"));
    assert_eq!(std::io::read_to_string(&file).unwrap(), "detached");
    drop(file);
    eventually("it ends with its last file", || !is_glancefs(daemon));
    let left = sh!("grep ' {mount} ' /proc/self/mounts || true");
    assert!(left.starts_with("none ") && left.lines().count() == 1, "{left}");
    sh!("umount {mount}");
}

#[test]
fn a_dead_mount_is_repaired_by_the_next() {
    let cloud = Cloud::open();
    cloud.image("repaired.raw", b"repaired");
    let mount = cloud.mount("");
    let kill = || {
        sh!("kill -KILL {}", mount.daemon().expect("a daemon"));
        eventually("the daemon is dead", || mount.daemon().is_none());
        // Until the kernel has put everything away, it says so in other words.
        eventually("the mount is dead", || {
            run(&format!("ls {mount}")).stderr.contains("Transport endpoint is not connected")
        });
    };
    kill();
    mount.up();
    assert_eq!(mount.read("repaired.raw"), b"repaired");
    assert_eq!(sh!("grep -c ' {mount} ' /proc/self/mounts"), "1", "no mount is left below");
    // Also by umount.
    kill();
    mount.down();
    assert!(!mount.is_mounted());
    mount.up();
    assert_eq!(mount.read("repaired.raw"), b"repaired");
}

#[test]
fn an_upload_that_the_daemon_did_not_survive_is_told_at_the_next_mount() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let writer = background(&format!("exec 3> {mount}/orphan.raw; echo 'the first half' >&3; sleep 600"));
    eventually("something is written", || {
        run(&format!("grep -rq 'the first half' {}/spool", mount.beside())).succeeded()
    });
    sh!("kill -KILL {}", mount.daemon().expect("a daemon"));
    drop(writer);
    mount.up();
    assert!(mount.errors().contains("orphan.raw"), "{}", mount.errors());
    assert!(cloud.named("orphan.raw").iter().all(|image| image["status"] == "queued"));
    sh!("grep -rq 'the first half' {}/spool", mount.beside());
}

#[test]
fn wrong_mount_points_are_told() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let said = mount.try_up().expect_failure();
    assert!(said.contains("already mounted") && said.contains("glancefs umount"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert!(mount.is_mounted(), "the first one goes on");
    sh!("ls {mount}");

    let beside = mount.beside();
    let variables = format!("OS_AUTH_TYPE=none OS_ENDPOINT={}", cloud.url);
    let try_at = |at: &str| {
        let said = fails!(
            "{variables} {PROGRAM} mount --cache-dir {beside}/cache --spool-dir {beside}/spool2 --log-file {beside}/log {at}"
        );
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        said
    };
    let missing = beside.path("missing");
    assert!(try_at(&missing).contains(&missing));
    let file = beside.file("file", "a file");
    assert!(try_at(&file).contains(&file));
    assert_eq!(sh!("cat {file}"), "a file");
}

#[test]
fn umount_leaves_alone_what_is_not_ours() {
    for at in ["/", "/tmp", "/proc", "/no/such/folder"] {
        let said = fails!("{PROGRAM} umount {at}");
        assert!(said.starts_with("glancefs: ") && said.trim().lines().count() == 1, "{said}");
    }
    sh!("[ -e /proc/self ] && mountpoint -q /proc");
}

#[test]
fn it_can_be_started_from_a_folder_that_goes_away() {
    let cloud = Cloud::open();
    cloud.image("elsewhere.raw", b"elsewhere");
    let mount = cloud.mount_later("");
    let beside = mount.beside();
    // Relative paths, and a mount point through a symbolic link.
    sh!(
        "mkdir {beside}/here && ln -s ../mnt {beside}/here/link && cd {beside}/here
         OS_AUTH_TYPE=none OS_ENDPOINT={} {PROGRAM} mount --cache-dir ../cache --spool-dir ../spool --log-file ../log link
         cat link/elsewhere.raw > /dev/null
         rm link && cd / && rmdir {beside}/here",
        cloud.url
    );
    assert_eq!(mount.read("elsewhere.raw"), b"elsewhere");
    mount.down();
}

#[test]
fn help_and_version_are_told() {
    assert!(sh!("{PROGRAM} --version").starts_with("glancefs "));
    assert!(sh!("{PROGRAM} mount --help").contains("--cache-size"));
    assert!(fails!("{PROGRAM} mount --no-such-option /mnt").contains("--no-such-option"));
    assert!(fails!("{PROGRAM} mount --cache-size 10XB /mnt").contains("10XB"));
}

#[test]
fn an_idle_mount_uses_no_processor() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--metadata-ttl 1h");
    sh!("ls -l {mount}");
    let daemon = mount.daemon().expect("a daemon");
    let ticks = || {
        let fields = sh!("sed 's/.*) //' /proc/{daemon}/stat | cut -d' ' -f12,13");
        fields.split(' ').map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>()
    };
    assert!(within(Duration::from_secs(10), || {
        let before = ticks();
        std::thread::sleep(Duration::from_secs(2));
        ticks() - before <= 4
    }));
    assert!(Mount::new(Vec::new(), "").daemon().is_none());
}
