//! The spool folder: private to its owner, shared by the mounts of a host, bounded in bytes.
//!
//! It holds two files per draft, `<draft id>.data` and `<draft id>.json`. Everything else in it is
//! somebody else's and is neither read, changed nor removed.

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::config::SpoolConfig;
use crate::error::{Error, Kind, Result};
use crate::units::ByteSize;

/// The extension of a journal that is being written; see `Journal::store`.
pub(super) const JOURNAL_TMP: &str = "json.tmp";

/// Space is granted in this unit, the block size of the usual file systems: a write of one byte
/// occupies a block.
const GRAIN: u64 = 4096;

/// After this much was granted, the folder is looked at again, so that what other mounts wrote
/// meanwhile is noticed: a limit shared by `n` mounts is exceeded by at most `n` times this.
const RESCAN_AFTER: u64 = 64 << 20;

/// The name of a draft's files: made here, not the image's id, because two drafts may be meant for
/// one reservation and a retried upload changes the image's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DraftId(Uuid);

impl DraftId {
    pub(super) fn generate() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads exactly what `Display` writes; `Uuid` alone would take other spellings too.
    fn parse(text: &str) -> Option<Self> {
        let id = Self(Uuid::parse_str(text).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for DraftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.hyphenated(), f)
    }
}

/// An open spool folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The folder itself, for fsync.
    handle: File,
    limit: Option<u64>,
    usage: Mutex<Usage>,
}

/// Bytes that data files occupy, as far as known without asking the file system at every write.
#[derive(Debug, Default)]
struct Usage {
    /// All data files together, when last looked at.
    scanned: u64,
    /// Granted since then, and written.
    landed: u64,
    /// Granted to writes that are under way.
    pending: u64,
}

impl Usage {
    fn total(&self) -> u64 {
        self.scanned.saturating_add(self.landed).saturating_add(self.pending)
    }
}

impl Folder {
    /// Opens the folder, made or tightened to mode 0700.
    ///
    /// # Errors
    /// `Config` when it belongs to another user, or is evidently used for other things.
    pub(super) fn open(config: &SpoolConfig) -> Result<Self> {
        let path = config.dir.clone();
        let told = |what: &str| format!("{what} the spool folder {}", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Error::io(told("making"), error).with_kind(Kind::Config))?;
        let handle = File::open(&path).map_err(|error| Error::io(told("opening"), error))?;
        let metadata = handle.metadata().map_err(|error| Error::io(told("reading"), error))?;
        check_private(&path, &handle, &metadata)?;
        let folder = Self { path, handle, limit: config.size, usage: Mutex::default() };
        folder.usage().scanned = folder.scan();
        Ok(folder)
    }

    /// Where the folder is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds a draft's bytes.
    pub(super) fn data_path(&self, id: DraftId) -> PathBuf {
        self.path.join(format!("{id}.data"))
    }

    /// The file that tells what a draft is and how far it came.
    pub(super) fn journal_path(&self, id: DraftId) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }

    /// Every draft that has a file here, live ones included, in no order.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub(super) fn drafts(&self) -> Result<Vec<DraftId>> {
        let reading = |error| Error::io(format!("reading the spool folder {}", self.path.display()), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(reading)? {
            let name = entry.map_err(reading)?.file_name();
            if let Some((stem, _)) = name.to_str().and_then(|name| name.split_once('.'))
                && let Some(id) = DraftId::parse(stem)
            {
                found.push(id);
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Makes names in the folder (creations, renames) survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    /// Removes what a draft has here; what is gone already is no error.
    pub(super) fn remove(&self, id: DraftId) {
        // The data first: a journal without data is recognised as a rest, data without a journal
        // would be bytes whose name nobody knows.
        let journal = self.journal_path(id);
        for path in [self.data_path(id), journal.with_extension(JOURNAL_TMP), journal] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a spool file could not be removed");
            }
        }
    }

    /// Room for `bytes` more, held until the returned grant is dropped (after the write).
    ///
    /// # Errors
    /// `NoSpace` at the limit.
    pub(super) fn grant(&self, bytes: u64) -> Result<Grant<'_>> {
        let Some(limit) = self.limit else { return Ok(Grant { folder: self, bytes: 0 }) };
        let bytes = bytes.div_ceil(GRAIN).saturating_add(1).saturating_mul(GRAIN);
        let mut usage = self.usage();
        if usage.landed >= RESCAN_AFTER || usage.total().saturating_add(bytes) > limit {
            usage.scanned = self.scan();
            usage.landed = 0;
            if usage.total().saturating_add(bytes) > limit {
                let path = self.path.display();
                let (used, limit) = (usage.total(), ByteSize(limit));
                return Err(Error::new(
                    Kind::NoSpace,
                    format!(
                        "the spool folder {path} holds {used} bytes and may hold {limit}: raise --spool-size, \
                         or remove what failed uploads left there"
                    ),
                ));
            }
        }
        usage.pending += bytes;
        Ok(Grant { folder: self, bytes })
    }

    /// What all data files occupy on disk: holes cost nothing, leftovers do cost.
    fn scan(&self) -> u64 {
        let drafts = self.drafts().unwrap_or_default();
        let occupied = |id: DraftId| fs::symlink_metadata(self.data_path(id)).map_or(0, |m| m.blocks() * 512);
        drafts.into_iter().map(occupied).fold(0, u64::saturating_add)
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room in the folder for one write.
#[derive(Debug)]
pub(super) struct Grant<'a> {
    folder: &'a Folder,
    bytes: u64,
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut usage = self.folder.usage();
            usage.pending -= self.bytes;
            usage.landed += self.bytes;
        }
    }
}

/// Makes the folder private, or says why that is not ours to do.
fn check_private(path: &Path, handle: &File, metadata: &Metadata) -> Result<()> {
    const CURE: &str = "name a folder of its own with --spool-dir";
    let refused = |why: String| {
        Err(Error::new(Kind::Config, format!("the spool folder {} {why}: {CURE}", path.display())))
    };
    if !metadata.is_dir() {
        return refused("is not a folder".into());
    }
    let (owner, we) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != we {
        return refused(format!("belongs to user {owner} and this is user {we}"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    // A slip such as `--spool-dir /tmp` or `--spool-dir /var` by root must not lock everybody out
    // of that folder: folders with the sticky bit, or that hold folders, are not spools.
    if mode & 0o1000 != 0 {
        return refused(format!("has mode {mode:04o}, so others use it"));
    }
    let entries = fs::read_dir(path).map_err(|error| Error::io("reading the spool folder", error))?;
    if entries.flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        return refused(format!("has mode {mode:04o} and holds other folders"));
    }
    handle
        .set_permissions(Permissions::from_mode(0o700))
        .map_err(|error| Error::io(format!("making {} private (0700)", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path, size: Option<u64>) -> SpoolConfig {
        SpoolConfig { dir: dir.to_owned(), size }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_folder_is_private_with_its_parents() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("a/b");
        Folder::open(&config(&dir, None)).unwrap();
        assert_eq!(mode(&dir), 0o700);
    }

    #[test]
    fn a_wider_folder_of_ours_is_tightened_and_foreign_files_stay() {
        let base = tempfile::tempdir().unwrap();
        chmod(base.path(), 0o755);
        let foreign = base.path().join("notes.data");
        fs::write(&foreign, "mine").unwrap();
        chmod(&foreign, 0o644);
        let folder = Folder::open(&config(base.path(), None)).unwrap();
        assert_eq!(mode(base.path()), 0o700);
        assert_eq!(mode(&foreign), 0o644);
        assert_eq!(folder.drafts().unwrap(), []);
        assert_eq!(folder.scan(), 0);
    }

    #[test]
    fn a_folder_that_others_use_is_refused_and_left_as_it_is() {
        let base = tempfile::tempdir().unwrap();
        chmod(base.path(), 0o1777);
        let error = Folder::open(&config(base.path(), None)).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("--spool-dir"), "{error}");
        assert_eq!(mode(base.path()), 0o1777);

        chmod(base.path(), 0o755);
        fs::create_dir(base.path().join("lib")).unwrap();
        assert_eq!(Folder::open(&config(base.path(), None)).unwrap_err().kind(), Kind::Config);
        assert_eq!(mode(base.path()), 0o755);
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let base = tempfile::tempdir().unwrap();
        if std::os::unix::fs::chown(base.path(), Some(4711), None).is_err() {
            return; // Only root can give a folder away.
        }
        let error = Folder::open(&config(base.path(), None)).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("user 4711"), "{error}");
    }

    #[test]
    fn draft_ids_are_read_only_as_they_are_written() {
        let id = DraftId::generate();
        assert_eq!(DraftId::parse(&id.to_string()), Some(id));
        assert_eq!(DraftId::parse(&id.to_string().to_uppercase()), None);
        assert_eq!(DraftId::parse(&id.0.simple().to_string()), None);
    }

    #[test]
    fn grants_under_way_count_and_the_file_system_corrects_them() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(&config(base.path(), Some(1 << 20))).unwrap();
        let grant = folder.grant(900 << 10).unwrap();
        assert_eq!(folder.grant(200 << 10).unwrap_err().kind(), Kind::NoSpace);
        drop(grant);
        // Nothing was written: the next look at the folder finds the room again.
        folder.grant(900 << 10).unwrap();
    }
}
