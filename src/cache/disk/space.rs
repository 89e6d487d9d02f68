//! How much the cache occupies, and whether more may be written: a limit and a floor of free space.
//!
//! Used only from the thread that writes, which evicts when there is no room. Space is taken into account
//! before a write, so the limit holds at all times for what this process writes. What other processes write is seen
//! at the next count, which comes after a tenth of the limit at the latest: each further process that fills the
//! cache at the same time can exceed the limit by no more than that.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::evict::{Tenants, evict};
use super::folder::{Disk, Folder, Part};

/// How long a count of the data files is believed while we write, and no longer than until [`Space::slack`] was written:
/// other mounts write too.
const COUNT_LIFE: Duration = Duration::from_secs(30);
/// How long the free space of the disk is believed, and how many bytes of ours it is believed for.
const FREE_LIFE: Duration = Duration::from_secs(1);
const FREE_LIFE_BYTES: u64 = 64 << 20;
/// After no room could be made, nothing is written for so long: making room reads every index.
const FULL_REST: Duration = Duration::from_secs(5);
/// How long another process is waited for that makes room, or takes what we have freed, and how often it is looked.
/// It holds up the writer, whose queue then drops blocks.
const OTHERS: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// Eviction frees a tenth of the limit at once, so that it is not needed again soon, and at most 1 GiB, so
/// that it is over soon: it holds up the writer.
const SLACK_SHARE: u64 = 10;
const MOST_SLACK: u64 = 1 << 30;

/// The space of the cache folder.
#[derive(Debug)]
pub(crate) struct Space {
    limit: u64,
    floor_percent: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    counted: Option<Instant>,
    written_since_count: u64,
    disk: Option<(Instant, Disk)>,
    written_since: u64,
    full_until: Option<Instant>,
    said_full: bool,
}

impl Space {
    pub(crate) fn new(limit: u64, floor_percent: u8) -> Self {
        Self { limit, floor_percent: u64::from(floor_percent.min(100)), state: Mutex::default() }
    }

    /// Bytes allowed in all data files together.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that all data files together occupy, counted now, and the most that they may: the limit, or
    /// what the disk has beyond its floor when that is less. Waits for the disk.
    pub(crate) fn occupied(&self, folder: &Folder) -> io::Result<(u64, u64)> {
        let mut now = State::default();
        now.count(folder)?;
        let disk = folder.disk()?;
        let most = now.used.saturating_add(disk.free.saturating_sub(self.floor(disk)));
        Ok((now.used, most.min(self.limit)))
    }

    /// What was counted so far is no longer so: an image was evicted.
    pub(crate) fn count_again(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.counted, state.disk, state.full_until) = (None, None, None);
    }

    /// Asks to write `bytes`; makes room if it must. `false`: there is none, do not write.
    /// `freed` gets the bytes that were evicted.
    pub(crate) fn admit(
        &self,
        folder: &Folder,
        bytes: u64,
        tenants: &dyn Tenants,
        freed: &mut u64,
    ) -> io::Result<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.full_until.is_some_and(|until| Instant::now() < until) {
            return Ok(false);
        }
        let is_old = state.counted.is_none_or(|at| at.elapsed() > COUNT_LIFE);
        if is_old || state.written_since_count + bytes > self.slack() {
            state.count(folder)?;
        }
        let began = Instant::now();
        loop {
            let lacking = self.lacking(&mut state, folder, bytes)?;
            if lacking == 0 {
                break;
            }
            match evict(folder, lacking, tenants)? {
                Some(0) => {
                    self.is_full(&mut state, folder);
                    return Ok(false);
                }
                Some(evicted) => *freed += evicted,
                // Another process makes room for all; a short wait is better than a lost block.
                None => std::thread::sleep(LOOK),
            }
            state.count(folder)?;
            state.disk = None;
            if self.lacking(&mut state, folder, bytes)? > 0 && began.elapsed() > OTHERS {
                return Ok(false);
            }
        }
        state.said_full = false;
        state.used += bytes;
        state.written_since += bytes;
        state.written_since_count += bytes;
        Ok(true)
    }

    /// Nothing is left that could be evicted.
    fn is_full(&self, state: &mut State, folder: &Folder) {
        if !std::mem::replace(&mut state.said_full, true) {
            tracing::warn!(cache = %folder.path().display(), "no room can be made in the cache: what is read is not kept on disk");
        }
        state.full_until = Some(Instant::now() + FULL_REST);
    }

    /// Bytes that are freed beyond what is needed.
    fn slack(&self) -> u64 {
        (self.limit / SLACK_SHARE).min(MOST_SLACK)
    }

    /// Bytes that should be evicted before `bytes` are written; 0: there is room.
    fn lacking(&self, state: &mut State, folder: &Folder, bytes: u64) -> io::Result<u64> {
        let disk = match state.disk {
            Some((at, disk)) if at.elapsed() < FREE_LIFE && state.written_since < FREE_LIFE_BYTES => disk,
            _ => {
                let disk = folder.disk()?;
                state.disk = Some((Instant::now(), disk));
                state.written_since = 0;
                disk
            }
        };
        if self.fits(state, bytes) {
            return Ok(0);
        }
        let slack = self.slack();
        let over = (state.used + bytes).saturating_sub(self.limit);
        let short = match self.has_floor(state, bytes) {
            true => 0,
            false => (self.floor(disk) + bytes + slack).saturating_sub(disk.free),
        };
        let over = if over > 0 { over + slack } else { 0 };
        Ok(over.max(short))
    }

    fn floor(&self, disk: Disk) -> u64 {
        disk.total / 100 * self.floor_percent
    }

    fn has_floor(&self, state: &State, bytes: u64) -> bool {
        state.disk.is_some_and(|(_, disk)| {
            disk.free.saturating_sub(state.written_since) >= self.floor(disk).saturating_add(bytes)
        })
    }

    fn fits(&self, state: &State, bytes: u64) -> bool {
        state.used + bytes <= self.limit && self.has_floor(state, bytes)
    }
}

impl State {
    /// Adds up what all data files occupy. Only names and sizes are looked at.
    fn count(&mut self, folder: &Folder) -> io::Result<()> {
        let mut keys = Vec::new();
        folder.each_image(|key, part| {
            if part == Part::Data {
                keys.push(key);
            }
        })?;
        let mut used = 0;
        for key in keys {
            used += folder.allocated(key)?.map_or(0, |(bytes, _)| bytes);
        }
        self.used = used;
        self.counted = Some(Instant::now());
        self.written_since_count = 0;
        Ok(())
    }
}
