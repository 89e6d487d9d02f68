//! Folders of ours on disk: what is in them may be secret, so only their owner can enter (0700).
//!
//! One that exists with a wider mode is tightened when it is ours and holds nothing else, and refused
//! otherwise: a slip such as `--cache-dir /var/lib` by root must not lock everybody out of that.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, mkdirat, open, openat, statat};

use crate::error::{Error, Kind, Result};

const MODE: Mode = Mode::RWXU;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a folder is for: how messages name it, and what folders may be found in it.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// "cache" makes messages speak of "the cache folder".
    pub name: &'static str,
    /// The option that chooses another.
    pub option: &'static str,
    /// The folders that we make in it.
    pub subfolders: &'static [&'static str],
}

impl Purpose {
    /// Opens the folder at `path`, made with its parents where they are missing.
    ///
    /// # Errors
    /// `Config`, with a cure: it is a link or a file, it belongs to another user, it is evidently
    /// used for other things, it cannot be made.
    pub fn open(&self, path: &Path) -> Result<OwnedFd> {
        DirBuilder::new()
            .recursive(true)
            .mode(MODE.bits())
            .create(path)
            .map_err(|error| self.refused(path, "it cannot be made", Some(error)))?;
        let folder = open(path, DIRECTORY, Mode::empty());
        self.made_private(folder, path)
    }

    /// Opens or makes the folder `name` in `parent`, which is at `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(&self, parent: impl AsFd, path: &Path, name: &str) -> Result<OwnedFd> {
        let path = path.join(name);
        match mkdirat(&parent, name, MODE) {
            Err(error) if error != rustix::io::Errno::EXIST => {
                return Err(self.refused(&path, "it cannot be made", Some(error.into())));
            }
            _ => {}
        }
        self.made_private(openat(&parent, name, DIRECTORY, Mode::empty()), &path)
    }

    fn made_private(&self, opened: rustix::io::Result<OwnedFd>, path: &Path) -> Result<OwnedFd> {
        let failed = |why: &str, error: io::Error| self.refused(path, why, Some(error));
        let folder = opened.map_err(|error| failed("it must be a folder, not a link", error.into()))?;
        let folder = File::from(folder);
        let metadata = folder.metadata().map_err(|error| failed("it cannot be read", error))?;
        let (owner, we) = (metadata.uid(), rustix::process::geteuid().as_raw());
        if owner != we {
            let why = format!("it belongs to user {owner}, and this is user {we}");
            return Err(self.refused(path, &why, None));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 == 0 {
            return Ok(folder.into());
        }
        // A sticky bit is what folders for everybody have; folders that we did not make are somebody's.
        if mode & libc::S_ISVTX != 0 {
            return Err(self.refused(path, &format!("it has mode {mode:04o}, so others use it"), None));
        }
        if let Some(name) =
            self.foreign_folder(&folder).map_err(|error| failed("it cannot be read", error))?
        {
            let why = format!("it has mode {mode:04o} and holds the folder {name:?}, so others may use it");
            return Err(self.refused(path, &why, None));
        }
        fchmod(&folder, MODE).map_err(|error| failed("it cannot be made private", error.into()))?;
        tracing::info!(path = %path.display(), "made the {} folder private (mode 0700)", self.name);
        Ok(folder.into())
    }

    /// The name of a folder in it that is not ours.
    fn foreign_folder(&self, folder: &File) -> io::Result<Option<String>> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let kind = match entry.file_type() {
                // Some file systems do not say it in the listing.
                FileType::Unknown => {
                    let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(found.st_mode)
                }
                kind => kind,
            };
            let name = name.to_string_lossy();
            let known = [".", ".."].iter().chain(self.subfolders).any(|ours| **ours == *name);
            if kind == FileType::Directory && !known {
                return Ok(Some(name.into_owned()));
            }
        }
        Ok(None)
    }

    fn refused(&self, path: &Path, why: &str, error: Option<io::Error>) -> Error {
        let Self { name, option, .. } = self;
        let message =
            format!("the {name} folder {} is refused: {why}; choose another with {option}", path.display());
        let refused = Error::new(Kind::Config, message);
        match error {
            Some(error) => refused.with_source(error),
            None => refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const PURPOSE: Purpose = Purpose { name: "test", option: "--test-dir", subfolders: &["ours"] };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        let error = PURPOSE.open(path).unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{error}");
        assert!(error.to_string().contains("the test folder"), "{error}");
        assert!(error.to_string().contains("--test-dir"), "{error}");
        error.to_string()
    }

    #[test]
    fn a_new_folder_is_private_with_its_parents_and_subfolders() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        for _ in 0..2 {
            let folder = PURPOSE.open(&path).unwrap();
            PURPOSE.open_in(&folder, &path, "ours").unwrap();
        }
        for path in [base.path().join("a"), path.clone(), path.join("ours")] {
            assert_eq!(mode(&path), 0o700, "{}", path.display());
        }
    }

    #[test]
    fn a_wider_folder_of_ours_is_tightened_and_foreign_files_stay() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("wide");
        fs::create_dir_all(path.join("ours")).unwrap();
        fs::write(path.join("notes"), "mine").unwrap();
        chmod(&path.join("notes"), 0o644);
        chmod(&path, 0o755);
        chmod(&path.join("ours"), 0o777);
        let folder = PURPOSE.open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(
            (mode(&path.join("notes")), fs::read(path.join("notes")).unwrap()),
            (0o644, b"mine".into())
        );
        PURPOSE.open_in(&folder, &path, "ours").unwrap();
        assert_eq!(mode(&path.join("ours")), 0o700);
    }

    #[test]
    fn a_folder_that_others_use_is_refused_and_left_as_it_is() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("shared");
        fs::create_dir(&path).unwrap();
        chmod(&path, 0o1777);
        assert!(refusal(&path).contains("1777"));
        assert_eq!(mode(&path), 0o1777);
        chmod(&path, 0o755);
        fs::create_dir(path.join("lib")).unwrap();
        assert!(refusal(&path).contains("\"lib\""));
        assert_eq!(mode(&path), 0o755);
        chmod(&path, 0o700);
        PURPOSE.open(&path).unwrap();
    }

    #[test]
    fn links_and_files_are_refused() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("real")).unwrap();
        symlink(base.path().join("real"), base.path().join("link")).unwrap();
        fs::write(base.path().join("file"), "").unwrap();
        refusal(&base.path().join("link"));
        refusal(&base.path().join("file"));
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let base = tempfile::tempdir().unwrap();
        if std::os::unix::fs::chown(base.path(), Some(4711), None).is_err() {
            return; // Only root can give a folder away.
        }
        assert!(refusal(base.path()).contains("user 4711"));
    }
}
