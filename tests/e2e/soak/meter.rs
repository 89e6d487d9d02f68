//! What a soak measures: what was done, and what the daemon takes.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Soak;

/// Counters of a run, and the daemon that is watched.
pub struct Meter {
    daemon: u32,
    began: Instant,
    pub reads: AtomicU64,
    pub bytes: AtomicU64,
    /// Reads of images that were being removed, which failed.
    pub gone: AtomicU64,
    pub uploads: AtomicU64,
    pub renames: AtomicU64,
    pub removals: AtomicU64,
    pub restarts: AtomicU64,
    /// Seconds since the begin, and the daemon then; one each second.
    course: Mutex<Vec<(u64, Reading)>>,
}

/// What the daemon takes.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Resident memory that is its own (`RssAnon`), in KiB.
    anonymous: u64,
    /// All resident memory (`VmRSS`), in KiB.
    resident: u64,
    descriptors: u64,
    threads: u64,
}

impl Reading {
    fn of(daemon: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{daemon}/status")).expect("the daemon lives");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count() as u64;
        let (anonymous, resident, threads) = (field("RssAnon:"), field("VmRSS:"), field("Threads:"));
        Self { anonymous, resident, descriptors, threads }
    }

    fn median(samples: &[Self]) -> Self {
        let of = |field: fn(&Self) -> u64| {
            let mut values: Vec<_> = samples.iter().map(field).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        Self {
            anonymous: of(|one| one.anonymous),
            resident: of(|one| one.resident),
            descriptors: of(|one| one.descriptors),
            threads: of(|one| one.threads),
        }
    }

    /// The daemon takes no more descriptors and threads than it took, within 5 %.
    fn is_at_most(&self, early: &Self) -> bool {
        is_at_most(self.descriptors, early.descriptors) && is_at_most(self.threads, early.threads)
    }

    /// Checks that the memory did not grow while it was in use: within 5 %.
    pub fn expect_in_use(&self, late: &Self) {
        let (early, late) = (self.resident, late.resident);
        assert!(early.abs_diff(late) * 20 <= early, "KiB of memory in use: {early} at first, {late} at last");
    }
}

/// Not more than 5 % above.
fn is_at_most(late: u64, early: u64) -> bool {
    late * 20 <= early * 21
}

/// What the daemon takes when it has nothing to do.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    pub reading: Reading,
    /// What it has allocated and not given back, in KiB, without blocks of images. The resident memory has gaps between
    /// what lives, too, of which there are more after an hour than after a minute; what was lost is in this number only.
    pub allocated: u64,
    /// Of the resident memory, what blocks of images take, in KiB: of those that went while they were open, which nobody can evict.
    pub blocks: u64,
}

impl Rest {
    /// The daemon came back to what it took, within 5 %.
    pub fn is_at_most(&self, early: &Self) -> bool {
        self.reading.is_at_most(&early.reading) && is_at_most(self.allocated, early.allocated)
    }
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB allocated, {} KiB of blocks, {}", self.allocated, self.blocks, self.reading)
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { anonymous, resident, descriptors, threads } = self;
        write!(
            f,
            "{resident} KiB resident ({anonymous} anonymous), {descriptors} descriptors, {threads} threads"
        )
    }
}

impl Meter {
    pub fn of(daemon: u32) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            daemon,
            began: Instant::now(),
            reads: zero(),
            bytes: zero(),
            gone: zero(),
            uploads: zero(),
            renames: zero(),
            removals: zero(),
            restarts: zero(),
            course: Mutex::default(),
        }
    }

    /// Waits for `idle`; the medians of its last 5 s, 10 a second.
    pub fn at_rest(&self, idle: Duration) -> Reading {
        let measured = Duration::from_secs(5);
        std::thread::sleep(idle.saturating_sub(measured));
        let end = Instant::now() + measured;
        let mut samples = Vec::new();
        while Instant::now() < end {
            samples.push(Reading::of(self.daemon));
            std::thread::sleep(Duration::from_millis(100));
        }
        Reading::median(&samples)
    }

    /// Notes the daemon each second and prints a line each `step` until the run is over.
    pub fn watch(&self, soak: &Soak, step: Duration) {
        let mut printed = Instant::now();
        while !soak.is_over() {
            soak.sleep(Duration::from_secs(1));
            let (at, reading) = (self.began.elapsed().as_secs(), Reading::of(self.daemon));
            self.course.lock().unwrap().push((at, reading));
            if printed.elapsed() >= step {
                printed = Instant::now();
                eprintln!("soak, {at} s: {reading}; {self}");
            }
        }
    }

    /// Medians of the second and of the last sixth of a run, which had as many restarts and rests.
    pub fn in_use(&self, seconds: u64) -> [Reading; 2] {
        let course = self.course.lock().unwrap();
        [1, 5].map(|sixth| {
            let window = sixth * seconds / 6..(sixth + 1) * seconds / 6;
            let samples = course.iter().filter(|(at, _)| window.contains(at));
            Reading::median(&samples.map(|(_, reading)| *reading).collect::<Vec<_>>())
        })
    }

    /// How many times `duration` has passed.
    pub fn round(&self, duration: Duration) -> usize {
        usize::try_from(self.began.elapsed().as_secs() / duration.as_secs()).unwrap()
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} reads of {} MiB ({} of images that went), {} uploads, {} renames, {} removals, {} restarts",
            count(&self.reads),
            count(&self.bytes) >> 20,
            count(&self.gone),
            count(&self.uploads),
            count(&self.renames),
            count(&self.removals),
            count(&self.restarts)
        )
    }
}
