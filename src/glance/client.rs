//! One exchange with Glance: token, server, deadline and retry. What is logged of it is in `trace`.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, RANGE};
use reqwest::{Client, Method, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::Url;

use super::error::{Operation, answered, failed};
use super::list::views;
use super::prefer::Prefer;
use super::retry::{Backoff, Worth, retry_after, worth, worth_of_silence};
use super::servers::{Servers, cloud_key};
use super::trace::{Exchange, told_id};
use crate::auth::{Auth, Credential, Distrust, distrust};
use crate::config::{HttpConfig, Shown};
use crate::error::{Error, Kind, Result};
use crate::metrics::PROCESS;
use crate::units::ByteRange;

/// A connection that is not there by then goes to the next server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections are dropped before a server or proxy does it: gunicorn after 2 s to 30 s, HAProxy after 10 s and
/// more. A request that meets such a moment is sent again, but it costs a round trip.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an error's body that are looked at.
const ERROR_LIMIT: usize = 64 * 1024;

/// Bytes of a metadata answer. A page of 1000 images with 128 properties each stays below; a server that sends more
/// is not believed.
pub(super) const ANSWER_LIMIT: usize = 64 << 20;

pub(super) const AUTH_TOKEN: &str = "x-auth-token";

/// A try gets at least this fraction of a request's time. A loaded Glance needs some seconds now and then, and a try that
/// is given up before adds to its load.
const LEAST_SHARE: u32 = 8;

/// A try is not begun with less than this left: it would mostly run into the deadline, and so would the program that waits,
/// which then hears of that and not of what the server said. As long as the first pause: an answer on a busy machine takes
/// less.
const LEAST_TRY: Duration = Duration::from_millis(250);

/// Headers of one answer. The usual limit is 100, and v1 of the API answers with one for each property, of which Glance
/// takes 128 unless a site says otherwise.
const HEADER_LIMIT: usize = 512;

/// A client of one cloud's Glance; cheap to clone.
#[derive(Clone)]
pub struct Glance {
    pub(super) inner: Arc<Inner>,
    /// Filters of the lists that make up what is listed, one at least.
    pub(super) views: Arc<[String]>,
    /// What they show.
    pub(super) shown: Shown,
}

pub(super) struct Inner {
    pub auth: Auth,
    /// Known since the first credential: see [`servers`](Inner::servers).
    known_servers: OnceLock<Servers>,
    metadata: Client,
    pub data: Client,
    /// For places that are not this cloud: no certificate of ours is shown to them.
    pub elsewhere: Client,
    cloud_key: String,
    /// Where uploads go, unless to the default store.
    pub store: Option<String>,
    /// Which stores downloads shall come from, if any.
    pub prefer: Option<Prefer>,
    /// Of a whole metadata request with its retries; of a transfer's progress.
    pub timeout: Duration,
    /// How long servers that are away are waited for: as `timeout`, or for ever.
    pub patience: Duration,
    /// Tries after the first, of a request that fails where servers do answer.
    pub retries: u32,
    /// Uploads at once. Downloads are bounded by `source`, which knows for which of them somebody waits.
    pub uploads: Semaphore,
}

impl Inner {
    /// The servers that may be asked with a credential. It is wanted as a proof: until somebody has logged in, a mount
    /// that began without a login has the addresses of an earlier one, and a token must not go there.
    pub fn servers(&self, _: &Credential) -> &Servers {
        self.known_servers.get_or_init(|| {
            let urls = self.auth.endpoints();
            if cloud_key(urls) != self.cloud_key {
                tracing::warn!(
                    now = cloud_key(urls),
                    before = self.cloud_key,
                    "the catalogue names another image endpoint than before the outage: requests go there; \
                     the cache keeps the old name of the cloud until the next mount"
                );
            }
            Servers::new(urls)
        })
    }

    /// A token that is good now; until `deadline` it is waited for whoever issues them, as for a server.
    pub async fn credential(&self, deadline: Instant, backoff: &mut Backoff) -> Result<Credential> {
        loop {
            match self.auth.credential().await {
                Err(error) => wait_for_login(error, deadline, backoff).await?,
                good => return good,
            }
        }
    }

    /// Another token than that of `generation`, which was refused; waiting in the same way.
    pub async fn renew_after(
        &self,
        generation: u64,
        deadline: Instant,
        backoff: &mut Backoff,
    ) -> Result<Credential> {
        loop {
            match self.auth.renew_after(generation).await {
                Err(error) => wait_for_login(error, deadline, backoff).await?,
                good => return good,
            }
        }
    }

    /// The answer of `server` broke off.
    pub fn server_failed(&self, server: usize) {
        if let Some(servers) = self.known_servers.get() {
            servers.failed(server);
        }
    }
}

/// A request that may be sent several times.
pub(super) struct Request<'a> {
    pub operation: Operation,
    pub method: Method,
    /// Relative to the endpoint: `v2/images/...`, encoded.
    pub path: &'a str,
    /// What it is about, for messages: `image <id>`, or empty.
    pub subject: &'a str,
    pub body: Option<(&'static str, Bytes)>,
    /// Besides those that every request has.
    pub headers: HeaderMap,
    pub wants: Wants,
}

/// What a request asks for, and so how its answer is read.
pub(super) enum Wants {
    /// A document, read whole.
    Record,
    /// Image data, of a range or all of them, left to the caller to read.
    Data(Option<ByteRange>),
}

/// The answer to a request, of whatever status.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For data that were asked for and do come: their body is still unread.
    pub stream: Option<Response>,
    /// Which server it was.
    pub server: usize,
    /// An earlier try may have been carried out although its answer was lost.
    pub repeated: bool,
}

impl<'a> Request<'a> {
    pub(super) fn new(operation: Operation, method: Method, path: &'a str, subject: &'a str) -> Self {
        Self { operation, method, path, subject, body: None, headers: HeaderMap::new(), wants: Wants::Record }
    }

    pub(super) fn body(mut self, content_type: &'static str, body: Vec<u8>) -> Self {
        self.body = Some((content_type, body.into()));
        self
    }
}

impl Answer {
    /// The answer if it is a success.
    pub(super) fn success(self, request: &Request<'_>) -> Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(self.error(request))
    }

    pub(super) fn error(&self, request: &Request<'_>) -> Error {
        answered(request.operation, request.subject, self.status, told_id(&self.headers), &self.body)
    }
}

impl Glance {
    /// Builds the client; sends nothing.
    ///
    /// # Errors
    /// `Config` when TLS cannot be set up.
    pub fn new(auth: Auth, config: &HttpConfig) -> Result<Self> {
        let build = |builder: reqwest::ClientBuilder| {
            builder
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .tcp_nodelay(true)
                .http1_max_headers(HEADER_LIMIT)
                .build()
                .map_err(|error| {
                    Error::new(Kind::Config, "cannot set up TLS: are the system's CA certificates installed?")
                        .with_source(error)
                })
        };
        let metadata = build(auth.client_builder())?;
        // Parallel ranges must be parallel TCP connections, not streams of one.
        let data = build(auth.client_builder().http1_only().pool_max_idle_per_host(config.max_connections))?;
        let elsewhere = build(auth.stranger_builder().http1_only())?;
        Ok(Self {
            views: views(&Shown::default()).into(),
            shown: Shown::default(),
            inner: Arc::new(Inner {
                known_servers: OnceLock::new(),
                cloud_key: cloud_key(auth.known_endpoints()),
                auth,
                metadata,
                data,
                elsewhere,
                store: None,
                prefer: None,
                timeout: config.timeout,
                patience: config.patience(),
                retries: config.retries,
                uploads: Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)),
            }),
        })
    }

    /// The same, listing what is `shown`.
    pub fn showing(self, shown: &Shown) -> Self {
        Self { views: views(shown).into(), shown: shown.clone(), ..self }
    }

    /// Names what is listed: empty for what Glance lists by itself.
    pub fn view_key(&self) -> String {
        self.views.join("")
    }

    /// The project of the token.
    pub fn project_id(&self) -> Option<&str> {
        self.inner.auth.project_id()
    }

    /// Uploads go to this store; `None`: to the default one of the service.
    pub fn storing_in(mut self, store: Option<String>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.store = store;
        }
        self
    }

    /// Downloads shall come from one of these stores where it has the data, and the servers can choose.
    pub fn preferring(mut self, stores: &[String]) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.prefer = Prefer::of(stores);
        }
        self
    }

    /// Names this cloud in cache keys: the same for every server of it, however they are ordered.
    ///
    /// It is made of all endpoints, sorted: another list of servers is another cloud, and begins an empty cache.
    pub fn cloud_key(&self) -> &str {
        &self.inner.cloud_key
    }

    /// Sends a request until it is answered, each time at the next server: while servers are away until the deadline,
    /// else `--retries` times.
    ///
    /// All requests of glancefs may be repeated: reads by nature, POST for its own UUID, PATCH since every change of it
    /// sets a value, DELETE since 404 after a lost answer means done. `Answer::repeated` tells the caller.
    pub(super) async fn exchange(&self, request: &Request<'_>) -> Result<Answer> {
        let inner = &*self.inner;
        let patience = if request.operation.lists() { inner.timeout } else { inner.patience };
        let deadline = Instant::now() + patience;
        let mut backoff = Backoff::default();
        let mut retries = 0;
        let (mut renewed, mut repeated) = (false, false);
        let mut said: Option<Error> = None;
        loop {
            let credential = inner.credential(deadline, &mut backoff).await?;
            let servers = inner.servers(&credential);
            let (server, base) = servers.pick();
            let left = deadline.saturating_duration_since(Instant::now());
            // Half of what is left, so that a silent server leaves time for another; but no less than is worth waiting.
            let share = (left / 2).max(inner.timeout / LEAST_SHARE).min(left).min(inner.timeout);
            let (operation, subject) = (request.operation, request.subject);
            let mut exchange = Exchange::new(operation, subject, request.method.clone(), base, request.path);
            let outcome = match timeout(share, self.send(request, base, &credential, &mut exchange)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let failure = Failure::silent(request, base);
                    exchange.unanswered(&failure.error);
                    Err(failure)
                }
            };
            let (error, worth, wait) = match outcome {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => {
                    if renewed || inner.auth.is_new(credential.generation) {
                        (refused_anew(answer.error(request)), Worth::AFewTries, None)
                    } else {
                        inner.renew_after(credential.generation, deadline, &mut backoff).await?;
                        renewed = true;
                        continue;
                    }
                }
                Ok(mut answer) => {
                    let worth = worth(answer.status, &answer.headers, request.method.is_safe());
                    if worth == Worth::Nothing {
                        servers.succeeded(server);
                        answer.server = server;
                        answer.repeated = repeated;
                        return Ok(answer);
                    }
                    // 429 and 500 are about this request; the others mean that nothing works behind this address.
                    if matches!(answer.status.as_u16(), 502..=504) {
                        servers.failed(server);
                    } else {
                        servers.pass_over(server);
                    }
                    repeated = true;
                    let error = answer.error(request);
                    said = Some(error.duplicate());
                    (error, worth, retry_after(&answer.headers))
                }
                Err(failure) => {
                    servers.failed(server);
                    repeated |= failure.sent;
                    let worth = worth_of_silence(failure.error.kind());
                    (failure.error, worth, None)
                }
            };
            retries += u32::from(worth == Worth::AFewTries);
            let pause = backoff.pause().max(wait.unwrap_or_default());
            if retries > inner.retries || !leaves_time(pause, deadline) {
                // What a server said tells more than that the deadline cut the last try short. And one that refuses our
                // certificate may end a connection before it can be told why (TLS 1.3: once it is made for us).
                let tells_more = |said: &Error| match error.kind() {
                    Kind::TimedOut => true,
                    Kind::Unreachable => said.kind() == Kind::Untrusted,
                    _ => false,
                };
                let error = said.filter(tells_more).unwrap_or(error);
                return Err(if repeated { error } else { error.unasked() });
            }
            PROCESS.requests(request.operation.call()).retries.add(1);
            tracing::debug!(%error, pause_ms = pause.as_millis(), "trying again");
            if error.kind() == Kind::Untrusted {
                said = Some(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends a request once.
    async fn send(
        &self,
        request: &Request<'_>,
        base: &Url,
        credential: &Credential,
        exchange: &mut Exchange<'_>,
    ) -> Result<Answer, Failure> {
        let client = match request.wants {
            Wants::Record => &self.inner.metadata,
            Wants::Data(_) => &self.inner.data,
        };
        let mut builder =
            exchange.builder(client, credential).map_err(|error| Failure { error, sent: false })?;
        builder = builder.headers(request.headers.clone());
        if let Some((content_type, body)) = &request.body {
            builder = builder.header(CONTENT_TYPE, *content_type).body(body.clone());
        }
        if let Wants::Data(range) = request.wants {
            builder = builder.header(ACCEPT_ENCODING, "identity");
            if let Some(range) = range {
                builder =
                    builder.header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
            }
        }
        let mut response = builder.send().await.map_err(|error| {
            let failure = Failure::transport(request, base, error);
            exchange.unanswered(&failure.error);
            failure
        })?;
        exchange.answered(&response);
        let status = response.status();
        let headers = response.headers().clone();
        let answer = |body, stream| Answer { status, headers, body, stream, server: 0, repeated: false };
        if matches!(request.wants, Wants::Data(_)) && status.is_success() {
            return Ok(answer(Bytes::new(), Some(response)));
        }
        let limit = if status.is_success() { ANSWER_LIMIT } else { ERROR_LIMIT };
        let body = match read_body(&mut response, limit).await {
            Ok(Some(body)) => body,
            // Of an error the status says enough.
            Ok(None) | Err(_) if !status.is_success() => Bytes::new(),
            Ok(None) => {
                let error =
                    failed(request.operation, request.subject, Kind::ServerError, "an answer without end");
                return Err(Failure { error, sent: true });
            }
            Err(error) => return Err(Failure::transport(request, base, error)),
        };
        Ok(answer(body, None))
    }
}

/// A token that was issued just now was refused.
pub(super) fn refused_anew(error: Error) -> Error {
    error.context(
        "does Glance use the same Keystone, and can it reach it? A token that was issued just now is refused",
    )
}

/// Another try after this pause is worth beginning.
fn leaves_time(pause: Duration, deadline: Instant) -> bool {
    // A server may ask for a pause that no clock can count.
    Instant::now().checked_add(pause.saturating_add(LEAST_TRY)).is_some_and(|end| end < deadline)
}

/// A pause when whoever issues tokens is away and there is time for another try; else the error.
async fn wait_for_login(error: Error, deadline: Instant, backoff: &mut Backoff) -> Result<()> {
    let pause = backoff.pause();
    if !error.kind().is_transient() || !leaves_time(pause, deadline) {
        return Err(error);
    }
    tokio::time::sleep(pause).await;
    Ok(())
}

/// The whole body, or `None` when it is longer than `limit`.
pub(super) async fn read_body(
    response: &mut Response,
    limit: usize,
) -> Result<Option<Bytes>, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// Why a try had no answer.
pub(super) struct Failure {
    pub error: Error,
    /// The server may have seen the request.
    pub sent: bool,
}

impl Failure {
    pub(super) fn transport(request: &Request<'_>, base: &Url, error: reqwest::Error) -> Self {
        let sent = !error.is_connect();
        Self { error: transport_error(request.operation, request.subject, base, error), sent }
    }

    fn silent(request: &Request<'_>, base: &Url) -> Self {
        let what = format!("{} does not answer in time", host(base));
        Self { error: failed(request.operation, request.subject, Kind::TimedOut, &what), sent: true }
    }
}

/// No answer came: refused, reset, name unknown, certificate not trusted, too slow.
pub(super) fn transport_error(
    operation: Operation,
    subject: &str,
    base: &Url,
    error: reqwest::Error,
) -> Error {
    let (kind, what) = match distrust(&error) {
        Some(Distrust::Ours(why)) => (Kind::Untrusted, format!("{} is not trusted: {why}", host(base))),
        Some(Distrust::Theirs(why)) => (Kind::Untrusted, format!("{} does not trust us: {why}", host(base))),
        None if error.is_timeout() => (Kind::TimedOut, format!("no answer from {}", host(base))),
        None => (Kind::Unreachable, format!("no answer from {}", host(base))),
    };
    failed(operation, subject, kind, &what).with_source(error.without_url())
}

/// `host:port`, for messages.
pub(super) fn host(base: &Url) -> impl fmt::Display + '_ {
    let port = base.port_or_known_default().unwrap_or_default();
    fmt::from_fn(move |f| write!(f, "{}:{port}", base.host_str().unwrap_or_default()))
}

impl fmt::Debug for Glance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Glance").field("servers", &self.inner.known_servers).finish_non_exhaustive()
    }
}
