//! Filling: blocks come into the cache before anybody reads them, behind those that somebody waits for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::error::{Kind, Result};
use crate::source::Urgency;
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange};

use super::image::CachedImage;
use super::transfer;

/// The wait before memory or a connection is asked for again: long enough to cost nothing, short beside
/// a request to a distant server.
const PAUSE: Duration = Duration::from_millis(5);

impl CachedImage {
    /// Brings what is missing of `runs`, in their order, with up to `at_once` requests under way.
    ///
    /// It takes no connection and no memory that a reader could use, and waits for both as long as
    /// it must. Dropping the future ends it; what was asked for by then still arrives. What the disk could
    /// not keep is not asked for again: see [`CachedImage::cached_bytes`]. Of an image that comes as one stream
    /// it brings nothing: that would be all of it.
    ///
    /// # Errors
    /// Those of the source; `Integrity` when the whole image did not match its hash.
    pub async fn fill(self: &Arc<Self>, runs: Vec<BlockRange>, at_once: usize) -> Result<()> {
        // What is here already shows in the index only once that is open.
        self.disk().await;
        // A part of memory that is surely free at times, however small the whole.
        let piece = (self.piece() as u64).min(self.memory_limit() / 8 / BLOCK_SIZE);
        let pieces: Vec<_> = runs.iter().flat_map(|run| cut(*run, piece)).collect();
        let begun = stream::iter(pieces).map(|blocks| self.bring(blocks)).buffer_unordered(at_once.max(1));
        begun.try_for_each(|()| std::future::ready(Ok(()))).await
    }

    /// Brings what is missing of `blocks`, unless the image turns out to come as a stream.
    async fn bring(self: &Arc<Self>, mut blocks: BlockRange) -> Result<()> {
        loop {
            self.check_intact()?;
            if self.is_streamed() || blocks.iter().all(|block| self.has(block)) {
                return Ok(());
            }
            if !self.core().writer.has_room() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            // Memory first: a run that is claimed must move, since readers wait for it from then on.
            let Some(held) = self.core().budget.try_hold(blocks.bytes(self.size()).len()) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Some(ticket) = self.claim_next(blocks) else { return Ok(()) };
            let end = ticket.rest().end;
            // A task of its own: readers who joined keep it when this fill is dropped.
            let run = transfer::run(Arc::clone(self), ticket, Urgency::Prefetch, held);
            match self.core().runtime.spawn(run).await {
                Ok(Ok(())) => {
                    // Memory is for what is read; this is on disk, and in its page cache for a while.
                    self.let_pass(BlockRange { end, ..blocks }.bytes(self.size()));
                    // Never twice, also when neither memory nor disk could keep it.
                    blocks.start = end;
                }
                Ok(Err(error)) if error.kind() == Kind::Busy => tokio::time::sleep(PAUSE).await,
                Ok(Err(error)) => return Err(error),
                // The runtime is shutting down.
                Err(_) => return Ok(()),
            }
        }
    }
}

/// `run` in parts of at most `piece` blocks.
fn cut(run: BlockRange, piece: u64) -> impl Iterator<Item = BlockRange> {
    let piece = piece.max(1);
    (0..run.len().div_ceil(piece)).map(move |at| {
        let start = BlockIndex(run.start.0 + at * piece);
        BlockRange { start, end: BlockIndex(run.end.0.min(start.0 + piece)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_cut_without_a_gap() {
        let run = BlockRange { start: BlockIndex(3), end: BlockIndex(14) };
        let parts: Vec<_> = cut(run, 4).map(|part| (part.start.0, part.end.0)).collect();
        assert_eq!(parts, [(3, 7), (7, 11), (11, 14)]);
        assert_eq!(cut(BlockRange { start: BlockIndex(3), end: BlockIndex(3) }, 4).count(), 0);
    }
}
