//! Where the data of an image are stored, as far as the server tells, and their download from there.
//!
//! A location can hold the store's credentials (OSSN-0065): it is never logged, and neither a token nor a certificate of ours goes to it.

use futures_util::StreamExt;
use futures_util::stream;
use reqwest::header::{ACCEPT_ENCODING, RANGE};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use url::Url;

use super::client::{Glance, host, transport_error};
use super::download::{Body, Download, check};
use super::error::{Operation, failed};
use super::record::subject;
use crate::error::{Kind, Result};
use crate::metrics::{Call, PROCESS};
use crate::units::{ByteRange, ImageId};

/// Locations of one image that are looked at: it has one for each store.
const MOST: usize = 32;

impl Glance {
    /// The locations of an image as URLs, in the order of the server; none where it shows them to services only.
    ///
    /// # Errors
    /// Those of a request; `ServerError` for what is no record.
    pub async fn places(&self, id: &ImageId) -> Result<Vec<Url>> {
        let shown = match self.locations(id).await {
            Ok(shown) => shown,
            // Most callers may not ask, and most servers do not know the question.
            Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::NotFound | Kind::NotSupported) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let listed = shown.get("locations").and_then(Value::as_array).into_iter().flatten();
        let listed = listed.filter_map(|location| location.get("url"));
        let mut urls: Vec<Url> = Vec::new();
        for url in listed.chain(shown.get("direct_url")).take(MOST).filter_map(Value::as_str) {
            if let Ok(url) = Url::parse(url)
                && !urls.contains(&url)
            {
                urls.push(url);
            }
        }
        Ok(urls)
    }

    /// Starts a download of an image of `size` bytes, or of a range of them, from an `http:` or `https:` location,
    /// without a token. Checked as [`Glance::download`] checks it; sent once.
    ///
    /// # Errors
    /// As those; `RangeUnsupported` also where the server ignores ranges.
    pub async fn download_at(
        &self,
        url: &Url,
        id: &ImageId,
        size: u64,
        range: ByteRange,
    ) -> Result<Download> {
        let subject = format!("{} at {}", subject(id), host(url));
        let wrong = |kind, what: &str| failed(Operation::Download, &subject, kind, what);
        if range.end > size || range.is_empty() {
            return Err(wrong(Kind::Invalid, &format!("{range} is no part of its {size} bytes")));
        }
        let request = self.inner.elsewhere.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        let request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        let begun = Instant::now();
        let sent = timeout(self.inner.timeout, request.send()).await;
        let status =
            sent.as_ref().ok().and_then(|sent| sent.as_ref().ok()).map(|sent| sent.status().as_u16());
        PROCESS.request(Call::DirectDownload, status, begun.elapsed());
        let latency_ms = begun.elapsed().as_millis() as u64;
        tracing::debug!(image = %id, peer = %host(url), status, latency_ms, %range, "request to a location");
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(transport_error(Operation::Download, &subject, url, error)),
            Err(_) => return Err(wrong(Kind::TimedOut, "no answer in time")),
        };
        let exact_end = check(response.status(), response.headers(), range, size, true)
            .map_err(|(kind, what)| wrong(kind, &what))?;
        let body =
            Body { glance: self.clone(), server: None, response, missing: range.len(), exact_end, subject };
        Ok(Download { range, chunks: stream::unfold(Some(body), Body::next).boxed() })
    }
}
