//! How fast a server answers: the time to its first byte and its bandwidth, from the transfers so far.
//!
//! A request costs the server and the network about the same whatever it asks for, so what is asked for
//! should be worth the trip. Real Glance takes 3 ms of its CPU for a request and then sends 2 GB/s:
//! one request is worth 6 MiB. A plain file server near by answers in 0.1 ms: not even 256 KiB.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::units::BLOCK_SIZE;

/// The least and the most that one request of a stream asks for. Below 4 MiB our own work per request
/// (about 0.1 ms) shows on a fast network; above 16 MiB a request gains nothing more on a real Glance
/// (3 ms against the 5 ms that 16 MiB take it).
const PIECE_BYTES: (u64, u64) = (4 << 20, 16 << 20);
/// The most that a single read somewhere makes us fetch. Debian that starts from a Glance 10 ms away fetches 14 % of its image
/// in 440 requests; at 1 MiB it was 19.5 % in 218 (`docs/benchmarks.md`, "Whole virtual machines").
const LARGEST_CHUNK: u64 = 256 << 10;
/// Below this a round trip costs less than the copies of what would be fetched in vain.
const WORTH_WIDENING: Duration = Duration::from_millis(1);
/// A worse sample moves the estimate by this part: load of the moment should not look like distance.
const DECAY: u32 = 16;
/// The bytes of a body that make its bandwidth worth looking at: a block.
const SAMPLE_BYTES: u64 = BLOCK_SIZE;
/// The least time of such a body: in less, what is measured is how long our threads took to wake.
const SAMPLE_TIME: Duration = Duration::from_micros(30);

/// How fast a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From a request to the first byte of its answer.
    pub first_byte: Duration,
    /// Bytes per second of one transfer once it runs.
    pub bandwidth: u64,
}

impl Default for Pace {
    /// Before anything was measured: next to nothing to the first byte, and 1 Gb/s.
    fn default() -> Self {
        Self { first_byte: Duration::ZERO, bandwidth: 125_000_000 }
    }
}

impl Pace {
    /// The bytes that arrive in the time that one more request costs.
    pub fn worth(self) -> u64 {
        let micros = u64::try_from(self.first_byte.as_micros()).unwrap_or(u64::MAX);
        self.bandwidth.saturating_mul(micros) / 1_000_000
    }

    /// Bytes of one request of a stream: twice what the request itself is worth, so that two thirds of
    /// the time go into bytes.
    pub fn piece(self) -> u64 {
        let wanted = self.worth().saturating_mul(2).clamp(PIECE_BYTES.0, PIECE_BYTES.1);
        wanted.next_power_of_two().min(PIECE_BYTES.1)
    }

    /// Bytes around a single read to fetch with it, a power of two: what comes in half the time that a
    /// second request would take, so that a guess that fails costs half a request.
    pub fn chunk(self) -> u64 {
        if self.first_byte < WORTH_WIDENING {
            return BLOCK_SIZE;
        }
        let half = (self.worth() / 2).clamp(BLOCK_SIZE, LARGEST_CHUNK);
        1 << half.ilog2()
    }
}

/// Keeps the pace of a server up to date. Its lock is a leaf, held for arithmetic only.
#[derive(Debug, Default)]
pub(super) struct PaceMeter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    first_byte: Option<Duration>,
    bandwidth: Option<u64>,
}

impl PaceMeter {
    /// The pace by now.
    pub(super) fn pace(&self) -> Pace {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let default = Pace::default();
        Pace {
            first_byte: state.first_byte.unwrap_or(default.first_byte),
            bandwidth: state.bandwidth.unwrap_or(default.bandwidth),
        }
    }

    /// A first byte came `after` its request. The best counts: what waits behind other transfers
    /// is late without the server being far.
    pub(super) fn first_byte(&self, after: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.first_byte = Some(match state.first_byte {
            Some(known) if after > known => known + (after - known) / DECAY,
            _ => after,
        });
    }

    /// A body of `bytes` was here `total` after its request, whose first byte came after `first_byte`. The best
    /// counts here too: a transfer that shares the line, or waits for our disk, is slow without the line being so.
    ///
    /// What a busy thread of ours finds waiting came at the speed of the line, not at that of a copy out of the
    /// socket; so the time counts from when the first byte comes at best.
    pub(super) fn body(&self, bytes: u64, first_byte: Duration, total: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let began = state.first_byte.map_or(first_byte, |best| best.min(first_byte));
        let took = total.saturating_sub(began);
        if bytes < SAMPLE_BYTES || took < SAMPLE_TIME {
            return;
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let sample = u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(nanos)).unwrap_or(u64::MAX);
        state.bandwidth = Some(match state.bandwidth {
            Some(known) if sample < known => known - (known - sample) / u64::from(DECAY),
            _ => sample,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;

    fn pace(micros: u64, bandwidth: u64) -> Pace {
        Pace { first_byte: Duration::from_micros(micros), bandwidth }
    }

    #[test]
    fn on_a_near_server_a_single_read_fetches_one_block() {
        assert_eq!(pace(150, 3_000_000_000).chunk(), BLOCK_SIZE);
        assert_eq!(Pace::default().chunk(), BLOCK_SIZE);
    }

    #[test]
    fn where_a_request_is_dear_it_asks_for_more() {
        let glance = pace(3_100, 2_000_000_000);
        assert_eq!((glance.chunk(), glance.piece()), (256 * KIB, 16 * MIB));
        let far_and_thin = pace(10_000, 125_000_000);
        assert_eq!((far_and_thin.chunk(), far_and_thin.piece()), (256 * KIB, 4 * MIB));
    }

    #[test]
    fn the_best_samples_count_and_worse_ones_tell_slowly() {
        let meter = PaceMeter::default();
        meter.first_byte(Duration::from_millis(4));
        meter.first_byte(Duration::from_millis(2));
        meter.first_byte(Duration::from_millis(18));
        assert_eq!(meter.pace().first_byte, Duration::from_millis(3));
        // A second after the first byte came, which is 3 ms at best.
        let body = |bytes, millis: u64| {
            meter.body(bytes, Duration::from_millis(5), Duration::from_millis(3 + millis));
        };
        body(MIB, 1000);
        body(16 * MIB, 1000);
        body(64 * KIB, 4000);
        assert_eq!(meter.pace().bandwidth, 16 * MIB - (16 * MIB - 16 * KIB) / 16);
        body(100, 1);
        assert!(meter.pace().bandwidth < 16 * MIB, "a few bytes say nothing");
        meter.body(MIB, Duration::from_millis(3), Duration::from_micros(3010));
        assert!(meter.pace().bandwidth < 16 * MIB, "nor does a moment");
    }

    #[test]
    fn what_waited_in_the_socket_came_at_the_speed_of_the_line() {
        let meter = PaceMeter::default();
        meter.first_byte(Duration::from_millis(10));
        // Looked at 2 ms late, when all of it was there: 250,000 bytes in 2 ms and a little.
        meter.body(250_000, Duration::from_millis(12), Duration::from_micros(12_040));
        assert!(meter.pace().bandwidth < 125_000_000, "{:?}", meter.pace());
    }

    #[test]
    fn no_sample_overflows() {
        let meter = PaceMeter::default();
        meter.body(u64::MAX, Duration::ZERO, SAMPLE_TIME);
        meter.body(u64::MAX, Duration::MAX, Duration::ZERO);
        meter.first_byte(Duration::MAX);
        assert_eq!((meter.pace().chunk(), meter.pace().piece()), (256 * KIB, 16 * MIB));
    }
}
