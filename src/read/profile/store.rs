//! Where profiles are kept: one small file per content, beside the cache.
//!
//! The name of a file is its digest, so it can be copied to another host as it is.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::cache::DiskWatch;
use crate::error::{Error, Result};

use super::Profile;

/// Bytes of a file that are read: the longest profile has 4096 runs of two numbers.
const MOST_BYTES: u64 = 128 * 1024;

/// The folder of profiles. Everything here waits for the disk.
#[derive(Clone)]
pub(in crate::read) struct Store {
    folder: PathBuf,
    disk: DiskWatch,
}

impl Store {
    /// In `folder`, which need not exist yet, on this disk, inside of one that only its owner can enter.
    pub(in crate::read) fn new(folder: PathBuf, disk: DiskWatch) -> Self {
        Self { folder, disk }
    }

    /// Digests are hexadecimal digits behind `algorithm:`, so the name stays in the folder.
    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{}.profile", digest.replace([':', '/'], "-")))
    }

    /// The profile of this content; one that cannot be used counts as none.
    pub(in crate::read) fn load(&self, digest: &str, size: u64) -> Option<Profile> {
        if !self.disk.is_well() {
            return None;
        }
        let path = self.path(digest);
        let read = || -> io::Result<Vec<u8>> {
            let file =
                File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
            let mut text = Vec::new();
            file.take(MOST_BYTES).read_to_end(&mut text)?;
            Ok(text)
        };
        let profile = match read() {
            Ok(text) => Profile::decode(&text, digest, size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) if is_of_the_disk(&error) => {
                self.disk.failed("reading a boot profile", &Error::io("the disk of the cache", error));
                return None;
            }
            Err(error) => Err(Error::io("reading a boot profile", error)),
        };
        profile
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "a boot profile is left alone"),
            )
            .ok()
    }

    /// Keeps a profile in the place of the one before if the disk takes it; nobody waits for it.
    pub(in crate::read) fn save_if_possible(&self, profile: &Profile) {
        if !self.disk.is_well() {
            return;
        }
        match self.write(profile) {
            Ok(()) => {}
            // The cache says so itself, and makes room.
            Err(error) if is_full(&error) => tracing::debug!(%error, "no room for a boot profile"),
            Err(error) if is_of_the_disk(&error) => {
                self.disk.failed("keeping a boot profile", &Error::io("the disk of the cache", error));
            }
            Err(error) => tracing::warn!(%error, "the boot profile of an image is not kept"),
        }
    }

    /// Keeps a profile in the place of the one before.
    ///
    /// # Errors
    /// `Io`, `NoSpace` of the disk.
    pub(in crate::read) fn save(&self, profile: &Profile) -> Result<()> {
        self.write(profile).map_err(|error| Error::io("keeping a boot profile", error))
    }

    fn write(&self, profile: &Profile) -> io::Result<()> {
        let path = self.path(&profile.digest);
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Another mount may write the same: each its own file, and the last name wins.
        let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let written = options.open(&fresh).and_then(|mut file| file.write_all(&profile.encode()));
        written.and_then(|()| fs::rename(&fresh, &path)).inspect_err(|_| {
            fs::remove_file(&fresh).ok();
        })
    }
}

/// It says nothing of this file, and much of all others.
fn is_of_the_disk(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SIZE, profile};
    use super::*;

    #[tokio::test]
    async fn what_was_saved_is_there_and_damage_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let disk = crate::read::tests::disk_watch(dir.path());
        let store = Store::new(dir.path().join("profiles"), disk);
        assert_eq!(store.load("sha512:ab", SIZE), None);
        store.save(&profile(&[(1, 20)])).unwrap();
        store.save(&profile(&[(1, 30)])).unwrap();
        assert_eq!(store.load("sha512:ab", SIZE), Some(profile(&[(1, 30)])));
        let path = dir.path().join("profiles/sha512-ab.profile");
        assert_eq!(fs::read_dir(dir.path().join("profiles")).unwrap().count(), 1, "nothing is left over");
        fs::write(&path, "{").unwrap();
        assert_eq!(store.load("sha512:ab", SIZE), None);
    }
}
