//! The view for Nova shows what Nova could use, tells when it was used, and never deletes an image.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::fixture::Fixture;
use super::nova::base_name;
use super::*;
use crate::config::{Inspect, NovaBase};
use crate::units::ByteRange;

const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, exclusive: false };

async fn files(nova_base: NovaBase) -> Fixture {
    let guests = GuestsConfig { nova_base, ..GuestsConfig::default() };
    Fixture::for_guests(true, true, false, TrustConfig::default(), guests).await
}

async fn look(files: &Fixture, id: &ImageId) -> Result<Entry> {
    files.fs.lookup(Ino::NOVA_BASE, OsStr::new(&base_name(id))).await
}

async fn open(files: &Fixture, id: &ImageId) -> HandleId {
    let ino = look(files, id).await.unwrap().attr.ino;
    let handle = files.fs.open(ino, READ, None).await.unwrap().handle;
    files.fs.vet(handle).await.unwrap();
    handle
}

async fn names(files: &Fixture) -> Vec<String> {
    let handle = files.fs.opendir(Ino::NOVA_BASE).await.unwrap();
    let entries = (2..).map_while(|at| files.fs.dir_entry(handle, at).unwrap());
    entries.map(|entry| entry.name.to_string()).collect()
}

fn record(files: &Fixture, id: &ImageId, key: &str, value: Value) {
    files.service.state().records.get_mut(id).unwrap()[key] = value;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nova_would_convert_is_not_there() {
    let kinds = [
        ("bare", "raw", true, true),
        ("bare", "iso", true, true),
        ("bare", "qcow2", false, true),
        ("bare", "vmdk", false, false),
        ("ovf", "raw", false, false),
        ("compressed", "raw", false, false),
        ("aki", "aki", true, true),
    ];
    for (container, disk, raw, qcow2) in kinds {
        for (setting, shown) in [(NovaBase::Raw, raw), (NovaBase::Qcow2, qcow2), (NovaBase::Off, false)] {
            let files = files(setting).await;
            let id = files.service.add("x", b"bytes");
            record(&files, &id, "container_format", json!(container));
            record(&files, &id, "disk_format", json!(disk));
            assert_eq!(look(&files, &id).await.is_ok(), shown, "{container} {disk} {setting:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_newer_than_the_list_is_found() {
    let files = files(NovaBase::Raw).await;
    // The list of the fixture is believed for an hour.
    let id = files.service.add("new", b"bytes");
    let handle = open(&files, &id).await;
    assert_eq!(files.fs.read(handle, ByteRange::new(0, 9)).await.unwrap(), "bytes");
    let unknown = files.fs.lookup(Ino::NOVA_BASE, OsStr::new(&"0".repeat(40))).await;
    assert_eq!(unknown.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlink_drops_what_is_cached_and_nothing_else() {
    let files = files(NovaBase::Raw).await;
    let id = files.service.add("x", &[7; 200_000]);
    assert_eq!(names(&files).await, [""; 0], "nothing is cached");
    let handle = open(&files, &id).await;
    files.fs.read(handle, ByteRange::new(0, 200_000)).await.unwrap();
    assert_eq!(names(&files).await, [base_name(&id)]);
    let name = base_name(&id);
    let refused = files.fs.unlink(Ino::NOVA_BASE, OsStr::new(&name)).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Busy, "a guest may be running from it");
    files.fs.release(handle).await;
    files.fs.unlink(Ino::NOVA_BASE, OsStr::new(&name)).await.unwrap();
    assert_eq!(names(&files).await, [""; 0]);
    assert!(files.service.state().records.contains_key(&id), "--allow-delete is given, and not meant");
    let handle = open(&files, &id).await;
    assert_eq!(files.fs.read(handle, ByteRange::new(0, 2)).await.unwrap(), [7, 7].as_slice());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_is_set_is_the_last_use_and_no_time_of_the_image() {
    let files = files(NovaBase::Raw).await;
    let id = files.service.add("x", b"bytes");
    let ino = look(&files, &id).await.unwrap().attr.ino;
    let by_id = files.fs.lookup(Ino::BY_ID, OsStr::new(id.as_str())).await.unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let used = NewAttributes { times: true, mtime: Some(at), ..NewAttributes::default() };
    assert_eq!(files.fs.setattr(ino, None, used).await.unwrap().mtime, at);
    assert_eq!(look(&files, &id).await.unwrap().attr.mtime, at);
    assert_eq!(files.fs.getattr(by_id.attr.ino, None).await.unwrap().mtime, by_id.attr.mtime);
    for change in [
        NewAttributes { size: Some(0), ..NewAttributes::default() },
        NewAttributes { mode: Some(0o600), ..NewAttributes::default() },
        NewAttributes { uid: Some(64_055), ..NewAttributes::default() },
    ] {
        assert_eq!(files.fs.setattr(ino, None, change).await.unwrap_err().kind(), Kind::NotPermitted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_and_nothing_is_written() {
    let files = files(NovaBase::Raw).await;
    let id = files.service.add("x", b"bytes");
    let write = OpenMode { write: true, truncate: true, ..READ };
    let part = OsStr::new("f2d1a8250ed3d4b744a8250dab8f6840179d502a.part");
    let made = files.fs.create(Ino::NOVA_BASE, part, write, None).await;
    assert_eq!(made.unwrap_err().kind(), Kind::ReadOnly);
    let moved = files.fs.rename(Ino::ROOT, OsStr::new("x"), Ino::NOVA_BASE, part, false).await;
    assert_eq!(moved.unwrap_err().kind(), Kind::ReadOnly);
    let ino = look(&files, &id).await.unwrap().attr.ino;
    assert_eq!(files.fs.open(ino, write, None).await.unwrap_err().kind(), Kind::ReadOnly);
    let key = "user.glance.property.os_distro";
    let caller = Caller { uid: 0, group: None };
    let set = files.fs.setxattr(ino, key, b"x".to_vec(), XattrMode::Any, caller).await;
    assert_eq!(set.unwrap_err().kind(), Kind::NotSupported);
    assert_eq!(files.fs.getxattr(ino, "user.glance.id").await.unwrap(), id.as_str().as_bytes());
    assert_eq!(files.fs.listxattr(ino).await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unsafe_is_refused_unless_nobody_shall_look() {
    for (inspect, refused) in [(Inspect::Warn, true), (Inspect::Deny, true), (Inspect::Off, false)] {
        let trust = TrustConfig { inspect, ..TrustConfig::default() };
        let files = Fixture::trusting(false, false, false, trust).await;
        let id = files.service.add("x", b"QFI\xfb recorded as raw");
        let ino = look(&files, &id).await.unwrap().attr.ino;
        let handle = files.fs.open(ino, READ, None).await.unwrap().handle;
        let vetted = files.fs.vet(handle).await;
        assert_eq!(vetted.is_err(), refused, "{inspect:?}");
        assert_eq!(files.fs.read(handle, ByteRange::new(0, 4)).await.is_err(), refused, "{inspect:?}");
    }
}
