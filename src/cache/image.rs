//! One image's cached bytes, shared by all handles: memory first, then disk, then single flight.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::OnceCell;

use crate::error::{Error, Kind, Result};
use crate::source::{Pace, Source, SourceKind, Urgency};
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange, ByteRange};

use super::disk::DiskImage;
use super::disk::files::Wait;
use super::flight::{Claim, Flights, Ticket};
use super::follow::Prefix;
use super::hold::{Hold, Waited};
use super::identity::{ContentIdentity, Digest, Key, Verified};
use super::writer::Patience;
use super::{Core, transfer, verify};

/// How often a read looks again when a transfer it waited for was dropped (a prefetch without a
/// connection). Each time it claims the blocks itself, unless somebody else has, so twice is rare.
const LOOKS: u32 = 5;
/// How long the cache disk may take for one read before the blocks are fetched instead.
pub(super) const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// How long an open may wait to learn whether the image can be read past us.
const BACKING_PATIENCE: Duration = Duration::from_secs(1);

/// A file that holds exactly the bytes of an image.
///
/// While its open file description exists, in this process or in the kernel, nobody frees any of it.
#[derive(Debug)]
pub struct Backing {
    file: File,
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// One image's cached bytes, shared by all handles.
pub struct CachedImage {
    core: Arc<Core>,
    /// Itself, for the tasks it starts.
    me: Weak<CachedImage>,
    identity: ContentIdentity,
    key: Key,
    source: Arc<dyn Source>,
    /// Opened in the background; `Some(None)`: the disk could not be used.
    disk: OnceCell<Option<Arc<DiskImage>>>,
    flights: Arc<Flights>,
    handles: AtomicU64,
    state: Mutex<State>,
    hold: Hold,
    prefix: Prefix,
}

#[derive(Default)]
struct State {
    last_error: Option<String>,
    check: Check,
}

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

/// Where the verification of the whole is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Not running; the index on disk says what was proven.
    #[default]
    Idle,
    Running,
    Failed,
}

impl CachedImage {
    pub(super) fn new(
        core: Arc<Core>,
        me: Weak<CachedImage>,
        identity: ContentIdentity,
        source: Arc<dyn Source>,
    ) -> Self {
        let key = identity.key();
        let hold = Hold::new(core.verify_wait, verify::is_possible(&identity.digest));
        Self {
            core,
            me,
            identity,
            key,
            source,
            disk: OnceCell::new(),
            flights: Arc::default(),
            handles: AtomicU64::new(0),
            state: Mutex::default(),
            hold,
            prefix: Prefix::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an open handle; a shared stream goes on while there is one.
    pub fn acquire(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends an open handle.
    pub fn release(&self) {
        let last =
            self.handles.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) == Ok(1);
        if last && let Some(disk) = self.disk_now() {
            let disk = Arc::clone(disk);
            disk.touch_pinned();
            self.core.runtime.spawn_blocking(move || disk.write_stamps());
        }
    }

    /// The bytes of `range` if all of them can be had without waiting: memory or page cache.
    pub fn try_read(&self, range: ByteRange) -> Option<Bytes> {
        let range = range.clamp_to(self.identity.size);
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
            if !missing.iter().all(|block| disk.has(block) || self.core.memory.contains(self.key, block)) {
                return None;
            }
            let first = missing.start.0 - blocks.start.0;
            let read = disk.read(missing, Wait::Never, &mut 0);
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
        let range = range.clamp_to(self.identity.size);
        let fetch = fetch.clamp_to(self.identity.size);
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
            self.core.counters.misses.add(claim.answers.len() as u64);
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
                image = %self.identity.image,
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
            && self.core.health.is_well()
            && let Some(wanted) = hull(blocks, found)
        {
            let first = (wanted.start.0 - blocks.start.0) as usize;
            if let Some(read) = self.read_disk(disk, wanted, fetch).await {
                self.adopt_blocks(wanted, read, &mut found[first..]);
            }
        }
        let wanted = missing(found);
        let in_memory = |block| self.core.memory.contains(self.key, block);
        if self.is_streamed() {
            let whole = BlockRange::of_image(self.identity.size);
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
        let read = self.core.on_disk_thread(move || {
            let mut damaged = 0;
            let was_complete = disk.is_complete();
            let read = disk.read(wanted, Wait::ForDisk, &mut damaged);
            if read.iter().any(Option::is_none) {
                disk.refresh(fetch);
            }
            (read, damaged, !was_complete && disk.is_complete())
        });
        match tokio::time::timeout(DISK_PATIENCE, read).await {
            Ok(Some((read, damaged, completed))) => {
                self.core.counters.damaged.add(damaged);
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
                self.core.health.failed("reading the cache", &"the disk took too long");
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
                self.core.counters.disk_hits.add(1);
                self.core.memory.lend(self.key, block, bytes.clone());
                *slot = Some(bytes);
            }
        }
    }

    fn in_memory(&self, blocks: BlockRange) -> Vec<Option<Bytes>> {
        let disk = self.disk_now();
        let get = |block| {
            let bytes = self.core.memory.get(self.key, block)?;
            self.core.counters.memory_hits.add(1);
            if let Some(disk) = disk {
                disk.touch(block);
            }
            Some(bytes)
        };
        blocks.iter().map(get).collect()
    }

    /// Begins to fetch what is missing of `range`, unless memory is short: prefetch is never owed.
    pub fn prefetch(&self, range: ByteRange) {
        let blocks = range.clamp_to(self.identity.size).blocks();
        let Some(me) = self.me.upgrade() else { return };
        // A stream brings everything anyway, and only a reader starts one.
        if blocks.is_empty() || self.is_streamed() || self.check_intact().is_err() {
            return;
        }
        self.core.runtime.spawn(async move {
            let disk = me.disk().await;
            let in_memory = |block| me.core.memory.contains(me.key, block);
            let on_disk = |block| disk.as_ref().is_some_and(|disk| disk.has(block));
            let claim = me.flights.claim(&[], blocks, me.piece(), in_memory, on_disk);
            me.begin(claim.tickets);
        });
    }

    /// The block is in memory or on disk, as far as can be told without waiting.
    pub(super) fn has(&self, block: BlockIndex) -> bool {
        self.core.memory.contains(self.key, block) || self.disk_now().is_some_and(|disk| disk.has(block))
    }

    /// A transfer is bringing the block.
    pub(super) fn is_on_its_way(&self, block: BlockIndex) -> bool {
        self.flights.covers(block)
    }

    /// Claims the first run of `blocks` that is neither here nor on its way.
    pub(super) fn claim_next(&self, blocks: BlockRange) -> Option<Ticket> {
        let disk = self.disk_now();
        let in_memory = |block| self.core.memory.contains(self.key, block);
        let on_disk = |block| disk.is_some_and(|disk| disk.has(block));
        // The tickets that are dropped here give up their runs.
        self.flights.claim(&[], blocks, self.piece(), in_memory, on_disk).tickets.into_iter().next()
    }

    /// Starts claimed transfers, as far as the budget allows: what is owed always, the rest if it fits.
    fn begin(&self, tickets: Vec<Ticket>) {
        let Some(me) = self.me.upgrade() else { return };
        for mut ticket in tickets {
            let bytes = |blocks: BlockRange| blocks.bytes(self.identity.size).len();
            let budget = &self.core.budget;
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
            self.core.runtime.spawn(transfer::run(Arc::clone(&me), ticket, urgency, held));
        }
    }

    /// Where the bytes of `range` are, as far as can be told without waiting.
    pub fn look_for(&self, range: ByteRange) -> Found {
        let mut found = Found::Here;
        for block in range.clamp_to(self.identity.size).blocks().iter() {
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
        let size = self.identity.size;
        let over = range.blocks().iter().filter(|block| block.bytes(size).end <= range.end);
        self.core.memory.let_pass(self.key, over, |block| disk.has(block));
    }

    /// Blocks of the largest single request.
    pub(super) fn piece(&self) -> usize {
        // At most 16 MiB: it fits.
        (self.source.pace().piece() / BLOCK_SIZE) as usize
    }

    /// What names its bytes wherever they are.
    pub fn digest(&self) -> &Digest {
        &self.identity.digest
    }

    /// Names its files in the cache.
    pub fn cache_key(&self) -> Key {
        self.key
    }

    /// All of it is on disk, as far as the index says.
    pub async fn is_complete(&self) -> bool {
        self.disk().await.is_some_and(|disk| disk.present_bytes() >= self.identity.size)
    }

    /// How fast its source is.
    pub fn pace(&self) -> Pace {
        self.source.pace()
    }

    /// Bytes of memory that all images of the mount share: the measure for read-ahead.
    pub fn memory_limit(&self) -> u64 {
        self.core.budget.limit()
    }

    /// A file with all of the image, verified and unchanged since, to be read past us. `None`: there is
    /// none, or the disk cannot tell soon; a complete copy that nothing proves is verified then, behind
    /// the caller.
    pub async fn backing(&self) -> Option<Backing> {
        let disk = tokio::time::timeout(BACKING_PATIENCE, self.disk()).await.ok()??;
        if self.check_intact().is_err() || !disk.is_all_here() {
            return None;
        }
        let pinning = self.core.on_disk_thread({
            let disk = Arc::clone(&disk);
            move || disk.pin()
        });
        let file = tokio::time::timeout(BACKING_PATIENCE, pinning).await.ok()??;
        match file {
            Ok(Some(file)) => return Some(Backing { file }),
            Ok(None) => {
                self.verify_if_complete(None);
            }
            Err(error) => tracing::debug!(image = %self.identity.image, %error, "no file to read past us"),
        }
        None
    }

    /// Bytes of it on disk or in memory.
    pub fn cached_bytes(&self) -> u64 {
        let Some(disk) = self.disk_now() else {
            return self.core.peek(&self.identity).map_or(0, |disk| disk.present_bytes());
        };
        let only_in_memory = self.core.memory.bytes_of(self.key, |block| !disk.has(block));
        (disk.present_bytes() + only_in_memory).min(self.identity.size)
    }

    /// How far the whole is proven.
    pub fn verified(&self) -> Verified {
        let check = self.state().check;
        match check {
            Check::Failed => Verified::Failed,
            Check::Running => Verified::Pending,
            Check::Idle => match self.disk_now() {
                Some(disk) => disk.proven(),
                None => self.core.peek(&self.identity).map_or(Verified::None, |disk| disk.proven()),
            },
        }
    }

    /// The last failure of a fetch, for `user.glancefs.last_error`.
    pub fn last_error(&self) -> Option<String> {
        self.state().last_error.clone()
    }

    /// How it is being read.
    pub fn source_kind(&self) -> SourceKind {
        self.source.kind()
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn identity(&self) -> &ContentIdentity {
        &self.identity
    }

    /// Names its content: of equal keys the bytes are equal.
    pub fn key(&self) -> Key {
        self.key
    }

    pub(super) fn size(&self) -> u64 {
        self.identity.size
    }

    pub(super) fn source(&self) -> &dyn Source {
        &*self.source
    }

    pub(super) fn is_streamed(&self) -> bool {
        self.source.kind() == SourceKind::Streamed
    }

    pub(super) fn is_open(&self) -> bool {
        self.handles.load(Ordering::Relaxed) > 0
    }

    pub(super) fn note_failure(&self, error: &Error) {
        tracing::debug!(image = %self.identity.image, %error, "a fetch failed");
        self.state().last_error = Some(error.to_string());
    }

    /// A block arrived: into memory, into the queue for the disk if there is room, and to those who wait.
    /// Only then does the transfer wait for room.
    pub(super) async fn publish(
        self: &Arc<Self>,
        ticket: &Ticket,
        block: BlockIndex,
        bytes: Bytes,
        patience: &mut Patience,
    ) {
        if self.check_intact().is_err() {
            return ticket.deliver(block, &bytes);
        }
        // Open long since, as who claimed the block has waited for that; else the first blocks would
        // never get to the disk and the image would never be complete.
        let disk = self.disk().await;
        let disk = disk.filter(|disk| !disk.has(block));
        if let Some(disk) = &disk {
            self.hold.arrives(block, disk);
        }
        self.core.memory.insert(self.key, block, bytes.clone());
        let too_many = match disk {
            Some(_) => self.core.writer.offer(&self.core, self, block, bytes.clone()),
            None => None,
        };
        ticket.deliver(block, &bytes);
        drop(bytes);
        if let Some(bytes) = too_many
            && !self.core.writer.offer_patiently(&self.core, self, block, bytes, patience).await
        {
            self.settle(BlockRange { start: block, end: block.next() });
        }
    }

    /// Writes consecutive blocks to disk, if it is well and has room. Waits for the disk; called by the writer only.
    pub(super) fn store(&self, start: BlockIndex, blocks: &[Bytes]) {
        let count = blocks.len() as u64;
        if self.try_store(start, blocks) {
            self.core.counters.written_bytes.add(blocks.iter().map(|block| block.len() as u64).sum());
        } else {
            self.core.counters.unwritten.add(count);
        }
        self.settle(BlockRange { start, end: BlockIndex(start.0 + count) });
    }

    fn try_store(&self, start: BlockIndex, blocks: &[Bytes]) -> bool {
        let Some(disk) = self.disk_now() else { return false };
        if self.check_intact().is_err() || !self.core.admit(blocks.len() as u64 * BLOCK_SIZE) {
            return false;
        }
        match disk.write(start, blocks) {
            Ok(()) => {
                self.core.health.worked();
                self.core.memory.drop_passed(self.key, start, blocks.len() as u64);
                self.prefix.written(start);
                true
            }
            Err(error) => {
                // Another mount at work says nothing about the disk.
                if error.kind() != Kind::Busy {
                    self.core.health.failed("writing to the cache", &error);
                }
                false
            }
        }
    }

    /// `blocks` are on disk, or will not be: the whole is verified when it is complete, and nobody waits
    /// for a verdict that will not come.
    fn settle(&self, blocks: BlockRange) {
        let was_last = self.hold.arrived(blocks);
        let verifying = self.verify_if_complete(None);
        if was_last && !verifying {
            self.hold.release();
        }
        if !verifying
            && self.hold.is_possible()
            && let Some(me) = self.me.upgrade()
        {
            self.core.follower.offer(&me);
        }
    }

    /// Starts the verification of the whole if all of it is here and nothing proves it yet, with `held` held
    /// back until then; tells whether it is running.
    fn verify_if_complete(&self, held: Option<BlockRange>) -> bool {
        let (Some(me), Some(disk)) = (self.me.upgrade(), self.disk_now()) else { return false };
        if !self.is_unproven(disk) {
            return false;
        }
        if let Some(held) = held.filter(|_| !disk.was_proven()) {
            self.hold.hold(held);
        }
        if self.begin_check() {
            self.core.runtime.spawn(verify::run(me, Arc::clone(disk)));
        }
        true
    }

    /// All of it is on disk, and could be proven, but is not.
    fn is_unproven(&self, disk: &DiskImage) -> bool {
        disk.is_complete() && verify::is_possible(&self.identity.digest) && disk.proven() == Verified::None
    }

    /// True for the one who is to verify the whole.
    pub(super) fn begin_check(&self) -> bool {
        let mut state = self.state();
        let idle = state.check == Check::Idle;
        if idle {
            state.check = Check::Running;
        }
        idle
    }

    /// Notes how the verification ended. Only then do those who wait for it go on.
    pub(super) fn set_check(&self, check: Check, error: Option<String>) {
        {
            let mut state = self.state();
            state.check = check;
            if error.is_some() {
                state.last_error = error;
            }
        }
        self.hold.release();
    }

    /// The whole matched its hash: no read waits, now or later.
    pub(super) fn waive_hold(&self) {
        self.hold.waive();
    }

    /// What was hashed of it as it came.
    pub(super) fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The whole did not match: no byte of this copy may be read any more.
    pub(super) fn check_intact(&self) -> Result<()> {
        let state = self.state();
        if state.check == Check::Failed {
            let why = state.last_error.clone().unwrap_or_default();
            return Err(Error::new(Kind::Integrity, why));
        }
        Ok(())
    }

    /// The disk tier if it is open by now.
    pub(super) fn disk_now(&self) -> Option<&Arc<DiskImage>> {
        self.disk.get()?.as_ref()
    }

    /// The disk tier, opened first if need be.
    pub(super) async fn disk(&self) -> Option<Arc<DiskImage>> {
        let open = || async {
            let (folder, identity) = (Arc::clone(&self.core.folder), self.identity.clone());
            let opening = self.core.on_disk_thread(move || DiskImage::open(folder, identity));
            match tokio::time::timeout(DISK_PATIENCE, opening).await {
                Ok(Some(Ok(disk))) => {
                    let disk = Arc::new(disk);
                    if self.is_unproven(&disk) && !disk.was_proven() {
                        // Complete since the last process, which ended too early. Before anybody reads it.
                        self.hold.hold(last_block(self.identity.size));
                    }
                    Some(disk)
                }
                Ok(Some(Err(error))) => {
                    self.core.health.failed("opening a cached image", &error);
                    None
                }
                Ok(None) => None,
                Err(_) => {
                    self.core.health.failed("opening a cached image", &"the disk took too long");
                    None
                }
            }
        };
        let first = self.disk.get().is_none();
        let disk = self.disk.get_or_init(open).await.clone();
        if first {
            self.verify_if_complete(None);
        }
        disk
    }
}

/// The block that a reader from the beginning comes to last.
fn last_block(size: u64) -> BlockRange {
    let all = BlockRange::of_image(size);
    BlockRange { start: BlockIndex(all.end.0.saturating_sub(1)), ..all }
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
