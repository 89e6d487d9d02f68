//! A file being written: its states, and who may do what in which.
//!
//! ```text
//!            commit, reserve             success
//!   Open ───────────────────► Committing ───────► Committed
//!    ▲                            │
//!    │         failure            │ abandoned or discarded meanwhile
//!    └────────────────────────────┴──────────────────────────────────► Closed
//! ```
//! The one lock here is held for moments and never while a file or the network is waited for.
//! Writes and reads run side by side and are counted; a commit begins when none is under way.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::folder::DraftId;
use super::journal::{Durability, Journal, Record, Step};
use super::spool::Spool;
use super::store::content_identity;
use super::upload::{Upload, blocking};
use super::{Intent, Shared};
use crate::error::{Error, Kind, Result};
use crate::glance::{Change, Image};
use crate::units::{ByteRange, ImageId};

/// How long a commit waits for writes under way: they are local, so only a failing disk takes longer.
const QUIET_PATIENCE: Duration = Duration::from_secs(30);

/// How long a commit waits for the cache to take the spool file over; it goes on by itself after.
const ADOPT_PATIENCE: Duration = Duration::from_secs(10);

/// A file being written, not yet an image. All methods but `reserve` and `commit` are short local
/// file operations that may block on the disk: call them from a thread that may.
///
/// Dropping it keeps the spool and the journal if there are bytes that were not committed.
pub struct Draft {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    id: DraftId,
    state: Mutex<State>,
    /// Told whenever the last access under way has ended.
    quiet: Notify,
    sent: Arc<AtomicU64>,
}

struct State {
    phase: Phase,
    /// `None` once the file has gone to the cache, or was given up.
    spool: Option<Arc<Spool>>,
    /// Reads and writes under way.
    accesses: usize,
    dirty: bool,
    /// A write or truncation that failed, and where: what is there is not what the program wrote.
    damage: Option<(ByteRange, Error)>,
    journal: Journal,
    replaces: Option<Image>,
    /// What the program asked for while a commit was running.
    ending: Option<Ending>,
    /// What went wrong after the image was active.
    warning: Option<String>,
}

enum Phase {
    Open,
    Committing(Commit),
    Committed(Box<Image>),
    Closed,
}

/// A commit under way: how to wait for it, and how to end it.
#[derive(Clone)]
struct Commit {
    outcome: watch::Receiver<Option<Arc<Result<Image>>>>,
    cancel: CancellationToken,
}

enum Ending {
    Abandon(String),
    Discard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// A record without data.
    Reserve,
    /// An active image.
    Publish,
}

impl Draft {
    pub(super) fn create(shared: Arc<Shared>, intent: Intent) -> Result<Self> {
        let spool = Spool::create(shared.folder.clone())?;
        let record = if intent.reserved { Record::Reserved } else { Record::None };
        // A clock before 1970 only sorts its leftovers first.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let started = i64::try_from(now).unwrap_or(i64::MAX);
        let mut journal = Journal::new(&intent.name, &intent.id, record, started);
        journal.replaces = intent.replaces.as_ref().map(|old| old.id.clone());
        journal.cloud = shared.store.cloud_key().to_owned();
        journal.project = shared.store.project_id().map(str::to_owned);
        let id = spool.id();
        journal.store(&shared.folder, id, Durability::Relaxed).inspect_err(|_| shared.folder.remove(id))?;
        let state = State {
            phase: Phase::Open,
            spool: Some(Arc::new(spool)),
            accesses: 0,
            dirty: false,
            damage: None,
            journal,
            replaces: intent.replaces,
            ending: None,
            warning: None,
        };
        let inner =
            Inner { shared, id, state: Mutex::new(state), quiet: Notify::new(), sent: Arc::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The id that the image has or is meant to have; a retried commit may change it.
    pub fn image_id(&self) -> ImageId {
        let state = self.inner.lock();
        match &state.phase {
            Phase::Committed(image) => image.id.clone(),
            _ => state.journal.image.clone(),
        }
    }

    /// The bytes so far; after the commit, those of the image.
    pub fn size(&self) -> u64 {
        let spool = {
            let state = self.inner.lock();
            match (&state.phase, &state.spool) {
                (Phase::Committed(image), _) => return image.size.unwrap_or(0),
                (_, Some(spool)) => spool.clone(),
                (_, None) => return 0,
            }
        };
        spool.size().unwrap_or_else(|error| {
            tracing::warn!(%error, "the size of a draft is unknown");
            0
        })
    }

    /// Something was written or truncated since the draft was made or last committed. Setting the
    /// length that it has changes nothing.
    pub fn is_dirty(&self) -> bool {
        self.inner.lock().dirty
    }

    /// Writes all of `data` at `offset`.
    ///
    /// A write that fails damages the draft: it cannot be committed until the same bytes were
    /// written, or all was truncated. Programs that meet a full disk close what they have, and half
    /// a file must not become an image.
    ///
    /// # Errors
    /// `NoSpace` at the spool's limit or on a full disk, `TooLarge`, `Io`; `Busy` during a commit,
    /// `NotPermitted` after it.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let access = self.inner.access(true)?;
        if data.is_empty() {
            return Ok(());
        }
        let range = ByteRange::at(offset, data.len() as u64);
        let written = access.spool.write(offset, data);
        let mut state = self.inner.lock();
        state.dirty = true;
        match &written {
            Ok(()) if state.damage.as_ref().is_some_and(|(damaged, _)| range.contains(*damaged)) => {
                state.damage = None;
            }
            Ok(()) => {}
            Err(error) => state.add_damage(range, error),
        }
        written
    }

    /// Reads back what was written, short at the end; `range` should be no longer than what the
    /// caller can hold in memory.
    ///
    /// # Errors
    /// `Stale` after the commit: read the image instead, the cache has it. `Io`.
    pub fn read(&self, range: ByteRange) -> Result<Bytes> {
        self.inner.access(false)?.spool.read(range)
    }

    /// Sets the length.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn truncate(&self, size: u64) -> Result<()> {
        let access = self.inner.access(true)?;
        if access.spool.size()? == size {
            return Ok(());
        }
        let truncated = access.spool.truncate(size);
        let mut state = self.inner.lock();
        state.dirty = true;
        match &truncated {
            Ok(()) if state.damage.as_ref().is_some_and(|(damaged, _)| size <= damaged.start) => {
                state.damage = None;
            }
            Ok(()) => {}
            Err(error) => state.add_damage(ByteRange::new(0, u64::MAX), error),
        }
        truncated
    }

    /// Makes the spool and its journal durable; commits nothing.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn sync(&self) -> Result<()> {
        let (spool, mut journal, committing) = {
            let state = self.inner.lock();
            let Some(spool) = state.spool.clone() else { return Ok(()) };
            (spool, state.journal.clone(), matches!(state.phase, Phase::Committing(_)))
        };
        spool.sync()?;
        if committing {
            // The upload writes the journal now; an older state must not replace a newer one.
            return Ok(());
        }
        journal.size = spool.size()?;
        journal.store(&self.inner.shared.folder, self.inner.id, Durability::Durable)
    }

    /// The name under which it will be created; a rename before the commit is local, one during
    /// the commit is sent after it.
    pub fn rename(&self, name: String) {
        let journal = {
            let mut state = self.inner.lock();
            state.journal.name = name;
            matches!(state.phase, Phase::Open).then(|| state.journal.clone())
        };
        if let Some(journal) = journal
            && let Err(error) = journal.store(&self.inner.shared.folder, self.inner.id, Durability::Relaxed)
        {
            tracing::warn!(%error, "the journal of a draft keeps its old name");
        }
    }

    /// Creates the record only (`touch`): status `queued`, data may come later. The spool file is
    /// removed and the draft is at its end.
    ///
    /// # Errors
    /// `Invalid` when something was written; what Glance says.
    pub async fn reserve(&self) -> Result<Image> {
        self.begin(Goal::Reserve)?.wait().await
    }

    /// Makes it an active image and returns the record; on failure the spool is kept and listed,
    /// and `commit` may be called again.
    ///
    /// The image's id may differ from the intent's: a retry needs a fresh one, as Glance takes no id
    /// twice. The upload goes on when the returned future is dropped, and another call waits for
    /// the same upload: only [`abandon`](Self::abandon) and [`discard`](Self::discard) end it.
    ///
    /// # Errors
    /// `NoData` when nothing was ever written; the error of a write that failed before;
    /// `Integrity` when Glance stored other bytes; `WrongFormat` when the content is refused;
    /// `Interrupted` when it was abandoned; what Glance says.
    pub async fn commit(&self) -> Result<Image> {
        self.begin(Goal::Publish)?.wait().await
    }

    /// The image, once it was committed or reserved.
    pub fn committed(&self) -> Option<Image> {
        match &self.inner.lock().phase {
            Phase::Committed(image) => Some((**image).clone()),
            _ => None,
        }
    }

    /// What went wrong after the image was active (the replaced one could not be deleted).
    pub fn warning(&self) -> Option<String> {
        self.inner.lock().warning.clone()
    }

    /// Bytes sent of the try under way, or of the last one.
    pub fn upload_progress(&self) -> u64 {
        self.inner.sent.load(Ordering::Relaxed)
    }

    /// Publishes nothing and keeps the spool, with `reason` in its journal; without any byte there
    /// is nothing to keep. A commit under way is ended, unless Glance has all data already.
    pub fn abandon(&self, reason: &str) {
        self.inner.end(Ending::Abandon(reason.to_owned()));
    }

    /// Removes spool and journal: nothing was written, or nobody wants it. A commit under way is
    /// ended as by [`abandon`](Self::abandon).
    pub fn discard(&self) {
        self.inner.end(Ending::Discard);
    }

    /// Starts the work, or joins what is under way or done.
    fn begin(&self, goal: Goal) -> Result<Commit> {
        let mut state = self.inner.lock();
        match &state.phase {
            Phase::Committing(commit) => return Ok(commit.clone()),
            Phase::Committed(image) => return Ok(Commit::done((**image).clone())),
            Phase::Closed => return Err(closed()),
            Phase::Open => {}
        }
        match (goal, state.dirty) {
            (Goal::Publish, false) => return Err(Error::new(Kind::NoData, "nothing was written")),
            (Goal::Reserve, true) => {
                return Err(Error::new(Kind::Invalid, "data were written: commit them"));
            }
            _ => {}
        }
        let Some(spool) = state.spool.clone() else { return Err(closed()) };
        let (told, outcome) = watch::channel(None);
        let commit = Commit { outcome, cancel: CancellationToken::new() };
        state.phase = Phase::Committing(commit.clone());
        drop(state);
        let (inner, cancel) = (self.inner.clone(), commit.cancel.clone());
        tokio::spawn(async move {
            let outcome = inner.run(goal, spool, cancel).await;
            // Without anybody who waits, the outcome is in the log and in the journal.
            told.send_replace(Some(Arc::new(outcome)));
        });
        Ok(commit)
    }
}

impl Commit {
    fn done(image: Image) -> Self {
        let (_, outcome) = watch::channel(Some(Arc::new(Ok(image))));
        Self { outcome, cancel: CancellationToken::new() }
    }

    async fn wait(mut self) -> Result<Image> {
        let stopped = |_| Error::new(Kind::Interrupted, "glancefs is shutting down");
        let outcome = self.outcome.wait_for(Option::is_some).await.map_err(stopped)?;
        match outcome.as_deref() {
            Some(Ok(image)) => Ok(image.clone()),
            Some(Err(error)) => Err(error.duplicate()),
            None => Err(Error::new(Kind::Interrupted, "glancefs is shutting down")),
        }
    }
}

impl State {
    /// Damage in several places counts as damage of all between them.
    fn add_damage(&mut self, range: ByteRange, error: &Error) {
        let range = match &self.damage {
            Some((old, _)) => ByteRange::new(old.start.min(range.start), old.end.max(range.end)),
            None => range,
        };
        self.damage = Some((range, error.duplicate()));
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a read or a write of the spool file, if the phase allows it.
    fn access(&self, write: bool) -> Result<Access<'_>> {
        let mut state = self.lock();
        match &state.phase {
            Phase::Open => {}
            Phase::Committing(_) if !write => {}
            Phase::Committing(_) => return Err(Error::new(Kind::Busy, "the file is being uploaded")),
            Phase::Committed(_) if write => {
                return Err(Error::new(
                    Kind::NotPermitted,
                    "the file was uploaded: image data cannot change",
                ));
            }
            Phase::Committed(_) => {
                return Err(Error::new(Kind::Stale, "the file is an image now: read that"));
            }
            Phase::Closed => return Err(closed()),
        }
        let spool = state.spool.clone().ok_or_else(closed)?;
        state.accesses += 1;
        Ok(Access { inner: self, spool })
    }

    /// Waits until no read or write is under way; false when that takes too long.
    async fn quiet(&self) -> bool {
        let waiting = async {
            loop {
                let told = self.quiet.notified();
                if self.lock().accesses == 0 {
                    return;
                }
                told.await;
            }
        };
        tokio::time::timeout(QUIET_PATIENCE, waiting).await.is_ok()
    }

    /// The whole way to an image or a record; then the draft's next phase.
    async fn run(&self, goal: Goal, spool: Arc<Spool>, cancel: CancellationToken) -> Result<Image> {
        let mut upload = match self.prepare(goal, spool, cancel).await {
            Ok(upload) => upload,
            Err(error) => return Err(self.failed(None, error).await),
        };
        let outcome = match goal {
            Goal::Publish => upload.publish().await,
            Goal::Reserve => upload.reserve().await,
        };
        match outcome {
            Ok(image) => Ok(self.succeeded(goal, upload, image).await),
            Err(error) => Err(self.failed(Some(upload), error).await),
        }
    }

    async fn prepare(&self, goal: Goal, spool: Arc<Spool>, cancel: CancellationToken) -> Result<Upload> {
        if !self.quiet().await {
            return Err(Error::new(Kind::TimedOut, "a write to the spool does not end"));
        }
        let size = {
            let spool = spool.clone();
            blocking(move || spool.size()).await?
        };
        let state = self.lock();
        // Looked at only now that no write is under way.
        if let Some((_, error)) = &state.damage {
            return Err(error.duplicate().context("nothing is uploaded, because a write failed"));
        }
        if goal == Goal::Reserve && (state.dirty || size > 0) {
            return Err(Error::new(Kind::Invalid, "data were written: commit them"));
        }
        Ok(Upload {
            shared: self.shared.clone(),
            spool,
            size,
            replaces: state.replaces.clone().filter(|_| goal == Goal::Publish),
            sent: self.sent.clone(),
            cancel,
            journal: state.journal.clone(),
        })
    }

    /// The image is active and proven (or the record reserved): the spool goes to the cache.
    async fn succeeded(&self, goal: Goal, upload: Upload, mut image: Image) -> Image {
        let warning = upload.replace_old(&image).await;
        let renamed = Some(self.lock().journal.name.clone()).filter(|name| *name != upload.journal.name);
        if let Some(name) = renamed {
            let change = Change::Set { key: "name".to_owned(), value: name.into() };
            match self.shared.store.update(&image.id, &[change]).await {
                Ok(record) => image = record,
                Err(error) => tracing::warn!(image = %image.id, %error, "the image keeps its old name"),
            }
        }
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        let Upload { mut journal, spool, .. } = upload;
        drop(spool);
        {
            let mut state = self.lock();
            state.phase = Phase::Committed(Box::new(image.clone()));
            state.dirty = false;
            state.warning = warning;
            // With the last reference the lock goes: the cache may want its own.
            state.spool = None;
        }
        // A cache may punch holes into the file, which readers through us would take for zeros.
        let quiet = self.quiet().await;
        let store = &self.shared.store;
        let identity = content_identity(&image, store.cloud_key(), store.project_id())
            .filter(|_| quiet && goal == Goal::Publish);
        journal.step = Step::Done;
        let (shared, id) = (self.shared.clone(), self.id);
        let cleaning = tokio::task::spawn_blocking(move || {
            // A crash before the last line leaves a finished journal, whose rests are removed later.
            if let Err(error) = journal.store(&shared.folder, id, Durability::Relaxed) {
                tracing::warn!(%error, "the journal of a finished upload could not be written");
            }
            if let Some(identity) = identity
                && let Err(error) = shared.keeper.adopt(&identity, &shared.folder.data_path(id))
            {
                tracing::warn!(image = %identity.image, %error, "the cache did not take the uploaded file");
            }
            shared.folder.remove(id);
        });
        // Its result is nobody's concern, and it goes on when it takes longer.
        let _ = tokio::time::timeout(ADOPT_PATIENCE, cleaning).await;
        image
    }

    /// Keeps the spool, notes why, and opens the draft again unless it was given up meanwhile.
    async fn failed(&self, upload: Option<Upload>, error: Error) -> Error {
        let (journal, ending) = {
            let mut state = self.lock();
            if let Some(Upload { mut journal, .. }) = upload {
                // The upload does not know of a rename meanwhile.
                journal.name = std::mem::take(&mut state.journal.name);
                state.journal = journal;
            }
            state.journal.set_failure(Some(&error.to_string()));
            let ending = state.ending.take();
            state.phase = Phase::Open;
            (state.journal.clone(), ending)
        };
        tracing::warn!(name = ?journal.name, image = %journal.image, %error, "an upload failed");
        let (shared, id) = (self.shared.clone(), self.id);
        let noted = match ending {
            None => blocking(move || journal.store(&shared.folder, id, Durability::Durable)).await,
            Some(ending) => {
                let closed = self.close();
                blocking(move || settle(&shared, id, journal, closed, ending)).await
            }
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "the journal of a failed upload could not be written");
        }
        error
    }

    /// Ends the draft for good: at once, or as soon as the commit under way has failed.
    fn end(&self, ending: Ending) {
        let journal = {
            let mut state = self.lock();
            match &state.phase {
                Phase::Open => state.journal.clone(),
                Phase::Committing(commit) => {
                    commit.cancel.cancel();
                    // What was asked for last counts, but a discarded file stays discarded.
                    if !matches!(state.ending, Some(Ending::Discard)) {
                        state.ending = Some(ending);
                    }
                    return;
                }
                Phase::Committed(_) | Phase::Closed => return,
            }
        };
        let spool = self.close();
        if let Err(error) = settle(&self.shared, self.id, journal, spool, ending) {
            tracing::warn!(%error, "the journal of an abandoned draft could not be written");
        }
    }

    /// Lets go of the file; accesses under way end by themselves.
    fn close(&self) -> Option<Arc<Spool>> {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        state.dirty = false;
        state.spool.take()
    }
}

/// Leaves of a draft what its end wants: nothing, or bytes and a reason.
fn settle(
    shared: &Shared,
    id: DraftId,
    mut journal: Journal,
    spool: Option<Arc<Spool>>,
    ending: Ending,
) -> Result<()> {
    let size = spool.as_ref().map_or(Ok(0), |spool| spool.size())?;
    match ending {
        Ending::Abandon(reason) if size > 0 => {
            journal.size = size;
            journal.set_failure(Some(&reason));
            // The file stays locked until its journal is written: nobody lists half of it.
            journal.store(&shared.folder, id, Durability::Durable)
        }
        Ending::Abandon(_) | Ending::Discard => {
            shared.folder.remove(id);
            Ok(())
        }
    }
}

fn closed() -> Error {
    Error::new(Kind::BadHandle, "the file was given up")
}

/// A read or a write under way.
struct Access<'a> {
    inner: &'a Inner,
    spool: Arc<Spool>,
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.accesses -= 1;
        if state.accesses == 0 {
            self.inner.quiet.notify_waiters();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(spool) = state.spool.take()
            && spool.size().is_ok_and(|size| size == 0)
        {
            self.shared.folder.remove(self.id);
        }
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("id", &self.inner.id).finish_non_exhaustive()
    }
}
