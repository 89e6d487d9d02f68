//! Clouds with thousands of images: what a listing costs in requests and memory, and what a refresh does.

use serde_json::json;

use crate::harness::{Cloud, Mount, eventually, fails, sh};

#[test]
fn two_thousand_images_are_listed_and_followed() {
    many_images_are_listed_and_followed(2000);
}

#[test]
fn ten_thousand_images_are_listed_and_followed() {
    if std::env::var_os("GLANCEFS_TEST_LONG").is_some() {
        many_images_are_listed_and_followed(10_000);
    }
}

fn many_images_are_listed_and_followed(count: usize) {
    let cloud = Cloud::new("none", "");
    let mount = cloud.mount("--metadata-ttl 1s");
    sh!("ls -l {mount}");
    let memory_of_none = mount.memory();
    mount.down();
    cloud.fill(count);

    let before = cloud.requests("GET").len();
    mount.up();
    // The last page is full, which only an empty one after it tells; and versions and schema are asked for.
    assert_eq!(cloud.requests("GET").len() - before, count / 500 + 3);
    let names: Vec<_> = (1..=count).map(|number| format!("image-{number:06}")).collect();
    assert_eq!(mount.names(), names);
    assert_eq!(sh!("ls -l {mount} | grep -c image-"), count.to_string());
    assert_eq!(sh!("ls {mount}/.by-id | wc -l"), count.to_string());
    let memory_each = mount.memory().saturating_sub(memory_of_none) / count as u64;
    eprintln!("{memory_each} bytes of memory for each of {count} images");
    // Buffers, stacks and code in use are some megabytes, however few images there are.
    assert!(count < 10_000 || memory_each <= 2048, "{memory_each} bytes for each image");
    metadata_are_at_hand(&cloud, &mount);
    changes_show(&cloud, &mount, count);
}

/// Every attribute of the record without a request about the image.
fn metadata_are_at_hand(cloud: &Cloud, mount: &Mount) {
    let record = cloud.only("image-000777");
    let id = record["id"].as_str().unwrap();
    let asked = cloud.requests(id).len();
    assert_eq!(mount.xattr("image-000777", "user.glance.property.os_distro"), "debian");
    assert_eq!(
        mount.xattr("image-000777", "user.glance.os_hash_value"),
        record["os_hash_value"].as_str().unwrap()
    );
    assert_eq!(sh!("stat -c %s {mount}/image-000777"), "777");
    assert_eq!(sh!("stat -c %s {mount}/.glancefs/images/{id}.json"), mount_json(mount, id).len().to_string());
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&mount_json(mount, id)).unwrap(), record);
    assert_eq!(cloud.requests(id).len(), asked);
}

fn mount_json(mount: &Mount, id: &str) -> Vec<u8> {
    mount.read(&format!(".glancefs/images/{id}.json"))
}

/// Refreshes cost one request each, show what is new, and in time what is gone.
fn changes_show(cloud: &Cloud, mount: &Mount, count: usize) {
    let looks = || cloud.requests("updated_at=gte");
    eventually("the list is refreshed", || {
        assert_eq!(sh!("ls {mount} | wc -l"), count.to_string());
        looks().len() >= 5
    });
    assert!(looks().iter().all(|line| !line.contains("marker=")), "one request is enough: {:#?}", looks());

    let [renamed, gone] = ["image-000010", "image-000020"].map(|name| {
        sh!("stat {mount}/{name}");
        cloud.only(name)["id"].as_str().unwrap().to_owned()
    });
    cloud.set(&renamed, "name", json!("renamed"));
    cloud.delete(&gone);
    cloud.reserve(json!({"name": "made"}));
    eventually("what is new shows", || {
        let names = mount.names();
        ["renamed", "made"].iter().all(|name| names.iter().any(|shown| shown == name))
    });
    assert!(!mount.names().iter().any(|name| name == "image-000010"));
    eventually("what is gone goes", || mount.names().len() == count);
    assert!(fails!("stat {mount}/image-000020").contains("No such file"));
    assert!(fails!("stat {mount}/.by-id/{gone}").contains("No such file"));
}
