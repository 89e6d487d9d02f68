//! What is on a [`Disk`](super::Disk): files and folders in memory, changed by steps that can be recorded and replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// The folder that everything is in.
pub const ROOT: u64 = 1;
/// Space is given in this unit.
pub const PAGE: u64 = 4096;

/// A change, or an order to make changes durable.
#[derive(Debug, Clone)]
pub enum Step {
    /// A file or folder appears under a name.
    Make {
        folder: u64,
        name: String,
        node: u64,
        mode: u32,
        is_folder: bool,
    },
    Write {
        file: u64,
        at: u64,
        bytes: Vec<u8>,
    },
    SetLength {
        file: u64,
        length: u64,
    },
    Punch {
        file: u64,
        at: u64,
        length: u64,
    },
    SetMode {
        node: u64,
        mode: u32,
    },
    Rename {
        from: (u64, String),
        to: (u64, String),
    },
    Remove {
        folder: u64,
        name: String,
    },
    /// fsync or fdatasync of a file.
    Sync {
        file: u64,
    },
    /// fsync of a folder.
    SyncFolder {
        folder: u64,
    },
}

impl Step {
    /// The file whose content it changes.
    pub fn file(&self) -> Option<u64> {
        match self {
            Self::Write { file, .. } | Self::SetLength { file, .. } | Self::Punch { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// The folders whose names it changes.
    pub fn folders(&self) -> Vec<u64> {
        match self {
            Self::Make { folder, .. } | Self::Remove { folder, .. } => vec![*folder],
            Self::Rename { from, to } if from.0 == to.0 => vec![from.0],
            Self::Rename { from, to } => vec![from.0, to.0],
            _ => Vec::new(),
        }
    }
}

/// A file, or a folder.
#[derive(Debug, Clone)]
pub struct Node {
    pub mode: u32,
    pub links: u32,
    /// Of a folder: what is in it.
    pub entries: Option<BTreeMap<String, u64>>,
    pub bytes: Vec<u8>,
    /// Pages that occupy space; holes do not.
    pub pages: BTreeSet<u64>,
    pub modified: SystemTime,
    pub changed: SystemTime,
}

/// Everything on the disk.
#[derive(Debug, Clone)]
pub struct State {
    pub nodes: BTreeMap<u64, Node>,
}

impl State {
    /// An empty disk.
    pub fn new() -> Self {
        let mut state = Self { nodes: BTreeMap::new() };
        state.add(ROOT, 0o700, true, SystemTime::now());
        state
    }

    fn add(&mut self, node: u64, mode: u32, is_folder: bool, now: SystemTime) {
        let entries = is_folder.then(BTreeMap::new);
        let (bytes, pages, links) = (Vec::new(), BTreeSet::new(), 1);
        self.nodes.insert(node, Node { mode, links, entries, bytes, pages, modified: now, changed: now });
    }

    pub fn entries(&mut self, folder: u64) -> Option<&mut BTreeMap<String, u64>> {
        self.nodes.get_mut(&folder)?.entries.as_mut()
    }

    pub fn lookup(&self, folder: u64, name: &str) -> Option<u64> {
        self.nodes.get(&folder)?.entries.as_ref()?.get(name).copied()
    }

    /// Bytes that are occupied.
    pub fn occupied(&self) -> u64 {
        self.nodes.values().filter(|node| node.links > 0).map(|node| node.pages.len() as u64 * PAGE).sum()
    }

    /// Pages that the write would take in addition.
    pub fn pages_needed(&self, file: u64, at: u64, length: u64) -> u64 {
        let Some(node) = self.nodes.get(&file) else { return 0 };
        (at / PAGE..(at + length).div_ceil(PAGE)).filter(|page| !node.pages.contains(page)).count() as u64
    }

    /// Makes the change; one that does not fit what is there makes none.
    pub fn apply(&mut self, step: &Step, now: SystemTime) {
        match step {
            Step::Make { folder, name, node, mode, is_folder } => {
                // Replayed steps can come after those that changed what is in the file.
                if !self.nodes.contains_key(node) {
                    self.add(*node, *mode, *is_folder, now);
                }
                self.entries(*folder).map(|entries| entries.insert(name.clone(), *node));
            }
            Step::Write { file, at, bytes } => self.change(*file, now, |node| {
                let end = *at as usize + bytes.len();
                node.bytes.resize(node.bytes.len().max(end), 0);
                node.bytes[*at as usize..end].copy_from_slice(bytes);
                node.pages.extend(at / PAGE..(end as u64).div_ceil(PAGE));
            }),
            Step::SetLength { file, length } => self.change(*file, now, |node| {
                node.bytes.resize(*length as usize, 0);
                node.pages.split_off(&length.div_ceil(PAGE));
            }),
            Step::Punch { file, at, length } => self.change(*file, now, |node| {
                let end = (at + length).min(node.bytes.len() as u64);
                if *at < end {
                    node.bytes[*at as usize..end as usize].fill(0);
                }
                node.pages.retain(|page| page * PAGE < *at || (page + 1) * PAGE > at + length);
            }),
            Step::SetMode { node, mode } => {
                if let Some(node) = self.nodes.get_mut(node) {
                    (node.mode, node.changed) = (*mode, now);
                }
            }
            Step::Rename { from, to } => {
                let Some(moved) = self.entries(from.0).and_then(|entries| entries.remove(&from.1)) else {
                    return;
                };
                let replaced = self.entries(to.0).and_then(|entries| entries.insert(to.1.clone(), moved));
                if let Some(node) = self.nodes.get_mut(&moved) {
                    node.changed = now;
                }
                self.unlink(replaced);
            }
            Step::Remove { folder, name } => {
                let removed = self.entries(*folder).and_then(|entries| entries.remove(name));
                self.unlink(removed);
            }
            Step::Sync { .. } | Step::SyncFolder { .. } => {}
        }
    }

    fn change(&mut self, file: u64, now: SystemTime, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(&file) {
            change(node);
            (node.modified, node.changed) = (now, now);
        }
    }

    fn unlink(&mut self, node: Option<u64>) {
        // Its content stays for those who have it open.
        if let Some(node) = node.and_then(|node| self.nodes.get_mut(&node)) {
            node.links = 0;
        }
    }
}
