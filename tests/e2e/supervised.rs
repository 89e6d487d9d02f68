//! The program under a supervisor: a service manager that waits for its word, and one that mounts /dev/fuse by itself.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{
    Background, Cloud, Folder, PROGRAM, background, eventually, is_root, leave_out, pattern, sh,
};

#[test]
fn a_service_manager_is_told_when_it_is_ready_and_when_it_ends() {
    let cloud = Cloud::open();
    cloud.image("supervised.raw", b"supervised");
    let mount = cloud.mount_later("");
    let beside = mount.beside();
    let path = beside.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let word = || {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).expect("a word");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let start = |endpoint: &str, options: &str| {
        background(&format!(
            "exec env NOTIFY_SOCKET={path} OS_AUTH_TYPE=none OS_ENDPOINT={endpoint} {PROGRAM} mount --foreground \
             {options} --cache-dir {beside}/cache {mount}"
        ))
    };
    let service = start(&cloud.url, "");
    let said = word();
    assert!(said.starts_with("READY=1\n") && said.contains(&format!("STATUS=mounted at {mount}")), "{said}");
    // It is ready when it says so.
    assert_eq!(mount.read("supervised.raw"), b"supervised");
    service.signal(Signal::TERM);
    assert!(word().starts_with("STOPPING=1\n"));
    assert!(service.finish().succeeded());
    // A failure is told as what `systemctl status` shows.
    let failing = start("http://127.0.0.1:1", "--timeout 1s");
    let said = word();
    assert!(said.starts_with("STATUS=") && said.contains("is Glance running there?"), "{said}");
    assert!(!failing.finish().succeeded());
}

/// A supervisor: it opens /dev/fuse, mounts it, and hands the descriptor to what it starts.
struct Supervisor {
    device: File,
    at: String,
    folder: Folder,
}

impl Supervisor {
    fn new() -> Self {
        let folder = Folder::new("supervisor");
        let at = folder.path("mnt");
        std::fs::create_dir(&at).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        Self { device, at, folder }
    }

    fn mount(&self) {
        let data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,subtype=glancefs", self.device.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        rustix::mount::mount("supervised", &self.at, "fuse", rustix::mount::MountFlags::NODEV, Some(&*data))
            .unwrap();
    }

    /// Starts `glancefs mount` with the descriptor as number 9.
    fn start(&self, cloud: &Cloud, options: &str) -> Background {
        // The shell opens what this process has open: no other child of the tests inherits it.
        let line = format!(
            "exec env OS_AUTH_TYPE=none OS_ENDPOINT={} {PROGRAM} mount {options} --cache-dir {folder}/cache /dev/fd/9",
            cloud.url,
            folder = self.folder
        );
        crate::harness::background_handed(&line, &self.device, 9)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.at.as_str(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_device_that_a_supervisor_has_mounted_is_served() {
    if !is_root() {
        leave_out!("mounting /dev/fuse by oneself needs root");
    }
    let cloud = Cloud::open();
    let content = pattern(620, 2_000_000);
    cloud.image("handed-on.raw", &content);
    let supervisor = Supervisor::new();
    let at = &supervisor.at;
    // Before the mount there is nothing to be served.
    let said = supervisor.start(cloud, "--foreground").finish().expect_failure();
    assert!(said.contains("has to mount it first"), "{said}");
    supervisor.mount();
    // In the foreground, until it is told to end; the mount stays that of the supervisor.
    let daemon = supervisor.start(cloud, "--foreground");
    assert!(std::fs::read(format!("{at}/handed-on.raw")).unwrap() == content);
    sh!("echo new > {at}/by-handed-on.raw");
    assert_eq!(cloud.only("by-handed-on.raw")["size"], 4);
    daemon.signal(Signal::TERM);
    assert!(daemon.finish().succeeded());
    // Looked up in the table: as long as the supervisor has the device, a request waits for another server.
    assert!(std::fs::read_to_string("/proc/mounts").unwrap().contains(&format!(" {at} fuse.glancefs ")));

    // In the background: the command ends when it is served, and the daemon with the mount.
    let supervisor = Supervisor::new();
    let at = &supervisor.at;
    supervisor.mount();
    supervisor.start(cloud, &format!("--log-file {}/log", supervisor.folder)).finish().expect_success();
    assert!(std::fs::read(format!("{at}/handed-on.raw")).unwrap() == content);
    sh!("umount {at}");
    eventually("the daemon ends", || sh!("cat {}/log", supervisor.folder).contains("unmounted /dev/fd/9"));
}
