//! Where the blocks of an image come from: ranged requests, or one shared stream.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::error::Result;
use crate::units::ByteRange;

/// How an image is being read, as `user.glancefs.source` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// Nothing was fetched yet.
    Unknown,
    /// Parallel range requests.
    Ranged,
    /// One sequential GET from byte 0.
    Streamed,
}

/// A transfer that has begun.
pub struct Transfer {
    /// The bytes that will come, contiguous and in order: at least what was asked for.
    pub range: ByteRange,
    /// The bytes themselves; an error ends the stream, after every retry that made sense.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

/// Makes the source of each image of a mount, and remembers per store what it can do.
pub struct Sources {}

impl Sources {
    /// Sources that download from `service`.
    pub fn new(
        _service: std::sync::Arc<dyn crate::glance::ImageService>,
        _config: &crate::config::HttpConfig,
    ) -> Self {
        unimplemented!()
    }

    /// The source of one image.
    pub fn of(&self, _image: &crate::glance::Image) -> std::sync::Arc<dyn Source> {
        unimplemented!()
    }
}

/// Gives the bytes of one image; the cache asks it for what is missing.
pub trait Source: Send + Sync + 'static {
    /// Begins to fetch at least `range` (not empty, within the image).
    fn fetch(&self, range: ByteRange) -> BoxFuture<'_, Result<Transfer>>;

    /// What is known of how this image is served.
    fn kind(&self) -> SourceKind;
}
