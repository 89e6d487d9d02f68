//! A file that is being written: its name, its writers, and what became of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::closing::{self, Step, ThreadGroup};
use crate::error::{Error, Result};
use crate::units::ImageId;
use crate::write::{Draft, Intent};

/// A file between its creation and the image it becomes.
pub(super) struct DraftFile {
    /// The id it is created under; the image may end with another.
    pub(super) id: ImageId,
    pub(super) since: SystemTime,
    state: Mutex<State>,
    /// The image that it replaces.
    pub(super) replaces: Option<ImageId>,
    /// Held by the one commit that is under way.
    pub(super) committing: tokio::sync::Mutex<()>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Still being written.
    Open,
    /// It is an image now, or a reservation.
    Committed,
    /// The upload failed; every later close hears so.
    Failed(Error),
    /// Killed writer, or unlinked: nothing is published.
    Abandoned,
}

struct State {
    draft: Arc<Draft>,
    name: String,
    writers: usize,
    /// Who opened it for writing last.
    opener: Option<ThreadGroup>,
    recorded: bool,
    kept_mtime: Option<SystemTime>,
    /// Created as `qemu-img` does: by whom, and how often opened again since.
    stepwise: Option<(Option<ThreadGroup>, u32)>,
    /// Somebody waits for the end of its process.
    watched: bool,
    /// That process has ended.
    orphaned: bool,
    outcome: Outcome,
}

impl DraftFile {
    /// The file of `intent`; `stepwise` when it was created by an open that `qemu-img` would make.
    pub(super) fn new(draft: Arc<Draft>, intent: Intent, stepwise: Option<Option<ThreadGroup>>) -> Self {
        let state = State {
            draft,
            name: intent.name,
            writers: 0,
            opener: None,
            recorded: intent.reserved,
            kept_mtime: None,
            stepwise: stepwise.map(|group| (group, 0)),
            watched: false,
            orphaned: false,
            outcome: Outcome::Open,
        };
        Self {
            id: intent.id,
            since: SystemTime::now(),
            state: Mutex::new(state),
            replaces: intent.replaces.map(|image| image.id),
            committing: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment: a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes, and the way to the server.
    pub(super) fn draft(&self) -> Arc<Draft> {
        Arc::clone(&self.state().draft)
    }

    /// The record exists now; `draft` will fill it if its writer goes on.
    pub(super) fn set_recorded(&self, draft: Arc<Draft>) {
        let mut state = self.state();
        state.draft = draft;
        state.recorded = true;
    }

    /// Its name in Glance.
    pub(super) fn name(&self) -> String {
        self.state().name.clone()
    }

    /// A rename before the commit.
    pub(super) fn rename(&self, name: String) {
        let mut state = self.state();
        state.name = name.clone();
        let draft = Arc::clone(&state.draft);
        drop(state);
        draft.rename(name);
    }

    /// Another handle for writing; tells what step of its process it is.
    pub(super) fn add_writer(&self, opener: Option<ThreadGroup>, creates: bool) -> Step {
        let mut state = self.state();
        state.writers += 1;
        state.opener = opener;
        match &mut state.stepwise {
            Some((group, reopened)) if *group == opener => {
                if creates {
                    return Step::Creating;
                }
                *reopened += 1;
                if *reopened == 1 { Step::Second } else { Step::Third }
            }
            _ => Step::Only,
        }
    }

    /// A handle for writing is gone; true when it was the last.
    pub(super) fn remove_writer(&self) -> bool {
        let mut state = self.state();
        state.writers = state.writers.saturating_sub(1);
        state.writers == 0
    }

    /// The modification time that was set.
    pub(super) fn kept_mtime(&self) -> Option<SystemTime> {
        self.state().kept_mtime
    }

    /// Sets that.
    pub(super) fn keep_mtime(&self, mtime: SystemTime) {
        self.state().kept_mtime = Some(mtime);
    }

    /// Who opened it for writing last.
    pub(super) fn opener(&self) -> Option<ThreadGroup> {
        self.state().opener
    }

    /// Somebody has it open for writing.
    pub(super) fn has_writers(&self) -> bool {
        self.state().writers > 0
    }

    /// There is a record for it at the server.
    pub(super) fn is_recorded(&self) -> bool {
        self.state().recorded
    }

    /// Sets what became of it.
    pub(super) fn end(&self, outcome: Outcome) {
        self.state().outcome = outcome;
    }

    /// Still being written.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state().outcome, Outcome::Open)
    }

    /// True for the first who wants to wait for the end of its process.
    pub(super) fn begin_watch(&self) -> bool {
        !std::mem::replace(&mut self.state().watched, true)
    }

    /// The process that `begin_watch` was about has ended; true when its handles are gone as well.
    /// The kernel releases them in its own time: if they are not, the last to go finds
    /// [`is_orphaned`](Self::is_orphaned).
    pub(super) fn owner_ended(&self) -> bool {
        let mut state = self.state();
        state.orphaned = true;
        state.writers == 0
    }

    /// Its process has ended: nobody will open it again to go on.
    pub(super) fn is_orphaned(&self) -> bool {
        self.state().orphaned
    }

    /// The failure of its upload, for a later close.
    pub(super) fn failure(&self) -> Result<()> {
        match &self.state().outcome {
            Outcome::Failed(error) => Err(error.duplicate()),
            _ => Ok(()),
        }
    }
}

/// A handle of a [`DraftFile`].
pub(super) struct DraftHandle {
    pub(super) file: Arc<DraftFile>,
    /// `None`: opened for reading only.
    pub(super) writer: Option<Writer>,
}

/// The writing side of a handle.
pub(super) struct Writer {
    opener: Option<ThreadGroup>,
    step: Step,
    wrote_data: AtomicBool,
}

impl Writer {
    pub(super) fn new(opener: Option<ThreadGroup>, step: Step) -> Self {
        Self { opener, step, wrote_data: AtomicBool::new(false) }
    }

    /// Notes a write: whether it held anything but zeros decides what a close of `qemu-img` means.
    pub(super) fn note(&self, data: &[u8]) {
        if !self.wrote_data.load(Ordering::Relaxed) && data.iter().any(|&byte| byte != 0) {
            self.wrote_data.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn facts(&self) -> closing::Handle {
        closing::Handle {
            opener: self.opener,
            step: self.step,
            wrote_data: self.wrote_data.load(Ordering::Relaxed),
        }
    }
}
