//! Uploads: spool and journal, then create, PUT, verify; then the spool becomes the cache file.
//!
//! ```text
//! Draft ──┬── State    what may be done when                  (draft.rs, state.rs, content.rs)
//!         ├── Spool    the bytes: one sparse, locked file        (spool.rs, folder.rs)
//!         │            and what stays of those that failed      (kept.rs, recover.rs, report.rs)
//!         │            tried again, or taken back               (revive.rs, aftermath.rs, strays.rs)
//!         ├── Journal  name, id, step, failure: one JSON file    (journal.rs)
//!         └── Commit   from a quiet draft to an image            (commit.rs)
//!               ├── Upload  create, PUT, verify, take back       (upload.rs)
//!               ├── Allowance how long all of it may take    (allowance.rs)
//!               ├── Body    read ahead, hash, count              (body.rs)
//!               ├── Stream  instead: write by write           (stream.rs)
//!               ├── sniff   content to disk_format               (crate::format, carry.rs)
//!               └── Records, Keeper: Glance and the cache        (keeper.rs)
//! ```
//!
//! An image appears only when all of its bytes were given and none was lost: a draft whose write
//! failed cannot be committed, a failed upload takes its record back and keeps the spool, and what
//! a crash leaves is told by [`Uploads::leftovers`].

mod aftermath;
mod allowance;
mod body;
mod carry;
mod commit;
mod content;
mod draft;
#[cfg(test)]
mod fake;
mod folder;
#[doc(hidden)]
pub mod fuzzing;
mod journal;
mod keeper;
mod kept;
mod metadata;
mod recover;
mod report;
mod revive;
mod spool;
mod state;
mod strays;
mod stream;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::Cache;
use crate::config::{HttpConfig, SpoolConfig};
use crate::error::Result;
use crate::glance::{Image, Records};
use crate::units::ImageId;

pub use aftermath::Settlement;
pub use carry::describes_data;
pub use draft::Draft;
pub use metadata::Metadata;
pub use report::{Condition, Report, Uploading};
pub use revive::TakenUp;

use folder::{DraftId, Folder};
use keeper::Keeper;
use state::Inner;
use upload::Pace;

/// How long [`Uploads::shut_down`] waits for uploads: whoever stops a mount waits too, and
/// systemd kills after 90 s what does not end.
const FINISH: Duration = Duration::from_secs(10);

/// And how long for those that were given up to delete their records.
const TAKE_BACK: Duration = Duration::from_secs(5);

/// How often it is looked what failed uploads left for too long: `--keep-failed` is days.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// How often records are looked for that could not be deleted while the server was away: one listing of the
/// spool folder.
const SETTLING: Duration = Duration::from_secs(60);

/// How soon it is looked again for what could not be settled, or was left by an upload just now; each time after twice
/// as long. A server that a crash cut off in the middle of the data says for a moment that it is still taking them.
const AGAIN: Duration = Duration::from_secs(1);

/// What an upload is for.
#[derive(Debug, Clone)]
pub struct Intent {
    /// The id the image will have, unless a retry needs a fresh one: see [`Draft::commit`].
    pub id: ImageId,
    /// The image's name as Glance shall hold it.
    pub name: String,
    /// The record exists already (status `queued`): fill it instead of creating one.
    pub reserved: bool,
    /// The image that this one replaces; its attributes and properties are carried over, and it is
    /// deleted once the new one is active.
    pub replaces: Option<Image>,
}

/// The spool of this process and the way from it to Glance; cheap to clone.
#[derive(Clone)]
pub struct Uploads {
    shared: Arc<Shared>,
    /// New drafts are sent as they are written.
    streaming: bool,
}

/// What all drafts of a mount use.
struct Shared {
    folder: Arc<Folder>,
    records: Arc<dyn Records>,
    keeper: Arc<dyn Keeper>,
    pace: Pace,
    /// The commits under way.
    commits: TaskTracker,
    /// No upload goes on, and none begins.
    stop: CancellationToken,
    /// The drafts of this process. Its lock is a leaf.
    live: Mutex<HashMap<DraftId, Weak<Inner>>>,
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, HashMap<DraftId, Weak<Inner>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uploads {
    /// Opens or creates the spool folder (0700; tightened when ours, refused when not).
    ///
    /// Blocks on the disk: drafts of dead processes that never had a byte are removed here.
    /// `http` says how long an upload waits for a server that does nothing, and how often data are sent again.
    ///
    /// # Errors
    /// `Config` when the folder belongs to another user or is used for other things, `Io`.
    pub fn open(
        config: &SpoolConfig,
        http: &HttpConfig,
        records: Arc<dyn Records>,
        cache: Cache,
    ) -> Result<Self> {
        Self::with(config, records, Arc::new(cache), Pace::of(http))
    }

    fn with(
        config: &SpoolConfig,
        records: Arc<dyn Records>,
        keeper: Arc<dyn Keeper>,
        pace: Pace,
    ) -> Result<Self> {
        let folder = Arc::new(Folder::open(config)?);
        kept::age_out(&folder);
        for line in recover::leftovers(&folder) {
            tracing::warn!("{line}");
        }
        let (commits, stop) = (TaskTracker::new(), CancellationToken::new());
        let live = Mutex::default();
        let shared = Arc::new(Shared { folder, records, keeper, pace, commits, stop, live });
        Ok(Self { shared, streaming: false })
    }

    /// The same, for drafts that are sent as they are written (`--upload stream`), or not.
    pub fn streaming(self, streaming: bool) -> Self {
        Self { streaming, ..self }
    }

    /// A new, empty draft with a spool file of its own. Blocks on the disk.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn draft(&self, intent: Intent) -> Result<Arc<Draft>> {
        Draft::create(self.shared.clone(), intent, self.streaming).map(Arc::new)
    }

    /// What earlier runs left in the spool, and what this one gave up, one line each, for
    /// `.glancefs/errors`: at most 100, oldest first. Reads the folder, so it blocks on the disk.
    pub fn leftovers(&self) -> Vec<String> {
        recover::leftovers(&self.shared.folder)
    }

    /// Every upload in the spool: those that run, and what failed ones and crashes left. Blocks on the disk.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn reports(&self) -> Result<Uploading> {
        let Shared { folder, records, .. } = &*self.shared;
        // Upgraded in full before the lock is given back: the last reference takes it when it goes.
        let live: HashMap<_, _> =
            self.shared.live().iter().filter_map(|(id, draft)| Some((*id, draft.upgrade()?))).collect();
        Ok(Uploading {
            cloud: Some(records.cloud_key().to_owned()),
            project: records.project_id().map(str::to_owned),
            folder: folder.path().display().to_string(),
            uploads: report::reports(folder, &live)?,
        })
    }

    /// Bytes that the spool may hold; `None`: what its disk has.
    pub fn spool_limit(&self) -> Option<u64> {
        self.shared.folder.limit()
    }

    /// From now on `listener` is told, in one line each, what was removed of failed uploads and why; what
    /// was removed at the start it is told at once. It must not wait.
    pub fn listen(&self, listener: impl Fn(String) + Send + 'static) {
        self.shared.folder.listen(listener);
    }

    /// Settles what a crash or an outage left in Glance, unless `read_only`, now and every minute, sooner what an upload
    /// of this mount leaves and what is not settled yet; and removes every hour what failed uploads left longer ago
    /// than `--keep-failed`. Until [`shut_down`](Self::shut_down).
    ///
    /// `tell` hears what changed in Glance by that, and must not wait.
    pub async fn keep_house(self, read_only: bool, tell: impl Fn(Settlement) + Send + Sync) {
        let Shared { folder, stop, .. } = &*self.shared;
        let mut aged = Instant::now();
        let mut again = AGAIN;
        loop {
            let settled = read_only || aftermath::settle_all(&self.shared, &tell).await;
            let pause = async {
                if settled {
                    // Whatever is left from now on was tried at this moment.
                    let _ = timeout(SETTLING - AGAIN, folder.unsettled()).await;
                    sleep(AGAIN).await;
                } else {
                    sleep(again).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause => {}
            }
            again = if settled { AGAIN } else { (again * 2).min(SETTLING) };
            if aged.elapsed() < HOUSEKEEPING {
                continue;
            }
            aged = Instant::now();
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || kept::age_out(&folder)).await.ok();
        }
    }

    /// For unmount: uploads under way get 10 s to end. Those that need longer are given up with the
    /// reason "the mount was stopped", so that their bytes are kept and their records deleted, which
    /// may take 5 s more. Afterwards none can begin.
    pub async fn shut_down(&self) {
        let Shared { commits, stop, .. } = &*self.shared;
        commits.close();
        let ended = timeout(FINISH, commits.wait()).await.is_ok();
        stop.cancel();
        if !ended && timeout(TAKE_BACK, commits.wait()).await.is_err() {
            tracing::warn!("uploads were cut off: their records may still be in Glance");
        }
    }
}

/// What lies in a spool folder, without a mount; a folder that does not exist has nothing. Blocks on the disk.
///
/// # Errors
/// `Config` when the folder belongs to another user or is used for other things, `Io`.
pub fn reports_in(config: &SpoolConfig) -> Result<Uploading> {
    let folder = config.dir.display().to_string();
    if !config.dir.exists() {
        return Ok(Uploading { cloud: None, project: None, folder, uploads: Vec::new() });
    }
    let uploads = report::reports(&Arc::new(Folder::open(config)?), &HashMap::new())?;
    Ok(Uploading { cloud: None, project: None, folder, uploads })
}

/// Whether the spool folder may have an upload whose id begins with `id`: it does, or cannot be looked into.
/// Blocks on the disk.
pub fn may_hold(folder: &Path, id: &str) -> bool {
    let Ok(mut entries) = std::fs::read_dir(folder) else { return true };
    entries.any(|entry| {
        entry.map_or(true, |entry| entry.file_name().as_encoded_bytes().starts_with(id.as_bytes()))
    })
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads").field("folder", &self.shared.folder.path()).finish_non_exhaustive()
    }
}
