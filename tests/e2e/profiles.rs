//! What the first start from an image read is there ahead of the second, on this host and on others.

use crate::harness::{Cloud, Mount, eventually, fails, json as parse, pattern, sh};

const PROGRAM: &str = env!("CARGO_BIN_EXE_glancefs");
const MIB: usize = 1024 * 1024;

/// Reads like a guest that starts: here and there, an eighth of an image of 64 MiB.
fn start_from(file: &str) {
    sh!(
        "exec 3<{file}; for at in $(seq 0 7); do dd if=/dev/fd/3 bs=1M skip=$((at * 37 % 64)) count=1 status=none; done | md5sum"
    );
}

fn cached(mount: &Mount, name: &str) -> usize {
    mount.xattr(name, "user.glancefs.cached_bytes").parse().unwrap()
}

#[test]
fn the_second_start_finds_what_the_first_read() {
    let cloud = Cloud::open();
    let content = pattern(81, 64 * MIB);
    cloud.image("starts.raw", &content);
    let first = cloud.mount("");
    let file = first.path("starts.raw");
    assert!(fails!("{PROGRAM} profile export {file}").contains("no boot profile"));
    start_from(&file);
    let profile = first.beside().path("profile");
    eventually("the profile is kept", || {
        sh!("{PROGRAM} profile export {file} -o {profile} || true; cat {profile} || true").contains("runs")
    });
    let text = parse(&std::fs::read_to_string(&profile).unwrap());
    assert_eq!(text["size"], 64 * MIB);

    // Another host: another cache, which gets the profile only.
    let second = cloud.mount("");
    let there = second.path("starts.raw");
    sh!("cat {profile} | {PROGRAM} profile import {there}");
    // It is opened; what a start reads comes by itself, and little else.
    let open = std::fs::File::open(&there).unwrap();
    eventually("what the first start read", || cached(&second, "starts.raw") >= 8 * MIB);
    drop(open);
    assert!(cached(&second, "starts.raw") < 16 * MIB, "{}", cached(&second, "starts.raw"));
    let source = second.beside().file("source", &content);
    sh!("cmp {there} {source}");
}

#[test]
fn what_is_no_profile_of_the_image_is_refused() {
    let cloud = Cloud::open();
    cloud.image("refuses.raw", &pattern(82, MIB));
    let mount = cloud.mount("");
    let file = mount.path("refuses.raw");
    assert!(
        fails!("echo nonsense | {PROGRAM} profile import {file}").contains("no boot profile of the data")
    );
    assert!(fails!("{PROGRAM} profile import {file} /does/not/exist").contains("/does/not/exist"));
    assert!(fails!("echo x | {PROGRAM} profile import /etc/hostname").contains("glancefs"));
    assert!(mount.log().contains("a boot profile was refused"));
}

#[test]
fn a_copy_of_the_whole_leaves_no_profile() {
    let cloud = Cloud::open();
    cloud.image("copied.raw", &pattern(83, 8 * MIB));
    let mount = cloud.mount("");
    let file = mount.path("copied.raw");
    sh!("cat {file} >/dev/null");
    mount.remount();
    assert!(fails!("{PROGRAM} profile export {file}").contains("no boot profile"));
}

#[test]
fn a_published_profile_serves_mounts_that_have_none() {
    let cloud = Cloud::open();
    let id = cloud.image("published.raw", &pattern(84, 64 * MIB));
    let first = cloud.mount("");
    let file = first.path("published.raw");
    assert!(fails!("{PROGRAM} profile publish {file}").contains("no boot profile"));
    start_from(&file);
    eventually("the profile is published", || {
        crate::harness::run(&format!("{PROGRAM} profile publish {file}")).succeeded()
    });
    let property = cloud.record(&id)["glancefs_profile"].as_str().unwrap().to_owned();
    assert!(property.len() < 200, "{property}");

    let second = cloud.mount("");
    let open = std::fs::File::open(second.path("published.raw")).unwrap();
    eventually("what the first start read", || cached(&second, "published.raw") >= 8 * MIB);
    drop(open);
    assert!(cached(&second, "published.raw") < 16 * MIB, "{}", cached(&second, "published.raw"));
    // One that was taken back, or that nobody can use, is none.
    sh!("setfattr -n user.glance.property.glancefs_profile -v 1:00000000:ff {file}");
    let third = cloud.mount("");
    sh!("head -c 1M {}/published.raw > /dev/null", third);
    assert!(cached(&third, "published.raw") < 8 * MIB);
    // An overwrite brings other data, which it does not fit.
    let writer = cloud.mount("--allow-overwrite");
    sh!(
        "head -c 1M /dev/urandom > {}/new; cp {}/new {writer}/published.raw",
        writer.beside(),
        writer.beside()
    );
    assert_eq!(cloud.only("published.raw").get("glancefs_profile"), None);
}
