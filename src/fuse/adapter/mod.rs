//! `impl fuser::Filesystem`: each operation becomes one call of [`ImageFs`] and one reply.
//!
//! `answer` runs the calls, `reply` says their results; `open` and `control` (ioctl) have more to decide than fits here.

mod answer;
mod control;
mod open;
mod reply;

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tracing::info;

use super::convert::{GENERATION, file_attr, file_type, ino};
use super::errno::errno;
use super::passthrough::Passthrough;
use super::process::{self, ProcessWatch};
use crate::error::Error;
use crate::fs::{Caller, HandleId, ImageFs, NewAttributes, XattrMode};
use crate::metrics::{KernelCall, PROCESS};
use crate::units::ByteRange;
use answer::{even_if_killed, or_given_back, unless_killed};
use reply::{reply_attr, reply_empty, reply_entry, reply_xattr};

/// Reads the kernel may have under way for one mount (its default is 12): with 10 ms a request, 64
/// gave 40 times the throughput of 4.
const MAX_BACKGROUND: u16 = 64;

/// The largest write request. The kernel's own limit is 1 MiB (256 pages) unless root raises it.
const MAX_WRITE: u32 = 1024 * 1024;

/// The filesystem that the kernel talks to.
pub(super) struct Adapter {
    fs: Arc<ImageFs>,
    runtime: tokio::runtime::Handle,
    /// How long an operation on metadata may take.
    deadline: Duration,
    passthrough: Arc<Passthrough>,
    /// Told when the kernel has ended the mount.
    ended: Option<Sender<()>>,
}

impl Adapter {
    pub(super) fn new(
        fs: Arc<ImageFs>,
        runtime: tokio::runtime::Handle,
        deadline: Duration,
        passthrough: Arc<Passthrough>,
        ended: Sender<()>,
    ) -> Self {
        Self { fs, runtime, deadline, passthrough, ended: Some(ended) }
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), group: process::thread_group(request.pid()) }
}

fn handle(number: FileHandle) -> HandleId {
    HandleId(number.0)
}

/// Answers what is refused without a look, and counts it.
fn refuse(call: KernelCall, why: Errno, reply: impl FnOnce(Errno)) {
    PROCESS.kernel(call);
    PROCESS.error(why.code());
    reply(why);
}

/// The errno of a failure, counted: of replies that do not go through `answer`.
fn told(error: &Error) -> Errno {
    let errno = errno(error);
    PROCESS.error(errno.code());
    errno
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is an improvement that the mount works without.
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
        ] {
            if let Err(missing) = config.add_capabilities(wanted) {
                info!(?missing, "the kernel lacks a capability");
            }
        }
        self.passthrough.negotiate(config);
        // The kernel takes the nearest it can.
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(ended) = self.ended.take() {
            // Nobody waits any more when the program is ending anyway.
            let _ = ended.send(());
        }
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        let call = unless_killed(request.pid(), async move { fs.lookup(ino(parent), &name).await });
        self.answer(KernelCall::Lookup, parent, call, reply_entry(reply));
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        PROCESS.kernel(KernelCall::Forget);
        self.fs.forget(ino(number), lookups);
    }

    fn getattr(&self, request: &Request, number: INodeNo, open: Option<FileHandle>, reply: ReplyAttr) {
        let fs = Arc::clone(&self.fs);
        let call =
            unless_killed(request.pid(), async move { fs.getattr(ino(number), open.map(handle)).await });
        self.answer(KernelCall::Getattr, number, call, reply_attr(reply));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        open: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = atime.is_some() || mtime.is_some();
        // The mask leaves what fits 16 bits.
        let mode = mode.map(|mode| (mode & 0o7777) as u16);
        let mtime = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let new = NewAttributes { size, mode, uid, gid, times, mtime };
        let fs = Arc::clone(&self.fs);
        let call =
            even_if_killed(
                request.pid(),
                async move { fs.setattr(ino(number), open.map(handle), new).await },
            );
        self.answer_in_its_time(KernelCall::Setattr, number, call, reply_attr(reply));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        refuse(KernelCall::Mkdir, Errno::EPERM, |errno| reply.error(errno));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            refuse(KernelCall::Mknod, Errno::EPERM, |errno| reply.error(errno));
            return;
        }
        let (fs, name, maker) = (Arc::clone(&self.fs), name.to_owned(), process::thread_group(request.pid()));
        let given_back = Arc::clone(&self.fs);
        let call = or_given_back(
            request.pid(),
            async move { fs.mknod(ino(parent), &name, maker).await },
            async move |entry| given_back.forget(entry.attr.ino, 1),
        );
        self.answer_in_its_time(KernelCall::Mknod, parent, call, reply_entry(reply));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        let call = even_if_killed(request.pid(), async move { fs.unlink(ino(parent), &name).await });
        self.answer(KernelCall::Unlink, parent, call, reply_empty(reply));
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        refuse(KernelCall::Rmdir, Errno::EPERM, |errno| reply.error(errno));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keep_existing = flags == RenameFlags::RENAME_NOREPLACE;
        if !keep_existing && !flags.is_empty() {
            refuse(KernelCall::Rename, Errno::EINVAL, |errno| reply.error(errno));
            return;
        }
        let (fs, name, new_name) = (Arc::clone(&self.fs), name.to_owned(), new_name.to_owned());
        let call = even_if_killed(request.pid(), async move {
            fs.rename(ino(parent), &name, ino(new_parent), &new_name, keep_existing).await
        });
        self.answer_in_its_time(KernelCall::Rename, parent, call, reply_empty(reply));
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(request, number, flags, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.create_file(request, parent, name, flags, reply);
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        open: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = Arc::clone(&self.fs);
        let range = ByteRange::at(offset, u64::from(size));
        let call = unless_killed(request.pid(), async move { fs.read(handle(open), range).await });
        self.answer_in_its_time(KernelCall::Read, number, call, move |result| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        open: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (fs, data) = (Arc::clone(&self.fs), Bytes::copy_from_slice(data));
        let call = even_if_killed(request.pid(), async move { fs.write(handle(open), offset, data).await });
        self.answer_in_its_time(KernelCall::Write, number, call, move |result| match result {
            // A request has at most 16 MiB.
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn flush(
        &self,
        request: &Request,
        number: INodeNo,
        open: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let open = handle(open);
        if !self.fs.is_written(open) {
            PROCESS.kernel(KernelCall::Flush);
            reply.ok();
            return;
        }
        let closer = process::closer(request.pid(), ino(number), self.fs.opener(open));
        let watch = ProcessWatch::new(request.pid(), &closer);
        let fs = Arc::clone(&self.fs);
        let call = async move { fs.flush(open, closer, watch).await };
        self.answer_in_its_time(KernelCall::Flush, number, call, reply_empty(reply));
    }

    fn release(
        &self,
        _request: &Request,
        number: INodeNo,
        open: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.passthrough.closed(ino(number));
        let fs = Arc::clone(&self.fs);
        let call = async move {
            fs.release(handle(open)).await;
            Ok(())
        };
        self.answer_in_its_time(KernelCall::Release, number, call, reply_empty(reply));
    }

    fn fsync(
        &self,
        request: &Request,
        number: INodeNo,
        open: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = Arc::clone(&self.fs);
        let call = even_if_killed(request.pid(), async move { fs.fsync(handle(open)).await });
        self.answer_in_its_time(KernelCall::Fsync, number, call, reply_empty(reply));
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = Arc::clone(&self.fs);
        let call = unless_killed(request.pid(), async move { fs.opendir(ino(number)).await });
        self.answer(KernelCall::Opendir, number, call, move |result| match result {
            Ok(open) => reply.opened(FileHandle(open.0), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        open: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        PROCESS.kernel(KernelCall::Readdir);
        for position in offset.. {
            let entry = match self.fs.dir_entry(handle(open), position) {
                Ok(None) => break,
                Ok(Some(entry)) => entry,
                Err(error) => return reply.error(told(&error)),
            };
            if reply.add(INodeNo(entry.ino.0), position + 1, file_type(entry.kind), &*entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _number: INodeNo,
        open: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        PROCESS.kernel(KernelCall::Readdirplus);
        for position in offset.. {
            let listed = match self.fs.dir_entry(handle(open), position) {
                Ok(None) => break,
                Ok(Some(listed)) => listed,
                Err(error) => return reply.error(told(&error)),
            };
            // What vanished since the directory was opened is left out.
            let Ok(entry) = self.fs.enter_listed(&listed) else { continue };
            let attr = file_attr(&entry.attr);
            if reply.add(attr.ino, position + 1, &*listed.name, &entry.ttl, &attr, GENERATION) {
                self.fs.forget_listed(&listed);
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        open: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        PROCESS.kernel(KernelCall::Releasedir);
        self.fs.releasedir(handle(open));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        PROCESS.kernel(KernelCall::Other);
        reply.ok();
    }

    fn statfs(&self, request: &Request, number: INodeNo, reply: ReplyStatfs) {
        const UNIT: u32 = 4096;
        let fs = Arc::clone(&self.fs);
        let call = unless_killed(request.pid(), async move { Ok(fs.statfs().await) });
        self.answer(KernelCall::Statfs, number, call, move |result| match result {
            Ok(figures) => {
                let blocks = |bytes: u64| bytes / u64::from(UNIT);
                let (total, free) = (blocks(figures.total), blocks(figures.free));
                reply.statfs(total, free, free, figures.files, figures.free_files, UNIT, 255, UNIT);
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => {
                refuse(KernelCall::Setxattr, Errno::EINVAL, |errno| reply.error(errno));
                return;
            }
        };
        let Some(name) = name.to_str().map(str::to_owned) else {
            refuse(KernelCall::Setxattr, Errno::EOPNOTSUPP, |errno| reply.error(errno));
            return;
        };
        let (fs, value, caller) = (Arc::clone(&self.fs), value.to_vec(), caller(request));
        let call = even_if_killed(request.pid(), async move {
            fs.setxattr(ino(number), &name, value, mode, caller).await
        });
        // Its turn and its request have a deadline each.
        self.answer_in_its_time(KernelCall::Setxattr, number, call, reply_empty(reply));
    }

    fn getxattr(&self, request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(name) = name.to_str().map(str::to_owned) else {
            refuse(KernelCall::Getxattr, Errno::ENODATA, |errno| reply.error(errno));
            return;
        };
        let fs = Arc::clone(&self.fs);
        let call = unless_killed(request.pid(), async move { fs.getxattr(ino(number), &name).await });
        self.answer(KernelCall::Getxattr, number, call, reply_xattr(reply, size));
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = Arc::clone(&self.fs);
        let call = unless_killed(request.pid(), async move { fs.listxattr(ino(number)).await });
        self.answer(KernelCall::Listxattr, number, call, reply_xattr(reply, size));
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str().map(str::to_owned) else {
            refuse(KernelCall::Removexattr, Errno::ENODATA, |errno| reply.error(errno));
            return;
        };
        let (fs, caller) = (Arc::clone(&self.fs), caller(request));
        let call =
            even_if_killed(request.pid(), async move { fs.removexattr(ino(number), &name, caller).await });
        self.answer_in_its_time(KernelCall::Removexattr, number, call, reply_empty(reply));
    }

    fn access(&self, _: &Request, _: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Asked without default_permissions only: the mounter alone gets in, and operations refuse
        // by themselves.
        PROCESS.kernel(KernelCall::Other);
        reply.ok();
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _offset: i64, _whence: i32, reply: ReplyLseek) {
        // Holes of an image are not known: the kernel then takes all of it for data, and asks no more.
        PROCESS.kernel(KernelCall::Other);
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        request: &Request,
        number: INodeNo,
        open: FileHandle,
        _flags: fuser::IoctlFlags,
        command: u32,
        input: &[u8],
        _output: u32,
        reply: ReplyIoctl,
    ) {
        self.control(request, number, open, command, input, reply);
    }
}
