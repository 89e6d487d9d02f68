//! Between the plain types of `fs` and those of FUSE.

use std::time::SystemTime;

use fuser::{FileAttr, FileType, Generation, INodeNo, OpenAccMode, OpenFlags};

use crate::fs::{Attr, FileKind, Ino, OpenMode};

/// Inode numbers are never used for another image, so one generation serves.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        // No reads are recorded: as on a mount with noatime.
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.preferred_io,
        flags: 0,
    }
}

pub(super) fn open_mode(flags: OpenFlags) -> OpenMode {
    let access = flags.acc_mode();
    let truncate = flags.0 & libc::O_TRUNC != 0;
    OpenMode {
        read: access != OpenAccMode::O_WRONLY,
        // O_RDONLY|O_TRUNC cuts the file too.
        write: access != OpenAccMode::O_RDONLY || truncate,
        truncate,
        exclusive: flags.0 & libc::O_EXCL != 0,
    }
}
