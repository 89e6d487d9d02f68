//! The default memory limit: 256 MiB, less where a cgroup grants less.

use std::fs;
use std::path::Path;

/// The default of `--memory-limit` on a machine that sets no bounds, in bytes.
const DEFAULT: u64 = 256 << 20;

/// The least that works: the kernel keeps up to 16 reads of 1 MiB in flight for one reader.
pub const MINIMUM: u64 = 16 << 20;

/// The limit for this process in bytes: [`DEFAULT`], or a quarter of the smallest memory limit of
/// the cgroups around us. The other three quarters are for code, stacks, the lists of images, and
/// the page cache of the cache's own files, which the same cgroup pays for.
pub fn default_limit() -> u64 {
    match smallest_cgroup_limit(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")) {
        Some(limit) => (limit / 4).clamp(MINIMUM, DEFAULT),
        None => DEFAULT,
    }
}

/// The smallest `memory.max` (cgroup v2) or `memory.limit_in_bytes` (v1) from our cgroup up to the root.
fn smallest_cgroup_limit(membership: &Path, root: &Path) -> Option<u64> {
    let membership = fs::read_to_string(membership).ok()?;
    let limits = membership.lines().filter_map(|line| {
        // "0::/path" is v2; "4:memory:/path" is the memory controller of v1.
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let own = Path::new(path.trim_start_matches('/'));
        // In a container the path may be the host's: its root is tried as well.
        own.ancestors()
            .filter_map(|part| {
                fs::read_to_string(base.join(part).join(file)).ok()?.trim().parse::<u64>().ok()
            })
            .min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(membership: &str, files: &[(&str, &str)]) -> Option<u64> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(&root).unwrap();
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let file = folder.path().join("cgroup");
        fs::write(&file, membership).unwrap();
        smallest_cgroup_limit(&file, &root)
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let files = [("a/memory.max", "1000\n"), ("a/b/memory.max", "max\n"), ("memory.max", "5000\n")];
        assert_eq!(tree("0::/a/b\n", &files), Some(1000));
        assert_eq!(tree("0::/a\n", &[("a/memory.max", "max\n")]), None);
    }

    #[test]
    fn the_memory_controller_of_version_1_is_understood() {
        let files = [("memory/x/memory.limit_in_bytes", "300\n")];
        assert_eq!(tree("5:cpu:/y\n4:hugetlb,memory:/x\n0::/\n", &files), Some(300));
    }

    #[test]
    fn a_container_that_shows_the_hosts_path_uses_its_own_root() {
        assert_eq!(tree("0::/kubepods/pod1/x\n", &[("memory.max", "700\n")]), Some(700));
    }
}
