//! Uploads: spool and journal, then create, PUT, verify; then the spool becomes the cache file.

use std::sync::Arc;

use bytes::Bytes;

use crate::cache::Cache;
use crate::config::SpoolConfig;
use crate::error::Result;
use crate::glance::{Image, ImageService};
use crate::units::{ByteRange, ImageId};

/// What an upload is for.
#[derive(Debug, Clone)]
pub struct Intent {
    /// The id the image will have.
    pub id: ImageId,
    /// The image's name as Glance shall hold it.
    pub name: String,
    /// The record exists already (status `queued`): fill it instead of creating one.
    pub reserved: bool,
    /// The image that this one replaces; its attributes and properties are carried over.
    pub replaces: Option<Image>,
}

/// The spool of this process and the way from it to Glance; cheap to clone.
#[derive(Clone)]
pub struct Uploads {}

impl Uploads {
    /// Opens or creates the spool folder (0700; tightened when ours, refused when not).
    pub fn open(_config: &SpoolConfig, _service: Arc<dyn ImageService>, _cache: Cache) -> Result<Self> {
        unimplemented!()
    }

    /// A new, empty draft with a spool file of its own.
    pub fn draft(&self, _intent: Intent) -> Result<Arc<Draft>> {
        unimplemented!()
    }

    /// What earlier runs left in the spool, one line each, for `.glancefs/errors`.
    pub fn leftovers(&self) -> Vec<String> {
        unimplemented!()
    }
}

/// A file being written, not yet an image. All methods but `reserve` and `commit` are short local
/// file operations that may block on the disk: call them from a thread that may.
pub struct Draft {}

impl Draft {
    /// The bytes so far.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }

    /// Something was written or truncated since the draft was made or last committed.
    pub fn is_dirty(&self) -> bool {
        unimplemented!()
    }

    /// Writes all of `data` at `offset`; `NoSpace` at the spool's limit.
    pub fn write(&self, _offset: u64, _data: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// Reads back what was written, short at the end.
    pub fn read(&self, _range: ByteRange) -> Result<Bytes> {
        unimplemented!()
    }

    /// Sets the length.
    pub fn truncate(&self, _size: u64) -> Result<()> {
        unimplemented!()
    }

    /// Makes the spool durable; commits nothing.
    pub fn sync(&self) -> Result<()> {
        unimplemented!()
    }

    /// The name under which it will be created; a rename before the commit is local.
    pub fn rename(&self, _name: String) {}

    /// Creates the record only (`touch`): status `queued`, data may come later.
    pub async fn reserve(&self) -> Result<Image> {
        unimplemented!()
    }

    /// Makes it an active image and returns the record; on failure the spool is kept and listed.
    pub async fn commit(&self) -> Result<Image> {
        unimplemented!()
    }

    /// It begins as qcow2, vmdk or another container format does.
    pub fn is_container(&self) -> Result<bool> {
        unimplemented!()
    }

    /// What went wrong after the image was active (the replaced one could not be deleted).
    pub fn warning(&self) -> Option<String> {
        unimplemented!()
    }

    /// Publishes nothing and keeps the spool, with `reason` in its journal.
    pub fn abandon(&self, _reason: &str) {}

    /// Removes spool and journal: nothing was written, or nobody wants it.
    pub fn discard(&self) {}
}
