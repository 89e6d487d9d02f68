//! Reads at equal distances: a table's column, or every so many blocks of a file system.

use crate::cache::Found;
use crate::units::ByteRange;

/// Equal distances in a row that make a pattern: fewer happen by chance.
const PROOF: u32 = 3;
/// Reads to be ahead, at first and at most. Each is a request of its own, and there are 8 connections.
const DEPTH: (u64, u64) = (2, 6);

/// The last reads that belong to no sequence, and the distance between them.
#[derive(Debug, Clone, Default)]
pub(super) struct Stride {
    last: Option<u64>,
    distance: i128,
    repeats: u32,
    depth: u64,
    /// Reads beyond the last one that were asked for.
    ahead: u64,
}

impl Stride {
    /// The next such read; gives what should be fetched for those that will follow it.
    pub(super) fn on_read(&mut self, range: ByteRange, found: Found, size: u64) -> Vec<ByteRange> {
        let distance = self.last.map_or(0, |last| i128::from(range.start) - i128::from(last));
        self.last = Some(range.start);
        if distance == 0 || distance != self.distance {
            *self = Self { last: self.last, distance, repeats: 1, depth: DEPTH.0, ahead: 0 };
            return Vec::new();
        }
        self.repeats = self.repeats.saturating_add(1);
        self.ahead = self.ahead.saturating_sub(1);
        if self.repeats < PROOF {
            return Vec::new();
        }
        if found != Found::Here {
            self.depth = (self.depth + 1).min(DEPTH.1);
        }
        let at = |step: u64| {
            let start = u64::try_from(i128::from(range.start) + distance * i128::from(step)).ok()?;
            (start < size).then(|| ByteRange::at(start, range.len()).clamp_to(size))
        };
        let wanted = (self.ahead + 1..=self.depth).map_while(at).collect();
        self.ahead = self.ahead.max(self.depth);
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;
    const LEN: u64 = 4096;

    fn fetched(starts: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut stride = Stride::default();
        let read = |start| stride.on_read(ByteRange::at(start, LEN), Found::Missing, SIZE);
        starts.into_iter().flat_map(read).map(|range| range.start).collect()
    }

    #[test]
    fn three_equal_distances_fetch_what_follows_once() {
        let step = 1 << 20;
        let ahead = fetched((0..20).map(|at| at * step));
        let expected: Vec<u64> = (4..4 + ahead.len() as u64).map(|at| at * step).collect();
        assert_eq!(ahead, expected, "without a gap, and nothing twice");
        assert!(ahead.len() >= 19);
    }

    #[test]
    fn a_reader_that_goes_backwards_ends_at_the_start() {
        let step = 1 << 20;
        let ahead = fetched((0..8).rev().map(|at| at * step));
        assert_eq!(ahead.last(), Some(&0));
    }

    #[test]
    fn other_distances_and_the_same_place_fetch_nothing() {
        assert_eq!(fetched([0, 10 << 20, 30 << 20, 5 << 20, 40 << 20, 1 << 20]), [] as [u64; 0]);
        assert_eq!(fetched([7 << 20; 10]), [] as [u64; 0]);
    }

    #[test]
    fn nothing_beyond_the_end_is_fetched() {
        let step = SIZE / 5;
        assert!(fetched((0..5).map(|at| at * step)).iter().all(|start| *start < SIZE));
    }
}
