//! What an image goes through as a file: reserved, filled, renamed, replaced, protected, deactivated, removed.

use serde_json::json;

use crate::harness::{Cloud, Mount, epoch, fails, is_root, leave_out, pattern, run, sh};

#[test]
fn protected_is_the_immutable_flag() {
    let cloud = Cloud::open();
    let id = cloud.image("life-immutable.raw", b"data");
    let mount = cloud.mount("--allow-delete");
    let file = mount.path("life-immutable.raw");
    let flags = || sh!("lsattr {file} | cut -d' ' -f1").contains('i');
    assert!(!flags());
    cloud.set(&id, "protected", json!(true));
    mount.remount();
    assert!(flags());
    assert!(fails!("rm -f {file}").contains("Operation not permitted"));
    // What somebody else allowed since is known at once.
    cloud.set(&id, "protected", json!(false));
    sh!("rm -f {file}");
    assert!(cloud.named("life-immutable.raw").is_empty());
}

#[test]
fn chattr_protects() {
    if !is_root() || !run("cd /tmp && f=$(mktemp) && chattr +i $f && chattr -i $f && rm $f").succeeded() {
        leave_out!("chattr +i needs CAP_LINUX_IMMUTABLE and a /tmp that has it");
    }
    let cloud = Cloud::open();
    let id = cloud.image("chattr.raw", b"data");
    let mount = cloud.mount("--allow-delete");
    let file = mount.path("chattr.raw");
    sh!("chattr +i {file}");
    assert_eq!(cloud.record(&id)["protected"], true);
    assert!(sh!("lsattr {file}").starts_with("----i"));
    assert!(fails!("rm -f {file}").contains("Operation not permitted"));
    assert!(fails!("chattr +a {file}").contains("not supported"));
    sh!("chattr -i {file} && rm -f {file}");
    assert!(cloud.named("chattr.raw").is_empty());
}

#[test]
fn a_name_is_taken_over_by_mv_only_with_the_option() {
    let cloud = Cloud::open();
    let old = cloud.image("taken.raw", b"old");
    let new = cloud.image_of(json!({"name": "life-new.raw", "os_distro": "debian"}), b"the new one");
    let mount = cloud.mount("");
    assert!(fails!("mv -f {mount}/life-new.raw {mount}/taken.raw").contains("Operation not permitted"));
    assert!(mount.errors().contains("--allow-overwrite"));
    sh!(
        "mv {mount}/life-new.raw {mount}/life-moved.raw && cmp {mount}/life-moved.raw <(printf 'the new one')"
    );
    assert_eq!(cloud.record(&new)["name"], "life-moved.raw");
    let mount = cloud.mount("--allow-overwrite");
    cloud.set(&old, "protected", json!(true));
    mount.remount();
    assert!(fails!("mv -f {mount}/life-moved.raw {mount}/taken.raw").contains("Operation not permitted"));
    assert_eq!(cloud.record(&new)["name"], "life-moved.raw");
    cloud.set(&old, "protected", json!(false));
    sh!("mv -f {mount}/life-moved.raw {mount}/taken.raw && cmp {mount}/taken.raw <(printf 'the new one')");
    let record = cloud.only("taken.raw");
    assert_eq!((&record["id"], &record["os_distro"]), (&json!(new), &json!("debian")));
    assert_eq!(cloud.call("GET", &format!("/v2/images/{old}"), None).0, 404);
    // RENAME_NOREPLACE.
    cloud.image("life-kept.raw", b"kept");
    mount.remount();
    sh!("mv -n {mount}/taken.raw {mount}/life-kept.raw || true");
    assert_eq!(
        (cloud.only("life-kept.raw")["size"].clone(), cloud.only("taken.raw")["size"].clone()),
        (json!(4), json!(11))
    );
}

#[test]
fn what_is_not_ours_is_neither_removed_nor_changed() {
    let cloud = Cloud::keystone();
    let id = cloud.image_of(json!({"name": "theirs.raw", "visibility": "community"}), b"theirs");
    let mount = Mount::new(cloud.variables(Some("bob")), "--allow-delete --allow-overwrite");
    mount.up();
    let file = format!("{mount}/.by-id/{id}");
    sh!("cat {file}");
    assert!(fails!("rm -f {file}").contains("Permission denied"));
    assert!(fails!("setfattr -n user.glance.property.a -v b {file}").contains("Permission denied"));
    assert!(fails!("setfattr -n user.glance.status -v deactivated {file}").contains("Permission denied"));
    // Only an administrator publishes.
    let ours = Mount::new(cloud.variables(None), "");
    ours.up();
    let said = fails!("setfattr -n user.glance.visibility -v public {ours}/.by-id/{id}");
    assert!(said.contains("Permission denied"), "{said}");
    assert_eq!(cloud.record(&id)["visibility"], "community");
    let admin = Mount::new(cloud.variables(Some("admin")), "");
    admin.up();
    sh!("setfattr -n user.glance.visibility -v public {admin}/.by-id/{id}");
    sh!("setfattr -n user.glance.owner -v somebody {admin}/.by-id/{id}");
    let record = cloud.record(&id);
    assert_eq!((&record["visibility"], &record["owner"]), (&json!("public"), &json!("somebody")));
}

#[test]
fn an_overwrite_keeps_name_and_properties_and_removes_the_old_image_after() {
    let cloud = Cloud::open();
    let old = cloud.image_of(
        json!({"name": "golden.raw", "os_distro": "debian", "tags": ["golden"], "min_ram": 64, "protected": false}),
        &pattern(92, 200_000),
    );
    let mount = cloud.mount("--allow-overwrite");
    let from = mount.beside().file("new", pattern(93, 300_001));
    let careful = cloud.mount("");
    assert!(fails!("cp {from} {careful}/golden.raw").contains("Operation not permitted"));
    sh!("cp {from} {mount}/golden.raw && cmp {from} {mount}/golden.raw");
    let record = cloud.only("golden.raw");
    assert_eq!(
        (&record["os_distro"], &record["tags"], &record["min_ram"], &record["size"]),
        (&json!("debian"), &json!(["golden"]), &json!(64), &json!(300_001))
    );
    assert_ne!(record["id"], json!(old));
    assert_eq!(cloud.call("GET", &format!("/v2/images/{old}"), None).0, 404);
    // With cp -a, from another mount, its properties come along.
    cloud.image_of(json!({"name": "newer.raw", "os_distro": "ubuntu", "os_version": "26"}), b"newer");
    let there = cloud.mount("");
    sh!("cp -a {there}/newer.raw {mount}/golden.raw");
    let record = cloud.only("golden.raw");
    assert_eq!(
        (&record["os_distro"], &record["os_version"], &record["min_ram"]),
        (&json!("ubuntu"), &json!("26"), &json!(0))
    );
}

#[test]
fn an_image_is_deactivated_and_reactivated() {
    let cloud = Cloud::open();
    let id = cloud.image("withdrawn.raw", b"withdrawn");
    let mount = cloud.mount("");
    let file = mount.path("withdrawn.raw");
    sh!("setfattr -n user.glance.status -v deactivated {file}");
    assert_eq!(cloud.record(&id)["status"], "deactivated");
    assert!(fails!("cat {file}").contains("Permission denied"));
    assert_eq!(mount.xattr("withdrawn.raw", "user.glance.status"), "deactivated");
    sh!("setfattr -n user.glance.property.why -v 'a hole' {file}");
    sh!("setfattr -n user.glance.status -v active {file} && cmp {file} <(printf withdrawn)");
    assert_eq!(cloud.record(&id)["status"], "active");
    assert!(fails!("setfattr -n user.glance.status -v queued {file}").contains("Invalid argument"));
    assert!(fails!("setfattr -x user.glance.status {file}").contains("not permitted"));
}

#[test]
fn tools_that_set_mode_owner_and_times_end_well() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--allow-overwrite");
    let beside = mount.beside();
    let folder = beside.path("folder");
    sh!("mkdir {folder}; for i in 1 2 3; do head -c 100k /dev/urandom > {folder}/tool-$i.raw; done
         chmod 0600 {folder}/tool-1.raw; touch -d 2001-02-03 {folder}/tool-2.raw
         tar -C {folder} -cf {beside}/archive.tar .");
    for (number, line) in [
        format!("cp -p {folder}/tool-1.raw {mount}/tool-1.raw"),
        format!("cp -a {folder}/. {mount}/"),
        format!("install -m 0755 {folder}/tool-1.raw {mount}/tool-installed.raw"),
        format!("rsync -a {folder}/ {mount}/"),
        format!("rsync -aX --filter='-x! user.glance.property.*' {folder}/ {mount}/"),
        format!("tar -C {mount} --transform s/tool/from-tar/ -xf {beside}/archive.tar"),
        format!("tar -C {mount} --xattrs --overwrite -xpf {beside}/archive.tar"),
        format!("mv {folder}/tool-3.raw {mount}/tool-moved.raw"),
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = run(&line);
        assert!(outcome.succeeded() && outcome.stderr.is_empty(), "{number}: {outcome}");
    }
    sh!("cmp {folder}/tool-2.raw {mount}/tool-2.raw");
    assert_eq!(sh!("stat -c %a {mount}/tool-installed.raw"), "644");
    assert_eq!(cloud.only("tool-1.raw")["visibility"], "shared", "modes say nothing of who sees an image");
    // What is older than that takes none of it.
    cloud.image("settled.raw", b"settled");
    mount.remount();
    assert!(fails!("chmod 0600 {mount}/settled.raw").contains("Operation not permitted"));
    assert!(fails!("touch -d 2001-02-03 {mount}/settled.raw").contains("Operation not permitted"));
}

#[test]
fn with_keep_times_a_second_rsync_sends_nothing() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--keep-times");
    let folder = mount.beside().path("folder");
    sh!(
        "mkdir {folder}; for i in 1 2 3; do head -c 100k /dev/urandom > {folder}/kept-$i.raw; done
         touch -d '2001-02-03 04:05:06.123456789Z' {folder}/kept-1.raw; touch -d 1969-12-31 {folder}/kept-2.raw"
    );
    sh!("rsync -a {folder}/ {mount}/");
    let id = |number: u8| cloud.only(&format!("kept-{number}.raw"))["id"].clone();
    let ids = [id(1), id(2), id(3)];
    let again = || sh!("rsync -ai --modify-window=-1 {folder}/ {mount}/ | grep -c kept || true");
    assert_eq!(again(), "0");
    mount.remount();
    assert_eq!(again(), "0");
    assert_eq!([id(1), id(2), id(3)], ids, "they are the same images");
    assert_eq!(cloud.only("kept-1.raw")["glancefs_mtime"], "2001-02-03T04:05:06.123456789Z");
    assert_eq!(sh!("stat -c %.9Y {mount}/kept-1.raw"), sh!("stat -c %.9Y {folder}/kept-1.raw"));
    // Also by cp -p and tar, before and after the data; another mount shows when the image was made.
    sh!(
        "cp -p {folder}/kept-1.raw {mount}/kept-cp.raw; tar -C {folder} -c kept-1.raw | tar -C {mount} --transform s/1/tar/ -x"
    );
    for name in ["kept-cp.raw", "kept-tar.raw"] {
        assert_eq!(sh!("stat -c %Y {mount}/{name}"), "981173106");
    }
    sh!("touch -d @1000000000 {mount}/kept-3.raw");
    assert_eq!(cloud.only("kept-3.raw")["glancefs_mtime"], "2001-09-09T01:46:40Z");
    let usual = cloud.mount("");
    let made = epoch(&cloud.only("kept-3.raw")["created_at"]).to_string();
    assert_eq!(sh!("stat -c %Y {usual}/kept-3.raw"), made);
    assert!(
        !sh!("getfattr -d {mount}/kept-3.raw").contains("mtime"),
        "who copies attributes copies times as times"
    );
}

#[test]
fn hidden_and_community_images_are_listed_when_asked_for() {
    let cloud = Cloud::keystone();
    let image = |name: &str, record: serde_json::Value| {
        let mut whole = json!({"name": name});
        whole.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
        cloud.image_of(whole, name.as_bytes())
    };
    let hidden = image("shown-hidden.raw", json!({"os_hidden": true}));
    image("shown-community.raw", json!({"visibility": "community"}));
    image("shown-private.raw", json!({"visibility": "private"}));
    image("shown-both.raw", json!({"visibility": "community", "os_hidden": true}));
    let as_user = |user: &str, options: &str| {
        let mount = Mount::new(cloud.variables(Some(user)), options);
        mount.up();
        let names: Vec<_> = mount.names().into_iter().filter(|name| name.starts_with("shown-")).collect();
        (mount, names)
    };
    let (usual, names) = as_user("alice", "");
    assert_eq!(names, ["shown-community.raw", "shown-private.raw"], "her own");
    assert!(fails!("cat {usual}/shown-hidden.raw").contains("No such file"));
    sh!("cat {usual}/.by-id/{hidden}");
    let (with_hidden, names) = as_user("alice", "--hidden");
    assert_eq!(names, ["shown-both.raw", "shown-community.raw", "shown-hidden.raw", "shown-private.raw"]);
    assert_eq!(with_hidden.read("shown-hidden.raw"), b"shown-hidden.raw");
    // A new one is found by its name, before the list is fetched again.
    image("shown-later.raw", json!({"os_hidden": true}));
    assert_eq!(with_hidden.read("shown-later.raw"), b"shown-later.raw");
    assert_eq!(as_user("bob", "").1, Vec::<String>::new());
    assert_eq!(as_user("bob", "--visibility public,community").1, ["shown-community.raw"]);
    assert_eq!(as_user("bob", "--visibility all --hidden").1, ["shown-both.raw", "shown-community.raw"]);
    let (_private, names) = as_user("alice", "--visibility private");
    assert_eq!(names, ["shown-private.raw"]);
    let wrong = Mount::new(cloud.variables(None), "--visibility secret").try_up().expect_failure();
    assert!(wrong.contains("--visibility \"secret\"") && wrong.contains("community"), "{wrong}");
}

#[test]
fn an_image_that_is_hidden_or_made_invisible_goes_from_the_list_at_once() {
    let cloud = Cloud::keystone();
    let mount = cloud.mount("--metadata-ttl 1h");
    let private = cloud.mount("--metadata-ttl 1h --visibility private");
    let all = cloud.mount("--metadata-ttl 1h --hidden");
    let id = cloud.image_of(json!({"name": "vanishing.raw", "visibility": "private"}), b"data");
    let has = |mount: &Mount| mount.names().contains(&"vanishing.raw".to_owned());
    for mount in [&mount, &private, &all] {
        // The kernel knows it by its name then.
        assert_eq!(mount.read("vanishing.raw"), b"data");
    }
    let hide = |mount: &Mount, at: &str, hidden: bool| {
        sh!("setfattr -n user.glance.os_hidden -v {hidden} {mount}/{at}")
    };
    hide(&all, "vanishing.raw", true);
    assert!(has(&all), "hidden images are shown there");
    hide(&mount, "vanishing.raw", true);
    assert!(!has(&mount));
    assert!(fails!("stat {mount}/vanishing.raw").contains("No such file"));
    let by_id = format!(".by-id/{id}");
    assert_eq!(mount.read(&by_id), b"data", "who knows its id has it");
    assert_eq!(mount.xattr(&by_id, "user.glance.os_hidden"), "true");
    hide(&mount, &by_id, false);
    assert!(has(&mount), "and it comes back as quickly");
    sh!(
        "jq -c '.os_hidden = true' {mount}/.glancefs/images/{id}.json > {0}/new
         cat {0}/new > {mount}/.glancefs/images/{id}.json",
        mount.beside()
    );
    assert!(!has(&mount), "the same for a record that is written");
    hide(&mount, &by_id, false);

    sh!("setfattr -n user.glance.visibility -v shared {private}/vanishing.raw");
    assert!(!has(&private));
    assert_eq!(private.read(&by_id), b"data");
    assert!(has(&mount));
}
