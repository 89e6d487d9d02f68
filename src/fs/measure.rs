//! `.glancefs/metrics`: what was counted, and how the layers are at this moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use super::ImageFs;
use crate::allocator;
use crate::blocking::blocking;
use crate::cache::Usage;
use crate::catalog::Snapshot;
use crate::error::Result;
use crate::glance::Status;
use crate::metrics::families as of;
use crate::metrics::{Call, KernelCall, Outcome, PROCESS, Text};
use crate::write::{Condition, Uploading};

/// What is looked up on disk and in long lists.
struct Looked {
    /// `None`: the cache folder cannot be looked at.
    usage: Option<Usage>,
    uploads: Option<Uploading>,
    images: BTreeMap<&'static str, u64>,
}

impl ImageFs {
    /// All metrics in the text format of Prometheus. Looks at the cache and the spool folder; what these do not tell is left out.
    pub async fn metrics(&self) -> Bytes {
        let (cache, list, uploads) =
            (self.layers.cache.clone(), self.layers.catalog.snapshot(), self.layers.uploads.clone());
        let looked = blocking(move || {
            let (usage, uploads) = (cache.usage().ok(), uploads.reports().ok());
            Ok(Looked { usage, uploads, images: by_status(&list) })
        });
        let looked: Result<Looked> = looked.await;
        let looked = looked.unwrap_or(Looked { usage: None, uploads: None, images: BTreeMap::new() });
        let mut text = Text::default();
        self.write_process(&mut text);
        self.write_kernel(&mut text);
        self.write_cache(&mut text, looked.usage.as_ref());
        self.write_requests(&mut text);
        self.write_list(&mut text, &looked.images);
        self.write_uploads(&mut text, looked.uploads.as_ref());
        text.sample(&of::LINES_LEFT_OUT, &[], PROCESS.lines_left_out.get());
        text.finish().into()
    }

    fn write_process(&self, text: &mut Text) {
        text.sample(&of::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
        text.sample(&of::START_TIME, &[], seconds(self.begun.duration_since(UNIX_EPOCH)));
        text.optional(&of::RESIDENT, resident());
        text.optional(&of::ALLOCATED, allocator::allocated());
        let (limit, in_flight) = self.layers.cache.budget();
        text.sample(&of::MEMORY_BUDGET, &[], limit);
        text.sample(&of::MEMORY_IN_FLIGHT, &[], in_flight);
    }

    fn write_kernel(&self, text: &mut Text) {
        for call in KernelCall::ALL {
            text.sample(&of::KERNEL_REQUESTS, &[("operation", call.word())], PROCESS.kernel_calls(*call));
        }
        for (errno, count) in PROCESS.errors() {
            text.sample(&of::ERRORS, &[("errno", errno)], count);
        }
        let opens = &self.opens;
        for (mode, count) in
            [("passthrough", &opens.passthrough), ("cached", &opens.cached), ("direct", &opens.direct)]
        {
            text.sample(&of::OPENS, &[("mode", mode)], count.get());
        }
        text.sample(&of::OPEN_FILES, &[], self.handles.len());
        text.histogram(&of::READ_DURATION, &[], &PROCESS.read_duration);
        text.sample(&of::SERVED, &[], PROCESS.served_bytes.get());
    }

    fn write_cache(&self, text: &mut Text, usage: Option<&Usage>) {
        let cache = &self.layers.cache;
        let counters = cache.counters();
        let (memory_hits, disk_hits, misses) =
            (counters.memory_hits.get(), counters.disk_hits.get(), counters.misses.get());
        let (memory, memory_limit) = cache.memory();
        let tiers = |text: &mut Text, family, memory: u64, disk: Option<u64>| {
            text.sample(family, &[("tier", "memory")], memory);
            if let Some(disk) = disk {
                text.sample(family, &[("tier", "disk")], disk);
            }
        };
        tiers(text, &of::CACHE_BYTES, memory, usage.map(|usage| usage.bytes));
        tiers(text, &of::CACHE_LIMIT, memory_limit, usage.map(|usage| usage.limit));
        tiers(text, &of::CACHE_HITS, memory_hits, Some(disk_hits));
        tiers(text, &of::CACHE_MISSES, disk_hits + misses, Some(misses));
        let evicted = Some(counters.evicted_bytes.get());
        tiers(text, &of::CACHE_EVICTED, cache.memory_evicted(), evicted);
        text.sample(&of::CACHE_WRITTEN, &[], counters.written_bytes.get());
        text.sample(&of::CACHE_UNWRITTEN, &[], counters.unwritten.get());
        text.sample(&of::CACHE_DAMAGED, &[], counters.damaged.get());
        text.sample(&of::CACHE_USABLE, &[], cache.disk_watch().is_well());
        text.sample(&of::FETCHED, &[], counters.fetched_bytes.get());
        text.sample(&of::WASTED, &[], counters.wasted_bytes.get());
    }

    fn write_requests(&self, text: &mut Text) {
        let asked: Vec<Call> =
            Call::ALL.iter().copied().filter(|call| PROCESS.requests(*call).duration.count() > 0).collect();
        for call in &asked {
            for (status, count) in PROCESS.requests(*call).by_status() {
                text.sample(&of::REQUESTS, &[("operation", call.word()), ("status", status)], count);
            }
        }
        for call in &asked {
            let requests = PROCESS.requests(*call);
            text.histogram(&of::REQUEST_DURATION, &[("operation", call.word())], &requests.duration);
        }
        for call in &asked {
            text.sample(&of::RETRIES, &[("operation", call.word())], PROCESS.requests(*call).retries.get());
        }
        let (open, limit) = self.layers.sources.transfers();
        text.sample(&of::TRANSFERS, &[], open);
        text.sample(&of::TRANSFERS_LIMIT, &[], limit);
        text.optional(&of::TOKEN_END, Some(PROCESS.token_end.get()).filter(|end| *end > 0));
    }

    fn write_list(&self, text: &mut Text, images: &BTreeMap<&'static str, u64>) {
        let catalog = &self.layers.catalog;
        for (status, count) in images {
            text.sample(&of::IMAGES, &[("status", status)], *count);
        }
        text.optional(&of::LIST_AGE, catalog.age().map(|age| age.as_secs_f64()));
        text.sample(&of::LIST_FAILING, &[], catalog.is_failing());
    }

    fn write_uploads(&self, text: &mut Text, uploads: Option<&Uploading>) {
        if let Some(told) = uploads {
            for state in Condition::ALL {
                let count = told.uploads.iter().filter(|upload| upload.state == state).count();
                text.sample(&of::UPLOADS, &[("state", state.word())], count);
            }
            text.sample(&of::SPOOL_BYTES, &[], told.uploads.iter().map(|upload| upload.bytes).sum::<u64>());
        }
        text.optional(&of::SPOOL_LIMIT, self.layers.uploads.spool_limit());
        for outcome in Outcome::ALL {
            text.sample(&of::UPLOADS_ENDED, &[("outcome", outcome.word())], PROCESS.uploads(*outcome));
        }
        text.sample(&of::SENT, &[], PROCESS.sent_bytes.get());
    }
}

/// How many images have each status; all of the table are there, so that a graph does not end where nothing is left.
fn by_status(list: &Arc<Snapshot>) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<_, _> = [
        Status::Queued,
        Status::Saving,
        Status::Uploading,
        Status::Importing,
        Status::Active,
        Status::Deactivated,
        Status::Killed,
    ]
    .iter()
    .map(|status| (label(status), 0))
    .chain([("other", 0)])
    .collect();
    for image in list.iter() {
        *counts.entry(label(&image.status)).or_default() += 1;
    }
    counts
}

/// A server may send any word as a status.
fn label(status: &Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::Saving => "saving",
        Status::Uploading => "uploading",
        Status::Importing => "importing",
        Status::Active => "active",
        Status::Deactivated => "deactivated",
        Status::Killed => "killed",
        Status::PendingDelete | Status::Deleted | Status::Other(_) => "other",
    }
}

fn seconds<E>(since: std::result::Result<Duration, E>) -> f64 {
    since.unwrap_or_default().as_secs_f64()
}

/// Bytes of memory of this process, as proc(5) has them.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
