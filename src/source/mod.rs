//! Where the blocks of an image come from: ranged requests, or one shared stream.
//!
//! Only Glance's `file` and `cinder` stores serve ranges; rbd, swift, s3, http and vmware answer a
//! `Range` with HTTP 400. [`Sources`] finds out which one an image is in by asking for the first
//! range, and remembers the answer per store. See `chooser` for the decision, `body` for how a
//! transfer survives cuts, `slots` for how many are open at once, `pace` for how much to ask for, `direct` for what comes past Glance.

mod body;
mod chooser;
mod direct;
#[cfg(test)]
pub(crate) mod fake;
mod pace;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::config::{DirectConfig, HttpConfig};
use crate::error::Result;
use crate::glance::{Downloads, Image};
use crate::units::ByteRange;

use self::chooser::Chooser;
use self::direct::{Direct, HttpImage};
use self::pace::PaceMeter;
use self::slots::Slots;

pub use self::pace::Pace;

/// How an image is being read, as `user.glancefs.source` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// Nothing was fetched yet.
    Unknown,
    /// Parallel range requests.
    Ranged,
    /// One sequential GET from byte 0.
    Streamed,
    /// From where it is stored, past Glance.
    Direct,
}

impl SourceKind {
    /// As `user.glancefs.source` and the status write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ranged => "ranged",
            Self::Streamed => "streamed",
            Self::Direct => "direct",
        }
    }
}

/// Whether somebody waits for a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A reader waits: the transfer waits for a free connection if it must.
    Demand,
    /// Nobody waits yet: without a free connection the fetch fails with `Busy`, and nothing is lost.
    Prefetch,
}

/// A transfer that has begun.
pub struct Transfer {
    /// The bytes that will come, contiguous and in order: at least what was asked for.
    pub range: ByteRange,
    /// The bytes themselves; an error ends the stream, after every retry that made sense.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

/// Gives the bytes of one image; the cache asks it for what is missing.
pub trait Source: Send + Sync + 'static {
    /// Begins to fetch at least `range` (not empty, within the image).
    ///
    /// # Errors
    /// `RangeUnsupported`: [`Source::kind`] is `Streamed` from now on, and only the whole image can be
    /// fetched, from byte 0, so there should be one transfer for all readers. `Busy`: a prefetch found no
    /// free connection. `Stale`: the image is gone.
    fn fetch(&self, range: ByteRange, urgency: Urgency) -> BoxFuture<'_, Result<Transfer>>;

    /// What is known of how this image is served.
    fn kind(&self) -> SourceKind;

    /// How fast it comes, as far as it was measured.
    fn pace(&self) -> Pace;
}

/// Makes the source of each image of a mount; cheap to clone.
#[derive(Clone)]
pub struct Sources {
    shared: Arc<Shared>,
}

/// What the images of a mount share: the way to Glance, the connections, what is known of the stores.
struct Shared {
    downloads: Arc<dyn Downloads>,
    slots: Slots,
    pace: PaceMeter,
    /// How long one silent body is waited for, three times over.
    timeout: Duration,
    /// No transfer goes on for longer than this without a byte.
    patience: Duration,
    /// Requests after the first for what came wrong.
    retries: u32,
    stores: Mutex<HashMap<Box<str>, SourceKind>>,
    direct: Option<Arc<Direct>>,
}

/// What the one store of a cloud is called that does not name its stores.
const DEFAULT_STORE: &str = "default";

/// Stores remembered. Their names come from the server; a cloud has a handful.
const STORES_REMEMBERED: usize = 256;

impl Sources {
    /// Sources that fetch through `downloads`, with at most `http.max_connections` transfers at once.
    pub fn new(downloads: Arc<dyn Downloads>, http: &HttpConfig) -> Self {
        Self::with_direct(downloads, http, &DirectConfig::default())
    }

    /// The same, and past Glance what `direct` names.
    pub fn with_direct(downloads: Arc<dyn Downloads>, http: &HttpConfig, direct: &DirectConfig) -> Self {
        let direct =
            (!direct.is_off()).then(|| Arc::new(Direct::new(direct.clone(), Arc::clone(&downloads))));
        let slots = Slots::new(http.max_connections, http.patience());
        let shared = Shared {
            downloads,
            slots,
            pace: PaceMeter::default(),
            timeout: http.timeout,
            patience: http.patience(),
            retries: http.retries,
            stores: Mutex::default(),
            direct,
        };
        Self { shared: Arc::new(shared) }
    }

    /// How images of the store of `image` are served, as far as it was seen (for xattrs).
    pub fn kind_of(&self, image: &Image) -> SourceKind {
        self.shared.known(image.stores.as_deref().unwrap_or(DEFAULT_STORE))
    }

    /// Every store that was asked so far, by name, and how its images are served.
    pub fn stores(&self) -> Vec<(Box<str>, SourceKind)> {
        let stores = self.shared.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = stores.iter().map(|(name, kind)| (name.clone(), *kind)).collect();
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        all
    }

    /// Transfers open now, and how many there may be.
    pub fn transfers(&self) -> (usize, usize) {
        self.shared.slots.in_use()
    }

    /// The source of `image`, which should be active: its size is known then.
    pub fn of(&self, image: &Image) -> Arc<dyn Source> {
        let store = image.stores.as_deref().unwrap_or(DEFAULT_STORE).into();
        let size = image.size.unwrap_or(0);
        let direct = self.shared.direct.as_ref().filter(|direct| direct.reads_http());
        let direct = direct.map(|direct| HttpImage::new(Arc::clone(direct), image));
        Arc::new(Chooser::new(Arc::clone(&self.shared), image.id.clone(), size, store, direct))
    }

    /// The file of a shared store with the data of `image`, of its size, if there is one that may be read. Asks the server
    /// once for each state of an image; answers within some 10 s.
    pub async fn store_file(&self, image: &Image) -> Option<File> {
        self.shared.direct.as_ref()?.file(image).await
    }
}

impl Shared {
    fn known(&self, store: &str) -> SourceKind {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.get(store).copied().unwrap_or(SourceKind::Unknown)
    }

    fn learn(&self, store: &str, kind: SourceKind) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if stores.get(store) == Some(&kind) {
            return;
        }
        if stores.len() >= STORES_REMEMBERED && !stores.contains_key(store) {
            return;
        }
        if kind == SourceKind::Streamed {
            tracing::info!(store, "this store serves no ranges: its images are read as one stream");
        }
        stores.insert(store.into(), kind);
    }
}
