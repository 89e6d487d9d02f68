//! The bytes of one draft: a sparse file in the spool folder, locked while its draft lives.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::SeekFrom;

use super::folder::{DraftId, Folder};
use super::kept;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// How often a name is tried again when the recovery of another mount held the fresh file.
const CREATE_TRIES: u32 = 10;

/// The largest file the kernel can address.
const MAX_SIZE: u64 = i64::MAX as u64;

/// A draft's data file. The lock goes with the last reference, or with the process.
#[derive(Debug)]
pub(super) struct Spool {
    folder: Arc<Folder>,
    id: DraftId,
    file: File,
}

impl Spool {
    /// A new empty file, locked by us.
    pub(super) fn create(folder: Arc<Folder>) -> Result<Self> {
        let making = |error| Error::io(format!("making a spool file in {}", folder.path().display()), error);
        for _ in 0..CREATE_TRIES {
            let id = DraftId::generate();
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(folder.data_path(id))
                .map_err(making)?;
            // Between these two lines another mount may find an empty unlocked file, lock it and
            // remove it as a leftover without bytes. Then it is its file: we take another.
            if try_lock(&file).map_err(making)? && file.metadata().map_err(making)?.nlink() > 0 {
                return Ok(Self { folder, id, file });
            }
        }
        Err(Error::new(Kind::Busy, "the spool folder is busy: every new file was taken by its recovery"))
    }

    /// The file of a draft as it is, to be read; not locked.
    pub(super) fn open(folder: Arc<Folder>, id: DraftId) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(folder.data_path(id))?;
        Ok(Self { folder, id, file })
    }

    /// Locks the file; false when the draft is alive, in this process or another.
    pub(super) fn try_lock(&self) -> bool {
        try_lock(&self.file).unwrap_or(false)
    }

    /// The name of the draft.
    pub(super) fn id(&self) -> DraftId {
        self.id
    }

    /// Where the bytes are.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.data_path(self.id)
    }

    /// The length in bytes.
    pub(super) fn size(&self) -> Result<u64> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|error| self.failed("reading", error))
    }

    /// Writes all of `data`, or fails; `NoSpace` when the folder or its disk is full and nothing in it
    /// may give way.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        if range.end > MAX_SIZE {
            return Err(Error::new(Kind::TooLarge, "no file can have an offset of 8 EiB"));
        }
        loop {
            match self.write_granted(range, data) {
                // One at a time: each turn removes something, so this ends.
                Err(full) if full.kind() == Kind::NoSpace && kept::give_way(&self.folder) => {}
                outcome => return outcome,
            }
        }
    }

    fn write_granted(&self, range: ByteRange, data: &[u8]) -> Result<()> {
        let _grant = match self.folder.grant(range.len()) {
            Ok(grant) => Some(grant),
            // At the limit, bytes that are there can still be changed: formats fill in their
            // headers last.
            Err(_) if self.is_allocated(range) => None,
            Err(full) => return Err(full),
        };
        self.file.write_all_at(data, range.start).map_err(|error| self.failed("writing", error))
    }

    /// Reads `range`, short at the end of the file; holes read as zeros.
    pub(super) fn read(&self, range: ByteRange) -> Result<Bytes> {
        let range = range.clamp_to(self.size()?);
        let mut buffer = vec![0; usize::try_from(range.len()).unwrap_or(usize::MAX)];
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], range.start + filled as u64) {
                Ok(0) => break, // Truncated meanwhile.
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("reading", error)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.into())
    }

    /// Sets the length; what is gained is a hole.
    pub(super) fn truncate(&self, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Error::new(Kind::TooLarge, "no file can be longer than 8 EiB"));
        }
        self.file.set_len(size).map_err(|error| self.failed("truncating", error))
    }

    /// Makes bytes and length survive a power cut.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| self.failed("syncing", error))
    }

    /// The whole of `range` occupies disk blocks already.
    fn is_allocated(&self, range: ByteRange) -> bool {
        // The file position is used for nothing else: all reads and writes are positional.
        matches!(rustix::fs::seek(&self.file, SeekFrom::Hole(range.start)), Ok(hole) if hole >= range.end)
    }

    fn failed(&self, doing: &str, error: io::Error) -> Error {
        Error::io(format!("{doing} the spool file {}", self.path().display()), error)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Closing would do, were it not for the moment in which a program that is being started
        // (`--token-command`) still has copies of all descriptors.
        let _ = self.file.unlock();
    }
}

/// Locks a data file; false when it belongs to a living draft, of this process or another.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;
    use crate::config::SpoolConfig;

    fn folder(size: Option<u64>) -> (tempfile::TempDir, Arc<Folder>) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&SpoolConfig {
            dir: dir.path().into(),
            size,
            keep_failed: std::time::Duration::MAX,
        })
        .unwrap();
        (dir, Arc::new(folder))
    }

    #[test]
    fn spool_files_are_private_and_sparse() {
        let (_dir, folder) = folder(None);
        let spool = Spool::create(folder).unwrap();
        spool.write(1 << 30, b"end").unwrap();
        let metadata = std::fs::metadata(spool.path()).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        assert_eq!(metadata.len(), (1 << 30) + 3);
        assert!(metadata.blocks() * 512 < 1 << 20);
    }

    #[test]
    fn the_limit_counts_what_all_drafts_occupy() {
        let (_dir, folder) = folder(Some(1 << 20));
        let first = Spool::create(folder.clone()).unwrap();
        let second = Spool::create(folder.clone()).unwrap();
        first.write(0, &vec![1; 700 << 10]).unwrap();
        let error = second.write(0, &vec![1; 700 << 10]).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert_eq!(second.size().unwrap(), 0, "a refused write leaves nothing");
        first.truncate(0).unwrap();
        second.write(0, &vec![1; 700 << 10]).unwrap();
    }

    #[test]
    fn at_the_limit_existing_bytes_can_still_be_changed() {
        let (_dir, folder) = folder(Some(1 << 20));
        let spool = Spool::create(folder).unwrap();
        spool.write(0, &vec![1; 1000 << 10]).unwrap();
        assert_eq!(spool.write(1000 << 10, &vec![1; 64 << 10]).unwrap_err().kind(), Kind::NoSpace);
        spool.write(0, &vec![2; 64 << 10]).unwrap();
        assert_eq!(spool.read(ByteRange::new(0, 3)).unwrap().as_ref(), [2, 2, 2]);
    }

    #[test]
    fn offsets_beyond_the_kernels_are_refused() {
        let (_dir, folder) = folder(None);
        let spool = Spool::create(folder).unwrap();
        for offset in [u64::MAX, MAX_SIZE] {
            assert_eq!(spool.write(offset, b"x").unwrap_err().kind(), Kind::TooLarge);
        }
        assert_eq!(spool.truncate(u64::MAX).unwrap_err().kind(), Kind::TooLarge);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Write(u64, Vec<u8>),
        Truncate(u64),
        Read(u64, u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let offset = 0..40_000u64;
        prop_oneof![
            (offset.clone(), prop::collection::vec(any::<u8>(), 0..9000)).prop_map(|(o, d)| Act::Write(o, d)),
            offset.clone().prop_map(Act::Truncate),
            (offset, 0..20_000u64).prop_map(|(o, l)| Act::Read(o, l)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_spool_reads_back_like_a_vector(acts in prop::collection::vec(act(), 1..40)) {
            let (_dir, folder) = folder(None);
            let spool = Spool::create(folder).unwrap();
            let mut model: Vec<u8> = Vec::new();
            for act in acts {
                match act {
                    Act::Write(offset, data) => {
                        spool.write(offset, &data).unwrap();
                        let end = offset as usize + data.len();
                        if !data.is_empty() {
                            if model.len() < end {
                                model.resize(end, 0);
                            }
                            model[offset as usize..end].copy_from_slice(&data);
                        }
                    }
                    Act::Truncate(size) => {
                        spool.truncate(size).unwrap();
                        model.resize(size as usize, 0);
                    }
                    Act::Read(offset, len) => {
                        let range = ByteRange::at(offset, len).clamp_to(model.len() as u64);
                        let expected = &model[range.start as usize..range.end as usize];
                        let read = spool.read(ByteRange::at(offset, len)).unwrap();
                        prop_assert_eq!(read.as_ref(), expected);
                    }
                }
                prop_assert_eq!(spool.size().unwrap(), model.len() as u64);
            }
        }
    }
}
