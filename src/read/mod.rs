//! An open file for reading: bytes to blocks, with read-ahead for sequential readers.

use std::sync::Arc;

use bytes::Bytes;

use crate::cache::CachedImage;
use crate::error::Result;
use crate::units::ByteRange;

/// One handle's reader.
pub struct Reader {}

impl Reader {
    /// A reader of an image of `size` bytes.
    pub fn new(_image: Arc<CachedImage>, _size: u64) -> Self {
        unimplemented!()
    }

    /// The bytes of `range`, clamped to the image, if no waiting is needed.
    pub fn try_read(&self, _range: ByteRange) -> Option<Bytes> {
        unimplemented!()
    }

    /// The bytes of `range`, clamped to the image.
    pub async fn read(&self, _range: ByteRange) -> Result<Bytes> {
        unimplemented!()
    }

    /// The cached image below.
    pub fn image(&self) -> &Arc<CachedImage> {
        unimplemented!()
    }
}
