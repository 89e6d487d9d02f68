//! A transfer that survives cuts: the same bytes in order, out of as many requests as it takes.
//!
//! A ranged transfer asks again for what has not come, beginning at the next byte. A whole-image
//! transfer can only begin again at byte 0, so it skips what it has delivered.
//!
//! Connections that break and bodies that stall are followed by another request, with growing pauses, until nothing
//! new has come for `--timeout`; bodies that are wrong (too short, too long, of another range) by `--retries` more.
//! That a request was not answered is final: the client below has asked all servers for as long and as often already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::error::{Error, Kind, Result};
use crate::glance::Downloads;
use crate::units::{ByteRange, ImageId};

use super::slots::Slot;
use super::{Shared, Transfer};

/// What to ask the server for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// `Range: bytes=…`.
    Range(ByteRange),
    /// No range: everything, from byte 0.
    Whole,
}

/// Bodies of one range that brought something and broke: a server that cuts every few bytes must not be asked for
/// ever.
const RANGE_BODIES: u32 = 32;
/// The same of a whole image. Each begins at byte 0 again, so few are worth their cost.
const WHOLE_BODIES: u32 = 5;
/// The wait before a request that follows a fruitless one; doubled each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The state of one transfer.
pub(super) struct Body {
    shared: Arc<Shared>,
    downloads: Arc<dyn Downloads>,
    id: ImageId,
    size: u64,
    plan: Plan,
    /// Held until the transfer is over.
    _slot: Slot,
    /// What is still to be delivered.
    rest: ByteRange,
    /// The body being read, and the offset of the next byte that it gives.
    current: Option<(u64, BoxStream<'static, Result<Bytes>>)>,
    /// Bodies that brought something and broke.
    bodies: u32,
    /// Failures since bytes came that were not there before, and how many of them were wrong bodies.
    fruitless: u32,
    wrong: u32,
    last_byte: Instant,
    /// The present request, for the pace.
    sample: Option<Sample>,
}

/// What one request shows of its server.
struct Sample {
    sent: Instant,
    first_byte: Duration,
    bytes: u64,
}

impl Body {
    pub(super) fn new(
        shared: Arc<Shared>,
        downloads: Arc<dyn Downloads>,
        id: ImageId,
        size: u64,
        plan: Plan,
        slot: Slot,
    ) -> Self {
        let rest = match plan {
            Plan::Range(range) => range,
            Plan::Whole => ByteRange::new(0, size),
        };
        Self {
            shared,
            downloads,
            id,
            size,
            plan,
            _slot: slot,
            rest,
            current: None,
            bodies: 0,
            fruitless: 0,
            wrong: 0,
            last_byte: Instant::now(),
            sample: None,
        }
    }

    /// Sends the first request and gives the transfer once its headers came.
    pub(super) async fn begin(mut self) -> Result<Transfer> {
        // An answer that is wrong is asked for again, as one in the middle of a transfer is.
        while let Err(error) = self.request().await {
            match error.kind() {
                Kind::Integrity => self.recover(error).await?,
                _ => return Err(error),
            }
        }
        let range = self.rest;
        let chunks = stream::unfold(Some(self), |body| async move {
            let mut body = body?;
            match body.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(body))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Transfer { range, chunks: chunks.boxed() })
    }

    /// Asks for what is missing, in one request.
    async fn request(&mut self) -> Result<()> {
        let asked = match self.plan {
            Plan::Range(_) => Some(self.rest),
            Plan::Whole => None,
        };
        let sent = Instant::now();
        let download = self.downloads.download(&self.id, self.size, asked).await?;
        let first_byte = sent.elapsed();
        self.shared.pace.first_byte(first_byte);
        self.sample = Some(Sample { sent, first_byte, bytes: 0 });
        let expected = asked.unwrap_or(ByteRange::new(0, self.size));
        if download.range != expected {
            let got = download.range;
            return Err(Error::new(Kind::Integrity, format!("bytes {got} came for {expected}")));
        }
        self.current = Some((expected.start, download.chunks));
        Ok(())
    }

    /// The next bytes; `None` when all were delivered.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.rest.is_empty() {
                if let Some(Sample { sent, first_byte, bytes }) = self.sample.take() {
                    self.shared.pace.body(bytes, first_byte, self.last_byte - sent);
                }
                return Ok(None);
            }
            let failure = match self.current.take() {
                Some((at, mut chunks)) => match tokio::time::timeout(self.stall(), chunks.next()).await {
                    Ok(Some(Ok(chunk))) => {
                        self.last_byte = Instant::now();
                        if let Some(sample) = &mut self.sample {
                            sample.bytes += chunk.len() as u64;
                        }
                        let end = at.saturating_add(chunk.len() as u64);
                        if end > self.rest.end {
                            Error::new(Kind::Integrity, "the server sent more bytes than it promised")
                        } else {
                            self.current = Some((end, chunks));
                            if let Some(fresh) = self.deliver(at, chunk) {
                                return Ok(Some(fresh));
                            }
                            continue;
                        }
                    }
                    Ok(Some(Err(error))) => error,
                    Ok(None) => Error::new(Kind::Integrity, "the body ended early"),
                    Err(_) => {
                        let waited = self.stall().as_secs();
                        Error::new(Kind::TimedOut, format!("no byte came for {waited} s"))
                    }
                },
                None => match self.request().await {
                    Ok(()) => continue,
                    Err(error) if error.kind().is_transient() => return Err(self.told(error)),
                    Err(error) => error,
                },
            };
            self.recover(failure).await?;
        }
    }

    /// How long one silent body is waited for: a third of the deadline, which leaves time to go on elsewhere.
    fn stall(&self) -> Duration {
        self.shared.timeout / 3
    }

    /// The part of `chunk`, which begins at `at`, that was not delivered before.
    fn deliver(&mut self, at: u64, mut chunk: Bytes) -> Option<Bytes> {
        let old = self.rest.start.saturating_sub(at).min(chunk.len() as u64);
        // A chunk is a buffer in memory: its length, and so `old`, fits a usize.
        let fresh = chunk.split_off(old as usize);
        if fresh.is_empty() {
            return None;
        }
        self.rest.start += fresh.len() as u64;
        (self.fruitless, self.wrong) = (0, 0);
        Some(fresh)
    }

    /// Decides whether `failure` is worth another request, and waits a little before it.
    async fn recover(&mut self, failure: Error) -> Result<()> {
        let bodies = match self.plan {
            Plan::Range(_) => RANGE_BODIES,
            Plan::Whole => WHOLE_BODIES,
        };
        self.bodies += u32::from(self.sample.take().is_some_and(|sample| sample.bytes > 0));
        self.fruitless += 1;
        let over = match failure.kind() {
            Kind::NotFound => return Err(failure.with_kind(Kind::Stale)),
            Kind::Unreachable | Kind::TimedOut => false,
            Kind::Integrity | Kind::ServerError => {
                self.wrong += 1;
                self.wrong > self.shared.retries
            }
            _ => true,
        };
        // A body that brought something is gone on with at once.
        let pause = match self.fruitless {
            0 | 1 => Duration::ZERO,
            more => (FIRST_PAUSE * 2u32.pow(more.min(7))).min(LONGEST_PAUSE),
        };
        if over || self.bodies >= bodies || self.last_byte.elapsed() + pause > self.shared.patience {
            return Err(self.told(failure));
        }
        tracing::debug!(image = %self.id, rest = %self.rest, %failure, "resuming a cut transfer");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn told(&self, failure: Error) -> Error {
        failure.context(format!("bytes {} of image {}", self.rest, self.id))
    }
}
