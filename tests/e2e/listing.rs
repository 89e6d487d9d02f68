//! What `ls`, `stat`, `find`, `du` and `df` show, and that it follows the server.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::harness::{Cloud, epoch, eventually, fails, pattern, sh};

/// The time stamps of Glance have a resolution of a second.
fn next_second() {
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

#[test]
fn stat_shows_the_size_and_the_times_of_the_image() {
    let cloud = Cloud::open();
    let id = cloud.image("stat.raw", &pattern(1, 1_000_001));
    next_second();
    cloud.set(&id, "os_distro", json!("debian"));
    let mount = cloud.mount("");
    let record = cloud.record(&id);
    assert_ne!(record["created_at"], record["updated_at"]);
    let times = format!("{} {}", epoch(&record["created_at"]), epoch(&record["updated_at"]));
    assert_eq!(
        sh!("stat -c '%F, %a, %s bytes, %b of %B, %h link, %u:%g, %Y %Z' {mount}/stat.raw"),
        format!(
            "regular file, 644, 1000001 bytes, 1954 of 512, 1 link, {}, {times}",
            sh!("echo $(id -u):$(id -g)")
        )
    );
    assert_eq!(sh!("stat -c '%F, %a' {mount} {mount}/.by-id"), "directory, 755\ndirectory, 755");
}

#[test]
fn an_image_has_one_inode_number_in_every_view_and_after_a_remount() {
    let cloud = Cloud::open();
    let id = cloud.image("inode.raw", b"inode");
    let mount = cloud.mount("");
    let number = sh!("stat -c %i {mount}/inode.raw");
    assert_eq!(sh!("stat -c %i {mount}/.by-id/{id}"), number);
    assert_eq!(sh!("ls -i {mount}/.by-id | grep {id} | tr -s ' ' | sed 's/^ //'"), format!("{number} {id}"));
    mount.remount();
    assert_eq!(sh!("stat -c %i {mount}/inode.raw"), number);
}

#[test]
fn control_folders_answer_but_are_not_listed() {
    let cloud = Cloud::open();
    let id = cloud.image("control.raw", b"control");
    let mount = cloud.mount("");
    assert!(!mount.names().iter().any(|name| name == ".by-id" || name == ".glancefs"));
    assert!(sh!("ls {mount}/.by-id").lines().any(|line| line == id));
    assert_eq!(sh!("ls {mount}/.glancefs"), "errors\nimages\nmetrics\nstatus\nstatus.json\nuploads.json");
    assert!(sh!("cat {mount}/.glancefs/status").contains("images: "));
    sh!("cat {mount}/.glancefs/errors");
    assert!(sh!("ls {mount}/.glancefs/images").contains(&format!("{id}.json")));
    sh!("cmp {mount}/.by-id/{id} {mount}/control.raw");
    assert!(fails!("cat {mount}/.by-id/control.raw").contains("No such file"));
    assert!(fails!("cat {mount}/{id}").contains("No such file"));
}

#[test]
fn six_hundred_images_are_listed_by_pages_and_met_once() {
    let cloud = Cloud::new("none", "");
    cloud.fill(600);
    // Records that wait for their data, as a client of Glance makes them.
    let database = cloud.folder().join("glance/glance.db").display().to_string();
    let queued = "status='queued', size=NULL, checksum=NULL, os_hash_algo=NULL, os_hash_value=NULL";
    sh!(
        r#"python3 -c "import sqlite3; sqlite3.connect('{database}').executescript('''UPDATE images SET {queued}''')""#
    );
    cloud.image("with-data.raw", &pattern(2, 100_000));
    let mount = cloud.mount("");
    assert!(!cloud.requests("marker=").is_empty(), "one page was enough");
    let mut expected: Vec<_> = (1..=600).map(|number| format!("image-{number:06}")).collect();
    expected.push("with-data.raw".to_owned());
    assert_eq!(mount.names(), expected);
    let before = cloud.requests("GET /v2/images").len();
    assert_eq!(sh!("ls -l {mount} | grep -c image-"), "600");
    assert_eq!(sh!("ls {mount}/.by-id | wc -l"), "601");
    // Each image once, and neither of the hidden folders: what a backup would copy.
    assert_eq!(sh!("find {mount} -type f | wc -l"), "601");
    assert_eq!(sh!("find {mount} -type d"), mount.to_string());
    assert_eq!(sh!("find {mount} -type f -size +0"), mount.path("with-data.raw"));
    assert_eq!(sh!("du -s --block-size=1 {mount} | cut -f1"), (196 * 512).to_string());
    assert_eq!(sh!("rsync -a --list-only {mount}/ | grep -c '^-'"), "601");
    assert_eq!(sh!("stat -f -c %c {mount}"), "601");
    assert_eq!(cloud.requests("GET /v2/images").len(), before, "looking at files costs no request");
    assert_eq!(cloud.requests("GET /v2/info/usage").len(), 1, "statfs asks whether there is a quota");
}

#[test]
fn a_new_image_opens_before_the_next_listing() {
    let cloud = Cloud::open();
    let mount = cloud.mount("--metadata-ttl 1h");
    let id = cloud.image("just-made.raw", b"just made");
    assert_eq!(sh!("cat {mount}/just-made.raw"), "just made");
    let other = cloud.image("just-made-2.raw", b"just made, too");
    assert_eq!(sh!("cat {mount}/.by-id/{other}"), "just made, too");
    assert!(mount.names().contains(&"just-made.raw".to_owned()));
    assert_eq!(sh!("stat -c %i {mount}/just-made.raw"), sh!("stat -c %i {mount}/.by-id/{id}"));
}

#[test]
fn what_changes_on_the_server_shows_after_the_ttl() {
    let cloud = Cloud::open();
    let goes = cloud.image("goes.raw", b"goes");
    let moves = cloud.image("moves.raw", b"moves");
    let filled = cloud.reserve(json!({"name": "filled.raw"}));
    let mount = cloud.mount("--metadata-ttl 1s");
    sh!("stat {mount}/goes.raw {mount}/moves.raw {mount}/filled.raw && cat {mount}/goes.raw");
    let changed_before = std::fs::metadata(mount.path("moves.raw")).unwrap().ctime();
    next_second();

    cloud.delete(&goes);
    cloud.set(&moves, "name", json!("moved.raw"));
    cloud.upload(&filled, &pattern(3, 12_345));
    cloud.image("comes.raw", b"comes");

    eventually("the directory follows", || {
        let names: BTreeSet<_> = mount.names().into_iter().collect();
        ["moved.raw", "comes.raw"].iter().all(|name| names.contains(*name))
            && ["goes.raw", "moves.raw"].iter().all(|name| !names.contains(*name))
    });
    for gone in ["goes.raw", "moves.raw", &format!(".by-id/{goes}")] {
        eventually(gone, || fails_to_stat(&mount.path(gone)));
    }
    let metadata = std::fs::metadata(mount.path("moved.raw")).unwrap();
    assert!(metadata.ctime() > changed_before);
    assert_eq!(metadata.mtime(), epoch(&cloud.record(&moves)["created_at"]), "the data are the same");
    assert_eq!(std::fs::metadata(mount.path("filled.raw")).unwrap().len(), 12_345);
    assert_eq!(mount.read("filled.raw"), pattern(3, 12_345));
    assert_eq!(mount.read("comes.raw"), b"comes");
}

fn fails_to_stat(path: &str) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[test]
fn the_kernel_forgets_what_changed_at_once_when_another_look_finds_it() {
    // The kernel may believe a name and its attributes for an hour here; only being told otherwise helps.
    let cloud = Cloud::open();
    let id = cloud.image("long-ttl.raw", b"first");
    let mount = cloud.mount("--metadata-ttl 1h --allow-delete");
    sh!("stat {mount}/long-ttl.raw {mount}/.by-id/{id}");
    sh!("rm {mount}/long-ttl.raw");
    assert!(fails_to_stat(&mount.path("long-ttl.raw")));
    assert!(fails_to_stat(&mount.path(&format!(".by-id/{id}"))));
    sh!("printf 'second' > {mount}/long-ttl.raw");
    assert_eq!(sh!("cat {mount}/long-ttl.raw; stat -c ' %s' {mount}/long-ttl.raw"), "second 6");
}

#[test]
fn an_image_that_is_deleted_while_it_is_read_reads_on() {
    let cloud = Cloud::open();
    let content = pattern(4, 3_000_000);
    let id = cloud.image("read-on.raw", &content);
    let mount = cloud.mount("--metadata-ttl 1s");
    let open = std::fs::File::open(mount.path("read-on.raw")).unwrap();
    assert!(read_at_start(&open, content.len()).unwrap() == content);
    cloud.delete(&id);
    // Not within the TTL: other tests share this cloud, and of more than a hundred images a deletion shows with the
    // tenth refresh.
    eventually("the name goes", || fails_to_stat(&mount.path("read-on.raw")));
    for gone in [format!("/proc/self/fd/{}", open.as_raw_fd()), mount.path(&format!(".by-id/{id}"))] {
        let refused = std::fs::File::open(&gone).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::NotFound, "{gone}");
    }
    assert!(read_at_start(&open, content.len()).unwrap() == content, "cached bytes stay readable");
}

fn read_at_start(file: &std::fs::File, len: usize) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map(|()| bytes)
}

#[test]
fn df_counts_the_images() {
    let cloud = Cloud::open();
    cloud.image("df.raw", &pattern(5, 5000));
    let mount = cloud.mount("");
    let line = sh!("df --output=fstype,iused,avail {mount} | tail -n 1");
    let fields: Vec<_> = line.split_whitespace().collect();
    assert_eq!(fields[0], "fuse.glancefs");
    assert!(fields[1].parse::<u64>().unwrap() >= 1);
    assert!(fields[2].parse::<u64>().unwrap() > 0, "there is room for uploads");
    let record: Value = cloud.only("df.raw");
    assert_eq!(record["size"], 5000);
}
