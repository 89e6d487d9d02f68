//! The states of a file being written, and who may do what in which.
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

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Shared;
use super::commit::{Commit, Ending, settle};
use super::journal::{Durability, Journal, JournalFile};
use super::spool::Spool;
use super::stream::Stream;
use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::units::ByteRange;

/// How long a commit waits for writes under way: they are local, so only a failing disk takes longer.
const QUIET_PATIENCE: Duration = Duration::from_secs(30);

/// What a draft is to itself, to its commit and to those who list drafts.
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

impl State {
    pub(super) fn new(spool: Arc<Spool>, journal: Journal, replaces: Option<Image>, dirty: bool) -> Self {
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

    /// A program writes it, or its upload is under way.
    pub(super) fn runs(&self) -> bool {
        match self.phase {
            Phase::Open => self.journal.failure.is_none(),
            Phase::Committing(_) => true,
            Phase::Committed(_) | Phase::Closed => false,
        }
    }

    /// Damage in several places counts as damage of all between them.
    pub(super) fn add_damage(&mut self, range: ByteRange, error: &Error) {
        let range = match &self.damage {
            Some((old, _)) => ByteRange::new(old.start.min(range.start), old.end.max(range.end)),
            None => range,
        };
        self.damage = Some((range, error.duplicate()));
    }

    /// Lets go of the file, for good; accesses under way end by themselves.
    pub(super) fn close(&mut self) -> Option<Arc<Spool>> {
        self.phase = Phase::Closed;
        self.dirty = false;
        self.spool.take()
    }
}

impl Inner {
    /// Makes it known to those who list what this process works on.
    pub(super) fn new(
        shared: Arc<Shared>,
        journal_file: Arc<JournalFile>,
        state: State,
        stream: Option<Stream>,
    ) -> Arc<Self> {
        let (state, quiet, sent) = (Mutex::new(state), Notify::new(), Arc::default());
        let inner = Arc::new(Self { shared, journal_file, state, quiet, sent, stream });
        inner.shared.live().insert(inner.journal_file.id(), Arc::downgrade(&inner));
        inner
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes sent of the try under way, or of the last one.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Writes the journal, unless an upload does: that one knows the later state.
    pub(super) fn store_while_open(&self, durability: Durability, size: u64) -> Result<()> {
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
    pub(super) fn access(&self, write: bool) -> Result<Access<'_>> {
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
    pub(super) fn end(&self, ending: Ending) {
        let (journal, spool) = {
            let mut state = self.lock();
            // With the state held: an upload that fails by it must find what the end wants.
            if let Some(stream) = &self.stream {
                stream.cut();
            }
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
        if let Err(error) = settle(&self.shared.folder, &self.journal_file, journal, spool, ending) {
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

pub(super) fn uploaded() -> Error {
    Error::new(Kind::NotPermitted, "the file was uploaded: image data cannot change")
}

pub(super) fn closed() -> Error {
    Error::new(Kind::BadHandle, "the file was given up")
}

/// A read or a write under way.
pub(super) struct Access<'a> {
    inner: &'a Inner,
    pub(super) spool: Arc<Spool>,
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
        let Some(spool) = state.spool.take() else { return };
        if !state.journal.strays.is_empty() {
            // They stay noted; the lock goes first, as it is theirs who settle them.
            drop(spool);
            self.shared.folder.settle_soon();
        } else if spool.size().is_ok_and(|size| size == 0) {
            self.journal_file.remove();
        }
    }
}
