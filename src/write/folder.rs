//! The spool folder: private to its owner, shared by the mounts of a host, bounded in bytes.
//!
//! It holds two files per draft, `<draft id>.data` and `<draft id>.json`. Everything else in it is
//! somebody else's and is neither read, changed nor removed.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use crate::config::SpoolConfig;
use crate::error::{Error, Kind, Result};
use crate::private_folder::Purpose;
use crate::units::ByteSize;

const PURPOSE: Purpose = Purpose { name: "spool", option: "--spool-dir", subfolders: &[] };

/// The extension of a journal that is being written; see `Journal::store`.
pub(super) const JOURNAL_TMP: &str = "json.tmp";

/// Space is granted in this unit, the block size of the usual file systems: a write of one byte
/// occupies a block.
const GRAIN: u64 = 4096;

/// After this much was granted, the folder is looked at again, so that what other mounts wrote
/// meanwhile is noticed: a limit shared by `n` mounts is exceeded by at most `n` times this.
const RESCAN_AFTER: u64 = 64 << 20;

/// Lines kept for who will listen: what a mount finds at its start.
const NOTICES_KEPT: usize = 100;

/// The name of a draft's files: made here, not the image's id, because two drafts may be meant for
/// one reservation and a retried upload changes the image's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DraftId(Uuid);

impl DraftId {
    pub(super) fn generate() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads exactly what `Display` writes; `Uuid` alone would take other spellings too.
    pub(super) fn parse(text: &str) -> Option<Self> {
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
    keep_failed: Duration,
    usage: Mutex<Usage>,
    notices: Mutex<Notices>,
    /// Told when what came to rest here may have left something in Glance.
    unsettled: Notify,
}

/// What a person should know of the folder, beside the log: kept until somebody listens.
enum Notices {
    Kept(Vec<String>),
    Told(Box<dyn Fn(String) + Send>),
}

impl Default for Notices {
    fn default() -> Self {
        Self::Kept(Vec::new())
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notices")
    }
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
    /// Those of [`Purpose::open`].
    pub(super) fn open(config: &SpoolConfig) -> Result<Self> {
        let path = config.dir.clone();
        let handle = File::from(PURPOSE.open(&path)?);
        let folder = Self {
            path,
            handle,
            limit: config.size,
            keep_failed: config.keep_failed,
            usage: Mutex::default(),
            notices: Mutex::default(),
            unsettled: Notify::new(),
        };
        folder.usage().scanned = folder.scan();
        Ok(folder)
    }

    /// Bytes that it may hold; `None`: what its disk has.
    pub(super) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Where the folder is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How long what failed uploads left stays in it.
    pub(super) fn keep_failed(&self) -> Duration {
        self.keep_failed
    }

    /// Logs a line and tells it to who listens.
    pub(super) fn tell(&self, line: String) {
        tracing::warn!("{line}");
        match &mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner) {
            Notices::Kept(lines) if lines.len() < NOTICES_KEPT => lines.push(line),
            Notices::Kept(_) => {}
            Notices::Told(listener) => listener(line),
        }
    }

    /// From now on `listener` gets each such line, and those so far at once. It must not wait.
    pub(super) fn listen(&self, listener: impl Fn(String) + Send + 'static) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Notices::Kept(lines) = &mut *notices {
            lines.drain(..).for_each(&listener);
        }
        *notices = Notices::Told(Box::new(listener));
    }

    /// What came to rest here names records in Glance: whoever waits for [`unsettled`](Self::unsettled) goes on.
    pub(super) fn settle_soon(&self) {
        self.unsettled.notify_one();
    }

    /// Waits for that; at once when it came since the last time.
    pub(super) async fn unsettled(&self) {
        self.unsettled.notified().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path, size: Option<u64>) -> SpoolConfig {
        SpoolConfig { dir: dir.to_owned(), size, keep_failed: Duration::MAX }
    }

    #[test]
    fn foreign_files_are_no_drafts() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("notes.data"), "mine").unwrap();
        let folder = Folder::open(&config(base.path(), None)).unwrap();
        assert_eq!(folder.drafts().unwrap(), []);
        assert_eq!(folder.scan(), 0);
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
