//! Records that could not be deleted when their upload ended: told, and deleted as soon as they can be.

use std::time::Duration;

use super::{Rig, rig};
use crate::error::{Kind, Result};
use crate::write::aftermath::settle_all;
use crate::write::fake::{Fault, intent};
use crate::write::{Condition, Report};

impl Rig {
    fn records(&self) -> usize {
        self.glance.state().images.len()
    }

    fn reports(&self) -> Vec<Report> {
        self.uploads.reports().unwrap().uploads
    }

    /// One without bytes is listed, and names its record; then it is settled, and only so many images are left.
    async fn is_told_and_settled(&self, images: usize) {
        assert_eq!(self.records(), images + 1);
        let told = self.reports();
        let [Report { state: Condition::Failed, bytes: 0, reason: Some(reason), .. }] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(reason.contains("of a failed try is still in Glance"), "{reason}");
        assert!(settle_all(&self.uploads.shared, &|_| {}).await);
        assert_eq!((self.records(), self.reports().len(), self.files()), (images, 0, 0));
    }
}

/// A streamed upload that fails, whose program closes its file.
async fn fail_streaming(rig: &Rig) -> Result<()> {
    let draft = rig.uploads.clone().streaming(true).draft(intent("streamed")).unwrap();
    tokio::task::spawn_blocking(move || {
        draft.write(0, b"data")?;
        tokio::runtime::Handle::current().block_on(draft.commit()).map(drop)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn the_record_of_a_stream_is_told_until_it_is_gone() {
    let rig = rig();
    rig.glance.will(&[Fault::BreakBody(0, Kind::QuotaExceeded), Fault::KeepRecord]);
    assert_eq!(fail_streaming(&rig).await.unwrap_err().kind(), Kind::QuotaExceeded);
    rig.is_told_and_settled(0).await;
}

#[tokio::test]
async fn the_record_of_what_is_discarded_is_told_until_it_is_gone() {
    let rig = rig();
    rig.glance.will(&[Fault::Refuse(Kind::QuotaExceeded), Fault::KeepRecord]);
    let draft = rig.draft(b"data");
    draft.commit().await.unwrap_err();
    draft.discard();
    rig.is_told_and_settled(0).await;
}

#[tokio::test]
async fn the_record_of_a_try_before_the_one_that_worked_is_told_until_it_is_gone() {
    let rig = rig();
    rig.glance.will(&[Fault::BreakBody(0, Kind::Unreachable), Fault::KeepRecord, Fault::KeepRecord]);
    let image = rig.draft(b"data").commit().await.unwrap();
    rig.is_told_and_settled(1).await;
    assert_eq!(rig.glance.only_image().0.id, image.id);
}

#[tokio::test(start_paused = true)]
async fn what_an_upload_leaves_is_looked_at_at_once_and_not_at_the_next_round() {
    let rig = rig();
    tokio::spawn(rig.uploads.clone().keep_house(false, |_| {}));
    // Its first round finds nothing.
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.glance.will(&[Fault::Refuse(Kind::QuotaExceeded), Fault::KeepRecord]);
    let draft = rig.draft(b"data");
    draft.commit().await.unwrap_err();
    drop(draft);
    assert_eq!(rig.records(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(rig.records(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_outage_keeps_is_asked_for_less_and_less_often() {
    let rig = rig();
    tokio::spawn(rig.uploads.clone().keep_house(false, |_| {}));
    rig.glance.will(&[Fault::Refuse(Kind::QuotaExceeded)]);
    rig.glance.will(&[Fault::KeepRecord; 8]);
    let draft = rig.draft(b"data");
    draft.commit().await.unwrap_err();
    drop(draft);
    tokio::time::sleep(Duration::from_secs(50)).await;
    // When it failed, and after 1, 2, 4, 8, 16 and 32 s.
    assert_eq!(rig.requests("DELETE"), 7);
}

#[tokio::test]
async fn the_record_of_what_the_same_bytes_superseded_is_told_until_it_is_gone() {
    let rig = rig();
    rig.glance.will(&[Fault::Refuse(Kind::QuotaExceeded), Fault::KeepRecord]);
    rig.draft(b"data").commit().await.unwrap_err();
    let image = rig.draft(b"data").commit().await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        while rig.reports().iter().any(|left| left.bytes > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    rig.is_told_and_settled(1).await;
    assert_eq!(rig.glance.only_image().0.id, image.id);
}
