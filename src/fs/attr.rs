//! What `stat` shows of each kind of file.

use std::time::{Duration, SystemTime};

use super::Ino;
use super::draft::DraftFile;
use crate::config::AccessConfig;
use crate::glance::{Image, Status};

/// The preferred size of reads and writes that `stat` tells programs, in bytes: `cp` then writes
/// 1 MiB at a time, which is six times as fast through FUSE as its usual 128 KiB.
const PREFERRED_IO: u32 = 1024 * 1024;

/// Regular file or directory: there is nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An image, or a text of ours.
    Regular,
    /// A directory.
    Directory,
}

/// The attributes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Stable across remounts.
    pub ino: Ino,
    /// File or directory.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes: always all of `size`, since tar and cp take fewer for holes.
    pub blocks: u64,
    /// Of the data: when the image was created; data never change after.
    pub mtime: SystemTime,
    /// Of the metadata: when the record was last updated.
    pub ctime: SystemTime,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// 2 for directories, 1 for files: an image is one file in every view.
    pub nlink: u32,
    /// See [`PREFERRED_IO`].
    pub preferred_io: u32,
    /// How long the kernel may believe this without asking.
    pub ttl: Duration,
}

/// Makes attributes in the way this mount was asked to.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    access: AccessConfig,
    ttl: Duration,
    mounted_at: SystemTime,
}

impl Attributes {
    pub(super) fn new(access: AccessConfig, ttl: Duration) -> Self {
        Self { access, ttl, mounted_at: SystemTime::now() }
    }

    /// A directory of ours.
    pub(super) fn directory(&self, ino: Ino) -> Attr {
        Attr {
            kind: FileKind::Directory,
            mode: self.access.dir_mode,
            nlink: 2,
            ttl: self.ttl,
            ..self.file(ino, 0, self.mounted_at, self.mounted_at)
        }
    }

    /// A text under `.glancefs`, made anew at each look.
    pub(super) fn text(&self, ino: Ino, size: u64) -> Attr {
        Attr {
            mode: self.access.file_mode & !0o222,
            ..self.file(ino, size, self.mounted_at, SystemTime::now())
        }
    }

    /// The record of an image, which can be written.
    pub(super) fn record(&self, ino: Ino, size: u64) -> Attr {
        let mode = if self.access.read_only { self.access.file_mode & !0o222 } else { self.access.file_mode };
        Attr { mode, ..self.text(ino, size) }
    }

    /// An image as listed. Only what is settled may be cached by the kernel: an image that is not
    /// active yet may be at any moment.
    pub(super) fn image(&self, ino: Ino, image: &Image) -> Attr {
        let ttl = if image.status == Status::Active { self.ttl } else { Duration::ZERO };
        let mtime = image.kept_mtime.filter(|_| self.access.keep_times).unwrap_or(image.created_at);
        Attr { ttl, ..self.file(ino, readable_size(image), mtime, image.updated_at) }
    }

    /// A file that is being written.
    pub(super) fn draft(&self, ino: Ino, file: &DraftFile) -> Attr {
        let kept = if self.access.keep_times { file.kept_mtime() } else { None };
        self.file(ino, file.draft().size(), kept.unwrap_or(file.since), file.since)
    }

    fn file(&self, ino: Ino, size: u64, mtime: SystemTime, ctime: SystemTime) -> Attr {
        Attr {
            ino,
            kind: FileKind::Regular,
            size,
            blocks: size.div_ceil(512),
            mtime,
            ctime,
            mode: self.access.file_mode,
            uid: self.access.uid,
            gid: self.access.gid,
            nlink: 1,
            preferred_io: PREFERRED_IO,
            ttl: Duration::ZERO,
        }
    }
}

/// Bytes that a reader will find: none until the image has been active.
pub(super) fn readable_size(image: &Image) -> u64 {
    match image.status {
        Status::Active | Status::Deactivated => image.size.unwrap_or(0),
        _ => 0,
    }
}
