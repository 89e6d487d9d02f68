//! What an image's status and its protection allow, and which errors programs get.

use serde_json::{Value, json};

use crate::harness::{Cloud, Detour, background, eventually, fails, leave_out, pattern, sh};

#[test]
fn a_queued_image_has_no_data() {
    let cloud = Cloud::open();
    cloud.reserve(json!({"name": "queued.raw"}));
    let mount = cloud.mount("");
    assert_eq!(sh!("stat -c %s {mount}/queued.raw"), "0");
    assert!(fails!("cat {mount}/queued.raw").contains("No data available"));
}

#[test]
fn a_deactivated_image_is_denied_and_comes_back() {
    let cloud = Cloud::open();
    let id = cloud.image("deactivated.raw", b"secret");
    cloud.api("POST", &format!("/v2/images/{id}/actions/deactivate"), &Value::Null);
    let mount = cloud.mount("--metadata-ttl 1s");
    assert_eq!(sh!("stat -c %s {mount}/deactivated.raw"), "6");
    assert!(fails!("cat {mount}/deactivated.raw").contains("Permission denied"));
    assert_eq!(mount.xattr("deactivated.raw", "user.glance.status"), "deactivated");
    cloud.api("POST", &format!("/v2/images/{id}/actions/reactivate"), &Value::Null);
    eventually("it is readable again", || {
        std::fs::read(mount.path("deactivated.raw")).is_ok_and(|content| content == b"secret")
    });
}

#[test]
fn an_image_that_is_being_filled_is_busy() {
    let cloud = Cloud::open();
    let id = cloud.reserve(json!({"name": "saving.raw"}));
    let mount = cloud.mount("--metadata-ttl 1s");
    let content = pattern(10, 600_000);
    let source = mount.beside().file("source", &content);
    let upload = background(&format!(
        "curl -sSf --noproxy '*' --limit-rate 150k -H Expect: -H 'Content-Type: application/octet-stream' \
         -T {source} {}/v2/images/{id}/file",
        cloud.url
    ));
    eventually("the upload runs", || cloud.record(&id)["status"] == "saving");
    assert!(fails!("cat {mount}/saving.raw").contains("Device or resource busy"));
    assert!(fails!("cp {source} {mount}/saving.raw").contains("Device or resource busy"));
    upload.finish().expect_success();
    eventually("it can be read", || {
        std::fs::read(mount.path("saving.raw")).is_ok_and(|read| read == content)
    });
}

#[test]
fn data_are_immutable_without_the_option() {
    let cloud = Cloud::open();
    let id = cloud.image("immutable.raw", b"original");
    let mount = cloud.mount("");
    let file = mount.path("immutable.raw");
    for line in [
        format!("echo changed > {file}"),
        format!("echo changed >> {file}"),
        format!("cp /etc/hostname {file}"),
        format!("truncate -s 3 {file}"),
        format!("dd if=/dev/zero of={file} bs=1 count=1 conv=notrunc"),
        format!("cp /etc/hostname {mount}/mv-over && mv {mount}/mv-over {file}"),
    ] {
        assert!(fails!("{line}").contains("Operation not permitted"), "{line}");
    }
    assert_eq!(sh!("cat {file}"), "original");
    assert_eq!(cloud.only("immutable.raw")["id"], json!(id));
    for told in [mount.log(), mount.errors()] {
        assert!(told.contains("--allow-overwrite") && told.contains("immutable.raw"), "{told}");
    }
}

#[test]
fn removal_needs_the_option() {
    let cloud = Cloud::open();
    cloud.image("stays.raw", b"stays");
    let mount = cloud.mount("");
    assert!(fails!("rm -f {mount}/stays.raw").contains("Operation not permitted"));
    cloud.only("stays.raw");
    for told in [mount.log(), mount.errors()] {
        assert!(told.contains("--allow-delete") && told.contains("stays.raw"), "{told}");
    }
}

#[test]
fn removal_with_the_option_deletes_the_image_but_never_a_protected_one() {
    let cloud = Cloud::open();
    cloud.image("goes-away.raw", b"x");
    let by_id = cloud.image("goes-by-id.raw", b"x");
    let protected = cloud.image_of(json!({"name": "protected.raw", "protected": true}), b"x");
    let mount = cloud.mount("--allow-delete");
    sh!("rm {mount}/goes-away.raw {mount}/.by-id/{by_id}");
    assert!(cloud.named("goes-away.raw").is_empty() && cloud.named("goes-by-id.raw").is_empty());
    assert!(!mount.names().iter().any(|name| name.starts_with("goes-")));
    assert!(fails!("rm -f {mount}/protected.raw").contains("Operation not permitted"));
    cloud.only("protected.raw");
    cloud.set(&protected, "protected", json!(false));
}

#[test]
fn overwriting_with_the_option_replaces_the_image() {
    let cloud = Cloud::open();
    let old =
        cloud.image_of(json!({"name": "replaced.raw", "os_distro": "debian", "tags": ["kept"]}), b"old");
    let mount = cloud.mount("--allow-overwrite");
    // Opened and closed without a write: nothing happens.
    sh!(": > {mount}/replaced.raw");
    assert_eq!(cloud.only("replaced.raw")["id"], json!(old));
    assert_eq!(sh!("cat {mount}/replaced.raw"), "old");
    let new_file = mount.beside().file("new", pattern(11, 300_000));
    sh!("cp {new_file} {mount}/replaced.raw");
    let new = cloud.only("replaced.raw");
    assert_ne!(new["id"], json!(old), "data are immutable: it is another image");
    assert_eq!((&new["os_distro"], &new["tags"]), (&json!("debian"), &json!(["kept"])));
    sh!("cmp {new_file} {mount}/replaced.raw");
    assert_eq!(sh!("stat -c %s {mount}/replaced.raw"), "300000");
    assert_eq!(cloud.call("GET", &format!("/v2/images/{old}"), None).0, 404);
}

#[test]
fn a_rename_over_an_image_with_the_option_replaces_it() {
    let cloud = Cloud::open();
    let old = cloud.image("target.raw", b"old");
    let new = cloud.image("incoming.raw", b"new");
    let mount = cloud.mount("--allow-overwrite");
    assert!(sh!("mv -nv {mount}/incoming.raw {mount}/target.raw; ls {mount}").contains("incoming.raw"));
    sh!("mv {mount}/incoming.raw {mount}/target.raw");
    assert_eq!(sh!("cat {mount}/target.raw"), "new");
    assert_eq!(cloud.only("target.raw")["id"], json!(new));
    assert_eq!(cloud.call("GET", &format!("/v2/images/{old}"), None).0, 404);
    assert!(cloud.named("incoming.raw").is_empty());
}

#[test]
fn mv_renames_the_image() {
    let cloud = Cloud::open();
    let id = cloud.image("before.raw", b"the same");
    let mount = cloud.mount("");
    let number = sh!("stat -c %i {mount}/before.raw");
    sh!("mv {mount}/before.raw {mount}/after.raw");
    assert_eq!(cloud.only("after.raw")["id"], json!(id));
    assert_eq!(sh!("stat -c %i {mount}/after.raw"), number);
    assert_eq!(sh!("cat {mount}/after.raw"), "the same");
    assert!(!mount.names().contains(&"before.raw".to_owned()));
    assert!(fails!("mv {mount}/after.raw {mount}/.by-id/x").contains("Operation not permitted"));
}

#[test]
fn what_images_cannot_have_is_refused() {
    let cloud = Cloud::open();
    let id = cloud.image("plain.raw", b"plain");
    let mount = cloud.mount("--allow-overwrite --allow-delete");
    for line in [
        format!("mkdir {mount}/folder"),
        format!("ln -s plain.raw {mount}/link"),
        format!("ln {mount}/plain.raw {mount}/hard"),
        format!("mkfifo {mount}/fifo"),
        format!("rmdir {mount}/.by-id"),
        format!("touch {mount}/.by-id/{}", id.replace('-', "0")),
        format!("touch {mount}/.glancefs/new"),
        format!("rm -f {mount}/.glancefs/status"),
        format!("echo x >> {mount}/.glancefs/status"),
        format!("mv {mount}/.by-id {mount}/by-id"),
    ] {
        let said = fails!("{line}");
        assert!(
            ["Operation not permitted", "Permission denied", "Function not implemented"]
                .iter()
                .any(|word| said.contains(word)),
            "{line}: {said}"
        );
    }
    assert_eq!(sh!("cat {mount}/plain.raw"), "plain");
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let cloud = Cloud::open();
    let id = cloud.image("fixed.raw", b"fixed");
    cloud.reserve(json!({"name": "fixed-queued.raw"}));
    let mount = cloud.mount("--read-only");
    for line in [
        format!("touch {mount}/new.raw"),
        format!("cp /etc/hostname {mount}/new.raw"),
        format!("echo x > {mount}/fixed.raw"),
        format!("echo x > {mount}/fixed-queued.raw"),
        format!("rm -f {mount}/fixed.raw"),
        format!("rm -f {mount}/.by-id/{id}"),
        format!("mv {mount}/fixed.raw {mount}/other.raw"),
        format!("truncate -s 1 {mount}/fixed.raw"),
        format!("chmod 600 {mount}/fixed.raw"),
        format!("touch -d yesterday {mount}/fixed.raw"),
        format!("mkdir {mount}/folder"),
        format!("setfattr -n user.glance.property.x -v y {mount}/fixed.raw"),
    ] {
        assert!(fails!("{line}").contains("Read-only file system"), "{line}");
    }
    assert_eq!(sh!("cat {mount}/fixed.raw"), "fixed");
    assert!(cloud.named("new.raw").is_empty());
}

#[test]
fn another_user_gets_in_with_allow_other_only() {
    if !crate::harness::is_root() {
        leave_out!("becoming another user needs root");
    }
    let cloud = Cloud::open();
    cloud.image("shared.raw", b"shared");
    // The folders above are the tests' own and closed to others.
    let open = "chmod 755 $(dirname $(dirname $(dirname {m}))) $(dirname $(dirname {m})) $(dirname {m}) 2>/dev/null || true";
    let as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let private = cloud.mount("");
    sh!("{}", open.replace("{m}", &private.to_string()));
    assert!(fails!("{as_nobody} cat {private}/shared.raw").contains("Permission denied"));
    let shared = cloud.mount("--allow-other --file-mode 0644");
    sh!("{}", open.replace("{m}", &shared.to_string()));
    assert_eq!(sh!("{as_nobody} cat {shared}/shared.raw"), "shared");
    assert!(fails!("{as_nobody} touch {shared}/by-nobody.raw").contains("Permission denied"));
    let closed = cloud.mount("--allow-other --file-mode 0600");
    sh!("{}", open.replace("{m}", &closed.to_string()));
    assert!(fails!("{as_nobody} cat {closed}/shared.raw").contains("Permission denied"));
}

#[test]
fn an_image_whose_data_are_in_use_cannot_be_removed() {
    let cloud = Cloud::open();
    let id = cloud.image("has-clones.raw", b"x");
    // Of the stores only rbd says so, where a volume is a clone of the image; the words are Glance's own.
    let said = format!(
        r#"{{"message": "Image {id} could not be deleted because it is in use: The image cannot be deleted because it is in use through the backend store outside of Glance.<br /><br />\n\n\n", "code": "409 Conflict", "title": "Conflict"}}"#
    );
    let detour = Detour::to(&cloud.url, &format!("DELETE /v2/images/{id} "), 1, "409 Conflict", &said);
    let mount = cloud.mount(&format!("--allow-delete --endpoint {}", detour.url()));
    assert!(fails!("rm {mount}/has-clones.raw").contains("Device or resource busy"));
    assert!(mount.errors().contains("in use through the backend store"), "{}", mount.errors());
    assert_eq!(mount.read("has-clones.raw"), b"x", "it stays as it was");
    // The clone is gone.
    sh!("rm {mount}/has-clones.raw");
    assert!(cloud.named("has-clones.raw").is_empty());
}
