//! Counters of what the mount did, read by `.glancefs/metrics` and the logs.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
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
    /// Bytes written to the cache disk.
    pub written_bytes: Counter,
    /// Blocks that were served but not kept on disk: it was too slow, full or failing.
    pub unwritten: Counter,
    /// Bytes freed on disk to make room.
    pub evicted_bytes: Counter,
    /// Blocks on disk that failed their checksum and were fetched again.
    pub damaged: Counter,
}

impl CacheCounters {
    /// Every counter with its name, in a fixed order.
    pub fn all(&self) -> [(&'static str, u64); 8] {
        [
            ("memory_hits", self.memory_hits.get()),
            ("disk_hits", self.disk_hits.get()),
            ("misses", self.misses.get()),
            ("fetched_bytes", self.fetched_bytes.get()),
            ("written_bytes", self.written_bytes.get()),
            ("unwritten", self.unwritten.get()),
            ("evicted_bytes", self.evicted_bytes.get()),
            ("damaged", self.damaged.get()),
        ]
    }
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

/// The counters in the text format of Prometheus.
pub fn text(cache: &CacheCounters, opens: &OpenCounters) -> String {
    let line = |(name, value): (&str, u64)| {
        format!("# TYPE glancefs_cache_{name} counter\nglancefs_cache_{name} {value}\n")
    };
    let mut text = cache.all().map(line).concat();
    text.push_str("# TYPE glancefs_opens counter\n");
    for (mode, count) in
        [("passthrough", &opens.passthrough), ("cached", &opens.cached), ("direct", &opens.direct)]
    {
        text.push_str(&format!("glancefs_opens{{mode=\"{mode}\"}} {}\n", count.get()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name and value of each sample of a text in the exposition format of Prometheus.
    ///
    /// # Panics
    /// Where the text departs from that format, or a sample from its declared type.
    fn samples(text: &str) -> Vec<(&str, u64)> {
        assert!(text.ends_with('\n'), "the last line ends like every other: {text:?}");
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let mut declared = Vec::new();
        let mut found = Vec::new();
        for line in text.lines() {
            match *line.split(' ').collect::<Vec<_>>() {
                ["#", "TYPE", name, "counter" | "gauge"] => {
                    assert!(!declared.contains(&name), "declared twice: {line:?}");
                    declared.push(name);
                }
                [name, value] => {
                    let (family, labels) = name.split_once('{').unwrap_or((name, "a=\"b\"}"));
                    assert!(family.starts_with("glancefs_") && family.bytes().all(word), "{line:?}");
                    assert!(labels.ends_with("\"}") && labels.contains("=\""), "{line:?}");
                    assert_eq!(declared.last(), Some(&family), "right after its type: {line:?}");
                    found.push((name, value.parse().unwrap()));
                }
                _ => panic!("not of the format: {line:?}"),
            }
        }
        found
    }

    #[test]
    fn the_counters_are_text_that_prometheus_reads() {
        let counters = CacheCounters::default();
        counters.misses.add(7);
        let opens = OpenCounters::default();
        opens.cached.add(3);
        let text = text(&counters, &opens);
        let samples = samples(&text);
        assert_eq!(samples.len(), counters.all().len() + 3);
        assert!(samples.contains(&("glancefs_opens{mode=\"cached\"}", 3)), "{samples:?}");
        assert!(samples.contains(&("glancefs_cache_misses", 7)), "{samples:?}");
    }
}
