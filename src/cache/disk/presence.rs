//! Which blocks are on disk, as we know it: what we wrote, and what we saw in the index.
//!
//! Other processes change the index, so it is a hint. But what this process wrote must not be
//! forgotten: a copy is complete when all of it is known here. A look into the index that began before a
//! write and ends after it would take the block for absent, so such a look only adds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::units::{BlockIndex, BlockRange};

use super::bits::Bits;

/// The blocks known to be on disk.
#[derive(Debug)]
pub(crate) struct Presence {
    bits: Bits,
    /// How often blocks were written. A leaf, held for arithmetic only.
    writes: Mutex<u64>,
}

/// When a look into the index began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look(u64);

impl Presence {
    /// Of an image of so many blocks, with none on disk.
    pub(crate) fn new(blocks: u64) -> Self {
        Self { bits: Bits::new(blocks), writes: Mutex::new(0) }
    }

    fn writes(&self) -> MutexGuard<'_, u64> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block is on disk, as we know it.
    pub(crate) fn has(&self, block: BlockIndex) -> bool {
        self.bits.get(block.0)
    }

    /// How many are.
    pub(crate) fn count(&self) -> u64 {
        self.bits.count()
    }

    /// Begins a look into the index; to be called before it is read.
    pub(crate) fn look(&self) -> Look {
        Look(*self.writes())
    }

    /// What a look found from `start` on, a block each.
    pub(crate) fn saw(&self, look: Look, start: BlockIndex, found: impl Iterator<Item = bool>) {
        let writes = self.writes();
        for (block, present) in (start.0..).zip(found) {
            if present || *writes == look.0 {
                self.bits.set(block, present);
            }
        }
    }

    /// The entries of these blocks were written.
    pub(crate) fn wrote(&self, blocks: BlockRange) {
        let mut writes = self.writes();
        *writes = writes.wrapping_add(1);
        blocks.iter().for_each(|block| {
            self.bits.set(block.0, true);
        });
    }

    /// The entry of a block was cleared by somebody.
    pub(crate) fn forget(&self, block: BlockIndex) {
        self.bits.set(block.0, false);
    }

    /// All entries were cleared.
    pub(crate) fn clear(&self) {
        self.bits.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: BlockRange = BlockRange { start: BlockIndex(5), end: BlockIndex(7) };

    #[test]
    fn a_look_that_began_before_a_write_does_not_undo_it() {
        let presence = Presence::new(10);
        let look = presence.look();
        presence.wrote(WRITTEN);
        presence.saw(look, BlockIndex(4), [true, false, false].into_iter());
        assert_eq!((presence.count(), presence.has(BlockIndex(5))), (3, true));
    }

    #[test]
    fn a_look_that_began_after_it_tells_what_others_evicted() {
        let presence = Presence::new(10);
        presence.wrote(WRITTEN);
        presence.saw(presence.look(), BlockIndex(5), [false, true].into_iter());
        assert_eq!((presence.count(), presence.has(BlockIndex(5))), (1, false));
    }
}
