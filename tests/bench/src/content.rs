//! The bytes of the images: made from a seed and a position, so that any read can be checked at memory speed without
//! the source at hand.
//!
//! Each page of 4096 bytes is a stamp (seed and page number) followed by a piece of one random table, which begins at a
//! place drawn from the stamp. So a page in the wrong place shows by its stamp, and a part of a page by its body.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::LazyLock;

use crate::Result;

/// What the kernel caches and most programs align to.
pub const PAGE: usize = 4096;

const STAMP: usize = 16;

/// Small enough to stay in the processor's second cache while a read is compared.
const TABLE: usize = 64 << 10;

static RANDOM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut numbers = Numbers::new(0);
    (0..(TABLE + PAGE) / 8).flat_map(|_| numbers.next().to_le_bytes()).collect()
});

/// One image's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Tells images apart.
    pub seed: u64,
    /// In bytes.
    pub size: u64,
}

impl Content {
    /// Writes all of it to a new file.
    pub fn write(self, path: &Path) -> Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut left = self.size;
        for page in 0..self.size.div_ceil(PAGE as u64) {
            let (stamp, body) = self.page(page);
            let length = left.min(PAGE as u64) as usize;
            file.write_all(&stamp[..length.min(STAMP)])?;
            file.write_all(&body[..length.saturating_sub(STAMP)])?;
            left -= length as u64;
        }
        Ok(file.into_inner().map_err(|error| error.into_error())?.sync_all()?)
    }

    /// Whether `bytes` are what stands at `offset`.
    ///
    /// # Errors
    /// The position of the page that differs, or bytes beyond the end.
    pub fn check(self, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset + bytes.len() as u64 > self.size {
            return Err(format!("{} bytes at {offset} reach beyond the end", bytes.len()).into());
        }
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % PAGE as u64) as usize;
            let (piece, after) = rest.split_at(rest.len().min(PAGE - within));
            let (stamp, body) = self.page(at / PAGE as u64);
            let of_stamp = piece.len().min(STAMP.saturating_sub(within));
            let from = within.saturating_sub(STAMP);
            let equal = piece[..of_stamp] == stamp[within.min(STAMP)..][..of_stamp]
                && piece[of_stamp..] == body[from..][..piece.len() - of_stamp];
            if !equal {
                return Err(format!("wrong bytes in the page at {}", at - within as u64).into());
            }
            at += piece.len() as u64;
            rest = after;
        }
        Ok(())
    }

    fn page(self, number: u64) -> ([u8; STAMP], &'static [u8]) {
        let mut stamp = [0; STAMP];
        stamp[..8].copy_from_slice(&self.seed.to_le_bytes());
        stamp[8..].copy_from_slice(&number.to_le_bytes());
        let from = Numbers::new(self.seed ^ number.rotate_left(32)).next() as usize % TABLE;
        (stamp, &RANDOM[from..from + PAGE - STAMP])
    }
}

/// The generator SplitMix64: the same numbers in each run.
pub struct Numbers(u64);

impl Numbers {
    /// The series of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `count` different numbers below `limit`, in random order; all of them where there are not as many.
    pub fn distinct(&mut self, count: usize, limit: u64) -> Vec<u64> {
        let mut all: Vec<u64> = (0..limit).collect();
        let count = count.min(all.len());
        for at in 0..count {
            let other = at + (self.next() % (limit - at as u64)) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Content = Content { seed: 7, size: 40 * PAGE as u64 + 100 };

    fn bytes(content: Content) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        content.write(file.path()).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    #[test]
    fn what_was_written_is_right_wherever_a_read_begins_and_ends() {
        let bytes = bytes(CONTENT);
        assert_eq!(bytes.len() as u64, CONTENT.size);
        CONTENT.check(0, &bytes).unwrap();
        for (from, to) in
            [(0, 1), (5, 20), (15, 17), (100, 9000), (4095, 4097), (8192, 12288), (163_900, 163_940)]
        {
            CONTENT.check(from as u64, &bytes[from..to]).unwrap();
        }
    }

    #[test]
    fn every_wrong_byte_and_every_misplaced_one_is_found() {
        let right = bytes(CONTENT);
        for at in [0, 8, 15, 16, 4095, 4096, 100_000, right.len() - 1] {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert!(CONTENT.check(0, &wrong).is_err(), "byte {at}");
        }
        assert!(CONTENT.check(0, &right[PAGE..2 * PAGE]).is_err(), "another page");
        assert!(CONTENT.check(100, &right[64 * 1024 + 100..][..50]).is_err(), "a part of another page");
        assert!(CONTENT.check(1, &right[..50]).is_err(), "shifted");
        assert!(Content { seed: 8, ..CONTENT }.check(0, &right).is_err(), "another image");
        assert!(CONTENT.check(CONTENT.size - 1, &[0, 0]).is_err(), "beyond the end");
    }

    #[test]
    fn distinct_numbers_are_distinct_and_the_same_in_each_run() {
        let numbers = Numbers::new(1).distinct(50, 60);
        assert_eq!(numbers, Numbers::new(1).distinct(50, 60));
        let set: std::collections::BTreeSet<_> = numbers.iter().collect();
        assert!(set.len() == 50 && numbers.iter().all(|number| *number < 60));
        assert_eq!(Numbers::new(1).distinct(100, 3).len(), 3);
    }
}
