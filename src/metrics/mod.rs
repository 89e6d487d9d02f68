//! What is counted and measured: the numbers behind `.glancefs/metrics` and `--metrics-listen`.
//!
//! `families` defines every metric once: name, type, labels and what it means, from which `docs/metrics.md` is made
//! ([`document`]). `text` writes samples in the text format of Prometheus. What several layers count is in [`PROCESS`];
//! what a layer knows of itself is asked of it when somebody looks (`fs::measure`).
//!
//! Counting costs an atomic addition, a duration two. Labels are words of fixed tables, never names or ids of images.

mod document;
pub mod families;
mod histogram;
mod process;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};

pub use document::document;
pub use histogram::Histogram;
pub use process::{Call, KernelCall, Outcome, PROCESS, Process};
pub use text::Text;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Begins at 0.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down; 0 until it is set.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Begins at 0.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Puts `n` in place of what it was.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// As it was set last.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the cache of a mount did, in blocks unless the name says bytes.
#[derive(Debug, Default)]
pub struct CacheCounters {
    /// Found in memory.
    pub memory_hits: Counter,
    /// Found on disk.
    pub disk_hits: Counter,
    /// Waited for: being fetched for somebody, or fetched for this read.
    pub misses: Counter,
    /// Bytes that arrived from the source.
    pub fetched_bytes: Counter,
    /// Those of them that were of no use: of blocks that were here already, or came in part only.
    pub wasted_bytes: Counter,
    /// Bytes written to the cache disk.
    pub written_bytes: Counter,
    /// Blocks that were served but not kept on disk: it was too slow, full or failing.
    pub unwritten: Counter,
    /// Bytes freed on disk to make room.
    pub evicted_bytes: Counter,
    /// Blocks on disk that failed their checksum and were fetched again.
    pub damaged: Counter,
}

/// How files were opened.
#[derive(Debug, Default)]
pub struct OpenCounters {
    /// Read past us, from the file in the cache.
    pub passthrough: Counter,
    /// Read through us and the kernel's page cache.
    pub cached: Counter,
    /// Read or written through us alone: files that are being written, and the texts of `.glancefs`.
    pub direct: Counter,
}
