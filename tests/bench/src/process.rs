//! Processes that the bench starts: each ends with its owner, and its use of the machine is read from `/proc`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, within};

/// After this a process that was asked to end is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The unit of times in `/proc/<pid>/stat`, USER_HZ: the same on every architecture that Rust and FUSE share.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that runs until it is stopped or dropped.
pub struct Daemon {
    name: String,
    child: Child,
}

impl Daemon {
    /// Starts it, with its output appended to the file `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().map_err(|error| format!("{name} does not start: {error}"))?;
        Ok(Self { name, child })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for an end that something else has caused (its file system was unmounted).
    pub fn wait(mut self) -> Result<()> {
        if within(PATIENCE, || self.ended().is_some()) {
            return Ok(());
        }
        Err(format!("{} did not end by itself; it is killed", self.name).into())
    }

    /// Asks it to end with SIGTERM, and waits.
    pub fn stop(&mut self) {
        if self.ended().is_none() {
            signal(self.id(), rustix::process::Signal::TERM);
            within(PATIENCE, || self.ended().is_some());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal, if the process still exists.
pub fn signal(id: u32, signal: rustix::process::Signal) {
    if let Some(process) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(process, signal);
    }
}

/// Runs a command to its end; what it printed.
///
/// # Errors
/// With what it said, when it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Where an executable is, as the shell would find it; also among the administrator's tools.
pub fn find(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Processes whose use is counted together; those that they started count too.
#[derive(Debug, Clone, Default)]
pub struct Processes(pub Vec<u32>);

impl Processes {
    /// Processor seconds, in user and kernel mode, since each began. The kernel counts in steps of 10 ms.
    pub fn cpu_seconds(&self) -> f64 {
        let ticks: u64 = self.all().iter().filter_map(|id| Some(Stat::of(*id)?.ticks)).sum();
        ticks as f64 / TICKS_PER_SECOND
    }

    /// The largest resident memory that any one of them ever had, in bytes.
    pub fn peak_rss(&self) -> u64 {
        let of = |id: &u32| -> Option<u64> {
            let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
        };
        self.all().iter().filter_map(of).max().unwrap_or_default()
    }

    /// Waits until they do nothing any more (uploads to disk, verification), for at most a minute.
    pub fn settle(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        let mut idle = 0;
        let mut before = self.cpu_seconds();
        while idle < 2 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.cpu_seconds();
            idle = if now - before < 0.015 { idle + 1 } else { 0 };
            before = now;
        }
    }

    fn all(&self) -> Vec<u32> {
        let running: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|id| Some((id, Stat::of(id)?.parent)))
            .collect();
        let mut all = self.0.clone();
        let mut at = 0;
        while at < all.len() {
            let parent = all[at];
            all.extend(running.iter().filter(|process| process.1 == parent).map(|process| process.0));
            at += 1;
        }
        all
    }
}

/// What is used of `/proc/<pid>/stat` (proc_pid_stat(5)).
struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    fn of(id: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}
