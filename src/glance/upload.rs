//! Image data on their way to the server.
//!
//! - `Content-Length` is sent wherever the length is known: of unknown size, an upload over the quota leaves the image in
//!   `saving` for ever. Only `--upload stream` does not know it.
//! - An early refusal (409, 413, ...) comes while we still send, and Glance then closes the connection. The answer is
//!   only seen by one who looks before sending on, so [`Paced`] makes the HTTP client look between any two pieces. What
//!   is lost all the same is found by a second try, which waits for a refusal before it sends any data.
//! - The deadline is on progress: bytes must move, and after the last one Glance has [`FINISH_WAIT`] while it keeps the
//!   connection and the record shows that it is at it: what a dead server's socket has swallowed is no progress. A pause and a try that fails at once count as no progress.
//! - When an answer is lost, the record tells what became of the upload.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{FusedFuture, FutureExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method, StatusCode};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, Sleep, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::client::{Glance, host, read_body, refused_anew, transport_error};
use super::error::{Operation, answered, failed};
use super::image::{Image, Status};
use super::record::{path, subject};
use super::retry::{Backoff, Worth, worth};
use super::service::{BodyStream, OpenBody};
use super::trace::{Exchange, told_id};
use super::v1::{self, GlanceV1};
use crate::auth::Credential;
use crate::error::{Error, Kind, Result};
use crate::metrics::{Call, PROCESS};
use crate::units::ImageId;

/// Given to the HTTP client at once: one write of a socket's buffer, and at 1 GB/s a look every 65 us.
const PIECE: usize = 64 * 1024;

/// After the last byte the store finishes: Swift writes manifests, S3 joins parts, RBD flattens. A file store needs
/// 0.1 s; ten minutes are for the slow ones, as long as the connection holds and the record shows the upload under way.
const FINISH_WAIT: Duration = Duration::from_secs(600);

/// Glance sees within a moment that a connection broke inside of the data, and the record is `queued` again; unless the
/// server was killed. A busy one has this long.
const NOTICE: Duration = Duration::from_secs(10);

/// How long an early answer's text may take once its head is here.
const REFUSAL_WAIT: Duration = Duration::from_secs(5);

/// A second try waits this long for a refusal before it sends data. Glance decides about status, quota and size limits
/// from the head of the request; with a token that it must first check with Keystone this takes 0.2 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the data of an upload shall go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The id of a store; else Glance's default.
    pub store: Option<String>,
    /// An image that the new one is made from: cinder's store then puts it into the same backend.
    pub base_image: Option<String>,
}

/// What became of one try.
enum Outcome {
    Done,
    /// The token was not accepted: once more with a new one.
    Refused,
    /// Nothing reached the server.
    Unsent(Error),
    /// Something may have; the record tells.
    Unknown {
        error: Error,
        /// All of the data, as far as we know: what was not given away, no server has.
        all_sent: bool,
    },
    /// The image has data, or is getting some: perhaps from an earlier try of ours.
    Conflict(Error),
    Failed(Error),
}

/// Where an upload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To the store: the image is active then.
    Store,
    /// To the staging area, for an import.
    Stage,
    /// To the store by v1 of the API: `PUT /v1/images/<id>`, which is also how it changes a record.
    V1,
}

impl Destination {
    fn path(self, id: &ImageId) -> String {
        match self {
            Self::Store => format!("{}/file", path(id)),
            Self::Stage => format!("{}/stage", path(id)),
            Self::V1 => v1::path(id),
        }
    }

    /// The header that says how many bytes are coming, so that the store can reserve the space, and Glance refuse a
    /// body of another length.
    fn size_header(self) -> &'static str {
        match self {
            Self::Store | Self::Stage => "x-openstack-image-size",
            Self::V1 => "x-image-meta-size",
        }
    }

    /// v1 takes a body of no bytes with a length for a change of the record, and one in chunks for data.
    fn tells_length(self, size: u64) -> bool {
        size > 0 || self != Self::V1
    }

    /// The record shows that all of `size` bytes have arrived.
    fn is_done(self, image: &Image, size: u64) -> bool {
        let end = if self == Self::Stage { Status::Uploading } else { Status::Active };
        image.status == end && image.size == Some(size)
    }

    /// The record shows that the server is at it.
    fn is_under_way(self, image: &Image) -> bool {
        image.status == if self == Self::Stage { Status::Uploading } else { Status::Saving }
    }
}

impl Glance {
    /// Uploads `size` bytes. `open` is called for each attempt with nothing sent yet; the stream must give exactly `size` bytes.
    ///
    /// Tried again from the start (`--retries` times, and while no server takes a connection) when the connection broke and the record is back in `queued`;
    /// an upload whose answer was lost but which the record shows as active with `size` bytes is done. The caller
    /// compares the hash.
    ///
    /// Waits for its turn when `max_connections` uploads are running.
    ///
    /// # Errors
    /// `Io` when the stream fails or has another length; `Busy` when the image has data already; `QuotaExceeded`,
    /// `NoSpace`, `TooLarge`; `WrongFormat`, after which the record must be deleted; `NotFound` when the image was
    /// deleted meanwhile; `TimedOut` when no byte moved for the configured timeout, or after the last no answer came for
    /// ten minutes, of which the record showed the upload under way.
    pub async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        self.upload_to(Destination::Store, id, size, &Placement::default(), open).await
    }

    /// The same, by either version of the API, to where `placement` says or to the staging area.
    ///
    /// # Errors
    /// Those of [`upload`](Self::upload); `Invalid` when there is no such store.
    pub async fn upload_to(
        &self,
        to: Destination,
        id: &ImageId,
        size: u64,
        placement: &Placement,
        open: &OpenBody<'_>,
    ) -> Result<()> {
        let subject = subject(id);
        let _turn = self.turn(&subject).await?;
        let mut backoff = Backoff::default();
        let (mut tries, mut retries, mut renewed, mut all_sent) = (0, 0, false, false);
        let mut moved_at = Instant::now();
        loop {
            let credential = self.inner.credential(moved_at + self.inner.patience, &mut backoff).await?;
            let patience = if tries == 0 { Duration::ZERO } else { PATIENCE.min(self.inner.timeout / 4) };
            let data = Data { to, size: Some(size), stream: open(), patience, placement };
            let outcome = self.put(id, &subject, data, &credential, &mut moved_at).await;
            all_sent |= matches!(outcome, Outcome::Unknown { all_sent: true, .. });
            let error = match outcome {
                Outcome::Done => return Ok(()),
                Outcome::Failed(error) => return Err(error),
                Outcome::Conflict(error) if tries == 0 => return Err(error),
                Outcome::Refused if !renewed && !self.inner.auth.is_new(credential.generation) => {
                    renewed = true;
                    let deadline = moved_at + self.inner.patience;
                    self.inner.renew_after(credential.generation, deadline, &mut backoff).await?;
                    continue;
                }
                Outcome::Refused => {
                    retries += 1;
                    refused_anew(answered(Operation::Upload, &subject, StatusCode::UNAUTHORIZED, None, b""))
                }
                // Nobody is there: worth waiting for.
                Outcome::Unsent(error) => error,
                Outcome::Unknown { error, .. } | Outcome::Conflict(error) => {
                    match self.settle((to, id), size, all_sent, error).await? {
                        None => return Ok(()),
                        Some(error) => {
                            retries += 1;
                            error
                        }
                    }
                }
            };
            tries += 1;
            let pause = backoff.pause();
            let hard = self.inner.patience > self.inner.timeout;
            if !hard && retries > self.inner.retries || moved_at.elapsed() + pause >= self.inner.patience {
                return Err(error);
            }
            PROCESS.requests(Call::Upload).retries.add(1);
            tracing::warn!(image = %id, %error, "uploading again from the start");
            tokio::time::sleep(pause).await;
            if hard {
                // The deadline on progress is that of each try.
                moved_at = Instant::now();
            }
        }
    }

    /// Uploads what `data` gives, whose length is not known: chunked, and in one try. Unless `data` comes to its end,
    /// the connection is broken off inside of the body, and the image stays without data.
    ///
    /// # Errors
    /// As [`upload`](Self::upload). `TimedOut` when the server took none of the bytes that were there for the
    /// configured timeout; waiting for `data` counts as progress. `ServerError` when the token was refused and renewed.
    pub async fn upload_stream(&self, id: &ImageId, placement: &Placement, data: BodyStream) -> Result<()> {
        self.upload_stream_to(Destination::Store, id, placement, data).await
    }

    pub(super) async fn upload_stream_to(
        &self,
        to: Destination,
        id: &ImageId,
        placement: &Placement,
        data: BodyStream,
    ) -> Result<()> {
        let subject = subject(id);
        let _turn = self.turn(&subject).await?;
        let deadline = Instant::now() + self.inner.patience;
        let credential = self.inner.credential(deadline, &mut Backoff::default()).await?;
        let data = Data { to, size: None, stream: data, patience: Duration::ZERO, placement };
        match self.put(id, &subject, data, &credential, &mut Instant::now()).await {
            Outcome::Done => Ok(()),
            Outcome::Refused => {
                // What was sent is nowhere any more, so only its writer can send it again; others need the token now.
                let what = "the token was refused while the data were on their way (HTTP 401): write the file again from \
                            its beginning";
                self.inner.auth.renew_after(credential.generation).await.map_err(|error| {
                    failed(Operation::Upload, &subject, error.kind(), &format!("{what}; {error}"))
                })?;
                let what = format!("{what}, with the new token that there is");
                Err(failed(Operation::Upload, &subject, Kind::ServerError, &what))
            }
            Outcome::Unsent(error)
            | Outcome::Unknown { error, .. }
            | Outcome::Conflict(error)
            | Outcome::Failed(error) => Err(error),
        }
    }

    /// A place among the uploads that may run. The wait is bounded by the progress that each of those ahead must make.
    async fn turn(&self, subject: &str) -> Result<SemaphorePermit<'_>> {
        let ending = |_| failed(Operation::Upload, subject, Kind::Interrupted, "glancefs is ending");
        self.inner.uploads.acquire().await.map_err(ending)
    }

    /// One try; `moved_at` is when a byte moved last, in this try or before.
    async fn put(
        &self,
        id: &ImageId,
        subject: &str,
        data: Data<'_>,
        credential: &Credential,
        moved_at: &mut Instant,
    ) -> Outcome {
        let size = data.size;
        let servers = self.inner.servers(credential);
        let (server, base) = servers.pick();
        let progress = Arc::new(Progress::default());
        // However this function ends: if the body has not, its connection is of no use any more.
        let _stop = progress.stop.clone().drop_guard();
        let to = data.to;
        let path = to.path(id);
        let mut exchange = Exchange::new(Operation::Upload, subject, Method::PUT, base, &path);
        let builder = match exchange.builder(&self.inner.data, credential) {
            Ok(builder) => builder,
            Err(error) => return Outcome::Failed(error),
        };
        let mut builder = builder.header(CONTENT_TYPE, "application/octet-stream");
        if let Some(size) = size {
            builder = builder.header(to.size_header(), size);
            if to.tells_length(size) {
                builder = builder.header(CONTENT_LENGTH, size);
            }
        }
        let default = self.inner.store.as_ref().filter(|_| to != Destination::Stage);
        for (header, value) in [
            ("x-image-meta-store", data.placement.store.as_ref().or(default)),
            ("x-openstack-base-image-ref", data.placement.base_image.as_ref()),
        ] {
            if let Some(value) = value {
                builder = builder.header(header, value);
            }
        }
        progress.complete.store(size == Some(0), Ordering::Relaxed);
        let body = match size {
            Some(0) if to.tells_length(0) => Body::from(Bytes::new()),
            _ => Body::wrap_stream(Paced::new(data, Arc::clone(&progress))),
        };
        let answer = self.watch((to, id), builder.body(body).send(), &progress, moved_at).await;
        if let Some(error) = progress.local_error() {
            return Outcome::Failed(Error::io(format!("uploading {subject}: reading the data"), error));
        }
        let mut response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                servers.failed(server);
                let unsent = error.is_connect();
                let error = transport_error(Operation::Upload, subject, base, error);
                exchange.unanswered(&error);
                return match unsent {
                    true => Outcome::Unsent(error),
                    false => Outcome::Unknown { error, all_sent: progress.is_complete() },
                };
            }
            Err(Stalled { taken, after }) => {
                servers.failed(server);
                let (host, after) = (host(base), after.as_secs());
                let of = size.map(|size| format!(" of {size}")).unwrap_or_default();
                let what = format!("{taken}{of} bytes are sent, and {host} has been silent for {after} s");
                exchange.unanswered(&what);
                let error = failed(Operation::Upload, subject, Kind::TimedOut, &what);
                let waits = self.inner.patience > self.inner.timeout;
                return match waits {
                    true => Outcome::Unknown { error, all_sent: progress.is_complete() },
                    false => Outcome::Failed(error),
                };
            }
        };
        exchange.answered(&response);
        let status = response.status();
        if status.is_success() && progress.is_complete() {
            servers.succeeded(server);
            return Outcome::Done;
        }
        let headers = response.headers().clone();
        let text = match timeout(REFUSAL_WAIT, read_body(&mut response, PIECE)).await {
            Ok(Ok(Some(text))) => text,
            _ => Bytes::new(),
        };
        let error = answered(Operation::Upload, subject, status, told_id(&headers), &text);
        match status {
            StatusCode::UNAUTHORIZED => Outcome::Refused,
            StatusCode::CONFLICT => Outcome::Conflict(error),
            status if worth(status, &headers, false) != Worth::Nothing => {
                Outcome::Unknown { error, all_sent: progress.is_complete() }
            }
            _ => Outcome::Failed(error),
        }
    }

    /// Waits for the answer while bytes move, and behind the last while the record shows that the store is finishing.
    async fn watch<T>(
        &self,
        (to, id): (Destination, &ImageId),
        sending: impl Future<Output = T>,
        progress: &Progress,
        moved_at: &mut Instant,
    ) -> Result<T, Stalled> {
        let mut sending = std::pin::pin!(sending);
        let stall = self.inner.timeout;
        let mut seen = 0;
        let mut look =
            tokio::time::interval((stall / 8).clamp(Duration::from_millis(10), Duration::from_secs(1)));
        // A question to the record; when the last one was asked, and when the last good answer came.
        let mut question = futures_util::future::Fuse::terminated();
        let (mut asked_at, mut alive_at) = (*moved_at, *moved_at);
        loop {
            tokio::select! {
                biased;
                answer = &mut sending => return Ok(answer),
                is_finishing = &mut question => {
                    if is_finishing {
                        alive_at = Instant::now();
                    }
                }
                _ = look.tick() => {}
            }
            let taken = progress.taken();
            // Who has nothing to send waits for the writer, not for the server.
            if taken != seen || progress.starved.load(Ordering::Relaxed) {
                (seen, *moved_at) = (taken, Instant::now());
            }
            // Without data there is nothing to finish.
            let finishing = progress.is_complete() && taken > 0;
            alive_at = alive_at.max(*moved_at);
            asked_at = asked_at.max(*moved_at);
            // Asked for half of the deadline, so that it is answered by its end.
            if finishing && asked_at.elapsed() > stall / 2 && question.is_terminated() {
                asked_at = Instant::now();
                question = self.is_under_way(to, id, stall / 2).boxed().fuse();
            }
            if alive_at.elapsed() > stall || moved_at.elapsed() > FINISH_WAIT.max(stall) {
                return Err(Stalled { taken, after: moved_at.elapsed() });
            }
        }
    }

    /// The record tells within `limit` that the server is at an upload.
    async fn is_under_way(&self, to: Destination, id: &ImageId, limit: Duration) -> bool {
        let shown = timeout(limit, self.shown(to, id)).await;
        shown.is_ok_and(|shown| shown.is_ok_and(|image| to.is_under_way(&image)))
    }

    /// The record by the version of the API that an upload takes.
    async fn shown(&self, to: Destination, id: &ImageId) -> Result<Image> {
        match to {
            Destination::Store | Destination::Stage => self.show(id).await,
            Destination::V1 => GlanceV1::new(self.clone()).show(id).await,
        }
    }

    /// Asks the record what became of an upload that ended with `error`: `None`, it is done; `Some`, it may be tried again.
    ///
    /// Glance needs a moment to see a broken connection, and with `all_sent` a store may be finishing meanwhile. A server that
    /// was killed leaves the record under way for ever: `ServerError`, and only another record can take the data.
    async fn settle(
        &self,
        (to, id): (Destination, &ImageId),
        size: u64,
        all_sent: bool,
        error: Error,
    ) -> Result<Option<Error>> {
        let deadline = Instant::now() + self.inner.patience;
        let given_up =
            Instant::now() + if all_sent { self.inner.timeout } else { NOTICE.min(self.inner.timeout) };
        let mut backoff = Backoff::default();
        loop {
            let image = match timeout_at(deadline, self.shown(to, id)).await {
                Ok(Ok(image)) => image,
                Ok(Err(gone)) if gone.kind() == Kind::NotFound => return Err(gone),
                // What happened first says more than that the server is still away.
                Ok(Err(_)) | Err(_) => return Err(error),
            };
            let pause = backoff.pause();
            match image.status {
                _ if to.is_done(&image, size) => return Ok(None),
                Status::Queued => return Ok(Some(error)),
                // v1 gives up the image with the upload; whoever made the record may make another.
                Status::Killed => return Err(error.context("the image was killed")),
                _ if to.is_under_way(&image) && Instant::now() + pause < given_up => {}
                ref status => {
                    let what = format!("the answer was lost, and the image stays {}", status.as_str());
                    let kind = if to.is_under_way(&image) { Kind::ServerError } else { Kind::Busy };
                    return Err(failed(Operation::Upload, &subject(id), kind, &what).with_source(error));
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// No byte has moved for too long.
struct Stalled {
    taken: u64,
    after: Duration,
}

/// What one try sends.
struct Data<'a> {
    to: Destination,
    /// `None`: until its end.
    size: Option<u64>,
    placement: &'a Placement,
    stream: BodyStream,
    /// How long to wait for a refusal first.
    patience: Duration,
}

/// How far a body has come, shared by the HTTP client's side and ours.
#[derive(Default)]
struct Progress {
    /// Bytes given to the HTTP client, which holds back at most one piece and the socket's buffer.
    taken: AtomicU64,
    /// All were given.
    complete: AtomicBool,
    /// There are none to give at the moment.
    starved: AtomicBool,
    /// Our own failure to give the data.
    error: Mutex<Option<io::Error>>,
    stop: CancellationToken,
}

impl Progress {
    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    fn local_error(&self) -> Option<io::Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: io::Error) -> io::Error {
        let copy = io::Error::new(error.kind(), "the data could not be read");
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        copy
    }
}

/// A body in pieces, with a rest after each in which the HTTP client looks for an early answer.
///
/// A refusal is lost when it has arrived but a write fails first. hyper reads before it writes, each time its task
/// runs; but it runs on while the body has more, and tokio only sees that something has arrived when it asks the
/// kernel, which it puts off while tasks are ready to run. So after each piece the body is pending until tokio has
/// asked (`yield_now` promises that), and pending twice, since hyper looks for more of the body twice in one run
/// (`hyper::proto::h1::dispatch::poll_loop`). What remains is a refusal that comes between that look and the write.
struct Paced {
    data: BodyStream,
    chunk: Bytes,
    /// `None`: until its end.
    left: Option<u64>,
    patience: Option<Pin<Box<Sleep>>>,
    rests: u8,
    progress: Arc<Progress>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Paced {
    fn new(data: Data<'_>, progress: Arc<Progress>) -> Self {
        Self {
            data: data.stream,
            chunk: Bytes::new(),
            left: data.size,
            patience: (!data.patience.is_zero()).then(|| Box::pin(tokio::time::sleep(data.patience))),
            rests: 0,
            stopped: Box::pin(progress.stop.clone().cancelled_owned()),
            progress,
        }
    }
}

impl Stream for Paced {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(io::Error::other("the upload was given up"))));
        }
        if this.left == Some(0) {
            return Poll::Ready(None);
        }
        if let Some(patience) = &mut this.patience {
            std::task::ready!(patience.as_mut().poll(cx));
            this.patience = None;
        }
        if this.rests > 0 {
            this.rests -= 1;
            // Wakes this task after tokio has looked at the sockets.
            let look = std::pin::pin!(tokio::task::yield_now());
            std::task::ready!(look.poll(cx));
            return Poll::Pending;
        }
        while this.chunk.is_empty() {
            let polled = this.data.as_mut().poll_next(cx);
            this.progress.starved.store(polled.is_pending(), Ordering::Relaxed);
            let what = match std::task::ready!(polled) {
                Some(Ok(chunk)) if this.left.is_none_or(|left| chunk.len() as u64 <= left) => {
                    this.chunk = chunk;
                    continue;
                }
                Some(Ok(_)) => "the data are longer than announced",
                Some(Err(error)) => return Poll::Ready(Some(Err(this.progress.fail(error)))),
                None if this.left.is_none() => {
                    this.progress.complete.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
                None => "the data are shorter than announced",
            };
            let error = io::Error::new(io::ErrorKind::InvalidData, what);
            return Poll::Ready(Some(Err(this.progress.fail(error))));
        }
        let piece = this.chunk.split_to(this.chunk.len().min(PIECE));
        this.rests = 2;
        if let Some(left) = &mut this.left {
            *left -= piece.len() as u64;
            this.progress.complete.store(*left == 0, Ordering::Relaxed);
        }
        this.progress.taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
        PROCESS.sent_bytes.add(piece.len() as u64);
        Poll::Ready(Some(Ok(piece)))
    }
}
