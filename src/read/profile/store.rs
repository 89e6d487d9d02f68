//! Where profiles are kept: one small file per content, beside the cache.
//!
//! The name of a file is its digest, so it can be copied to another host as it is.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::error::{Error, Result};

use super::Profile;

/// Bytes of a file that are read: the longest profile has 4096 runs of two numbers.
const MOST_BYTES: u64 = 128 * 1024;

/// The folder of profiles. Everything here waits for the disk.
#[derive(Debug, Clone)]
pub(in crate::read) struct Store {
    folder: PathBuf,
}

impl Store {
    /// In `folder`, which need not exist yet, inside of one that only its owner can enter.
    pub(in crate::read) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Digests are hexadecimal digits behind `algorithm:`, so the name stays in the folder.
    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{}.profile", digest.replace([':', '/'], "-")))
    }

    /// The profile of this content; one that cannot be used counts as none.
    pub(in crate::read) fn load(&self, digest: &str, size: u64) -> Option<Profile> {
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
            Err(error) => Err(Error::io("reading a boot profile", error)),
        };
        profile
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "a boot profile is left alone"),
            )
            .ok()
    }

    /// Keeps a profile in the place of the one before.
    ///
    /// # Errors
    /// `Io`, `NoSpace` of the disk.
    pub(in crate::read) fn save(&self, profile: &Profile) -> Result<()> {
        let path = self.path(&profile.digest);
        let write = || -> io::Result<()> {
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
        };
        write().map_err(|error| Error::io("keeping a boot profile", error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SIZE, profile};
    use super::*;

    #[test]
    fn what_was_saved_is_there_and_damage_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("profiles"));
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
