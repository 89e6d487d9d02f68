//! A soak: readers, writers and images that come and go, while Glance and Keystone are restarted over and over.
//!
//! Every byte read is compared, every image written is compared with Glance's hash, and the daemon must not grow. It
//! runs for [`DEFAULT`] seconds, or for `GLANCEFS_SOAK_SECONDS`; in `scripts/test --long` for half an hour.

mod load;
mod meter;
mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread::Scope;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Cloud, Mount, PROGRAM, eventually, json, long, sh};
use meter::{Meter, Rest};
use store::Store;

const READERS: u64 = 64;
const WRITERS: u64 = 8;

/// Seconds of a run, and of one in `scripts/test --long`.
const DEFAULT: u64 = 120;
const LONG: u64 = 1800;

/// Seconds of a run whose sixths are long enough that medians in use can be compared.
const STEADY: u64 = 1200;

/// How long the daemon has nothing to do before it is measured: buffers that nobody needs go within 10 s. The last 5 s are what
/// is measured.
const IDLE: Duration = Duration::from_secs(16);

/// How often it is measured at the end until it takes no more than it took: the list that is refreshed, or somebody who reads
/// the metrics, keeps a thread or two for a moment.
const LOOKS: usize = 3;

/// How long the same images are in use: longer than a registration for passthrough keeps a copy from being evicted.
const FASHION: Duration = Duration::from_secs(15);

/// What all threads of a run share.
struct Soak {
    cloud: Cloud,
    mount: Mount,
    images: Store,
    meter: Meter,
    /// Held for reading by everything that is under way; for writing during a rest.
    at_work: RwLock<()>,
    /// Held for reading by calls of the API, for writing while a server is down.
    servers: RwLock<()>,
    over: AtomicBool,
    faults: Mutex<Vec<String>>,
}

impl Soak {
    fn begin(seconds: u64) -> Self {
        // Tokens end several times in a run, however short it is.
        let life = (seconds / 3).clamp(40, 300);
        let cloud = Cloud::new("keystone", &format!("--stores file,http --token-expiration {life}"));
        // Less cache and memory than images, so that blocks are evicted and fetched again all the time. A Glance that is
        // killed while it takes data leaves a record that never says more, which is waited for as long as the time-out.
        let options = "--allow-delete --cache-size 96M --memory-limit 32M --metadata-ttl 2s --spool-size 256M --timeout 40s";
        let mount = cloud.mount(options);
        let images = Store::new(&cloud, mount.beside());
        let meter = Meter::of(mount.daemon().expect("a daemon"));
        let (at_work, servers) = (RwLock::default(), RwLock::default());
        let (over, faults) = (AtomicBool::new(false), Mutex::default());
        Self { cloud, mount, images, meter, at_work, servers, over, faults }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Notes what should not have been, and ends the run.
    fn fault(&self, what: String) {
        eprintln!("soak: {what}");
        self.faults.lock().unwrap().push(what);
        self.over.store(true, Ordering::Relaxed);
    }

    /// Sleeps, but no longer than the run takes.
    fn sleep(&self, duration: Duration) {
        let end = Instant::now() + duration;
        while !self.is_over() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100).min(end.saturating_duration_since(Instant::now())));
        }
    }

    /// Stops and starts the servers in turn until the run is over.
    fn restart_servers(&self, pause: Duration) {
        for service in ["glance", "keystone"].iter().cycle() {
            self.sleep(pause);
            if self.is_over() {
                return;
            }
            let _at_work = self.at_work.read().unwrap();
            let _down = self.servers.write().unwrap();
            self.cloud.stop(service);
            std::thread::sleep(Duration::from_secs(1));
            self.cloud.start();
            self.meter.restarts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All pause, and the daemon is measured; the run goes on afterwards, or is over.
    ///
    /// The last time, with what the `first` was.
    fn rest(&self, first: Option<&Rest>) -> Rest {
        let _nobody_works = self.at_work.write().unwrap();
        // So that no idle connection is left, of which a pool may have one more or less.
        for service in ["glance", "keystone"] {
            self.cloud.stop(service);
        }
        self.cloud.start();
        // What is cached does not count. The longest wait of it is for what was read past the daemon.
        let paths: Vec<_> =
            self.images.ids().iter().map(|id| self.mount.path(&format!(".by-id/{id}"))).collect();
        sh!("{PROGRAM} evict {}", paths.join(" "));
        let mut rest = self.at_rest(IDLE);
        if let Some(first) = first {
            for _ in 1..LOOKS {
                if rest.is_at_most(first) {
                    break;
                }
                rest = self.at_rest(IDLE);
            }
            self.over.store(true, Ordering::Relaxed);
        }
        rest
    }

    fn at_rest(&self, idle: Duration) -> Rest {
        let reading = self.meter.at_rest(idle);
        let text = String::from_utf8(self.mount.read(".glancefs/metrics")).unwrap();
        let told = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {text}")).trim().parse::<f64>().unwrap()
        };
        // Nobody can evict an image that is gone. What was open when it went keeps its blocks until others take their place.
        let kib = |bytes: f64| (bytes / 1024.0) as u64;
        let blocks = told("glancefs_cache_bytes{tier=\"memory\"}");
        let allocated = kib(told("glancefs_memory_allocated_bytes") - blocks);
        Rest { reading, allocated, blocks: kib(blocks) }
    }

    fn run<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, seconds: u64) -> [Rest; 2] {
        let began = Instant::now();
        let whole = Duration::from_secs(seconds);
        for number in 0..READERS {
            scope.spawn(move || load::read(self, number));
        }
        for number in 0..WRITERS {
            scope.spawn(move || load::write(self, number));
        }
        // Each server some five times in a short run, and every two minutes in a long one.
        scope.spawn(move || self.restart_servers((whole / 12).min(Duration::from_secs(60))));
        scope.spawn(move || self.meter.watch(self, whole / 30));
        self.sleep(whole / 6);
        let early = self.rest(None);
        self.sleep(whole.saturating_sub(began.elapsed() + IDLE));
        [early, self.rest(Some(&early))]
    }
}

#[test]
fn a_mount_in_use_under_servers_that_restart_stays_right_and_does_not_grow() {
    // Other tests run at the same time. This is of the thread, and of all that it starts.
    rustix::process::nice(10).unwrap();
    let given = std::env::var("GLANCEFS_SOAK_SECONDS").ok().map(|text| text.parse().expect("seconds"));
    let seconds = given.unwrap_or(if long() { LONG } else { DEFAULT });
    let soak = Soak::begin(seconds);
    let [early, late] = std::thread::scope(|scope| soak.run(scope, seconds));
    let faults = soak.faults.lock().unwrap().join("\n");
    eprintln!("soak of {seconds} s: {}\nafter a sixth: {early}\nat the end:    {late}", soak.meter);
    assert!(faults.is_empty(), "{faults}");
    let in_use = soak.meter.in_use(seconds);
    eprintln!("in use, medians of the second and of the last sixth: {}; {}", in_use[0], in_use[1]);
    nothing_is_left(&soak);
    assert!(late.is_at_most(&early), "at rest: {early} at first, {late} at last");
    if seconds >= STEADY {
        in_use[0].expect_in_use(&in_use[1]);
    }
}

/// Glance has the images that it should have and no other; no bytes wait in the spool.
fn nothing_is_left(soak: &Soak) {
    let (cloud, mount) = (&soak.cloud, &soak.mount);
    let spool = mount.beside().path("spool");
    eventually("nothing is in the spool", || sh!("find {spool} -name '*.data' -o -name '*.json'").is_empty());
    let uploads = json(&sh!("{PROGRAM} uploads --json {mount}"));
    assert_eq!(uploads["uploads"].as_array().unwrap().len(), 0, "{uploads:#}");
    let answer = cloud.api("GET", "/v2/images?limit=1000", &Value::Null);
    let mut found: Vec<_> =
        answer["images"].as_array().unwrap().iter().map(|image| image["id"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, soak.images.ids(), "{answer:#}");
    for image in answer["images"].as_array().unwrap() {
        assert_eq!(image["status"], "active", "{image:#}");
    }
}
