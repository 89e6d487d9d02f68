//! A disk of the tests' own: a file system in memory that records what is done to it, fails on command, ends the
//! process that uses it at a chosen step, and can be set back to what a power cut would have left.
//!
//! It passes nothing on to a real disk, so that every state of it is exact: `state` is what is on it, `power`
//! what a power cut leaves, `serve` how the kernel gets at it. Nothing is cached by the kernel.

mod power;
mod serve;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fuser::{BackgroundSession, Config, MountOption};
use rustix::process::{Pid, Signal, kill_process};

use super::run::Folder;
use super::shell::run;

pub use power::Loss;
use state::{PAGE, ROOT, State, Step};

/// What the disk does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Contents cannot be read: EIO.
    Reads,
    /// Nothing can be written: EIO.
    Writes,
    /// Everything: EIO, also for names and attributes.
    All,
    /// It is read-only: EROFS.
    ReadOnly,
}

/// The step at which the process that uses the disk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The step is not done.
    Before,
    /// Half of a write is done.
    Within,
    /// The step is done.
    After,
}

struct Inner {
    state: State,
    /// What was there when recording began.
    base: State,
    log: Vec<(Step, SystemTime)>,
    next_node: u64,
    failure: Option<Failure>,
    /// So many reads of contents fail, whatever else works.
    failing_reads: usize,
    /// Bytes that fit.
    capacity: u64,
    /// Steps until the process ends, and how.
    fuse: Option<(usize, Moment)>,
    /// The process was ended: nothing more is done for it.
    is_off: bool,
    /// How many requests were refused.
    refused: usize,
}

/// A mounted disk; unmounted when dropped.
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
    folder: Folder,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// An empty one.
    pub fn new() -> Self {
        let folder = Folder::new("disk");
        let at = folder.path("at");
        std::fs::create_dir(&at).unwrap();
        let state = State::new();
        let inner = Inner {
            base: state.clone(),
            state,
            log: Vec::new(),
            next_node: ROOT + 1,
            failure: None,
            failing_reads: 0,
            capacity: 1 << 40,
            fuse: None,
            is_off: false,
            refused: 0,
        };
        let inner = Arc::new(Mutex::new(inner));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("tests".to_owned()), MountOption::DefaultPermissions];
        let session = fuser::spawn_mount(serve::Server(Arc::clone(&inner)), &at, &config).expect("a mount");
        Self { inner, folder, session: Some(session) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The path of `name` on it.
    pub fn path(&self, name: &str) -> String {
        self.folder.path(&format!("at/{name}"))
    }

    /// From now on it fails so, or works again.
    pub fn fail(&self, failure: Option<Failure>) {
        self.inner().failure = failure;
    }

    /// The next read of contents fails, and no other.
    pub fn fail_one_read(&self) {
        self.inner().failing_reads = 1;
    }

    /// From now on so many bytes fit.
    pub fn limit(&self, capacity: u64) {
        self.inner().capacity = capacity;
    }

    /// Bytes that are occupied.
    pub fn occupied(&self) -> u64 {
        self.inner().state.occupied()
    }

    /// Bytes that are occupied by the files whose name ends so.
    pub fn occupied_by(&self, ending: &str) -> u64 {
        let inner = self.inner();
        let folders = inner.state.nodes.values().filter_map(|node| node.entries.as_ref());
        let of_name = folders.flatten().filter(|(name, _)| name.ends_with(ending));
        of_name.map(|(_, file)| inner.state.nodes[file].pages.len() as u64 * PAGE).sum()
    }

    /// How many requests it refused.
    pub fn refused(&self) -> usize {
        self.inner().refused
    }

    /// What is there now is durable; what is done from now on is recorded anew.
    pub fn record(&self) {
        let mut inner = self.inner();
        inner.base = inner.state.clone();
        inner.log.clear();
    }

    /// How many steps were recorded.
    pub fn steps(&self) -> usize {
        self.inner().log.len()
    }

    /// Ends the process that makes the `steps`-th step from now, by SIGKILL.
    pub fn kill_at(&self, steps: usize, moment: Moment) {
        self.inner().fuse = Some((steps, moment));
    }

    /// Whether the process was ended. If not, it will not be.
    pub fn has_killed(&self) -> bool {
        let mut inner = self.inner();
        inner.fuse = None;
        inner.is_off
    }

    /// Takes requests again after the process was ended.
    pub fn turn_on(&self) {
        let mut inner = self.inner();
        (inner.is_off, inner.fuse) = (false, None);
    }

    /// What a power cut leaves that comes now; nobody may have it open.
    pub fn cut_power(&self, loss: Loss) {
        let steps = self.inner().log.len();
        self.cut_power_at(steps, loss);
    }

    /// The same of a power cut that came after `steps` of what was recorded. The record stays.
    pub fn cut_power_at(&self, steps: usize, loss: Loss) {
        let mut inner = self.inner();
        inner.state = power::after_power_cut(&inner.base, &inner.log[..steps], loss);
    }

    /// Puts this on it, in place of what is there, and begins a new record.
    pub fn set(&self, contents: &Contents) {
        self.inner().state = contents.0.clone();
        self.record();
    }

    /// Changes the bytes of each file whose name ends so, as a failing disk does: nothing but the bytes changes.
    /// Gives how many there are.
    pub fn spoil(&self, ending: &str, mut spoil: impl FnMut(&mut Vec<u8>)) -> usize {
        let mut inner = self.inner();
        let folders = inner.state.nodes.values().filter_map(|node| node.entries.as_ref());
        let of_name = |(name, file): (&String, &u64)| name.ends_with(ending).then_some(*file);
        let files: Vec<_> = folders.flatten().filter_map(of_name).collect();
        for file in &files {
            if let Some(node) = inner.state.nodes.get_mut(file) {
                spoil(&mut node.bytes);
            }
        }
        files.len()
    }

    /// The names of the files in it that end so, with what is in them.
    pub fn files(&self, ending: &str) -> Vec<(String, Vec<u8>)> {
        let inner = self.inner();
        let folders = inner.state.nodes.values().filter_map(|node| node.entries.as_ref());
        let of_name = folders.flatten().filter(|(name, _)| name.ends_with(ending));
        of_name.map(|(name, file)| (name.clone(), inner.state.nodes[file].bytes.clone())).collect()
    }

    /// All that is on it.
    pub fn contents(&self) -> Contents {
        Contents(self.inner().state.clone())
    }

    /// Takes it away from under whoever uses it.
    pub fn vanish(&mut self) {
        if let Some(session) = self.session.take() {
            let at = self.folder.path("at");
            run(&format!("umount -l {at} || fusermount3 -uz {at}"));
            // It would unmount once more.
            std::mem::forget(session);
        }
    }
}

/// All that is on a disk at one time.
pub struct Contents(State);

impl Drop for Disk {
    fn drop(&mut self) {
        self.inner().failure = None;
        self.turn_on();
        self.vanish();
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Does a step for the process `pid`, unless something is to go wrong; gives the errno then.
    fn act(&mut self, step: Step, pid: u32) -> Result<(), i32> {
        self.admit(&step).inspect_err(|_| self.refused += 1)?;
        let fuse = self.fuse.take();
        let (left, moment) = fuse.unzip();
        match left {
            Some(0) => {
                let kept = match (moment, step) {
                    (Some(Moment::Before), _) => None,
                    (Some(Moment::Within), Step::Write { file, at, bytes }) => {
                        Some(Step::Write { file, at, bytes: bytes[..bytes.len() / 2].to_vec() })
                    }
                    (Some(Moment::Within), _) => None,
                    (_, step) => Some(step),
                };
                if let Some(step) = kept {
                    self.apply(step);
                }
                self.is_off = true;
                let pid = Pid::from_raw(i32::try_from(pid).unwrap_or(0));
                if let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                return Err(libc::EIO);
            }
            Some(left) => self.fuse = moment.map(|moment| (left - 1, moment)),
            None => {}
        }
        self.apply(step);
        Ok(())
    }

    fn apply(&mut self, step: Step) {
        let now = SystemTime::now();
        self.state.apply(&step, now);
        self.log.push((step, now));
    }

    fn admit(&self, step: &Step) -> Result<(), i32> {
        if self.is_off {
            return Err(libc::EIO);
        }
        let pages = match step {
            Step::Write { file, at, bytes } => self.state.pages_needed(*file, *at, bytes.len() as u64),
            Step::Make { .. } => 1,
            _ => 0,
        };
        match self.failure {
            Some(Failure::Writes | Failure::All) => Err(libc::EIO),
            Some(Failure::ReadOnly) => Err(libc::EROFS),
            _ if pages > 0 && self.state.occupied() + pages * PAGE > self.capacity => Err(libc::ENOSPC),
            _ => Ok(()),
        }
    }

    /// Whether names and attributes can be read.
    fn can_look(&mut self) -> Result<(), i32> {
        if self.failure == Some(Failure::All) {
            self.refused += 1;
            return Err(libc::EIO);
        }
        Ok(())
    }

    /// Whether contents can be read.
    fn can_read(&mut self) -> Result<(), i32> {
        let fails = self.failing_reads > 0;
        self.failing_reads = self.failing_reads.saturating_sub(1);
        if fails || self.is_off || matches!(self.failure, Some(Failure::Reads | Failure::All)) {
            self.refused += 1;
            return Err(libc::EIO);
        }
        Ok(())
    }
}
