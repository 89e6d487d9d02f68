//! What a commit does when Glance refuses, breaks, stalls or stores other bytes.

use super::{qcow2, rig};
use crate::error::Kind;
use crate::units::ByteRange;
use crate::write::fake::{Fault, TIMEOUT};

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
async fn a_record_that_a_killed_server_left_under_way_goes_and_another_takes_the_data() {
    let rig = rig();
    rig.glance.will(&[Fault::Stick]);
    let draft = rig.draft(b"data");
    let first = draft.image_id();
    let image = draft.commit().await.unwrap();
    assert_ne!(image.id, first);
    assert_eq!(rig.glance.only_image().1, b"data"[..]);
    assert_eq!((rig.requests("POST"), rig.requests("DELETE")), (2, 1));
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
async fn a_sites_own_hash_is_compared_too() {
    let rig = rig();
    rig.glance.state().algorithm = Some("sha256");
    let image = rig.draft(b"data").commit().await.unwrap();
    assert_eq!(image.hash.unwrap().algorithm.as_ref(), "sha256");
    rig.glance.will(&[Fault::Corrupt]);
    assert_eq!(rig.draft(b"data").commit().await.unwrap_err().kind(), Kind::Integrity);
}
