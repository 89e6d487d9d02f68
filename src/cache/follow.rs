//! Hashing behind the readers: the first blocks of a copy, as they come to the disk.
//!
//! A reader in order would wait for the hash of all that it has read when its last block arrives (SHA-512
//! runs at about 570 MiB/s on one core). So one thread, below all others in priority, hashes each copy
//! from its first block on, as far as there is no gap and the page cache has it. It reads what was just
//! written, so nothing queues for it but the names of images. What it leaves (after a gap, or because
//! the machine had no time for it) the verification of the complete copy does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use crate::units::{BlockIndex, BlockRange};

use super::disk::files::{Files, Trouble, Wait};
use super::identity::Digest;
use super::image::CachedImage;
use super::verify::Hasher;

/// Blocks hashed in one go: 256 KiB, some 0.5 ms. On a host whose cores are all taken this thread gets a
/// thousandth of one, and the verification may wait for it: it is let in after a block, which is then 0.1 s.
const SLICE: u64 = 4;
/// Slices until another image has its turn.
const TURN: u32 = 64;
/// The lowest priority.
const NICE: i32 = 19;
/// Images that may wait for their turn. One that finds no place is offered again with its next block.
const QUEUE: usize = 64;

/// The thread that hashes; it ends with the cache.
pub(super) struct Follower {
    queue: SyncSender<Weak<CachedImage>>,
}

impl Follower {
    /// Starts the thread. Without it every copy is hashed when it is complete.
    pub(super) fn start() -> Self {
        let (queue, waiting) = sync_channel(QUEUE);
        let work = move || work(&waiting);
        if let Err(error) = thread::Builder::new().name("glancefs-hash".to_owned()).spawn(work) {
            tracing::warn!(%error, "no thread to hash images while they are read");
        }
        Self { queue }
    }

    /// Blocks of `image` have come to the disk.
    pub(super) fn offer(&self, image: &Arc<CachedImage>) {
        let prefix = image.prefix();
        if !prefix.queued.swap(true, Ordering::AcqRel) && self.queue.try_send(Arc::downgrade(image)).is_err()
        {
            prefix.queued.store(false, Ordering::Release);
        }
    }
}

fn work(waiting: &Receiver<Weak<CachedImage>>) {
    yield_to_all_others();
    while let Ok(image) = waiting.recv() {
        let Some(image) = image.upgrade() else { continue };
        image.prefix().queued.store(false, Ordering::Release);
        if let Some(files) = image.disk_now().and_then(|disk| disk.own())
            && image.prefix().advance(&image.identity().digest, files)
        {
            image.core().follower.offer(&image);
        }
    }
}

/// Gives the calling thread the lowest priority: a hash that is late costs the last read a moment, a core taken
/// costs all of them. (With SCHED_IDLE a cold read of 1 GiB took 8 % less time, but on a host whose cores are all
/// taken it may get none while it holds what the verification waits for.)
fn yield_to_all_others() {
    // Of this thread only: that is what Linux means by process 0 here.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the priority of hashing stays as it is");
    }
}

/// The hash of the first blocks of a copy, as far as it was taken.
#[derive(Default)]
pub(super) struct Prefix {
    progress: Mutex<Progress>,
    /// Blocks before this one were hashed or are about to be.
    reached: AtomicU64,
    /// It waits for its turn.
    queued: AtomicBool,
    /// Somebody wants to take it over.
    wanted: AtomicBool,
}

#[derive(Default)]
enum Progress {
    #[default]
    Untouched,
    At(Hashed),
    /// Taken over by the verification, or of no use: one try is enough.
    Over,
}

/// Blocks that were hashed, from the first of the image on.
pub(super) struct Hashed {
    pub(super) hasher: Hasher,
    /// The first one that was not.
    pub(super) next: BlockIndex,
    /// The CRC32C over their CRCs, by which the index tells whether they are still the same.
    pub(super) crc: u32,
}

impl Prefix {
    /// Hashes on, as far as one turn goes; true when there is more.
    fn advance(&self, digest: &Digest, files: &Files) -> bool {
        (0..TURN).all(|_| self.slice(digest, files))
    }

    /// One slice; false when there is no whole one to hash now.
    fn slice(&self, digest: &Digest, files: &Files) -> bool {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*progress, Progress::Untouched) {
            *progress = match Hasher::of(digest) {
                Some(hasher) => Progress::At(Hashed { hasher, next: BlockIndex(0), crc: 0 }),
                None => Progress::Over,
            };
        }
        let Progress::At(hashed) = &mut *progress else { return false };
        let here = (hashed.next.0..hashed.next.0 + SLICE).take_while(|block| files.has(BlockIndex(*block)));
        let blocks = BlockRange { start: hashed.next, end: BlockIndex(hashed.next.0 + here.count() as u64) };
        // Before they are read: see `written`.
        self.reached.store(blocks.end.0, Ordering::Release);
        for block in files.read(blocks, Wait::Never, &mut Trouble::default()) {
            let Some(block) = block.filter(|_| !self.wanted.load(Ordering::Relaxed)) else { return false };
            hashed.hasher.update(&block);
            hashed.crc = crc32c::crc32c_append(hashed.crc, &crc32c::crc32c(&block).to_le_bytes());
            hashed.next = hashed.next.next();
        }
        blocks.len() == SLICE
    }

    /// Blocks from `start` on were written. If some of them had been hashed, all has to be hashed again:
    /// the server may have given other bytes this time.
    pub(super) fn written(&self, start: BlockIndex) {
        if start.0 < self.reached.load(Ordering::Acquire) {
            self.take();
        }
    }

    /// Blocks before this one were hashed, or are about to be.
    #[cfg(test)]
    pub(super) fn reached(&self) -> BlockIndex {
        BlockIndex(self.reached.load(Ordering::Acquire))
    }

    /// Ends the following; gives what was hashed.
    pub(super) fn take(&self) -> Option<Hashed> {
        self.wanted.store(true, Ordering::Relaxed);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *progress, Progress::Over) {
            Progress::At(hashed) => Some(hashed),
            Progress::Untouched | Progress::Over => None,
        }
    }
}
