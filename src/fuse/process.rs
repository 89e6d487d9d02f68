//! What `/proc` tells of the process behind a request: its thread group, whether a signal is ending
//! it, which descriptors it holds.
//!
//! A process of another PID namespace has the number 0 here and shows nothing; it is then taken to
//! be alive and at its last close (`docs/design.md`, "Writing").

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::unix::AsyncFd;

use crate::fs::{Closer, Ino, ThreadGroup, Watch};

/// `PF_SIGNALED` of the kernel's task flags: the task is ending because of a signal. At the FLUSH
/// of a process that ends by itself or calls close(2) it is not set.
const PF_SIGNALED: u32 = 0x400;

/// Descriptors of a process that are looked at; one with more is taken to hold no second one of the
/// file. Looking at 4096 takes about 10 ms.
const MOST_DESCRIPTORS: usize = 4096;

/// How long a look at a closing process may take. Usually it takes some 20 µs.
const LOOK: Duration = Duration::from_secs(2);

/// How often a pending signal is looked for while a reply is awaited: within this time Ctrl-C lets a reader, or `cp`, go.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(200);

/// Signals that do not end a process by default: CHLD 17, CONT 18, STOP 19, TSTP 20, TTIN 21,
/// TTOU 22, URG 23, WINCH 28.
const HARMLESS: u64 = 1 << 16 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 27;

/// The thread group of the task `pid`.
pub(super) fn thread_group(pid: u32) -> Option<ThreadGroup> {
    let status = fs::read_to_string(task(pid).join("status")).ok()?;
    field(&status, "Tgid:")?.parse().ok().map(ThreadGroup)
}

/// Who closes a descriptor of the file `ino` that `opener` has opened, as far as that is known.
///
/// A program that starts another one closes descriptors inside execve(2), under a lock of the kernel that a look
/// into `/proc/<pid>/stat` waits for (Linux 6.18, `exec_update_lock`), while it waits for our reply. So a close that
/// is not the opener's is not looked into: it decides nothing. And the opener, should he become another program with
/// the file open, is looked at on a thread of its own: when that look does not end, he is taken to be killed, which
/// publishes nothing and keeps the bytes.
pub(super) fn closer(pid: u32, ino: Ino, opener: Option<ThreadGroup>) -> Closer {
    let Some(group) = thread_group(pid) else { return Closer::default() };
    if opener.is_some_and(|opener| opener != group) {
        return Closer { group: Some(group), killed: false, holds_more: false };
    }
    let (sender, seen) = mpsc::channel();
    let look = move || sender.send((is_killed(pid), holds(group, ino)));
    let looking = thread::Builder::new().name("glancefs-look".to_owned()).spawn(look);
    let seen = looking.ok().and_then(|_| seen.recv_timeout(LOOK).ok());
    let (killed, holds_more) = seen.unwrap_or((true, false));
    Closer { group: Some(group), killed, holds_more }
}

fn task(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn is_killed(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(task(pid).join("stat")) else { return false };
    // The second field is the command in parentheses and may hold anything: count from its end.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6));
    flags.and_then(|flags| flags.parse::<u32>().ok()).is_some_and(|flags| flags & PF_SIGNALED != 0)
}

/// The process has a descriptor of the file that it can write to. The one being closed is out of its
/// table already.
fn holds(group: ThreadGroup, ino: Ino) -> bool {
    let Ok(descriptors) = fs::read_dir(task(group.0).join("fdinfo")) else { return false };
    let ours = ino.0.to_string();
    descriptors.take(MOST_DESCRIPTORS).flatten().any(|descriptor| {
        let info = fs::read_to_string(descriptor.path()).unwrap_or_default();
        let flags = field(&info, "flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
        field(&info, "ino:") == Some(ours.as_str())
            && flags.is_none_or(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
    })
}

/// A signal that will end the task waits for it, or it has ended.
fn is_dying(pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(task(pid).join("status")) else { return true };
    let set = |name| field(&status, name).and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
    let pending = set("SigPnd:") | set("ShdPnd:");
    let survived = set("SigIgn:") | set("SigCgt:") | set("SigBlk:");
    pending & !survived & !HARMLESS != 0
}

/// Ends when a signal that will end the process waits for it; never for one that we cannot see. Most requests are
/// answered before it looks for the first time.
pub(super) async fn killed(pid: u32) {
    tokio::time::sleep(SIGNAL_INTERVAL).await;
    if thread_group(pid).is_none() {
        std::future::pending::<()>().await;
    }
    dying(pid).await;
}

async fn dying(pid: u32) {
    while !is_dying(pid) {
        tokio::time::sleep(SIGNAL_INTERVAL).await;
    }
}

/// Watches the process behind a request.
pub(super) struct ProcessWatch {
    pid: u32,
    group: Option<ThreadGroup>,
}

impl ProcessWatch {
    pub(super) fn new(pid: u32, closer: &Closer) -> Self {
        Self { pid, group: closer.group }
    }
}

impl Watch for ProcessWatch {
    fn killed(&self) -> BoxFuture<'static, ()> {
        let (pid, visible) = (self.pid, self.group.is_some());
        Box::pin(async move {
            match visible {
                true => dying(pid).await,
                false => std::future::pending().await,
            }
        })
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        let group = self.group.and_then(|group| i32::try_from(group.0).ok());
        let pid = group.and_then(rustix::process::Pid::from_raw);
        // Opened now, while the process waits for our reply: its number cannot be another's yet.
        let descriptor =
            pid.map(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
        Box::pin(async move {
            let Some(Ok(descriptor)) = descriptor else { return };
            // SAFETY: an `OwnedFd` has the same descriptor, open, for as long as it lives.
            let ready = unsafe { AsyncFd::register_with_interest(descriptor, tokio::io::Interest::READABLE) };
            if let Ok(ready) = ready {
                // A pidfd is readable once its process has ended; an error means the same to us.
                let _ = ready.readable().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_thread_group() {
        let own = std::process::id();
        assert_eq!(thread_group(own), Some(ThreadGroup(own)));
        assert_eq!(thread_group(0), None);
        assert_eq!(closer(0, Ino(1), None), Closer::default());
    }

    #[test]
    fn a_second_descriptor_of_a_file_is_seen() {
        let file = tempfile::tempfile().unwrap();
        let ino = Ino(file.metadata().unwrap().ino());
        let own = ThreadGroup(std::process::id());
        assert!(holds(own, ino));
        let reading = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        drop(file);
        assert!(!holds(own, ino), "one for reading will write nothing more");
        drop(reading);
    }

    #[test]
    fn only_a_signal_that_ends_it_makes_a_process_dying() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_dying(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dying(child.id()), "ended is as good as dying");
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let group = thread_group(child.id());
        let watch = ProcessWatch { pid: child.id(), group };
        let ended = watch.ended();
        child.kill().unwrap();
        child.wait().unwrap();
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    }
}
