//! One image's cached bytes, shared by all handles: what is known of them, and their disk tier.
//!
//! `demand` reads them, `arrival` takes what transfers bring, `fill` and `whole` bring what nobody waits for yet.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::error::{Error, Kind, Result};
use crate::source::{Pace, Source, SourceKind};
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange};

use super::backing::Backing;
use super::disk::DiskImage;
use super::flight::Flights;
use super::follow::Prefix;
use super::hold::{Hold, Quiet};
use super::identity::{ContentIdentity, Digest, Key, Verified};
use super::{Core, verify};

/// How long the cache disk may take for one read before the blocks are fetched instead.
pub(super) const DISK_PATIENCE: Duration = Duration::from_secs(5);
/// How long an open may wait to learn whether the image can be read past us.
const BACKING_PATIENCE: Duration = Duration::from_secs(1);

/// One image's cached bytes, shared by all handles.
pub struct CachedImage {
    core: Arc<Core>,
    /// Itself, for the tasks it starts.
    pub(super) me: Weak<CachedImage>,
    identity: ContentIdentity,
    key: Key,
    source: Arc<dyn Source>,
    /// Opened in the background; `Some(None)`: the disk could not be used.
    disk: OnceCell<Option<Arc<DiskImage>>>,
    pub(super) flights: Arc<Flights>,
    handles: AtomicU64,
    state: Mutex<State>,
    pub(super) hold: Hold,
    prefix: Prefix,
    /// A person was told that blocks on disk are damaged.
    is_damage_told: AtomicBool,
}

#[derive(Default)]
struct State {
    last_error: Option<String>,
    check: Check,
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
        let hold = Hold::new(core.verify_wait, core.verify && verify::is_possible(&identity.digest));
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
            is_damage_told: AtomicBool::new(false),
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

    /// The block is in memory or on disk, as far as can be told without waiting.
    pub(super) fn has(&self, block: BlockIndex) -> bool {
        self.core.memory.contains(self.key, block) || self.disk_now().is_some_and(|disk| disk.has(block))
    }

    /// A transfer is bringing the block.
    pub(super) fn is_on_its_way(&self, block: BlockIndex) -> bool {
        self.flights.covers(block)
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
            Ok(Some(file)) => return Some(Backing::of_cache(file)),
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

    /// The whole has a hash that can be compared, and is to be.
    pub fn is_verifiable(&self) -> bool {
        self.core.verify && verify::is_possible(&self.identity.digest)
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

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
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

    /// So many blocks on disk did not match their checksums. Told once: a disk that flips one bit flips others.
    pub(super) fn note_damage(&self, blocks: u64) {
        self.core.counters.damaged.add(blocks);
        if blocks > 0 && !self.is_damage_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                image = %self.identity.image, key = %self.key,
                "blocks of this image in the cache are damaged, by a crash or by the disk: they are fetched again"
            );
        }
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

    /// Notes that the verification stops, as at `quiet` or later a block was missing: the next one that comes begins
    /// it again. Those who wait go on, unless something has come since then, or is on its way.
    pub(super) fn suspend_check(&self, quiet: Option<Quiet>) {
        self.state().check = Check::Idle;
        if let Some(quiet) = quiet {
            self.hold.release_since(quiet);
        }
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

    /// Whether there is a disk tier is known: it was opened, or cannot be used.
    pub(super) fn is_disk_known(&self) -> bool {
        self.disk.get().is_some()
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
                Ok(Some(Err(error))) if error.kind() == Kind::TooLarge => {
                    tracing::warn!(image = %self.identity.image, size = self.identity.size, "{error}");
                    None
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
