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
