//! Whole uploads against a Glance that fails as told: each failure rule of the design.

use std::time::Duration;

use super::fake::{FakeGlance, Fault, TIMEOUT, files, image, intent};
use super::*;
use crate::cache::Digest;
use crate::error::Kind;
use crate::glance::Status;
use crate::units::ByteRange;

struct Rig {
    glance: FakeGlance,
    uploads: Uploads,
    dir: tempfile::TempDir,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    Rig { uploads: glance.uploads(dir.path()), glance, dir }
}

impl Rig {
    fn draft(&self, bytes: &[u8]) -> Arc<Draft> {
        self.draft_of(intent("new"), bytes)
    }

    fn draft_of(&self, intent: Intent, bytes: &[u8]) -> Arc<Draft> {
        let draft = self.uploads.draft(intent).unwrap();
        draft.write(0, bytes).unwrap();
        draft
    }

    /// A reservation in Glance, and the intent to fill it.
    fn reservation(&self) -> Intent {
        let image = image(1);
        self.glance.state().images.insert(image.id.clone(), (image.clone(), bytes::Bytes::new()));
        Intent { id: image.id, name: "old".into(), reserved: true, replaces: None }
    }

    fn requests(&self, method: &str) -> usize {
        self.glance.state().log.iter().filter(|line| line.starts_with(method)).count()
    }

    fn files(&self) -> usize {
        files(self.dir.path()).len()
    }
}

fn qcow2() -> Vec<u8> {
    let mut bytes = vec![7; 3 << 20];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[8..512].fill(0);
    bytes
}

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
    let (first, second) = (draft.clone(), draft.clone());
    let first = tokio::spawn(async move { first.commit().await });
    tokio::time::timeout(Duration::from_secs(60), async {
        while rig.requests("PUT") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    let second = tokio::spawn(async move { second.commit().await });
    assert_eq!(draft.write(0, b"x").unwrap_err().kind(), Kind::Busy);
    assert_eq!(draft.read(ByteRange::new(0, 9)).unwrap(), b"data"[..]);
    assert_eq!(first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(rig.requests("PUT"), 1);
}

#[tokio::test]
async fn a_reservation_gets_its_formats_and_its_data() {
    let rig = rig();
    let intent = rig.reservation();
    let image = rig.draft_of(intent.clone(), &qcow2()).commit().await.unwrap();
    assert_eq!(image.id, intent.id);
    assert_eq!(image.disk_format.as_deref(), Some("qcow2"));
    assert_eq!((rig.requests("POST"), rig.requests("PATCH")), (0, 1));
}

#[tokio::test]
async fn a_reservation_that_is_no_longer_queued_is_busy() {
    let rig = rig();
    let intent = rig.reservation();
    rig.glance.state().images.get_mut(&intent.id).unwrap().0.status = Status::Saving;
    let error = rig.draft_of(intent, b"data").commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert_eq!(rig.requests("PUT") + rig.requests("DELETE"), 0);
}

#[tokio::test]
async fn touch_makes_a_record_and_leaves_no_file() {
    let rig = rig();
    let draft = rig.uploads.draft(intent("later")).unwrap();
    let image = draft.reserve().await.unwrap();
    assert_eq!((image.id, image.status), (draft.image_id(), Status::Queued));
    assert_eq!(draft.reserve().await.unwrap().status, Status::Queued);
    assert_eq!(rig.requests("POST"), 1);
    assert_eq!(rig.files(), 0);
    assert!(rig.glance.state().adopted.is_empty());
    assert_eq!(draft.write(0, b"x").unwrap_err().kind(), Kind::NotPermitted);
}

#[tokio::test]
async fn a_reservation_whose_answer_was_lost_leaves_no_record() {
    let rig = rig();
    rig.glance.will(&[Fault::LoseCreated]);
    let draft = rig.uploads.draft(intent("later")).unwrap();
    assert_eq!(draft.reserve().await.unwrap_err().kind(), Kind::TimedOut);
    assert!(rig.glance.state().images.is_empty());
    assert_eq!(draft.reserve().await.unwrap().status, Status::Queued);
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
async fn refused_content_takes_the_record_back_and_is_not_tried_again() {
    let rig = rig();
    rig.glance.will(&[Fault::Refuse(Kind::WrongFormat)]);
    let draft = rig.draft(b"data");
    let error = draft.commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::WrongFormat);
    assert!(error.to_string().contains("qemu-img"), "{error}");
    assert_eq!((rig.requests("PUT"), rig.requests("DELETE")), (1, 1));
    assert!(rig.glance.state().images.is_empty());
    // The spool is kept: the draft can be corrected and committed again.
    assert!(draft.is_dirty());
    draft.write(0, b"DATA").unwrap();
    draft.commit().await.unwrap();
    assert_eq!(rig.glance.only_image().1, b"DATA"[..]);
}

#[tokio::test]
async fn refused_content_spoils_a_reservation_and_the_error_says_so() {
    let rig = rig();
    let intent = rig.reservation();
    rig.glance.will(&[Fault::Refuse(Kind::WrongFormat)]);
    let draft = rig.draft_of(intent.clone(), b"data");
    for _ in 0..2 {
        let error = draft.commit().await.unwrap_err();
        assert_eq!(error.kind(), Kind::WrongFormat);
        assert!(error.to_string().contains(&format!("{} is spoilt", intent.id)), "{error}");
        assert!(error.to_string().contains("delete it"), "{error}");
    }
    assert_eq!(rig.requests("PUT"), 1, "a spoilt record is known before the data are sent again");
    assert_eq!(rig.requests("DELETE"), 0);
}

#[tokio::test]
async fn a_413_in_the_middle_of_the_body_takes_the_record_back() {
    for kind in [Kind::QuotaExceeded, Kind::NoSpace, Kind::TooLarge, Kind::Forbidden] {
        let rig = rig();
        rig.glance.will(&[Fault::BreakBody(1 << 20, kind)]);
        let draft = rig.draft(&qcow2());
        assert_eq!(draft.commit().await.unwrap_err().kind(), kind);
        assert!(rig.glance.state().images.is_empty());
        assert_eq!((rig.requests("PUT"), rig.requests("DELETE")), (1, 1));
        drop(draft);
        let leftovers = rig.uploads.leftovers();
        assert_eq!(leftovers.len(), 1);
        assert!(leftovers[0].contains("\"new\""), "{leftovers:?}");
        assert!(leftovers[0].contains("stopped at uploading (as told)"), "{leftovers:?}");
        assert!(leftovers[0].contains("3145728 bytes"), "{leftovers:?}");
    }
}

#[tokio::test]
async fn a_413_keeps_a_reservation() {
    let rig = rig();
    let intent = rig.reservation();
    rig.glance.will(&[Fault::BreakBody(0, Kind::QuotaExceeded)]);
    let draft = rig.draft_of(intent.clone(), b"data");
    assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::QuotaExceeded);
    assert_eq!(rig.glance.only_image().0.status, Status::Queued);
    assert_eq!(draft.commit().await.unwrap().id, intent.id, "and it is filled by the next try");
}

#[tokio::test]
async fn a_broken_transfer_is_tried_again_on_a_fresh_id() {
    let rig = rig();
    rig.glance.will(&[Fault::BreakBody(1, Kind::Unreachable)]);
    let draft = rig.draft(b"data");
    let first = draft.image_id();
    let image = draft.commit().await.unwrap();
    assert_ne!(image.id, first);
    assert_eq!(draft.image_id(), image.id);
    assert_eq!(rig.glance.only_image().1, b"data"[..]);
    assert_eq!((rig.requests("POST"), rig.requests("DELETE")), (2, 1));
}

#[tokio::test]
async fn a_broken_transfer_into_a_reservation_is_tried_again_on_its_id() {
    let rig = rig();
    let intent = rig.reservation();
    rig.glance.will(&[Fault::BreakBody(1, Kind::Unreachable), Fault::BreakBody(1, Kind::ServerError)]);
    let image = rig.draft_of(intent.clone(), b"data").commit().await.unwrap();
    assert_eq!(image.id, intent.id);
    assert_eq!((rig.requests("PUT"), rig.requests("DELETE")), (3, 0));
}

#[tokio::test]
async fn data_are_sent_again_as_often_as_retries_say() {
    for (retries, sent) in [(0, 1), (1, 2), (3, 4)] {
        let mut rig = rig();
        rig.uploads = rig.glance.uploads_of(rig.dir.path(), None, retries);
        rig.glance.will(&[Fault::BreakBody(0, Kind::Unreachable); 9]);
        let draft = rig.draft(b"data");
        assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::Unreachable);
        assert_eq!(rig.requests("PUT"), sent);
        assert!(rig.glance.state().images.is_empty());
    }
}

#[tokio::test]
async fn how_often_the_client_below_has_sent_the_data_counts() {
    let mut rig = rig();
    rig.uploads = rig.glance.uploads_of(rig.dir.path(), None, 2);
    rig.glance.will(&[Fault::BreakBodies(3), Fault::BreakBodies(3)]);
    assert_eq!(rig.draft(b"data").commit().await.unwrap_err().kind(), Kind::Unreachable);
    assert_eq!((rig.requests("POST"), rig.requests("PUT")), (1, 1), "three times in one request");
}

#[tokio::test]
async fn a_record_that_cannot_be_created_is_not_tried_again() {
    let rig = rig();
    for fault in [Fault::RefuseCreate(Kind::Unreachable), Fault::LoseCreated] {
        rig.glance.will(&[fault]);
        assert!(rig.draft(b"data").commit().await.unwrap_err().kind().is_transient());
    }
    assert_eq!((rig.requests("POST"), rig.requests("PUT"), rig.requests("DELETE")), (2, 0, 2));
    assert!(rig.glance.state().images.is_empty(), "that it may be there all the same is heeded");
}

#[tokio::test]
async fn data_that_stopped_moving_are_not_sent_again() {
    let rig = rig();
    rig.glance.will(&[Fault::BreakBody(1, Kind::TimedOut)]);
    assert_eq!(rig.draft(b"data").commit().await.unwrap_err().kind(), Kind::TimedOut);
    assert_eq!((rig.requests("PUT"), rig.requests("DELETE")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_waited_for_twice_the_timeout() {
    for reserved in [false, true] {
        let rig = rig();
        let draft = match reserved {
            true => rig.draft_of(rig.reservation(), b"data"),
            false => rig.draft(b"data"),
        };
        rig.glance.state().silent = true;
        let begun = tokio::time::Instant::now();
        assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::TimedOut);
        // For asking, and for taking back what may have come to be.
        let waits = if reserved { 1 } else { 2 };
        assert_eq!(begun.elapsed().as_secs(), waits * TIMEOUT.as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_during_the_data_is_waited_for_twice_the_timeout() {
    let rig = rig();
    rig.glance.will(&[Fault::Die]);
    let begun = tokio::time::Instant::now();
    assert_eq!(rig.draft(b"data").commit().await.unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(begun.elapsed().as_secs(), 2 * TIMEOUT.as_secs());
    assert_eq!(rig.requests("PUT"), 1);
}

#[tokio::test]
async fn a_lost_answer_to_the_data_is_found_to_be_success() {
    let rig = rig();
    rig.glance.will(&[Fault::LoseUploaded]);
    let draft = rig.draft(b"data");
    let first = draft.image_id();
    assert_eq!(draft.commit().await.unwrap().id, first);
    assert_eq!((rig.requests("PUT"), rig.requests("DELETE")), (1, 0));
}

#[tokio::test]
async fn a_record_that_is_refused_is_not_deleted_by_its_id() {
    let rig = rig();
    for kind in [Kind::Exists, Kind::QuotaExceeded, Kind::Forbidden, Kind::IllegalName] {
        rig.glance.will(&[Fault::RefuseCreate(kind)]);
        assert_eq!(rig.draft(b"data").commit().await.unwrap_err().kind(), kind);
    }
    assert_eq!(rig.requests("DELETE"), 0);
}

#[tokio::test]
async fn other_bytes_in_glance_are_an_error_and_the_record_goes() {
    let rig = rig();
    rig.glance.will(&[Fault::Corrupt]);
    let draft = rig.draft(b"data");
    let error = draft.commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(error.to_string().contains("MD5"), "{error}");
    assert!(rig.glance.state().images.is_empty());
    assert_eq!(rig.requests("PUT"), 1);
    assert_eq!(draft.read(ByteRange::new(0, 9)).unwrap(), b"data"[..]);
}

#[tokio::test]
async fn other_bytes_in_a_reservation_are_an_error_that_names_it() {
    let rig = rig();
    let intent = rig.reservation();
    rig.glance.will(&[Fault::Corrupt]);
    let error = rig.draft_of(intent.clone(), b"data").commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(error.to_string().contains(intent.id.as_str()), "{error}");
    assert_eq!(rig.requests("DELETE"), 0);
}

#[tokio::test]
async fn a_sites_own_hash_is_compared_too() {
    let rig = rig();
    rig.glance.state().algorithm = Some("sha256");
    let image = rig.draft(b"data").commit().await.unwrap();
    assert_eq!(image.hash.unwrap().algorithm.as_ref(), "sha256");
    rig.glance.will(&[Fault::Corrupt]);
    assert_eq!(rig.draft(b"data").commit().await.unwrap_err().kind(), Kind::Integrity);
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
async fn an_abandoned_upload_ends_takes_its_record_back_and_keeps_its_bytes() {
    let rig = rig();
    rig.glance.will(&[Fault::Hang]);
    let draft = rig.draft(&qcow2());
    let committing = tokio::spawn({
        let draft = draft.clone();
        async move { draft.commit().await }
    });
    while rig.requests("PUT") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    draft.abandon("the writer was killed by signal 9");
    let ended = tokio::time::timeout(Duration::from_secs(60), committing).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().kind(), Kind::Interrupted);
    assert!(rig.glance.state().images.is_empty());
    assert_eq!(draft.write(0, b"x").unwrap_err().kind(), Kind::BadHandle);
    assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::BadHandle);
    let leftovers = rig.uploads.leftovers();
    assert_eq!(leftovers.len(), 1);
    assert!(leftovers[0].contains("killed by signal 9"), "{leftovers:?}");
}

#[tokio::test]
async fn a_discarded_upload_leaves_nothing_anywhere() {
    let rig = rig();
    rig.glance.will(&[Fault::Hang]);
    let draft = rig.draft(&qcow2());
    let committing = tokio::spawn({
        let draft = draft.clone();
        async move { draft.commit().await }
    });
    while rig.requests("PUT") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    draft.discard();
    draft.abandon("too late to keep it");
    assert!(tokio::time::timeout(Duration::from_secs(60), committing).await.unwrap().unwrap().is_err());
    assert!(rig.glance.state().images.is_empty());
    assert_eq!(rig.files(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_soon_ends_is_waited_for_at_unmount() {
    let rig = rig();
    // 4.5 s of looks.
    rig.glance.will(&[Fault::Linger(4500)]);
    let draft = rig.draft(b"data");
    let committing = tokio::spawn({
        let draft = draft.clone();
        async move { draft.commit().await }
    });
    while rig.requests("PUT") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    rig.uploads.shut_down().await;
    assert!(draft.committed().is_some());
    assert!(committing.await.unwrap().is_ok());
    let late = rig.draft(b"late").commit().await.unwrap_err();
    assert_eq!((late.kind(), late.to_string().as_str()), (Kind::Interrupted, "the mount was stopped"));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_takes_long_is_given_up_at_unmount() {
    let rig = rig();
    rig.glance.will(&[Fault::Hang]);
    let draft = rig.draft(&qcow2());
    let committing = tokio::spawn({
        let draft = draft.clone();
        async move { draft.commit().await }
    });
    while rig.requests("PUT") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let begun = tokio::time::Instant::now();
    rig.uploads.shut_down().await;
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(committing.await.unwrap().unwrap_err().kind(), Kind::Interrupted);
    assert!(rig.glance.state().images.is_empty(), "its record is deleted");
    drop(draft);
    let leftovers = rig.uploads.leftovers();
    assert_eq!(leftovers.len(), 1);
    assert!(leftovers[0].contains("(the mount was stopped)"), "{leftovers:?}");
    assert!(leftovers[0].contains("3145728 bytes"), "{leftovers:?}");
}

#[tokio::test(start_paused = true)]
async fn unmount_does_not_wait_for_a_silent_server() {
    let mut rig = rig();
    let spool = SpoolConfig { dir: rig.dir.path().into(), size: None, keep_failed: Duration::MAX };
    let glance = Arc::new(rig.glance.clone());
    rig.uploads = Uploads::with(
        &spool,
        glance.clone(),
        glance,
        Pace { timeout: Duration::from_secs(60), ..Pace::of(&crate::source::fake::http()) },
    )
    .unwrap();
    rig.glance.state().silent = true;
    let draft = rig.draft(b"data");
    let _committing = tokio::spawn(async move { draft.commit().await });
    while rig.requests("POST") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let begun = tokio::time::Instant::now();
    rig.uploads.shut_down().await;
    assert_eq!(begun.elapsed().as_secs(), 15);
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
async fn a_record_that_cannot_be_deleted_is_named_and_deleted_later() {
    let rig = rig();
    rig.glance.will(&[Fault::BreakBody(0, Kind::QuotaExceeded), Fault::KeepRecord]);
    let draft = rig.draft(b"data");
    let stray = draft.image_id();
    assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::QuotaExceeded);
    assert!(rig.glance.state().images.contains_key(&stray));
    let journal = std::fs::read_to_string(
        files(rig.dir.path()).into_iter().find(|path| path.extension().unwrap() == "json").unwrap(),
    );
    assert!(journal.unwrap().contains(stray.as_str()));
    draft.commit().await.unwrap();
    assert!(!rig.glance.state().images.contains_key(&stray));
}

#[tokio::test]
async fn a_replacement_takes_over_and_the_old_image_goes() {
    let rig = rig();
    let mut old = image(7);
    old.protected = true;
    old.record = r#"{"visibility": "shared", "tags": ["a"], "os_version": "12"}"#.into();
    rig.glance.state().images.insert(old.id.clone(), (old.clone(), bytes::Bytes::new()));
    let draft = rig.draft_of(Intent { replaces: Some(old.clone()), ..intent("old") }, b"data");
    let image = draft.commit().await.unwrap();
    assert_eq!(draft.warning(), None);
    assert!(rig.glance.only_image().0.protected);
    assert_eq!(rig.glance.only_image().0.id, image.id);
    let created = rig.glance.state().created[0].properties.clone();
    assert!(created.contains(&("os_version".into(), "12".into())));
    assert!(!created.iter().any(|(key, _)| key == "protected"));
}

#[tokio::test]
async fn an_old_image_that_cannot_be_deleted_is_a_warning() {
    let rig = rig();
    let old = image(7);
    rig.glance.state().images.insert(old.id.clone(), (old.clone(), bytes::Bytes::new()));
    rig.glance.will(&[Fault::KeepRecord]);
    let draft = rig.draft_of(Intent { replaces: Some(old.clone()), ..intent("old") }, b"data");
    draft.commit().await.unwrap();
    assert!(draft.warning().unwrap().contains(old.id.as_str()));
    assert_eq!(rig.files(), 0);
}

#[tokio::test]
async fn a_failed_replacement_leaves_the_old_image_alone() {
    let rig = rig();
    let old = image(7);
    rig.glance.state().images.insert(old.id.clone(), (old.clone(), bytes::Bytes::new()));
    rig.glance.will(&[Fault::Corrupt]);
    let draft = rig.draft_of(Intent { replaces: Some(old.clone()), ..intent("old") }, b"data");
    assert!(draft.commit().await.is_err());
    assert_eq!(rig.glance.only_image().0.id, old.id);
}

#[tokio::test]
async fn a_rename_counts_whenever_it_comes() {
    let rig = rig();
    rig.glance.will(&[Fault::Linger(50)]);
    let draft = rig.draft(b"data");
    draft.rename("second".into());
    let committing = tokio::spawn({
        let draft = draft.clone();
        async move { draft.commit().await }
    });
    while rig.requests("PUT") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
fn living_drafts_are_no_leftovers_and_dead_ones_are() {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    let (first, second) = (glance.uploads(dir.path()), glance.uploads(dir.path()));
    let draft = first.draft(intent("a\nb")).unwrap();
    draft.write(0, b"data").unwrap();
    let empty = first.draft(intent("empty")).unwrap();
    assert!(second.leftovers().is_empty());
    drop(glance.uploads(dir.path()));
    draft.sync().unwrap();
    assert_eq!(draft.read(ByteRange::new(0, 9)).unwrap(), b"data"[..]);
    drop(draft);
    drop(empty);
    let leftovers = second.leftovers();
    assert_eq!(leftovers.len(), 1, "{leftovers:?}");
    assert!(leftovers[0].contains("\"a\\nb\""), "{leftovers:?}");
    assert!(leftovers[0].contains("stopped at spooling"), "{leftovers:?}");
    assert_eq!(leftovers[0].lines().count(), 1);
    assert_eq!(files(dir.path()).len(), 2, "the empty draft left no file");
}

#[test]
fn what_a_crash_left_is_told_and_rests_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let name = |last: &str| dir.path().join(format!("1f3c9a2b-0000-4000-8000-00000000000{last}"));
    let journal = |step: &str, record: &str| {
        format!(
            r#"{{"version": 1, "name": "x", "image": "an-id", "record": "{record}", "replaces": null,
            "cloud": "c", "project": null, "started": 5, "size": 4, "step": "{step}", "failure": null, "strays": []}}"#
        )
    };
    for (file, content) in [
        ("1.data", "data".to_owned()),
        ("1.json", journal("uploading", "created")),
        ("2.data", "data".to_owned()), // Finished, not cleaned up.
        ("2.json", journal("done", "created")),
        ("3.data", String::new()), // Never had a byte.
        ("3.json", journal("spooling", "none")),
        ("4.json", journal("done", "created")), // Its data went to the cache.
        ("5.data", "data".to_owned()),          // No journal was written.
        ("6.data", "data".to_owned()),
        ("6.json", "{".to_owned()),
        ("7.json.tmp", String::new()),
    ] {
        std::fs::write(name(file), content).unwrap();
    }
    std::fs::write(dir.path().join("foreign.json"), "{}").unwrap();
    let lines = FakeGlance::default().uploads(dir.path()).leftovers();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let about = |text: &str| lines.iter().find(|line| line.contains(text)).unwrap();
    assert!(about("1.data").contains("the record an-id may still be in Glance"));
    assert!(about("1.data").contains("stopped at uploading (the process ended)"));
    assert!(about("5.data").contains("unknown name"));
    assert!(about("6.data").contains("cannot be read"));
    let mut left: Vec<String> =
        files(dir.path()).iter().map(|path| path.file_name().unwrap().to_string_lossy().into()).collect();
    left.sort();
    let ours: Vec<String> = ["1.data", "1.json", "5.data", "6.data", "6.json"]
        .iter()
        .map(|last| name(last).file_name().unwrap().to_string_lossy().into())
        .chain(["foreign.json".to_owned()])
        .collect();
    assert_eq!(left, ours);
}

#[test]
fn many_leftovers_are_bounded_lines() {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    let uploads = glance.uploads(dir.path());
    for n in 0..105 {
        uploads.draft(intent(&n.to_string())).unwrap().write(0, b"x").unwrap();
    }
    let lines = uploads.leftovers();
    assert_eq!(lines.len(), 101);
    assert!(lines[100].starts_with("5 more"), "{}", lines[100]);
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
