//! Images named by id, name, address and path; and what a mount's source may be.

use serde_json::json;

use crate::harness::{
    Cloud, Mount, Outcome, PROGRAM, eventually, fails, leave_out, pattern, run_with, sh, umount,
};

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
    let id = other.image("at-another.raw", b"x");
    let mount = other.mount("");
    let told = by(ours, "alice", &format!("deactivate {mount}/at-another.raw")).expect_failure();
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
    sh!("mv {mount}/followed.raw {mount}/moved-alone.raw");
    assert_eq!(cloud.record(&id)["name"], "moved-alone.raw");
    assert_eq!(mount.names(), ["moved-alone.raw"]);
    let held = std::fs::File::open(mount.path("moved-alone.raw")).unwrap();
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
    umount(&one);
    assert_eq!(listed, "first.raw");
    cloud.stop("glance");
    // How long an outage is waited for is not the matter here.
    mount.try_up_with("--timeout 2s").expect_success();
    assert_eq!(mount.names(), ["first.raw", "second.raw"]);
    mount.down();
    let line = format!("{PROGRAM} mount {options} --timeout 2s --allow-stale :{first} {one}");
    run_with(&line, &cloud.variables(None)).expect_success();
    let listed = sh!("ls {one}");
    umount(&one);
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

#[test]
fn an_image_of_a_mount_is_named_by_id_name_address_or_path() {
    let cloud = Cloud::open();
    let content = pattern(312, 300_000);
    let id = cloud.image("held.raw", &content);
    let slash = cloud.image("held/slash 5%.raw", &content);
    let mount = cloud.mount("");
    let on = |line: &str| run_with(&format!("cd / && {PROGRAM} {line} --mount {mount}"), &[]);
    let [v2, v1] = ["v2", "v1"].map(|version| format!("{}/{version}/images/{id}", cloud.url));
    let path = mount.path("held.raw");
    for image in
        [id.as_str(), "held.raw", &v2, &v1, &path, "'held/slash 5%.raw'", "'held%2Fslash 5%25.raw'", &slash]
    {
        let said = on(&format!("prefetch {image}")).expect_success();
        assert!(
            said.contains("verified (sha512)") && said.starts_with(&mount.to_string()),
            "{image}: {said}"
        );
        let said = on(&format!("evict {image}")).expect_success();
        assert!(said.contains("freed"), "{image}: {said}");
        let told = on(&format!("profile export {image}")).expect_failure();
        assert!(told.contains("no boot profile"), "{image}: {told}");
    }
    // Where nothing else is said, a path from the place where it is typed stays one.
    sh!("cd {mount} && {PROGRAM} prefetch held.raw");
    assert_eq!(mount.xattr("held.raw", "user.glancefs.verified"), "sha512");
    // Beside --mount a word is no file of the working directory.
    let other = cloud.mount("");
    sh!("cd {other} && {PROGRAM} prefetch held.raw --mount {mount}");
    assert_eq!(other.xattr("held.raw", "user.glancefs.cached_bytes"), "0");
}

#[test]
fn an_image_is_named_by_its_address_at_any_endpoint_of_the_mount() {
    let cloud = Cloud::open();
    let id = cloud.image("two-addresses.raw", &pattern(315, 100_000));
    let gate = crate::harness::Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {} --endpoint {}", cloud.url, gate.url()));
    for endpoint in [cloud.url.as_str(), &gate.url()] {
        sh!("{PROGRAM} prefetch --mount {mount} {endpoint}/v2/images/{id}");
    }
    let elsewhere = crate::harness::Gate::to(&cloud.url);
    let told = fails!("{PROGRAM} prefetch --mount {mount} {}/v2/images/{id}", elsewhere.url());
    assert!(told.contains("another Glance"), "{told}");
}

#[test]
fn what_a_mount_does_not_have_is_told_and_the_others_are_done() {
    // Nobody else's: other tests have images of strange names.
    let cloud = Cloud::new("none", "");
    let id = cloud.image("beside.raw", &pattern(313, 100_000));
    let first = cloud.image("doubled.raw", b"first");
    // The older one has the plain name, and Glance counts seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let ids = [first, cloud.image("doubled.raw", b"second")];
    let mount = cloud.mount("");
    let missing = "1f3c9a2b-0000-4000-8000-00000000dead";
    let long = "x".repeat(300);
    let elsewhere = format!("http://elsewhere:9292/v2/images/{id}");
    let outcome = run_with(
        &format!(
            "{PROGRAM} prefetch --mount {mount} no-such {missing} {long} {elsewhere} http://h/x .by-id beside.raw"
        ),
        &[],
    );
    let told = outcome.expect_failure();
    for words in [
        "no-such: the mount at",
        &format!("{missing}: the mount at"),
        "has no image \"xxx",
        &format!("has the images of another Glance: {}", cloud.url),
        "v2/images/<id>",
        "has no image \".by-id\"",
        "1 of 7 images in the cache, 6 failed",
    ] {
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
    assert_eq!(mount.xattr("beside.raw", "user.glancefs.verified"), "sha512");
    // Of several images of one name each has its file name.
    let short = format!("doubled.raw~{}", &ids[1][..8]);
    for (name, size) in [("doubled.raw", "5 B"), (&short, "6 B")] {
        let said = sh!("{PROGRAM} prefetch --mount {mount} {name}");
        assert!(said.contains(size), "{said}");
    }
    let told = fails!("{PROGRAM} evict --mount /tmp beside.raw");
    assert!(told.contains("no glancefs is mounted at /tmp"), "{told}");
}

#[test]
fn the_only_mount_of_the_user_is_found() {
    if !crate::harness::is_root() {
        leave_out!("becoming another user needs root");
    }
    let cloud = Cloud::open();
    let id = cloud.image("alone-on-mount.raw", &pattern(314, 100_000));
    // A user with no other mounts: other people's stay out of it.
    let user = 100_000_000 + std::process::id();
    let mounts = [cloud.mount_later("--allow-other"), cloud.mount_later("--allow-other")];
    let up = |mount: &Mount| {
        let folder = mount.beside();
        // The folders are the tests' own and closed to others.
        sh!("chmod 755 $(dirname {folder}) {folder}");
        let apart = format!(
            "--cache-dir {folder}/cache --spool-dir {folder}/spool --log-file {folder}/log --allow-other"
        );
        run_with(&format!("setpriv --ruid {user} {PROGRAM} mount {apart} {mount}"), &cloud.variables(None))
            .expect_success();
    };
    let program = mounts[0].beside().path("program");
    sh!("cp {PROGRAM} {program} && chmod 755 {program}");
    let user_types = |line: &str| {
        run_with(
            &format!("cd / && setpriv --reuid {user} --regid {user} --clear-groups {program} {line}"),
            &[],
        )
    };
    up(&mounts[0]);
    for image in ["alone-on-mount.raw", &id, &format!("{}/v2/images/{id}", cloud.url)] {
        let said = user_types(&format!("prefetch {image}")).expect_success();
        assert!(said.starts_with(&mounts[0].to_string()) && said.contains("verified (sha512)"), "{said}");
    }
    up(&mounts[1]);
    let told = user_types("prefetch alone-on-mount.raw").expect_failure();
    assert!(told.contains("several mounts") && told.contains("--mount"), "{told}");
    // Paths, and images of a mount that is named, need no guess.
    user_types(&format!("prefetch {}/alone-on-mount.raw", mounts[1])).expect_success();
    user_types(&format!("prefetch alone-on-mount.raw --mount {}", mounts[1])).expect_success();
    mounts.iter().for_each(Mount::down);
    let told = user_types("profile export alone-on-mount.raw").expect_failure();
    assert!(told.contains("no glancefs mount here"), "{told}");
}
