//! One transfer at work: chunks from a source become whole blocks, which go to those who wait, to memory
//! and to the disk, in this order of haste.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;

use crate::budget::Held;
use crate::error::{Error, Kind, Result};
use crate::metrics::CacheCounters;
use crate::source::{Transfer, Urgency};
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange, ByteRange};

use super::flight::Ticket;
use super::image::CachedImage;
use super::writer::Patience;

/// A stream goes on for so long after the last handle was closed: programs open and close in turns.
const STREAM_LINGER: Duration = Duration::from_secs(5);
/// A stream with no more than this to bring is finished in any case: nearly complete copies are worth it.
const STREAM_TAIL: u64 = 16 << 20;
/// What a stream holds of the budget: its buffers, whatever the size of the image.
pub(super) const STREAM_BYTES: u64 = 1 << 20;

/// Brings the blocks of `ticket`.
///
/// # Errors
/// Why they did not come; those who waited for them were told. `Busy`: a prefetch found no connection.
pub(super) async fn run(
    image: Arc<CachedImage>,
    mut ticket: Ticket,
    urgency: Urgency,
    mut held: Held,
) -> Result<()> {
    let whole = BlockRange::of_image(image.size());
    let mut stream = ticket.rest() == whole && image.is_streamed();
    loop {
        let asked = ticket.rest().bytes(image.size());
        let outcome = match image.source().fetch(asked, urgency).await {
            Ok(transfer) => pump(&image, &ticket, transfer, asked, stream, &mut held).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) if !stream => return Ok(()),
            Ok(()) => {}
            Err(error) if error.kind() == Kind::RangeUnsupported => {}
            // Nobody waits for a prefetch that found no connection; who joined looks again and asks himself.
            Err(error) if error.kind() == Kind::Busy && urgency == Urgency::Prefetch => return Err(error),
            Err(error) => {
                image.note_failure(&error);
                ticket.fail(&error);
                return Err(error);
            }
        }
        // A stream over everything: the range was refused, or somebody wants what the last one passed.
        if !ticket.restart_as_stream(whole) {
            return Ok(());
        }
        stream = true;
    }
}

/// Takes the chunks of one transfer apart into blocks until its end.
async fn pump(
    image: &Arc<CachedImage>,
    ticket: &Ticket,
    mut transfer: Transfer,
    asked: ByteRange,
    stream: bool,
    held: &mut Held,
) -> Result<()> {
    if !transfer.range.contains(asked) {
        let got = transfer.range;
        return Err(Error::new(Kind::Integrity, format!("the source gave {got} when asked for {asked}")));
    }
    let mut blocks = Assembler::new(transfer.range, image.size());
    let mut account = Account { counters: &image.core().counters, unused: 0 };
    let mut idle: Option<Instant> = None;
    let mut patience = Patience::of_transfer(stream);
    while let Some(chunk) = transfer.chunks.next().await {
        let mut chunk = chunk?;
        account.came(chunk.len() as u64);
        while let Some((block, bytes)) = blocks.take(&mut chunk)? {
            let len = bytes.len() as u64;
            if image.publish(ticket, block, bytes, &mut patience).await {
                account.unused -= len;
            }
            if !stream {
                // In memory now, and counted there.
                held.release(len);
            }
        }
        if stream {
            let wanted = image.is_open() || ticket.has_waiters();
            let since = (!wanted).then(|| *idle.get_or_insert_with(Instant::now));
            match since {
                None => idle = None,
                Some(since) if since.elapsed() > STREAM_LINGER && blocks.left() > STREAM_TAIL => {
                    tracing::debug!(image = %image.key(), "nobody reads this stream any more");
                    return Ok(());
                }
                Some(_) => {}
            }
        }
    }
    match blocks.left() {
        0 => Ok(()),
        left => Err(Error::new(Kind::Integrity, format!("a transfer ended {left} bytes early"))),
    }
}

/// The bytes of one transfer: what was of no use when it ends, however it does, was wasted.
struct Account<'a> {
    counters: &'a CacheCounters,
    unused: u64,
}

impl Account<'_> {
    fn came(&mut self, bytes: u64) {
        self.counters.fetched_bytes.add(bytes);
        self.unused += bytes;
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        self.counters.wasted_bytes.add(self.unused);
    }
}

/// Cuts contiguous bytes into whole blocks, each in a buffer of its own: a slice of a larger buffer would
/// keep all of it in memory for as long as one block is cached.
struct Assembler {
    rest: ByteRange,
    size: u64,
    buffer: Vec<u8>,
}

impl Assembler {
    fn new(range: ByteRange, size: u64) -> Self {
        Self { rest: range, size, buffer: Vec::new() }
    }

    /// Bytes still to come.
    fn left(&self) -> u64 {
        self.rest.len()
    }

    /// Moves bytes out of `chunk` until a block is complete; `None`: the chunk is used up.
    fn take(&mut self, chunk: &mut Bytes) -> Result<Option<(BlockIndex, Bytes)>> {
        while !chunk.is_empty() {
            if chunk.len() as u64 > self.rest.len() {
                return Err(Error::new(Kind::Integrity, "a transfer brought more than it promised"));
            }
            let block = BlockIndex(self.rest.start / BLOCK_SIZE);
            let bytes = block.bytes(self.size);
            let count = (bytes.end - self.rest.start).min(chunk.len() as u64);
            // At most a block: it fits a usize.
            let piece = chunk.split_to(count as usize);
            self.rest.start += count;
            if self.buffer.is_empty() {
                self.buffer.reserve_exact(bytes.len() as usize);
            }
            self.buffer.extend_from_slice(&piece);
            if self.rest.start == bytes.end {
                let buffer = std::mem::take(&mut self.buffer);
                // A transfer that began inside a block has not all of it.
                if buffer.len() as u64 == bytes.len() {
                    return Ok(Some((block, Bytes::from(buffer))));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(range: ByteRange, size: u64, chunk: usize) -> Vec<(u64, usize)> {
        let mut blocks = Assembler::new(range, size);
        let data = vec![7u8; range.len() as usize];
        let mut out = Vec::new();
        for piece in data.chunks(chunk) {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some((block, bytes)) = blocks.take(&mut piece).unwrap() {
                out.push((block.0, bytes.len()));
            }
        }
        assert_eq!(blocks.left(), 0);
        out
    }

    #[test]
    fn chunks_of_any_size_become_whole_blocks_and_a_short_last_one() {
        let size = 2 * BLOCK_SIZE + 10;
        let full = BLOCK_SIZE as usize;
        for chunk in [1000, full, full + 1, 3 * full] {
            assert_eq!(assemble(ByteRange::new(0, size), size, chunk), [(0, full), (1, full), (2, 10)]);
        }
    }

    #[test]
    fn a_block_that_is_not_all_there_is_left_out() {
        let size = 3 * BLOCK_SIZE;
        let full = BLOCK_SIZE as usize;
        assert_eq!(assemble(ByteRange::new(5, size - 5), size, 777), [(1, full)]);
    }

    #[test]
    fn more_than_promised_is_an_error() {
        let mut blocks = Assembler::new(ByteRange::new(0, 10), 10);
        assert!(blocks.take(&mut Bytes::from_static(&[0; 11])).is_err());
    }
}
