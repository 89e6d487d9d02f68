//! A source of known bytes that fails, refuses and dawdles as a test wants.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use crate::error::{Error, Kind, Result};
use crate::source::fake::pattern;
use crate::source::{Pace, Source, SourceKind, Transfer, Urgency};
use crate::units::ByteRange;

/// How a [`FakeSource`] behaves from now on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behaviour {
    /// Ranges are served.
    pub ranges: bool,
    /// Every body fails after so many bytes.
    pub fail_after: Option<u64>,
    /// Nothing is served at all.
    pub broken: bool,
    /// Each answer begins after this time.
    pub delay: Duration,
    /// The time between two chunks.
    pub pause: Duration,
    /// Bytes in a chunk.
    pub chunk: u64,
    /// What it says of its own pace.
    pub pace: Pace,
}

pub(crate) struct FakeSource {
    seed: u64,
    size: u64,
    behaviour: Mutex<Behaviour>,
    asked: Mutex<Vec<ByteRange>>,
    kind: Mutex<SourceKind>,
}

impl FakeSource {
    pub(crate) fn new(seed: u64, size: u64) -> Arc<Self> {
        let behaviour = Behaviour { ranges: true, chunk: 48_000, ..Behaviour::default() };
        let kind = Mutex::new(SourceKind::Unknown);
        Arc::new(Self { seed, size, behaviour: Mutex::new(behaviour), asked: Mutex::default(), kind })
    }

    pub(crate) fn broken() -> Arc<Self> {
        let source = Self::new(0, 0);
        source.set(|behaviour| behaviour.broken = true);
        source
    }

    pub(crate) fn set<T>(&self, change: impl FnOnce(&mut Behaviour) -> T) {
        change(&mut self.behaviour.lock().unwrap());
    }

    pub(crate) fn asked(&self) -> Vec<ByteRange> {
        self.asked.lock().unwrap().clone()
    }

    async fn serve(&self, range: ByteRange) -> Result<Transfer> {
        let behaviour = self.behaviour.lock().unwrap().clone();
        self.asked.lock().unwrap().push(range);
        tokio::time::sleep(behaviour.delay).await;
        if behaviour.broken {
            return Err(Error::new(Kind::Unreachable, "the test forbids a fetch"));
        }
        let streamed = *self.kind.lock().unwrap() == SourceKind::Streamed;
        // As the real one: who asks for a part has not noticed yet.
        if !behaviour.ranges && (!streamed || range != ByteRange::new(0, self.size)) {
            *self.kind.lock().unwrap() = SourceKind::Streamed;
            return Err(Error::new(Kind::RangeUnsupported, "no ranges"));
        }
        if !streamed {
            *self.kind.lock().unwrap() = SourceKind::Ranged;
        }
        let end = behaviour.fail_after.map_or(range.end, |after| range.end.min(range.start + after));
        let failure = (end < range.end).then(|| Err(Error::new(Kind::Unreachable, "cut by the test")));
        let (seed, chunk, pause) = (self.seed, behaviour.chunk, behaviour.pause);
        let chunks = stream::unfold(range.start, move |at| async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let now = ByteRange::at(at, chunk).clamp_to(end);
            (!now.is_empty()).then(|| (Ok(Bytes::from(pattern(seed, now))), now.end))
        });
        Ok(Transfer { range, chunks: chunks.chain(stream::iter(failure)).boxed() })
    }
}

impl Source for FakeSource {
    fn fetch(&self, range: ByteRange, _urgency: Urgency) -> BoxFuture<'_, Result<Transfer>> {
        self.serve(range).boxed()
    }

    fn kind(&self) -> SourceKind {
        *self.kind.lock().unwrap()
    }

    fn pace(&self) -> Pace {
        self.behaviour.lock().unwrap().pace
    }
}
