//! With `--hold open` an image that is open stays, and nobody evicts it.

use std::ffi::OsStr;

use super::fixture::Fixture;
use super::*;
use crate::config::NovaBase;
use crate::units::ByteRange;

const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, exclusive: false };

async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_image_is_there_after_its_deletion_and_is_not_evicted() {
    let guests = GuestsConfig { hold: Hold::Open, nova_base: NovaBase::Raw };
    let files = Fixture::for_guests(true, false, false, TrustConfig::default(), guests).await;
    let id = files.service.add("x", &[7; 300_000]);
    let entry = files.fs.lookup(Ino::BY_ID, OsStr::new(id.as_str())).await.unwrap();
    let handle = files.fs.open(entry.attr.ino, READ, None).await.unwrap().handle;
    files.fs.vet(handle).await.unwrap();
    until(|| files.fs.fills.is_held(&id)).await;
    assert_eq!(files.fs.evict(&id).await.unwrap_err().kind(), Kind::Busy);
    files.fs.unlink(Ino::BY_ID, OsStr::new(id.as_str())).await.unwrap();
    files.service.state().data.clear();
    let end = ByteRange::new(299_998, 400_000);
    assert_eq!(files.fs.read(handle, end).await.unwrap(), [7, 7].as_slice());
    files.fs.release(handle).await;
    until(|| !files.fs.fills.is_held(&id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cure_is_told_once_for_all_who_have_the_image_open() {
    let guests = GuestsConfig { hold: Hold::Open, nova_base: NovaBase::Raw };
    let files = Fixture::for_guests(true, false, false, TrustConfig::default(), guests).await;
    // The cache of the fixture holds 1 MiB.
    let id = files.service.add("x", &[7; 2_000_000]);
    let entry = files.fs.lookup(Ino::BY_ID, OsStr::new(id.as_str())).await.unwrap();
    for _ in 0..2 {
        let handle = files.fs.open(entry.attr.ino, READ, None).await.unwrap().handle;
        files.fs.vet(handle).await.unwrap();
    }
    let told = || {
        let lines = files.fs.text(&Node::Errors).unwrap();
        String::from_utf8_lossy(&lines).matches("--cache-size").count()
    };
    until(|| told() > 0).await;
    assert_eq!(told(), 1);
}
