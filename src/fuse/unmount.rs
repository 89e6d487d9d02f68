//! Taking a FUSE mount away: umount2(2), or fusermount3 where we may not.
//!
//! fuser's own unmounting fails on a busy mount and may hit a foreign one (#686, inverted
//! `is_mounted`), so it is never used.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Error, Kind, Result};

/// What to do about open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Refuse while there are any.
    WhenIdle,
    /// Take the mount out of the tree now (`MNT_DETACH`); it ends when the last is closed.
    Lazy,
}

/// Unmounts the topmost mount at `mountpoint` (absolute, without symbolic links).
///
/// # Errors
/// `Busy` when files are open on it, `NotFound` when nothing is mounted there, `Forbidden` when it
/// is somebody else's, `Io` for the rest.
pub fn unmount(mountpoint: &Path, manner: Manner) -> Result<()> {
    let lazy = if manner == Manner::Lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    let failed = |kind| Error::new(kind, format!("unmounting {}", mountpoint.display()));
    match rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW | lazy) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(failed(Kind::Busy).with_source(io::Error::from(Errno::BUSY))),
        Err(error @ (Errno::INVAL | Errno::NOENT)) => {
            Err(failed(Kind::NotFound).with_source(io::Error::from(error)))
        }
        // Users may end their own mounts, through the set-user-id helper of fuse3.
        Err(Errno::PERM) => by_fusermount(mountpoint, manner),
        Err(error) => Err(failed(Kind::Io).with_source(io::Error::from(error))),
    }
}

fn by_fusermount(mountpoint: &Path, manner: Manner) -> Result<()> {
    // The same variable as fuser takes for mounting.
    let helper = std::env::var_os("FUSERMOUNT_PATH").unwrap_or_else(|| OsString::from("fusermount3"));
    let mut command = Command::new(&helper);
    command.arg("-u");
    if manner == Manner::Lazy {
        command.arg("-z");
    }
    // Its messages are told apart by their words.
    command.arg("--").arg(mountpoint).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|error| {
        let message = format!("{} cannot be run: install the package fuse3", helper.display());
        Error::new(Kind::Io, message).with_source(error)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if words.contains("busy") {
        Kind::Busy
    } else if words.contains("not found in") {
        Kind::NotFound
    } else if words.contains("not permitted") || words.contains("owner") {
        Kind::Forbidden
    } else {
        Kind::Io
    };
    Err(Error::new(kind, format!("unmounting {}: {words}", mountpoint.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_mount_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        // Root is told EINVAL by the kernel, a user by fusermount3.
        let kind = unmount(folder.path(), Manner::WhenIdle).unwrap_err().kind();
        assert_eq!(kind, Kind::NotFound);
    }
}
