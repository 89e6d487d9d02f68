//! Tells the kernel what it must forget when the list of images changes.

use std::sync::Arc;

use fuser::{INodeNo, Notifier};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, warn};

use crate::cache::Mismatch;
use crate::catalog::{Changed, Snapshot};
use crate::fs::{ImageFs, Invalidation};
use crate::units::ImageId;

use super::passthrough::Passthrough;

/// Runs until the mount ends. Notifications are blocking writes that may wait for a lock which the
/// kernel holds until one of our replies: they are never made by a thread that replies.
pub(super) async fn run(
    fs: Arc<ImageFs>,
    notifier: Notifier,
    mut listings: Receiver<Changed>,
    mut operations: Receiver<Invalidation>,
    mut mismatches: Receiver<Mismatch>,
    mut proofs: Receiver<ImageId>,
    passthrough: Arc<Passthrough>,
) {
    let mut shown: Arc<Snapshot> = fs.list();
    loop {
        let found = tokio::select! {
            listing = listings.recv() => match listing {
                // How many were missed does not matter: the whole of what is shown is compared.
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    let old = std::mem::replace(&mut shown, fs.list());
                    let (fs, new) = (Arc::clone(&fs), Arc::clone(&shown));
                    // All of a large list may have changed.
                    match tokio::task::spawn_blocking(move || fs.invalidations(&old, &new)).await {
                        Ok(found) => found,
                        Err(_) => return,
                    }
                }
                Err(RecvError::Closed) => return,
            },
            operation = operations.recv() => match operation {
                Ok(one) => vec![one],
                Err(RecvError::Lagged(missed)) => {
                    debug!(missed, "the kernel keeps what it knows of these inodes until its TTL");
                    continue;
                }
                Err(RecvError::Closed) => return,
            },
            mismatch = mismatches.recv() => match mismatch {
                Ok(one) => fs.mismatched(&one),
                Err(RecvError::Lagged(missed)) => {
                    warn!(missed, "the kernel may hold data of images that do not match their hash");
                    continue;
                }
                Err(RecvError::Closed) => return,
            },
            proof = proofs.recv() => match proof {
                Ok(image) => passthrough.outdated_pages(&image),
                // The next open drops its pages.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        };
        let notifier = notifier.clone();
        let told = tokio::task::spawn_blocking(move || found.iter().for_each(|one| tell(&notifier, one)));
        if told.await.is_err() {
            return;
        }
    }
}

fn tell(notifier: &Notifier, what: &Invalidation) {
    let told = match what {
        Invalidation::Entry(parent, name) => notifier.inval_entry(INodeNo(parent.0), name),
        // A negative offset leaves the data alone (fuse_lowlevel_notify_inval_inode).
        Invalidation::Attributes(ino) => notifier.inval_inode(INodeNo(ino.0), -1, 0),
        Invalidation::Data(ino) => notifier.inval_inode(INodeNo(ino.0), 0, 0),
    };
    match told {
        // The kernel does not know it: nothing to forget.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => warn!(?what, %error, "the kernel did not take an invalidation"),
        Ok(()) => {}
    }
}
