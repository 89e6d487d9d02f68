//! Whole images: brought completely and proven, or dropped, at somebody's word.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::allocator;
use crate::error::{Error, Kind, Result};
use crate::units::{BlockIndex, BlockRange, ByteSize, human_bytes};

use super::disk::evict::evict_image;
use super::image::CachedImage;
use super::writer::Patience;
use super::{Cache, ContentIdentity, Verified};

/// Times that what the disk did not keep is brought again: it was busy for a moment, or another process
/// needed the room. A disk that keeps nothing three times over is not worth a fourth download.
const ROUNDS: u32 = 3;
/// Streams that are waited for in one round. One brings everything, unless the disk was too slow to keep it.
const STREAMS: u32 = 2;
/// Between two looks at something that others bring about: short for a person, long for a processor.
const LOOK: Duration = Duration::from_millis(50);
/// How long the disk may take for what is queued for it: 64 MiB at 1 MB/s.
const WRITING: Duration = Duration::from_secs(60);
/// How long the verification of a complete image may take to begin: it does so with its last write.
const BEGINNING: Duration = Duration::from_secs(5);
/// How long another process may be making room in the cache before an eviction gives up.
const TURN: Duration = Duration::from_secs(10);

/// What became of an image that was to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Bytes freed on disk.
    pub freed: u64,
    /// Bytes that are still here: in the copy of another image of the same content, or just read again.
    pub left: u64,
}

/// What the cache occupies.
#[derive(Debug, Clone)]
pub struct Usage {
    /// The cache folder.
    pub folder: PathBuf,
    /// Bytes of all images on disk, those of other mounts included.
    pub bytes: u64,
    /// The most that they may be.
    pub limit: u64,
}

/// What is here of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Bytes on disk or in memory; never 0.
    pub bytes: u64,
    /// How far the whole is proven.
    pub verified: Verified,
}

impl CachedImage {
    /// Brings all of the image to the cache disk, with up to `at_once` requests under way, behind those
    /// who read. Dropping the future ends it and leaves what came.
    ///
    /// # Errors
    /// `NoSpace`: it does not fit, which is told before anything is fetched, or the disk did not keep it.
    /// Those of the source; `Integrity` when the image did not match its hash.
    pub async fn complete(self: &Arc<Self>, at_once: usize) -> Result<()> {
        let all = BlockRange::of_image(self.size());
        let Some(disk) = self.disk().await else {
            return Err(Error::new(
                Kind::Io,
                "the disk of the cache cannot be used: see the log of the mount",
            ));
        };
        if all.iter().all(|block| disk.has(block)) {
            return Ok(());
        }
        self.fits(0).await?;
        for _ in 0..ROUNDS {
            self.fill(vec![all], at_once).await?;
            self.stream(all).await?;
            // What others had asked for already comes with their transfers, each of which has an end.
            for block in all.iter() {
                while !disk.has(block) && self.is_on_its_way(block) {
                    tokio::time::sleep(LOOK).await;
                }
            }
            self.write_rest(all).await;
            self.core().writer.flush(WRITING).await;
            self.check_intact()?;
            if all.iter().all(|block| disk.has(block)) {
                return Ok(());
            }
        }
        let (kept, size) = (human_bytes(disk.present_bytes()), human_bytes(self.size()));
        let why = "its disk is full, failing or too slow, or others need the room: see the log of the mount";
        Err(Error::new(Kind::NoSpace, format!("the cache keeps only {kept} of {size}: {why}")))
    }

    /// Waits for the verdict on a complete image. `None`: it has no hash that could be compared.
    ///
    /// # Errors
    /// `Integrity`: it does not match. `Io`: it was not verified for a reason of this host.
    pub async fn proof(&self) -> Result<Verified> {
        let mut idle: Option<Instant> = None;
        loop {
            self.check_intact()?;
            match self.verified() {
                Verified::Pending => idle = None,
                Verified::None if self.is_verifiable() && self.size() > 0 => {
                    if idle.get_or_insert_with(Instant::now).elapsed() > BEGINNING {
                        let why = "all of it came, but it was not verified: see the log of the mount";
                        return Err(Error::new(Kind::Io, why));
                    }
                }
                proof => return Ok(proof),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Brings what is missing of an image that comes as one stream; of another, nothing.
    async fn stream(&self, all: BlockRange) -> Result<()> {
        for _ in 0..STREAMS {
            let absent = |block: &BlockIndex| !self.has(*block);
            let Some(last) = all.iter().rev().find(absent).filter(|_| self.is_streamed()) else { break };
            // Whoever waits for the last block keeps the stream going.
            let range = last.bytes(self.size());
            self.read(range, range).await?;
        }
        Ok(())
    }

    /// It is no larger than what the cache may hold beside `others`, the bytes of images that stay there.
    pub(super) async fn fits(&self, others: u64) -> Result<()> {
        let core = Arc::clone(self.core());
        let looked = self.core().on_disk_thread(move || core.space.occupied(&core.folder)).await;
        let Some(looked) = looked else { return Ok(()) };
        let (_, most) = looked.map_err(|error| Error::io("looking at the cache", error))?;
        let size = self.size();
        let needed = size.saturating_add(others);
        if needed <= most {
            return Ok(());
        }
        let limit = self.core().space.limit();
        let shown = match others {
            0 => human_bytes(size),
            _ => format!("{}, beside {} that are held,", human_bytes(size), human_bytes(others)),
        };
        let message = match needed > limit {
            true => format!(
                "it has {shown} and the cache may hold {}: mount with a larger --cache-size",
                ByteSize(limit)
            ),
            false => format!(
                "it has {shown} and the disk of the cache has room for {}: free some, or use another disk with --cache-dir",
                human_bytes(most)
            ),
        };
        Err(Error::new(Kind::NoSpace, message))
    }

    /// Queues for the disk what is in memory only: there was no room in the queue when it came.
    async fn write_rest(self: &Arc<Self>, all: BlockRange) {
        let mut patience = Patience::of_transfer(true);
        for block in all.iter() {
            if self.disk_now().is_none_or(|disk| disk.has(block)) {
                continue;
            }
            if let Some(bytes) = self.core().memory.get(self.key(), block) {
                self.core().writer.offer_patiently(self.core(), self, block, bytes, &mut patience).await;
            }
        }
    }
}

impl Cache {
    /// Drops what is cached of this identity, on disk and in memory, also while it is open.
    ///
    /// # Errors
    /// `Busy`: programs read its file past us, or other processes are making room all the time. `Io` of
    /// the disk.
    pub async fn evict(&self, identity: &ContentIdentity) -> Result<Evicted> {
        let failed = |error| Error::io("dropping an image from the cache", error);
        let gone = || Error::new(Kind::Interrupted, "the mount is ending");
        let key = identity.key();
        self.core.memory.purge(key);
        // What is queued would come back.
        self.core.writer.flush(WRITING).await;
        let deadline = Instant::now() + TURN;
        let freed = loop {
            let core = Arc::clone(&self.core);
            let evicting = self.core.on_disk_thread(move || {
                let Some(_turn) = core.folder.lock_eviction()? else { return Ok(None) };
                io::Result::Ok(Some(evict_image(&core.folder, key, &*core)?))
            });
            match evicting.await.ok_or_else(gone)?.map_err(failed)? {
                Some(Some(freed)) => break freed,
                Some(None) => {
                    let why = "the image is held, or read straight from the cache: close it first";
                    return Err(Error::new(Kind::Busy, why));
                }
                None if Instant::now() > deadline => {
                    return Err(Error::new(
                        Kind::Busy,
                        "other mounts are making room in the cache: try again",
                    ));
                }
                None => tokio::time::sleep(LOOK).await,
            }
        };
        // Blocks read meanwhile may have been put back.
        self.core.memory.purge(key);
        self.core.space.count_again();
        self.core.counters.evicted_bytes.add(freed);
        let (cache, identity, size) = (self.clone(), identity.clone(), identity.size);
        let left = self.core.on_disk_thread(move || {
            // Whoever evicts an image wants its memory back, too.
            allocator::give_memory_back();
            cache.cached_bytes(&identity)
        });
        let left = left.await;
        Ok(Evicted { freed: freed.min(size), left: left.unwrap_or(0) })
    }

    /// What the cache occupies. Waits for the disk.
    ///
    /// # Errors
    /// `Io`.
    pub fn usage(&self) -> Result<Usage> {
        let folder = &self.core.folder;
        let occupied = self.core.space.occupied(folder);
        let (bytes, _) = occupied.map_err(|error| Error::io("looking at the cache", error))?;
        Ok(Usage { folder: folder.path().to_owned(), bytes, limit: self.core.space.limit() })
    }

    /// Those of `images` of which something is here, and what. Waits for the disk, longer for each of these and
    /// hardly at all for the others.
    ///
    /// # Errors
    /// `Io`.
    pub fn holdings<T>(
        &self,
        images: impl IntoIterator<Item = (T, ContentIdentity)>,
    ) -> Result<Vec<(T, Holding)>> {
        let failed = |error| Error::io("looking at the cache", error);
        let mut named = HashSet::new();
        self.core.folder.each_image(|key, _| named.extend([key])).map_err(failed)?;
        self.core.folder.each_content(|content| named.extend([content])).map_err(failed)?;
        let look = |(image, identity): (T, ContentIdentity)| {
            let key = identity.key();
            let known = named.contains(&key)
                || identity.content_key().is_some_and(|content| named.contains(&content))
                || self.core.open_image(key).is_some();
            let bytes = if known { self.cached_bytes(&identity) } else { 0 };
            (bytes > 0).then(|| (image, Holding { bytes, verified: self.verified(&identity) }))
        };
        Ok(images.into_iter().filter_map(look).collect())
    }
}
