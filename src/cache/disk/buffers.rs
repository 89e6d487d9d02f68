//! Buffers for long reads, used again: making, zeroing and giving back a megabyte for each read costs as
//! much as filling it. Those that nobody needs for a while go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::units::BLOCK_SIZE;

/// Bytes of a buffer: the kernel's largest request, 1 MiB, and the blocks that it begins and ends in.
const LEN: usize = 1024 * 1024 + 2 * BLOCK_SIZE as usize;
/// Buffers that wait for use: what a reader and the kernel's read-ahead of 4 MiB have under way, for two
/// readers. 9 MiB in all.
const KEPT: usize = 8;

/// The spare buffers of a cache; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers {
    spare: Arc<Mutex<Spare>>,
}

#[derive(Debug, Default)]
struct Spare {
    buffers: Vec<Box<[u8]>>,
    /// The fewest there were since the last look at them: so many were not needed.
    fewest: usize,
}

impl Spare {
    fn take(&mut self) -> Option<Box<[u8]>> {
        let buffer = self.buffers.pop();
        self.fewest = self.fewest.min(self.buffers.len());
        buffer
    }
}

impl Buffers {
    /// Calls `fill` with a buffer of `len` bytes, which hold anything, and gives them when it says so.
    pub(crate) fn filled(&self, len: usize, fill: impl FnOnce(&mut [u8]) -> Option<()>) -> Option<Bytes> {
        if len <= BLOCK_SIZE as usize || len > LEN {
            let mut bytes = vec![0; len];
            fill(&mut bytes)?;
            return Some(Bytes::from(bytes));
        }
        let bytes = self.spare().take().unwrap_or_else(|| vec![0; LEN].into_boxed_slice());
        let mut lent = Lent { bytes, len, home: self.clone() };
        fill(&mut lent.bytes[..len])?;
        Some(Bytes::from_owner(lent))
    }

    /// Lets go of the buffers that nobody needed since the last call; whether there were any.
    pub(crate) fn let_go_of_unneeded(&self) -> bool {
        let mut spare = self.spare();
        let needed = spare.buffers.len().saturating_sub(spare.fewest);
        let unneeded = spare.buffers.split_off(needed);
        spare.fewest = needed;
        drop(spare);
        !unneeded.is_empty()
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that goes back when nobody reads it any more.
struct Lent {
    bytes: Box<[u8]>,
    len: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.home.spare();
        if spare.buffers.len() < KEPT {
            spare.buffers.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_buffer_is_used_again_when_its_last_reader_is_done() {
        let buffers = Buffers::default();
        let filled = |len| {
            buffers
                .filled(len, |bytes| {
                    bytes.fill(7);
                    Some(())
                })
                .unwrap()
        };
        let first = filled(200_000);
        let (part, at) = (first.slice(10..20), first.as_ptr());
        drop(first);
        assert_eq!(
            (part.as_ref(), buffers.spare().buffers.len()),
            ([7; 10].as_slice(), 0),
            "a part is still read"
        );
        drop(part);
        assert_eq!(buffers.spare().buffers.len(), 1);
        assert_eq!(filled(100_000).len(), 100_000);
        assert_eq!(filled(300_000).as_ptr(), at);
        assert!(buffers.filled(200_000, |_| None).is_none());
        assert_eq!(buffers.spare().buffers.len(), 1, "also when it could not be filled");
    }

    #[test]
    fn few_are_kept_and_blocks_have_their_own_memory() {
        let buffers = Buffers::default();
        let many: Vec<_> = (0..3 * KEPT).map(|_| buffers.filled(200_000, |_| Some(())).unwrap()).collect();
        drop(many);
        assert_eq!(buffers.spare().buffers.len(), KEPT);
        let (small, large) = (buffers.filled(65_536, |_| Some(())), buffers.filled(2 * LEN, |_| Some(())));
        assert_eq!((small.unwrap().len(), large.unwrap().len()), (65_536, 2 * LEN));
        assert_eq!(buffers.spare().buffers.len(), KEPT);
    }

    #[test]
    fn what_was_not_needed_between_two_looks_goes() {
        let buffers = Buffers::default();
        let use_at_once = |count: usize| {
            let used: Vec<_> = (0..count).map(|_| buffers.filled(200_000, |_| Some(())).unwrap()).collect();
            drop(used);
        };
        use_at_once(5);
        assert!(!buffers.let_go_of_unneeded(), "all five were needed");
        use_at_once(2);
        use_at_once(1);
        assert!(buffers.let_go_of_unneeded());
        assert_eq!(buffers.spare().buffers.len(), 2);
        use_at_once(2);
        assert!(!buffers.let_go_of_unneeded());
        assert!(buffers.let_go_of_unneeded(), "nobody read");
        assert_eq!(buffers.spare().buffers.len(), 0);
    }
}
