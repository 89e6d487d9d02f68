//! The way to the disk: fetched blocks queue here, and one thread at a time writes them in long runs.
//!
//! Readers get their blocks first. When the disk is slower than the network the queue is full, and after
//! a short wait ([`Patience`]) a block that does not fit is not kept on disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::budget::Held;
use crate::units::{BLOCK_SIZE, BlockIndex};

use super::Core;
use super::image::CachedImage;

/// Bytes that may queue, of the budget: a quarter, and no more than 64 MiB, which is what a disk of
/// 1 GB/s writes while the network is quicker for a moment.
const SHARE: u64 = 4;
const MOST_BYTES: u64 = 64 << 20;
/// How long a ranged transfer waits for room in the queue, in all. Four transfers of 8 MiB at once with
/// a quarter of a second each: a disk that writes 128 MB/s loses nothing, and a slower one never slows
/// a reader down below that.
const RANGED_PATIENCE: Duration = Duration::from_millis(250);
/// How long a stream waits for room for each block: what it loses costs another whole stream.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);

/// How long a transfer is ready to wait for the disk.
pub(super) struct Patience {
    left: Duration,
    stream: bool,
}

impl Patience {
    pub(super) fn of_transfer(stream: bool) -> Self {
        Self { left: if stream { STREAM_PATIENCE } else { RANGED_PATIENCE }, stream }
    }

    fn spend(&mut self, waited: Duration) {
        if !self.stream {
            self.left = self.left.saturating_sub(waited);
        }
    }
}

/// Blocks that wait to be written.
pub(super) struct Writer {
    queue: Mutex<Queue>,
    /// Blocks that may queue, and those for which there is room now.
    blocks: usize,
    room: Arc<Semaphore>,
    empty: Notify,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    draining: bool,
}

/// One block on its way to the disk.
struct Job {
    image: Arc<CachedImage>,
    block: BlockIndex,
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
    _held: Held,
}

impl Writer {
    pub(super) fn new(budget: u64) -> Self {
        // At most 64 MiB of them: it fits.
        let blocks = ((budget / SHARE).min(MOST_BYTES) / BLOCK_SIZE).max(1) as usize;
        let room = Arc::new(Semaphore::new(blocks));
        Self { queue: Mutex::default(), blocks, room, empty: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Half of the queue is free. Who fetches without haste waits for that: what finds no room is fetched in vain.
    pub(super) fn has_room(&self) -> bool {
        self.room.available_permits() * 2 >= self.blocks
    }

    /// Queues a block if there is room, and gives it back if there is not.
    pub(super) fn offer(
        &self,
        core: &Arc<Core>,
        image: &Arc<CachedImage>,
        block: BlockIndex,
        bytes: Bytes,
    ) -> Option<Bytes> {
        match Arc::clone(&self.room).try_acquire_owned() {
            Ok(room) => {
                self.push(core, image, block, bytes, room);
                None
            }
            Err(_) => Some(bytes),
        }
    }

    /// Queues a block, after a bounded wait for room; false: it will not be on disk.
    pub(super) async fn offer_patiently(
        &self,
        core: &Arc<Core>,
        image: &Arc<CachedImage>,
        block: BlockIndex,
        bytes: Bytes,
        patience: &mut Patience,
    ) -> bool {
        let begin = Instant::now();
        let room = tokio::time::timeout(patience.left, Arc::clone(&self.room).acquire_owned()).await;
        patience.spend(begin.elapsed());
        match room {
            Ok(Ok(room)) => {
                self.push(core, image, block, bytes, room);
                true
            }
            _ => {
                core.counters.unwritten.add(1);
                false
            }
        }
    }

    fn push(
        &self,
        core: &Arc<Core>,
        image: &Arc<CachedImage>,
        block: BlockIndex,
        bytes: Bytes,
        room: OwnedSemaphorePermit,
    ) {
        let held = core.budget.hold(bytes.len() as u64);
        let job = Job { image: Arc::clone(image), block, bytes, _room: room, _held: held };
        let begin = {
            let mut queue = self.queue();
            queue.jobs.push(job);
            !std::mem::replace(&mut queue.draining, true)
        };
        if begin {
            let core = Arc::clone(core);
            self.spawn_drain(core);
        }
    }

    fn spawn_drain(&self, core: Arc<Core>) {
        let runtime = core.runtime.clone();
        runtime.spawn_blocking(move || core.writer.drain(&core));
    }

    /// Writes until the queue is empty. One at a time, so writes and eviction never meet.
    fn drain(&self, core: &Arc<Core>) {
        loop {
            let mut jobs = {
                let mut queue = self.queue();
                if queue.jobs.is_empty() {
                    queue.draining = false;
                    self.empty.notify_waiters();
                    return;
                }
                std::mem::take(&mut queue.jobs)
            };
            // Parallel transfers interleave; on disk their blocks belong together.
            jobs.sort_by_key(|job| (job.image.key(), job.block));
            jobs.dedup_by_key(|job| (job.image.key(), job.block));
            let longest = core.longest_write();
            let mut rest = jobs.into_iter().peekable();
            while let Some(first) = rest.next() {
                let (image, start) = (Arc::clone(&first.image), first.block);
                let mut run = vec![first];
                while run.len() < longest {
                    let wanted = BlockIndex(start.0 + run.len() as u64);
                    let next = rest.next_if(|job| Arc::ptr_eq(&job.image, &image) && job.block == wanted);
                    let Some(job) = next else { break };
                    run.push(job);
                }
                let blocks: Vec<Bytes> = run.iter().map(|job| job.bytes.clone()).collect();
                image.store(start, &blocks);
            }
        }
    }

    /// Returns when everything queued was written, or after `limit`.
    pub(super) async fn flush(&self, limit: Duration) {
        let empty = async {
            loop {
                let notified = self.empty.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if !self.queue().draining {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(limit, empty).await.ok();
    }
}
