//! Single situations of files, each as a program would meet it.

use std::ffi::OsStr;

use bytes::Bytes;

use super::fixture::{Fixture, Nobody, WRITER};
use super::*;
use crate::units::ByteRange;

const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, exclusive: false };
const WRITE: OpenMode = OpenMode { read: false, write: true, truncate: true, exclusive: false };
const DONE: Closer = Closer { group: Some(WRITER), killed: false, holds_more: false };

impl Fixture {
    async fn create(&self, name: &str) -> (Entry, HandleId) {
        let created = self.fs.create(Ino::ROOT, OsStr::new(name), WRITE, Some(WRITER)).await;
        let (entry, opened) = created.unwrap();
        (entry, opened.handle)
    }

    async fn lookup(&self, name: &str) -> Result<Entry> {
        self.fs.lookup(Ino::ROOT, OsStr::new(name)).await
    }

    async fn names(&self) -> Vec<String> {
        let handle = self.fs.opendir(Ino::ROOT).await.unwrap();
        let entries = (0..).map_while(|at| self.fs.dir_entry(handle, at).unwrap());
        entries.filter(|entry| !entry.is_dot()).map(|entry| entry.name.to_string()).collect()
    }

    /// Puts an image into a status, as the server would.
    fn set_status(&self, id: &ImageId, status: &str) {
        self.service.state().records.get_mut(id).unwrap()["status"] = status.into();
    }
}

#[tokio::test]
async fn a_file_being_written_is_not_found_under_a_duplicates_name() {
    let files = Fixture::new(false, false, false).await;
    let (_, handle) = files.create("x").await;
    assert!(files.lookup("x").await.is_ok());
    assert_eq!(files.lookup("x~1f3c9a2b").await.unwrap_err().kind(), Kind::NotFound);
    files.fs.release(handle).await;
}

#[tokio::test]
async fn renaming_a_reservation_that_is_open_renames_its_record() {
    let files = Fixture::new(false, false, false).await;
    let (entry, handle) = files.create("before").await;
    files.fs.flush(handle, DONE, Nobody).await.unwrap();
    files.fs.rename(Ino::ROOT, OsStr::new("before"), Ino::ROOT, OsStr::new("after"), false).await.unwrap();
    files.fs.write(handle, 0, Bytes::from_static(b"data")).await.unwrap();
    files.fs.flush(handle, DONE, Nobody).await.unwrap();
    files.fs.release(handle).await;
    {
        let state = files.service.state();
        let records: Vec<_> = state.records.values().map(|record| record["name"].as_str().unwrap()).collect();
        assert_eq!(records, ["after"]);
        assert_eq!(state.data.values().collect::<Vec<_>>(), [b"data"]);
    }
    assert_eq!(files.lookup("after").await.unwrap().attr.ino, entry.attr.ino);
}

#[tokio::test]
async fn removing_a_reservation_wants_the_option_that_deletes() {
    let files = Fixture::new(false, false, false).await;
    let (_, handle) = files.create("x").await;
    files.fs.flush(handle, DONE, Nobody).await.unwrap();
    let refused = files.fs.unlink(Ino::ROOT, OsStr::new("x")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NotPermitted);
    assert!(refused.to_string().contains("--allow-delete"), "{refused}");
    assert_eq!(files.service.state().records.len(), 1);
    files.fs.release(handle).await;

    let files = Fixture::new(true, false, false).await;
    let (_, handle) = files.create("x").await;
    files.fs.flush(handle, DONE, Nobody).await.unwrap();
    files.fs.unlink(Ino::ROOT, OsStr::new("x")).await.unwrap();
    assert!(files.service.state().records.is_empty());
    files.fs.release(handle).await;
    assert!(files.names().await.is_empty());
}

#[tokio::test]
async fn an_image_that_is_not_listed_opens_by_its_id_and_stays_unlisted() {
    let files = Fixture::new(false, false, false).await;
    let id = files.service.add("community", b"bytes");
    let entry = files.fs.lookup(Ino::BY_ID, OsStr::new(id.as_str())).await.unwrap();
    let opened = files.fs.open(entry.attr.ino, READ, None).await.unwrap();
    let bytes = files.fs.read(opened.handle, ByteRange::new(0, 100)).await.unwrap();
    assert_eq!(bytes, b"bytes".as_slice());
    assert!(files.names().await.is_empty());
    assert!(!files.fs.listxattr(entry.attr.ino).await.unwrap().is_empty());
}

#[tokio::test]
async fn status_decides_who_may_read() {
    let files = Fixture::new(false, false, false).await;
    let id = files.service.add("x", b"bytes");
    let entry = files.lookup("x").await.unwrap();
    for (status, expected) in [
        ("queued", Kind::NoData),
        ("saving", Kind::Busy),
        ("importing", Kind::Busy),
        ("deactivated", Kind::Forbidden),
        ("a status of tomorrow", Kind::Busy),
    ] {
        files.set_status(&id, status);
        files.fs.layers.catalog.refresh().await.unwrap();
        assert_eq!(files.fs.open(entry.attr.ino, READ, None).await.unwrap_err().kind(), expected, "{status}");
    }
    // Active again at the server: the open sees it before any listing does.
    files.set_status(&id, "active");
    files.fs.open(entry.attr.ino, READ, None).await.unwrap();
}

#[tokio::test]
async fn a_read_only_mount_refuses_every_change() {
    let files = Fixture::new(true, true, true).await;
    files.service.add("x", b"bytes");
    let entry = files.lookup("x").await.unwrap();
    let (root, x, y) = (Ino::ROOT, OsStr::new("x"), OsStr::new("y"));
    let truncate = NewAttributes { size: Some(0), ..NewAttributes::default() };
    let refusals = [
        files.fs.create(root, y, WRITE, None).await.unwrap_err(),
        files.fs.open(entry.attr.ino, WRITE, None).await.unwrap_err(),
        files.fs.rename(root, x, root, y, false).await.unwrap_err(),
        files.fs.unlink(root, x).await.unwrap_err(),
        files.fs.setattr(entry.attr.ino, None, truncate).await.unwrap_err(),
    ];
    assert!(refusals.iter().all(|error| error.kind() == Kind::ReadOnly), "{refusals:?}");
}

#[tokio::test]
async fn mode_owner_and_times_are_taken_for_a_minute_and_not_kept() {
    let files = Fixture::new(false, false, false).await;
    let (entry, handle) = files.create("x").await;
    files.fs.write(handle, 0, Bytes::from_static(b"data")).await.unwrap();
    files.fs.flush(handle, DONE, Nobody).await.unwrap();
    files.fs.release(handle).await;
    let chmod = NewAttributes { mode: Some(0o600), times: true, ..NewAttributes::default() };
    let attr = files.fs.setattr(entry.attr.ino, None, chmod).await.unwrap();
    assert_eq!(attr.mode, 0o644);
    files.service.add("old", b"");
    let old = files.lookup("old").await.unwrap();
    let refused = files.fs.setattr(old.attr.ino, None, chmod).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NotPermitted);
}

#[tokio::test]
async fn the_kernel_is_told_what_a_new_listing_changes_and_nothing_else() {
    let files = Fixture::new(false, false, false).await;
    let (same, renamed, gone) =
        (files.service.add("same", b"1"), files.service.add("old", b"2"), files.service.add("gone", b"3"));
    files.fs.layers.catalog.refresh().await.unwrap();
    let before = files.fs.list();
    {
        let mut state = files.service.state();
        state.records.get_mut(&renamed).unwrap()["name"] = "new".into();
        state.records.remove(&gone);
    }
    files.fs.layers.catalog.refresh().await.unwrap();
    let told = files.fs.invalidations(&before, &files.fs.list());
    let ino = |id: &ImageId| lock(&files.fs.inodes).number(&Node::Image(id.clone()));
    for expected in [
        Invalidation::Entry(Ino::ROOT, "old".into()),
        Invalidation::Entry(Ino::ROOT, "gone".into()),
        Invalidation::Entry(Ino::BY_ID, gone.as_str().into()),
        Invalidation::Attributes(ino(&renamed)),
    ] {
        assert!(told.contains(&expected), "{expected:?} is missing in {told:?}");
    }
    assert!(!told.contains(&Invalidation::Entry(Ino::ROOT, "same".into())));
    assert!(!told.contains(&Invalidation::Attributes(ino(&same))));
    assert!(!told.iter().any(|one| matches!(one, Invalidation::Data(_))), "no data changed");
}

#[tokio::test]
async fn attributes_that_every_ls_asks_for_cost_no_request() {
    let files = Fixture::new(false, false, false).await;
    files.service.add("x", b"bytes");
    let entry = files.lookup("x").await.unwrap();
    files.service.state().down = true;
    for name in ["security.selinux", "system.posix_acl_access", "user.other"] {
        assert_eq!(files.fs.getxattr(entry.attr.ino, name).await.unwrap_err().kind(), Kind::NoData, "{name}");
    }
}

/// A process that has ended.
struct Gone;

impl Watch for Gone {
    fn killed(&self) -> futures_util::future::BoxFuture<'static, ()> {
        Nobody.killed()
    }

    fn ended(&self) -> futures_util::future::BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn a_file_whose_process_ends_before_its_last_release_is_settled_by_that() {
    let files = Fixture::new(false, false, false).await;
    let as_qemu_img = OpenMode { read: true, write: true, truncate: false, exclusive: false };
    let created = files.fs.create(Ino::ROOT, OsStr::new("x"), as_qemu_img, Some(WRITER)).await;
    let (_, Opened { handle, .. }) = created.unwrap();
    files.fs.write(handle, 0, Bytes::from_static(&[0; 512])).await.unwrap();
    files.fs.flush(handle, DONE, Gone).await.unwrap();
    // The task that waits for the end of the process finds the handle still there.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(files.service.state().data.is_empty(), "it may still be written to");
    files.fs.release(handle).await;
    assert_eq!(files.service.state().data.values().collect::<Vec<_>>(), [&[0_u8; 512]]);
}

#[tokio::test]
async fn a_handle_that_reads_while_its_file_becomes_an_image_reads_on() {
    let files = Fixture::new(false, false, false).await;
    let (entry, writer) = files.create("x").await;
    files.fs.write(writer, 0, Bytes::from_static(b"bytes")).await.unwrap();
    let reader = files.fs.open(entry.attr.ino, READ, None).await.unwrap().handle;
    let whole = ByteRange::new(0, 100);
    assert_eq!(files.fs.read(reader, whole).await.unwrap(), b"bytes".as_slice());
    files.fs.flush(writer, DONE, Nobody).await.unwrap();
    files.fs.release(writer).await;
    assert_eq!(files.fs.read(reader, whole).await.unwrap(), b"bytes".as_slice());
    files.fs.release(reader).await;
}

#[tokio::test]
async fn an_image_that_is_opened_to_be_replaced_and_not_written_stays() {
    let files = Fixture::new(false, true, false).await;
    let id = files.service.add("x", b"bytes");
    let entry = files.lookup("x").await.unwrap();
    let handle = files.fs.open(entry.attr.ino, WRITE, Some(WRITER)).await.unwrap().handle;
    files.fs.flush(handle, DONE, Nobody).await.unwrap();
    files.fs.release(handle).await;
    let state = files.service.state();
    assert_eq!(state.records.keys().collect::<Vec<_>>(), [&id], "no record of an empty one is left either");
    assert_eq!(state.data[&id], b"bytes");
}

#[tokio::test]
async fn what_an_image_last_failed_with_outlives_its_handles() {
    let files = Fixture::new(false, false, false).await;
    let id = files.service.add("x", b"bytes");
    let ino = files.lookup("x").await.unwrap().attr.ino;
    let told = crate::cache::Mismatch { image: id, what: "image x does not match its hash".into() };
    assert_eq!(files.fs.mismatched(&told), [Invalidation::Data(ino)]);
    let last = files.fs.getxattr(ino, "user.glancefs.last_error").await.unwrap();
    assert_eq!(last, b"image x does not match its hash");
    let names = files.fs.listxattr(ino).await.unwrap();
    assert!(String::from_utf8(names).unwrap().contains("user.glancefs.last_error"));
}

/// Another process than the one that writes.
const OTHER: Caller = Caller { uid: 0, group: Some(ThreadGroup(43)) };

#[tokio::test]
async fn what_a_copy_cannot_have_is_left_behind_by_its_writer_and_refused_to_others() {
    let files = Fixture::new(true, true, false).await;
    let writer = Caller { uid: 0, group: Some(WRITER) };
    let (entry, handle) = files.create("copy").await;
    let ino = entry.attr.ino;
    let set = async |name: &str, value: &str, caller| {
        let name = format!("user.glance.{name}");
        files
            .fs
            .setxattr(ino, &name, value.into(), XattrMode::Any, caller)
            .await
            .map_err(|error| error.kind())
    };
    for name in ["id", "checksum", "name", "visibility", "protected", "property.os_glance_x"] {
        let value = if name == "protected" { "true" } else { "public" };
        assert_eq!(set(name, value, writer).await, Ok(()), "{name}");
    }
    assert_eq!(set("property.os_distro", "debian", writer).await, Ok(()));
    assert_eq!(set("id", "x", OTHER).await, Err(Kind::NotPermitted));
    assert_eq!(files.fs.getxattr(ino, "user.glance.property.os_distro").await.unwrap(), b"debian");
    files.fs.write(handle, 0, "data".into()).await.unwrap();
    files.fs.flush(handle, DONE, Nobody).await.unwrap();
    files.fs.release(handle).await;
    let record = |key: &str| files.service.state().records.values().next().unwrap()[key].clone();
    assert_eq!((record("name"), record("os_distro")), ("copy".into(), "debian".into()));
    assert_eq!((record("visibility"), record("protected")), ("private".into(), false.into()));
    // Afterwards, too: rsync sets them on what it has closed.
    assert_eq!(set("name", "other", writer).await, Ok(()));
    assert_eq!(set("property.late", "1", writer).await, Ok(()));
    assert_eq!((record("name"), record("late")), ("copy".into(), "1".into()));
    // The other was told that ids cannot be set, so it copies, and renames nothing; a third does.
    assert_eq!(set("name", "other", OTHER).await, Err(Kind::NotPermitted));
    assert_eq!(set("property.theirs", "1", OTHER).await, Ok(()));
    let third = Caller { uid: 0, group: Some(ThreadGroup(44)) };
    assert_eq!(set("name", "other", third).await, Ok(()));
    assert_eq!(record("name"), "other");
}

#[tokio::test]
async fn a_change_waits_for_an_upload_by_others_and_then_says_busy() {
    let files = Fixture::new(true, true, false).await;
    let id = files.service.add("filled", b"data");
    files.set_status(&id, "saving");
    let entry = files.lookup("filled").await.unwrap();
    let set = async |value: &str| {
        let name = "user.glance.property.a";
        files.fs.setxattr(entry.attr.ino, name, value.into(), XattrMode::Any, OTHER).await
    };
    assert_eq!(set("1").await.unwrap_err().kind(), Kind::Busy);
    let both = futures_util::future::join(set("2"), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert!(files.service.state().records[&id].get("a").is_none());
        files.set_status(&id, "active");
    });
    both.await.0.unwrap();
    assert_eq!(files.service.state().records[&id]["a"], "2");
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_takes_long_is_there_for_who_asks_next() {
    let files = Fixture::new(false, false, false).await;
    let limit = Some(crate::glance::Quota { usage: 7, limit: 100 });
    let usage = crate::glance::Usage { image_size_total: limit, ..Default::default() };
    files.service.state().usage = Some((Duration::from_secs(5), usage));
    assert_eq!(files.fs.quota().await, None, "nobody is held up");
    tokio::time::sleep(Duration::from_secs(6)).await;
    files.service.state().usage = None;
    assert_eq!(files.fs.quota().await, Some(usage));
}
