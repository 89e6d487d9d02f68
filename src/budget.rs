//! The one byte budget of the process: who may hold how much memory for blocks.
//!
//! Two parties share it. What is *held* is in flight: prefetched ranges that have not arrived yet, and
//! blocks on their way to the disk. What is left belongs to the memory tier of the cache, which evicts
//! until it fits ([`Budget::left`]). A demand read always gets its bytes ([`Budget::hold`]), however
//! tight it is; prefetch takes what is free of its share or is dropped ([`Budget::try_hold`]).

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may be in memory for image data, and how many of them are in flight.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    held: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicU64::new(0) })
    }

    /// All of it, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes in flight now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that the memory tier may keep now.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.held())
    }

    /// Takes `bytes` whatever is left: for demand reads, which are owed.
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Held {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Held { budget: Arc::clone(self), bytes }
    }

    /// Takes `bytes` if no more than half of the budget is in flight with them. The other half stays
    /// with the memory tier, so that what was prefetched survives until its reader comes.
    pub fn try_hold(self: &Arc<Self>, bytes: u64) -> Option<Held> {
        let room = self.limit / 2;
        let take = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= room);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Held { budget: Arc::clone(self), bytes })
    }
}

/// Bytes taken from the budget; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Held {
    /// Gives back up to `bytes` early: they have become somebody else's to count.
    pub fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

/// The bytes to live with: what was `configured`, but at most half of what this process's cgroup may
/// use. The other half is for the runtime, HTTP and TLS buffers, and the page cache that the kernel
/// charges to the same group.
pub fn memory_limit(configured: u64) -> u64 {
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match cgroup_limit(Path::new("/sys/fs/cgroup"), &membership) {
        Some(limit) => configured.min(limit / 2),
        None => configured,
    }
}

/// The smallest memory limit on the way from our cgroup up to `root`, for cgroup v2 (`0::/path`,
/// `memory.max`) and v1 (`N:memory:/path`, `memory.limit_in_bytes`).
fn cgroup_limit(root: &Path, membership: &str) -> Option<u64> {
    let mut smallest: Option<u64> = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (base, file) = if controllers.is_empty() {
            (root.to_path_buf(), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        for folder in ancestors(&base, Path::new(path)) {
            let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
            if let Ok(limit) = text.trim().parse::<u64>() {
                smallest = Some(smallest.map_or(limit, |known| known.min(limit)));
            }
        }
    }
    smallest
}

/// `base`, and each folder from it down to `path`. A path that leaves our cgroup namespace (`..`) ends there.
fn ancestors(base: &Path, path: &Path) -> Vec<PathBuf> {
    let mut folder = base.to_path_buf();
    let mut found = vec![folder.clone()];
    for part in path.components() {
        match part {
            Component::Normal(name) => folder.push(name),
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => break,
        }
        found.push(folder.clone());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_gets_half_and_demand_gets_all_it_asks_for() {
        let budget = Budget::new(100);
        let prefetch = budget.try_hold(50).unwrap();
        assert!(budget.try_hold(1).is_none(), "the prefetch share is used up");
        let demand = budget.hold(80);
        assert_eq!((budget.held(), budget.left()), (130, 0));
        drop(prefetch);
        assert_eq!(budget.left(), 20);
        drop(demand);
        assert_eq!(budget.left(), 100);
    }

    #[test]
    fn what_is_released_early_is_not_given_back_twice() {
        let budget = Budget::new(100);
        let mut held = budget.hold(40);
        held.release(30);
        assert_eq!(budget.held(), 10);
        held.release(30);
        assert_eq!(budget.held(), 0);
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_tightest_cgroup_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("system.slice/glancefs.service");
        std::fs::create_dir_all(&leaf).unwrap();
        std::fs::write(leaf.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.path().join("system.slice/memory.max"), "134217728\n").unwrap();
        assert_eq!(cgroup_limit(root.path(), "0::/system.slice/glancefs.service\n"), Some(128 << 20));
        std::fs::write(leaf.join("memory.max"), "67108864\n").unwrap();
        assert_eq!(cgroup_limit(root.path(), "0::/system.slice/glancefs.service\n"), Some(64 << 20));
        assert_eq!(cgroup_limit(root.path(), "0::/\n"), None);
        assert_eq!(cgroup_limit(root.path(), "nonsense"), None);
    }

    #[test]
    fn a_version_1_memory_cgroup_counts_too() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("memory/docker/x");
        std::fs::create_dir_all(&leaf).unwrap();
        std::fs::write(leaf.join("memory.limit_in_bytes"), "1000000\n").unwrap();
        assert_eq!(cgroup_limit(root.path(), "5:cpu:/docker/x\n4:memory:/docker/x\n"), Some(1_000_000));
    }
}
