//! Rows of `docs/features.md` that no other test shows: what needs no code of its own but has to work.

use serde_json::{Value, json};

use crate::harness::{Cloud, Folder, Mount, eventually, fails, pattern, sh};

#[test]
fn ordinary_tools_choose_and_sort_images() {
    let cloud = Cloud::new("none", "");
    cloud.image_of(json!({"name": "small.raw", "min_ram": 512, "tags": ["golden"]}), &pattern(1, 1000));
    let middle =
        json!({"name": "middle:1.iso", "disk_format": "iso", "container_format": "ami", "os_type": "linux"});
    let middle = cloud.reserve(middle);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let large = cloud
        .image_of(json!({"name": "large.raw", "protected": true, "os_type": "linux"}), &pattern(2, 3000));
    let mount = cloud.mount("");
    let before = cloud.requests("GET /v2/images").len();

    // By size and by both times; the youngest and the largest first.
    assert_eq!(sh!("ls -S {mount} | head -n 1"), "large.raw");
    assert_eq!(sh!("ls -t {mount} | head -n 1"), "large.raw");
    assert_eq!(sh!("ls -r {mount} | head -n 2 | tail -n 1"), "middle:1.iso");
    assert_eq!(sh!("find {mount} -type f -size +4 -printf %f"), "large.raw");
    assert_eq!(sh!("find {mount} -type f -newer '{mount}/middle:1.iso' -printf %f"), "large.raw");
    // By attributes and properties, one at a time and several.
    let having = |condition: &str| {
        sh!("cd {mount}/.glancefs/images && jq -r 'select({condition}) | .name' *.json | sort | xargs")
    };
    assert_eq!(having(".os_type == \"linux\""), "large.raw middle:1.iso");
    assert_eq!(having(".os_type == \"linux\" and .protected"), "large.raw");
    assert_eq!(having(".status == \"queued\" and .disk_format == \"iso\""), "middle:1.iso");
    assert_eq!(having(".container_format == \"ami\""), "middle:1.iso");
    assert_eq!(having(".min_ram >= 512 and .size < 2000"), "small.raw");
    assert_eq!(having(".tags | index(\"golden\")"), "small.raw");
    assert_eq!(sh!("cd {mount}/.glancefs/images && grep -l '\"os_type\": *\"linux\"' *.json | wc -l"), "2");
    assert_eq!(cloud.requests("GET /v2/images").len(), before, "all of it from the one list");

    // A name with a colon, which a plain `name=` could not ask for, and before the next listing.
    let patient = cloud.mount("--metadata-ttl 1h");
    cloud.image("later:1.raw", b"later");
    assert_eq!(sh!("cat '{patient}/later:1.raw'"), "later");
    assert_eq!(sh!("stat -c %s '{patient}/middle:1.iso' {patient}/.by-id/{middle} | xargs"), "0 0");
    cloud.set(&large, "protected", json!(false));
}

#[test]
fn properties_that_hold_json_come_as_they_are() {
    let cloud = Cloud::open();
    let devices = r#"[{"boot_index": 0, "snapshot_id": "x", "delete_on_termination": true}]"#;
    let mappings = r#"[{"virtual":"ami","device":"sda1"}]"#;
    let id = cloud.image_of(
        json!({"name": "devices.raw", "block_device_mapping": devices, "mappings": mappings}),
        b"data",
    );
    let mount = cloud.mount("");
    let property = |key: &str| mount.xattr("devices.raw", &format!("user.glance.property.{key}"));
    assert_eq!((property("block_device_mapping"), property("mappings")), (devices.into(), mappings.into()));
    assert_eq!(sh!("jq -r '.mappings | fromjson | .[0].device' {mount}/.glancefs/images/{id}.json"), "sda1");
    let changed = r#"[{"virtual":"ami","device":"vda"}]"#;
    sh!("setfattr -n user.glance.property.mappings -v '{changed}' {mount}/devices.raw");
    assert_eq!(cloud.record(&id)["mappings"], changed);
}

#[test]
fn the_address_of_glance_is_taken_in_each_form() {
    let cloud = Cloud::open();
    cloud.image("addressed-as.raw", b"the same");
    let mount = |address: &str| {
        Mount::new(vec![("OS_AUTH_TYPE".into(), "none".into())], &format!("--endpoint {address}"))
    };
    for end in ["", "/", "/v2", "/v2/", "/v2.9"] {
        let mount = mount(&format!("{}{end}", cloud.url));
        mount.up();
        assert_eq!(mount.read("addressed-as.raw"), b"the same", "{end}");
    }
    // A token must not go over plain HTTP because the scheme was left out.
    let bare = cloud.url.strip_prefix("http://").unwrap();
    let told = mount(bare).try_up().expect_failure();
    assert!(told.contains("https://"), "{told}");
}

#[test]
fn each_request_is_logged_with_its_id_and_that_of_the_server() {
    let cloud = Cloud::open();
    cloud.image("traced.raw", b"traced");
    let mut variables = cloud.variables(None);
    variables.push(("GLANCEFS_LOG".into(), "debug".into()));
    let mount = Mount::new(variables, "");
    mount.up();
    assert_eq!(mount.read("traced.raw"), b"traced");
    let log = mount.log();
    let downloads: Vec<_> =
        log.lines().filter(|line| line.contains("/file") && line.contains("206")).collect();
    assert_eq!(downloads.len(), 1, "{log}");
    assert_eq!(downloads[0].matches("req-").count(), 2, "{}", downloads[0]);
}

#[test]
fn an_empty_image_is_made_by_truncate() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    sh!("exec 3> {mount}/nothing.raw; echo x >&3; truncate -s 0 {mount}/nothing.raw; exec 3>&-");
    let record = cloud.only("nothing.raw");
    assert_eq!((&record["size"], &record["disk_format"]), (&json!(0), &json!("raw")));
    assert_eq!(sh!("stat -c %s {mount}/nothing.raw; cat {mount}/nothing.raw"), "0");
}

#[test]
fn metadata_that_change_leave_the_cached_bytes_alone() {
    let cloud = Cloud::open();
    let content = pattern(3, 300_000);
    let id = cloud.image("edited.raw", &content);
    let mount = cloud.mount("--metadata-ttl 1s");
    assert!(mount.read("edited.raw") == content);
    let downloads = cloud.downloads(&id).len();
    cloud.set(&id, "os_distro", json!("debian"));
    cloud.set(&id, "name", json!("renamed.raw"));
    eventually("the change is seen", || mount.names().contains(&"renamed.raw".to_owned()));
    assert!(mount.read("renamed.raw") == content);
    mount.remount();
    assert!(mount.read("renamed.raw") == content);
    assert_eq!(cloud.downloads(&id).len(), downloads);
}

#[test]
fn an_image_with_staged_data_is_busy() {
    let cloud = Cloud::of_stores();
    let id = cloud.reserve(json!({"name": "staged-only.raw"}));
    let token = cloud.token("admin");
    sh!(
        "echo staged | curl -sSf -m 30 --noproxy '*' -X PUT -H 'X-Auth-Token: {token}' --data-binary @- \
         -H 'Content-Type: application/octet-stream' {}/v2/images/{id}/stage",
        cloud.url
    );
    assert_eq!(cloud.record(&id)["status"], "uploading");
    let mount = cloud.mount("--allow-overwrite");
    assert!(fails!("cat {mount}/staged-only.raw").contains("Device or resource busy"));
    assert!(fails!("echo x > {mount}/staged-only.raw").contains("Device or resource busy"));
    cloud.delete(&id);
}

#[test]
fn an_image_that_waits_for_its_deletion_is_gone() {
    let cloud = Cloud::new("none", "--set DEFAULT.delayed_delete=true");
    let content = pattern(4, 3_000_000);
    let id = cloud.image("waiting.raw", &content);
    cloud.image("other.raw", b"other");
    let mount = cloud.mount("--metadata-ttl 1s");
    let held = std::fs::File::open(mount.path("waiting.raw")).unwrap();
    let mut first = vec![0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&held, &mut first, 0).unwrap();
    cloud.delete(&id);
    eventually("it is not listed", || mount.names() == ["other.raw"]);
    assert!(fails!("cat {mount}/waiting.raw").contains("No such file"));
    assert!(fails!("cat {mount}/.by-id/{id}").contains("No such file"));
    // Who has it open reads what is cached; the rest is not to be had.
    std::os::unix::fs::FileExt::read_exact_at(&held, &mut first, 0).unwrap();
    assert!(first == content[..4096]);
}

/// A cloud on which only administrators read `x_secret` and change `x_fixed`.
fn protected_properties() -> (Cloud, Folder) {
    let folder = Folder::new("protections");
    let rules = |section: &str, read: &str, write: &str| {
        format!("[{section}]\ncreate = {write}\nread = {read}\nupdate = {write}\ndelete = {write}\n")
    };
    let text =
        [rules("^x_secret$", "admin", "admin"), rules("^x_fixed$", "@", "admin"), rules(".*", "@", "@")];
    let file = folder.file("protections.conf", text.concat());
    (Cloud::new("fake", &format!("--set DEFAULT.property_protection_file={file}")), folder)
}

#[test]
fn protected_properties_are_hidden_and_cannot_be_changed() {
    let (cloud, _folder) = protected_properties();
    let admins = Mount::new(cloud.variables(Some("admin")), "");
    admins.up();
    let mount = Mount::new(cloud.variables(Some("alice")), "--metadata-ttl 1s");
    mount.up();
    let file = mount.beside().file("guarded", "guarded");
    sh!("cp {file} {mount}/guarded.raw");
    let id = cloud.only("guarded.raw")["id"].as_str().unwrap().to_owned();
    let property = "user.glance.property";
    sh!("setfattr -n {property}.x_secret -v s {admins}/.by-id/{id}
         setfattr -n {property}.x_fixed -v f {admins}/.by-id/{id}");
    eventually("it is seen", || sh!("getfattr -d {mount}/guarded.raw").contains("x_fixed=\"f\""));
    assert!(fails!("getfattr -n {property}.x_secret {mount}/guarded.raw").contains("No such attribute"));
    let record: Value = crate::harness::json(&sh!("cat {mount}/.glancefs/images/{id}.json"));
    assert_eq!((record.get("x_secret"), &record["x_fixed"]), (None, &json!("f")));
    for line in [
        format!("setfattr -n {property}.x_fixed -v other {mount}/guarded.raw"),
        format!("setfattr -x {property}.x_fixed {mount}/guarded.raw"),
        format!("setfattr -n {property}.x_secret -v mine {mount}/guarded.raw"),
    ] {
        let said = fails!("{line}");
        assert!(said.contains("Operation not permitted"), "{line}: {said}");
    }
    // A change that succeeds would take `x_secret` away: Glance writes back what the caller can read.
    let record = cloud.record(&id);
    assert_eq!((&record["x_secret"], &record["x_fixed"]), (&json!("s"), &json!("f")));
}

#[test]
fn a_compressed_image_and_a_hint_to_its_base_go_with_the_data() {
    let cloud = Cloud::open();
    let base = cloud.image("base.raw", &pattern(5, 1000));
    let mount = cloud.mount("");
    let file = mount.beside().file("compressed", pattern(6, 200_000));
    sh!("exec 3> {mount}/packed.gz
         setfattr -n user.glance.container_format -v compressed {mount}/packed.gz
         setfattr -n user.glance.base_image_ref -v {base} {mount}/packed.gz
         gzip -c {file} >&3; exec 3>&-");
    assert_eq!(cloud.only("packed.gz")["container_format"], "compressed");
    sh!("zcat < {mount}/packed.gz | cmp - {file}");
}
