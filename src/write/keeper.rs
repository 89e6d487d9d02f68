//! What an upload needs from the cache: a place for the file that was just uploaded.

use std::path::Path;

use crate::cache::{Cache, ContentIdentity};
use crate::error::Result;

/// Where an uploaded spool file may live on, so that its first reader downloads nothing.
pub(super) trait Keeper: Send + Sync + 'static {
    /// See [`Cache::adopt`]; blocks on the disk.
    fn adopt(&self, identity: &ContentIdentity, file: &Path) -> Result<()>;
}

impl Keeper for Cache {
    fn adopt(&self, identity: &ContentIdentity, file: &Path) -> Result<()> {
        Cache::adopt(self, identity, file)
    }
}
