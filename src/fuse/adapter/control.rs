//! `ioctl`: what `glancefs prefetch`, `evict` and `uploads` ask of a mount, and the flags of `lsattr` and `chattr`.

use std::sync::Arc;

use fuser::{Errno, FileHandle, INodeNo, ReplyIoctl, Request};

use super::super::convert::ino;
use super::reply::reply_ioctl;
use super::{Adapter, handle};
use crate::cache::Evicted;
use crate::error::Kind;
use crate::fs::Ino;
use crate::ioctl::{self, Choice, Eviction};
use crate::metrics::KernelCall;

impl Adapter {
    pub(super) fn control(
        &self,
        request: &Request,
        number: INodeNo,
        open: FileHandle,
        command: u32,
        input: &[u8],
        reply: ReplyIoctl,
    ) {
        let (fs, open) = (Arc::clone(&self.fs), handle(open));
        match ioctl::Opcode::from(command) {
            ioctl::PREFETCH => {
                let call = async move { fs.prefetch(open).map(|()| Vec::new()) };
                self.answer(KernelCall::Ioctl, number, call, reply_ioctl(reply));
            }
            ioctl::PROGRESS if fs.is_uploads(open) => {
                let call = async move { Ok(fs.upload_progress(open).await?.encode().to_vec()) };
                self.answer(KernelCall::Ioctl, number, call, reply_ioctl(reply));
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
                self.answer(KernelCall::Ioctl, number, call, reply_ioctl(reply));
            }
            ioctl::PROGRESS => {
                let call = async move { Ok(fs.prefetch_progress(open).await?.encode().to_vec()) };
                self.answer(KernelCall::Ioctl, number, call, reply_ioctl(reply));
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
                self.answer_in_its_time(KernelCall::Ioctl, number, call, reply_ioctl(reply));
            }
            ioctl::LOOK => {
                let Some(id) = ioctl::image_of_look(input) else {
                    reply.error(Errno::EINVAL);
                    return;
                };
                let call = async move { fs.look_again(&id).await.map(|()| Vec::new()) };
                self.answer(KernelCall::Ioctl, number, call, reply_ioctl(reply));
            }
            ioctl::GETFLAGS => {
                let call = async move { Ok(fs.flags(ino(number)).await?.to_ne_bytes().to_vec()) };
                self.answer(KernelCall::Ioctl, number, call, reply_ioctl(reply));
            }
            ioctl::FSGETXATTR => {
                let call = async move {
                    let flags = if fs.flags(ino(number)).await? == 0 { 0 } else { ioctl::XFLAG_IMMUTABLE };
                    let mut answer = vec![0; ioctl::FSXATTR_LEN];
                    answer[..4].copy_from_slice(&flags.to_ne_bytes());
                    Ok(answer)
                };
                self.answer(KernelCall::Ioctl, number, call, reply_ioctl(reply));
            }
            ioctl::SETFLAGS => {
                let Some(flags) = input.first_chunk().map(|raw| u32::from_ne_bytes(*raw)) else {
                    reply.error(Errno::EINVAL);
                    return;
                };
                let call = async move { fs.set_flags(ino(number), flags).await.map(|()| Vec::new()) };
                self.answer_in_its_time(KernelCall::Ioctl, number, call, reply_ioctl(reply));
            }
            // Block tools ask for BLKSSZGET: not here.
            _ => reply.error(Errno::ENOTTY),
        }
    }
}
