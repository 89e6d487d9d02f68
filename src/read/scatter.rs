//! Reads here and there: how much around each to fetch with it.
//!
//! Where a request is dear, a single read takes its neighbourhood along ([`Pace::chunk`]). A starting
//! guest comes back to most of what it touches; a data base does not. So the chunks are watched: when few
//! are ever read again they are halved, down to nothing but the read itself.
//!
//! [`Pace::chunk`]: crate::source::Pace::chunk

use std::collections::VecDeque;

use crate::units::{BLOCK_SIZE, ByteRange};

/// Chunks watched at once. A guest comes back within tens of reads, or not soon.
const WATCHED: usize = 32;
/// Chunks that are judged together.
const JURY: u32 = 16;
/// One of so many must have been read again, or chunks are too large; when one of the second number was,
/// they may grow again. At 1 of 8 the bytes in vain cost as much as the requests saved on a real Glance.
const USED: (u32, u32) = (8, 3);
/// Narrow reads after which a larger chunk is tried again: programs change what they do.
const RETRY: u32 = 256;

/// What became of the chunks fetched last.
#[derive(Debug, Clone, Default)]
pub(super) struct Scatter {
    watched: VecDeque<Watched>,
    judged: u32,
    used: u32,
    /// How often the chunk is halved.
    halved: u32,
    narrow: u32,
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    chunk: ByteRange,
    read: ByteRange,
    used: bool,
}

impl Scatter {
    /// Any read of the handle.
    pub(super) fn on_read(&mut self, range: ByteRange) {
        for watched in &mut self.watched {
            watched.used |= !watched.read.contains(range) && !watched.chunk.intersect(range).is_empty();
        }
    }

    /// What to fetch for a read of `range` that is missing and belongs to no sequence, where `chunk`
    /// bytes (a power of two) are worth a request.
    pub(super) fn widen(&mut self, range: ByteRange, chunk: u64, size: u64) -> ByteRange {
        let len = chunk.checked_shr(self.halved).unwrap_or(0);
        if len <= BLOCK_SIZE || range.len() >= len {
            if self.halved > 0 {
                self.narrow += 1;
                if self.narrow >= RETRY {
                    self.narrow = 0;
                    self.halved -= 1;
                }
            }
            return range;
        }
        let wide = ByteRange::new(range.start / len * len, range.end.next_multiple_of(len)).clamp_to(size);
        if self.watched.len() >= WATCHED
            && let Some(old) = self.watched.pop_front()
        {
            self.judge(old);
        }
        self.watched.push_back(Watched { chunk: wide, read: range, used: false });
        wide
    }

    fn judge(&mut self, old: Watched) {
        self.judged += 1;
        self.used += u32::from(old.used);
        if self.judged < JURY {
            return;
        }
        if self.used * USED.0 < self.judged {
            self.halved += 1;
        } else if self.used * USED.1 > self.judged {
            self.halved = self.halved.saturating_sub(1);
        }
        (self.judged, self.used) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const SIZE: u64 = 1 << 40;

    fn far_apart(at: u64) -> ByteRange {
        ByteRange::at((at * 7919 % 100_003) * 9 * MIB + 300 * KIB, 4 * KIB)
    }

    #[test]
    fn a_single_read_takes_its_neighbourhood_along() {
        let mut scatter = Scatter::default();
        let wide = scatter.widen(ByteRange::at(5 * MIB + 300 * KIB, 4 * KIB), MIB, SIZE);
        assert_eq!(wide, ByteRange::new(5 * MIB, 6 * MIB));
    }

    #[test]
    fn where_requests_are_cheap_it_does_not() {
        let read = far_apart(1);
        assert_eq!(Scatter::default().widen(read, BLOCK_SIZE, SIZE), read);
    }

    #[test]
    fn reads_that_never_come_back_end_up_alone() {
        let mut scatter = Scatter::default();
        let mut last = 0;
        for at in 0..200 {
            scatter.on_read(far_apart(at));
            last = scatter.widen(far_apart(at), MIB, SIZE).len();
        }
        assert_eq!(last, 4 * KIB);
    }

    #[test]
    fn after_many_narrow_reads_a_larger_chunk_is_tried() {
        let mut scatter = Scatter::default();
        let mut is_wide = |at| scatter.widen(far_apart(at), MIB, SIZE).len() > 4 * KIB;
        assert_eq!((0..200).filter(|at| is_wide(*at)).last().map(|last| last < 150), Some(true));
        assert!((200..200 + u64::from(RETRY)).any(is_wide));
    }

    #[test]
    fn reads_that_come_back_keep_their_neighbourhood() {
        let mut scatter = Scatter::default();
        for at in 0..300 {
            let first = far_apart(at);
            scatter.on_read(first);
            assert!(scatter.widen(first, MIB, SIZE).len() >= MIB);
            scatter.on_read(ByteRange::at(first.end + 200 * KIB, 4 * KIB));
        }
    }

    #[test]
    fn what_crosses_a_boundary_or_the_end_is_contained() {
        let mut scatter = Scatter::default();
        let read = ByteRange::new(2 * MIB - 1, 2 * MIB + 1);
        assert_eq!(scatter.widen(read, MIB, 2 * MIB + 10), ByteRange::new(MIB, 2 * MIB + 10));
    }
}
