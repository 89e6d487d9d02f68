//! The place of a mount in the tree, which it can lose before it ends.
//!
//! `umount -l` takes a mount out of the tree while files on it are open. Its daemon serves them until the last is closed, and is
//! told nothing. Another mount may be at the same path by then, as when glancefs is updated below running guests: that one
//! needs what only one can have, and is none of the former's to unmount. So a mount is known by its device number, which
//! is nobody else's while it lives, and the kernel says when the mount table changes (poll(2) of `/proc/self/mountinfo`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use super::instance::Instance;
use super::mountinfo::{self, Device};
use crate::blocking::blocking;
use crate::error::{Error, Result};

/// Between two looks at the mount table: where containers come and go it changes all the time.
const REST: Duration = Duration::from_secs(1);

/// A mount without open files ends with its unmounting, in milliseconds. Longer than `glancefs umount --lazy` waits for that, which
/// looks for the claim.
const ENDING: Duration = Duration::from_secs(3);

/// Where a mount of ours is.
#[derive(Debug, Clone)]
pub struct Place {
    mountpoint: PathBuf,
    device: Device,
}

/// What only one daemon of a place can have.
pub struct Claim {
    /// None of a device that another has mounted.
    pub instance: Option<Instance>,
    /// The task that serves `--metrics-listen`.
    pub metrics: Option<AbortOnDropHandle<()>>,
}

impl Place {
    /// The place of the mount that was just made at `mountpoint`; none when it is gone again, or cannot be seen.
    pub fn of(mountpoint: &Path) -> Option<Self> {
        let mount = mountinfo::topmost(mountpoint).ok()??;
        let place = || Self { mountpoint: mountpoint.to_owned(), device: mount.device };
        mount.is_glancefs().then(place)
    }

    /// Who unmounts what is at this path unmounts our mount.
    pub fn is_ours(&self) -> bool {
        mountinfo::topmost(&self.mountpoint).is_ok_and(|top| top.is_some_and(|top| top.device == self.device))
    }

    /// Waits until the mount is no longer at its place, and gives free what a successor needs unless the daemon ends by then.
    /// To be dropped when the mount has ended.
    pub async fn free_when_detached(self, claim: impl FnOnce() -> Option<Claim>) {
        if let Err(error) = self.left().await {
            return debug!(%error, "the mount table cannot be watched: the place is kept to the end");
        }
        tokio::time::sleep(ENDING).await;
        let Some(Claim { instance, metrics }) = claim() else { return };
        if let Some(metrics) = metrics {
            metrics.abort();
            // So that the port is free before the place is.
            let _ended = metrics.await;
        }
        // It removes a file.
        let _freed = tokio::task::spawn_blocking(move || drop(instance)).await;
        info!(
            "{} was unmounted while files are open: they are served until they are closed, and another mount can be made there",
            self.mountpoint.display()
        );
    }

    async fn left(&self) -> Result<()> {
        let failed = |error| Error::io("watching /proc/self/mountinfo", error);
        let table = File::open("/proc/self/mountinfo").map_err(failed)?;
        // SAFETY: the descriptor is a file's that the result owns, so it stays open and the same as long as it is registered.
        let table = unsafe { AsyncFd::register_with_interest(table, Interest::PRIORITY) };
        let table = table.map_err(|error| failed(error.into()))?;
        loop {
            let (mountpoint, device) = (self.mountpoint.clone(), self.device);
            if !blocking(move || mountinfo::is_at(&mountpoint, device)).await? {
                return Ok(());
            }
            table.ready(Interest::PRIORITY).await.map_err(failed)?.clear_ready();
            tokio::time::sleep(REST).await;
        }
    }
}
