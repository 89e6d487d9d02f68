//! What lies in the spool, taken up again: uploaded once more, or thrown away.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::aftermath::{Settled, is_ours, keep_as_image, settle};
use super::folder::DraftId;
use super::journal::{DAMAGED, Journal, JournalFile, Record, this_boot};
use super::recover::{Leftover, examine};
use super::spool::Spool;
use super::{Draft, Uploads};
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::units::ImageId;

/// How long an upload is waited for that is held and not by a program of this mount: the next mount after a crash asks Glance
/// for its record and deletes it, which takes well below a second, and whoever reads its message meanwhile does what the
/// message says.
const SETTLING: Duration = Duration::from_secs(3);

/// Between looks whether it is free.
const LOOK: Duration = Duration::from_millis(100);

/// What came of [`Uploads::take_up`].
#[derive(Debug)]
pub enum TakenUp {
    /// It can be committed; nothing was changed here yet.
    Draft {
        /// That draft.
        draft: Arc<Draft>,
        /// Records that a crash or a failed try had left, deleted now.
        deleted: Vec<ImageId>,
    },
    /// It had arrived already, unknown to its program.
    Image(Box<Image>),
}

impl Uploads {
    /// Takes up what is left of the upload `id`, as a draft with its bytes; under the name it had, into the
    /// reservation that it was for. With `name` it becomes a new image of that name.
    ///
    /// # Errors
    /// `NotFound`; `Busy` while somebody writes or uploads it; `Invalid` when it is for another cloud or
    /// project, or when no `name` was given and its journal is lost or a power cut may have damaged its bytes; those
    /// of the disk and of Glance.
    pub async fn take_up(&self, id: &str, name: Option<String>) -> Result<TakenUp> {
        let Leftover { id, spool, journal, .. } = self.leftover(id).await?;
        let spool = Arc::new(spool.ok_or_else(|| Error::new(Kind::Io, "its file cannot be opened"))?);
        let mut journal = match (journal, &name) {
            (Ok(Some(journal)), _) => journal,
            (_, Some(name)) => self.new_journal(name),
            (Ok(None) | Err(_), None) => {
                let message = "its journal is lost or damaged, and its name with it: give one with --as NAME";
                return Err(Error::new(Kind::Invalid, message));
            }
        };
        self.refuse_foreign(id, &journal)?;
        if spool.size()? == 0 {
            let message =
                "it has no bytes here: write the file again; discard deletes what is left of it in Glance";
            return Err(Error::new(Kind::NoData, message));
        }
        let shared = &self.shared;
        let deleted = match settle(shared, &mut journal, &spool).await? {
            Settled::Cleared { deleted } => deleted,
            Settled::Finished(image) => {
                keep_as_image(shared, id, journal, spool, &image).await?;
                return Ok(TakenUp::Image(image));
            }
        };
        if name.is_some() {
            // A person has looked at it.
            journal.unsynced = Some(this_boot().to_owned());
        } else if journal.may_be_damaged() {
            let file = shared.folder.data_path(id);
            let message = format!(
                "{DAMAGED}. Copy the file again; or look at {} and, if it is right, upload it with --as NAME",
                file.display()
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        let mut replaces = None;
        if let Some(name) = name.filter(|name| *name != journal.name) {
            // Another image than it was to be.
            (journal.record, journal.replaces, journal.name) = (Record::None, None, name);
        } else if let Some(old) = journal.replaces.clone() {
            replaces = found(shared.records.show(&old).await)?;
        }
        if journal.record == Record::Reserved && found(shared.records.show(&journal.image).await)?.is_none() {
            journal.record = Record::None;
        }
        if journal.record == Record::None {
            // Glance takes no id twice.
            journal.image = ImageId::generate();
        }
        let draft = Arc::new(Draft::revive(Arc::clone(shared), spool, journal, replaces));
        Ok(TakenUp::Draft { draft, deleted })
    }

    /// Removes what is left of the upload `id`, here and in Glance; gives the records that were deleted.
    ///
    /// # Errors
    /// As [`take_up`](Self::take_up). What is an image by now stays one.
    pub async fn throw_away(&self, id: &str) -> Result<Vec<ImageId>> {
        let Leftover { id, spool, journal, .. } = self.leftover(id).await?;
        let mut gone = Vec::new();
        if let (Some(_), Ok(Some(mut journal))) = (&spool, journal) {
            self.refuse_foreign(id, &journal)?;
            // A reference of its own, so that the lock is held until the files are gone.
            let reading = Spool::open(Arc::clone(&self.shared.folder), id);
            let reading = Arc::new(reading.map_err(|error| Error::io("opening the spool file", error))?);
            match settle(&self.shared, &mut journal, &reading).await? {
                Settled::Cleared { deleted } => gone = deleted,
                Settled::Finished(image) => {
                    tracing::info!(image = %image.id, "a discarded upload had become an image, which stays");
                }
            }
            if let Some(stray) = journal.strays.first() {
                let message =
                    format!("the record {stray} of a failed try could not be deleted: try again later");
                return Err(Error::new(Kind::Unreachable, message));
            }
        }
        let folder = Arc::clone(&self.shared.folder);
        blocking(move || {
            JournalFile::existing(folder, id).remove();
            drop(spool);
            Ok(gone)
        })
        .await
    }

    async fn leftover(&self, id: &str) -> Result<Leftover> {
        let unknown =
            || Error::new(Kind::NotFound, "there is no such upload here: glancefs uploads lists them");
        let id = DraftId::parse(id).ok_or_else(unknown)?;
        // With time left for the rest.
        let until = Instant::now() + SETTLING.min(self.shared.pace.timeout / 2);
        loop {
            let folder = Arc::clone(&self.shared.folder);
            let found = blocking(move || {
                if let Some(leftover) = examine(&folder, id) {
                    return Ok(leftover);
                }
                Err(match Spool::open(folder, id) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => unknown(),
                    _ => Error::new(Kind::Busy, "it is being written or uploaded: end the program that does"),
                })
            });
            match found.await {
                Err(error) if error.kind() == Kind::Busy && Instant::now() < until && !self.runs(id) => {
                    sleep(LOOK).await;
                }
                found => return found,
            }
        }
    }

    /// A program of this mount writes it, or it is on its way: it is not about to be free.
    fn runs(&self, id: DraftId) -> bool {
        // The lock of the drafts is given back before that of the one is taken.
        let draft = self.shared.live().get(&id).and_then(Weak::upgrade);
        draft.is_some_and(|draft| draft.lock().runs())
    }

    fn new_journal(&self, name: &str) -> Journal {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let started = i64::try_from(now).unwrap_or(i64::MAX);
        let mut journal = Journal::new(name, &ImageId::generate(), Record::None, started);
        journal.cloud = self.shared.records.cloud_key().to_owned();
        journal.project = self.shared.records.project_id().map(str::to_owned);
        journal
    }

    fn refuse_foreign(&self, id: DraftId, journal: &Journal) -> Result<()> {
        if is_ours(&self.shared, journal) {
            return Ok(());
        }
        let Journal { cloud, project, .. } = journal;
        let project = project.as_deref().unwrap_or("none");
        let folder = self.shared.folder.path().display();
        let cure = format!("mount that with --spool-dir {folder} and try again");
        let message =
            format!("upload {id} is for another cloud or project ({cloud}, project {project}): {cure}");
        Err(Error::new(Kind::Invalid, message))
    }
}

/// An image that may be gone.
fn found(shown: Result<Image>) -> Result<Option<Image>> {
    match shown {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeGlance, Fault, files, intent};
    use super::super::{Condition, Intent};
    use super::*;

    /// An upload that failed; its id.
    async fn failed(glance: &FakeGlance, uploads: &Uploads, intent: Intent) -> String {
        glance.will(&[Fault::Refuse(Kind::QuotaExceeded)]);
        let draft = uploads.draft(intent).unwrap();
        draft.write(0, b"data").unwrap();
        draft.commit().await.unwrap_err();
        drop(draft);
        uploads.reports().unwrap().uploads[0].id.clone()
    }

    #[tokio::test]
    async fn what_a_mount_is_about_to_settle_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let id = failed(&glance, &uploads, intent("new")).await;
        let held = Spool::open(Arc::clone(&uploads.shared.folder), DraftId::parse(&id).unwrap()).unwrap();
        assert!(held.try_lock());
        let taken = tokio::join!(uploads.take_up(&id, None), async {
            sleep(3 * LOOK).await;
            drop(held);
        });
        assert!(matches!(taken.0, Ok(TakenUp::Draft { .. })), "{taken:?}");
    }

    #[tokio::test]
    async fn what_a_program_writes_or_uploads_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let draft = uploads.draft(intent("running")).unwrap();
        draft.write(0, b"data").unwrap();
        let id = uploads.reports().unwrap().uploads[0].id.clone();
        let refused = async || {
            // The clock stands unless somebody waits for it.
            tokio::time::pause();
            let before = Instant::now();
            assert_eq!(uploads.take_up(&id, None).await.unwrap_err().kind(), Kind::Busy);
            assert_eq!(before.elapsed(), Duration::ZERO);
            tokio::time::resume();
        };
        refused().await;
        glance.will(&[Fault::Hang]);
        let committing = tokio::spawn({
            let draft = Arc::clone(&draft);
            async move { draft.commit().await }
        });
        while draft.upload_progress() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        refused().await;
        committing.abort();
    }

    fn draft(taken_up: TakenUp) -> Arc<Draft> {
        match taken_up {
            TakenUp::Draft { draft, .. } => draft,
            TakenUp::Image(image) => panic!("{image:?}"),
        }
    }

    #[tokio::test]
    async fn a_failed_upload_is_tried_again_from_its_spool() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let id = failed(&glance, &uploads, intent("new")).await;
        // It fails once more, and is still there.
        glance.will(&[Fault::Refuse(Kind::QuotaExceeded)]);
        let again = draft(uploads.take_up(&id, None).await.unwrap());
        assert_eq!(uploads.take_up(&id, None).await.unwrap_err().kind(), Kind::Busy, "one at a time");
        assert_eq!(again.commit().await.unwrap_err().kind(), Kind::QuotaExceeded);
        drop(again);
        assert_eq!(uploads.reports().unwrap().uploads[0].state, Condition::Failed);
        let image = draft(uploads.take_up(&id, None).await.unwrap()).commit().await.unwrap();
        assert_eq!((image.name.as_deref(), image.size), (Some("new"), Some(4)));
        assert_eq!(glance.only_image().1, "data");
        assert_eq!(files(dir.path()).len(), 0);
        assert_eq!(uploads.take_up(&id, None).await.unwrap_err().kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn another_name_makes_a_new_image() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let reserved = uploads.draft(intent("old")).unwrap().reserve().await.unwrap();
        let fill = Intent { id: reserved.id.clone(), reserved: true, ..intent("old") };
        let id = failed(&glance, &uploads, fill).await;
        let image = draft(uploads.take_up(&id, Some("other".into())).await.unwrap()).commit().await.unwrap();
        assert_eq!(image.name.as_deref(), Some("other"));
        assert_ne!(image.id, reserved.id);
    }

    #[tokio::test]
    async fn a_reservation_is_filled_again_unless_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        for gone in [false, true] {
            let reserved = uploads.draft(intent("reserved")).unwrap().reserve().await.unwrap();
            let fill = Intent { id: reserved.id.clone(), reserved: true, ..intent("reserved") };
            let id = failed(&glance, &uploads, fill).await;
            if gone {
                crate::glance::Records::delete(&glance, &reserved.id).await.unwrap();
            }
            let image = draft(uploads.take_up(&id, None).await.unwrap()).commit().await.unwrap();
            assert_eq!(image.id != reserved.id, gone);
        }
    }

    #[tokio::test]
    async fn what_is_thrown_away_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        // Its record cannot be deleted when it fails, nor at the first try to throw it away.
        glance.will(&[Fault::KeepRecord, Fault::KeepRecord]);
        let id = failed(&glance, &uploads, intent("unwanted")).await;
        assert_eq!(glance.state().images.len(), 1);
        uploads.throw_away(&id).await.unwrap_err();
        assert_eq!(files(dir.path()).len(), 2);
        uploads.throw_away(&id).await.unwrap();
        assert_eq!((files(dir.path()).len(), glance.state().images.len()), (0, 0));
        assert_eq!(uploads.throw_away(&id).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(uploads.throw_away("../x").await.unwrap_err().kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn what_is_for_another_project_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let id = failed(&glance, &uploads, intent("new")).await;
        let path = dir.path().join(format!("{id}.json"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"ours\"", "\"theirs\"")).unwrap();
        let error = uploads.take_up(&id, None).await.unwrap_err().to_string();
        assert!(error.contains("project theirs") && error.contains("--spool-dir"), "{error}");
        uploads.throw_away(&id).await.unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let error = uploads.take_up(&id, None).await.unwrap_err().to_string();
        assert!(error.contains("--as NAME"), "{error}");
        draft(uploads.take_up(&id, Some("found".into())).await.unwrap()).commit().await.unwrap();
    }
}
