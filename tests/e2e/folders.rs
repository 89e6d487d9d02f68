//! The folders on disk: private, refused when somebody else's, and nothing foreign in them is touched.

use crate::harness::{Cloud, leave_out, sh};

#[test]
fn folders_are_made_private() {
    let cloud = Cloud::open();
    cloud.image("private.raw", b"private");
    let mount = cloud.mount("");
    sh!("cat {mount}/private.raw && cp /etc/hostname {mount}/private-upload.raw");
    let beside = mount.beside();
    assert_eq!(sh!("stat -c %a {beside}/cache {beside}/spool"), "700\n700");
    assert_eq!(sh!("find {beside}/cache {beside}/spool -type f -perm /077"), "", "files are for the owner");
    assert_eq!(sh!("find {beside}/cache {beside}/spool -type d -perm /077"), "");
}

#[test]
fn an_own_folder_with_a_wider_mode_is_tightened() {
    let cloud = Cloud::open();
    let mount = cloud.mount_later("");
    let beside = mount.beside();
    sh!("mkdir {beside}/cache {beside}/spool && chmod 777 {beside}/cache {beside}/spool");
    mount.up();
    assert_eq!(sh!("stat -c %a {beside}/cache {beside}/spool"), "700\n700");
}

#[test]
fn a_folder_of_another_user_is_refused() {
    if !crate::harness::is_root() {
        leave_out!("giving a folder away needs root");
    }
    let cloud = Cloud::open();
    for which in ["cache", "spool"] {
        let mount = cloud.mount_later("");
        let folder = mount.beside().path(which);
        sh!("mkdir {folder} && chmod 777 {folder} && chown 65534 {folder}");
        let said = mount.try_up().expect_failure();
        assert!(said.contains(&folder), "{said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        assert_eq!(sh!("stat -c '%a %u' {folder}; ls -A {folder}"), "777 65534");
        assert!(!mount.is_mounted() && mount.daemon().is_none());
    }
}

#[test]
fn foreign_files_in_the_folders_are_not_touched() {
    let cloud = Cloud::open();
    let content = crate::harness::pattern(90, 3_000_000);
    cloud.image("beside-foreign.raw", &content);
    let mount = cloud.mount_later("--cache-size 1M --spool-size 2M");
    let beside = mount.beside();
    sh!("for folder in cache spool; do
           mkdir -p {beside}/$folder/pictures {beside}/before && cd {beside}/$folder
           head -c 100000 /dev/urandom > pictures/beach.jpg; echo mine > notes.txt; chmod 644 notes.txt
           echo x > x.data; echo y > y.json; echo z > 01234567-89ab-cdef-0123-456789abcdef.bak
           cp -a {beside}/$folder {beside}/before/
         done");
    // A folder with other folders in it that others may read is not taken for a spool: refused.
    let first = mount.try_up();
    if !first.succeeded() {
        sh!("chmod 700 {beside}/cache {beside}/spool");
        mount.up();
    }
    sh!("cat {mount}/beside-foreign.raw > /dev/null
         head -c 1000000 /dev/urandom > {mount}/foreign-upload.raw");
    mount.down();
    // `*deleting` is what the mount added; anything else would be a file of ours that it changed.
    let changed =
        sh!("rsync -anic --delete --omit-dir-times {beside}/before/ {beside}/ | grep -v '^[*.]' || true");
    assert_eq!(changed, "", "foreign files are as they were");
}

#[test]
fn a_cache_folder_that_cannot_be_used_is_told() {
    let cloud = Cloud::open();
    let mount = cloud.mount_later("");
    let file = mount.beside().file("cache", "a file, not a folder");
    let said = mount.try_up().expect_failure();
    assert!(said.contains(&file), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a file, not a folder");
}
