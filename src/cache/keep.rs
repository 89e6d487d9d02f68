//! Keeping: of an image that is kept nothing leaves the cache on disk, whoever needs the room.
//!
//! It takes the shared lock on the data file that readers past us hold as well (`disk::files::Files::pin`): whoever makes room, in
//! this process or another, takes the exclusive one or leaves the file alone. So an image can be kept before all of it is
//! here, and what came stays. How much is kept is bounded: all images that are kept fit into the cache together.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};

use super::image::CachedImage;
use super::{Core, Key};

/// How long another process may be making room before an image is not kept, and how often it is looked.
const TURN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// The images that are kept: their sizes, and how often each is.
pub(super) type KeptImages = HashMap<Key, (u64, usize)>;

/// While it exists, nothing of one image leaves the cache on disk.
pub struct Kept {
    _place: Place,
    _locked: Vec<File>,
}

/// A place among the images that are kept.
struct Place {
    core: Arc<Core>,
    key: Key,
}

impl Place {
    /// Takes it; with it the bytes that all others need.
    fn take(core: &Arc<Core>, key: Key, size: u64) -> (Self, u64) {
        let mut kept = core.kept();
        let others = kept.iter().filter(|(other, _)| **other != key).map(|(_, (size, _))| *size);
        let others = others.fold(0, u64::saturating_add);
        kept.entry(key).or_insert((size, 0)).1 += 1;
        (Self { core: Arc::clone(core), key }, others)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut kept = self.core.kept();
        if let Some((_, times)) = kept.get_mut(&self.key) {
            *times -= 1;
            if *times == 0 {
                kept.remove(&self.key);
            }
        }
    }
}

impl Core {
    fn kept(&self) -> MutexGuard<'_, KeptImages> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedImage {
    /// Sees to it that what is in the cache of the image stays there until the result is dropped, and what comes as well.
    ///
    /// # Errors
    /// `NoSpace`: the cache cannot hold it beside all others that are kept. `Busy`: other processes are making room all
    /// the time. `Io` of the disk.
    pub async fn keep(self: &Arc<Self>) -> Result<Kept> {
        let failed = |error| Error::io("keeping an image in the cache", error);
        let gone = || Error::new(Kind::Interrupted, "the mount is ending");
        let (place, others) = Place::take(self.core(), self.cache_key(), self.size());
        self.fits(others).await?;
        let Some(disk) = self.disk().await else {
            return Err(Error::new(
                Kind::Io,
                "the disk of the cache cannot be used: see the log of the mount",
            ));
        };
        let deadline = Instant::now() + TURN;
        loop {
            let image = Arc::clone(&disk);
            let locking = self.core().on_disk_thread(move || image.lock_extents());
            if let Some(locked) = locking.await.ok_or_else(gone)?.map_err(failed)? {
                return Ok(Kept { _place: place, _locked: locked });
            }
            if Instant::now() > deadline {
                return Err(Error::new(Kind::Busy, "other mounts are making room in the cache"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
