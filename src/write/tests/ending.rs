//! Uploads that are ended while they run: abandoned, discarded, or by the end of the mount.

use std::sync::Arc;
use std::time::Duration;

use super::{qcow2, rig};
use crate::config::SpoolConfig;
use crate::error::Kind;
use crate::write::fake::Fault;
use crate::write::{Pace, Uploads};

#[tokio::test]
async fn an_abandoned_upload_ends_takes_its_record_back_and_keeps_its_bytes() {
    let rig = rig();
    rig.glance.will(&[Fault::Hang]);
    let draft = rig.draft(&qcow2());
    let committing = rig.sending(&draft).await;
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
    let committing = rig.sending(&draft).await;
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
    let committing = rig.sending(&draft).await;
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
    let committing = rig.sending(&draft).await;
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
        Pace {
            timeout: Duration::from_secs(60),
            patience: Duration::from_secs(60),
            ..Pace::of(&crate::source::fake::http())
        },
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
