//! A cloud that speaks v1 of the Image API only, through real mounts: the usual commands, and what is different.

use std::sync::LazyLock;

use serde_json::json;

use crate::harness::{Cloud, Gate, Mount, background, eventually, fails, json as parse, pattern, run, sh};

/// Glance 15. It has v2 as well, by which the tests look at what there is.
fn cloud() -> &'static Cloud {
    static CLOUD: LazyLock<Cloud> = LazyLock::new(|| Cloud::new("none", "--api v1 --stores file,http"));
    &CLOUD
}

#[track_caller]
fn mount(options: &str) -> Mount {
    cloud().mount(&format!("--api-version 1 {options}"))
}

/// Waits until the log has the one request for the data of an image, which must be by v1.
#[track_caller]
fn read_by_v1(id: &str) {
    eventually("its data were asked for", || !cloud().requests(&format!("GET /v1/images/{id} ")).is_empty());
    assert_eq!(cloud().requests(&format!("GET /v1/images/{id} ")).len(), 1, "one stream for all");
    assert!(cloud().downloads(id).is_empty());
}

#[test]
fn images_are_listed_and_read_in_whole_and_in_part() {
    let bytes = pattern(41, 5_000_017);
    let id = cloud().image("v1-read.raw", &bytes);
    let mount = mount("");
    assert!(mount.names().contains(&"v1-read.raw".to_owned()));
    assert_eq!(sh!("stat -c %s {mount}/v1-read.raw"), bytes.len().to_string());
    let part = mount.beside().path("part");
    sh!("dd if={mount}/v1-read.raw of={part} bs=1000 skip=4000 count=7 status=none");
    assert_eq!(std::fs::read(&part).unwrap(), bytes[4_000_000..4_007_000]);
    assert_eq!(mount.xattr("v1-read.raw", "user.glancefs.source"), "streamed");
    assert!(mount.read("v1-read.raw") == bytes);
    assert_eq!(mount.read(&format!(".by-id/{id}")).len(), bytes.len());
    eventually("the whole is verified by its MD5", || {
        mount.xattr("v1-read.raw", "user.glancefs.verified") == "md5"
    });
    read_by_v1(&id);
}

#[test]
fn cp_creates_an_image() {
    let mount = mount("");
    let bytes = pattern(42, 3_000_017);
    let file = mount.beside().file("source", &bytes);
    for name in ["v1-new.raw", "v1-größer : 5%.raw"] {
        sh!("cp {file} '{mount}/{name}'");
        let image = cloud().only(name);
        assert_eq!((&image["size"], &image["disk_format"]), (&json!(bytes.len()), &json!("raw")));
        assert!(mount.read(name) == bytes);
        // Another mount knows nothing of this one's spool.
        let other = self::mount("");
        assert!(other.read(name) == bytes);
    }
    assert!(cloud().downloads(cloud().only("v1-new.raw")["id"].as_str().unwrap()).is_empty());
}

#[test]
fn touch_reserves_and_a_write_fills() {
    let mount = mount("");
    sh!("touch {mount}/v1-later.raw");
    let reserved = cloud().named("v1-later.raw").remove(0);
    assert_eq!(reserved["status"], "queued");
    assert!(fails!("cat {mount}/v1-later.raw").contains("No data available"));
    sh!("echo now > {mount}/v1-later.raw");
    let image = cloud().only("v1-later.raw");
    assert_eq!((&image["id"], &image["size"]), (&reserved["id"], &json!(4)));
    assert_eq!(sh!("cat {mount}/v1-later.raw"), "now");
}

#[test]
fn images_are_renamed_removed_and_replaced_and_keep_their_properties() {
    let id =
        cloud().image_of(json!({"name": "v1-old.raw", "os_type": "linux", "Mixed-Case": "kept"}), b"data");
    let mount = mount("--allow-delete --allow-overwrite");
    sh!("mv {mount}/v1-old.raw {mount}/v1-renamed.raw");
    let renamed = cloud().only("v1-renamed.raw");
    assert_eq!(
        (&renamed["id"], &renamed["os_type"], &renamed["Mixed-Case"]),
        (&json!(id), &json!("linux"), &json!("kept"))
    );
    sh!("rm {mount}/v1-renamed.raw");
    assert!(cloud().named("v1-renamed.raw").is_empty());
    assert!(!mount.names().contains(&"v1-renamed.raw".to_owned()));

    let old = cloud().image_of(json!({"name": "v1-replaced.raw", "os_type": "linux"}), b"old data");
    let mount = self::mount("--allow-delete --allow-overwrite");
    sh!("echo new data > {mount}/v1-replaced.raw");
    let new = cloud().only("v1-replaced.raw");
    assert_eq!((&new["os_type"], &new["size"]), (&json!("linux"), &json!(9)));
    assert_ne!(new["id"], json!(old));
    let protected = cloud().image_of(json!({"name": "v1-protected.raw", "protected": true}), b"data");
    mount.remount();
    assert!(fails!("rm -f {mount}/v1-protected.raw").contains("Operation not permitted"));
    cloud().set(&protected, "protected", json!(false));
}

#[test]
fn attributes_are_those_of_v1_in_the_words_of_v2() {
    let id = cloud().image_of(
        json!({"name": "v1-described.raw", "min_ram": 512, "visibility": "public", "os_distro": "debian", "my.key": "größer"}),
        b"described",
    );
    let mount = mount("");
    let get = |name: &str| mount.xattr("v1-described.raw", &format!("user.glance.{name}"));
    let v2 = cloud().record(&id);
    for key in ["id", "name", "status", "disk_format", "container_format", "checksum", "visibility"] {
        assert_eq!(json!(get(key)), v2[key], "{key}");
    }
    assert_eq!((get("min_ram"), get("protected"), get("size")), ("512".into(), "false".into(), "9".into()));
    assert_eq!((get("property.os_distro"), get("property.my.key")), ("debian".into(), "größer".into()));
    let record = parse(&sh!("cat {mount}/.glancefs/images/{id}.json"));
    assert_eq!((&record["os_distro"], &record["visibility"]), (&json!("debian"), &json!("public")));
    assert!(record.get("location").is_none() && record.get("properties").is_none());
}

#[test]
fn an_upload_that_is_cut_off_is_made_again_and_leaves_no_killed_image() {
    let gate = Gate::to(&cloud().url);
    gate.slow();
    let mount = mount(&format!("--endpoint {}", gate.url()));
    let bytes = pattern(44, 12_000_000);
    let file = mount.beside().file("source", &bytes);
    let copy = background(&format!("cp {file} {mount}/v1-cut.raw"));
    let saving = || cloud().named("v1-cut.raw").iter().find(|image| image["status"] == "saving").cloned();
    eventually("its data are on their way", || saving().is_some());
    let first = saving().unwrap();
    gate.shut();
    gate.open();
    copy.finish().expect_success();
    let image = cloud().only("v1-cut.raw");
    assert_ne!(image["id"], first["id"], "Glance never takes data into a killed image");
    assert_eq!(image["size"], json!(bytes.len()));
    let (status, killed) =
        cloud().call("GET", &format!("/v2/images/{}", first["id"].as_str().unwrap()), None);
    assert!(status == 404 || killed["status"] == "deleted", "{killed}");
}

#[test]
fn a_killed_image_is_no_file_of_the_root_and_cannot_be_read_by_its_id() {
    let id = cloud().reserve(json!({"name": "v1-killed.raw"}));
    let url = format!("{}/v1/images/{id}", cloud().url);
    run(&format!(
        "curl -sS --noproxy '*' -X PUT -H 'Content-Type: application/octet-stream' -H 'x-image-meta-checksum: 00' -d data {url}"
    ))
    .expect_success();
    let mount = mount("--allow-delete");
    assert!(!mount.names().contains(&"v1-killed.raw".to_owned()));
    assert_eq!(mount.xattr(&format!(".by-id/{id}"), "user.glance.status"), "killed");
    assert!(fails!("cat {mount}/.by-id/{id}").contains("Input/output error"));
    assert!(fails!("echo more > {mount}/.by-id/{id}").contains("Operation not permitted"));
    sh!("rm {mount}/.by-id/{id}");
    assert_eq!(cloud().call("GET", &format!("/v2/images/{id}"), None).0, 404);
}

#[test]
fn a_cloud_of_v1_only_is_mounted_without_being_told() {
    let old = Cloud::new("fake", "--api v1 --set DEFAULT.enable_v2_api=false");
    let mount = old.mount("");
    let bytes = pattern(43, 1_000_003);
    let file = mount.beside().file("source", &bytes);
    sh!("cp {file} {mount}/found.raw");
    assert_eq!(mount.names(), ["found.raw"]);
    let other = old.mount("");
    assert!(other.read("found.raw") == bytes);
    assert!(old.requests("/v2/").is_empty());
    let v2 = old.mount_later("--api-version 2");
    let outcome = v2.try_up();
    assert!(outcome.stderr.contains("--api-version"), "{outcome}");
}
