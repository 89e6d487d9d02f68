//! `--metrics-listen`: `GET /metrics` over HTTP, for Prometheus.
//!
//! Whoever reaches the port may ask: metrics hold no names, ids or addresses. A few connections at a time are served, each
//! one request long and for [`PATIENCE`] at most, so that nobody can keep the mount busy by it.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::error::{Error, Kind, Result};
use crate::fs::ImageFs;
use crate::metrics::Text;

/// Connections at once: two Prometheus servers and a person, twice. Others wait in the queue of the kernel.
const CONNECTIONS: usize = 6;

/// How long one connection lasts at most. Prometheus gives up after 10 s by default.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the head of a request may take to come: it is in the first packet.
const HEAD_PATIENCE: Duration = Duration::from_secs(2);

/// After a failure to accept (too many open files) before the next try.
const REST: Duration = Duration::from_secs(1);

/// A port that is ours, and not served yet.
pub struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Takes the port.
    ///
    /// # Errors
    /// `Config`, with a cure: it is taken, or not ours to take.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Self { listener })
        });
        bound.map_err(|error| {
            let cure = match error.raw_os_error() {
                Some(libc::EADDRINUSE) => {
                    "something listens there already, perhaps another mount: choose another port"
                }
                Some(libc::EACCES) => "ports below 1024 are root's: choose another port",
                Some(libc::EADDRNOTAVAIL) => "this host has no such address: choose one of `ip address`",
                _ => "choose another address",
            };
            let message = format!("--metrics-listen {address} cannot be used; {cure}");
            Error::new(Kind::Config, message).with_source(error)
        })
    }

    /// Serves the metrics of `files` until these are gone, the runtime ends or the result is dropped.
    pub fn serve(self, files: Weak<ImageFs>, runtime: &Runtime) -> AbortOnDropHandle<()> {
        let serving = runtime.spawn(async move {
            let listener = match tokio::net::TcpListener::from_std(self.listener) {
                Ok(listener) => listener,
                Err(error) => return warn!(%error, "metrics are not served"),
            };
            if let Ok(address) = listener.local_addr() {
                info!("metrics are served at http://{address}/metrics");
            }
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        debug!(%error, "a connection for metrics could not be taken");
                        tokio::time::sleep(REST).await;
                        continue;
                    }
                };
                let files = files.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(request, files.clone()));
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
                    http.keep_alive(false).max_buf_size(8 * 1024);
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    match tokio::time::timeout(PATIENCE, connection).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%peer, %error, "a connection for metrics broke"),
                        Err(_) => debug!(%peer, "a connection for metrics took too long"),
                    }
                    drop(place);
                });
            }
        });
        AbortOnDropHandle::new(serving)
    }
}

async fn answer(
    request: Request<Incoming>,
    files: Weak<ImageFs>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    };
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match files.upgrade() {
            Some(files) => {
                let mut response = Response::new(Full::new(files.metrics().await));
                let kind = hyper::header::HeaderValue::from_static(Text::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "the mount is ending\n"),
        },
        (&Method::GET, _) => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"),
        _ => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
            response
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_with_a_cure() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = MetricsServer::bind(address).err().unwrap();
        assert_eq!(error.kind(), Kind::Config);
        let told = error.to_string();
        assert!(
            told.contains(&format!("--metrics-listen {address}")) && told.contains("another port"),
            "{told}"
        );
    }
}
