//! The life of a commit: from a quiet draft through its upload to the draft's next phase.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::allowance::Allowance;
use super::body::multihash_of;
use super::folder::Folder;
use super::journal::{Durability, Journal, JournalFile, Step};
use super::kept;
use super::spool::Spool;
use super::state::{Inner, Phase, stopped};
use super::strays;
use super::stream::Stream;
use super::upload::Upload;
use crate::blocking::blocking;
use crate::cache::ContentIdentity;
use crate::error::{Error, Kind, Result};
use crate::glance::{Change, Image};
use crate::metrics::{self, PROCESS};

/// How long a commit waits for the cache to take the spool file over; it goes on by itself after.
const ADOPT_PATIENCE: Duration = Duration::from_secs(10);

/// What a commit shall make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// A record without data.
    Reserve,
    /// An active image.
    Publish,
}

/// How a draft ends without becoming an image.
#[derive(Debug)]
pub(super) enum Ending {
    /// Its bytes are kept, with this reason.
    Abandon(String),
    /// Nothing is kept.
    Discard,
}

/// A commit under way, or done: how to wait for it, and how to end it.
#[derive(Clone)]
pub(super) struct Commit {
    outcome: watch::Receiver<Option<Arc<Result<Image>>>>,
    cancel: CancellationToken,
}

/// The working side of a [`Commit`].
pub(super) struct Running {
    outcome: watch::Sender<Option<Arc<Result<Image>>>>,
    cancel: CancellationToken,
}

impl Commit {
    /// One that is about to run, until `cancel` ends it.
    pub(super) fn begin(cancel: CancellationToken) -> (Self, Running) {
        let (told, outcome) = watch::channel(None);
        (Self { outcome, cancel: cancel.clone() }, Running { outcome: told, cancel })
    }

    /// One that made `image` already.
    pub(super) fn done(image: Image) -> Self {
        let (_, outcome) = watch::channel(Some(Arc::new(Ok(image))));
        Self { outcome, cancel: CancellationToken::new() }
    }

    /// Ends it, unless Glance has all data already.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Its outcome; any number of callers may wait.
    pub(super) async fn wait(mut self) -> Result<Image> {
        let outcome = self.outcome.wait_for(Option::is_some).await.map_err(|_| stopped())?;
        match outcome.as_deref() {
            Some(Ok(image)) => Ok(image.clone()),
            Some(Err(error)) => Err(error.duplicate()),
            None => Err(stopped()),
        }
    }
}

impl Running {
    /// The whole way to an image or a record. Without anybody who waits, the outcome is in the log
    /// and in the journal.
    pub(super) async fn run(self, draft: Arc<Inner>, goal: Goal, spool: Arc<Spool>) {
        let outcome = match prepare(&draft, goal, spool, self.cancel).await {
            Err(error) => Err(failed(&draft, None, error).await),
            Ok(mut upload) => {
                let outcome = match goal {
                    Goal::Publish => match draft.stream.as_ref().and_then(Stream::take_pieces) {
                        Some(pieces) => upload.publish_stream(pieces).await,
                        None => upload.publish().await,
                    },
                    Goal::Reserve => upload.reserve().await,
                };
                match outcome {
                    Ok(image) => Ok(succeeded(&draft, goal, upload, image).await),
                    Err(error) => Err(failed(&draft, Some(upload), error).await),
                }
            }
        };
        if goal == Goal::Publish {
            PROCESS.upload(if outcome.is_ok() { metrics::Outcome::Done } else { metrics::Outcome::Failed });
        }
        self.outcome.send_replace(Some(Arc::new(outcome)));
    }
}

/// Waits until the draft is quiet and looks whether it may be uploaded.
async fn prepare(draft: &Inner, goal: Goal, spool: Arc<Spool>, cancel: CancellationToken) -> Result<Upload> {
    // Who writes a stream may wait for this upload to take what he writes.
    if draft.stream.is_none() && !draft.quiet().await {
        return Err(Error::new(Kind::TimedOut, "a write to the spool does not end"));
    }
    let size = {
        let spool = spool.clone();
        blocking(move || spool.size()).await?
    };
    let state = draft.lock();
    // Looked at only now that no write is under way.
    if let Some((_, error)) = &state.damage {
        return Err(error.duplicate().context("nothing is uploaded, because a write failed"));
    }
    if goal == Goal::Reserve && (state.dirty || size > 0) {
        return Err(Error::new(Kind::Invalid, "data were written: commit them"));
    }
    Ok(Upload {
        shared: draft.shared.clone(),
        spool,
        size,
        replaces: state.replaces.clone().filter(|_| goal == Goal::Publish),
        sent: draft.sent.clone(),
        cancel,
        journal: state.journal.clone(),
        journal_file: draft.journal_file.clone(),
        allowance: Allowance::new(draft.shared.pace.patience),
        streamed: false,
        sends: 0,
    })
}

/// The image is active and proven (or the record reserved): the spool goes to the cache.
async fn succeeded(draft: &Inner, goal: Goal, mut upload: Upload, mut image: Image) -> Image {
    let warning = upload.tidy_up(&image).await;
    if let Some(warning) = &warning {
        tracing::warn!("{warning}");
    }
    let Upload { mut journal, spool, streamed, .. } = upload;
    let data = spool.path();
    drop(spool);
    let name = {
        let mut state = draft.lock();
        state.phase = Phase::Committed(Box::new(image.clone()));
        state.dirty = false;
        state.warning = warning;
        // With the last reference the lock goes: the cache may want its own.
        state.spool = None;
        state.journal.name.clone()
    };
    if name != journal.name {
        // Renamed during the upload; Glance would have undone a change made before its end.
        let change = Change::Set { key: "name".to_owned(), value: name.into() };
        match draft.shared.records.update(&image.id, &[change]).await {
            Ok(record) => {
                image = record;
                draft.lock().phase = Phase::Committed(Box::new(image.clone()));
            }
            Err(error) => tracing::warn!(image = %image.id, %error, "the image keeps its old name"),
        }
    }
    // A cache may punch holes into the file, which readers through us would take for zeros.
    let quiet = draft.quiet().await;
    let records = &draft.shared.records;
    let identity = (quiet && goal == Goal::Publish && !streamed)
        .then(|| ContentIdentity::of(&image, records.cloud_key(), records.project_id()));
    let (shared, file) = (draft.shared.clone(), draft.journal_file.clone());
    let made = image.clone();
    let cleaning = tokio::task::spawn_blocking(move || {
        strays::note_tries_before(&shared.folder, &journal, &made.id);
        journal.step = Step::Done;
        let finished = journal.clone();
        // A crash before the last line leaves a finished journal, whose rests are removed later.
        if let Err(error) = file.store(Durability::Relaxed, || Some(journal)) {
            tracing::warn!(%error, "the journal of a finished upload could not be written");
        }
        if let Some(identity) = identity
            && let Err(error) = shared.keeper.adopt(&identity, &data)
        {
            tracing::warn!(image = %identity.image, %error, "the cache did not take the uploaded file");
        }
        file.remove();
        if let Some(hash) = &made.hash {
            let why = format!("image {} has the same bytes", made.id);
            kept::supersede(&shared.folder, file.id(), &finished, finished.size, &why, |earlier| {
                let found = multihash_of(earlier, finished.size, &hash.algorithm)?;
                Ok(found.is_some_and(|found| found.eq_ignore_ascii_case(&hash.value)))
            });
        }
    });
    // Its result is nobody's concern, and it goes on when it takes longer.
    let _ = tokio::time::timeout(ADOPT_PATIENCE, cleaning).await;
    image
}

/// Keeps the spool, notes why, and opens the draft again unless it was given up meanwhile.
async fn failed(draft: &Inner, upload: Option<Upload>, error: Error) -> Error {
    let (journal, ended, damaged, spool) = {
        let mut state = draft.lock();
        if let Some(Upload { mut journal, .. }) = upload {
            // The upload does not know of a rename meanwhile.
            journal.name = std::mem::take(&mut state.journal.name);
            state.journal = journal;
        }
        state.journal.set_failure(Some(&error.to_string()));
        state.phase = Phase::Open;
        let ended = state.ending.take().map(|ending| (ending, state.close()));
        (state.journal.clone(), ended, state.damage.is_some(), state.spool.clone())
    };
    // Who asked for it tells it to a person, and what became of the bytes.
    tracing::debug!(name = ?journal.name, image = %journal.image, %error, "an upload failed");
    let (file, failed) = (draft.journal_file.clone(), journal.clone());
    let noted = match ended {
        None => blocking(move || keep(&file, journal, spool.as_deref())).await,
        Some((ending, spool)) => {
            let folder = draft.shared.folder.clone();
            blocking(move || settle(&folder, &file, journal, spool, ending)).await
        }
    };
    match noted {
        Ok(()) if !damaged && draft.stream.is_none() => {
            let (folder, stop) = (draft.shared.folder.clone(), draft.shared.stop.clone());
            let id = draft.journal_file.id();
            // Reads whole files, and nobody waits for it.
            tokio::task::spawn_blocking(move || {
                kept::keep_newest(&folder, id, &failed, || stop.is_cancelled());
            });
        }
        Ok(()) => {}
        Err(error) => tracing::warn!(%error, "the journal of a failed upload could not be written"),
    }
    error
}

/// Notes why it stopped; the bytes are to outlive a power cut, as who is told of them will expect.
fn keep(file: &JournalFile, journal: Journal, spool: Option<&Spool>) -> Result<()> {
    if let Some(spool) = spool
        && let Err(error) = file.sync(spool)
    {
        tracing::warn!(%error, "the bytes of a failed upload could not be made durable");
    }
    let kept = file.store(Durability::Durable, || Some(journal));
    file.bytes_may_change();
    kept
}

/// Leaves of a closed draft what its end wants: nothing, or bytes and a reason; and what nobody could delete in Glance
/// stays noted.
pub(super) fn settle(
    folder: &Arc<Folder>,
    file: &JournalFile,
    mut journal: Journal,
    spool: Option<Arc<Spool>>,
    ending: Ending,
) -> Result<()> {
    let size = spool.as_ref().map_or(Ok(0), |spool| spool.size())?;
    let recorded = !journal.strays.is_empty();
    match ending {
        Ending::Abandon(reason) if size > 0 || recorded => {
            journal.size = size;
            journal.set_failure(Some(&reason));
            // The data stay locked until the journal is written: nobody lists half of it.
            keep(file, journal, spool.as_deref())?;
            drop(spool);
            if recorded {
                folder.settle_soon();
            }
        }
        Ending::Abandon(_) => file.remove(),
        Ending::Discard => {
            strays::note(folder, &journal, "it was discarded")?;
            file.remove();
        }
    }
    Ok(())
}
