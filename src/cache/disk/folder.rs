//! The cache folder: who may see it, what is in it, and how files in it are opened.
//!
//! ```text
//! <dir>/v1/images/<key>.index, <key>.data     one pair per image (see `index`)
//! <dir>/v1/content/<content key>              64 hex digits: the image whose copy was verified
//! <dir>/v1/profiles/<digest>.profile          what a start reads, see `read::profile`: not of the cache
//! <dir>/v1/evict.lock                         held by the process that makes room
//! <dir>/v1/<key>.list, <key>.login            for `--allow-stale`: not of the cache (see `catalog::records`, `auth::last_login`)
//! ```
//!
//! Everything is opened relative to directory handles that were checked once, without following links.
//! Files with other names are never touched.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::cache::identity::Key;
use crate::error::Result;
use crate::private_folder::Purpose;

/// Beside ours stand, in the default cache folder, the spool and the locks of mounts.
const PURPOSE: Purpose = Purpose {
    name: "cache",
    option: "--cache-dir",
    subfolders: &["v1", "images", "content", "profiles", "spool", "run"],
};

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The opened cache folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    version: OwnedFd,
    images: OwnedFd,
    content: OwnedFd,
}

/// What a name in `images/` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Index,
    Data,
}

impl Part {
    pub(crate) fn name(self, key: Key) -> String {
        match self {
            Part::Index => format!("{key}.index"),
            Part::Data => format!("{key}.data"),
        }
    }
}

/// Free and total bytes of the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    pub free: u64,
    pub total: u64,
}

impl Folder {
    /// Opens the folder, or creates it (0700). Nothing in it is walked.
    ///
    /// # Errors
    /// Those of [`Purpose::open`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let root = PURPOSE.open(path)?;
        let version = PURPOSE.open_in(&root, path, "v1")?;
        let in_version = path.join("v1");
        let images = PURPOSE.open_in(&version, &in_version, "images")?;
        let content = PURPOSE.open_in(&version, &in_version, "content")?;
        Ok(Self { path: path.to_path_buf(), version, images, content })
    }

    /// Where it is, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file of an image; `None`: it does not exist.
    pub(crate) fn open_image(&self, key: Key, part: Part, access: OFlags) -> io::Result<Option<File>> {
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.images, part.name(key), flags, FILE_MODE) {
            Ok(file) => Ok(Some(File::from(file))),
            // When it should be made, it is the folder that is gone.
            Err(rustix::io::Errno::NOENT) if !access.contains(OFlags::CREATE) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file of an image; one that is gone already is fine.
    pub(crate) fn remove_image(&self, key: Key, part: Part) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.images, part.name(key), AtFlags::empty()) {
            Err(error) if error != rustix::io::Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Every index and data file by its key, in no order.
    pub(crate) fn each_image(&self, mut visit: impl FnMut(Key, Part)) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(&self.images)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let (stem, part) = match name.rsplit_once('.') {
                Some((stem, "index")) => (stem, Part::Index),
                Some((stem, "data")) => (stem, Part::Data),
                _ => continue,
            };
            if let Ok(key) = stem.parse() {
                visit(key, part);
            }
        }
        Ok(())
    }

    /// Bytes that a data file occupies, and the seconds since the epoch of its last change.
    pub(crate) fn allocated(&self, key: Key) -> io::Result<Option<(u64, i64)>> {
        match rustix::fs::statat(&self.images, Part::Data.name(key), AtFlags::SYMLINK_NOFOLLOW) {
            // The field types differ between architectures.
            #[allow(clippy::unnecessary_cast)]
            Ok(stat) => Ok(Some((stat.st_blocks as u64 * 512, stat.st_ctime as i64))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a foreign file in as a data file; `false`: it is on another file system and stays.
    pub(crate) fn take_in(&self, file: &Path, key: Key) -> io::Result<bool> {
        match rustix::fs::renameat(rustix::fs::CWD, file, &self.images, Part::Data.name(key)) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::XDEV) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a new index under a temporary name and moves it to its own.
    pub(crate) fn publish_index(&self, key: Key, raw: &[u8]) -> io::Result<()> {
        self.replace(&self.images, &Part::Index.name(key), raw)
    }

    /// The image whose verified copy has this content, as far as the folder claims.
    pub(crate) fn alias(&self, content: Key) -> Option<Key> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.content, content.to_string(), flags, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).take(65).read_to_string(&mut text).ok()?;
        text.parse().ok()
    }

    /// Records that the copy of `image` was verified to have this content.
    pub(crate) fn set_alias(&self, content: Key, image: Key) -> io::Result<()> {
        self.replace(&self.content, &content.to_string(), image.to_string().as_bytes())
    }

    /// Every content of which some image had a verified copy, in no order.
    pub(crate) fn each_content(&self, mut visit: impl FnMut(Key)) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(&self.content)? {
            if let Ok(content) = entry?.file_name().to_str().unwrap_or_default().parse() {
                visit(content);
            }
        }
        Ok(())
    }

    /// Forgets what is recorded of images that are no longer here.
    pub(crate) fn drop_dangling_aliases(&self) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(&self.content)? {
            let entry = entry?;
            let Ok(content) = entry.file_name().to_str().unwrap_or_default().parse::<Key>() else { continue };
            let Some(image) = self.alias(content) else { continue };
            let name = Part::Index.name(image);
            let gone = rustix::fs::statat(&self.images, name, AtFlags::SYMLINK_NOFOLLOW);
            if gone.is_err_and(|error| error == rustix::io::Errno::NOENT) {
                rustix::fs::unlinkat(&self.content, entry.file_name(), AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// The right to make room, while the file lives; `None`: another process is at it.
    pub(crate) fn lock_eviction(&self) -> io::Result<Option<File>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.version, "evict.lock", flags, FILE_MODE)?);
        Ok(try_lock(&file, FlockOperation::NonBlockingLockExclusive)?.then_some(file))
    }

    /// Free and total bytes of the disk below.
    pub(crate) fn disk(&self) -> io::Result<Disk> {
        let stat = rustix::fs::fstatvfs(&self.images)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Disk { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }

    fn replace(&self, folder: &OwnedFd, name: &str, raw: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.{}.tmp", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(folder, &temporary, flags, FILE_MODE)?);
        file.write_all(raw)?;
        rustix::fs::renameat(folder, &temporary, folder, name)?;
        Ok(())
    }
}

/// Takes a lock if nobody is in the way.
pub(crate) fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_seen_and_aliases_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let (one, two) = (Key([1; 32]), Key([2; 32]));
        let images = temp.path().join("v1/images");
        for name in [Part::Index.name(one), Part::Data.name(one), "notes".into(), "zz.data".into()] {
            std::fs::write(images.join(name), "x").unwrap();
        }
        let mut seen = Vec::new();
        folder.each_image(|key, part| seen.push((key, part))).unwrap();
        seen.sort_by_key(|(_, part)| *part == Part::Data);
        assert_eq!(seen, [(one, Part::Index), (one, Part::Data)]);

        folder.set_alias(two, one).unwrap();
        assert_eq!((folder.alias(two), folder.alias(one)), (Some(one), None));
        std::fs::write(temp.path().join(format!("v1/content/{one}")), "../../etc/passwd").unwrap();
        assert_eq!(folder.alias(one), None);
        folder.drop_dangling_aliases().unwrap();
        assert_eq!(folder.alias(two), Some(one));
        folder.remove_image(one, Part::Index).unwrap();
        folder.drop_dangling_aliases().unwrap();
        assert_eq!(folder.alias(two), None);
    }

    #[test]
    fn one_process_makes_room_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (Folder::open(temp.path()).unwrap(), Folder::open(temp.path()).unwrap());
        let held = one.lock_eviction().unwrap().unwrap();
        assert!(two.lock_eviction().unwrap().is_none());
        drop(held);
        assert!(two.lock_eviction().unwrap().is_some());
    }
}
