//! Blocks that arrive: to memory, to those who wait and to the disk, and what begins with the last of them.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Kind;
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange};

use super::disk::DiskImage;
use super::flight::Ticket;
use super::identity::Verified;
use super::image::CachedImage;
use super::verify;
use super::writer::Patience;

impl CachedImage {
    /// A block arrived: into memory, into the queue for the disk if there is room, and to those who wait.
    /// Only then does the transfer wait for room. Tells whether it was of use: it was not here already.
    pub(super) async fn publish(
        self: &Arc<Self>,
        ticket: &Ticket,
        block: BlockIndex,
        bytes: Bytes,
        patience: &mut Patience,
    ) -> bool {
        if self.check_intact().is_err() {
            ticket.deliver(block, &bytes);
            return true;
        }
        // Open long since, as who claimed the block has waited for that; else the first blocks would
        // never get to the disk and the image would never be complete.
        let disk = self.disk().await;
        let is_known = disk.as_ref().is_some_and(|disk| disk.has(block))
            || self.core().memory.contains(self.key(), block);
        let disk = disk.filter(|disk| !disk.has(block));
        if let Some(disk) = &disk {
            self.hold.arrives(block, disk);
        }
        self.core().memory.insert(self.key(), block, bytes.clone());
        let too_many = match disk {
            Some(_) => self.core().writer.offer(self.core(), self, block, bytes.clone()),
            None => None,
        };
        ticket.deliver(block, &bytes);
        drop(bytes);
        if let Some(bytes) = too_many
            && !self.core().writer.offer_patiently(self.core(), self, block, bytes, patience).await
        {
            self.settle(BlockRange { start: block, end: block.next() });
        }
        !is_known
    }

    /// Writes consecutive blocks to disk, if it is well and has room. Waits for the disk; called by the writer only.
    pub(super) fn store(&self, start: BlockIndex, blocks: &[Bytes]) {
        let count = blocks.len() as u64;
        if self.try_store(start, blocks) {
            self.core().counters.written_bytes.add(blocks.iter().map(|block| block.len() as u64).sum());
        } else {
            self.core().counters.unwritten.add(count);
        }
        self.settle(BlockRange { start, end: BlockIndex(start.0 + count) });
    }

    fn try_store(&self, start: BlockIndex, blocks: &[Bytes]) -> bool {
        let Some(disk) = self.disk_now() else { return false };
        if self.check_intact().is_err() || !self.core().admit(blocks.len() as u64 * BLOCK_SIZE) {
            return false;
        }
        match disk.write(start, blocks) {
            Ok(()) => {
                self.core().health.worked();
                self.core().memory.drop_passed(self.key(), start, blocks.len() as u64);
                self.prefix().written(start);
                true
            }
            Err(error) => {
                // Another mount at work says nothing about the disk.
                if error.kind() != Kind::Busy {
                    self.core().health.failed("writing to the cache", &error);
                }
                false
            }
        }
    }

    /// `blocks` are on disk, or will not be: the whole is verified when it is complete, and nobody waits
    /// for a verdict that will not come.
    fn settle(&self, blocks: BlockRange) {
        let quiet = self.hold.arrived(blocks);
        let verifying = self.verify_if_complete(None);
        if let Some(quiet) = quiet.filter(|_| !verifying) {
            self.hold.release_since(quiet);
        }
        if !verifying
            && self.hold.is_possible()
            && let Some(me) = self.me.upgrade()
        {
            self.core().follower.offer(&me);
        }
    }

    /// Starts the verification of the whole if all of it is here and nothing proves it yet, with `held` held
    /// back until then; tells whether it is running.
    pub(super) fn verify_if_complete(&self, held: Option<BlockRange>) -> bool {
        let (Some(me), Some(disk)) = (self.me.upgrade(), self.disk_now()) else { return false };
        if !self.is_unproven(disk) {
            return false;
        }
        if let Some(held) = held.filter(|_| !disk.was_proven()) {
            self.hold.hold(held);
        }
        if self.begin_check() {
            self.core().runtime.spawn(verify::run(me, Arc::clone(disk)));
        }
        true
    }

    /// All of it is on disk, and could be proven, but is not.
    pub(super) fn is_unproven(&self, disk: &DiskImage) -> bool {
        disk.is_complete() && self.is_verifiable() && disk.proven() == Verified::None
    }
}
