//! File names of images whose names no file can have, or that share one.

use std::os::unix::fs::{DirEntryExt, MetadataExt};

use serde_json::{Value, json};

use crate::harness::{Cloud, fails, sh};

/// The name under which an image is listed, found by its inode number.
fn listed(mount: &str, id: &str) -> String {
    let number = std::fs::metadata(format!("{mount}/.by-id/{id}")).unwrap().ino();
    let entries = std::fs::read_dir(mount).unwrap().map(Result::unwrap);
    let mut found: Vec<_> = entries.filter(|entry| entry.ino() == number).collect();
    assert_eq!(found.len(), 1, "{id} is listed once");
    found.remove(0).file_name().into_string().unwrap()
}

#[test]
fn every_name_becomes_a_file_name_that_leads_to_its_bytes() {
    let cloud = Cloud::open();
    let long = "图".repeat(255);
    let names: Vec<(Value, &str)> = vec![
        (Value::Null, "%null~ID8"),
        (json!(""), "%empty~ID8"),
        (json!("a/b"), "a%2Fb"),
        (json!("../../etc/passwd"), "..%2F..%2Fetc%2Fpasswd"),
        (json!(".."), "%2E%2E"),
        (json!("."), "%2E"),
        (json!(".by-id"), "%2Eby-id"),
        (json!(".glancefs"), "%2Eglancefs"),
        (json!(".hidden"), ".hidden"),
        (json!("two\nlines"), "two%0Alines"),
        (json!("100%"), "100%25"),
        (json!("a%2Fb"), "a%252Fb"),
        (json!(" spaces  and 'quotes\" "), " spaces  and 'quotes\" "),
        (json!("-rf"), "-rf"),
        (json!("back\\slash"), "back\\slash"),
        (json!("Größe-naïve-Ω"), "Größe-naïve-Ω"),
        (json!("copy~deadbeef"), "copy%7Edeadbeef"),
        (json!("x~1f3c9a2b"), "x%7E1f3c9a2b"),
        (json!("backup~1"), "backup~1"),
    ];
    let made: Vec<_> = names
        .iter()
        .map(|(name, file)| {
            let id = cloud.image_of(json!({"name": name}), format!("data of {name}").as_bytes());
            let file = file.replace("ID8", &id[..8]);
            (name.clone(), file, id)
        })
        .collect();
    let long_id = cloud.image(&long, b"long");

    let mount = cloud.mount("");
    for (name, file, id) in &made {
        assert_eq!(listed(&mount.to_string(), id), *file, "{name}");
        assert_eq!(mount.read(file), format!("data of {name}").as_bytes());
    }
    let long_file = listed(&mount.to_string(), &long_id);
    assert!(long_file.len() <= 255 && long_file.ends_with(&format!("~{long_id}")), "{long_file}");
    assert!(long_file.starts_with("图图图"));
    assert_eq!(mount.read(&long_file), b"long");
    // A program meets them too.
    let every = sh!("cd {mount} && find . -type f -name '*%*' -exec cat {{}} + | wc -c");
    assert!(every.parse::<usize>().unwrap() > 0);
}

#[test]
fn of_one_name_the_oldest_keeps_the_plain_file_name() {
    let cloud = Cloud::open();
    let oldest = cloud.image("twin", b"oldest");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let younger = cloud.image("twin", b"younger");
    let mount = cloud.mount("--metadata-ttl 1s");
    let files = |id: &str| listed(&mount.to_string(), id);
    assert_eq!(files(&oldest), "twin");
    assert_eq!(files(&younger), format!("twin~{}", &younger[..8]));
    assert_eq!(mount.read("twin"), b"oldest");
    assert_eq!(mount.read(&format!("twin~{}", &younger[..8])), b"younger");

    // A path that a hypervisor uses is not taken over by a newcomer.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let youngest = cloud.image("twin", b"youngest");
    assert_eq!(mount.read(&format!("twin~{}", &youngest[..8])), b"youngest");
    crate::harness::eventually("the third is listed", || {
        mount.names().contains(&format!("twin~{}", &youngest[..8]))
    });
    assert_eq!(mount.read("twin"), b"oldest");

    // The longer forms of an id lead to it as well.
    assert_eq!(sh!("cat {mount}/twin~{younger}"), "younger");

    // When the oldest goes, the next moves up.
    cloud.delete(&oldest);
    crate::harness::eventually("the next moves up", || {
        std::fs::read(mount.path("twin")).is_ok_and(|content| content == b"younger")
    });
}

#[test]
fn an_image_without_data_does_not_take_the_plain_name() {
    let cloud = Cloud::open();
    let reserved = cloud.reserve(json!({"name": "half"}));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    cloud.image("half", b"whole");
    let mount = cloud.mount("");
    assert_eq!(mount.read("half"), b"whole");
    assert_eq!(listed(&mount.to_string(), &reserved), format!("half~{}", &reserved[..8]));
}

#[test]
fn odd_names_can_be_created() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    for (file, name) in [
        ("new%2Fwith-slash", "new/with-slash"),
        ("new 100%", "new 100%"),
        ("new%7Edeadbeef", "new~deadbeef"),
        ("new Ωmega", "new Ωmega"),
        ("new'quote", "new'quote"),
    ] {
        std::fs::write(mount.path(file), name.as_bytes()).unwrap();
        let record = cloud.only(name);
        assert_eq!(record["size"], name.len(), "{file}");
    }
    let longest = "图".repeat(85); // 255 bytes, the longest file name
    std::fs::write(mount.path(&longest), b"x").unwrap();
    cloud.only(&longest);
}

#[test]
fn names_that_glance_refuses_are_refused_at_once() {
    let mount = Cloud::open().mount("");
    assert!(fails!("touch '{mount}/emoji-😀'").contains("Invalid or incomplete multibyte"));
    assert!(fails!("touch $'{mount}/latin1-\\xe4'").contains("Invalid or incomplete multibyte"));
    assert!(fails!("touch {mount}/x~0123abcd").contains("Invalid argument"));
    assert!(fails!("touch {mount}/$(printf 'x%.0s' $(seq 256))").contains("File name too long"));
}
