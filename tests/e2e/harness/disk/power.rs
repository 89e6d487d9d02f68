//! What a power cut leaves of a disk, by what POSIX promises and no more.
//!
//! What was not made durable by fsync of the file may be there, be missing, or be there in part (sectors of 512
//! bytes; a longer length with zeros). Names (creations, renames, removals) of a folder may be missing from any of
//! them on, unless fsync of that folder came after: file systems keep their order within a folder, and fsync
//! of a file makes no name durable. A file's times may be those of any of its changes, but are never older than a
//! change that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::state::{State, Step};
use crate::harness::Numbers;

const SECTOR: usize = 512;

/// How what was not durable fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    All,
    /// All contents are there and no names.
    Names,
    /// All names are there and no contents.
    Contents,
    /// The bytes of blocks in the cache, while their files' times and all else are there.
    Blocks,
    /// What cleared entries of indices; the holes and all else are there.
    Cleared,
    /// Each as dice fall.
    Some(u64),
}

/// The disk after a power cut that came when `log` had been done to `base`, which was durable.
pub fn after_power_cut(base: &State, log: &[(Step, SystemTime)], loss: Loss) -> State {
    let mut dice = Numbers::new(if let Loss::Some(seed) = loss { seed } else { 0 });
    let mut lost_names = LostNames::of(log, loss, &mut dice);
    let mut state = base.clone();
    let blocks = files_of_blocks(base, log);
    for (index, (step, time)) in log.iter().enumerate() {
        if let Some(file) = step.file() {
            let durable =
                log[index..].iter().any(|(later, _)| matches!(later, Step::Sync { file: f } if *f == file));
            let fate = match (loss, step) {
                (Loss::Blocks, Step::Write { file, .. }) if !durable && blocks.contains(file) => Fate::Dated,
                (Loss::Cleared, Step::Write { bytes, .. }) if !durable && bytes.iter().all(|b| *b == 0) => {
                    Fate::Lost
                }
                _ => fate(durable, loss, &mut dice),
            };
            match fate {
                Fate::Kept => state.apply(step, *time),
                Fate::Lost => {}
                Fate::Dated => touch(&mut state, file, *time),
                Fate::Torn => state.apply(&torn(step, &state, &mut dice), *time),
            }
        } else if lost_names.keeps(index, step) {
            state.apply(step, *time);
        } else if let Step::Make { node, mode, is_folder, .. } = step {
            // The file without its name: what is written to it later has to go somewhere.
            let nowhere = Step::Make {
                folder: u64::MAX,
                name: String::new(),
                node: *node,
                mode: *mode,
                is_folder: *is_folder,
            };
            state.apply(&nowhere, *time);
        }
    }
    state
}

/// The files that hold blocks of the cache.
fn files_of_blocks(base: &State, log: &[(Step, SystemTime)]) -> BTreeSet<u64> {
    let there = base.nodes.values().filter_map(|node| node.entries.as_ref()).flatten();
    let there = there.filter(|(name, _)| name.ends_with(".data")).map(|(_, file)| *file);
    let made = log.iter().filter_map(|(step, _)| match step {
        Step::Make { name, node, .. } if name.ends_with(".data") => Some(*node),
        _ => None,
    });
    there.chain(made).collect()
}

enum Fate {
    Kept,
    Lost,
    /// Lost, except for the file's times.
    Dated,
    Torn,
}

fn fate(durable: bool, loss: Loss, dice: &mut Numbers) -> Fate {
    match loss {
        _ if durable => Fate::Kept,
        Loss::Names | Loss::Blocks | Loss::Cleared => Fate::Kept,
        Loss::All | Loss::Contents => Fate::Lost,
        Loss::Some(_) => match dice.below(4) {
            0 => Fate::Kept,
            1 => Fate::Lost,
            2 => Fate::Dated,
            _ => Fate::Torn,
        },
    }
}

fn touch(state: &mut State, file: u64, time: SystemTime) {
    if let Some(node) = state.nodes.get_mut(&file) {
        (node.modified, node.changed) = (time, time);
    }
}

/// Some sectors of a write, or the length that it brings with zeros in place of its bytes.
fn torn(step: &Step, state: &State, dice: &mut Numbers) -> Step {
    let Step::Write { file, at, bytes } = step else { return step.clone() };
    let end = at + bytes.len() as u64;
    let length = state.nodes.get(file).map_or(0, |node| node.bytes.len() as u64);
    if end > length && dice.below(3) == 0 {
        return Step::SetLength { file: *file, length: end };
    }
    let sectors = bytes.len().div_ceil(SECTOR);
    let first = dice.below(sectors) * SECTOR;
    let last = (first + (1 + dice.below(sectors)) * SECTOR).min(bytes.len());
    Step::Write { file: *file, at: at + first as u64, bytes: bytes[first..last].to_vec() }
}

/// Which changes of names are there.
struct LostNames {
    /// Of a folder: the first step whose change of it is lost.
    first: BTreeMap<u64, usize>,
}

impl LostNames {
    fn of(log: &[(Step, SystemTime)], loss: Loss, dice: &mut Numbers) -> Self {
        let mut durable: BTreeMap<u64, usize> = BTreeMap::new();
        let mut changes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, (step, _)) in log.iter().enumerate() {
            if let Step::SyncFolder { folder } = step {
                durable.insert(*folder, index);
            }
            for folder in step.folders() {
                changes.entry(folder).or_default().push(index);
            }
        }
        // What moves between two folders is durable with either.
        for (index, (step, _)) in log.iter().enumerate().rev() {
            let folders = step.folders();
            let until = folders.iter().filter_map(|folder| durable.get(folder)).max().copied();
            if let Some(until) = until.filter(|until| *until > index) {
                for folder in folders {
                    let known = durable.entry(folder).or_default();
                    *known = (*known).max(index.min(until) + 1);
                }
            }
        }
        let first = changes.into_iter().map(|(folder, changes)| {
            let synced = durable.get(&folder).copied().unwrap_or(0);
            let open: Vec<_> = changes.into_iter().filter(|index| *index >= synced).collect();
            let lost = match loss {
                Loss::Contents | Loss::Blocks | Loss::Cleared => open.len(),
                Loss::All | Loss::Names => 0,
                Loss::Some(_) => dice.below(open.len() + 1),
            };
            (folder, open.get(lost).copied().unwrap_or(usize::MAX))
        });
        Self { first: first.collect() }
    }

    fn keeps(&mut self, index: usize, step: &Step) -> bool {
        // Folders are made once, at the first mount.
        if matches!(
            step,
            Step::Make { is_folder: true, .. }
                | Step::SetMode { .. }
                | Step::Sync { .. }
                | Step::SyncFolder { .. }
        ) {
            return true;
        }
        let folders = step.folders();
        let keeps = folders.iter().all(|folder| self.first.get(folder).is_none_or(|first| index < *first));
        if !keeps {
            // Atomic in both, and nothing that came later in either.
            for folder in folders {
                let first = self.first.entry(folder).or_insert(index);
                *first = (*first).min(index);
            }
        }
        keeps
    }
}
