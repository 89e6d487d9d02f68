//! A cloud that speaks v1 of the Image API only, through real mounts: the usual commands, and what is different.

use std::io::{Read, Write};
use std::sync::LazyLock;

use serde_json::json;

use crate::harness::{
    Cloud, Gate, Mount, Outcome, PROGRAM, background, eventually, fails, json as parse, pattern, run,
    run_with, sh,
};
use crate::metadata::set_with;

/// Glance 15. It has v2 as well, by which the tests look at what there is.
fn cloud() -> &'static Cloud {
    static CLOUD: LazyLock<Cloud> = LazyLock::new(|| Cloud::new("none", "--api v1 --stores file,http"));
    &CLOUD
}

#[track_caller]
fn mount(options: &str) -> Mount {
    cloud().mount(&format!("--api-version 1 {options}"))
}

/// `glancefs LINE`, by v1.
#[track_caller]
fn glancefs(line: &str) -> Outcome {
    run_with(&format!("{PROGRAM} {line} --api-version 1"), &cloud().variables(None))
}

/// The address of an image of which less comes than was announced; served until the tests end.
fn short_of_bytes() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/short.raw", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nless");
        }
    });
    url
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
fn the_cloud_copies_an_image_from_an_address_by_v1() {
    let content = pattern(45, 3_000_000);
    let url = cloud().offer("v1-web.raw", &content);
    let outcome = glancefs(&format!("import v1-copied {url} --property os_distro=debian"));
    assert!(outcome.stderr.contains("v1-copied: "), "progress: {outcome}");
    let said = outcome.expect_success();
    let record = cloud().only("v1-copied");
    assert!(said.contains("active, 2.9 MiB") && said.contains(record["id"].as_str().unwrap()), "{said}");
    assert_eq!((&record["os_distro"], &record["disk_format"]), (&json!("debian"), &json!("raw")));
    assert!(mount("").read("v1-copied") == content);
    let said = glancefs(&format!("import v1-left-to-it {url} --no-wait")).expect_success();
    assert!(said.contains("goes on by itself") && !said.contains("tasks"), "{said}");
    eventually("it comes", || {
        cloud().named("v1-left-to-it").first().is_some_and(|image| image["status"] == "active")
    });
}

#[test]
fn a_copy_by_v1_that_fails_is_told_and_leaves_no_killed_image() {
    let missing = cloud().offer("v1-gone.raw", b"") + "-no";
    let told = glancefs(&format!("import v1-fails {missing} --disk-format raw")).expect_failure();
    assert!(told.contains("nothing is left of it") || told.contains("deleted again"), "{told}");
    assert!(cloud().named("v1-fails").is_empty());
    // It is announced with more bytes than come.
    let told = glancefs(&format!("import v1-cut {}", short_of_bytes())).expect_failure();
    assert!(told.contains("killed") && told.contains("deleted again"), "{told}");
    assert!(cloud().named("v1-cut").is_empty());
    let told = glancefs("import v1-odd nowhere --disk-format raw").expect_failure();
    assert!(told.contains("no URL"), "{told}");
}

#[test]
fn an_address_is_registered_by_v1() {
    let content = pattern(46, 400_000);
    let url = cloud().offer("v1-registered.raw", &content);
    let said = glancefs(&format!("register v1-at-its-place {url}")).expect_success();
    assert!(said.contains("active"), "{said}");
    assert_eq!(cloud().only("v1-at-its-place")["size"], 400_000);
    assert!(mount("").read("v1-at-its-place") == content);
    let told = glancefs(&format!("register v1-nowhere {url}-no --disk-format raw")).expect_failure();
    assert!(told.contains("HTTP 404") && told.contains("nothing is left"), "{told}");
    assert!(cloud().named("v1-nowhere").is_empty());
}

#[test]
fn an_image_is_shared_by_v1() {
    let id = cloud().image("v1-shared.raw", b"shared");
    let mount = mount("--metadata-ttl 1h");
    let image = mount.path("v1-shared.raw");
    let said = glancefs(&format!("members {image} add beta")).expect_success();
    assert!(said.contains("lists it") && !said.contains("accepts"), "{said}");
    assert_eq!(glancefs("members v1-shared.raw").expect_success(), "beta  accepted");
    let members = parse(&glancefs(&format!("members {id} --json")).expect_success());
    assert_eq!(members, json!([{"member_id": "beta", "status": "accepted"}]));
    assert_eq!(parse(&mount.xattr("v1-shared.raw", "user.glance.members")), members);
    let url = format!("{}/v1/images/{id}", cloud().url);
    glancefs(&format!("members {url} remove beta")).expect_success();
    assert_eq!(glancefs(&format!("members {id}")).expect_success(), "");
    let told = glancefs(&format!("members {id} remove beta")).expect_failure();
    assert!(told.contains("HTTP 404"), "{told}");
}

#[test]
fn what_v1_does_not_have_is_refused_in_one_line_before_anything_is_done() {
    let id = cloud().image("v1-lacks.raw", b"lacks");
    let file = mount("").beside().path("none");
    for (line, lack) in [
        (format!("members {id} accept beta"), "accepting and rejecting"),
        (format!("members {id} reject beta"), "accepting and rejecting"),
        (format!("tasks {id}"), "tasks"),
        (format!("copy {id} --to-store http"), "copies to further stores"),
        (format!("uncopy {id} --from-store http"), "stores from which data are removed"),
        (format!("deactivate {id} {id}"), "deactivation of images"),
        (format!("reactivate {id}"), "deactivation of images"),
        (format!("import --stage {file}"), "staging area"),
        ("import v1-stores http://127.0.0.1/x.raw --store http".into(), "import into chosen stores"),
    ] {
        let outcome = glancefs(&line);
        assert_eq!((outcome.code(), outcome.stderr.lines().count()), (Some(1), 1), "{outcome}");
        assert!(outcome.stderr.contains(&format!("v1 of the Image API has no {lack}")), "{outcome}");
    }
    assert_eq!(cloud().record(&id)["status"], "active");
    assert!(cloud().named("v1-stores").is_empty());
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
    // By commands, too, and one image of it alone.
    run_with(&format!("{PROGRAM} members found.raw add beta"), &old.variables(None)).expect_success();
    let only = old.mount_later("");
    only.try_up_with(":found.raw").expect_success();
    assert!(only.read("found.raw") == bytes);
    assert!(old.requests("/v2/").is_empty());
    let v2 = old.mount_later("--api-version 2");
    let outcome = v2.try_up();
    assert!(outcome.stderr.contains("--api-version"), "{outcome}");
}

#[test]
fn a_glance_that_cannot_prefer_a_store_says_so_once_and_serves() {
    let bytes = pattern(48, 1_000_000);
    cloud().image("v1-preferred.raw", &bytes);
    // Version 2.5, as this Glance has it, ignores what it does not know.
    for (version, words) in [(1, "v1 of the Image API"), (2, "does not know this wish")] {
        let mount = cloud().mount(&format!("--api-version {version} --prefer-store file,ceph"));
        assert!(mount.read("v1-preferred.raw") == bytes);
        assert!(mount.read("v1-preferred.raw") == bytes);
        let log = mount.log();
        assert_eq!(log.matches("--prefer-store file,ceph").count(), 1, "{log}");
        assert!(log.contains(words), "{log}");
    }
}

#[test]
fn whether_a_property_is_new_is_looked_at_where_v1_cannot_decide() {
    let id = cloud().image("v1-decided.raw", b"data");
    let mount = mount("--metadata-ttl 1h");
    let (file, name) = (mount.path("v1-decided.raw"), "user.glance.property.mine");
    assert_eq!(set_with("REPLACE", name, &file), "ENODATA");
    assert_eq!(set_with("CREATE", name, &file), "");
    assert_eq!(set_with("CREATE", name, &file), "EEXIST");
    assert_eq!(set_with("REPLACE", name, &file), "");
    assert_eq!(set_with("CREATE", "user.glance.name", &file), "EEXIST");
    // What another client did since, this mount does not know; its own answers are of now.
    cloud().set(&id, "theirs", json!("x"));
    assert_eq!(set_with("CREATE", "user.glance.property.theirs", &file), "EEXIST");
    assert_eq!(cloud().record(&id)["theirs"], "x");
    sh!("setfattr -x {name} {file}");
    assert!(fails!("setfattr -x {name} {file}").contains("No such attribute"));
    assert_eq!(set_with("REPLACE", name, &file), "ENODATA");
    let record = cloud().record(&id);
    assert_eq!((&record["mine"], &record["theirs"]), (&json!(null), &json!("x")));
}
