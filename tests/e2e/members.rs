//! Members, stores, tasks, locations, states and the quota: what `glancefs` tells and changes besides files.

use serde_json::{Value, json};

use crate::harness::{
    Cloud, Mount, Outcome, PROGRAM, eventually, fails, json as parse, pattern, run_with, sh,
};

/// `glancefs LINE` as this user of the cloud.
#[track_caller]
fn by(cloud: &Cloud, user: &str, line: &str) -> Outcome {
    run_with(&format!("{PROGRAM} {line}"), &cloud.variables(Some(user)))
}

/// The id of the project that a user of Keystone logs in to.
fn project(cloud: &Cloud, user: &str) -> String {
    let token = cloud.token(user);
    let keystone = keystone(cloud);
    let answer =
        sh!("curl -sSf -m 30 --noproxy '*' -H 'X-Auth-Token: {token}' -H 'X-Subject-Token: {token}' \
         {keystone}/auth/tokens");
    parse(&answer)["token"]["project"]["id"].as_str().unwrap().to_owned()
}

fn keystone(cloud: &Cloud) -> String {
    let clouds = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    clouds.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap().to_owned()
}

fn mount_of(cloud: &Cloud, user: &str, options: &str) -> Mount {
    let mount = Mount::new(cloud.variables(Some(user)), options);
    mount.up();
    mount
}

#[test]
fn df_shows_the_quota_of_the_project() {
    let cloud = Cloud::new("keystone", "--set DEFAULT.use_keystone_limits=true");
    let keystone = keystone(&cloud);
    let call = |method: &str, path: &str, body: &Value| {
        parse(&sh!(
            "curl -sSf -m 30 --noproxy '*' -X {method} -H 'X-Auth-Token: {}' -H 'Content-Type: application/json' \
             -d '{body}' {keystone}/{path}",
            cloud.token("admin")
        ))
    };
    let service = call("GET", "services?type=image", &json!({}))["services"][0]["id"].clone();
    let limits: Vec<_> = [
        ("image_size_total", 100),
        ("image_stage_total", 100),
        ("image_count_total", 20),
        ("image_count_uploading", 20),
    ]
    .into_iter()
    .map(|(name, limit)| {
        json!({"service_id": service, "region_id": "RegionOne", "resource_name": name, "default_limit": limit})
    })
    .collect();
    call("POST", "registered_limits", &json!({"registered_limits": limits}));
    cloud.image("counted.raw", &pattern(304, 7 << 20));
    let mount = cloud.mount("--metadata-ttl 1s");
    // `df` waits for an answer of 2 s at most.
    eventually("df shows the quota", || {
        sh!("df -BM --output=size,avail {mount} | tail -n 1 | xargs") == "100M 93M"
    });
    assert_eq!(sh!("df --output=itotal,iused {mount} | tail -n 1 | xargs"), "20 1");
    // Without an answer there is no quota, and df is told all the same.
    cloud.stop("glance");
    eventually("the quota is not known any more", || {
        sh!("df -BM --output=avail {mount} | tail -n 1").trim() != "93M"
    });
}

#[test]
fn an_image_is_shared_accepted_and_listed_by_the_other_project() {
    let cloud = Cloud::keystone();
    let content = pattern(300, 100_000);
    let id = cloud.image_of(json!({"name": "for-bob.raw", "visibility": "shared"}), &content);
    let bob = project(cloud, "bob");
    let alices = cloud.mount("");
    let image = alices.path("for-bob.raw");

    by(cloud, "alice", &format!("members {image} add {bob}")).expect_success();
    assert_eq!(by(cloud, "alice", &format!("members {id}")).expect_success(), format!("{bob}  pending"));
    let members = parse(&alices.xattr("for-bob.raw", "user.glance.members"));
    assert_eq!((&members[0]["member_id"], &members[0]["status"]), (&json!(bob), &json!("pending")));
    let again = by(cloud, "alice", &format!("members {image} add {bob}")).expect_failure();
    assert!(again.contains("a member already"), "{again}");

    // The member may read it at once, and lists it when it has accepted.
    let bobs = mount_of(cloud, "bob", "--metadata-ttl 1s");
    assert!(!bobs.names().contains(&"for-bob.raw".to_owned()));
    assert!(bobs.read(&format!(".by-id/{id}")) == content);
    by(cloud, "bob", &format!("members {id} accept")).expect_success();
    eventually("bob lists it", || bobs.names().contains(&"for-bob.raw".to_owned()));
    let status = by(cloud, "alice", &format!("members {image} --json")).expect_success();
    assert_eq!(parse(&status)[0]["status"], "accepted");
    by(cloud, "bob", &format!("members {}/for-bob.raw reject", bobs)).expect_success();
    eventually("bob lists it no more", || !bobs.names().contains(&"for-bob.raw".to_owned()));

    by(cloud, "alice", &format!("members {image} remove {bob}")).expect_success();
    assert_eq!(by(cloud, "alice", &format!("members {image}")).expect_success(), "");
    let gone = by(cloud, "bob", &format!("members {id}")).expect_failure();
    assert!(gone.contains("no such image"), "{gone}");
}

#[test]
fn only_shared_images_have_members_and_only_owners_change_them() {
    let cloud = Cloud::keystone();
    let private = cloud.image_of(json!({"name": "not-shared.raw", "visibility": "private"}), b"x");
    let community = cloud.image_of(json!({"name": "community.raw", "visibility": "community"}), b"x");
    let bob = project(cloud, "bob");
    let told = by(cloud, "alice", &format!("members {private} add {bob}")).expect_failure();
    assert!(told.contains("visibility shared"), "{told}");
    let told = by(cloud, "bob", &format!("members {community} add {bob}")).expect_failure();
    assert!(told.contains("HTTP 40"), "{told}");
    let told = by(cloud, "alice", &format!("members {private} add")).expect_failure();
    assert!(told.contains("name the project"), "{told}");
    let mount = cloud.mount("");
    assert!(
        fails!("getfattr -n user.glance.members {mount}/not-shared.raw").contains("No such attribute"),
        "an image without members"
    );
}

#[test]
fn a_deactivated_image_cannot_be_read_until_it_is_reactivated() {
    let cloud = Cloud::keystone();
    let content = pattern(301, 70_000);
    let id = cloud.image("switched.raw", &content);
    let mount = cloud.mount("--metadata-ttl 1h");
    let image = mount.path("switched.raw");
    assert_eq!(
        by(cloud, "alice", &format!("deactivate {image}")).expect_success(),
        format!("{image}: deactivated")
    );
    // The mount looked again: its list is an hour old.
    assert_eq!(mount.xattr("switched.raw", "user.glance.status"), "deactivated");
    assert!(fails!("cat {image}").contains("Permission denied"));
    by(cloud, "alice", &format!("reactivate {image} {id}")).expect_success();
    assert_eq!(mount.xattr("switched.raw", "user.glance.status"), "active");
    assert!(mount.read("switched.raw") == content);
    let told = by(cloud, "bob", &format!("deactivate {id}")).expect_failure();
    assert!(told.contains("no such image"), "{told}");
    let queued = cloud.reserve(json!({"name": "switched-queued.raw"}));
    let told = by(cloud, "alice", &format!("deactivate {queued}")).expect_failure();
    assert!(told.contains("HTTP 403") || told.contains("HTTP 409"), "{told}");
}

#[test]
fn the_stores_are_told_and_chosen() {
    let cloud = Cloud::of_stores();
    let mount = cloud.mount("--store file2");
    let stores = parse(&sh!("getfattr --absolute-names --only-values -n user.glance.stores {mount}"));
    let ids: Vec<_> = stores.as_array().unwrap().iter().map(|store| store["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["file", "file2", "http"]);
    assert_eq!((&stores[0]["default"], &stores[0]["type"]), (&json!(true), &json!("file")));
    assert!(fails!("getfattr -n user.glance.stores {mount}/.by-id").contains("No such attribute"));
    let file = mount.beside().file("x.raw", pattern(302, 50_000));
    sh!("cp {file} {mount}/chosen.raw");
    assert_eq!(cloud.only("chosen.raw")["stores"], "file2");

    let wrong = cloud.mount("--store nowhere");
    assert!(fails!("cp {file} {wrong}/nowhere.raw").contains("Invalid argument"));
    assert!(wrong.errors().contains("nowhere"), "{}", wrong.errors());
    assert_eq!(cloud.named("nowhere.raw"), Vec::<Value>::new());
}

#[test]
fn locations_are_told_to_who_asks_for_them() {
    let cloud = Cloud::open();
    let file = crate::harness::Folder::new("locations");
    let content = file.file("x", pattern(303, 4000));
    cloud.http_image("located.raw", &content, &[]);
    let mount = cloud.mount("");
    for name in ["locations", "direct_url"] {
        assert!(fails!("getfattr -n user.glance.{name} {mount}/located.raw").contains("No such attribute"));
    }
    let open = cloud.mount("--show-locations");
    let locations = parse(&open.xattr("located.raw", "user.glance.locations"));
    assert!(locations[0]["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{locations}");
    // `getfattr -d`, and so `cp -a`, does not carry them away.
    assert!(!sh!("getfattr -d {open}/located.raw").contains("127.0.0.1:"));
}

#[test]
fn who_may_not_see_locations_is_refused() {
    let cloud = Cloud::keystone();
    cloud.image("unlocated.raw", b"x");
    let mount = cloud.mount("--show-locations");
    assert!(fails!("getfattr -n user.glance.locations {mount}/unlocated.raw").contains("Permission denied"));
}
