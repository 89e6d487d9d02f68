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
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::Notify;

use super::commit::{Commit, Ending, Goal, settle};
use super::journal::{Durability, Journal, JournalFile, Record};
use super::spool::Spool;
use super::stream::Stream;
use super::{Intent, Metadata, Shared};
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::format::sniff;
use crate::glance::Image;
use crate::units::{ByteRange, ImageId};

/// How long a commit waits for writes under way: they are local, so only a failing disk takes longer.
const QUIET_PATIENCE: Duration = Duration::from_secs(30);

/// A file being written, not yet an image. All methods but `reserve` and `commit` are short local
/// file operations that may block on the disk: call them from a thread that may.
///
/// Dropping it keeps the spool and the journal if there are bytes that were not committed.
pub struct Draft {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) journal_file: Arc<JournalFile>,
    state: Mutex<State>,
    /// Told whenever the last access under way has ended.
    quiet: Notify,
    pub(super) sent: Arc<AtomicU64>,
    /// Its bytes go to Glance as they are written; the spool file stays empty, and is its lock.
    pub(super) stream: Option<Stream>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// `None` once the file has gone to the cache, or was given up.
    pub(super) spool: Option<Arc<Spool>>,
    /// Reads and writes under way.
    accesses: usize,
    pub(super) dirty: bool,
    /// A write or truncation that failed, and where: what is there is not what the program wrote.
    pub(super) damage: Option<(ByteRange, Error)>,
    pub(super) journal: Journal,
    pub(super) replaces: Option<Image>,
    /// What the program asked for while a commit was running.
    pub(super) ending: Option<Ending>,
    /// What went wrong after the image was active.
    pub(super) warning: Option<String>,
}

pub(super) enum Phase {
    Open,
    Committing(Commit),
    Committed(Box<Image>),
    Closed,
}

impl Draft {
    pub(super) fn create(shared: Arc<Shared>, intent: Intent, streamed: bool) -> Result<Self> {
        let spool = Spool::create(shared.folder.clone())?;
        let record = if intent.reserved { Record::Reserved } else { Record::None };
        // A clock before 1970 only sorts its leftovers first.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let started = i64::try_from(now).unwrap_or(i64::MAX);
        let mut journal = Journal::new(&intent.name, &intent.id, record, started);
        journal.replaces = intent.replaces.as_ref().map(|old| old.id.clone());
        journal.cloud = shared.records.cloud_key().to_owned();
        journal.project = shared.records.project_id().map(str::to_owned);
        let file = Arc::new(JournalFile::new(shared.folder.clone(), spool.id()));
        file.store(Durability::Relaxed, || Some(journal.clone())).inspect_err(|_| file.remove())?;
        let state = State::new(Arc::new(spool), journal, intent.replaces, false);
        let inner = Inner {
            shared,
            journal_file: file,
            state: Mutex::new(state),
            quiet: Notify::new(),
            sent: Arc::default(),
            stream: streamed.then(Stream::new),
        };
        Ok(Self::of(inner))
    }

    /// What an earlier process or a failed try left, as a draft that only waits for its commit.
    pub(super) fn revive(
        shared: Arc<Shared>,
        spool: Arc<Spool>,
        journal: Journal,
        replaces: Option<Image>,
    ) -> Self {
        let journal_file = Arc::new(JournalFile::new(shared.folder.clone(), spool.id()));
        Self::of(Inner {
            shared,
            journal_file,
            state: Mutex::new(State::new(spool, journal, replaces, true)),
            quiet: Notify::new(),
            sent: Arc::default(),
            stream: None,
        })
    }

    /// Makes it known to those who list what this process works on.
    fn of(inner: Inner) -> Self {
        let inner = Arc::new(inner);
        inner.shared.live().insert(inner.journal_file.id(), Arc::downgrade(&inner));
        Self { inner }
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
        if let Some(stream) = &self.inner.stream {
            return stream.position();
        }
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

    /// Its content begins as that of qcow2, vmdk or another format does that `qemu-img` formats
    /// before it fills it.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_container(&self) -> Result<bool> {
        let Some(spool) = self.inner.lock().spool.clone() else { return Ok(false) };
        if self.inner.stream.is_some() {
            // Nobody can fill a container in order after it was formatted.
            return Ok(false);
        }
        Ok(sniff(|range| spool.read(range))?.is_formatted())
    }

    /// Writes all of `data` at `offset`.
    ///
    /// A write that fails damages the draft: it cannot be committed until the same bytes were
    /// written, or all was truncated. Programs that meet a full disk close what they have, and half
    /// a file must not become an image.
    ///
    /// # Errors
    /// `NoSpace` at the spool's limit or on a full disk, `TooLarge`, `Io`; `Busy` during a commit,
    /// `NotPermitted` after it. A stream takes the next byte only (`NotSequential`), waits for the network,
    /// and gives the failure of its upload.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if let Some(stream) = &self.inner.stream {
            return self.write_to(stream, offset, data);
        }
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
        if self.inner.stream.is_some() && !matches!(self.inner.lock().phase, Phase::Committed(_)) {
            let why = "what is uploaded while it is written to cannot be read back before it is an image";
            return Err(Error::new(Kind::NotSequential, why));
        }
        self.inner.access(false)?.spool.read(range)
    }

    /// Sets the length.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn truncate(&self, size: u64) -> Result<()> {
        if let Some(stream) = &self.inner.stream {
            let truncated = stream.truncate(size);
            // A program that did not get its length has failed: its close must say so, and reserve nothing.
            self.inner.lock().dirty |= truncated.is_err();
            return truncated;
        }
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
        let Some(spool) = self.inner.lock().spool.clone() else { return Ok(()) };
        spool.sync()?;
        let size = spool.size()?;
        self.inner.store_while_open(Durability::Durable, size)
    }

    /// What the image shall have besides name and data.
    pub fn metadata(&self) -> Metadata {
        self.inner.lock().journal.metadata.clone()
    }

    /// Changes what the image shall have; `edit` fails or changes it as a whole.
    ///
    /// # Errors
    /// Those of `edit`; `Busy` once the upload has begun; `NoSpace` beyond 256 KiB; those of the disk.
    pub fn change_metadata(&self, edit: impl FnOnce(&mut Metadata) -> Result<()>) -> Result<()> {
        let mut changed = self.metadata();
        edit(&mut changed)?;
        changed.check()?;
        {
            let mut state = self.inner.lock();
            if !matches!(state.phase, Phase::Open) {
                return Err(Error::new(Kind::Busy, "the file is being uploaded"));
            }
            state.journal.metadata = changed;
        }
        self.inner.store_while_open(Durability::Relaxed, self.size())
    }

    /// The name under which it will be created; a rename before the commit is local, one during
    /// the commit is sent after it. After the commit it has no effect: rename the image.
    pub fn rename(&self, name: String) {
        self.inner.lock().journal.name = name;
        if let Err(error) = self.inner.store_while_open(Durability::Relaxed, self.size()) {
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
        if self.inner.stream.is_some() {
            return self.commit_stream().await;
        }
        self.begin(Goal::Publish)?.wait().await
    }

    /// The image, once it was committed or reserved.
    pub fn committed(&self) -> Option<Image> {
        match &self.inner.lock().phase {
            Phase::Committed(image) => Some((**image).clone()),
            _ => None,
        }
    }

    /// The image that this one replaces.
    pub fn replaces(&self) -> Option<ImageId> {
        self.inner.lock().replaces.as_ref().map(|old| old.id.clone())
    }

    /// The name that the image has or will have.
    pub fn name(&self) -> String {
        self.inner.lock().journal.name.clone()
    }

    /// What went wrong after the image was active (the replaced one could not be deleted).
    pub fn warning(&self) -> Option<String> {
        self.inner.lock().warning.clone()
    }

    /// Bytes sent of the try under way, or of the last one.
    pub fn upload_progress(&self) -> u64 {
        self.inner.sent()
    }

    /// Bytes sent and bytes in all while its upload runs.
    pub fn running(&self) -> Option<(u64, u64)> {
        let spool = {
            let state = self.inner.lock();
            if !matches!(state.phase, Phase::Committing(_)) {
                return None;
            }
            state.spool.clone()?
        };
        let size = match &self.inner.stream {
            Some(stream) => stream.position(),
            None => spool.size().ok()?,
        };
        Some((self.inner.sent().min(size), size))
    }

    /// A write failed and was not repeated: some of its bytes are nowhere.
    pub fn is_damaged(&self) -> bool {
        self.inner.lock().damage.is_some()
    }

    /// Where its bytes are kept, once there are some and as long as they are no image.
    pub fn kept_in(&self) -> Option<PathBuf> {
        let spool = self.inner.lock().spool.clone()?;
        let has_bytes = spool.size().is_ok_and(|size| size > 0);
        has_bytes.then(|| self.inner.shared.folder.data_path(spool.id()))
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

    fn write_to(&self, stream: &Stream, offset: u64, data: &[u8]) -> Result<()> {
        {
            let mut state = self.inner.lock();
            match &state.phase {
                Phase::Open | Phase::Committing(_) => {}
                Phase::Committed(_) => return Err(uploaded()),
                Phase::Closed => return Err(closed()),
            }
            if data.is_empty() {
                return Ok(());
            }
            state.dirty = true;
        }
        stream.write(offset, data, || self.begin(Goal::Publish))
    }

    async fn commit_stream(&self) -> Result<Image> {
        if let Some(image) = self.committed() {
            return Ok(image);
        }
        let draft = Self { inner: Arc::clone(&self.inner) };
        let commit = blocking(move || match &draft.inner.stream {
            Some(stream) if draft.is_dirty() => stream.close(|| draft.begin(Goal::Publish)),
            _ => Err(Error::new(Kind::NoData, "nothing was written")),
        });
        let failure = match commit.await {
            Ok(commit) => return commit.wait().await,
            Err(failure) => failure,
        };
        let ending = match &self.inner.lock().phase {
            Phase::Committing(commit) => Some(commit.clone()),
            _ => None,
        };
        if let Some(ending) = ending {
            // Until its record is taken back; why it ended is known.
            let _ = ending.wait().await;
        }
        Err(failure)
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
        let shared = &self.inner.shared;
        if shared.stop.is_cancelled() {
            return Err(stopped());
        }
        let (commit, running) = Commit::begin(shared.stop.child_token());
        state.phase = Phase::Committing(commit.clone());
        drop(state);
        shared.commits.spawn(running.run(self.inner.clone(), goal, spool));
        Ok(commit)
    }
}

impl State {
    fn new(spool: Arc<Spool>, journal: Journal, replaces: Option<Image>, dirty: bool) -> Self {
        Self {
            phase: Phase::Open,
            spool: Some(spool),
            accesses: 0,
            dirty,
            damage: None,
            journal,
            replaces,
            ending: None,
            warning: None,
        }
    }

    /// Damage in several places counts as damage of all between them.
    fn add_damage(&mut self, range: ByteRange, error: &Error) {
        let range = match &self.damage {
            Some((old, _)) => ByteRange::new(old.start.min(range.start), old.end.max(range.end)),
            None => range,
        };
        self.damage = Some((range, error.duplicate()));
    }
}

impl State {
    /// Lets go of the file, for good; accesses under way end by themselves.
    pub(super) fn close(&mut self) -> Option<Arc<Spool>> {
        self.phase = Phase::Closed;
        self.dirty = false;
        self.spool.take()
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes sent of the try under way, or of the last one.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Writes the journal, unless an upload does: that one knows the later state.
    fn store_while_open(&self, durability: Durability, size: u64) -> Result<()> {
        self.journal_file.store(durability, || {
            let mut state = self.lock();
            if !matches!(state.phase, Phase::Open) {
                return None;
            }
            state.journal.size = size;
            Some(state.journal.clone())
        })
    }

    /// Begins a read or a write of the spool file, if the phase allows it.
    fn access(&self, write: bool) -> Result<Access<'_>> {
        let mut state = self.lock();
        match &state.phase {
            Phase::Open => {}
            Phase::Committing(_) if !write => {}
            Phase::Committing(_) => return Err(Error::new(Kind::Busy, "the file is being uploaded")),
            Phase::Committed(_) if write => {
                return Err(uploaded());
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

    /// Ends the draft for good: at once, or as soon as the commit under way has failed.
    fn end(&self, ending: Ending) {
        if let Some(stream) = &self.stream {
            stream.cut();
        }
        let (journal, spool) = {
            let mut state = self.lock();
            match &state.phase {
                Phase::Open => {}
                Phase::Committing(commit) => {
                    commit.cancel();
                    // What was asked for last counts, but a discarded file stays discarded.
                    if !matches!(state.ending, Some(Ending::Discard)) {
                        state.ending = Some(ending);
                    }
                    return;
                }
                Phase::Committed(_) | Phase::Closed => return,
            }
            let spool = state.close();
            (state.journal.clone(), spool)
        };
        if let Err(error) = settle(&self.journal_file, journal, spool, ending) {
            tracing::warn!(%error, "the journal of an abandoned draft could not be written");
        }
    }

    /// Waits until no read or write is under way; false when that takes too long.
    pub(super) async fn quiet(&self) -> bool {
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
}

/// Why no upload goes on at unmount.
pub(super) fn stopped() -> Error {
    Error::new(Kind::Interrupted, "the mount was stopped")
}

fn uploaded() -> Error {
    Error::new(Kind::NotPermitted, "the file was uploaded: image data cannot change")
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
        self.shared.live().remove(&self.journal_file.id());
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A record that could not be deleted stays noted.
        if let Some(spool) = state.spool.take()
            && state.journal.strays.is_empty()
            && spool.size().is_ok_and(|size| size == 0)
        {
            self.journal_file.remove();
        }
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("image", &self.image_id()).finish_non_exhaustive()
    }
}
