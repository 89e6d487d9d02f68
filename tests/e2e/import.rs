//! New images other than by an upload through a mount: import, registered locations, copies to other stores.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Cloud, Folder, Outcome, PROGRAM, background_with, eventually, json as parse, pattern, run_with, sh,
};

#[track_caller]
fn glancefs(cloud: &Cloud, line: &str) -> Outcome {
    run_with(&format!("{PROGRAM} {line}"), &cloud.variables(None))
}

#[test]
fn the_cloud_fetches_an_image_by_itself() {
    let cloud = Cloud::of_stores();
    let content = pattern(400, 3_000_000);
    let url = cloud.offer("web.raw", &content);
    let outcome =
        glancefs(cloud, &format!("import from-web {url} --property os_distro=debian --visibility private"));
    assert!(outcome.stderr.contains("from-web: "), "progress: {outcome}");
    let said = outcome.expect_success();
    let record = cloud.only("from-web");
    assert!(said.contains("active, 2.9 MiB") && said.contains(record["id"].as_str().unwrap()), "{said}");
    assert_eq!((&record["os_distro"], &record["visibility"]), (&json!("debian"), &json!("private")));
    assert_eq!((&record["disk_format"], &record["stores"]), (&json!("raw"), &json!("file")));
    let mount = cloud.mount("");
    assert!(mount.read("from-web") == content);

    let tasks = glancefs(cloud, &format!("tasks {mount}/from-web")).expect_success();
    assert!(tasks.contains("success  api_image_import"), "{tasks}");
    let tasks = parse(&glancefs(cloud, "tasks from-web --json").expect_success());
    assert_eq!(tasks[0]["status"], "success");
}

#[test]
fn an_import_that_fails_tells_why_and_leaves_no_record() {
    let cloud = Cloud::of_stores();
    let missing = cloud.offer("gone.raw", b"") + "-no";
    let told = glancefs(cloud, &format!("import fails-web {missing} --disk-format raw")).expect_failure();
    assert!(told.contains("Task failed") && told.contains("deleted again"), "{told}");
    assert_eq!(cloud.named("fails-web"), Vec::<Value>::new());

    // Glance does not fetch from addresses of its own network.
    let told = glancefs(cloud, "import fails-filter http://127.0.0.2:80/x.raw").expect_failure();
    assert!(told.contains("filtering"), "{told}");
    assert_eq!(cloud.named("fails-filter"), Vec::<Value>::new());

    let told = glancefs(cloud, "import fails-format http://127.0.0.1/x.img").expect_failure();
    assert!(told.contains("--disk-format"), "{told}");
    let url = cloud.offer("fails-store.raw", b"x");
    let told = glancefs(cloud, &format!("import fails-store {url} --store nowhere")).expect_failure();
    assert!(told.contains("nowhere") && told.contains("deleted again"), "{told}");
    assert_eq!(cloud.named("fails-store"), Vec::<Value>::new());
}

#[test]
fn a_file_is_staged_and_imported_into_several_stores() {
    let cloud = Cloud::of_stores();
    let folder = Folder::new("stage");
    let content = pattern(401, 5_000_000);
    let file = folder.file("staged.raw", &content);
    let outcome = glancefs(cloud, &format!("import --stage {file} --store file --store file2"));
    assert!(outcome.succeeded(), "{outcome}");
    let record = cloud.only("staged.raw");
    assert_eq!((&record["stores"], &record["size"]), (&json!("file,file2"), &json!(5_000_000)));
    let mount = cloud.mount("");
    assert!(mount.read("staged.raw") == content);
    glancefs(cloud, &format!("import other-name --stage {file} --no-wait")).expect_success();
    eventually("it becomes active", || cloud.named("other-name")[0]["status"] == "active");
}

#[test]
fn a_failed_import_of_staged_data_is_cleaned_up() {
    let cloud = Cloud::of_stores();
    let folder = Folder::new("stage");
    let file = folder.file("no-qcow2.raw", pattern(402, 300_000));
    let line = format!("import stuck --stage {file} --disk-format qcow2");
    let told = glancefs(cloud, &line).expect_failure();
    // Glance leaves such an image in `importing` for ever.
    assert!(told.contains("deleted again"), "{told}");
    assert_eq!(cloud.named("stuck"), Vec::<Value>::new());
    let told = glancefs(cloud, "import --stage /dev/null").expect_failure();
    assert!(told.contains("no regular file"), "{told}");
}

#[test]
fn an_interrupted_staging_leaves_no_record() {
    let cloud = Cloud::of_stores();
    let folder = Folder::new("stage");
    let file = folder.path("large.raw");
    std::fs::File::create(&file).unwrap().set_len(4 << 30).unwrap();
    let line = format!("exec {PROGRAM} import interrupted --stage {file}");
    let running = background_with(&line, &cloud.variables(None));
    eventually("it is being staged", || {
        cloud.named("interrupted").first().is_some_and(|record| record["status"] == "uploading")
    });
    running.signal(Signal::INT);
    let outcome = running.finish();
    let told = outcome.expect_failure();
    assert!(told.contains("interrupted") && told.contains("deleted again"), "{told}");
    assert_eq!(cloud.named("interrupted"), Vec::<Value>::new());
}

#[test]
fn ctrl_c_says_what_goes_on_at_the_server() {
    let cloud = Cloud::of_stores();
    // The HTTP server waits for somebody who writes into it.
    let url = cloud.offer("endless.raw", b"");
    let pipe = cloud.folder().join("files/data/endless.raw");
    sh!("rm {0} && mkfifo {0}", pipe.display());
    let line = format!("exec {PROGRAM} import endless {url}");
    let running = background_with(&line, &cloud.variables(None));
    let task = || {
        let named = cloud.named("endless");
        named.first().and_then(|record| record["os_glance_import_task"].as_str().map(str::to_owned))
    };
    eventually("it is importing", || task().is_some_and(|task| !task.is_empty()));
    // The answer to the order has to reach the command.
    std::thread::sleep(Duration::from_secs(1));
    running.signal(Signal::INT);
    let outcome = running.finish();
    let id = cloud.named("endless")[0]["id"].as_str().unwrap().to_owned();
    let told = outcome.expect_failure();
    assert!(told.contains("goes on") && told.contains(&format!("glancefs tasks {id}")), "{told}");
    sh!("timeout 20 sh -c ': > {}'", pipe.display());
}

#[test]
fn an_address_is_registered_as_an_image() {
    let cloud = Cloud::of_stores();
    let content = pattern(403, 400_000);
    let url = cloud.offer("registered.raw", &content);
    let said = glancefs(cloud, &format!("register at-its-place {url}")).expect_success();
    assert!(said.contains("active"), "{said}");
    let record = cloud.only("at-its-place");
    assert_eq!(record["size"], 400_000);
    let mount = cloud.mount("");
    assert!(mount.read("at-its-place") == content);
    let told = glancefs(cloud, "register nowhere http://127.0.0.2:80/x.raw").expect_failure();
    assert!(told.contains("deleted again"), "{told}");
    assert_eq!(cloud.named("nowhere"), Vec::<Value>::new());
}

#[test]
fn an_image_is_copied_to_another_store_and_the_mount_shows_it() {
    let cloud = Cloud::of_stores();
    let content = pattern(404, 2_000_000);
    let id = cloud.image("copied.raw", &content);
    let mount = cloud.mount("--metadata-ttl 1h");
    assert_eq!(mount.xattr("copied.raw", "user.glance.stores"), "file");
    let image = mount.path("copied.raw");
    let said = glancefs(cloud, &format!("copy {image} --to-store file2")).expect_success();
    assert!(said.contains("in file,file2") || said.contains("in file, file2"), "{said}");
    assert_eq!(cloud.record(&id)["stores"], "file,file2");
    assert_eq!(mount.xattr("copied.raw", "user.glance.stores"), "file,file2");
    let said = glancefs(cloud, &format!("copy {id} --to-store file2")).expect_success();
    assert!(said.contains("already"), "{said}");
    let told = glancefs(cloud, &format!("copy {id} --to-store nowhere")).expect_failure();
    assert!(told.contains("nowhere"), "{told}");
    glancefs(cloud, &format!("uncopy {image} --from-store file")).expect_success();
    assert_eq!(mount.xattr("copied.raw", "user.glance.stores"), "file2");
    assert!(mount.read("copied.raw") == content);
    let told = glancefs(cloud, &format!("uncopy {id} --from-store file2")).expect_failure();
    assert!(told.contains("HTTP 403"), "{told}");
    let told = glancefs(cloud, &format!("uncopy {id} --from-store file")).expect_failure();
    assert!(told.contains("it is in: file2"), "{told}");
    let queued = cloud.reserve(json!({"name": "copied-queued.raw"}));
    let told = glancefs(cloud, &format!("copy {queued} --to-store file2")).expect_failure();
    assert!(told.contains("HTTP 409"), "{told}");
}

#[test]
fn copying_is_refused_to_users_with_the_reason() {
    let cloud = Cloud::keystone();
    let id = cloud.image("copy-of-a-user.raw", b"x");
    let line = format!("{PROGRAM} copy {id} --to-store elsewhere");
    let told = run_with(&line, &cloud.variables(Some("alice"))).expect_failure();
    assert!(told.contains("HTTP 40"), "{told}");
}
