//! Read-ahead: what to fetch before it is asked for, from nothing but the reads so far and the server's pace.
//!
//! A pure state machine, without I/O and without a clock. It follows two readers per handle, since a
//! program that copies often looks up tables elsewhere in between. A reader is *proven* once it has read
//! a little in sequence; from then on the window ahead of it doubles each time that it has to wait, but
//! is never longer than what was read, so that no more is fetched in vain. Reads may come out of
//! order: the kernel sends several of one reader at once, to several of our threads. What belongs
//! to no reader is looked at by `stride` and `scatter`.

use crate::cache::Found;
use crate::source::Pace;
use crate::units::ByteRange;

use super::scatter::Scatter;
use super::stride::Stride;

/// A reader is proven by so many bytes in sequence: a few reads of `cp`. A starting guest reads many short
/// sequences, and what is fetched beyond their ends is in vain.
const PROOF: u64 = 512 * 1024;
/// The first window, and the least that is worth a request of its own.
const FIRST_WINDOW: u64 = 128 * 1024;
/// How far from the end of a reader a read may begin and still be its next: the kernel's own read-ahead
/// keeps several requests of up to 1 MiB under way.
const NEAR: u64 = 1024 * 1024;
/// The largest window in requests ([`Pace::piece`]): three are on their way while one is read.
const WINDOW_PIECES: u64 = 4;
/// A reader that never waits gets a larger window too, for fewer requests, but only once it has read so
/// many windows.
const UNHURRIED: u64 = 4;
/// It gets its window in so many requests: the next is on its way while this one is read.
const UNHURRIED_PIECES: u64 = 2;
/// Readers followed per handle.
const READERS: usize = 2;

/// What a read should lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// To fetch: the read itself and what lies around it.
    pub fetch: ByteRange,
    /// Elsewhere, for the reads that will follow.
    pub also: Vec<ByteRange>,
    /// A proven reader passes here: the read is not likely to come again.
    pub passing: bool,
}

impl Plan {
    fn only(range: ByteRange) -> Self {
        Self { fetch: range, also: Vec::new(), passing: false }
    }
}

/// The read-ahead of one handle.
#[derive(Debug, Clone)]
pub(crate) struct ReadAhead {
    size: u64,
    /// The largest window that the memory of the mount allows.
    largest: u64,
    readers: [Follow; READERS],
    stride: Stride,
    scatter: Scatter,
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
    /// What was asked for ahead last begins here.
    asked_from: u64,
    /// What is before this was asked for already.
    asked: u64,
    /// The read that used it last, counted; 0: never.
    used: u64,
}

impl ReadAhead {
    /// For an image of `size` bytes and a `budget` for all images: a window takes no more than a
    /// quarter of it.
    pub(crate) fn new(size: u64, budget: u64) -> Self {
        Self {
            size,
            largest: budget / 4,
            readers: [Follow::default(); READERS],
            stride: Stride::default(),
            scatter: Scatter::default(),
            clock: 0,
        }
    }

    /// A read of `range` happens, whose bytes are where `found` says, from a server of this `pace`.
    pub(crate) fn on_read(&mut self, range: ByteRange, found: Found, pace: Pace) -> Plan {
        self.clock += 1;
        self.scatter.on_read(range);
        let (clock, size) = (self.clock, self.size);
        let largest = self.largest.min(pace.piece() * WINDOW_PIECES);
        let Some(reader) = self.reader_of(range) else {
            let oldest = self.readers.iter_mut().min_by_key(|reader| reader.used);
            if let Some(oldest) = oldest {
                *oldest = Follow {
                    end: range.end,
                    total: range.len(),
                    window: 0,
                    asked_from: range.start,
                    asked: range.end,
                    used: clock,
                };
            }
            let also = self.stride.on_read(range, found, size);
            if !also.is_empty() {
                return Plan { also, ..Plan::only(range) };
            }
            let wide = match found {
                Found::Missing => self.scatter.widen(range, pace.chunk(), size),
                _ => range,
            };
            return Plan::only(wide);
        };
        let passing = reader.window > 0;
        let fetch = reader.on_read(range, found, largest, pace.piece(), size, clock);
        Plan { fetch, also: Vec::new(), passing }
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

impl Follow {
    /// Its next read; gives what should be fetched: `range`, and beyond it what will be wanted.
    fn on_read(
        &mut self,
        range: ByteRange,
        found: Found,
        largest: u64,
        piece: u64,
        size: u64,
        clock: u64,
    ) -> ByteRange {
        self.used = clock;
        // Bytes read again prove nothing.
        self.total += range.end.saturating_sub(range.start.max(self.end));
        self.end = self.end.max(range.end);
        if self.total < PROOF {
            self.asked = self.asked.max(range.end);
            return range;
        }
        let missed = found == Found::Missing;
        // It was asked for ahead, and is not here: memory was too short to fetch it, or to keep it.
        let lost = missed && self.asked_from <= range.start && range.end <= self.asked && self.window > 0;
        if lost {
            self.window /= 2;
        } else if self.total >= self.window * if found == Found::Here { UNHURRIED } else { 1 } {
            self.window *= 2;
        }
        self.window = self.window.clamp(FIRST_WINDOW.min(largest), largest);
        if missed {
            self.asked = self.asked.min(range.end);
        }
        self.asked = self.asked.max(range.end);
        let target = self.end.saturating_add(self.window);
        // What would be left is not worth a request of its own.
        let target = if size.saturating_sub(target) < FIRST_WINDOW { size } else { target };
        let pieces = if found == Found::Here { UNHURRIED_PIECES } else { WINDOW_PIECES };
        let part = (self.window / pieces).clamp(FIRST_WINDOW.min(largest), piece);
        let due = target.saturating_sub(self.asked);
        if due == 0 || (due < part && target < size && !missed) {
            return range;
        }
        self.asked_from = range.start;
        self.asked = target;
        ByteRange::new(range.start, target)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const BUDGET: u64 = 256 * MIB;
    const HUGE: u64 = 1 << 40;
    const NEAR_SERVER: Pace = Pace { first_byte: Duration::from_micros(100), bandwidth: 1_000_000_000 };
    const GLANCE: Pace = Pace { first_byte: Duration::from_millis(3), bandwidth: 2_000_000_000 };

    /// A reader that waits for everything, and the furthest byte asked for so far.
    struct Slow {
        ahead: ReadAhead,
        pace: Pace,
        furthest: u64,
    }

    impl Slow {
        fn new(size: u64, budget: u64, pace: Pace) -> Self {
            Self { ahead: ReadAhead::new(size, budget), pace, furthest: 0 }
        }

        fn read(&mut self, range: ByteRange) -> ByteRange {
            let found = if range.end > self.furthest { Found::Missing } else { Found::OnItsWay };
            let fetch = self.ahead.on_read(range, found, self.pace).fetch;
            self.furthest = self.furthest.max(fetch.end);
            fetch
        }
    }

    fn sequence(len: u64, count: u64) -> impl Iterator<Item = ByteRange> {
        (0..count).map(move |at| ByteRange::at(at * len, len))
    }

    fn fetch(ahead: &mut ReadAhead, range: ByteRange, found: Found) -> ByteRange {
        ahead.on_read(range, found, NEAR_SERVER).fetch
    }

    #[test]
    fn a_first_read_fetches_just_itself() {
        let range = ByteRange::at(0, 128 * KIB);
        assert_eq!(
            ReadAhead::new(100 * MIB, BUDGET).on_read(range, Found::Missing, NEAR_SERVER),
            Plan::only(range)
        );
    }

    #[test]
    fn random_reads_of_a_near_server_fetch_just_themselves() {
        let mut ahead = ReadAhead::new(HUGE, BUDGET);
        for at in 0..200u64 {
            let range = ByteRange::at((at * at * 7919 % 1000) * 50 * MIB, 16 * KIB);
            assert_eq!(ahead.on_read(range, Found::Missing, NEAR_SERVER), Plan::only(range));
        }
    }

    #[test]
    fn where_a_request_is_dear_a_single_read_takes_its_neighbourhood_along() {
        let mut ahead = ReadAhead::new(HUGE, BUDGET);
        let plan = ahead.on_read(ByteRange::at(5 * MIB + 1, 4 * KIB), Found::Missing, GLANCE);
        assert_eq!(plan.fetch, ByteRange::at(5 * MIB, 256 * KIB));
        let here = ByteRange::at(50 * MIB, 4 * KIB);
        assert_eq!(ahead.on_read(here, Found::Here, GLANCE), Plan::only(here));
    }

    #[test]
    fn equal_distances_fetch_the_next_reads() {
        let mut ahead = ReadAhead::new(HUGE, BUDGET);
        let reads = (0..6u64).map(|at| ByteRange::at(at * 10 * MIB, 4 * KIB));
        let also: Vec<_> =
            reads.flat_map(|range| ahead.on_read(range, Found::Missing, NEAR_SERVER).also).collect();
        assert_eq!(also[0], ByteRange::at(40 * MIB, 4 * KIB));
    }

    #[test]
    fn a_reader_that_waits_gets_a_window_that_doubles() {
        let mut slow = Slow::new(HUGE, BUDGET, NEAR_SERVER);
        let windows: Vec<u64> = sequence(128 * KIB, 600)
            .map(|range| {
                slow.read(range);
                slow.furthest - range.end
            })
            .collect();
        assert_eq!(windows[..5], [0, 0, 0, 128 * KIB, 256 * KIB]);
        assert_eq!(windows.iter().max(), Some(&(16 * MIB)));
        // Once it is large, at least three parts are ahead at any time.
        assert!(windows[400..].iter().all(|window| *window >= 12 * MIB), "{:?}", &windows[400..]);
    }

    #[test]
    fn a_reader_that_never_waits_has_a_small_window_for_longer() {
        let mut ahead = ReadAhead::new(HUGE, BUDGET);
        sequence(128 * KIB, 600).for_each(|range| {
            let fetch = fetch(&mut ahead, range, Found::Here);
            assert!(fetch.end - range.end <= FIRST_WINDOW.max(range.end / 2), "{fetch}");
        });
    }

    #[test]
    fn a_reader_that_never_waits_leads_to_few_requests() {
        let mut ahead = ReadAhead::new(HUGE, BUDGET);
        let reads = sequence(128 * KIB, 800);
        let requests = reads.filter(|range| fetch(&mut ahead, *range, Found::Here) != *range).count();
        // 100 MiB: four for each doubling of the window from 128 KiB to 16 MiB, then one each 4 MiB.
        assert!(requests <= 45, "{requests}");
    }

    #[test]
    fn the_last_few_bytes_come_with_what_is_before_them() {
        let size = 100 * MIB + 5;
        let mut slow = Slow::new(size, BUDGET, NEAR_SERVER);
        let fetched =
            sequence(128 * KIB, 801).map(|range| range.clamp_to(size)).map(|range| slow.read(range));
        let last = fetched.filter(|fetch| fetch.end == size && fetch.len() > 128 * KIB).count();
        assert_eq!(last, 1);
    }

    #[test]
    fn a_dear_server_is_asked_for_larger_parts() {
        let mut slow = Slow::new(HUGE, BUDGET, GLANCE);
        let reads: Vec<_> = sequence(128 * KIB, 4000).collect();
        reads[..1000].iter().for_each(|range| {
            slow.read(*range);
        });
        let requests = reads[1000..].iter().filter(|range| slow.read(**range) != **range).count();
        // 3000 reads are 375 MiB: 24 parts of 16 MiB.
        assert!(requests <= 25, "{requests}");
    }

    #[test]
    fn a_small_budget_bounds_the_window() {
        let mut slow = Slow::new(HUGE, 16 * MIB, GLANCE);
        for range in sequence(128 * KIB, 1000) {
            slow.read(range);
            assert!(slow.furthest <= range.end + 4 * MIB);
        }
    }

    #[test]
    fn a_window_that_memory_cannot_hold_shrinks() {
        let mut slow = Slow::new(HUGE, BUDGET, NEAR_SERVER);
        sequence(128 * KIB, 600).for_each(|range| {
            slow.read(range);
        });
        let window = |ahead: &ReadAhead| ahead.readers.iter().map(|reader| reader.window).max();
        assert_eq!(window(&slow.ahead), Some(16 * MIB));
        for at in 600..606 {
            // What was asked for ahead never comes.
            fetch(&mut slow.ahead, ByteRange::at(at * 128 * KIB, 128 * KIB), Found::Missing);
        }
        assert!(window(&slow.ahead) <= Some(MIB), "{:?}", slow.ahead);
    }

    #[test]
    fn two_readers_of_one_handle_do_not_disturb_each_other() {
        let mut ahead = ReadAhead::new(HUGE, BUDGET);
        for range in sequence(128 * KIB, 100) {
            fetch(&mut ahead, range, Found::OnItsWay);
            fetch(&mut ahead, ByteRange::at(range.start + (1 << 30), range.len()), Found::OnItsWay);
        }
        let proven: Vec<u64> = ahead.readers.iter().map(|reader| reader.window).collect();
        assert!(proven.iter().all(|window| *window >= 8 * MIB), "{proven:?}");
    }

    #[test]
    fn reads_out_of_order_are_one_reader() {
        let mut ahead = ReadAhead::new(HUGE, BUDGET);
        for pair in 0..200u64 {
            for at in [pair * 2 + 1, pair * 2] {
                fetch(&mut ahead, ByteRange::at(at * 128 * KIB, 128 * KIB), Found::OnItsWay);
            }
        }
        assert!(ahead.readers.iter().any(|reader| reader.window >= 8 * MIB), "{ahead:?}");
    }

    #[test]
    fn a_prefetch_that_was_dropped_is_asked_for_again() {
        let mut slow = Slow::new(HUGE, BUDGET, NEAR_SERVER);
        sequence(128 * KIB, 400).for_each(|range| {
            slow.read(range);
        });
        let next = ByteRange::at(400 * 128 * KIB, 128 * KIB);
        let again = fetch(&mut slow.ahead, next, Found::Missing);
        assert!(again.len() >= 8 * MIB, "{again}");
    }

    #[test]
    fn a_proven_reader_is_passing() {
        let mut ahead = ReadAhead::new(HUGE, BUDGET);
        let passing: Vec<bool> = sequence(256 * KIB, 4)
            .map(|range| ahead.on_read(range, Found::Missing, NEAR_SERVER).passing)
            .collect();
        assert_eq!(passing, [false, false, true, true]);
    }

    proptest! {
        #[test]
        fn whatever_is_read_what_is_fetched_contains_it_and_stays_bounded(
            reads in prop::collection::vec((0u64..200, 1u64..20), 1..200),
            size in 1u64..300,
            micros in 0u64..20_000,
        ) {
            let size = size * 100_000;
            let mut ahead = ReadAhead::new(size, BUDGET);
            let pace = Pace { first_byte: Duration::from_micros(micros), bandwidth: 500_000_000 };
            for (at, len) in reads {
                let range = ByteRange::at(at * 100_000, len * 65_536).clamp_to(size);
                let found = [Found::Here, Found::OnItsWay, Found::Missing][at as usize % 3];
                let plan = ahead.on_read(range, found, pace);
                prop_assert!(plan.fetch.contains(range));
                prop_assert!(plan.fetch.end <= size.max(range.end));
                prop_assert!(plan.also.iter().all(|also| also.end <= size && !also.is_empty()));
            }
        }

        #[test]
        fn a_sequential_reader_wastes_no_more_than_it_read(len in 1u64..64, count in 2u64..400) {
            let mut slow = Slow::new(HUGE, BUDGET, NEAR_SERVER);
            sequence(len * 16 * KIB, count).for_each(|range| {
            slow.read(range);
        });
            let read = len * 16 * KIB * count;
            prop_assert!(slow.furthest <= read * 3 + FIRST_WINDOW * 2, "{} for {read}", slow.furthest);
        }
    }
}
