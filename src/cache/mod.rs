//! Sole owner of cached bytes: memory LRU, then sparse file and index on disk, then single flight.
//!
//! A read looks in `memory`, then on `disk`, then waits for the transfer that brings its blocks or
//! starts one (`flight`, `transfer`). What arrives goes to the waiters and to memory at once, and to the
//! disk behind their back (`writer`). The whole image is hashed once, as its blocks come (`follow`) and
//! when it is complete (`verify`); the read that completes it waits for the outcome (`hold`).
//! `fill` brings blocks that nobody waits for yet, `whole` all of an image, and drops it; `keep` forbids that.
//!
//! Locks, in the order in which they may be taken: an image's flights, then memory. All others are
//! leaves. None is held across an await or a disk operation, except those of the disk layer, which are
//! only taken on threads that may wait.

mod adopt;
mod arrival;
mod backing;
mod demand;
mod disk;
mod fill;
mod flight;
mod follow;
#[doc(hidden)]
pub mod fuzzing;
mod hit;
mod hold;
mod identity;
mod image;
mod inspect;
mod keep;
mod memory;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;
mod verify;
mod whole;
mod writer;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast};

use crate::allocator;
use crate::budget::{Budget, memory_limit};
use crate::config::CacheConfig;
use crate::error::{Error, Result};
use crate::metrics::CacheCounters;
use crate::source::Source;
use crate::units::{BLOCK_SIZE, BlockRange, ImageId};

use self::disk::DiskImage;
use self::disk::buffers::Buffers;
use self::disk::evict::Tenants;
use self::disk::files::BATCH_BLOCKS;
use self::disk::folder::Folder;
use self::disk::health::Health;
use self::disk::space::Space;
use self::follow::Follower;
use self::memory::Memory;
use self::writer::Writer;

pub use self::backing::{Backing, FileVersion};
pub use self::demand::Found;
pub use self::identity::{ContentIdentity, Digest, Key, Verified};
pub use self::image::CachedImage;
pub use self::inspect::{Inspection, inspect};
pub use self::keep::Kept;
pub use self::verify::Mismatch;
pub use self::whole::{Evicted, Holding, Usage};

/// Disk reads at once. More would only queue in the kernel, and each takes a thread.
const DISK_THREADS: usize = 8;
/// How often it is written down when blocks were last used. Eviction looks at minutes.
const STAMP_PERIOD: Duration = Duration::from_secs(60);
/// How often the buffers go that were not needed since the last time: long beside the time in which a new one is zeroed.
const BUFFER_PERIOD: Duration = Duration::from_secs(5);
/// How long an unmount waits for what is queued for the disk: it is only a cache.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(10);
/// Mismatches that a slow listener may be behind.
const MISMATCHES_KEPT: usize = 64;
/// Proofs kept for whom they interest; one that is missed costs a little memory for a while.
const PROOFS_KEPT: usize = 64;

/// Images that are verified at the same time: half of the cores, since a reader waits for each, and no
/// more than four, since each reads its copy from disk where it is not in the page cache.
fn verifications() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).clamp(1, 4)
}

/// The cache of this process; cheap to clone.
#[derive(Clone)]
pub struct Cache {
    core: Arc<Core>,
}

/// The disk of the cache for those who keep other things on it: they, too, leave it alone for a while after it failed,
/// and a person is told once.
#[derive(Clone)]
pub struct DiskWatch {
    core: Arc<Core>,
}

impl DiskWatch {
    /// The disk may be used.
    pub fn is_well(&self) -> bool {
        self.core.health.is_well()
    }

    /// It failed while doing `what`.
    pub fn failed(&self, what: &str, error: &Error) {
        self.core.health.failed(what, error);
    }
}

/// What the images of a cache share.
struct Core {
    runtime: Handle,
    folder: Arc<Folder>,
    space: Space,
    health: Health,
    budget: Arc<Budget>,
    memory: Memory,
    buffers: Buffers,
    writer: Writer,
    disk_threads: Arc<Semaphore>,
    /// A permit for each image that may be verified at the same time.
    verify_turn: Semaphore,
    /// Whole images are compared with their hash.
    verify: bool,
    /// How long the read that completes an image waits for the verdict.
    verify_wait: Option<Duration>,
    follower: Follower,
    images: Mutex<HashMap<Key, Weak<CachedImage>>>,
    kept: Mutex<keep::KeptImages>,
    counters: CacheCounters,
    mismatches: broadcast::Sender<Mismatch>,
    /// Images of which the whole was proven just now.
    proofs: broadcast::Sender<ImageId>,
}

impl Cache {
    /// Opens or creates the cache folder (0700; tightened when ours, refused when not) without walking it.
    ///
    /// # Errors
    /// `Config`, with a cure: the folder cannot be used.
    pub fn open(config: &CacheConfig, runtime: Handle) -> Result<Self> {
        let budget = Budget::new(memory_limit(config.memory_limit));
        let core = Arc::new(Core {
            folder: Arc::new(Folder::open(&config.dir)?),
            space: Space::new(config.size, config.free_floor_percent),
            health: Health::default(),
            memory: Memory::new(Arc::clone(&budget)),
            buffers: Buffers::default(),
            writer: Writer::new(budget.limit()),
            budget,
            disk_threads: Arc::new(Semaphore::new(DISK_THREADS)),
            verify_turn: Semaphore::new(verifications()),
            verify: config.verify,
            verify_wait: config.verify_wait,
            follower: Follower::start(),
            images: Mutex::default(),
            kept: Mutex::default(),
            counters: CacheCounters::default(),
            mismatches: broadcast::Sender::new(MISMATCHES_KEPT),
            proofs: broadcast::Sender::new(PROOFS_KEPT),
            runtime,
        });
        core.runtime.spawn(write_stamps_now_and_then(Arc::downgrade(&core)));
        core.runtime.spawn(let_buffers_go_now_and_then(Arc::downgrade(&core)));
        Ok(Self { core })
    }

    /// The cached image of this identity: the same object for every handle while one is alive.
    ///
    /// `source` is used by the first caller; later callers get the image with the source it has.
    pub fn image(&self, identity: &ContentIdentity, source: Arc<dyn Source>) -> Arc<CachedImage> {
        let key = identity.key();
        let image = {
            let mut images = self.core.images();
            if let Some(image) = images.get(&key).and_then(Weak::upgrade) {
                return image;
            }
            // Those that nobody has open any more, cleaned up when the table would grow.
            if images.len() == images.capacity() {
                images.retain(|_, image| image.strong_count() > 0);
            }
            let core = Arc::clone(&self.core);
            let image =
                Arc::new_cyclic(|me| CachedImage::new(core, Weak::clone(me), identity.clone(), source));
            images.insert(key, Arc::downgrade(&image));
            image
        };
        // Opened while the caller goes on: its first read will find the disk tier ready.
        let opening = Arc::clone(&image);
        self.core.runtime.spawn(async move { opening.disk().await.is_some() });
        image
    }

    /// What is on disk of this identity, in bytes, without opening it for use (for xattrs).
    /// Reads the image's index: milliseconds for a very large image.
    pub fn cached_bytes(&self, identity: &ContentIdentity) -> u64 {
        match self.core.open_image(identity.key()) {
            Some(image) => image.cached_bytes(),
            None => self.core.peek(identity).map_or(0, |disk| disk.present_bytes()),
        }
    }

    /// How far the copy on disk of this identity is proven, without opening it for use (for xattrs).
    pub fn verified(&self, identity: &ContentIdentity) -> Verified {
        match self.core.open_image(identity.key()) {
            Some(image) => image.verified(),
            None => self.core.peek(identity).map_or(Verified::None, |disk| disk.proven()),
        }
    }

    /// Gives back the memory of images that are no longer listed, but of those that somebody has open: nobody else will ask for
    /// their blocks, which would stay until others want the room. On disk they are left to eviction.
    pub fn forget_gone(&self, images: &HashSet<Key>) {
        let is_open = |key| self.core.open_image(key).is_some();
        let doomed: HashSet<Key> = images.iter().copied().filter(|&key| !is_open(key)).collect();
        self.core.memory.purge_all(|image| doomed.contains(&image));
    }

    /// Where the last list of images of a cloud, as a project sees it, is saved.
    pub fn catalog_file(&self, cloud: &str, project: Option<&str>) -> PathBuf {
        self.core.folder.path().join("v1").join(format!("{}.list", identity::list_key(cloud, project)))
    }

    /// The private folder in which what logins told is kept, beside the saved lists.
    pub fn logins_folder(&self) -> PathBuf {
        self.core.folder.path().join("v1")
    }

    /// The disk that it is on.
    pub fn disk_watch(&self) -> DiskWatch {
        DiskWatch { core: Arc::clone(&self.core) }
    }

    /// Where boot profiles are kept (see `read::profile`): beside the blocks, which they outlive.
    pub fn profiles_folder(&self) -> PathBuf {
        self.core.folder.path().join("v1/profiles")
    }

    /// Takes over an uploaded spool file as the complete, verified copy of `identity`: `file` is
    /// moved when it is on the same file system, and left alone (not an error) when it is not.
    /// The caller vouches that it hashed exactly these bytes while it sent them. Reads the whole
    /// file: call it from a thread that may wait.
    ///
    /// # Errors
    /// `Integrity`: the file has not the size of the image. `Io` and `NoSpace` of the disk.
    pub fn adopt(&self, identity: &ContentIdentity, file: &Path) -> Result<()> {
        adopt::adopt(&self.core.folder, identity, file)?;
        Ok(())
    }

    /// Every later image that turns out not to match its hash: what else holds bytes of it, such as
    /// the kernel's page cache, must drop them.
    pub fn mismatches(&self) -> broadcast::Receiver<Mismatch> {
        self.core.mismatches.subscribe()
    }

    /// Images of which the whole matches its hash, from now on.
    pub fn proofs(&self) -> broadcast::Receiver<ImageId> {
        self.core.proofs.subscribe()
    }

    /// What the cache did so far.
    pub fn counters(&self) -> &CacheCounters {
        &self.core.counters
    }

    /// Bytes of blocks in memory, and the limit for them and for transfers together.
    pub fn memory(&self) -> (u64, u64) {
        (self.core.memory.bytes(), self.core.budget.limit())
    }

    /// Bytes that left memory to make room.
    pub fn memory_evicted(&self) -> u64 {
        self.core.memory.evicted()
    }

    /// The budget that blocks and transfers share, and how much of it is held by data on their way, in bytes.
    pub fn budget(&self) -> (u64, u64) {
        (self.core.budget.limit(), self.core.budget.held())
    }

    /// Writes out what has to survive (blocks on their way to the disk, access times); for unmount.
    /// Bounded in time.
    pub async fn shut_down(&self) {
        self.core.writer.flush(SHUT_DOWN_LIMIT).await;
        let core = Arc::clone(&self.core);
        let stamps = self.core.runtime.spawn_blocking(move || Tenants::write_stamps(&*core));
        tokio::time::timeout(SHUT_DOWN_LIMIT, stamps).await.ok();
    }
}

impl Core {
    fn images(&self) -> MutexGuard<'_, HashMap<Key, Weak<CachedImage>>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_image(&self, key: Key) -> Option<Arc<CachedImage>> {
        self.images().get(&key).and_then(Weak::upgrade)
    }

    /// The next open of this identity gets a new object.
    fn forget_image(&self, image: &Arc<CachedImage>) {
        let mut images = self.images();
        if images.get(&image.key()).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(image))) {
            images.remove(&image.key());
        }
        drop(images);
        self.memory.purge(image.key());
    }

    /// A look at the disk tier of an image that is not open. Waits for the disk, shortly.
    fn peek(&self, identity: &ContentIdentity) -> Option<DiskImage> {
        DiskImage::open(Arc::clone(&self.folder), identity.clone()).ok()
    }

    /// Runs `job` on a thread that may wait for the disk; `None`: the runtime is shutting down.
    async fn on_disk_thread<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let permit = Arc::clone(&self.disk_threads).acquire_owned().await.ok()?;
        let job = move || {
            // Until the job is over, also when nobody waits for it any more.
            let _permit = permit;
            job()
        };
        self.runtime.spawn_blocking(job).await.ok()
    }

    /// Blocks in one write: no more than a sixteenth of the cache, so that a small one is used well.
    fn longest_write(&self) -> usize {
        (self.space.limit() / 16 / BLOCK_SIZE).clamp(1, BATCH_BLOCKS) as usize
    }

    /// There is room on disk for `bytes`, or it could be made. Called by the writer only.
    fn admit(&self, bytes: u64) -> bool {
        if !self.health.is_well() {
            return false;
        }
        let mut freed = 0;
        let admitted = self.space.admit(&self.folder, bytes, self, &mut freed);
        self.counters.evicted_bytes.add(freed);
        admitted.unwrap_or_else(|error| {
            self.health.failed("making room in the cache", &error);
            false
        })
    }
}

impl Tenants for Core {
    fn write_stamps(&self) {
        let images: Vec<_> = self.images().values().filter_map(Weak::upgrade).collect();
        for image in images {
            if let Some(disk) = image.disk_now()
                && let Err(error) = disk.write_stamps()
            {
                self.health.failed("writing to the cache", &error);
            }
        }
    }

    fn forgotten(&self, key: Key, blocks: BlockRange) {
        if let Some(image) = self.open_image(key)
            && let Some(disk) = image.disk_now()
        {
            disk.mark_absent(blocks);
        }
    }
}

async fn write_stamps_now_and_then(core: Weak<Core>) {
    loop {
        tokio::time::sleep(STAMP_PERIOD).await;
        let Some(core) = core.upgrade() else { return };
        let runtime = core.runtime.clone();
        runtime.spawn_blocking(move || Tenants::write_stamps(&*core)).await.ok();
    }
}

/// The buffers that many readers at once made us take go when they are gone.
async fn let_buffers_go_now_and_then(core: Weak<Core>) {
    loop {
        tokio::time::sleep(BUFFER_PERIOD).await;
        let Some(core) = core.upgrade() else { return };
        if core.buffers.let_go_of_unneeded() {
            let runtime = core.runtime.clone();
            drop(core);
            runtime.spawn_blocking(allocator::give_memory_back).await.ok();
        }
    }
}
