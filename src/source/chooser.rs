//! One image's source: asks for a range first, and turns to one stream where the store refuses ranges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::error::{Error, Kind, Result};
use crate::glance::Downloads;
use crate::units::{ByteRange, ImageId};

use super::body::{Body, Plan};
use super::direct::HttpImage;
use super::{Pace, Shared, Source, SourceKind, Transfer, Urgency};

/// The source of one image, ranged or streamed as its store allows.
pub(super) struct Chooser {
    shared: Arc<Shared>,
    id: ImageId,
    size: u64,
    /// Whose answer this image's store gave: images of one store are served alike.
    store: Box<str>,
    kind: AtomicU8,
    /// One permit: while the kind is unknown one request goes first, and the others learn from it.
    first: Semaphore,
    /// Where `http:` locations may be read: this image by its own, as long as that goes well.
    direct: Option<Arc<HttpImage>>,
}

impl Chooser {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: ImageId,
        size: u64,
        store: Box<str>,
        direct: Option<Arc<HttpImage>>,
    ) -> Self {
        // A refusal is remembered; that ranges work is seen anew per image, since it costs nothing.
        let kind = match shared.known(&store) {
            SourceKind::Streamed if direct.is_none() => SourceKind::Streamed,
            _ => SourceKind::Unknown,
        };
        Self { shared, id, size, store, kind: AtomicU8::new(kind as u8), first: Semaphore::new(1), direct }
    }

    fn learn(&self, kind: SourceKind) {
        self.kind.store(kind as u8, Ordering::Relaxed);
        self.shared.learn(&self.store, kind);
    }

    async fn begin(&self, range: ByteRange, urgency: Urgency) -> Result<Transfer> {
        let refused = || Err(Error::new(Kind::RangeUnsupported, "this image is read as one stream"));
        if self.kind() == SourceKind::Streamed {
            // Who asks for a part has not noticed yet: a stream for each of them would be wasted.
            if range != ByteRange::new(0, self.size) {
                return refused();
            }
            return self.transfer(&self.shared.downloads, Plan::Whole, urgency).await;
        }
        if let Some(direct) = &self.direct {
            if let Some(begun) = self.begin_directly(direct, range, urgency).await {
                return begun;
            }
            if self.shared.known(&self.store) == SourceKind::Streamed {
                self.learn(SourceKind::Streamed);
                return refused();
            }
        }
        let turn = match self.kind() {
            SourceKind::Unknown => self.first.acquire().await.ok(),
            _ => None,
        };
        if self.kind() == SourceKind::Streamed {
            return refused();
        }
        let begun = self.transfer(&self.shared.downloads, Plan::Range(range), urgency).await;
        match &begun {
            Ok(_) => self.learn(SourceKind::Ranged),
            Err(error) if error.kind() == Kind::RangeUnsupported => self.learn(SourceKind::Streamed),
            Err(_) => {}
        }
        drop(turn);
        begun
    }

    /// A transfer from the image's own location, or from Glance when that fails; `None`: only Glance is left.
    async fn begin_directly(
        &self,
        direct: &Arc<HttpImage>,
        range: ByteRange,
        urgency: Urgency,
    ) -> Option<Result<Transfer>> {
        if !direct.is_usable(&self.id).await {
            return None;
        }
        let downloads: Arc<dyn Downloads> = Arc::clone(direct) as _;
        let begun = self.transfer(&downloads, Plan::Range(range), urgency).await;
        if !direct.is_usable(&self.id).await {
            // Told by Glance meanwhile; what it said of ranges is for the usual way to learn.
            return begun.ok().map(Ok);
        }
        self.kind.store(SourceKind::Direct as u8, Ordering::Relaxed);
        Some(begun)
    }

    async fn transfer(
        &self,
        downloads: &Arc<dyn Downloads>,
        plan: Plan,
        urgency: Urgency,
    ) -> Result<Transfer> {
        let slot = self.shared.slots.take(urgency).await?;
        let body = Body::new(
            Arc::clone(&self.shared),
            Arc::clone(downloads),
            self.id.clone(),
            self.size,
            plan,
            slot,
        );
        body.begin().await.map_err(|error| match error.kind() {
            // Whoever reads has the image open: it was there, and it is gone.
            Kind::NotFound => error.with_kind(Kind::Stale),
            _ => error,
        })
    }
}

impl Source for Chooser {
    fn fetch(&self, range: ByteRange, urgency: Urgency) -> BoxFuture<'_, Result<Transfer>> {
        self.begin(range, urgency).boxed()
    }

    fn kind(&self) -> SourceKind {
        match self.kind.load(Ordering::Relaxed) {
            kind if kind == SourceKind::Ranged as u8 => SourceKind::Ranged,
            kind if kind == SourceKind::Streamed as u8 => SourceKind::Streamed,
            kind if kind == SourceKind::Direct as u8 => SourceKind::Direct,
            _ => SourceKind::Unknown,
        }
    }

    fn pace(&self) -> Pace {
        self.shared.pace.pace()
    }
}
