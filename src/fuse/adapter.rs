//! `impl fuser::Filesystem`: each operation becomes one call of [`ImageFs`] and one reply.
//!
//! The call is polled once where the request was read. What needs no waiting is answered there, at
//! twice the rate of a hand-off; anything else moves, with its reply, to the runtime, so that the
//! threads that read requests never wait for the network or the disk.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tracing::{Instrument, debug, error, info, info_span};

use super::convert::{GENERATION, file_attr, file_type, ino, open_mode};
use super::errno::errno;
use super::passthrough::Passthrough;
use super::process::{self, ProcessWatch};
use crate::cache::{Backing, Evicted};
use crate::error::{Error, Kind, Result};
use crate::fs::{Attr, Caller, Entry, HandleId, ImageFs, Ino, NewAttributes, OpenMode, Opened, XattrMode};
use crate::ioctl::{self, Choice, Eviction};
use crate::units::ByteRange;

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

    /// Runs an operation on metadata, within the deadline.
    fn answer<T: Send + 'static>(
        &self,
        operation: &'static str,
        file: INodeNo,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        self.answer_in_its_time(operation, file, within(self.deadline, call), reply);
    }

    /// Runs an operation whose deadline is on progress and lies in the layers below.
    fn answer_in_its_time<T: Send + 'static>(
        &self,
        operation: &'static str,
        file: INodeNo,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let span = info_span!("fuse", operation, ino = file.0);
        let whole = async move {
            let result = call.await;
            if let Err(error) = &result {
                debug!(%error, "failed");
            }
            reply(result);
        };
        let mut whole = Box::pin(whole.instrument(span));
        let _runtime = self.runtime.enter();
        let mut nobody = Context::from_waker(Waker::noop());
        match std::panic::catch_unwind(AssertUnwindSafe(|| whole.as_mut().poll(&mut nobody))) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => {
                self.runtime.spawn(whole);
            }
            // The reply was dropped on the way, which answers EIO.
            Err(_) => error!(operation, "a defect of glancefs: the operation panicked"),
        }
    }
}

async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::TimedOut, format!("no answer within {} s", deadline.as_secs())))
    })
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), group: process::thread_group(request.pid()) }
}

/// Waits until an image that was opened may be read, or has the handle released. Who is killed meanwhile is let go.
async fn vet(fs: &Arc<ImageFs>, handle: HandleId, pid: u32) -> Result<()> {
    let killed = async {
        process::killed(pid).await;
        Err(Error::new(Kind::Interrupted, "killed while the image was being fetched"))
    };
    let vetted = tokio::select! {
        // Mostly there is nothing to wait for.
        biased;
        vetted = fs.vet(handle) => vetted,
        killed = killed => killed,
    };
    if vetted.is_err() {
        fs.release(handle).await;
    }
    vetted
}

fn handle(number: FileHandle) -> HandleId {
    HandleId(number.0)
}

/// How the kernel is to use a handle that is read through us.
fn fopen_flags(opened: Opened) -> FopenFlags {
    match opened.direct_io {
        true => FopenFlags::FOPEN_DIRECT_IO,
        // The data never change, and a close of what was only read says nothing.
        false => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
    }
}

/// The same of one that is read past us. The kernel refuses KEEP_CACHE here.
const PAST_US: FopenFlags = FopenFlags::FOPEN_NOFLUSH;

fn reply_attr(reply: ReplyAttr) -> impl FnOnce(Result<Attr>) {
    move |result| match result {
        Ok(attr) => reply.attr(&attr.ttl, &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_entry(reply: ReplyEntry) -> impl FnOnce(Result<Entry>) {
    move |result| match result {
        Ok(entry) => reply.entry_with_ttls(&entry.attr.ttl, &entry.ttl, &file_attr(&entry.attr), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_empty(reply: ReplyEmpty) -> impl FnOnce(Result<()>) {
    move |result| match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_ioctl(reply: ReplyIoctl) -> impl FnOnce(Result<Vec<u8>>) {
    move |result| match result {
        Ok(answer) => reply.ioctl(0, &answer),
        Err(error) => reply.error(errno(&error)),
    }
}

/// `size` 0 asks how long the value is.
fn reply_xattr(reply: ReplyXattr, size: u32) -> impl FnOnce(Result<Vec<u8>>) {
    move |result| match result {
        // Values have at most 64 KiB.
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
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

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        let call = async move { fs.lookup(ino(parent), &name).await };
        self.answer("lookup", parent, call, reply_entry(reply));
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        self.fs.forget(ino(number), lookups);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, open: Option<FileHandle>, reply: ReplyAttr) {
        let fs = Arc::clone(&self.fs);
        let call = async move { fs.getattr(ino(number), open.map(handle)).await };
        self.answer("getattr", number, call, reply_attr(reply));
    }

    fn setattr(
        &self,
        _request: &Request,
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
        let call = async move { fs.setattr(ino(number), open.map(handle), new).await };
        self.answer_in_its_time("setattr", number, call, reply_attr(reply));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
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
            reply.error(Errno::EPERM);
            return;
        }
        let (fs, name, maker) = (Arc::clone(&self.fs), name.to_owned(), process::thread_group(request.pid()));
        let call = async move { fs.mknod(ino(parent), &name, maker).await };
        self.answer_in_its_time("mknod", parent, call, reply_entry(reply));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        let call = async move { fs.unlink(ino(parent), &name).await };
        self.answer("unlink", parent, call, reply_empty(reply));
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keep_existing = flags == RenameFlags::RENAME_NOREPLACE;
        if !keep_existing && !flags.is_empty() {
            reply.error(Errno::EINVAL);
            return;
        }
        let (fs, name, new_name) = (Arc::clone(&self.fs), name.to_owned(), new_name.to_owned());
        let call =
            async move { fs.rename(ino(parent), &name, ino(new_parent), &new_name, keep_existing).await };
        self.answer_in_its_time("rename", parent, call, reply_empty(reply));
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, mode, deadline) = (Arc::clone(&self.fs), open_mode(flags), self.deadline);
        let (passthrough, admission) = (Arc::clone(&self.passthrough), Arc::clone(&self.passthrough));
        let pid = request.pid();
        let opener = if mode.write { process::thread_group(pid) } else { None };
        let number = ino(number);
        let call = async move {
            let claim = passthrough.claim(number, mode).await?;
            let look = claim.is_none() && passthrough.is_worth_a_look(number);
            let opened = within(deadline, fs.open(number, mode, opener)).await?;
            vet(&fs, opened.handle, pid).await?;
            let bypass = fs.bypass(opened.handle, look).await;
            Ok((opened, bypass, claim))
        };
        self.answer_in_its_time("open", INodeNo(number.0), call, move |result| {
            let admitted = result.and_then(|(opened, bypass, claim)| {
                let register = |file: &Backing| reply.open_backing(file);
                Ok((opened, admission.admit(number, opened, bypass, claim, register)?))
            });
            match admitted {
                Ok((opened, Some(file))) => {
                    reply.opened_passthrough(FileHandle(opened.handle.0), PAST_US, &file);
                }
                Ok((opened, None)) => reply.opened(FileHandle(opened.handle.0), fopen_flags(opened)),
                Err(error) => reply.error(errno(&error)),
            }
        });
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
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        let mode: OpenMode = open_mode(OpenFlags(flags));
        let pid = request.pid();
        let opener = process::thread_group(pid);
        let admission = Arc::clone(&self.passthrough);
        let call = async move {
            let (entry, opened) = fs.create(ino(parent), &name, mode, opener).await?;
            let vetted = vet(&fs, opened.handle, pid).await;
            vetted.inspect_err(|_| fs.forget(entry.attr.ino, 1))?;
            // The name was taken since the kernel looked: the file may be open by now.
            Ok((entry, opened, fs.bypass(opened.handle, false).await))
        };
        self.answer("create", parent, call, move |result| {
            let admitted = result.and_then(|(entry, opened, bypass)| {
                let register = |file: &Backing| reply.open_backing(file);
                let number = entry.attr.ino;
                let admitted = admission.admit(number, opened, bypass, None, register);
                let file = admitted.inspect_err(|_| admission.fs().forget(number, 1))?;
                Ok((entry, opened, file))
            });
            match admitted {
                Ok((entry, opened, file)) => {
                    let (ttl, attr, number) =
                        (&entry.ttl, file_attr(&entry.attr), FileHandle(opened.handle.0));
                    match file {
                        Some(file) => {
                            reply.created_passthrough(ttl, &attr, GENERATION, number, PAST_US, &file);
                        }
                        None => reply.created(ttl, &attr, GENERATION, number, fopen_flags(opened)),
                    }
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
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
        let call = async move { fs.read(handle(open), range).await };
        self.answer_in_its_time("read", number, call, move |result| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn write(
        &self,
        _request: &Request,
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
        let call = async move { fs.write(handle(open), offset, data).await };
        self.answer_in_its_time("write", number, call, move |result| match result {
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
            reply.ok();
            return;
        }
        let closer = process::closer(request.pid(), ino(number));
        let watch = ProcessWatch::new(request.pid(), &closer);
        let fs = Arc::clone(&self.fs);
        let call = async move { fs.flush(open, closer, watch).await };
        self.answer_in_its_time("flush", number, call, reply_empty(reply));
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
        self.answer_in_its_time("release", number, call, reply_empty(reply));
    }

    fn fsync(
        &self,
        _request: &Request,
        number: INodeNo,
        open: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = Arc::clone(&self.fs);
        let call = async move { fs.fsync(handle(open)).await };
        self.answer_in_its_time("fsync", number, call, reply_empty(reply));
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = Arc::clone(&self.fs);
        let call = async move { fs.opendir(ino(number)).await };
        self.answer("opendir", number, call, move |result| match result {
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
        for position in offset.. {
            let entry = match self.fs.dir_entry(handle(open), position) {
                Ok(None) => break,
                Ok(Some(entry)) => entry,
                Err(error) => return reply.error(errno(&error)),
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
        for position in offset.. {
            let listed = match self.fs.dir_entry(handle(open), position) {
                Ok(None) => break,
                Ok(Some(listed)) => listed,
                Err(error) => return reply.error(errno(&error)),
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
        self.fs.releasedir(handle(open));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, number: INodeNo, reply: ReplyStatfs) {
        const UNIT: u32 = 4096;
        let fs = Arc::clone(&self.fs);
        let call = async move { Ok(fs.statfs().await) };
        self.answer("statfs", number, call, move |result| match result {
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
                reply.error(Errno::EINVAL);
                return;
            }
        };
        let Some(name) = name.to_str().map(str::to_owned) else {
            reply.error(Errno::EOPNOTSUPP);
            return;
        };
        let (fs, value, caller) = (Arc::clone(&self.fs), value.to_vec(), caller(request));
        let call = async move { fs.setxattr(ino(number), &name, value, mode, caller).await };
        // Its turn and its request have a deadline each.
        self.answer_in_its_time("setxattr", number, call, reply_empty(reply));
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(name) = name.to_str().map(str::to_owned) else {
            reply.error(Errno::ENODATA);
            return;
        };
        let fs = Arc::clone(&self.fs);
        let call = async move { fs.getxattr(ino(number), &name).await };
        self.answer("getxattr", number, call, reply_xattr(reply, size));
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = Arc::clone(&self.fs);
        let call = async move { fs.listxattr(ino(number)).await };
        self.answer("listxattr", number, call, reply_xattr(reply, size));
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str().map(str::to_owned) else {
            reply.error(Errno::ENODATA);
            return;
        };
        let (fs, caller) = (Arc::clone(&self.fs), caller(request));
        let call = async move { fs.removexattr(ino(number), &name, caller).await };
        self.answer_in_its_time("removexattr", number, call, reply_empty(reply));
    }

    fn access(&self, _: &Request, _: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Asked without default_permissions only: the mounter alone gets in, and operations refuse
        // by themselves.
        reply.ok();
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _offset: i64, _whence: i32, reply: ReplyLseek) {
        // Holes of an image are not known: the kernel then takes all of it for data, and asks no more.
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
        let (fs, open) = (Arc::clone(&self.fs), handle(open));
        match ioctl::Opcode::from(command) {
            ioctl::PREFETCH => {
                let call = async move { fs.prefetch(open).map(|()| Vec::new()) };
                self.answer("prefetch", number, call, reply_ioctl(reply));
            }
            ioctl::PROGRESS if fs.is_uploads(open) => {
                let call = async move { Ok(fs.upload_progress(open).await?.encode().to_vec()) };
                self.answer("upload_progress", number, call, reply_ioctl(reply));
            }
            command @ (ioctl::RETRY | ioctl::DISCARD) => {
                let choice = input.try_into().map_err(|_| Kind::Invalid);
                let choice = choice.and_then(|raw| Choice::decode(raw).map_err(|error| error.kind()));
                let Ok(choice) = choice else {
                    reply.error(Errno::EINVAL);
                    return;
                };
                let by = request.uid();
                let call = async move {
                    match command {
                        ioctl::RETRY => fs.retry_upload(open, by, choice)?,
                        _ => fs.discard_upload(open, by, choice)?,
                    }
                    Ok(Vec::new())
                };
                self.answer("uploads", number, call, reply_ioctl(reply));
            }
            ioctl::PROGRESS => {
                let call = async move { Ok(fs.prefetch_progress(open).await?.encode().to_vec()) };
                self.answer("prefetch_progress", number, call, reply_ioctl(reply));
            }
            ioctl::EVICT => {
                let Ok(question) = input.try_into().map(Eviction::decode) else {
                    reply.error(Errno::EINVAL);
                    return;
                };
                let by = request.uid();
                let passthrough = Arc::clone(&self.passthrough);
                let call = async move {
                    let id = fs.evictable(Ino(question.ino), by)?;
                    let Evicted { freed, left } = passthrough.let_go_until(|| fs.evict(&id)).await?;
                    Ok(Eviction { freed, left, ..question }.encode().to_vec())
                };
                self.answer_in_its_time("evict", number, call, reply_ioctl(reply));
            }
            ioctl::LOOK => {
                let Some(id) = ioctl::image_of_look(input) else {
                    reply.error(Errno::EINVAL);
                    return;
                };
                let call = async move { fs.look_again(&id).await.map(|()| Vec::new()) };
                self.answer("look", number, call, reply_ioctl(reply));
            }
            ioctl::GETFLAGS => {
                let call = async move { Ok(fs.flags(ino(number)).await?.to_ne_bytes().to_vec()) };
                self.answer("flags", number, call, reply_ioctl(reply));
            }
            ioctl::FSGETXATTR => {
                let call = async move {
                    let flags = if fs.flags(ino(number)).await? == 0 { 0 } else { ioctl::XFLAG_IMMUTABLE };
                    let mut answer = vec![0; ioctl::FSXATTR_LEN];
                    answer[..4].copy_from_slice(&flags.to_ne_bytes());
                    Ok(answer)
                };
                self.answer("flags", number, call, reply_ioctl(reply));
            }
            ioctl::SETFLAGS => {
                let Some(flags) = input.first_chunk().map(|raw| u32::from_ne_bytes(*raw)) else {
                    reply.error(Errno::EINVAL);
                    return;
                };
                let call = async move { fs.set_flags(ino(number), flags).await.map(|()| Vec::new()) };
                self.answer_in_its_time("set_flags", number, call, reply_ioctl(reply));
            }
            // Block tools ask for BLKSSZGET: not here.
            _ => reply.error(Errno::ENOTTY),
        }
    }
}
