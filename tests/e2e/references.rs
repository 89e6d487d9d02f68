//! Images named by id, name, address and path; and what a mount's source may be.

use serde_json::json;

use crate::harness::{Cloud, Mount, Outcome, PROGRAM, eventually, fails, pattern, run_with, sh};

/// `glancefs LINE` as this user of the cloud.
#[track_caller]
fn by(cloud: &Cloud, user: &str, line: &str) -> Outcome {
    run_with(&format!("{PROGRAM} {line}"), &cloud.variables(Some(user)))
}

#[test]
fn an_image_is_named_by_id_name_address_or_path() {
    let cloud = Cloud::keystone();
    let id = cloud.image("referred.raw", b"x");
    let mount = cloud.mount("");
    let url = mount.xattr("referred.raw", "user.glance.url");
    assert_eq!(url, format!("{}/v2/images/{id}", cloud.url));
    let v1 = format!("{}/v1/images/{id}", cloud.url);
    let paths = [mount.path("referred.raw"), mount.path(&format!(".by-id/{id}"))];
    for reference in [id.as_str(), "referred.raw", &url, &v1, &paths[0], &paths[1]] {
        by(cloud, "alice", &format!("tasks {reference}")).expect_success();
    }
    // A path is one from the place where it is typed, too.
    run_with(&format!("cd {mount} && {PROGRAM} tasks referred.raw"), &cloud.variables(None)).expect_success();
    let told = by(cloud, "alice", "tasks no-such-image").expect_failure();
    assert!(told.contains("no image has the name"), "{told}");
    let told = by(cloud, "alice", "tasks /no/such/path").expect_failure();
    assert!(told.contains("no such file"), "{told}");
}

#[test]
fn an_ambiguous_name_is_an_error_that_lists_the_ids() {
    let cloud = Cloud::keystone();
    let ids = [cloud.image("twice.raw", b"1"), cloud.image("twice.raw", b"2")];
    let told = by(cloud, "alice", "deactivate twice.raw").expect_failure();
    assert!(ids.iter().all(|id| told.contains(id)), "{told}");
    assert!(ids.iter().all(|id| cloud.record(id)["status"] == "active"));
    let mount = cloud.mount_later("");
    let told = mount.try_up_with(":twice.raw").expect_failure();
    assert!(ids.iter().all(|id| told.contains(id)), "{told}");
}

#[test]
fn a_token_never_goes_to_another_glance_than_the_one_logged_in_to() {
    use std::io::Read;
    let cloud = Cloud::keystone();
    let id = cloud.image("foreign.raw", b"x");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = format!("http://{}/v2/images/{id}", listener.local_addr().unwrap());
    let told = by(cloud, "alice", &format!("tasks {foreign}")).expect_failure();
    assert!(told.contains("log in to that cloud") && told.contains("--endpoint"), "{told}");
    let told = cloud.mount_later("").try_up_with(&foreign).expect_failure();
    assert!(told.contains("log in to that cloud"), "{told}");
    listener.set_nonblocking(true).unwrap();
    if let Ok((mut connection, _)) = listener.accept() {
        let mut sent = String::new();
        let _ = connection.read_to_string(&mut sent);
        panic!("something was sent there: {sent}");
    }
}

#[test]
fn a_path_of_another_clouds_mount_is_refused_with_a_cure() {
    let (ours, other) = (Cloud::keystone(), Cloud::open());
    let id = other.image("elsewhere.raw", b"x");
    let mount = other.mount("");
    let told = by(ours, "alice", &format!("deactivate {mount}/elsewhere.raw")).expect_failure();
    assert!(told.contains(&other.url) && told.contains("--os-cloud"), "{told}");
    assert_eq!(other.record(&id)["status"], "active");
}

#[test]
fn a_glance_without_tokens_is_named_by_the_address_of_an_image() {
    let cloud = Cloud::open();
    let id = cloud.image("addressed.raw", b"x");
    sh!("{PROGRAM} tasks --os-auth-type none {}/v2/images/{id}", cloud.url);
    let told = fails!("OS_TOKEN=hush {PROGRAM} tasks {}/v2/images/{id}", cloud.url);
    assert!(told.contains("--endpoint") && !told.contains("hush"), "{told}");
}

/// A mount of `source`; the options keep it apart.
fn mounted(variables: Vec<(String, String)>, options: &str) -> Mount {
    let mount = Mount::new(variables, options);
    mount.up();
    mount
}

#[test]
fn one_image_is_mounted_as_the_only_file() {
    let cloud = Cloud::keystone();
    let content = pattern(310, 3_000_000);
    let id = cloud.image("single.raw", &content);
    let other = cloud.image("not-this.raw", b"y");
    let file = ("OS_CLIENT_CONFIG_FILE".to_owned(), cloud.folder().join("clouds.yaml").display().to_string());
    let url = format!("{}/v2/images/{id}", cloud.url);
    for (source, variables) in [
        (format!("alice:{id}"), vec![file.clone()]),
        ("alice:single.raw".into(), vec![file.clone()]),
        (":single.raw".into(), cloud.variables(Some("alice"))),
        (url, cloud.variables(Some("alice"))),
    ] {
        let mount = mounted(variables, &format!("--metadata-ttl 1s {source}"));
        assert_eq!(mount.names(), ["single.raw"], "{source}");
        assert!(mount.read("single.raw") == content, "{source}");
        assert!(mount.read(&format!(".by-id/{id}")) == content);
        assert!(fails!("cat {mount}/not-this.raw").contains("No such file"));
        assert!(fails!("cat {mount}/.by-id/{other}").contains("No such file"));
        assert!(fails!("touch {mount}/new.raw").contains("Operation not permitted"));
    }
}

#[test]
fn the_mount_of_one_image_follows_renames_and_the_end_of_the_image() {
    let cloud = Cloud::open();
    let id = cloud.image("follows.raw", &pattern(311, 2_000_000));
    let mount = mounted(cloud.variables(None), &format!("--metadata-ttl 1s --allow-delete :{id}"));
    cloud.set(&id, "name", json!("followed.raw"));
    eventually("the new name", || mount.names() == ["followed.raw"]);
    sh!("mv {mount}/followed.raw {mount}/moved.raw");
    assert_eq!(cloud.record(&id)["name"], "moved.raw");
    assert_eq!(mount.names(), ["moved.raw"]);
    let held = std::fs::File::open(mount.path("moved.raw")).unwrap();
    cloud.delete(&id);
    eventually("it is gone", || mount.names().is_empty());
    let error = std::os::unix::fs::FileExt::read_at(&held, &mut [0; 4096], 1_900_000).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
}

#[test]
fn the_saved_list_of_a_cloud_is_not_that_of_one_image() {
    let cloud = Cloud::new("none", "");
    let first = cloud.image("first.raw", b"1");
    cloud.image("second.raw", b"2");
    let mount = cloud.mount("--allow-stale");
    mount.down();
    let one = mount.beside().path("one");
    std::fs::create_dir(&one).unwrap();
    let options = format!("--cache-dir {0}/cache --spool-dir {0}/spool-one", mount.beside());
    run_with(&format!("{PROGRAM} mount {options} :{first} {one}"), &cloud.variables(None)).expect_success();
    let listed = sh!("ls {one}");
    sh!("{PROGRAM} umount {one}");
    assert_eq!(listed, "first.raw");
    cloud.stop("glance");
    mount.up();
    assert_eq!(mount.names(), ["first.raw", "second.raw"]);
    mount.down();
    let line = format!("{PROGRAM} mount {options} --allow-stale :{first} {one}");
    run_with(&line, &cloud.variables(None)).expect_success();
    let listed = sh!("ls {one}");
    sh!("{PROGRAM} umount {one}");
    assert_eq!(listed, "first.raw");
}

#[test]
fn a_mounts_source_is_a_cloud_or_the_address_of_a_glance() {
    let cloud = Cloud::keystone();
    cloud.image("sourced.raw", b"x");
    let file = ("OS_CLIENT_CONFIG_FILE".to_owned(), cloud.folder().join("clouds.yaml").display().to_string());
    let mount = mounted(vec![file.clone()], "alice");
    assert!(mount.names().contains(&"sourced.raw".to_owned()));
    let told = Mount::new(vec![file], "--os-cloud bob alice").try_up().expect_failure();
    assert!(told.contains("leave out one of them"), "{told}");

    let open = Cloud::open();
    open.image("sourced-open.raw", b"x");
    let mount = mounted(vec![("OS_AUTH_TYPE".into(), "none".into())], &format!("{}/v2", open.url));
    assert!(mount.names().contains(&"sourced-open.raw".to_owned()));
    let told = Mount::new(vec![], &format!("--os-auth-type none {}/v2/images/", open.url)).try_up();
    assert!(told.expect_failure().contains("v2/images/<id>"));
    let told = Mount::new(open.variables(None), "--allow-overwrite :sourced-open.raw").try_up();
    assert!(told.expect_failure().contains("--allow-overwrite"));
    let told = Mount::new(open.variables(None), ":no-such.raw").try_up().expect_failure();
    assert!(told.contains("no image has the name"), "{told}");
}
