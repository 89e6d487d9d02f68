//! Metadata written by `setfattr`, and carried along by the tools that copy files with their attributes.

use serde_json::{Value, json};

use crate::harness::{Cloud, background, eventually, fails, json as parse, pattern, sh};

const PROPERTY: &str = "user.glance.property";

#[test]
fn setfattr_changes_what_is_named_and_nothing_else() {
    let cloud = Cloud::open();
    let id =
        cloud.image_of(json!({"name": "merged.raw", "os_distro": "debian", "kept": "as it is"}), b"data");
    let mount = cloud.mount("");
    let file = mount.path("merged.raw");
    let before = cloud.record(&id);
    sh!("setfattr -n {PROPERTY}.os_distro -v ubuntu {file}
         setfattr -n '{PROPERTY}.a/b ~ größer' -v 'größer & co' {file}
         setfattr -n user.glance.min_ram -v 512 {file}
         setfattr -n user.glance.min_disk -v 3 {file}
         setfattr -n user.glance.tags -v '[\"größer\", \"b c\"]' {file}
         setfattr -n user.glance.visibility -v community {file}
         setfattr -n user.glance.protected -v true {file}");
    // At once, without another listing.
    assert_eq!(mount.xattr("merged.raw", &format!("{PROPERTY}.os_distro")), "ubuntu");
    // The server has tags as a set.
    let sorted = |tags: &Value| {
        let mut tags: Vec<_> =
            tags.as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect();
        tags.sort_unstable();
        tags
    };
    assert_eq!(sorted(&parse(&mount.xattr("merged.raw", "user.glance.tags"))), ["b c", "größer"]);
    let after = cloud.record(&id);
    let mut expected = before;
    for (key, value) in [
        ("os_distro", json!("ubuntu")),
        ("a/b ~ größer", json!("größer & co")),
        ("min_ram", json!(512)),
        ("min_disk", json!(3)),
        ("tags", after["tags"].clone()),
        ("visibility", json!("community")),
        ("protected", json!(true)),
        ("updated_at", after["updated_at"].clone()),
    ] {
        expected[key] = value;
    }
    assert_eq!(after, expected);
    assert_eq!(sorted(&after["tags"]), ["b c", "größer"]);
    sh!("setfattr -n user.glance.protected -v false {file}; setfattr -x {PROPERTY}.os_distro {file}");
    assert!(fails!("getfattr -n {PROPERTY}.os_distro {file}").contains("No such attribute"));
    let last = cloud.record(&id);
    assert_eq!((&last["os_distro"], &last["protected"]), (&Value::Null, &json!(false)));
    assert!(last.get("os_distro").is_none());
    // The name is the name of the file.
    sh!(
        "setfattr -n user.glance.name -v merged-other.raw {file} && cmp {mount}/merged-other.raw <(printf data)"
    );
    assert!(!mount.names().contains(&"merged.raw".to_owned()));
    sh!("setfattr -n user.glance.os_hidden -v true {mount}/.by-id/{id}");
    assert_eq!(cloud.record(&id)["os_hidden"], true);
}

/// setxattr(2) with a flag: setfattr has none.
pub fn set_with(flag: &str, name: &str, file: &str) -> String {
    sh!("python3 -c 'import os,sys
try: os.setxattr(sys.argv[1], sys.argv[2], b\"v\", os.XATTR_{flag})
except OSError as e: print(__import__(\"errno\").errorcode[e.errno])' {file} {name}")
}

#[test]
fn the_server_decides_whether_a_property_is_new() {
    let cloud = Cloud::open();
    let id = cloud.image("decided.raw", b"data");
    let mount = cloud.mount("--metadata-ttl 1h");
    let (file, name) = (mount.path("decided.raw"), format!("{PROPERTY}.mine"));
    assert_eq!(set_with("REPLACE", &name, &file), "ENODATA");
    assert_eq!(set_with("CREATE", &name, &file), "");
    assert_eq!(set_with("CREATE", &name, &file), "EEXIST");
    assert_eq!(set_with("REPLACE", &name, &file), "");
    assert_eq!(set_with("CREATE", "user.glance.name", &file), "EEXIST");
    // What another client did since, this mount does not know.
    cloud.set(&id, "theirs", json!("x"));
    assert_eq!(set_with("CREATE", &format!("{PROPERTY}.theirs"), &file), "EEXIST");
    sh!("setfattr -x {name} {file}");
    assert!(fails!("setfattr -x {name} {file}").contains("No such attribute"));
}

#[test]
fn what_cannot_be_set_is_refused_with_its_errno() {
    let cloud = Cloud::open();
    cloud.image("refusing.raw", b"data");
    let mount = cloud.mount("");
    let file = mount.path("refusing.raw");
    for (name, value, error) in [
        ("user.glance.size", "1", "Operation not permitted"),
        ("user.glance.checksum", "1", "Operation not permitted"),
        ("user.glance.id", "1", "Operation not permitted"),
        ("user.glance.disk_format", "qcow2", "Operation not permitted"),
        ("user.glance.store", "file", "Operation not permitted"),
        ("user.glance.property.os_glance_x", "1", "Operation not permitted"),
        ("user.glancefs.source", "1", "Operation not permitted"),
        ("user.glance.min_ram", "-1", "Invalid argument"),
        ("user.glance.visibility", "secret", "Invalid argument"),
        ("user.glance.tags", "a,b", "Invalid argument"),
        ("user.glance.property.size", "1", "Invalid argument"),
        ("user.glance.property.p", "\u{1f600}", "Invalid or incomplete multibyte"),
        ("user.other", "1", "Operation not supported"),
    ] {
        let said = fails!("setfattr -n '{name}' -v '{value}' {file}");
        assert!(said.contains(error), "{name}={value}: {said}");
    }
    assert!(fails!("setfattr -x user.glance.size {file}").contains("Operation not permitted"));
    assert!(fails!("setfattr -n user.glance.tags -v '[]' {mount}").contains("Operation not supported"));
    let many = fails!("for i in $(seq 130); do setfattr -n {PROPERTY}.p$i -v v {file} || exit 1; done");
    assert!(many.contains("No space left"), "{many}");
    let reader = cloud.mount("--read-only");
    assert!(fails!("setfattr -n {PROPERTY}.p -v v {reader}/refusing.raw").contains("Read-only file system"));
}

#[test]
fn many_changes_at_once_are_all_kept() {
    let cloud = Cloud::open();
    let id = cloud.image("many-changes.raw", b"data");
    let mount = cloud.mount("");
    sh!("for i in $(seq 24); do setfattr -n {PROPERTY}.p$i -v $i {mount}/many-changes.raw & done; wait");
    let record = cloud.record(&id);
    for number in 1..=24 {
        assert_eq!(record[format!("p{number}")], number.to_string(), "{record}");
    }
}

#[test]
fn a_change_waits_for_the_end_of_an_upload() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--timeout 3s");
    // By another client, which takes its time.
    let id = cloud.reserve(json!({"name": "being-filled.raw"}));
    let put = |seconds: u32| {
        background(&format!(
            "(head -c 1M /dev/zero; sleep {seconds}; echo end) | curl -sS -m 60 --noproxy '*' -f -T - -X PUT \
             -H 'Content-Type: application/octet-stream' {}/v2/images/{id}/file",
            cloud.url
        ))
    };
    let file = format!("{mount}/.by-id/{id}");
    let filling = put(8);
    eventually("the upload has begun", || cloud.record(&id)["status"] == "saving");
    assert!(fails!("setfattr -n {PROPERTY}.early -v v {file}").contains("Device or resource busy"));
    filling.finish().expect_success();
    sh!("setfattr -n {PROPERTY}.late -v v {file}");
    assert_eq!(cloud.record(&id)["late"], "v");
    // And one that ends in time.
    cloud.delete(&id);
    let id = cloud.reserve(json!({"name": "being-filled.raw"}));
    let file = format!("{mount}/.by-id/{id}");
    let filling = background(&format!(
        "(head -c 1M /dev/zero; sleep 1; echo end) | curl -sS -m 60 --noproxy '*' -f -T - -X PUT \
         -H 'Content-Type: application/octet-stream' {}/v2/images/{id}/file",
        cloud.url
    ));
    eventually("the upload has begun", || cloud.record(&id)["status"] == "saving");
    sh!("setfattr -n {PROPERTY}.waited -v v {file}");
    filling.finish().expect_success();
    assert_eq!(cloud.record(&id)["waited"], "v", "the upload has not undone it");
}

#[test]
fn what_is_set_before_the_data_goes_with_them() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    sh!("exec 3> {mount}/before-data.raw
         setfattr -n {PROPERTY}.os_distro -v debian {mount}/before-data.raw
         setfattr -n user.glance.min_ram -v 64 {mount}/before-data.raw
         setfattr -n user.glance.protected -v true {mount}/before-data.raw
         setfattr -n user.glance.store -v file {mount}/before-data.raw
         setfattr -n user.glance.disk_format -v iso {mount}/before-data.raw
         setfattr -n {PROPERTY}.gone -v x {mount}/before-data.raw
         setfattr -x {PROPERTY}.gone {mount}/before-data.raw
         [ \"$(getfattr --only-values -n {PROPERTY}.os_distro {mount}/before-data.raw)\" = debian ]");
    // Nothing was written: it is a reservation by now.
    let record = cloud.named("before-data.raw").remove(0);
    assert_eq!(
        (&record["status"], &record["os_distro"], &record["min_ram"], &record["gone"]),
        (&json!("queued"), &json!("debian"), &json!(64), &Value::Null)
    );
    let said = sh!("exec 3> {mount}/aki.img
         setfattr -n user.glance.disk_format -v aki {mount}/aki.img
         setfattr -n user.glance.container_format -v aki {mount}/aki.img
         setfattr -n {PROPERTY}.p -v v {mount}/aki.img
         setfattr -n user.glance.protected -v true {mount}/aki.img
         echo kernel >&3; exec 3>&-; getfattr --only-values -n user.glance.disk_format {mount}/aki.img");
    assert_eq!(said, "aki");
    let record = cloud.only("aki.img");
    assert_eq!(
        (&record["container_format"], &record["p"], &record["protected"]),
        (&json!("aki"), &json!("v"), &json!(true))
    );
    cloud.set(record["id"].as_str().unwrap(), "protected", json!(false));
    // A store that is none.
    let said = fails!(
        "exec 3> {mount}/nowhere.raw; setfattr -n user.glance.store -v nowhere {mount}/nowhere.raw; echo x >&3; exec 3>&-; cat {mount}/nowhere.raw"
    );
    assert!(said.contains("No such file"), "{said}");
    assert!(mount.errors().contains("nowhere"), "{}", mount.errors());
}

/// An image with all kinds of metadata, and its record.
fn original(cloud: &Cloud, name: &str) -> Value {
    let id = cloud.image_of(
        json!({
            "name": name, "min_ram": 64, "min_disk": 1, "tags": ["one", "two"], "visibility": "public",
            "os_distro": "debian", "hw_disk_bus": "virtio", "größe": "größer", "img_signature": "x",
            "owner_specified.openstack.md5": "0", "owner_specified.openstack.object": "images/x",
        }),
        &pattern(91, 300_000),
    );
    cloud.record(&id)
}

/// The copy has what describes the image, and nothing of what is the original's own.
#[track_caller]
fn assert_is_copy(cloud: &Cloud, name: &str, original: &Value) {
    let copy = cloud.only(name);
    for key in
        ["min_ram", "min_disk", "os_distro", "hw_disk_bus", "größe", "checksum", "os_hash_value", "size"]
    {
        assert_eq!(copy[key], original[key], "{key} of {name}");
    }
    let mut tags: Vec<_> = copy["tags"].as_array().unwrap().iter().map(Value::to_string).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["\"one\"", "\"two\""]);
    for key in ["img_signature", "owner_specified.openstack.md5", "owner_specified.openstack.object"] {
        assert_eq!(copy.get(key), None, "{key} of {name}");
    }
    assert_ne!(copy["visibility"], "public", "nothing is published by a copy");
    assert_ne!(copy["id"], original["id"]);
    assert_eq!(copy["name"], name);
}

#[test]
fn cp_rsync_and_tar_carry_properties_from_mount_to_mount() {
    let (cloud, other) = (Cloud::open(), Cloud::new("none", ""));
    let record = original(cloud, "carried.raw");
    let (from, to) = (cloud.mount(""), other.mount("--allow-overwrite"));
    let said = sh!("cp -a {from}/carried.raw {to}/by-cp.raw 2>&1");
    assert_eq!(said, "");
    assert_is_copy(&other, "by-cp.raw", &record);
    sh!("cp --preserve=xattr {from}/carried.raw {to}/by-cp-xattr.raw");
    assert_is_copy(&other, "by-cp-xattr.raw", &record);
    let said = sh!("rsync -aX {from}/carried.raw {to}/by-rsync.raw 2>&1");
    assert_eq!(said, "");
    assert_is_copy(&other, "by-rsync.raw", &record);
    sh!("rsync -aX --inplace {from}/carried.raw {to}/by-inplace.raw");
    assert_is_copy(&other, "by-inplace.raw", &record);
    let said = sh!(
        "tar -C {from} --xattrs --transform s/carried/by-tar/ -cf - carried.raw | tar -C {to} --xattrs -xf - 2>&1"
    );
    assert_eq!(said, "");
    assert_is_copy(&other, "by-tar.raw", &record);
    // A minute later, or by another process, what cannot be set is refused.
    assert!(fails!("setfattr -n user.glance.id -v x {to}/by-cp.raw").contains("not permitted"));
    // There and back, through files of a disk: the attributes of a mount stay on files that know them.
    let beside = to.beside();
    sh!(
        "rsync -aX {from}/carried.raw {beside}/on-disk.raw && rsync -aX {beside}/on-disk.raw {to}/from-disk.raw"
    );
    assert_is_copy(&other, "from-disk.raw", &record);
}

#[test]
fn writing_the_record_replaces_all_properties() {
    let cloud = Cloud::open();
    let id = cloud.image_of(json!({"name": "purged.raw", "old": "1", "kept": "2", "changed": "3"}), b"data");
    let mount = cloud.mount("");
    let (file, new) = (format!("{mount}/.glancefs/images/{id}.json"), mount.beside().path("new"));
    sh!("python3 - {file} > {new} <<'END'
import json, sys
record = json.load(open(sys.argv[1]))
del record['old']
record.update(changed='x', added='y', min_ram=32, tags=['t'])
print(json.dumps(record, indent=2))
END
         cat {new} > {file}");
    let record = cloud.record(&id);
    assert_eq!(record.get("old"), None);
    for (key, value) in [
        ("kept", json!("2")),
        ("changed", json!("x")),
        ("added", json!("y")),
        ("min_ram", json!(32)),
        ("tags", json!(["t"])),
    ] {
        assert_eq!(record[key], value, "{key}");
    }
    assert_eq!(parse(&sh!("cat {file}"))["added"], "y");
    // Nothing is changed by what is no record, is cut, or asks for what cannot be.
    assert!(
        fails!("head -c 100 {new} > {file}; head -c 100 {new} | cp /dev/stdin {file}")
            .contains("Invalid argument")
    );
    assert!(fails!("echo '{{\"size\": 1}}' | cp /dev/stdin {file}").contains("not permitted"));
    assert_eq!(cloud.record(&id), record);
    assert!(mount.errors().contains("size cannot be set"), "{}", mount.errors());
    // Without any property, and with an open that only looks.
    sh!("echo '{{}}' > {file}; exec 3<> {file}; exec 3>&-");
    let record = cloud.record(&id);
    assert_eq!((record.get("kept"), record.get("added"), &record["min_ram"]), (None, None, &json!(32)));
    let reader = cloud.mount("--read-only");
    assert!(fails!("echo '{{}}' > {reader}/.glancefs/images/{id}.json").contains("Read-only"));
}

#[test]
fn a_second_rsync_with_attributes_changes_nothing_but_properties() {
    let (cloud, other) = (Cloud::open(), Cloud::new("none", ""));
    let id =
        cloud.image_of(json!({"name": "twice.raw", "visibility": "public", "a": "1", "b": "2"}), b"twice");
    let (from, to) = (cloud.mount(""), other.mount(""));
    sh!("rsync -aX {from}/twice.raw {to}/rsync-again.raw");
    cloud.set(&id, "a", json!("changed"));
    from.remount();
    // What it finds there is none of its own: without a filter it says what it cannot set, and does no harm.
    let said = fails!("rsync -aX --size-only {from}/twice.raw {to}/rsync-again.raw");
    assert!(said.contains("Operation not permitted"), "{said}");
    let record = other.only("rsync-again.raw");
    assert_eq!(
        (&record["a"], &record["b"], &record["visibility"]),
        (&json!("changed"), &json!("2"), &json!("shared"))
    );
    // Nor from a folder without any attributes.
    let plain = to.beside().file("plain", "twice");
    fails!("rsync -aX --size-only {plain} {to}/rsync-again.raw");
    assert_eq!(other.only("rsync-again.raw").get("a"), None);
    cloud.set(&id, "b", json!("new"));
    from.remount();
    sh!("rsync -aX --size-only --filter='-x! user.glance.property.*' {from}/twice.raw {to}/rsync-again.raw");
    assert_eq!(other.only("rsync-again.raw")["b"], "new");
}
