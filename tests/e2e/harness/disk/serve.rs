//! How the kernel gets at a [`Disk`](super::Disk).

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::state::{PAGE, State};
use super::{Inner, Step, lock};

/// Nothing is believed for longer than the moment.
const TTL: Duration = Duration::ZERO;
/// Reads and writes go past the page cache.
const HANDLE: (FileHandle, FopenFlags) = (FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);

pub struct Server(pub Arc<Mutex<Inner>>);

impl Server {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }

    fn act(&self, step: Step, request: &Request, reply: ReplyEmpty) {
        match self.inner().act(step, request.pid()) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    /// Makes a file or folder.
    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        is_folder: bool,
    ) -> Result<FileAttr, i32> {
        let mut inner = self.inner();
        let name = text(name)?;
        if inner.state.lookup(parent.0, &name).is_some() {
            return Err(libc::EEXIST);
        }
        let node = inner.next_node;
        inner.next_node += 1;
        inner.act(
            Step::Make { folder: parent.0, name, node, mode: mode & 0o7777, is_folder },
            request.pid(),
        )?;
        attributes(&inner.state, node).ok_or(libc::ENOENT)
    }

    fn remove(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Ok(name) = text(name) else { return reply.error(Errno::EIO) };
        if self.inner().state.lookup(parent.0, &name).is_none() {
            return reply.error(Errno::ENOENT);
        }
        self.act(Step::Remove { folder: parent.0, name }, request, reply);
    }
}

fn text(name: &OsStr) -> Result<String, i32> {
    name.to_str().map(str::to_owned).ok_or(libc::EILSEQ)
}

fn attributes(state: &State, number: u64) -> Option<FileAttr> {
    let node = state.nodes.get(&number)?;
    Some(FileAttr {
        ino: INodeNo(number),
        size: node.bytes.len() as u64,
        blocks: node.pages.len() as u64 * (PAGE / 512),
        atime: node.modified,
        mtime: node.modified,
        ctime: node.changed,
        crtime: node.changed,
        kind: if node.entries.is_some() { FileType::Directory } else { FileType::RegularFile },
        perm: (node.mode & 0o7777) as u16,
        nlink: node.links,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: PAGE as u32,
        flags: 0,
    })
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut inner = self.inner();
        if let Err(errno) = inner.can_look() {
            return reply.error(Errno::from_i32(errno));
        }
        let found = text(name).ok().and_then(|name| inner.state.lookup(parent.0, &name));
        match found.and_then(|node| attributes(&inner.state, node)) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let mut inner = self.inner();
        if let Err(errno) = inner.can_look() {
            return reply.error(Errno::from_i32(errno));
        }
        match attributes(&inner.state, node.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut inner = self.inner();
        let length = size.map(|length| Step::SetLength { file: node.0, length });
        let mode = mode.map(|mode| Step::SetMode { node: node.0, mode });
        for step in length.into_iter().chain(mode) {
            if let Err(errno) = inner.act(step, request.pid()) {
                return reply.error(Errno::from_i32(errno));
            }
        }
        if let (Some(TimeOrNow::SpecificTime(time)), Some(node)) = (mtime, inner.state.nodes.get_mut(&node.0))
        {
            node.modified = time;
        }
        match attributes(&inner.state, node.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        match self.make(request, parent, name, mode, true) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.make(request, parent, name, mode, false) {
            Ok(attributes) => reply.created(&TTL, &attributes, Generation(0), HANDLE.0, HANDLE.1),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(request, parent, name, reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(request, parent, name, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (Ok(name), Ok(new_name)) = (text(name), text(new_name)) else { return reply.error(Errno::EIO) };
        if self.inner().state.lookup(parent.0, &name).is_none() {
            return reply.error(Errno::ENOENT);
        }
        self.act(Step::Rename { from: (parent.0, name), to: (new_parent.0, new_name) }, request, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut inner = self.inner();
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        if writes && inner.failure == Some(super::Failure::ReadOnly) {
            inner.refused += 1;
            return reply.error(Errno::EROFS);
        }
        reply.opened(HANDLE.0, HANDLE.1);
    }

    fn read(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut inner = self.inner();
        if let Err(errno) = inner.can_read() {
            return reply.error(Errno::from_i32(errno));
        }
        let Some(node) = inner.state.nodes.get(&file.0) else { return reply.error(Errno::EIO) };
        let length = node.bytes.len() as u64;
        let (start, end) = (offset.min(length), (offset + u64::from(size)).min(length));
        reply.data(&node.bytes[start as usize..end as usize]);
    }

    fn write(
        &self,
        request: &Request,
        file: INodeNo,
        _: FileHandle,
        at: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let step = Step::Write { file: file.0, at, bytes: data.to_vec() };
        match self.inner().act(step, request.pid()) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, request: &Request, file: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.act(Step::Sync { file: file.0 }, request, reply);
    }

    fn fsyncdir(&self, request: &Request, folder: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.act(Step::SyncFolder { folder: folder.0 }, request, reply);
    }

    fn readdir(&self, _: &Request, folder: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut inner = self.inner();
        if let Err(errno) = inner.can_look() {
            return reply.error(Errno::from_i32(errno));
        }
        let Some(entries) = inner.state.nodes.get(&folder.0).and_then(|node| node.entries.as_ref()) else {
            return reply.error(Errno::ENOENT);
        };
        let dots = [(".", folder.0), ("..", folder.0)].map(|(name, node)| (name.to_owned(), node));
        let all = dots.into_iter().chain(entries.iter().map(|(name, node)| (name.clone(), *node)));
        for (index, (name, node)) in (1..).zip(all).skip(offset as usize) {
            let is_folder = inner.state.nodes.get(&node).is_some_and(|node| node.entries.is_some());
            let kind = if is_folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(node), index, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let mut inner = self.inner();
        if let Err(errno) = inner.can_look() {
            return reply.error(Errno::from_i32(errno));
        }
        let free = inner.capacity.saturating_sub(inner.state.occupied()) / PAGE;
        reply.statfs(inner.capacity / PAGE, free, free, 1 << 20, 1 << 20, PAGE as u32, 255, PAGE as u32);
    }

    fn fallocate(
        &self,
        request: &Request,
        file: INodeNo,
        _: FileHandle,
        at: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.act(Step::Punch { file: file.0, at, length }, request, reply);
    }
}
