//! Extended attributes and the record as JSON, compared with what the API says.

use serde_json::{Value, json};

use crate::harness::{Cloud, fails, json as parse, pattern, sh};

/// `getfattr -d` as pairs; the values of these tests have nothing that getfattr escapes.
fn attributes(file: &str) -> std::collections::BTreeMap<String, String> {
    let lines = sh!("getfattr --absolute-names -d {file}");
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| {
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            (name.to_owned(), value.replace("\\\"", "\"").replace("\\\\", "\\"))
        })
        .collect()
}

#[test]
fn attributes_are_those_of_the_api() {
    let cloud = Cloud::open();
    let id = cloud.image_of(
        json!({
            "name": "described.raw", "min_ram": 512, "min_disk": 3, "visibility": "private",
            "tags": ["one", "two words"], "os_distro": "debian", "hw_disk_bus": "virtio",
            "my.own.key": "größer", "empty": "",
        }),
        &pattern(20, 70_000),
    );
    let mount = cloud.mount("");
    let record = cloud.record(&id);
    let found = attributes(&mount.path("described.raw"));
    for (key, value) in record.as_object().unwrap() {
        let custom = ["os_distro", "hw_disk_bus", "my.own.key", "empty"].contains(&key.as_str());
        let name = if custom { format!("user.glance.property.{key}") } else { format!("user.glance.{key}") };
        match value {
            Value::Null => assert_eq!(found.get(&name), None, "{key} is null"),
            _ if ["locations", "direct_url"].contains(&key.as_str()) => {
                assert_eq!(found.get(&name), None, "{key} can hold credentials");
            }
            // getfattr -d shows non-ASCII values in base64.
            _ if key == "my.own.key" => assert_eq!(mount.xattr("described.raw", &name), "größer"),
            Value::String(text) => assert_eq!(found.get(&name), Some(text), "{key}"),
            other => assert_eq!(found.get(&name).map(|text| parse(text)).as_ref(), Some(other), "{key}"),
        }
    }
    assert_eq!(found["user.glance.tags"].chars().filter(|letter| *letter == '"').count(), 4);
    assert!(!found.keys().any(|name| name.contains("location") || name.contains("direct_url")));
    assert!(fails!("getfattr -n user.glance.kernel {mount}/described.raw").contains("No such attribute"));
    assert!(fails!("getfattr -n user.other {mount}/described.raw").contains("No such attribute"));
}

#[test]
fn the_record_is_there_as_json() {
    let cloud = Cloud::open();
    let id = cloud.image_of(json!({"name": "recorded.raw", "tags": ["t"], "a/b ~ c": "odd key"}), b"x");
    let mount = cloud.mount("");
    let text = sh!("cat {mount}/.glancefs/images/{id}.json");
    let mut expected = cloud.record(&id);
    for secret in ["locations", "direct_url"] {
        expected.as_object_mut().unwrap().remove(secret);
    }
    assert_eq!(parse(&text), expected);
    assert_eq!(sh!("stat -c %s {mount}/.glancefs/images/{id}.json"), (text.len() + 1).to_string());
}

#[test]
fn a_value_that_the_kernel_cannot_carry_is_in_the_json() {
    let cloud = Cloud::open();
    let large = "v".repeat(70_000);
    let fits = "f".repeat(60_000);
    let id = cloud.image_of(json!({"name": "large-value.raw", "large": large, "fits": fits}), b"x");
    let mount = cloud.mount("");
    let property = "user.glance.property";
    assert!(
        fails!("getfattr -n {property}.large {mount}/large-value.raw").contains("Argument list too long")
    );
    assert_eq!(mount.xattr("large-value.raw", &format!("{property}.fits")), fits);
    assert_eq!(parse(&sh!("cat {mount}/.glancefs/images/{id}.json"))["large"], large);
}

#[test]
fn local_facts_follow_what_was_read() {
    let cloud = Cloud::open();
    let size = 3 * 1024 * 1024 + 17;
    cloud.image("facts.raw", &pattern(21, size));
    let mount = cloud.mount("");
    let fact = |name: &str| mount.xattr("facts.raw", &format!("user.glancefs.{name}"));
    assert_eq!(fact("cached_bytes"), "0");
    sh!("dd if={mount}/facts.raw of=/dev/null bs=4k count=1 iflag=direct");
    assert_eq!(fact("source"), "ranged");
    let some: usize = fact("cached_bytes").parse().unwrap();
    assert!(some >= 4096 && some <= size, "{some}");
    sh!("md5sum {mount}/facts.raw");
    crate::harness::eventually("the whole image is verified", || fact("verified") == "sha512");
    assert_eq!(fact("cached_bytes"), size.to_string());
    assert!(!attributes(&mount.path("facts.raw")).contains_key("user.glancefs.last_error"));
}
