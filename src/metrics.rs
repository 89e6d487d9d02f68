//! Counters of what the mount did, read by `.glancefs/metrics` and the logs.

/// Every counter.
pub struct Metrics {}

/// The counters of this process.
pub static METRICS: Metrics = Metrics {};

impl Metrics {
    /// In the text format of Prometheus.
    pub fn text(&self) -> String {
        String::new()
    }
}
