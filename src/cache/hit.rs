//! Hits on the cache disk: what is all there is read once, into the buffer that becomes the reply.

use std::sync::Arc;

use bytes::Bytes;

use crate::units::{BlockRange, ByteRange};

use super::disk::files::Wait;
use super::image::{CachedImage, DISK_PATIENCE};

impl CachedImage {
    /// The bytes of `range` if its blocks are all on disk and in the page cache.
    pub(super) fn try_hit(&self, range: ByteRange) -> Option<Bytes> {
        let blocks = range.blocks();
        let disk = self.disk_now().filter(|disk| disk.has_all(blocks))?;
        let whole = disk.read_whole(blocks, Wait::Never, &self.core().buffers)?;
        Some(self.cut(range, blocks, whole))
    }

    /// The bytes of `range` if its blocks are all on disk and intact, read on a thread that may wait.
    pub(super) async fn hit(&self, range: ByteRange) -> Option<Bytes> {
        let blocks = range.blocks();
        let disk = self.disk_now().filter(|disk| disk.has_all(blocks) && self.core().health.is_well())?;
        let (disk, buffers) = (Arc::clone(disk), self.core().buffers.clone());
        let reading = self.core().on_disk_thread(move || disk.read_whole(blocks, Wait::ForDisk, &buffers));
        let Ok(whole) = tokio::time::timeout(DISK_PATIENCE, reading).await else {
            self.core().health.failed("reading the cache", &"the disk took too long");
            return None;
        };
        Some(self.cut(range, blocks, whole??))
    }

    /// Takes `range` out of the blocks that hold it.
    ///
    /// A block of which only a part was wanted is kept for a while: its other parts are likely wanted next,
    /// and each time its checksum would cost all of it.
    fn cut(&self, range: ByteRange, blocks: BlockRange, whole: Bytes) -> Bytes {
        self.core().counters.disk_hits.add(blocks.len());
        if blocks.len() == 1 && range.len() < whole.len() as u64 {
            self.core().memory.lend(self.key(), blocks.start, whole.clone());
        }
        let skipped = range.start - blocks.start.offset();
        // Within a buffer in memory: both fit a usize.
        whole.slice(skipped as usize..(skipped + range.len()) as usize)
    }
}
