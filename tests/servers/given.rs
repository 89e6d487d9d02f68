//! What the tests give to a server: records, contents, and the uploads of the program with their cache.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use glancefs::cache::Cache;
use glancefs::config::{CacheConfig, SpoolConfig};
use glancefs::error::{Kind, Result};
use glancefs::glance::{NewImage, Records};
use glancefs::units::ImageId;
use glancefs::write::{Intent, Uploads};
use tokio::runtime::Handle;

use crate::http;

pub const MIB: usize = 1 << 20;

/// A record of this name.
pub fn named(name: &str) -> NewImage {
    NewImage {
        id: ImageId::generate(),
        name: name.into(),
        disk_format: Some("raw".into()),
        container_format: Some("bare".into()),
        properties: Vec::new(),
    }
}

/// A new image of this name, to be uploaded.
pub fn intent(name: &str) -> Intent {
    Intent { id: ImageId::generate(), name: name.into(), reserved: false, replaces: None }
}

/// Bytes that differ everywhere, so that a shifted range is seen.
pub fn content(len: usize) -> Bytes {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>().into()
}

/// Gives them in pieces, as often as an upload is begun.
pub fn opener(data: Bytes) -> impl Fn() -> BoxStream<'static, std::io::Result<Bytes>> {
    move || {
        let data = data.clone();
        let chunks = (0..data.len()).step_by(MIB).map(move |at| Ok(data.slice(at..data.len().min(at + MIB))));
        stream::iter(chunks.collect::<Vec<_>>()).boxed()
    }
}

/// An empty cache in a folder.
pub fn cache_in(dir: &Path) -> Cache {
    let config = CacheConfig {
        dir: dir.join("cache"),
        size: 1 << 30,
        free_floor_percent: 0,
        memory_limit: 64 << 20,
        verify_wait: None,
        verify: true,
    };
    Cache::open(&config, Handle::current()).unwrap()
}

/// The uploads of the program, with their proofs and repairs. The spool is beside the cache, on one file system, so
/// that the one's files can go to the other.
pub fn uploads_in(dir: &Path, records: Arc<dyn Records>, cache: Cache) -> Uploads {
    let spool = SpoolConfig { dir: dir.join("spool"), size: None, keep_failed: Duration::from_secs(3600) };
    Uploads::open(&spool, &http(), records, cache).unwrap()
}

pub fn kind<T>(result: Result<T>) -> Kind {
    result.err().expect("an error").kind()
}
