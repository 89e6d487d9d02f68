//! How long things took, as counts by upper bounds.

use std::time::Duration;

use super::Counter;

/// Upper bounds in microseconds: a hit in memory takes some 20 us, a request to a Glance nearby 5 ms, the head of
/// a listing seconds; whatever takes longer than 30 s is beyond what anybody waits for gladly.
pub(super) const BOUNDS_US: [u64; 14] = [
    50, 250, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000,
    30_000_000,
];

/// Durations, counted by how long they were.
#[derive(Debug)]
pub struct Histogram {
    /// The last counts what is beyond all bounds.
    buckets: [Counter; BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { buckets: [const { Counter::new() }; BOUNDS_US.len() + 1], sum_us: Counter::new() }
    }

    /// One more, which took `time`.
    pub fn observe(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2);
        let bucket = BOUNDS_US.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].add(1);
        self.sum_us.add(time);
    }

    /// For each bound, in seconds, how many took no longer; then how many there are, which is the last one's count.
    pub(super) fn cumulative(&self) -> (Vec<(f64, u64)>, u64) {
        let mut below = 0;
        let mut shown = Vec::with_capacity(BOUNDS_US.len());
        for (bound, bucket) in BOUNDS_US.iter().zip(&self.buckets) {
            below += bucket.get();
            shown.push((*bound as f64 / 1e6, below));
        }
        (shown, below + self.buckets[BOUNDS_US.len()].get())
    }

    /// All of them together, in seconds.
    pub(super) fn sum(&self) -> f64 {
        self.sum_us.get() as f64 / 1e6
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_counts_below_all_bounds_that_it_keeps() {
        let histogram = Histogram::new();
        for time in [50, 51, 3_000_000, 60_000_000] {
            histogram.observe(Duration::from_micros(time));
        }
        let (bounds, count) = histogram.cumulative();
        let at = |wanted: f64| bounds.iter().find(|(bound, _)| *bound == wanted).unwrap().1;
        assert_eq!((at(0.000_05), at(0.000_25), at(2.5), at(10.0), count), (1, 2, 2, 3, 4));
        assert!((histogram.sum() - 63.000_101).abs() < 1e-9, "{}", histogram.sum());
    }
}
