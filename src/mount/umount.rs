//! `glancefs umount`: ends a mount of ours, and returns when its daemon has ended.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::PidfdFlags;

use super::instance::{self, Holder, POLL};
use super::mountinfo;
use super::repair::{Pulse, pulse};
use crate::config::{Environment, paths};
use crate::error::{Error, Kind, Result};
use crate::fuse::unmount::{Manner, unmount};

/// How long a daemon may take to write out its state.
const ENDING: Duration = Duration::from_secs(60);

/// The same after a lazy unmount: with files open the daemon goes on as long as they are.
const ENDING_LAZILY: Duration = Duration::from_secs(2);

/// How an unmount went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// The mount is gone and its daemon has ended.
    Ended,
    /// Detached; this process serves the files that are still open.
    StillServing(Holder),
    /// The mount is gone; its daemon could not be found, so nobody waited for it.
    UnknownDaemon,
}

/// Unmounts the glancefs at `mountpoint`; with `lazy` even while files on it are open.
///
/// # Errors
/// `Invalid` when no glancefs is mounted there, `Busy` when files are open on it, `TimedOut` when
/// the daemon does not end.
pub fn umount(mountpoint: &Path, lazy: bool, environment: &Environment) -> Result<Unmounted> {
    // Symbolic links can be resolved even on a dead mount: nobody is asked for its root.
    let mountpoint = &paths::resolve(mountpoint)?;
    let shown = mountpoint.display();
    let mount = mountinfo::topmost(mountpoint)?;
    let ours = mount.as_ref().filter(|mount| mount.is_glancefs());
    let daemon = Daemon::find(mountpoint, ours.and_then(|mount| mount.user_id), environment);
    match (ours, mount.as_ref(), &daemon) {
        (Some(_), ..) => {}
        // Unmounted by other means a moment ago.
        (None, None, Some(daemon)) => return daemon.wait(ENDING).map(|()| Unmounted::Ended),
        (None, Some(other), _) => {
            let fstype = &other.fstype;
            return Err(not_ours(format!("{shown} is a mount of type {fstype}, not a glancefs: left alone")));
        }
        (None, None, None) => {
            let cure = "findmnt -t fuse.glancefs lists the mounts";
            return Err(not_ours(format!("no glancefs is mounted at {shown}: {cure}")));
        }
    }
    // A dead mount serves nobody: files on it can only be closed.
    let dead = daemon.is_none() && pulse(mountpoint) == Pulse::Dead;
    let manner = if lazy || dead { Manner::Lazy } else { Manner::WhenIdle };
    match unmount(mountpoint, manner) {
        Ok(()) => {}
        Err(error) if error.kind() == Kind::Busy => return Err(busy(mountpoint)),
        // Somebody else was faster.
        Err(error) if error.kind() == Kind::NotFound && mountinfo::topmost(mountpoint)?.is_none() => {}
        Err(error) => return Err(error),
    }
    match daemon {
        None if dead => Ok(Unmounted::Ended),
        None => Ok(Unmounted::UnknownDaemon),
        Some(daemon) if lazy => match daemon.wait(ENDING_LAZILY) {
            Ok(()) => Ok(Unmounted::Ended),
            Err(_) => Ok(Unmounted::StillServing(daemon.holder)),
        },
        Some(daemon) => daemon.wait(ENDING).map(|()| Unmounted::Ended),
    }
}

fn not_ours(message: String) -> Error {
    Error::new(Kind::Invalid, message)
}

fn busy(mountpoint: &Path) -> Error {
    let shown = mountpoint.display();
    let message = format!(
        "{shown} is in use: close what uses it (shown by: lsof {shown}), \
         or detach it now with: glancefs umount --lazy {shown}"
    );
    Error::new(Kind::Busy, message)
}

/// The process behind a mount, found before the unmount and waited for after it.
struct Daemon<'a> {
    holder: Holder,
    /// Becomes readable when the process has ended, all its locks included. `None` where we cannot
    /// see it (another PID namespace, an old kernel): then its lock on the mount point has to do.
    process: Option<OwnedFd>,
    mountpoint: &'a Path,
    mounted_by: Option<u32>,
    environment: &'a Environment,
}

impl<'a> Daemon<'a> {
    fn find(mountpoint: &'a Path, mounted_by: Option<u32>, environment: &'a Environment) -> Option<Self> {
        let holder = instance::holder(mountpoint, mounted_by, environment)?;
        let open = |pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        let mut daemon =
            Self { holder, process: holder.pid.and_then(open), mountpoint, mounted_by, environment };
        // Had it ended in between, the number could be another process by now.
        if !daemon.holds() {
            daemon.process = None;
        }
        Some(daemon)
    }

    /// It still has its lock on the mount point.
    fn holds(&self) -> bool {
        instance::holder(self.mountpoint, self.mounted_by, self.environment) == Some(self.holder)
    }

    /// Waits until the process has ended and its lock is free.
    fn wait(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut running = self.process.as_ref().is_some_and(|process| !has_ended(process, limit));
        while running || self.holds() {
            if Instant::now() >= deadline {
                let (shown, holder) = (self.mountpoint.display(), self.holder);
                let message = format!(
                    "{shown} is unmounted, but its daemon ({holder}) has not ended within {} s: see its log",
                    limit.as_secs()
                );
                return Err(Error::new(Kind::TimedOut, message));
            }
            thread::sleep(POLL);
            running = self.process.as_ref().is_some_and(|process| !has_ended(process, Duration::ZERO));
        }
        Ok(())
    }
}

/// Waits up to `limit` for the end of a process.
fn has_ended(process: &OwnedFd, limit: Duration) -> bool {
    let Ok(limit) = Timespec::try_from(limit) else { return false };
    let mut events = [PollFd::new(process, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut events, Some(&limit)) {
            Ok(ready) => return ready > 0,
            // The clock starts again; signals are rare here.
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> Error {
        umount(path, false, &Environment::new([], 4242, 4242)).unwrap_err()
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let error = refusal(Path::new("/proc"));
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("type proc"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = refusal(folder.path());
        assert!(error.to_string().contains("no glancefs is mounted"), "{error}");
        assert!(refusal(Path::new("/no/such")).to_string().contains("no glancefs is mounted at /no/such"));
    }

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("3600").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(!has_ended(&process, Duration::from_millis(1)));
        child.kill().unwrap();
        assert!(has_ended(&process, Duration::from_secs(60)));
        child.wait().unwrap();
    }
}
