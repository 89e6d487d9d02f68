//! What an image goes through as a file: reserved, filled, renamed, replaced, protected, deactivated, removed.

use serde_json::json;

use crate::harness::{Cloud, epoch, eventually, fails, is_root, leave_out, pattern, run, sh};

#[test]
fn protected_is_the_immutable_flag() {
    let cloud = Cloud::open();
    let id = cloud.image("immutable.raw", b"data");
    let mount = cloud.mount("--allow-delete");
    let file = mount.path("immutable.raw");
    let flags = || sh!("lsattr {file} | cut -d' ' -f1").contains('i');
    assert!(!flags());
    cloud.set(&id, "protected", json!(true));
    mount.remount();
    assert!(flags());
    assert!(fails!("rm -f {file}").contains("Operation not permitted"));
    // What somebody else allowed since is known at once.
    cloud.set(&id, "protected", json!(false));
    sh!("rm -f {file}");
    assert!(cloud.named("immutable.raw").is_empty());
}

#[test]
fn chattr_protects() {
    if !is_root() || !run("cd /tmp && f=$(mktemp) && chattr +i $f && chattr -i $f && rm $f").succeeded() {
        leave_out!("chattr +i needs CAP_LINUX_IMMUTABLE and a /tmp that has it");
    }
    let cloud = Cloud::open();
    let id = cloud.image("chattr.raw", b"data");
    let mount = cloud.mount("--allow-delete");
    let file = mount.path("chattr.raw");
    sh!("chattr +i {file}");
    assert_eq!(cloud.record(&id)["protected"], true);
    assert!(sh!("lsattr {file}").starts_with("----i"));
    assert!(fails!("rm -f {file}").contains("Operation not permitted"));
    assert!(fails!("chattr +a {file}").contains("not supported"));
    sh!("chattr -i {file} && rm -f {file}");
    assert!(cloud.named("chattr.raw").is_empty());
}
