//! A file with all of an image in it: the kernel can read it past us, and a handle can be bound to it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use aws_lc_rs::digest::{Algorithm, Context, Digest};
use bytes::Bytes;
use rustix::io::ReadWriteFlags;

use super::identity;
use super::verify::{self, Hasher};
use crate::error::{Error, Result};
use crate::units::ByteRange;

/// Bytes read at once while a whole file is hashed.
const PIECE: u64 = 1 << 20;

/// A file that holds exactly the bytes of an image.
///
/// While the open file description of one that is in the cache exists, in this process or in the kernel, nobody frees
/// any of it.
#[derive(Debug, Clone)]
pub struct Backing {
    file: Arc<File>,
    is_cached: bool,
}

/// Which file it is, and when it was last written to, as far as its file system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileVersion {
    file: (u64, u64),
    len: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Backing {
    /// A verified file of the cache, pinned.
    pub(super) fn of_cache(file: File) -> Self {
        Self { file: Arc::new(file), is_cached: true }
    }

    /// A file of the store that Glance keeps its images in.
    pub fn of_store(file: File) -> Self {
        Self { file: Arc::new(file), is_cached: false }
    }

    /// It is in the cache.
    pub fn is_cached(&self) -> bool {
        self.is_cached
    }

    /// The bytes of `range`, which lies within the image, if the page cache has all of them.
    pub fn try_read(&self, range: ByteRange) -> Option<Bytes> {
        // A request of the kernel: it fits.
        let mut bytes = vec![0; range.len() as usize];
        let mut into = [io::IoSliceMut::new(&mut bytes)];
        let read = rustix::io::preadv2(&self.file, &mut into, range.start, ReadWriteFlags::NOWAIT).ok()?;
        (read as u64 == range.len()).then(|| bytes.into())
    }

    /// The bytes of `range`, which lies within the image. Waits for the disk.
    ///
    /// # Errors
    /// `Io`, also when the file has become shorter.
    pub fn read(&self, range: ByteRange) -> Result<Bytes> {
        let mut bytes = vec![0; range.len() as usize];
        let read = self.file.read_exact_at(&mut bytes, range.start);
        read.map_err(|error| Error::io(format!("reading {range} of the file with the image"), error))?;
        Ok(bytes.into())
    }

    /// The hash of the `size` bytes of a file, or of nothing. Waits for the disk.
    ///
    /// # Errors
    /// `Io`, also when the file has become shorter.
    pub fn digest(file: Option<&Self>, size: u64, algorithm: &'static Algorithm) -> Result<Digest> {
        let mut hash = Context::new(algorithm);
        if let Some(file) = file {
            file.each_piece(size, |piece| hash.update(piece))?;
        }
        Ok(hash.finish())
    }

    /// The `size` bytes of the file have this hash; false also where there is none to compare. Waits for the disk.
    ///
    /// # Errors
    /// `Io`, also when the file has become shorter.
    pub fn is_proven_by(&self, size: u64, wanted: &identity::Digest) -> Result<bool> {
        let Some(mut hasher) = Hasher::of(wanted) else { return Ok(false) };
        self.each_piece(size, |piece| hasher.update(piece))?;
        Ok(hasher.finish().eq_ignore_ascii_case(verify::wanted(wanted)))
    }

    /// What changes when somebody writes to the file.
    ///
    /// # Errors
    /// `Io`.
    pub fn version(&self) -> Result<FileVersion> {
        let found = self.file.metadata();
        let found = found.map_err(|error| Error::io("looking at the file with the image", error))?;
        Ok(FileVersion {
            file: (found.dev(), found.ino()),
            len: found.len(),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    fn each_piece(&self, size: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut at = 0;
        while at < size {
            let piece = self.read(ByteRange::at(at, PIECE.min(size - at)))?;
            take(&piece);
            at += piece.len() as u64;
        }
        Ok(())
    }
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
