//! A /dev/fuse that another process has opened and mounted, and whose descriptor we inherited (`/dev/fd/N`).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{major, minor};
use rustix::io::FdFlags;

use crate::error::{Error, Kind, Result};

/// The number of /dev/fuse (Documentation/admin-guide/devices.txt).
const FUSE: (u32, u32) = (10, 229);

/// Whether the kernel lets us have descriptors of our own for further threads, which are opened anew. A container without
/// /dev/fuse has only the one that it was given.
pub fn can_be_cloned() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

/// Takes over the descriptor. To be called once in a process.
///
/// # Errors
/// `Config` when it was not handed on, or is something else.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    let wrong = |why: &str| {
        let cure = "whoever starts glancefs has to open /dev/fuse, mount it, and hand the descriptor on";
        Error::new(Kind::Config, format!("/dev/fd/{number} {why}: {cure}"))
    };
    if number <= libc::STDERR_FILENO {
        return Err(wrong("is standard input or output"));
    }
    let found =
        std::fs::metadata(format!("/proc/self/fd/{number}")).map_err(|_| wrong("is not open here"))?;
    if !found.file_type().is_char_device() || (major(found.rdev()), minor(found.rdev())) != FUSE {
        return Err(wrong("is no /dev/fuse"));
    }
    // SAFETY: it is open, and was so before this process opened any /dev/fuse: so it was inherited, and nothing of ours
    // owns it.
    let device = unsafe { OwnedFd::from_raw_fd(number) };
    // A token command and fusermount3 have no business with it; one that lives on would keep the mount alive.
    rustix::io::fcntl_setfd(&device, FdFlags::CLOEXEC)
        .map_err(|error| Error::io("taking over /dev/fuse", error.into()))?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_no_fuse_device_is_refused_and_left_open() {
        let file = tempfile::tempfile().unwrap();
        assert!(take(file.as_raw_fd()).unwrap_err().to_string().contains("is no /dev/fuse"));
        assert!(file.metadata().is_ok());
        assert!(take(1_000_000).unwrap_err().to_string().contains("is not open here"));
        assert!(take(0).unwrap_err().to_string().contains("standard input"));
    }
}
