//! The memory tier: the blocks used last, over all images, as many as the budget leaves room for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;

use crate::budget::Budget;
use crate::metrics::Counter;
use crate::units::{BLOCK_SIZE, BlockIndex};

use super::identity::Key;

/// Blocks in memory, whole ones only. Its lock is a leaf: nothing else is locked under it.
pub(super) struct Memory {
    budget: Arc<Budget>,
    tier: Mutex<Tier>,
    /// Bytes that went to make room.
    evicted: Counter,
}

/// Of the budget, the allocator takes this part, in whole blocks: gaps between blocks of other sizes, and what it keeps in reserve. It was
/// 25 MiB of 256 while an image was read at random and then in sequence.
const ALLOCATORS_PART: u64 = 16;

/// Blocks read from disk that are kept as well, 4 MiB of them. The page cache has them already, so this
/// only saves the checksum of a block that is read in small pieces, by a few dozen readers at once.
const LENT: usize = 64;

struct Tier {
    blocks: LruCache<(Key, BlockIndex), Kept>,
    bytes: u64,
    /// Those that are on disk, oldest first.
    lent: VecDeque<(Key, BlockIndex)>,
}

impl Tier {
    fn forget(&mut self, image: Key, block: BlockIndex) {
        if let Some(old) = self.blocks.pop(&(image, block)) {
            self.bytes -= old.bytes.len() as u64;
        }
    }
}

/// A block in memory.
struct Kept {
    bytes: Bytes,
    /// A sequential reader has passed it: it goes as soon as it is on disk.
    passed: bool,
}

impl Memory {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            tier: Mutex::new(Tier { blocks: LruCache::unbounded(), bytes: 0, lent: VecDeque::new() }),
            evicted: Counter::new(),
        }
    }

    fn tier(&self) -> MutexGuard<'_, Tier> {
        self.tier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocators_part(&self) -> u64 {
        self.budget.limit() / ALLOCATORS_PART / BLOCK_SIZE * BLOCK_SIZE
    }

    /// The block, which becomes the one used last.
    pub(super) fn get(&self, image: Key, block: BlockIndex) -> Option<Bytes> {
        self.tier().blocks.get(&(image, block)).map(|kept| kept.bytes.clone())
    }

    /// The block is there; its place in the order stays.
    pub(super) fn contains(&self, image: Key, block: BlockIndex) -> bool {
        self.tier().blocks.contains(&(image, block))
    }

    /// Keeps `bytes`, and lets go of the blocks unused for longest until all fit the budget.
    ///
    /// `bytes` must be a buffer of its own: a slice of a larger one would keep all of that alive
    /// while only its own length is counted.
    pub(super) fn insert(&self, image: Key, block: BlockIndex, bytes: Bytes) {
        let mut tier = self.tier();
        tier.bytes += bytes.len() as u64;
        if let Some(old) = tier.blocks.put((image, block), Kept { bytes, passed: false }) {
            tier.bytes -= old.bytes.len() as u64;
        }
        let room = self.budget.left().saturating_sub(self.allocators_part());
        while tier.bytes > room {
            let Some((_, old)) = tier.blocks.pop_lru() else { break };
            tier.bytes -= old.bytes.len() as u64;
            self.evicted.add(old.bytes.len() as u64);
        }
    }

    /// A sequential reader has passed these blocks: those on disk go, the others are marked for
    /// [`Memory::drop_passed`].
    pub(super) fn let_pass(
        &self,
        image: Key,
        blocks: impl Iterator<Item = BlockIndex>,
        on_disk: impl Fn(BlockIndex) -> bool,
    ) {
        let mut tier = self.tier();
        for block in blocks {
            if on_disk(block) {
                tier.forget(image, block);
            } else if let Some(kept) = tier.blocks.peek_mut(&(image, block)) {
                kept.passed = true;
            }
        }
    }

    /// `count` blocks from `start` have come to the disk: those that were passed before go.
    pub(super) fn drop_passed(&self, image: Key, start: BlockIndex, count: u64) {
        let mut tier = self.tier();
        for block in (start.0..start.0 + count).map(BlockIndex) {
            if tier.blocks.peek(&(image, block)).is_some_and(|kept| kept.passed) {
                tier.forget(image, block);
            }
        }
    }

    /// Keeps a block that is on disk for a short while: it goes when [`LENT`] others have come.
    pub(super) fn lend(&self, image: Key, block: BlockIndex, bytes: Bytes) {
        self.insert(image, block, bytes);
        let mut tier = self.tier();
        tier.lent.push_back((image, block));
        if tier.lent.len() > LENT
            && let Some(oldest) = tier.lent.pop_front()
        {
            tier.forget(oldest.0, oldest.1);
        }
    }

    /// Lets go of every block of `image`.
    pub(super) fn purge(&self, image: Key) {
        self.purge_all(|of| of == image);
    }

    /// Lets go of every block of the images that are doomed; one look at each block.
    pub(super) fn purge_all(&self, is_doomed: impl Fn(Key) -> bool) {
        let mut tier = self.tier();
        let doomed: Vec<_> = tier.blocks.iter().map(|(at, _)| *at).filter(|at| is_doomed(at.0)).collect();
        for at in doomed {
            tier.forget(at.0, at.1);
        }
    }

    /// The bytes of those blocks of `image` that `wanted` names.
    pub(super) fn bytes_of(&self, image: Key, wanted: impl Fn(BlockIndex) -> bool) -> u64 {
        let tier = self.tier();
        let ours = tier.blocks.iter().filter(|((key, block), _)| *key == image && wanted(*block));
        ours.map(|(_, kept)| kept.bytes.len() as u64).sum()
    }

    /// Bytes that went to make room so far.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.get()
    }

    /// All bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.tier().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Key = Key([1; 32]);
    const TWO: Key = Key([2; 32]);

    fn block(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn the_block_unused_for_longest_goes_first() {
        let memory = Memory::new(Budget::new(300));
        for at in 0..3 {
            memory.insert(ONE, BlockIndex(at), block(100));
        }
        assert!(memory.get(ONE, BlockIndex(0)).is_some());
        memory.insert(TWO, BlockIndex(0), block(100));
        assert!(memory.contains(ONE, BlockIndex(0)));
        assert!(!memory.contains(ONE, BlockIndex(1)));
        assert_eq!(memory.bytes(), 300);
    }

    #[test]
    fn the_allocator_has_its_part_of_the_budget() {
        let memory = Memory::new(Budget::new(32 * BLOCK_SIZE));
        for at in 0..40 {
            memory.insert(ONE, BlockIndex(at), block(BLOCK_SIZE as usize));
        }
        assert_eq!(memory.bytes(), 30 * BLOCK_SIZE);
    }

    #[test]
    fn what_a_sequential_reader_passed_goes_once_it_is_on_disk() {
        let memory = Memory::new(Budget::new(1000));
        (0..4).for_each(|at| memory.insert(ONE, BlockIndex(at), block(100)));
        memory.let_pass(ONE, (0..3).map(BlockIndex), |block| block.0 == 0);
        let kept =
            |memory: &Memory| (0..4).filter(|at| memory.contains(ONE, BlockIndex(*at))).collect::<Vec<_>>();
        assert_eq!(kept(&memory), [1, 2, 3]);
        memory.drop_passed(ONE, BlockIndex(2), 2);
        assert_eq!((kept(&memory), memory.bytes()), (vec![1, 3], 200));
    }

    #[test]
    fn what_is_on_disk_takes_little_of_it() {
        let memory = Memory::new(Budget::new(1 << 20));
        memory.insert(ONE, BlockIndex(0), block(100));
        for at in 0..3 * LENT as u64 {
            memory.lend(TWO, BlockIndex(at), block(100));
            assert!(memory.contains(TWO, BlockIndex(at)));
        }
        assert_eq!(memory.bytes(), 100 * (1 + LENT as u64));
        assert!(memory.contains(ONE, BlockIndex(0)), "what was fetched stays");
    }

    #[test]
    fn what_is_in_flight_shrinks_it() {
        let budget = Budget::new(300);
        let memory = Memory::new(Arc::clone(&budget));
        memory.insert(ONE, BlockIndex(0), block(100));
        let held = budget.hold(250);
        memory.insert(ONE, BlockIndex(1), block(100));
        assert_eq!(memory.bytes(), 0, "not even the newest block fits");
        drop(held);
        memory.insert(ONE, BlockIndex(1), block(100));
        assert_eq!(memory.bytes(), 100);
    }

    #[test]
    fn a_block_replaced_is_counted_once_and_a_purge_counts_back() {
        let memory = Memory::new(Budget::new(1000));
        memory.insert(ONE, BlockIndex(0), block(100));
        memory.insert(ONE, BlockIndex(0), block(50));
        memory.insert(TWO, BlockIndex(0), block(10));
        assert_eq!(memory.bytes(), 60);
        memory.purge(ONE);
        assert_eq!((memory.bytes(), memory.contains(TWO, BlockIndex(0))), (10, true));
    }
}
