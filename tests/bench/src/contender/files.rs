//! Images as files of one contender: its mounts, and the processes behind them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Daemon, Processes, find, run};
use crate::server::Image;
use crate::{Result, within};

/// Paths of images; unmounted when dropped.
#[derive(Default)]
pub struct Files {
    paths: HashMap<String, PathBuf>,
    mounts: Vec<Mount>,
    helpers: Vec<Daemon>,
}

impl Files {
    /// The copies on disk.
    pub fn plain(images: &[&Image]) -> Self {
        let paths = images.iter().map(|image| (image.id.clone(), image.plain.clone())).collect();
        Self { paths, mounts: Vec::new(), helpers: Vec::new() }
    }

    /// Adds what was mounted, and where each image is in it.
    pub fn add(&mut self, mount: Mount, paths: impl IntoIterator<Item = (String, PathBuf)>) {
        self.paths.extend(paths);
        self.mounts.push(mount);
    }

    /// Adds a process that a mount needs.
    pub fn add_helper(&mut self, helper: Daemon) {
        self.helpers.push(helper);
    }

    /// Where an image is.
    pub fn path(&self, image: &Image) -> Result<&Path> {
        self.path_of(&image.id)
    }

    /// Where the image with this id is.
    pub fn path_of(&self, id: &str) -> Result<&Path> {
        Ok(self.paths.get(id).ok_or("that image was not mounted")?)
    }

    /// Where the first mount is.
    pub fn root(&self) -> Result<&Path> {
        Ok(&self.mounts.first().ok_or("nothing is mounted")?.at)
    }

    /// All that work for it.
    pub fn processes(&self) -> Processes {
        let daemons = self.mounts.iter().map(|mount| &mount.daemon).chain(&self.helpers);
        Processes(daemons.map(Daemon::id).collect())
    }

    /// Unmounts and waits until all processes have ended.
    pub fn unmount(mut self) -> Result<()> {
        for mount in self.mounts.drain(..) {
            unmount(&mount.at)?;
            mount.daemon.wait()?;
        }
        self.helpers.iter_mut().for_each(Daemon::stop);
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for mount in &self.mounts {
            if is_mounted(&mount.at) && unmount(&mount.at).is_err() {
                let _ = run(Command::new("umount").arg("-l").arg(&mount.at));
            }
        }
    }
}

/// A mount point with the process that serves it.
pub struct Mount {
    at: PathBuf,
    daemon: Daemon,
}

impl Mount {
    /// Runs a command that mounts at `at` and goes on, and waits until it has mounted.
    pub fn start(command: Command, at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        let log = at.with_extension("log");
        let mut daemon = Daemon::start(command, &log)?;
        let ready = within(Duration::from_secs(30), || is_mounted(at) || daemon.ended().is_some());
        if !ready || daemon.ended().is_some() {
            let log = fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("nothing is mounted at {}: {}", at.display(), log.trim()).into());
        }
        Ok(Self { at: at.to_owned(), daemon })
    }
}

fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

/// As root and as another user. Just after the last close a mount may still be busy.
fn unmount(at: &Path) -> Result<()> {
    let root = rustix::process::geteuid().is_root() || find("fusermount3").is_none();
    let mut result = Ok(());
    within(Duration::from_secs(5), || {
        let mut command = if root { Command::new("umount") } else { Command::new("fusermount3") };
        if !root {
            command.arg("-u");
        }
        result = run(command.arg(at)).map(|_| ());
        result.is_ok()
    });
    result
}
