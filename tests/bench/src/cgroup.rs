//! A memory limit for a process, in the version of cgroups that the machine has.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// A cgroup of its own; removed when dropped.
pub struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// Makes one with a limit in bytes.
    ///
    /// # Errors
    /// When cgroups are not mounted, or not ours to make.
    pub fn new(limit: u64) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("glancefs-bench-{}", std::process::id());
        let unified = root.join("cgroup.controllers").exists();
        let (parent, file) = if unified {
            // Children of the root get only those controllers that are passed on to them.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            (root.to_owned(), "memory.max")
        } else {
            (root.join("memory"), "memory.limit_in_bytes")
        };
        let cgroup = Self { folder: parent.join(name) };
        let made = fs::create_dir_all(&cgroup.folder)
            .and_then(|()| fs::write(cgroup.folder.join(file), limit.to_string()));
        made.map_err(|error| format!("no cgroup can be made in {}: {error}", parent.display()))?;
        Ok(cgroup)
    }

    /// A command that starts its arguments in it.
    pub fn wrapper(&self) -> Vec<String> {
        let script = format!("echo $$ >'{}/cgroup.procs' && exec \"$@\"", self.folder.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended may still be listed for a moment.
        crate::within(std::time::Duration::from_secs(2), || fs::remove_dir(&self.folder).is_ok());
    }
}
