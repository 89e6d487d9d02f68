//! What is asked of an image is asked before its first byte, also by who forgets to ask.

use std::ffi::OsStr;

use bytes::Bytes;

use super::fixture::{Fixture, Nobody, WRITER};
use super::*;
use crate::config::{Inspect, Verify};
use crate::units::ByteRange;

const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, exclusive: false };
const HEAD: ByteRange = ByteRange { start: 0, end: 4 };

async fn files(verify: Verify, inspect: Inspect) -> Fixture {
    let trust = TrustConfig { verify, inspect, ..TrustConfig::default() };
    Fixture::trusting(false, false, false, trust).await
}

async fn open(files: &Fixture, id: &ImageId) -> HandleId {
    let entry = files.fs.lookup(Ino::BY_ID, OsStr::new(id.as_str())).await.unwrap();
    files.fs.open(entry.attr.ino, READ, None).await.unwrap().handle
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_that_was_not_vetted_gives_nothing_where_something_is_asked() {
    for (verify, inspect, given) in [
        (Verify::Strict, Inspect::Off, false),
        (Verify::Signature, Inspect::Off, false),
        (Verify::Hash, Inspect::Deny, false),
        (Verify::Hash, Inspect::Warn, true),
        (Verify::None, Inspect::Off, true),
    ] {
        let files = files(verify, inspect).await;
        let id = files.service.add("x", b"bytes");
        let handle = open(&files, &id).await;
        let read = files.fs.read(handle, HEAD).await.map_err(|error| error.kind());
        assert_eq!(read.is_ok(), given, "{verify:?} {inspect:?}");
        assert!(given || read == Err(Kind::NotPermitted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_proven_once_is_read_without_the_server() {
    let files = files(Verify::Strict, Inspect::Deny).await;
    let id = files.service.add("x", &[7; 200_000]);
    let handle = open(&files, &id).await;
    files.fs.vet(handle).await.unwrap();
    files.service.state().data.clear();
    let end = ByteRange::new(199_998, 300_000);
    assert_eq!(files.fs.read(handle, end).await.unwrap(), [7, 7].as_slice());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_than_those_of_the_hash_are_never_given_out() {
    let files = files(Verify::Strict, Inspect::Off).await;
    let id = files.service.add("x", b"bytes");
    files.service.state().data.insert(id.clone(), b"sbyte".to_vec());
    let handle = open(&files, &id).await;
    assert_eq!(files.fs.vet(handle).await.unwrap_err().kind(), Kind::Integrity);
    assert_eq!(files.fs.read(handle, HEAD).await.unwrap_err().kind(), Kind::NotPermitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_image_is_told_of_once_and_refused_each_time() {
    let files = files(Verify::Hash, Inspect::Deny).await;
    let id = files.service.add("x", b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\x09");
    for _ in 0..2 {
        let handle = open(&files, &id).await;
        assert_eq!(files.fs.vet(handle).await.unwrap_err().kind(), Kind::NotPermitted);
    }
    let errors = files.fs.text(&Node::Errors).unwrap();
    let errors = String::from_utf8_lossy(&errors).into_owned();
    assert_eq!(errors.lines().filter(|line| line.contains("backing file")).count(), 1, "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_that_saw_the_upload_gets_no_unproven_bytes_either() {
    let files = files(Verify::Strict, Inspect::Off).await;
    let write = OpenMode { read: false, write: true, truncate: true, exclusive: false };
    let created = files.fs.create(Ino::ROOT, OsStr::new("x"), write, Some(WRITER)).await;
    let (entry, writer) = created.unwrap();
    files.fs.write(writer.handle, 0, Bytes::from_static(b"bytes")).await.unwrap();
    let reader = files.fs.open(entry.attr.ino, READ, None).await.unwrap().handle;
    let closer = Closer { group: Some(WRITER), killed: false, holds_more: false };
    files.fs.flush(writer.handle, closer, Nobody).await.unwrap();
    files.fs.release(writer.handle).await;
    assert_eq!(files.fs.read(reader, HEAD).await.unwrap(), b"byte".as_slice());
    let id = files.service.state().data.keys().next().unwrap().clone();
    files.service.state().data.insert(id.clone(), b"other".to_vec());
    files.fs.evict(&id).await.unwrap();
    assert_eq!(files.fs.read(reader, HEAD).await.unwrap_err().kind(), Kind::Integrity);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_out_of_an_image_is_forgotten_when_it_is_gone() {
    let files = files(Verify::Hash, Inspect::Deny).await;
    let [goes, stays] = ["goes", "stays"].map(|name| files.service.add(name, name.as_bytes()));
    for id in [&goes, &stays] {
        files.fs.vet(open(&files, id).await).await.unwrap();
    }
    assert_eq!(files.fs.vetting.verdicts(), 2);
    files.fs.layers.catalog.refresh().await.unwrap();
    let before = files.fs.list();
    files.service.state().records.remove(&goes);
    files.fs.layers.catalog.refresh().await.unwrap();
    files.fs.invalidations(&before, &files.fs.list());
    assert_eq!(files.fs.vetting.verdicts(), 1);
    assert!(!lock(&files.fs.unlisted).contains(&goes));
}
