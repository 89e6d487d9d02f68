//! Every metric: its name, what it is, and its labels. `docs/metrics.md` is made of this.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units (seconds, bytes), `_total` at the end of
//! counters. A label takes few values, which its comment names; ids and names of images are never among them.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the mount.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by upper bounds, with a sum.
    Histogram,
}

/// One metric with all its labels.
#[derive(Debug)]
pub struct Family {
    /// As dashboards name it; the samples of histograms have `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says, in one sentence.
    pub help: &'static str,
    /// Its labels, and the values that each takes.
    pub labels: &'static [(&'static str, &'static str)],
}

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal, $help:literal $(, $label:literal: $values:literal)*;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Family = Family {
                name: $name,
                kind: Kind::$kind,
                help: $help,
                labels: &[$(($label, $values)),*],
            };
        )*

        /// All of them, in the order in which they are shown.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    BUILD_INFO: Gauge "glancefs_build_info", "Always 1; which glancefs this is.",
        "version": "that of `glancefs --version`";
    START_TIME: Gauge "glancefs_start_time_seconds", "When the mount began, in seconds since 1970.";
    RESIDENT: Gauge "glancefs_memory_resident_bytes", "Memory that the process has in use.";
    ALLOCATED: Gauge "glancefs_memory_allocated_bytes",
        "Memory that the program has asked for and not given back, touched or not, and small blocks that its threads keep for their next use; without the gaps that the resident memory has. With the GNU C library only.";
    MEMORY_BUDGET: Gauge "glancefs_memory_budget_bytes",
        "Memory that cached blocks and transfers may take together (`--memory-limit`, less in a small cgroup).";
    MEMORY_IN_FLIGHT: Gauge "glancefs_memory_in_flight_bytes",
        "How much of that budget is held by data on their way, from the network and to the disk.";

    KERNEL_REQUESTS: Counter "glancefs_kernel_requests_total",
        "What the kernel asked of the mount. What it reads past the mount or has in its page cache is not among it.",
        "operation": "`lookup`, `getattr`, `open`, `read`, `write`, `flush`, `release` and the others of FUSE";
    ERRORS: Counter "glancefs_errors_total",
        "Errors that programs got. ENOENT and ENODATA are mostly answers to questions.",
        "errno": "`EIO`, `ETIMEDOUT`, `EACCES`, ..., `other`";
    OPENS: Counter "glancefs_opens_total", "How files were opened.",
        "mode": "`passthrough` (read by the kernel from the cache), `cached` (through the mount and the page cache), \
                 `direct` (through the mount alone)";
    OPEN_FILES: Gauge "glancefs_open_files", "Files and directories that are open.";
    READ_DURATION: Histogram "glancefs_read_duration_seconds",
        "How long a read of the kernel took until it was answered.";
    SERVED: Counter "glancefs_served_bytes_total", "Bytes of images given to programs by the mount.";

    CACHE_BYTES: Gauge "glancefs_cache_bytes",
        "Bytes in the cache; on disk those of all mounts that share the folder.",
        "tier": "`memory`, `disk`";
    CACHE_LIMIT: Gauge "glancefs_cache_limit_bytes",
        "How many there may be (in memory: as far as nothing else of the budget is in use).",
        "tier": "`memory`, `disk`";
    CACHE_HITS: Counter "glancefs_cache_hits_total", "Blocks of 64 KiB that were found for readers.",
        "tier": "`memory`, `disk`";
    CACHE_MISSES: Counter "glancefs_cache_misses_total",
        "Blocks that readers did not find: in memory, or neither there nor on disk, so that they waited for the network.",
        "tier": "`memory`, `disk`";
    CACHE_EVICTED: Counter "glancefs_cache_evicted_bytes_total", "Bytes dropped by this mount to make room.",
        "tier": "`memory`, `disk`";
    CACHE_WRITTEN: Counter "glancefs_cache_written_bytes_total", "Bytes written to the cache disk.";
    CACHE_UNWRITTEN: Counter "glancefs_cache_unwritten_blocks_total",
        "Blocks that were not kept on disk, since it was too slow, full or failing.";
    CACHE_DAMAGED: Counter "glancefs_cache_damaged_blocks_total",
        "Blocks on disk that failed their checksum and were fetched again.";
    CACHE_USABLE: Gauge "glancefs_cache_disk_usable",
        "1 while the cache disk is used, 0 while it is left alone after a failure.";
    FETCHED: Counter "glancefs_fetched_bytes_total", "Bytes of images that came from the cloud.";
    WASTED: Counter "glancefs_wasted_bytes_total",
        "Those of them that were of no use: of blocks that were here already, or that came in part only.";

    REQUESTS: Counter "glancefs_requests_total", "Requests to Glance and Keystone.",
        "operation": "`list`, `show`, `download`, `upload`, `login` and the others",
        "status": "the HTTP status, `other` for rare ones, `none` without an answer";
    REQUEST_DURATION: Histogram "glancefs_request_duration_seconds",
        "How long requests took until the head of their answer was here; uploads until they ended.",
        "operation": "as above";
    RETRIES: Counter "glancefs_request_retries_total", "Requests that were sent again after a failure.",
        "operation": "as above";
    TRANSFERS: Gauge "glancefs_transfers_open", "Downloads that are open.";
    TRANSFERS_LIMIT: Gauge "glancefs_transfers_limit", "How many may be (`--max-connections`).";
    TOKEN_END: Gauge "glancefs_token_expiry_timestamp_seconds",
        "When the token ends, in seconds since 1970; it is renewed before. Missing where nobody tells its end.";

    IMAGES: Gauge "glancefs_images", "Images in the list.",
        "status": "`active`, `queued`, `saving`, `uploading`, `importing`, `deactivated`, `killed`, `other`";
    LIST_AGE: Gauge "glancefs_list_age_seconds",
        "How old the list of images is. It is fetched anew when somebody uses the mount. Missing for a saved one.";
    LIST_FAILING: Gauge "glancefs_list_failing", "1 while the list shown is the last good one, since no new one came.";

    UPLOADS: Gauge "glancefs_uploads", "What is in the spool, of all mounts that share it.",
        "state": "`writing`, `uploading`, `failed`, `kept`, `interrupted`, `unknown`";
    SPOOL_BYTES: Gauge "glancefs_spool_bytes", "Bytes of it.";
    SPOOL_LIMIT: Gauge "glancefs_spool_limit_bytes", "How many there may be (`--spool-size`); missing without one.";
    UPLOADS_ENDED: Counter "glancefs_uploads_total", "Uploads of this mount that ended.",
        "outcome": "`done`, `failed`";
    SENT: Counter "glancefs_uploaded_bytes_total",
        "Bytes of uploads given to the network, those of tries that failed included.";

    LINES_LEFT_OUT: Counter "glancefs_log_lines_left_out_total",
        "Warnings that were not logged because the same had just been.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let mut names = HashSet::new();
        for family in ALL {
            let name = family.name;
            assert!(names.insert(name), "{name} is there twice");
            let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(name.starts_with("glancefs_") && word(name), "{name}");
            assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
            if family.kind == Kind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            for odd in ["_ms", "_milliseconds", "_kib", "_mib", "_percent"] {
                assert!(!name.contains(odd), "{name}: base units");
            }
            assert!(family.labels.iter().all(|(label, _)| word(label) && *label != "le"), "{name}");
            assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{name}: {}", family.help);
        }
    }
}
