//! How a result is said to the kernel: the replies that several operations share.

use fuser::{Errno, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyXattr};

use super::super::convert::{GENERATION, file_attr};
use super::super::errno::errno;
use crate::error::Result;
use crate::fs::{Attr, Entry};

pub(super) fn reply_attr(reply: ReplyAttr) -> impl FnOnce(Result<Attr>) {
    move |result| match result {
        Ok(attr) => reply.attr(&attr.ttl, &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_entry(reply: ReplyEntry) -> impl FnOnce(Result<Entry>) {
    move |result| match result {
        Ok(entry) => reply.entry_with_ttls(&entry.attr.ttl, &entry.ttl, &file_attr(&entry.attr), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty) -> impl FnOnce(Result<()>) {
    move |result| match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_ioctl(reply: ReplyIoctl) -> impl FnOnce(Result<Vec<u8>>) {
    move |result| match result {
        Ok(answer) => reply.ioctl(0, &answer),
        Err(error) => reply.error(errno(&error)),
    }
}

/// `size` 0 asks how long the value is.
pub(super) fn reply_xattr(reply: ReplyXattr, size: u32) -> impl FnOnce(Result<Vec<u8>>) {
    move |result| match result {
        // Values have at most 64 KiB.
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}
