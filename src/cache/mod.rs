//! Sole owner of cached bytes: memory LRU, then sparse file and index on disk, then single flight.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::CacheConfig;
use crate::error::Result;
use crate::source::Source;
use crate::units::ByteRange;

/// What names the content of an image: equal identities have equal bytes.
///
/// A renamed image keeps it, and an id that was deleted and used again gets another
/// (`created_at`, size and hash differ).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentIdentity {
    /// The cloud (see `Glance::cloud_key`) and the project of our token.
    pub cloud: Box<str>,
    pub project: Box<str>,
    pub image: crate::units::ImageId,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Bytes.
    pub size: u64,
    /// How the whole of it can be verified, best first: the multihash, else MD5, else nothing.
    pub digest: Digest,
}

impl ContentIdentity {
    /// The identity of an active image of `service`.
    pub fn of(_image: &crate::glance::Image, _service: &dyn crate::glance::ImageService) -> Self {
        unimplemented!()
    }
}

/// The hash that proves an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Digest {
    /// `os_hash_algo` and `os_hash_value` (lower-case hexadecimal); sha512, sha384, sha256.
    Multi { algorithm: Box<str>, value: Box<str> },
    /// `checksum`: MD5, lower-case hexadecimal.
    Md5(Box<str>),
    /// Glance has none.
    None,
}

/// How far the whole image is proven, as `user.glancefs.verified` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Not complete here, or no hash exists.
    None,
    /// Complete; the hash is being computed.
    Pending,
    Md5,
    Sha512,
    /// Another multihash (sha256, sha384).
    Multihash,
    /// The bytes did not match: the copy was dropped.
    Failed,
}

/// The cache of this process; cheap to clone.
#[derive(Clone)]
pub struct Cache {}

impl Cache {
    /// Opens or creates the cache folder (0700; tightened when ours, refused when not) without walking it.
    pub fn open(_config: &CacheConfig, _runtime: tokio::runtime::Handle) -> Result<Self> {
        unimplemented!()
    }

    /// The cached image of this identity: the same object for every handle while one is alive.
    ///
    /// `source` is used by the first caller; later callers get the image with the source it has.
    pub fn image(&self, _identity: &ContentIdentity, _source: Arc<dyn Source>) -> Arc<CachedImage> {
        unimplemented!()
    }

    /// What is on disk of this identity, in bytes, without opening it for use (for xattrs).
    pub fn cached_bytes(&self, _identity: &ContentIdentity) -> u64 {
        unimplemented!()
    }

    /// How far the copy on disk of this identity is proven (for xattrs).
    pub fn verified(&self, _identity: &ContentIdentity) -> Verified {
        unimplemented!()
    }

    /// Where the last list of images of a cloud and project is saved.
    pub fn catalog_file(&self, _cloud: &str, _project: Option<&str>) -> Option<std::path::PathBuf> {
        unimplemented!()
    }

    /// Takes over an uploaded spool file as the complete, verified copy of `identity`: `file` is
    /// moved when it is on the same file system, and left alone (not an error) when it is not.
    /// The caller vouches that it hashed exactly these bytes while it sent them.
    pub fn adopt(&self, _identity: &ContentIdentity, _file: &Path) -> Result<()> {
        unimplemented!()
    }

    /// Writes out what has to survive (access times, flags); for unmount. Bounded in time.
    pub async fn shut_down(&self) {
        unimplemented!()
    }
}

/// One image's cached bytes, shared by all handles.
pub struct CachedImage {}

impl CachedImage {
    /// Counts an open handle; a shared stream goes on while there is one.
    pub fn acquire(&self) {}

    /// Ends an open handle.
    pub fn release(&self) {}

    /// The bytes of `range` if all of them can be had without waiting: memory or page cache.
    pub fn try_read(&self, _range: ByteRange) -> Option<Bytes> {
        unimplemented!()
    }

    /// The bytes of `range` (within the image), fetching what is missing. `fetch` may be wider than
    /// `range`: what a proven stream wants fetched in the same request.
    pub async fn read(&self, _range: ByteRange, _fetch: ByteRange) -> Result<Bytes> {
        unimplemented!()
    }

    /// Begins to fetch what is missing of `range`, unless memory is short: prefetch is never owed.
    pub fn prefetch(&self, _range: ByteRange) {}

    /// Bytes of it on disk or in memory.
    pub fn cached_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// How far the whole is proven.
    pub fn verified(&self) -> Verified {
        unimplemented!()
    }

    /// The last failure of a fetch, for `user.glancefs.last_error`.
    pub fn last_error(&self) -> Option<String> {
        unimplemented!()
    }

    /// How it is being read.
    pub fn source_kind(&self) -> crate::source::SourceKind {
        unimplemented!()
    }
}
