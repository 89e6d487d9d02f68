//! Stale mounts: a daemon that died leaves a mount on which everything fails with `ENOTCONN`.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing::warn;

use super::mountinfo;
use crate::error::{Error, Kind, Result};
use crate::fuse::unmount::{self, Manner};

/// A healthy daemon answers a `stat` of its root from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// More dead mounts than this on one path are not our doing.
const DEEPEST_STACK: usize = 16;

/// Whether somebody serves a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It answers, or at least refuses us.
    Alive,
    /// Its daemon has ended: `ENOTCONN`.
    Dead,
    /// No answer within [`PATIENCE`].
    Silent,
}

/// Removes dead mounts of ours from `mountpoint`, so that a new one can be made. Mounts of other
/// file systems are left alone.
///
/// # Errors
/// `Busy` when a glancefs is alive there, or somebody else's mount there is dead.
pub fn stale_mounts(mountpoint: &Path) -> Result<()> {
    let shown = mountpoint.display();
    for _ in 0..DEEPEST_STACK {
        let Some(mount) = mountinfo::topmost(mountpoint)? else { return Ok(()) };
        let busy = |message: String| Err(Error::new(Kind::Busy, message));
        match (pulse(mountpoint), mount.is_glancefs()) {
            (Pulse::Dead, true) => {
                warn!("the mount at {shown} has lost its daemon: unmounting it");
                unmount::unmount(mountpoint, Manner::Lazy)?;
            }
            (Pulse::Alive, true) => {
                return busy(format!(
                    "a glancefs is already mounted at {shown}: end it with: glancefs umount {shown}"
                ));
            }
            (Pulse::Silent, true) => {
                return busy(format!(
                    "the glancefs mounted at {shown} does not answer: end it with: glancefs umount --lazy {shown}"
                ));
            }
            (Pulse::Dead, false) => {
                let fstype = &mount.fstype;
                return busy(format!(
                    "a dead {fstype} mount is in the way at {shown}: remove it: umount -l {shown}"
                ));
            }
            (Pulse::Alive | Pulse::Silent, false) => return Ok(()),
        }
    }
    let message = format!("dead mounts keep appearing at {shown}: remove them: umount -l {shown}");
    Err(Error::new(Kind::Busy, message))
}

/// Asks the file system at `mountpoint` for its root. A daemon that hangs would keep the asking
/// thread, so it is one of its own.
pub fn pulse(mountpoint: &Path) -> Pulse {
    let (sender, answer) = mpsc::sync_channel(1);
    let path = mountpoint.to_owned();
    let asked = thread::Builder::new().name("glancefs-pulse".into()).spawn(move || {
        // The asker may have lost patience.
        let _ = sender.send(std::fs::metadata(&path).err());
    });
    if asked.is_err() {
        return Pulse::Silent;
    }
    match answer.recv_timeout(PATIENCE) {
        Ok(Some(error)) if is_dead(&error) => Pulse::Dead,
        Ok(_) => Pulse::Alive,
        Err(_) => Pulse::Silent,
    }
}

fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_file_systems_and_plain_folders_are_left_alone() {
        assert!(stale_mounts(Path::new("/proc")).is_ok());
        assert!(stale_mounts(tempfile::tempdir().unwrap().path()).is_ok());
        assert_eq!(pulse(Path::new("/proc")), Pulse::Alive);
    }
}
