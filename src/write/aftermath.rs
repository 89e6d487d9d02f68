//! What a crash left in Glance: found by the journal, then finished or taken back.
//!
//! | the journal stopped at | and Glance has | what is done |
//! | --- | --- | --- |
//! | spooling | nothing | the bytes are kept and told (`recover.rs`) |
//! | reserving, creating, uploading | our record, queued | it is deleted; the bytes are kept and told |
//! | uploading, verifying | the image, active with the bytes that are here | that was the upload: the cache gets them |
//! | uploading, verifying | the image, active with what the journal says was streamed | that was the upload |
//! | any | a record of a failed try that could not be deleted then | it is deleted |
//! | any | a record that is being filled, or no answer | looked at again, after 1 s, 2 s, 4 s, up to a minute |
//!
//! What was not complete is not sent again by itself: its program was told that it failed, and may have
//! made the image in another way since. `glancefs uploads retry` sends it. A record that was reserved
//! before is never deleted, nor is an image that has other bytes than these.

use std::sync::Arc;

use super::Shared;
use super::body::{digests_of, multihash_of};
use super::folder::{DraftId, Folder};
use super::journal::{Durability, Journal, JournalFile, Record, Step, Streamed, this_boot};
use super::recover::{Leftover, examine};
use super::spool::Spool;
use super::strays;
use crate::blocking::blocking;
use crate::cache::ContentIdentity;
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Status};
use crate::units::ImageId;

/// What became of the record of an upload that nobody works on.
#[derive(Debug)]
pub(super) enum Settled {
    /// Nothing of it is in Glance, or nothing that is ours alone.
    Cleared {
        /// Records that were deleted now.
        deleted: Vec<ImageId>,
    },
    /// The image is there, with the same bytes.
    Finished(Box<Image>),
}

/// What changed in Glance by settling.
#[derive(Debug)]
pub enum Settlement {
    /// The record was deleted.
    Gone(ImageId),
    /// An image that no mount knew to be whole.
    Finished(Box<Image>),
}

/// Settles every upload of this cloud and project that a crash left. What cannot be settled now is left
/// for the next time, and makes it false.
pub(super) async fn settle_all(shared: &Arc<Shared>, tell: &(dyn Fn(Settlement) + Send + Sync)) -> bool {
    let mut all = true;
    let folder = Arc::clone(&shared.folder);
    let drafts = match blocking(move || folder.drafts()).await {
        Ok(drafts) => drafts,
        Err(error) => {
            tracing::warn!(%error, "what crashes left cannot be looked for");
            return true;
        }
    };
    for id in drafts {
        if shared.stop.is_cancelled() {
            return all;
        }
        let folder = Arc::clone(&shared.folder);
        let Ok(Some(mut leftover)) = blocking(move || Ok(examine(&folder, id))).await else { continue };
        let Ok(Some(journal)) = &leftover.journal else { continue };
        if journal.unsynced.as_deref() == Some(this_boot()) {
            leftover = match sync(&shared.folder, leftover).await {
                Ok(leftover) => leftover,
                Err(error) => {
                    tracing::warn!(%error, draft = %id, "what a crash left could not be made durable");
                    continue;
                }
            };
        }
        let Ok(Some(journal)) = &leftover.journal else { continue };
        if !is_ours(shared, journal) || !is_unsettled(journal) {
            continue;
        }
        if let Err(error) = settle_one(shared, leftover, tell).await {
            tracing::info!(%error, draft = %id, "what an upload left in Glance is looked at again later");
            all = false;
        }
    }
    all
}

/// Makes what a crash left durable: a process died, the machine did not, and now the bytes are all there are.
async fn sync(folder: &Arc<Folder>, mut leftover: Leftover) -> Result<Leftover> {
    let folder = Arc::clone(folder);
    blocking(move || {
        if let (Some(spool), Ok(Some(journal))) = (&leftover.spool, &mut leftover.journal) {
            JournalFile::existing(folder, leftover.id).sync_and_note(spool)?;
            journal.unsynced = None;
        }
        Ok(leftover)
    })
    .await
}

/// This mount's cloud and project are those it is for.
pub(super) fn is_ours(shared: &Shared, journal: &Journal) -> bool {
    let Shared { records, .. } = shared;
    journal.cloud == records.cloud_key() && journal.project.as_deref() == records.project_id()
}

/// Something of it may be in Glance.
fn is_unsettled(journal: &Journal) -> bool {
    let was_filling = matches!(journal.step, Step::Uploading | Step::Verifying) && journal.failure.is_none();
    match journal.record {
        _ if !journal.strays.is_empty() => true,
        Record::None => false,
        Record::Created => true,
        Record::Reserved => was_filling,
    }
}

async fn settle_one(
    shared: &Arc<Shared>,
    leftover: Leftover,
    tell: &(dyn Fn(Settlement) + Send + Sync),
) -> Result<()> {
    let Leftover { id, spool: Some(spool), journal: Ok(Some(mut journal)), .. } = leftover else {
        return Ok(());
    };
    let spool = Arc::new(spool);
    let settled = settle(shared, &mut journal, &spool).await;
    if let Ok(Settled::Finished(image)) = &settled {
        let (name, size) = (&journal.name, image.size.unwrap_or(0));
        shared.folder.tell(format!(
            "the upload of {name:?}, which a crash interrupted, had arrived: image {} is active with its {size} bytes",
            image.id
        ));
        tell(Settlement::Finished(image.clone()));
        return keep_as_image(shared, id, journal, spool, image).await;
    }
    // Also what was half done when no answer came any more.
    let step = journal.step.as_str();
    // A reservation may have been filled: with a failure noted nobody would ask again.
    let is_known = settled.is_ok() || journal.record == Record::Created;
    if journal.failure.is_none() && is_known {
        journal.set_failure(Some(&format!("the process ended while it was {step}")));
    }
    let told = (journal.name.clone(), spool.size()?);
    let (folder, strays_left) = (Arc::clone(&shared.folder), !journal.strays.is_empty());
    let keeps = told.1 > 0 || strays_left || settled.is_err();
    // The lock is held until the journal tells what was done.
    blocking(move || {
        let file = JournalFile::existing(folder, id);
        match keeps {
            true => file.store(Durability::Durable, || Some(journal))?,
            false => file.remove(),
        }
        drop(spool);
        Ok(())
    })
    .await?;
    let Settled::Cleared { deleted } = settled? else { return Ok(()) };
    deleted.iter().for_each(|id| tell(Settlement::Gone(id.clone())));
    if !deleted.is_empty() {
        let (name, bytes) = told;
        let records = deleted.iter().map(ImageId::to_string).collect::<Vec<_>>().join(", ");
        let kept = match bytes {
            0 => "no bytes are kept here".to_owned(),
            _ => format!(
                "its {bytes} bytes are kept in {}: glancefs uploads retry {id}",
                shared.folder.data_path(id).display()
            ),
        };
        shared.folder.tell(format!(
            "the upload of {name:?} had left the record {records} in Glance: it was deleted; {kept}"
        ));
    }
    if strays_left {
        return Err(Error::new(Kind::Unreachable, "a record of a failed try could not be deleted"));
    }
    Ok(())
}

/// Finds out what Glance has of the upload in `journal`, deletes what is ours and unfinished, and notes it
/// in `journal`.
///
/// # Errors
/// No answer, or the record is being filled at this moment: to be done again.
pub(super) async fn settle(shared: &Shared, journal: &mut Journal, spool: &Arc<Spool>) -> Result<Settled> {
    let mut deleted = Vec::new();
    for stray in std::mem::take(&mut journal.strays) {
        match delete(shared, &stray).await {
            Ok(()) => deleted.push(stray),
            Err(error) => {
                tracing::debug!(image = %stray, %error, "a record of a failed try is still there");
                journal.strays.push(stray);
            }
        }
    }
    if journal.record == Record::None || (journal.record == Record::Reserved && journal.failure.is_some()) {
        return Ok(Settled::Cleared { deleted });
    }
    let id = journal.image.clone();
    let image = match shared.records.show(&id).await {
        Ok(image) => image,
        Err(error) if error.kind() == Kind::NotFound => {
            journal.record = Record::None;
            return Ok(Settled::Cleared { deleted });
        }
        Err(error) => return Err(error),
    };
    let created = journal.record == Record::Created;
    match image.status {
        Status::Active | Status::Deactivated => {
            let same = match &journal.streamed {
                Some(streamed) => is_what_was_streamed(&image, streamed),
                None => is_the_same(&image, Arc::clone(spool)).await?,
            };
            if same {
                return Ok(Settled::Finished(Box::new(image)));
            }
            // Not ours any more: somebody else has filled it.
            journal.record = Record::None;
        }
        Status::Saving | Status::Uploading | Status::Importing => {
            let message = format!("image {id} is {}", image.status.as_str());
            return Err(Error::new(Kind::Busy, message));
        }
        _ if created => {
            delete(shared, &id).await?;
            journal.record = Record::None;
            deleted.push(id);
        }
        _ => {}
    }
    Ok(Settled::Cleared { deleted })
}

/// Deletes a record of ours; one that is gone is no error.
async fn delete(shared: &Shared, id: &ImageId) -> Result<()> {
    match shared.records.delete(id).await {
        Err(error) if error.kind() != Kind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Glance's hash of the image is that of the spool. Without any hash nothing is proven.
async fn is_the_same(image: &Image, spool: Arc<Spool>) -> Result<bool> {
    let size = spool.size()?;
    if image.size != Some(size) || size == 0 {
        return Ok(false);
    }
    let (checksum, hash) = (image.checksum.clone(), image.hash.clone());
    blocking(move || {
        if let Some(hash) = hash
            && let Some(ours) = multihash_of(&spool, size, &hash.algorithm)?
        {
            return Ok(ours.eq_ignore_ascii_case(&hash.value));
        }
        let Some(checksum) = checksum else { return Ok(false) };
        Ok(digests_of(&spool, size)?.is_some_and(|ours| checksum.eq_ignore_ascii_case(&ours.md5)))
    })
    .await
}

/// The same of a stream, whose bytes nobody has any more.
fn is_what_was_streamed(image: &Image, ours: &Streamed) -> bool {
    let sha512 = image.hash.as_ref().filter(|hash| &*hash.algorithm == "sha512");
    let same = match (sha512, &image.checksum) {
        (Some(hash), _) => hash.value.eq_ignore_ascii_case(&ours.digests.sha512),
        (None, Some(md5)) => md5.eq_ignore_ascii_case(&ours.digests.md5),
        (None, None) => false,
    };
    same && image.size == Some(ours.size)
}

/// Gives the bytes of a finished upload to the cache and forgets the draft.
pub(super) async fn keep_as_image(
    shared: &Arc<Shared>,
    id: DraftId,
    mut journal: Journal,
    spool: Arc<Spool>,
    image: &Image,
) -> Result<()> {
    if let Some(old) = journal.replaces.take() {
        shared.folder.tell(format!(
            "image {} was uploaded to replace {old}, which a crash left where it was: remove it by .by-id/{old}",
            image.id
        ));
    }
    // A stream has left none.
    let identity = journal
        .streamed
        .is_none()
        .then(|| ContentIdentity::of(image, shared.records.cloud_key(), shared.records.project_id()));
    let (shared, made) = (Arc::clone(shared), image.id.clone());
    blocking(move || {
        let file = JournalFile::existing(Arc::clone(&shared.folder), id);
        strays::note_tries_before(&shared.folder, &journal, &made);
        journal.step = Step::Done;
        file.store(Durability::Relaxed, || Some(journal))?;
        let data = spool.path();
        // With the last reference the lock goes: the cache may want its own.
        drop(spool);
        if let Some(identity) = identity
            && let Err(error) = shared.keeper.adopt(&identity, &data)
        {
            tracing::warn!(image = %identity.image, %error, "the cache did not take the uploaded file");
        }
        file.remove();
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::Uploads;
    use super::super::fake::{FakeGlance, Fault, files};
    use super::*;
    use crate::glance::NewImage;
    use crate::glance::Records;

    struct Crash {
        dir: tempfile::TempDir,
        glance: FakeGlance,
        image: ImageId,
    }

    /// As a daemon leaves it that was killed: `bytes` in the spool, and a journal that says this.
    fn crash(step: &str, record: &str, strays: &str, bytes: &[u8]) -> Crash {
        let dir = tempfile::tempdir().unwrap();
        let image = ImageId::generate();
        let draft = DraftId::generate();
        let journal = format!(
            r#"{{"version": 1, "name": "x", "image": "{image}", "record": "{record}", "replaces": null,
            "cloud": "fake", "project": "ours", "started": 5, "size": {}, "step": "{step}", "failure": null,
            "strays": [{strays}]}}"#,
            bytes.len()
        );
        std::fs::write(dir.path().join(format!("{draft}.json")), journal).unwrap();
        std::fs::write(dir.path().join(format!("{draft}.data")), bytes).unwrap();
        Crash { dir, glance: FakeGlance::default(), image }
    }

    impl Crash {
        async fn record(&self) {
            let new = NewImage {
                id: self.image.clone(),
                name: "x".into(),
                disk_format: Some("raw".into()),
                container_format: Some("bare".into()),
                properties: Vec::new(),
            };
            self.glance.create(&new).await.unwrap();
        }

        async fn fill(&self, bytes: &'static [u8]) {
            let open = || -> futures_util::stream::BoxStream<'static, std::io::Result<bytes::Bytes>> {
                Box::pin(futures_util::stream::iter([Ok(bytes::Bytes::from_static(bytes))]))
            };
            self.glance.upload(&self.image, bytes.len() as u64, &open).await.unwrap();
        }

        /// The next mount; what it says.
        async fn recover(&self) -> (Uploads, Vec<String>) {
            let uploads = self.glance.uploads(self.dir.path());
            let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
            let told = Arc::clone(&lines);
            uploads.listen(move |line| told.lock().unwrap().push(line));
            settle_all(&uploads.shared, &|_| {}).await;
            let lines = lines.lock().unwrap().clone();
            (uploads, lines)
        }

        fn files(&self) -> Vec<PathBuf> {
            files(self.dir.path())
        }
    }

    fn state_of(path: &Path) -> String {
        let json = path.with_extension("json");
        std::fs::read_to_string(json).unwrap()
    }

    #[tokio::test]
    async fn a_record_whose_upload_a_crash_ended_goes_and_the_bytes_stay() {
        for step in ["creating", "uploading", "verifying"] {
            let crash = crash(step, "created", "", b"data");
            crash.record().await;
            let (uploads, lines) = crash.recover().await;
            assert_eq!(crash.glance.state().deleted, std::slice::from_ref(&crash.image), "{step}");
            assert_eq!(crash.files().len(), 2);
            assert!(lines[0].contains("was deleted") && lines[0].contains("uploads retry"), "{lines:?}");
            let told = uploads.reports().unwrap().uploads;
            assert_eq!(told[0].state, super::super::Condition::Failed);
            assert!(told[0].reason.as_ref().unwrap().contains(step));
            assert!(crash.recover().await.1.is_empty(), "and no second time");
        }
    }

    #[tokio::test]
    async fn a_record_that_never_came_to_be_is_not_missed() {
        let crash = crash("creating", "created", "", b"data");
        assert!(crash.recover().await.1.is_empty());
        assert!(state_of(&crash.files()[0]).contains(r#""record": "none""#));
    }

    #[tokio::test]
    async fn an_upload_that_had_arrived_is_finished() {
        for (step, record) in [("uploading", "created"), ("verifying", "created"), ("verifying", "reserved")]
        {
            let crash = crash(step, record, "", b"data");
            crash.record().await;
            crash.fill(b"data").await;
            let (_, lines) = crash.recover().await;
            assert!(
                lines[0].contains(&format!("image {} is active with its 4 bytes", crash.image)),
                "{lines:?}"
            );
            assert_eq!(crash.files(), Vec::<PathBuf>::new());
            assert_eq!(crash.glance.state().adopted[0].1, b"data");
            assert!(crash.glance.state().deleted.is_empty());
        }
    }

    #[tokio::test]
    async fn the_record_of_a_try_before_one_that_had_arrived_is_deleted_later() {
        let stray = ImageId::generate();
        let crash = crash("uploading", "created", &format!("\"{stray}\""), b"data");
        crash.record().await;
        crash.fill(b"data").await;
        let arrived = crash.image.clone();
        let crash = Crash { image: stray.clone(), ..crash };
        crash.record().await;
        crash.glance.will(&[Fault::KeepRecord]);
        let (uploads, _) = crash.recover().await;
        let told = uploads.reports().unwrap().uploads;
        assert!(told.iter().any(|left| left.reason.as_ref().unwrap().contains(stray.as_str())), "{told:?}");
        crash.recover().await;
        assert_eq!(crash.glance.state().deleted, [stray]);
        assert_eq!((crash.glance.only_image().0.id, crash.files().len()), (arrived, 0));
    }

    #[tokio::test]
    async fn a_stream_that_had_arrived_is_told() {
        for (record, bytes, arrived) in
            [("created", b"data", true), ("reserved", b"data", true), ("created", b"atad", false)]
        {
            let crash = crash("uploading", record, "", b"");
            crash.record().await;
            crash.fill(bytes).await;
            let journal = &crash.files()[0].with_extension("json");
            let ours = r#""strays": [], "streamed": {"size": 4, "md5": "8d777f385d3dfec8815d20f7496026dc", "sha512": ""}"#;
            std::fs::write(journal, state_of(journal).replace(r#""strays": []"#, ours)).unwrap();
            crash.glance.state().images.get_mut(&crash.image).unwrap().0.hash = None;
            let (_, lines) = crash.recover().await;
            let told = lines.iter().any(|line| line.contains("had arrived"));
            assert_eq!(told, arrived, "{lines:?}");
            assert_eq!(crash.files(), Vec::<PathBuf>::new());
            assert!(crash.glance.state().deleted.is_empty() && crash.glance.state().adopted.is_empty());
        }
    }

    #[tokio::test]
    async fn an_image_with_other_bytes_is_left_alone() {
        let crash = crash("uploading", "created", "", b"data");
        crash.record().await;
        crash.fill(b"atad").await;
        crash.recover().await;
        assert_eq!(crash.files().len(), 2);
        assert!(crash.glance.state().deleted.is_empty() && crash.glance.state().adopted.is_empty());
    }

    #[tokio::test]
    async fn a_reservation_is_never_deleted() {
        let crash = crash("uploading", "reserved", "", b"data");
        crash.record().await;
        crash.recover().await;
        assert!(crash.glance.state().deleted.is_empty());
        assert_eq!(crash.files().len(), 2);
    }

    #[tokio::test]
    async fn a_record_that_is_being_filled_is_looked_at_again() {
        for record in ["created", "reserved"] {
            let crash = crash("uploading", record, "", b"data");
            crash.record().await;
            crash.glance.will(&[Fault::Linger(1)]);
            crash.fill(b"data").await;
            crash.recover().await;
            assert_eq!(crash.files().len(), 2, "nothing is decided");
            crash.recover().await;
            assert_eq!(crash.files(), Vec::<PathBuf>::new(), "{record}");
        }
    }

    #[tokio::test]
    async fn a_record_without_bytes_goes_with_its_journal() {
        let crash = crash("reserving", "created", "", b"");
        crash.record().await;
        let (_, lines) = crash.recover().await;
        assert_eq!(crash.glance.state().deleted, std::slice::from_ref(&crash.image));
        assert!(lines[0].contains("no bytes are kept here"), "{lines:?}");
        assert_eq!(crash.files(), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn a_record_that_could_not_be_deleted_then_is_deleted_now() {
        let stray = ImageId::generate();
        let crash = crash("uploading", "none", &format!("\"{stray}\""), b"data");
        let crash = Crash { image: stray.clone(), ..crash };
        crash.record().await;
        crash.glance.will(&[Fault::KeepRecord]);
        assert!(crash.recover().await.1.is_empty());
        assert!(state_of(&crash.files()[0]).contains(stray.as_str()), "it is still noted");
        crash.recover().await;
        assert_eq!(crash.glance.state().deleted, [stray]);
    }

    #[tokio::test]
    async fn what_is_for_another_cloud_is_not_touched() {
        let crash = crash("uploading", "created", "", b"data");
        crash.record().await;
        for path in crash.files().iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
            let text = std::fs::read_to_string(path).unwrap();
            std::fs::write(path, text.replace("\"ours\"", "\"theirs\"")).unwrap();
        }
        crash.recover().await;
        assert!(crash.glance.state().deleted.is_empty());
    }
}
