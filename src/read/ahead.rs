//! Read-ahead: what to fetch before it is asked for, from nothing but the offsets of the reads so far.
//!
//! A pure state machine, without I/O and without a clock. It follows two readers per handle, since a
//! program that copies often looks up tables elsewhere in between. A reader is *proven* by a second read
//! next to its first; from then on the window ahead of it doubles each time as much was read as the window
//! is long, so that what is fetched in vain is never more than what was read. Reads may come out of
//! order: the kernel sends several of one reader at once, to several of our threads.

use crate::units::ByteRange;

/// The first window, and the least that is worth a request of its own.
const FIRST_WINDOW: u64 = 128 * 1024;
/// How far from the end of a reader a read may begin and still be its next: the kernel's own read-ahead
/// keeps several requests of up to 1 MiB under way.
const NEAR: u64 = 1024 * 1024;
/// What is due is given out in parts no smaller than a quarter of the window, and in parts of this size
/// once the window is large: 8 MiB is what one request to Glance should be.
const LARGEST_PART: u64 = 8 * 1024 * 1024;
/// The largest window: four parts, so that three are on their way while one is read.
const LARGEST_WINDOW: u64 = 4 * LARGEST_PART;
/// Readers followed per handle.
const READERS: usize = 2;

/// The read-ahead of one handle.
#[derive(Debug, Clone)]
pub(crate) struct ReadAhead {
    size: u64,
    largest: u64,
    readers: [Follow; READERS],
    clock: u64,
}

/// One sequence of reads that follow each other.
#[derive(Debug, Clone, Copy, Default)]
struct Follow {
    /// The end of the furthest read.
    end: u64,
    /// Bytes read in sequence.
    total: u64,
    /// Bytes to have ahead of `end`; 0: not proven.
    window: u64,
    /// What is before this was asked for already.
    asked: u64,
    /// The read that used it last, counted; 0: never.
    used: u64,
}

impl ReadAhead {
    /// For an image of `size` bytes and a `budget` for all images: a window takes no more than a
    /// quarter of it.
    pub(crate) fn new(size: u64, budget: u64) -> Self {
        let largest = LARGEST_WINDOW.min(budget / 4);
        Self { size, largest, readers: [Follow::default(); READERS], clock: 0 }
    }

    /// A read of `range` happens, and some of it is neither here nor on its way when `missed`.
    /// Gives what should be fetched: `range`, and beyond it what a proven reader will want.
    pub(crate) fn on_read(&mut self, range: ByteRange, missed: bool) -> ByteRange {
        self.clock += 1;
        let (clock, size, largest) = (self.clock, self.size, self.largest);
        let Some(reader) = self.reader_of(range) else {
            let oldest = self.readers.iter_mut().min_by_key(|reader| reader.used);
            if let Some(oldest) = oldest {
                *oldest =
                    Follow { end: range.end, total: range.len(), window: 0, asked: range.end, used: clock };
            }
            return range;
        };
        reader.used = clock;
        // Bytes read again prove nothing.
        reader.total += range.end.saturating_sub(range.start.max(reader.end));
        reader.end = reader.end.max(range.end);
        if reader.window == 0 {
            reader.window = FIRST_WINDOW;
        }
        while reader.window < largest && reader.total >= reader.window {
            reader.window *= 2;
        }
        reader.window = reader.window.min(largest);
        if missed {
            // What was asked for ahead has not been fetched (memory was short), or is gone again.
            reader.asked = reader.asked.min(range.end);
        }
        reader.asked = reader.asked.max(range.end);
        let target = reader.end.saturating_add(reader.window).min(size);
        let part = (reader.window / 4).clamp(FIRST_WINDOW.min(largest), LARGEST_PART);
        let due = target.saturating_sub(reader.asked);
        if due == 0 || (due < part && target < size && !missed) {
            return range;
        }
        reader.asked = target;
        ByteRange::new(range.start, target)
    }

    /// The reader that `range` continues: the nearest one that it is close to.
    fn reader_of(&mut self, range: ByteRange) -> Option<&mut Follow> {
        let near =
            |reader: &Follow| reader.used != 0 && range.start.abs_diff(reader.end) <= NEAR.max(range.len());
        // An unproven reader wants the very next bytes, or nearly: two random reads must not look like one.
        let next = |reader: &Follow| {
            reader.window > 0
                || range.start.abs_diff(reader.end) <= FIRST_WINDOW.max(range.len()) && range.end > reader.end
        };
        let candidates = self.readers.iter_mut().filter(|reader| near(reader) && next(reader));
        candidates.min_by_key(|reader| range.start.abs_diff(reader.end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const BUDGET: u64 = 256 * MIB;

    /// Reads `ranges` and gives all bytes that were asked for, without those asked twice in a row.
    fn asked(ahead: &mut ReadAhead, ranges: impl IntoIterator<Item = ByteRange>) -> (u64, u64) {
        let (mut read, mut fetched) = (0, 0);
        let mut furthest = 0;
        for range in ranges {
            let fetch = ahead.on_read(range, range.end > furthest);
            assert!(fetch.contains(range));
            read += range.len();
            fetched += fetch.end.saturating_sub(furthest.max(fetch.start));
            furthest = furthest.max(fetch.end);
        }
        (read, fetched)
    }

    fn sequence(len: u64, count: u64) -> impl Iterator<Item = ByteRange> {
        (0..count).map(move |at| ByteRange::at(at * len, len))
    }

    #[test]
    fn a_first_read_fetches_just_itself() {
        let mut ahead = ReadAhead::new(100 * MIB, BUDGET);
        let range = ByteRange::at(0, 128 * KIB);
        assert_eq!(ahead.on_read(range, true), range);
    }

    #[test]
    fn random_reads_fetch_just_themselves() {
        let mut ahead = ReadAhead::new(1 << 40, BUDGET);
        for at in 0..200u64 {
            let range = ByteRange::at((at * 7919 % 1000) * 50 * MIB, 16 * KIB);
            assert_eq!(ahead.on_read(range, true), range);
        }
    }

    #[test]
    fn a_second_adjacent_read_begins_and_the_window_doubles() {
        let mut ahead = ReadAhead::new(1 << 40, BUDGET);
        let mut windows = Vec::new();
        let mut furthest = 0;
        for range in sequence(128 * KIB, 600) {
            let fetch = ahead.on_read(range, range.end > furthest);
            furthest = furthest.max(fetch.end);
            windows.push(furthest - range.end);
        }
        assert_eq!(windows[..2], [0, 512 * KIB]);
        assert_eq!(windows.iter().max(), Some(&(32 * MIB)));
        // Once it is large, at least three parts are ahead at any time.
        assert!(windows[400..].iter().all(|window| *window >= 24 * MIB), "{:?}", &windows[400..]);
    }

    #[test]
    fn a_steady_stream_is_asked_for_in_large_parts() {
        let mut ahead = ReadAhead::new(1 << 40, BUDGET);
        let reads: Vec<_> = sequence(128 * KIB, 4000).collect();
        asked(&mut ahead, reads[..1000].iter().copied());
        let requests = reads[1000..].iter().filter(|range| ahead.on_read(**range, false) != **range);
        // 3000 reads are 375 MiB: 47 parts of 8 MiB.
        assert!(requests.count() <= 48);
    }

    #[test]
    fn a_small_budget_bounds_the_window() {
        let mut ahead = ReadAhead::new(1 << 40, 16 * MIB);
        let mut furthest = 0;
        for range in sequence(128 * KIB, 1000) {
            furthest = furthest.max(ahead.on_read(range, range.end > furthest).end);
            assert!(furthest <= range.end + 4 * MIB);
        }
    }

    #[test]
    fn two_readers_of_one_handle_do_not_disturb_each_other() {
        let mut ahead = ReadAhead::new(1 << 40, BUDGET);
        for range in sequence(128 * KIB, 100) {
            ahead.on_read(range, false);
            ahead.on_read(ByteRange::at(range.start + (1 << 30), range.len()), false);
        }
        let proven: Vec<u64> = ahead.readers.iter().map(|reader| reader.window).collect();
        assert!(proven.iter().all(|window| *window >= 8 * MIB), "{proven:?}");
    }

    #[test]
    fn reads_out_of_order_are_one_reader() {
        let mut ahead = ReadAhead::new(1 << 40, BUDGET);
        for pair in 0..200u64 {
            for at in [pair * 2 + 1, pair * 2] {
                ahead.on_read(ByteRange::at(at * 128 * KIB, 128 * KIB), false);
            }
        }
        assert!(ahead.readers.iter().any(|reader| reader.window >= 16 * MIB), "{ahead:?}");
    }

    #[test]
    fn a_prefetch_that_was_dropped_is_asked_for_again_on_a_miss() {
        let mut ahead = ReadAhead::new(1 << 40, BUDGET);
        for range in sequence(128 * KIB, 100) {
            ahead.on_read(range, false);
        }
        let next = ByteRange::at(100 * 128 * KIB, 128 * KIB);
        let fetch = ahead.on_read(next, true);
        assert!(fetch.len() >= 8 * MIB, "{fetch}");
    }

    proptest! {
        #[test]
        fn whatever_is_read_what_is_fetched_contains_it_and_stays_bounded(
            reads in prop::collection::vec((0u64..200, 1u64..20), 1..200),
            size in 1u64..300,
        ) {
            let size = size * 100_000;
            let mut ahead = ReadAhead::new(size, BUDGET);
            for (at, len) in reads {
                let range = ByteRange::at(at * 100_000, len * 65_536).clamp_to(size);
                let fetch = ahead.on_read(range, at % 3 == 0);
                prop_assert!(fetch.contains(range));
                prop_assert!(fetch.end <= size.max(range.end));
                prop_assert!(fetch.start == range.start);
            }
        }

        #[test]
        fn a_sequential_reader_wastes_no_more_than_it_read(len in 1u64..64, count in 2u64..400) {
            let mut ahead = ReadAhead::new(1 << 40, BUDGET);
            let (read, fetched) = asked(&mut ahead, sequence(len * 16 * KIB, count));
            prop_assert!(fetched <= read * 3 + FIRST_WINDOW * 2, "{fetched} for {read}");
        }
    }
}
