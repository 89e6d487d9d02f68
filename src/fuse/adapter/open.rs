//! `open` and `create`: how the kernel is to use the handle, and whether it may read the file past us.

use std::ffi::OsStr;
use std::sync::Arc;

use fuser::{FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyCreate, ReplyOpen, Request};

use super::super::convert::{GENERATION, file_attr, ino, open_mode};
use super::super::errno::errno;
use super::super::process;
use super::Adapter;
use super::answer::{unless_killed, within};
use crate::cache::Backing;
use crate::error::{Error, Kind, Result};
use crate::fs::{HandleId, ImageFs, OpenMode, Opened};
use crate::metrics::KernelCall;

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

impl Adapter {
    pub(super) fn open_file(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, mode, deadline) = (Arc::clone(&self.fs), open_mode(flags), self.deadline);
        let (passthrough, admission) = (Arc::clone(&self.passthrough), Arc::clone(&self.passthrough));
        let pid = request.pid();
        let opener = if mode.write { process::thread_group(pid) } else { None };
        let number = ino(number);
        let call = async move {
            let claim = passthrough.claim(number, mode).await?;
            let look = claim.is_none() && passthrough.is_worth_a_look(number);
            let opened = unless_killed(pid, within(deadline, fs.open(number, mode, opener))).await?;
            vet(&fs, opened.handle, pid).await?;
            let bypass = fs.bypass(opened.handle, look).await;
            Ok((opened, bypass, claim))
        };
        self.answer_in_its_time(KernelCall::Open, INodeNo(number.0), call, move |result| {
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

    pub(super) fn create_file(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        let mode: OpenMode = open_mode(OpenFlags(flags));
        let pid = request.pid();
        let opener = process::thread_group(pid);
        let admission = Arc::clone(&self.passthrough);
        let call = async move {
            // The handle is made at the very end: until then there is nothing to give back.
            let creation = fs.create(ino(parent), &name, mode, opener);
            let (entry, opened) = unless_killed(pid, creation).await?;
            let vetted = vet(&fs, opened.handle, pid).await;
            vetted.inspect_err(|_| fs.forget(entry.attr.ino, 1))?;
            // The name was taken since the kernel looked: the file may be open by now.
            Ok((entry, opened, fs.bypass(opened.handle, false).await))
        };
        self.answer(KernelCall::Create, parent, call, move |result| {
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
