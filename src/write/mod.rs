//! Uploads: spool and journal, then create, PUT, verify; then the spool becomes the cache file.
//!
//! ```text
//! Draft ──┬── Spool    the bytes: one sparse, locked file        (spool.rs, folder.rs)
//!         ├── Journal  name, id, step, failure: one JSON file    (journal.rs)
//!         └── Commit   from a quiet draft to an image            (commit.rs)
//!               ├── Upload  create, PUT, verify, take back       (upload.rs)
//!               ├── Body    read ahead, hash, count              (body.rs)
//!               ├── sniff   content to disk_format               (sniff.rs, carry.rs)
//!               └── Records, Keeper: Glance and the cache        (keeper.rs)
//! ```
//!
//! An image appears only when all of its bytes were given and none was lost: a draft whose write
//! failed cannot be committed, a failed upload takes its record back and keeps the spool, and what
//! a crash leaves is told by [`Uploads::leftovers`].

mod body;
mod carry;
mod commit;
mod draft;
#[cfg(test)]
mod fake;
mod folder;
mod journal;
mod keeper;
#[cfg(test)]
mod real_tests;
mod recover;
mod sniff;
mod spool;
#[cfg(test)]
mod tests;
mod upload;

use std::fmt;
use std::sync::Arc;

use crate::cache::Cache;
use crate::config::SpoolConfig;
use crate::error::Result;
use crate::glance::{Image, Records};
use crate::units::ImageId;

pub use draft::Draft;

use folder::Folder;
use keeper::Keeper;
use upload::Pace;

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
}

/// What all drafts of a mount use.
struct Shared {
    folder: Arc<Folder>,
    records: Arc<dyn Records>,
    keeper: Arc<dyn Keeper>,
    pace: Pace,
}

impl Uploads {
    /// Opens or creates the spool folder (0700; tightened when ours, refused when not).
    ///
    /// Blocks on the disk: drafts of dead processes that never had a byte are removed here.
    ///
    /// # Errors
    /// `Config` when the folder belongs to another user or is used for other things, `Io`.
    pub fn open(config: &SpoolConfig, records: Arc<dyn Records>, cache: Cache) -> Result<Self> {
        Self::with(config, records, Arc::new(cache), Pace::default())
    }

    fn with(
        config: &SpoolConfig,
        records: Arc<dyn Records>,
        keeper: Arc<dyn Keeper>,
        pace: Pace,
    ) -> Result<Self> {
        let folder = Arc::new(Folder::open(config)?);
        for line in recover::leftovers(&folder) {
            tracing::warn!("{line}");
        }
        Ok(Self { shared: Arc::new(Shared { folder, records, keeper, pace }) })
    }

    /// A new, empty draft with a spool file of its own. Blocks on the disk.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn draft(&self, intent: Intent) -> Result<Arc<Draft>> {
        Draft::create(self.shared.clone(), intent).map(Arc::new)
    }

    /// What earlier runs left in the spool, and what this one gave up, one line each, for
    /// `.glancefs/errors`: at most 100, oldest first. Reads the folder, so it blocks on the disk.
    pub fn leftovers(&self) -> Vec<String> {
        recover::leftovers(&self.shared.folder)
    }
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads").field("folder", &self.shared.folder.path()).finish_non_exhaustive()
    }
}
