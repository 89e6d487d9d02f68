//! An open file for reading: bytes to blocks, with read-ahead for sequential readers.

mod ahead;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::cache::CachedImage;
use crate::error::Result;
use crate::units::ByteRange;

use self::ahead::ReadAhead;

/// One handle's reader. It holds no data: an idle handle costs a few hundred bytes.
pub struct Reader {
    image: Arc<CachedImage>,
    size: u64,
    /// A leaf lock, held for arithmetic only.
    ahead: Mutex<ReadAhead>,
}

impl Reader {
    /// A reader of an image of `size` bytes.
    pub fn new(image: Arc<CachedImage>, size: u64) -> Self {
        let ahead = Mutex::new(ReadAhead::new(size, image.memory_limit()));
        Self { image, size, ahead }
    }

    /// The bytes of `range`, clamped to the image, if no waiting is needed.
    ///
    /// When it gives `None`, [`Reader::read`] is to be asked for the same range.
    pub fn try_read(&self, range: ByteRange) -> Option<Bytes> {
        let range = range.clamp_to(self.size);
        let bytes = self.image.try_read(range)?;
        let fetch = self.plan(range, false);
        if fetch.end > range.end {
            self.image.prefetch(ByteRange::new(range.end, fetch.end));
        }
        Some(bytes)
    }

    /// The bytes of `range`, clamped to the image.
    ///
    /// # Errors
    /// Those of the source, when bytes must be fetched; `Integrity` when the image is not what its hash says.
    pub async fn read(&self, range: ByteRange) -> Result<Bytes> {
        let range = range.clamp_to(self.size);
        let missed = !self.image.is_at_hand(range);
        let fetch = self.plan(range, missed);
        if !missed && fetch.end > range.end {
            self.image.prefetch(ByteRange::new(range.end, fetch.end));
            return self.image.read(range, range).await;
        }
        self.image.read(range, fetch).await
    }

    fn plan(&self, range: ByteRange, missed: bool) -> ByteRange {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).on_read(range, missed)
    }

    /// The cached image below.
    pub fn image(&self) -> &Arc<CachedImage> {
        &self.image
    }
}
