//! One recording: the blocks that were read, in order, each once.

use std::collections::HashSet;

use crate::units::{BlockIndex, BlockRange, ByteRange};

use super::{MOST_BLOCKS, MOST_RUNS, Profile};

/// Blocks that make a profile worth having: less than 1 MiB is a look at a header.
const LEAST_BLOCKS: usize = 16;
/// Of an image, the part that a start reads at most: one of so many. What reads more is a copy.
const PART: u64 = 2;

/// What is read of one content, until it is turned into a profile.
#[derive(Debug)]
pub(in crate::read) struct Recording {
    digest: String,
    size: u64,
    seen: HashSet<BlockIndex>,
    runs: Vec<BlockRange>,
    /// Blocks in it that an earlier profile had.
    known: usize,
    overflow: bool,
}

impl Recording {
    /// Of a content that nothing is known of.
    pub(in crate::read) fn new(digest: String, size: u64) -> Self {
        Self { digest, size, seen: HashSet::new(), runs: Vec::new(), known: 0, overflow: false }
    }

    /// What `earlier` has comes first: it was read before at this point.
    pub(in crate::read) fn continue_from(&mut self, earlier: &Profile) {
        let read = std::mem::take(&mut self.runs);
        self.seen.clear();
        earlier.blocks().for_each(|block| self.add(block));
        self.known = self.seen.len();
        read.into_iter().flat_map(BlockRange::iter).for_each(|block| self.add(block));
    }

    /// `range` is read.
    pub(in crate::read) fn note(&mut self, range: ByteRange) {
        range.clamp_to(self.size).blocks().iter().for_each(|block| self.add(block));
    }

    fn add(&mut self, block: BlockIndex) {
        if self.overflow || !self.seen.insert(block) {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if last.end == block => last.end = block.next(),
            _ => self.runs.push(BlockRange { start: block, end: block.next() }),
        }
        let whole = BlockRange::of_image(self.size).len();
        let most = MOST_BLOCKS.min(whole / PART);
        if self.seen.len() as u64 > most || self.runs.len() > MOST_RUNS {
            // A copy, or a scan: there is nothing to fetch ahead of it that read-ahead does not.
            *self = Self { overflow: true, ..Self::new(std::mem::take(&mut self.digest), self.size) };
        }
    }

    /// The profile, if there is something new in it and it looks like a start.
    pub(in crate::read) fn finish(&self) -> Option<Profile> {
        let worth = self.seen.len() >= LEAST_BLOCKS && self.seen.len() > self.known;
        worth.then(|| Profile { digest: self.digest.clone(), size: self.size, runs: self.runs.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SIZE, profile};
    use super::*;
    use crate::units::BLOCK_SIZE;

    fn recording(blocks: impl IntoIterator<Item = u64>) -> Recording {
        let mut recording = Recording::new("sha512:ab".into(), SIZE);
        blocks.into_iter().for_each(|block| recording.note(ByteRange::at(block * BLOCK_SIZE + 7, 100)));
        recording
    }

    #[test]
    fn blocks_are_kept_once_in_order_as_runs() {
        let read = (60..70).chain([3, 4, 3, 61]).chain(80..90);
        assert_eq!(recording(read).finish(), Some(profile(&[(60, 10), (3, 2), (80, 10)])));
    }

    #[test]
    fn a_look_and_a_copy_leave_no_profile() {
        assert_eq!(recording(0..5).finish(), None);
        assert_eq!(recording(0..100).finish(), None);
    }

    #[test]
    fn what_an_earlier_start_read_comes_first() {
        let mut more = recording((0..20).chain([50]));
        more.continue_from(&profile(&[(30, 5), (0, 10)]));
        assert_eq!(more.finish(), Some(profile(&[(30, 5), (0, 20), (50, 1)])));
        let mut same = recording(0..20);
        same.continue_from(&profile(&[(0, 20)]));
        assert_eq!(same.finish(), None, "nothing new");
    }
}
