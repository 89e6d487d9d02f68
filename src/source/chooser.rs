//! One image's source: asks for a range first, and turns to one stream where the store refuses ranges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, ImageId};

use super::body::{Body, Plan};
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
}

impl Chooser {
    pub(super) fn new(shared: Arc<Shared>, id: ImageId, size: u64, store: Box<str>) -> Self {
        // A refusal is remembered; that ranges work is seen anew per image, since it costs nothing.
        let kind = match shared.known(&store) {
            SourceKind::Streamed => SourceKind::Streamed,
            _ => SourceKind::Unknown,
        };
        Self { shared, id, size, store, kind: AtomicU8::new(kind as u8), first: Semaphore::new(1) }
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
            return self.transfer(Plan::Whole, urgency).await;
        }
        let turn = match self.kind() {
            SourceKind::Unknown => self.first.acquire().await.ok(),
            _ => None,
        };
        if self.kind() == SourceKind::Streamed {
            return refused();
        }
        let begun = self.transfer(Plan::Range(range), urgency).await;
        match &begun {
            Ok(_) => self.learn(SourceKind::Ranged),
            Err(error) if error.kind() == Kind::RangeUnsupported => self.learn(SourceKind::Streamed),
            Err(_) => {}
        }
        drop(turn);
        begun
    }

    async fn transfer(&self, plan: Plan, urgency: Urgency) -> Result<Transfer> {
        let slot = self.shared.slots.take(urgency).await?;
        let body = Body::new(Arc::clone(&self.shared), self.id.clone(), self.size, plan, slot);
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
            _ => SourceKind::Unknown,
        }
    }

    fn pace(&self) -> Pace {
        self.shared.pace.pace()
    }
}
