//! What is asked of an image: found in memory or on disk, joined to a transfer under way, or fetched.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::{Error, Kind, Result};
use crate::source::Urgency;
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange, ByteRange};

use super::disk::DiskImage;
use super::disk::files::{Trouble, Wait};
use super::flight::{Claim, Ticket};
use super::hold::Waited;
use super::image::{CachedImage, DISK_PATIENCE};
use super::transfer;

/// How often a read looks again when a transfer it waited for was dropped (a prefetch without a
/// connection). Each time it claims the blocks itself, unless somebody else has, so twice is rare.
const LOOKS: u32 = 5;

/// Where the bytes of a read are when it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// In memory or on disk.
    Here,
    /// Some of it is being fetched already: the reader has to wait.
    OnItsWay,
    /// Some of it is neither here nor being fetched.
    Missing,
}

impl CachedImage {
    /// The bytes of `range` if all of them can be had without waiting: memory or page cache.
    pub fn try_read(&self, range: ByteRange) -> Option<Bytes> {
        let range = range.clamp_to(self.size());
        if self.check_intact().is_err() {
            return None;
        }
        let blocks = range.blocks();
        let mut found = self.in_memory(blocks);
        if found.iter().any(Option::is_none) {
            if let Some(bytes) = self.try_hit(range) {
                return (!self.hold.holds(blocks)).then_some(bytes);
            }
            let disk = self.disk_now()?;
            let missing = hull(blocks, &found)?;
            if !missing.iter().all(|block| disk.has(block) || self.core().memory.contains(self.key(), block))
            {
                return None;
            }
            let first = missing.start.0 - blocks.start.0;
            let read = disk.read(missing, Wait::Never, &mut Trouble::default());
            self.adopt_blocks(missing, read, &mut found[first as usize..]);
        }
        let bytes = assemble(range, &found)?;
        (!self.hold.holds(blocks)).then_some(bytes)
    }

    /// The bytes of `range` (within the image), fetching what is missing. `fetch` may be wider than
    /// `range`: what a proven stream wants fetched in the same request. It is looked at when something
    /// of `range` is missing, and when it is wider. Where `range` has the block that completes the copy,
    /// it waits until the whole was compared with its hash, for a bounded time.
    ///
    /// # Errors
    /// Those of the source; `Integrity` when the whole image did not match its hash.
    pub async fn read(&self, range: ByteRange, fetch: ByteRange) -> Result<Bytes> {
        let range = range.clamp_to(self.size());
        let fetch = fetch.clamp_to(self.size());
        let blocks = range.blocks();
        let mut found = vec![None; blocks.len() as usize];
        for look in 0..LOOKS {
            self.check_intact()?;
            let known = self.in_memory(blocks);
            found
                .iter_mut()
                .zip(known)
                .filter(|(slot, _)| slot.is_none())
                .for_each(|(slot, known)| *slot = known);
            if let Some(bytes) = assemble(range, &found) {
                if look == 0 && !range.contains(fetch) {
                    self.prefetch(fetch);
                }
                self.wait_for_verdict(blocks).await?;
                return Ok(bytes);
            }
            if look == 0
                && let Some(bytes) = self.hit(range).await
            {
                if !range.contains(fetch) {
                    self.prefetch(fetch);
                }
                self.wait_for_verdict(blocks).await?;
                return Ok(bytes);
            }
            let claim = self.obtain(blocks, fetch.blocks(), &mut found).await?;
            self.core().counters.misses.add(claim.answers.len() as u64);
            self.begin(claim.tickets);
            for (block, answer) in claim.answers {
                match answer.await {
                    Ok(Ok(bytes)) => found[(block.0 - blocks.start.0) as usize] = Some(bytes),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {}
                }
            }
        }
        Err(Error::new(
            Kind::Unreachable,
            format!("bytes {range} could not be fetched: no transfer could begin"),
        ))
    }

    /// Waits as long as `blocks` are held back.
    async fn wait_for_verdict(&self, blocks: BlockRange) -> Result<()> {
        if self.hold.wait(blocks).await == Waited::Lapsed {
            tracing::info!(
                image = %self.identity().image,
                "the last read of the image did not wait any longer for its hash, which is still being computed"
            );
        }
        self.check_intact()
    }

    /// Looks on disk for what is missing in `found`, and claims what is not there either.
    async fn obtain(
        &self,
        blocks: BlockRange,
        fetch: BlockRange,
        found: &mut [Option<Bytes>],
    ) -> Result<Claim> {
        let missing = |found: &[Option<Bytes>]| -> Vec<BlockIndex> {
            blocks.iter().zip(found).filter(|(_, slot)| slot.is_none()).map(|(block, _)| block).collect()
        };
        let on_its_way = missing(found).iter().all(|block| self.flights.covers(*block));
        let disk = self.disk().await;
        if !on_its_way
            && let Some(disk) = &disk
            && self.core().health.is_well()
            && let Some(wanted) = hull(blocks, found)
        {
            let first = (wanted.start.0 - blocks.start.0) as usize;
            if let Some(read) = self.read_disk(disk, wanted, fetch).await {
                self.adopt_blocks(wanted, read, &mut found[first..]);
            }
        }
        let wanted = missing(found);
        let in_memory = |block| self.core().memory.contains(self.key(), block);
        if self.is_streamed() {
            let whole = BlockRange::of_image(self.size());
            return Ok(self.flights.claim_stream(&wanted, whole, in_memory));
        }
        if wanted.is_empty() && fetch.len() <= blocks.len() {
            return Ok(Claim { answers: Vec::new(), tickets: Vec::new() });
        }
        let on_disk = |block| disk.as_ref().is_some_and(|disk| disk.has(block));
        Ok(self.flights.claim(&wanted, fetch, self.piece(), in_memory, on_disk))
    }

    /// Reads blocks on a thread that may wait. When one is not there, looks into the index for all of
    /// `fetch` too, since another mount may have brought it. `None`: the disk is too slow.
    async fn read_disk(
        &self,
        disk: &Arc<DiskImage>,
        wanted: BlockRange,
        fetch: BlockRange,
    ) -> Option<Vec<Option<Bytes>>> {
        let disk = Arc::clone(disk);
        let read = self.core().on_disk_thread(move || {
            let mut trouble = Trouble::default();
            let was_complete = disk.is_complete();
            let read = disk.read(wanted, Wait::ForDisk, &mut trouble);
            if read.iter().any(Option::is_none) {
                disk.refresh(fetch);
            }
            (read, trouble, !was_complete && disk.is_complete())
        });
        match tokio::time::timeout(DISK_PATIENCE, read).await {
            Ok(Some((read, trouble, completed))) => {
                self.note_damage(trouble.damaged);
                if let Some(error) = trouble.error {
                    self.core().health.failed("reading the cache", &error);
                }
                if completed {
                    // By another mount; which block was its last cannot be told.
                    let seen =
                        BlockRange { start: wanted.start.min(fetch.start), end: wanted.end.max(fetch.end) };
                    self.verify_if_complete(Some(seen));
                }
                Some(read)
            }
            Ok(None) => None,
            Err(_) => {
                self.core().health.failed("reading the cache", &"the disk took too long");
                None
            }
        }
    }

    /// Takes blocks that were read from disk into `found`, and for a while into memory.
    fn adopt_blocks(&self, blocks: BlockRange, read: Vec<Option<Bytes>>, found: &mut [Option<Bytes>]) {
        for ((block, read), slot) in blocks.iter().zip(read).zip(found) {
            if slot.is_none()
                && let Some(bytes) = read
            {
                self.core().counters.disk_hits.add(1);
                self.core().memory.lend(self.key(), block, bytes.clone());
                *slot = Some(bytes);
            }
        }
    }

    fn in_memory(&self, blocks: BlockRange) -> Vec<Option<Bytes>> {
        let disk = self.disk_now();
        let get = |block| {
            let bytes = self.core().memory.get(self.key(), block)?;
            self.core().counters.memory_hits.add(1);
            if let Some(disk) = disk {
                disk.touch(block);
            }
            Some(bytes)
        };
        blocks.iter().map(get).collect()
    }

    /// Begins to fetch what is missing of `range`, unless memory is short: prefetch is never owed.
    pub fn prefetch(&self, range: ByteRange) {
        let blocks = range.clamp_to(self.size()).blocks();
        let Some(me) = self.me.upgrade() else { return };
        // A stream brings everything anyway, and only a reader starts one.
        if blocks.is_empty() || self.is_streamed() || self.check_intact().is_err() {
            return;
        }
        if self.is_disk_known() {
            // Before the caller goes on: the next read of a quick reader would ask for these blocks itself.
            return me.claim_ahead(blocks);
        }
        self.core().runtime.spawn(async move {
            me.disk().await;
            me.claim_ahead(blocks);
        });
    }

    /// Claims what is missing of `blocks`, as prefetch. Never waits.
    fn claim_ahead(&self, blocks: BlockRange) {
        let in_memory = |block| self.core().memory.contains(self.key(), block);
        let on_disk = |block| self.disk_now().is_some_and(|disk| disk.has(block));
        let claim = self.flights.claim(&[], blocks, self.piece(), in_memory, on_disk);
        self.begin(claim.tickets);
    }

    /// Claims the first run of `blocks` that is neither here nor on its way.
    pub(super) fn claim_next(&self, blocks: BlockRange) -> Option<Ticket> {
        let disk = self.disk_now();
        let in_memory = |block| self.core().memory.contains(self.key(), block);
        let on_disk = |block| disk.is_some_and(|disk| disk.has(block));
        // The tickets that are dropped here give up their runs.
        self.flights.claim(&[], blocks, self.piece(), in_memory, on_disk).tickets.into_iter().next()
    }

    /// Starts claimed transfers, as far as the budget allows: what is owed always, the rest if it fits.
    fn begin(&self, tickets: Vec<Ticket>) {
        let Some(me) = self.me.upgrade() else { return };
        for mut ticket in tickets {
            let bytes = |blocks: BlockRange| blocks.bytes(self.size()).len();
            let budget = &self.core().budget;
            let (urgency, held) = match ticket.owed() {
                Some(owed) => {
                    let held = if self.is_streamed() {
                        budget.hold(transfer::STREAM_BYTES)
                    } else {
                        budget.try_hold(bytes(ticket.rest())).unwrap_or_else(|| {
                            ticket.trim();
                            budget.hold(bytes(owed))
                        })
                    };
                    (Urgency::Demand, held)
                }
                None => match budget.try_hold(bytes(ticket.rest())) {
                    Some(held) => (Urgency::Prefetch, held),
                    None => continue,
                },
            };
            self.core().runtime.spawn(transfer::run(Arc::clone(&me), ticket, urgency, held));
        }
    }

    /// Where the bytes of `range` are, as far as can be told without waiting.
    pub fn look_for(&self, range: ByteRange) -> Found {
        let mut found = Found::Here;
        for block in range.clamp_to(self.size()).blocks().iter() {
            if self.has(block) {
                continue;
            }
            if !self.flights.covers(block) {
                return Found::Missing;
            }
            found = Found::OnItsWay;
        }
        found
    }

    /// A sequential reader has read `range`: blocks that end in it leave the memory tier once they
    /// are on disk. They are in the kernel's page cache now, and a stream through our memory would
    /// only drive out what others come back to.
    pub fn let_pass(&self, range: ByteRange) {
        let Some(disk) = self.disk_now() else { return };
        let size = self.size();
        let over = range.blocks().iter().filter(|block| block.bytes(size).end <= range.end);
        self.core().memory.let_pass(self.key(), over, |block| disk.has(block));
    }
}

/// The smallest range with all blocks that are missing in `found`; `None`: none is.
fn hull(blocks: BlockRange, found: &[Option<Bytes>]) -> Option<BlockRange> {
    let first = found.iter().position(Option::is_none)?;
    let last = found.iter().rposition(Option::is_none)?;
    let at = |index: usize| BlockIndex(blocks.start.0 + index as u64);
    Some(BlockRange { start: at(first), end: at(last).next() })
}

/// The bytes of `range` out of the blocks that hold it; `None` when one is missing.
fn assemble(range: ByteRange, found: &[Option<Bytes>]) -> Option<Bytes> {
    let base = range.blocks().start.offset();
    let part = |(block, bytes): (u64, &Bytes)| {
        let offset = base + block * BLOCK_SIZE;
        let inside = range.intersect(ByteRange::at(offset, bytes.len() as u64));
        // Within a block: both fit a usize.
        bytes.slice(
            (inside.start.saturating_sub(offset)) as usize..(inside.end.saturating_sub(offset)) as usize,
        )
    };
    match found {
        [] => Some(Bytes::new()),
        [only] => only.as_ref().map(|bytes| part((0, bytes))),
        several => {
            let blocks: Option<Vec<&Bytes>> = several.iter().map(Option::as_ref).collect();
            let mut out = BytesMut::with_capacity(range.len() as usize);
            (0..).zip(blocks?).for_each(|block| out.extend_from_slice(&part(block)));
            Some(out.freeze())
        }
    }
}
