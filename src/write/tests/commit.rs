//! From a file being written to an active image: what a commit takes, does and leaves, with a Glance that does its part.

use std::time::Duration;

use super::{qcow2, rig};
use crate::cache::Digest;
use crate::error::Kind;
use crate::glance::Status;
use crate::units::ByteRange;
use crate::write::fake::{FakeGlance, Fault, intent};

#[tokio::test]
async fn a_commit_makes_one_active_image_and_gives_the_file_to_the_cache() {
    let rig = rig();
    let bytes = qcow2();
    let draft = rig.draft(&bytes);
    assert!(draft.is_dirty());
    let id = draft.image_id();
    let image = draft.commit().await.unwrap();
    assert_eq!(image.id, id);
    assert_eq!((image.status, image.size), (Status::Active, Some(bytes.len() as u64)));
    assert_eq!(image.disk_format.as_deref(), Some("qcow2"));
    assert_eq!(image.container_format.as_deref(), Some("bare"));
    assert_eq!(rig.glance.only_image().1, bytes);
    assert_eq!(draft.upload_progress(), bytes.len() as u64);
    let adopted = std::mem::take(&mut rig.glance.state().adopted);
    let [(identity, kept)] = &adopted[..] else { panic!("{}", adopted.len()) };
    assert_eq!(*kept, bytes);
    assert_eq!((identity.cloud.as_ref(), identity.project.as_ref()), ("fake", "ours"));
    assert!(matches!(identity.digest, Digest::Multi { .. }));
    assert_eq!(rig.files(), 0);
    assert!(rig.uploads.leftovers().is_empty());
}

#[tokio::test]
async fn after_the_commit_nothing_can_be_written_and_a_second_commit_does_nothing() {
    let rig = rig();
    let draft = rig.draft(b"data");
    let image = draft.commit().await.unwrap();
    let requests = rig.glance.state().log.len();
    assert!(!draft.is_dirty());
    assert_eq!(draft.commit().await.unwrap(), image);
    assert_eq!(draft.committed(), Some(image));
    assert_eq!(rig.glance.state().log.len(), requests);
    assert_eq!(draft.write(0, b"x").unwrap_err().kind(), Kind::NotPermitted);
    assert_eq!(draft.truncate(0).unwrap_err().kind(), Kind::NotPermitted);
    assert_eq!(draft.read(ByteRange::new(0, 4)).unwrap_err().kind(), Kind::Stale);
    assert_eq!(draft.size(), 4);
    draft.abandon("late");
    draft.discard();
    draft.sync().unwrap();
    assert_eq!(rig.glance.only_image().1, b"data"[..]);
}

#[tokio::test]
async fn while_committing_writes_are_busy_reads_work_and_commits_join() {
    let rig = rig();
    rig.glance.will(&[Fault::Linger(50)]);
    let draft = rig.draft(b"data");
    let first = rig.sending(&draft).await;
    let second = tokio::spawn({
        let draft = draft.clone();
        async move { draft.commit().await }
    });
    assert_eq!(draft.write(0, b"x").unwrap_err().kind(), Kind::Busy);
    assert_eq!(draft.read(ByteRange::new(0, 9)).unwrap(), b"data"[..]);
    assert_eq!(first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(rig.requests("PUT"), 1);
}

#[tokio::test]
async fn a_file_with_data_is_not_reserved_and_an_empty_one_not_published() {
    let rig = rig();
    let error = rig.draft(b"data").reserve().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let empty = rig.uploads.draft(intent("new")).unwrap();
    empty.truncate(0).unwrap();
    empty.write(5, b"").unwrap();
    assert!(!empty.is_dirty());
    assert_eq!(empty.commit().await.unwrap_err().kind(), Kind::NoData);
    assert!(rig.glance.state().log.is_empty());
}

#[tokio::test]
async fn an_empty_image_can_be_made_on_purpose() {
    let rig = rig();
    let draft = rig.draft(b"data");
    draft.truncate(0).unwrap();
    let image = draft.commit().await.unwrap();
    assert_eq!((image.size, image.disk_format.as_deref()), (Some(0), Some("raw")));
}

#[tokio::test]
async fn content_that_no_cloud_can_use_is_refused_before_anything_is_sent() {
    let rig = rig();
    let mut bytes = qcow2();
    bytes[15] = 1;
    let error = rig.draft(&bytes).commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::WrongFormat);
    assert!(error.to_string().contains("backing file"), "{error}");
    assert!(rig.glance.state().log.is_empty());
}

#[tokio::test]
async fn an_upload_goes_on_when_nobody_waits_for_it() {
    let rig = rig();
    rig.glance.will(&[Fault::Linger(20)]);
    let draft = rig.draft(b"data");
    let waiting = tokio::time::timeout(Duration::from_millis(1), draft.commit()).await;
    drop(waiting);
    assert_eq!(draft.commit().await.unwrap().status, Status::Active);
    assert_eq!(rig.requests("PUT"), 1);
}

#[tokio::test]
async fn a_rename_counts_whenever_it_comes() {
    let rig = rig();
    rig.glance.will(&[Fault::Linger(50)]);
    let draft = rig.draft(b"data");
    draft.rename("second".into());
    let committing = rig.sending(&draft).await;
    assert_eq!(rig.glance.state().created[0].name, "second");
    draft.rename("third".into());
    assert_eq!(committing.await.unwrap().unwrap().name.as_deref(), Some("third"));
}

#[tokio::test]
async fn half_a_file_never_becomes_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    let uploads = glance.uploads_with(dir.path(), Some(1 << 20));
    let draft = uploads.draft(intent("big")).unwrap();
    draft.write(0, &vec![1; 900 << 10]).unwrap();
    assert_eq!(draft.write(900 << 10, &vec![1; 900 << 10]).unwrap_err().kind(), Kind::NoSpace);
    let error = draft.commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(glance.state().log.is_empty());
    // What failed can be made good: here by starting anew.
    draft.truncate(0).unwrap();
    draft.write(0, b"small").unwrap();
    draft.commit().await.unwrap();
    assert_eq!(glance.only_image().1, b"small"[..]);
}

#[test]
fn parallel_writers_keep_each_others_bytes() {
    let rig = rig();
    let draft = rig.uploads.draft(intent("new")).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4u8 {
            let draft = &draft;
            scope.spawn(move || {
                for block in 0..64u64 {
                    draft.write((block * 4 + u64::from(n)) * 4096, &[n; 4096]).unwrap();
                }
            });
        }
    });
    let bytes = draft.read(ByteRange::new(0, 1 << 20)).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert!(bytes.chunks(4096).enumerate().all(|(n, block)| block.iter().all(|b| usize::from(*b) == n % 4)));
}
