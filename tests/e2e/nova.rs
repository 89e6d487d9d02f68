//! `.nova-base` in the place of Nova's image cache: nova-compute finds its images there, and removes none.

use serde_json::json;

use crate::harness::{Cloud, Mount, eventually, is_root, leave_out, pattern, run, sh, within};

const MIB: usize = 1024 * 1024;
const CALLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/nova_calls.py");

/// The folder of the instances beside a mount.
fn instances(mount: &Mount) -> String {
    let instances = mount.beside().path("instances");
    sh!("mkdir -p {instances}/_base");
    instances
}

fn base(id: &str) -> String {
    sh!("printf %s {id} | sha1sum | cut -c1-40")
}

/// Runs a script with the view where Nova has its cache; both are gone after it.
#[track_caller]
fn bound(mount: &Mount, script: &str) -> String {
    let instances = instances(mount);
    sh!("unshare -m sh -ec 'mount --bind {mount}/.nova-base {instances}/_base\n{script}'")
}

/// The same with an overlayfs between them, which keeps what Nova writes.
#[track_caller]
fn overlaid(mount: &Mount, script: &str) -> String {
    let (instances, upper) = (instances(mount), mount.beside().path("upper"));
    sh!("mkdir -p {upper}/files {upper}/work");
    let layers = format!("lowerdir={mount}/.nova-base,upperdir={upper}/files,workdir={upper}/work");
    sh!("unshare -m sh -ec 'mount -t overlay -o {layers},metacopy=on overlay {instances}/_base\n{script}'")
}

fn cached_bytes(mount: &Mount, id: &str) -> u64 {
    mount.xattr(&format!(".by-id/{id}"), "user.glancefs.cached_bytes").parse().unwrap()
}

#[test]
fn nova_starts_guests_from_its_view_and_its_cleaning_evicts_only() {
    if !is_root() {
        leave_out!("a bind mount takes root");
    }
    let cloud = Cloud::open();
    let content = pattern(900, 64 * MIB);
    let id = cloud.image("nova-base.raw", &content);
    let mount = cloud.mount("");
    let (source, instances, base) = (mount.beside().file("source", &content), instances(&mount), base(&id));
    assert!(mount.names().iter().all(|name| !name.starts_with(".nova")), "{:?}", mount.names());
    assert_eq!(sh!("ls {mount}/.nova-base"), "", "nothing is here of it");
    // A disk over it, larger than it, and one that is a copy.
    let said = bound(&mount, &format!("python3 {CALLS} spawn {instances} {id} {} qcow2 one", 96 * MIB));
    assert_eq!(said, "", "nothing is downloaded by Nova");
    let cached = cached_bytes(&mount, &id);
    assert!(cached < content.len() as u64 / 2, "{cached} bytes were fetched to make a disk");
    let disk = sh!("qemu-img info -U {instances}/one/disk");
    assert!(disk.contains("virtual size: 96 MiB") && disk.contains("backing file format: raw"), "{disk}");
    bound(
        &mount,
        &format!(
            "python3 {CALLS} spawn {instances} {id} {} raw two && qemu-img compare -F raw {instances}/one/disk {source}
             cmp -n {} {instances}/two/disk {source} && test -w {instances}/two/disk",
            96 * MIB,
            content.len()
        ),
    );
    assert_eq!(sh!("ls {mount}/.nova-base"), base);
    // A day later.
    let used = bound(
        &mount,
        &format!("touch -d 2001-01-01 {instances}/_base/{base}; python3 {CALLS} age {instances} 86400 {id}"),
    );
    assert_eq!(used, format!("in use {base}"));
    let young = bound(&mount, &format!("python3 {CALLS} age {instances} 86400"));
    assert_eq!(young, format!("too young {base}"));
    let removed = bound(
        &mount,
        &format!("touch -d 2001-01-01 {instances}/_base/{base}; python3 {CALLS} age {instances} 86400"),
    );
    assert_eq!(removed, format!("removed {base}"));
    eventually("it is evicted", || cached_bytes(&mount, &id) == 0);
    assert_eq!(sh!("ls {mount}/.nova-base"), "");
    assert_eq!(cloud.record(&id)["status"], "active");
    let again = bound(&mount, &format!("python3 {CALLS} spawn {instances} {id} {} qcow2 three", 96 * MIB));
    assert_eq!(again, "");
}

#[test]
fn what_nova_has_to_make_needs_an_overlayfs() {
    if !is_root() {
        leave_out!("an overlayfs takes root");
    }
    let cloud = Cloud::open();
    let content = pattern(901, 3 * MIB);
    let id = cloud.image("nova-overlaid.raw", &content);
    let mount = cloud.mount("");
    let (source, instances, base) = (mount.beside().file("source", &content), instances(&mount), base(&id));
    let container = mount.beside().path("container");
    sh!("qemu-img create -q -f qcow2 {container} 8M");
    let container = json!({"name": "nova-overlaid.qcow2", "disk_format": "qcow2"});
    let qcow2 = cloud.image_of(container, &std::fs::read(mount.beside().path("container")).unwrap());
    let spawn =
        |id: &str, name: &str| format!("python3 {CALLS} spawn {instances} {id} {} qcow2 {name}", 16 * MIB);
    // Nova converts it, so it is not shown, and Nova cannot write here. The log says what to do.
    let outcome = run(&format!(
        "unshare -m sh -ec 'mount --bind {mount}/.nova-base {instances}/_base; {}'",
        spawn(&qcow2, "one")
    ));
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome}");
    assert!(mount.errors().contains("overlayfs"), "{}", mount.errors());
    drop(mount);
    let mount = cloud.mount("--read-only");
    let (source, instances) = (mount.beside().file("source", &content), self::instances(&mount));
    let spawn =
        |id: &str, name: &str| format!("python3 {CALLS} spawn {instances} {id} {} qcow2 {name}", 16 * MIB);
    assert_eq!(overlaid(&mount, &spawn(&id, "two")), "");
    let upper = mount.beside().path("upper/files");
    assert!(
        sh!("du -k {upper}/{base} | cut -f1").parse::<u64>().unwrap() < 64,
        "its times were copied, and no data"
    );
    assert_eq!(overlaid(&mount, &spawn(&qcow2, "three")), "downloads");
    overlaid(
        &mount,
        &format!(
            "truncate -s 8M {instances}/_base/swap_8; qemu-img compare -F raw {instances}/two/disk {source}
             python3 {CALLS} age {instances} 86400 {id}; cmp {instances}/_base/{base} {source}
             # Another user, although the mount is for its own alone.
             mount --bind {instances}/_base /mnt; setpriv --reuid 65534 --clear-groups cmp -n 4096 /mnt/{base} - < {source}"
        ),
    );
    // With the setting that goes with force_raw_images = False it is there.
    let with_qcow2 = cloud.mount("--nova-base qcow2");
    let there = format!("{with_qcow2}/.nova-base/{}", self::base(&qcow2));
    assert!(sh!("qemu-img info {there}").contains("file format: qcow2"));
    let off = cloud.mount("--nova-base off");
    assert!(!within(std::time::Duration::ZERO, || std::path::Path::new(&off.path(".nova-base")).exists()));
}
