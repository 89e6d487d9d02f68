//! A set of small numbers that threads may change at once: one bit each.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which of `0..len` are in the set.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Box<[AtomicU64]>,
    count: AtomicU64,
}

impl Bits {
    /// The empty set of numbers below `len`.
    pub(crate) fn new(len: u64) -> Self {
        let words = len.div_ceil(64);
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), count: AtomicU64::new(0) }
    }

    fn word(&self, at: u64) -> Option<(&AtomicU64, u64)> {
        let word = self.words.get(usize::try_from(at / 64).ok()?)?;
        Some((word, 1 << (at % 64)))
    }

    /// `at` is in the set; numbers out of range never are.
    pub(crate) fn get(&self, at: u64) -> bool {
        self.word(at).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Puts `at` in the set, or takes it out; tells whether that changed anything.
    pub(crate) fn set(&self, at: u64, on: bool) -> bool {
        let Some((word, bit)) = self.word(at) else { return false };
        if on {
            let changed = word.fetch_or(bit, Ordering::Relaxed) & bit == 0;
            self.count.fetch_add(u64::from(changed), Ordering::Relaxed);
            changed
        } else {
            let changed = word.fetch_and(!bit, Ordering::Relaxed) & bit != 0;
            self.count.fetch_sub(u64::from(changed), Ordering::Relaxed);
            changed
        }
    }

    /// How many are in the set.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Empties the set and gives what was in it.
    pub(crate) fn drain(&self) -> Vec<u64> {
        let mut found = Vec::new();
        for (word, base) in self.words.iter().zip((0u64..).step_by(64)) {
            let mut bits = word.swap(0, Ordering::Relaxed);
            self.count.fetch_sub(u64::from(bits.count_ones()), Ordering::Relaxed);
            while bits != 0 {
                found.push(base + u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_follows_real_changes_only() {
        let bits = Bits::new(130);
        assert!(bits.set(0, true) && bits.set(129, true) && !bits.set(129, true));
        assert!(!bits.set(1 << 40, true) && !bits.get(1 << 40));
        assert_eq!((bits.count(), bits.get(129), bits.get(128)), (2, true, false));
        assert!(bits.set(0, false) && !bits.set(0, false));
        bits.set(64, true);
        assert_eq!(bits.drain(), [64, 129]);
        assert_eq!(bits.count(), 0);
    }
}
