//! A path on a mount: told from what is not ours, opened and asked.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::Errno;
use rustix::ioctl::{NoArg, Updater};

use crate::error::{Error, Kind, Result};
use crate::ioctl::{EVICT, Eviction, PREFETCH, PROGRESS, Progress};

/// The type of every FUSE mount in statfs(2) (`FUSE_SUPER_MAGIC` of `linux/magic.h`).
const FUSE: u64 = 0x6573_5546;

/// An image on a mount, open for reading.
pub(super) struct ImageFile {
    file: File,
}

impl ImageFile {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// It is no image on a glancefs mount, or cannot be read, with the reason.
    pub(super) fn open(path: &Path) -> Result<Self> {
        regular_file(path)?;
        // Never to wait for what somebody has put there meanwhile.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        file.map(|file| Self { file }).map_err(|error| refused("cannot be opened", error))
    }

    /// Has all of it brought into the cache while it is open.
    ///
    /// # Errors
    /// It is no image on a glancefs mount.
    pub(super) fn prefetch(&self) -> Result<()> {
        // SAFETY: `PREFETCH` says of itself that it has no argument, and `NoArg` gives none.
        let sent = unsafe { rustix::ioctl::ioctl(&self.file, NoArg::<PREFETCH>::new()) };
        sent.map_err(not_taken)
    }

    /// How far that is.
    ///
    /// # Errors
    /// The mount has ended.
    pub(super) fn progress(&self) -> Result<Progress> {
        // SAFETY: `PROGRESS` has the size of this array in it, FUSE writes no more than that, and any
        // bytes make an array of bytes. Written or not, all of it is initialised first.
        let raw = unsafe {
            let mut raw = [0; Progress::LEN];
            rustix::ioctl::ioctl(&self.file, Updater::<PROGRESS, _>::new(&mut raw)).map(|()| raw)
        };
        Progress::decode(&raw.map_err(not_taken)?)
    }
}

/// Drops the image at `path` from the cache. It is not opened for that: a complete image that is open may
/// not be dropped.
///
/// # Errors
/// It is no image on a glancefs mount; `Busy`: it is in use.
pub(super) fn evict(path: &Path) -> Result<Eviction> {
    let path = &path.canonicalize().map_err(|error| refused("cannot be found", error))?;
    let image = regular_file(path)?;
    let folder = path.parent().map(File::open).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
    let folder = folder.map_err(|error| refused("its directory cannot be opened", error))?;
    let beside = folder.metadata().map_err(|error| refused("its directory cannot be looked at", error))?;
    if beside.dev() != image.dev() {
        // Mounted by itself (`mount --bind`): the number would mean another file there.
        return Err(Error::new(Kind::Invalid, "is a mount point: name the image by its path in the mount"));
    }
    let mut raw = Eviction { ino: image.ino(), ..Eviction::default() }.encode();
    // SAFETY: `EVICT` has the size of this array in it, and FUSE reads and writes no more than that.
    let sent = unsafe { rustix::ioctl::ioctl(&folder, Updater::<EVICT, _>::new(&mut raw)) };
    sent.map_err(not_taken)?;
    Ok(Eviction::decode(&raw))
}

/// The regular file on some FUSE mount at `path`.
fn regular_file(path: &Path) -> Result<Metadata> {
    let found = std::fs::metadata(path).map_err(|error| refused("cannot be found", error))?;
    if found.is_dir() {
        let shown = path.display();
        return Err(Error::new(Kind::IsDirectory, format!("is a directory: name images, such as {shown}/*")));
    }
    if !found.is_file() || !is_fuse(path)? {
        return Err(not_ours());
    }
    Ok(found)
}

/// `path` lies on a FUSE mount, ours or another.
pub(super) fn is_fuse(path: &Path) -> Result<bool> {
    let statistics = rustix::fs::statfs(path).map_err(|error| refused("cannot be found", error.into()))?;
    // The width and sign of the field differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    Ok(statistics.f_type as u64 == FUSE)
}

fn not_ours() -> Error {
    Error::new(Kind::Invalid, "is not on a glancefs mount")
}

/// What a system call on a mount means when it fails.
pub(super) fn refused(what: &'static str, error: io::Error) -> Error {
    let told = |kind, message: &'static str| Error::new(kind, message);
    match error.raw_os_error() {
        Some(libc::ENOTCONN | libc::ECONNABORTED) => told(
            Kind::Unreachable,
            "the daemon of this mount has ended: unmount with glancefs umount, and mount again",
        ),
        Some(libc::ENODATA) => told(Kind::NoData, "is queued: it has no data yet"),
        Some(libc::EBUSY) => told(Kind::Busy, "is being written or uploaded"),
        Some(libc::EACCES) => told(Kind::Forbidden, "may not be read by this user, or is deactivated"),
        _ => Error::io(what, error),
    }
}

/// What it means that an ioctl of ours failed.
pub(super) fn not_taken(errno: Errno) -> Error {
    match errno {
        Errno::NOTTY | Errno::NOSYS | Errno::OPNOTSUPP => not_ours(),
        Errno::INVAL => Error::new(Kind::Invalid, "is no image of a glancefs mount"),
        Errno::PERM => Error::new(Kind::NotPermitted, "only the user who mounted, and root, may do this"),
        Errno::STALE | Errno::NOENT => Error::new(Kind::NotFound, "the image is gone"),
        Errno::BUSY => Error::new(
            Kind::Busy,
            "is in use: it is being written, or programs read it straight from the cache; close it first",
        ),
        other => refused("the mount did not do it", other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_elsewhere_are_told_from_images() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        std::fs::write(&file, "x").unwrap();
        for path in [file.as_path(), Path::new("/dev/null")] {
            let open = ImageFile::open(path).err().unwrap().to_string();
            assert_eq!(
                (open.as_str(), evict(path).unwrap_err().to_string().as_str()),
                ("is not on a glancefs mount", "is not on a glancefs mount")
            );
        }
        assert!(ImageFile::open(folder.path()).err().unwrap().to_string().contains("/*"));
        let gone = evict(&folder.path().join("gone")).unwrap_err().to_string();
        assert!(gone.contains("No such file"), "{gone}");
    }

    #[test]
    fn a_file_that_knows_no_ioctl_of_ours_is_not_ours() {
        let file = ImageFile { file: tempfile::tempfile().unwrap() };
        assert_eq!(file.prefetch().unwrap_err().to_string(), "is not on a glancefs mount");
        assert_eq!(file.progress().unwrap_err().kind(), Kind::Invalid);
    }
}
