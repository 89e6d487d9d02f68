//! A file being written, from its first byte until it is an image or given up.
//!
//! `content` has its bytes, `state` says what may be done when.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::commit::{Commit, Ending, Goal};
use super::journal::{Durability, Journal, JournalFile, Record, this_boot};
use super::spool::Spool;
use super::state::{Inner, Phase, State, closed, stopped};
use super::stream::Stream;
use super::{Intent, Metadata, Shared};
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::units::ImageId;

/// A file being written, not yet an image. All methods but `reserve` and `commit` are short local
/// file operations that may block on the disk: call them from a thread that may.
///
/// Dropping it keeps the spool and the journal if there are bytes that were not committed.
pub struct Draft {
    pub(super) inner: Arc<Inner>,
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
        journal.unsynced = (!streamed).then(|| this_boot().to_owned());
        let file = Arc::new(JournalFile::new(shared.folder.clone(), spool.id()));
        file.store(Durability::Relaxed, || Some(journal.clone())).inspect_err(|_| file.remove())?;
        let state = State::new(Arc::new(spool), journal, intent.replaces, false);
        let stream = streamed.then(Stream::new);
        Ok(Self { inner: Inner::new(shared, file, state, stream) })
    }

    /// What an earlier process or a failed try left, as a draft that only waits for its commit.
    pub(super) fn revive(
        shared: Arc<Shared>,
        spool: Arc<Spool>,
        journal: Journal,
        replaces: Option<Image>,
    ) -> Self {
        let journal_file = Arc::new(JournalFile::existing(shared.folder.clone(), spool.id()));
        let state = State::new(spool, journal, replaces, true);
        Self { inner: Inner::new(shared, journal_file, state, None) }
    }

    /// The id that the image has or is meant to have; a retried commit may change it.
    pub fn image_id(&self) -> ImageId {
        let state = self.inner.lock();
        match &state.phase {
            Phase::Committed(image) => image.id.clone(),
            _ => state.journal.image.clone(),
        }
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
    pub(super) fn begin(&self, goal: Goal) -> Result<Commit> {
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

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("image", &self.image_id()).finish_non_exhaustive()
    }
}
