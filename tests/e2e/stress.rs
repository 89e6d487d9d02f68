//! stress-ng's stressors of the class `filesystem`. All but one make a directory to work in, which is refused; what is
//! to be shown is that they are refused, that they leave nothing, and that the mount is as it was.

use crate::harness::{Cloud, leave_out, pattern, run, sh};

/// Those that touch `--temp-path` make a directory there first.
#[test]
fn stress_ng_leaves_the_mount_as_it_was() {
    if !run("stress-ng --version").succeeded() {
        leave_out!("stress-ng is not installed");
    }
    let cloud = Cloud::new("none", "");
    let content = pattern(700, 3 * 1024 * 1024);
    cloud.image("stressed.raw", &content);
    let mount = cloud.mount("--allow-delete --metadata-ttl 1s");
    let daemon = mount.daemon();
    // The one that works on files that are there: stat(2) of each, by several threads.
    sh!("stress-ng --fstat 4 --fstat-dir {mount} --fstat-ops 20000 --timeout 10s --temp-path /tmp");
    // Not those that work on the machine and not on the path; and `sequential` without `--timeout` runs each for a minute.
    let line = "--class filesystem --sequential 1 --timeout 1s --exclude procfs,binderfs,bind-mount,io,ioprio,eventfd,dup";
    let outcome = run(&format!("stress-ng {line} --temp-path {mount}"));
    let said = format!("{outcome}");
    assert!(said.contains("mkdir") && said.contains("Operation not permitted"), "{said}");
    assert!(mount.is_mounted() && mount.daemon() == daemon, "{said}\n{}", mount.log());
    assert_eq!(mount.names(), ["stressed.raw"]);
    assert_eq!(cloud.requests("POST").len(), 1, "only the test made an image: {said}");
    assert!(mount.read("stressed.raw") == content);
}
