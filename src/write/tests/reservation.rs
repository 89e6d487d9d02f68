//! A record without data (`touch`): made, filled later, and kept when filling it fails.

use super::{qcow2, rig};
use crate::error::Kind;
use crate::glance::Status;
use crate::write::fake::{Fault, intent};

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
async fn a_broken_transfer_into_a_reservation_is_tried_again_on_its_id() {
    let rig = rig();
    let intent = rig.reservation();
    rig.glance.will(&[Fault::BreakBody(1, Kind::Unreachable), Fault::BreakBody(1, Kind::ServerError)]);
    let image = rig.draft_of(intent.clone(), b"data").commit().await.unwrap();
    assert_eq!(image.id, intent.id);
    assert_eq!((rig.requests("PUT"), rig.requests("DELETE")), (3, 0));
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
