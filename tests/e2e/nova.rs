//! `.nova-base` in the place of Nova's image cache: nova-compute finds its images there, and removes none.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Cloud, Mount, background, eventually, is_root, leave_out, long, pattern, run, sh, within,
};

const MIB: usize = 1024 * 1024;

/// A script that does what nova-compute does, as it is called.
fn calls() -> String {
    concat!("python3 ", env!("CARGO_MANIFEST_DIR"), "/tests/e2e/nova_calls.py").to_owned()
}

/// Nova itself, called in the same way; it is installed first.
fn nova(cloud: &Cloud) -> Result<String, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/nova_itself.py");
    let install = "set -e
        home=${GLANCEFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/glancefs}/nova-34.0.0
        if ! [ -e $home/ready ]; then
            rm -rf $home && python3 -m venv $home
            $home/bin/python -m pip install -q --disable-pip-version-check nova==34.0.0 >&2 && touch $home/ready
        fi
        echo $home/bin/python";
    // Some 150 packages.
    let installed = background(install).finish_within(Duration::from_secs(1200));
    if !installed.succeeded() {
        return Err(format!("Nova cannot be installed: {}", installed.stderr));
    }
    Ok(format!("GLANCE={} {} {script}", cloud.url, installed.stdout.trim()))
}

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
    starts_and_cleans(Cloud::open(), &calls(), ("nova-base.raw", 900));
}

#[test]
fn what_nova_has_to_make_needs_an_overlayfs() {
    if !is_root() {
        leave_out!("an overlayfs takes root");
    }
    makes_what_it_needs(Cloud::open(), &calls(), ("nova-overlaid", 901));
}

#[test]
fn the_code_of_nova_itself_starts_guests_and_cleans() {
    if !long() || !is_root() {
        leave_out!("it takes root, and minutes to install Nova: GLANCEFS_TEST_LONG=1");
    }
    let cloud = Cloud::open();
    match nova(cloud) {
        Ok(nova) => {
            starts_and_cleans(cloud, &nova, ("nova-itself.raw", 902));
            makes_what_it_needs(cloud, &nova, ("nova-itself-overlaid", 903));
        }
        Err(why) => leave_out!("{why}"),
    }
}

/// Guests are started, and the image is cleaned away, by `nova`. The content is of this image alone: what is cached of another is
/// listed, too.
fn starts_and_cleans(cloud: &Cloud, nova: &str, (name, seed): (&str, u64)) {
    let content = pattern(seed, 64 * MIB);
    let id = cloud.image(name, &content);
    let mount = cloud.mount("");
    let (source, instances, base) = (mount.beside().file("source", &content), instances(&mount), base(&id));
    assert!(mount.names().iter().all(|name| !name.starts_with(".nova")), "{:?}", mount.names());
    assert_eq!(sh!("ls {mount}/.nova-base"), "", "nothing is here of it");
    // A disk over it, larger than it, and one that is a copy.
    let said = bound(&mount, &format!("{nova} spawn {instances} {id} {} qcow2 one", 96 * MIB));
    assert_eq!(said, "", "nothing is downloaded by Nova");
    let cached = cached_bytes(&mount, &id);
    assert!(cached < content.len() as u64 / 2, "{cached} bytes were fetched to make a disk");
    let disk = sh!("qemu-img info -U {instances}/one/disk");
    assert!(disk.contains("virtual size: 96 MiB") && disk.contains("backing file format: raw"), "{disk}");
    bound(
        &mount,
        &format!(
            "{nova} spawn {instances} {id} {} raw two && qemu-img compare -F raw {instances}/one/disk {source}
             cmp -n {} {instances}/two/disk {source} && test -w {instances}/two/disk",
            96 * MIB,
            content.len()
        ),
    );
    assert_eq!(sh!("ls {mount}/.nova-base"), base);
    // A day later.
    let used = bound(
        &mount,
        &format!("touch -d 2001-01-01 {instances}/_base/{base}; {nova} age {instances} 86400 {id}"),
    );
    assert_eq!(used, format!("in use {base}"));
    let young = bound(&mount, &format!("{nova} age {instances} 86400"));
    assert_eq!(young, format!("too young {base}"));
    let removed =
        bound(&mount, &format!("touch -d 2001-01-01 {instances}/_base/{base}; {nova} age {instances} 86400"));
    assert_eq!(removed, format!("removed {base}"));
    eventually("it is evicted", || cached_bytes(&mount, &id) == 0);
    assert_eq!(sh!("ls {mount}/.nova-base"), "");
    assert_eq!(cloud.record(&id)["status"], "active");
    let again = bound(&mount, &format!("{nova} spawn {instances} {id} {} qcow2 three", 96 * MIB));
    assert_eq!(again, "");
}

/// What is not shown and what Nova writes by itself.
fn makes_what_it_needs(cloud: &Cloud, nova: &str, (name, seed): (&str, u64)) {
    let content = pattern(seed, 3 * MIB);
    let id = cloud.image(&format!("{name}.raw"), &content);
    let mount = cloud.mount("");
    let (instances, base) = (instances(&mount), base(&id));
    let container = mount.beside().path("container");
    sh!("qemu-img create -q -f qcow2 {container} 8M");
    let container = json!({"name": format!("{name}.qcow2"), "disk_format": "qcow2"});
    let qcow2 = cloud.image_of(container, &std::fs::read(mount.beside().path("container")).unwrap());
    let spawn = |id: &str, name: &str| format!("{nova} spawn {instances} {id} {} qcow2 {name}", 16 * MIB);
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
    let spawn = |id: &str, name: &str| format!("{nova} spawn {instances} {id} {} qcow2 {name}", 16 * MIB);
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
             {nova} age {instances} 86400 {id}; cmp {instances}/_base/{base} {source}
             # Another user, although the mount is for its own alone.
             mount --bind {instances}/_base /mnt; setpriv --reuid 65534 --clear-groups cmp -n 4096 /mnt/{base} - < {source}"
        ),
    );
    // With the setting that goes with force_raw_images = False it is there.
    let with_qcow2 = cloud.mount("--nova-base qcow2");
    let there = format!("{with_qcow2}/.nova-base/{}", self::base(&qcow2));
    assert!(sh!("qemu-img info {there}").contains("file format: qcow2"));
    let off = cloud.mount("--nova-base off");
    assert!(!within(Duration::ZERO, || std::path::Path::new(&off.path(".nova-base")).exists()));
}
