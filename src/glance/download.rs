//! Image data on their way here, checked at every step.
//!
//! A server may claim ranges it does not serve, promise more than it has, or send more than it promised. What leaves
//! this file is exactly the bytes that were asked for, or an error.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use reqwest::{Method, Response, StatusCode};
use tokio::time::timeout;

use super::client::{Glance, Request, Wants};
use super::error::{Operation, failed};
use super::record::{path, subject};
use super::trace::told_id;
use crate::error::{Kind, Result};
use crate::units::{ByteRange, ImageId};

/// How long the end of a chunked body may take after its last byte: it is in the same or the next packet.
const END_WAIT: Duration = Duration::from_secs(5);

/// Image data on their way: `range` says which bytes come, `chunks` gives them in order.
pub struct Download {
    /// The bytes that will come: as asked for, or the whole image.
    pub range: ByteRange,
    /// Exactly `range`, or an error as the last item.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

impl Glance {
    /// Starts a download of an active image of `size` bytes: of `range`, or of everything.
    ///
    /// Status, `Content-Range` and lengths are checked; a body that ends early is an `Integrity`
    /// or `Unreachable` error of the stream, never a short end. A stream that gives no byte for the
    /// configured timeout ends with `TimedOut`. How many run at once is up to the caller.
    ///
    /// # Errors
    /// `RangeUnsupported` when the store cannot serve ranges, `Integrity` when the server has no data of the image or
    /// answers with other bytes than asked for, `Forbidden` for a deactivated image or a role that may not download.
    pub async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        let path = format!("{}/file", path(id));
        let Some(prefer) = self.inner.prefer.as_ref().filter(|_| size > 0) else {
            return self.download_from(&path, id, size, range).await;
        };
        self.ask_about_preference(prefer, &path, &subject(id)).await;
        let Some(preferring) = prefer.path(&path) else {
            return self.download_from(&path, id, size, range).await;
        };
        match self.download_from(&preferring, id, size, range).await {
            Err(error) if error.kind() == Kind::NotSupported => {
                prefer.give_up(&error.to_string());
                self.download_from(&path, id, size, range).await
            }
            begun => begun,
        }
    }

    /// The same from `path`, for the other version of the API.
    pub(super) async fn download_from(
        &self,
        path: &str,
        id: &ImageId,
        size: u64,
        range: Option<ByteRange>,
    ) -> Result<Download> {
        let subject = subject(id);
        let wrong = |kind, what: &str| failed(Operation::Download, &subject, kind, what);
        let wanted = range.unwrap_or(ByteRange::new(0, size));
        if wanted.end > size {
            return Err(wrong(Kind::Invalid, &format!("{wanted} is beyond its {size} bytes")));
        }
        if wanted.is_empty() {
            return Ok(Download { range: wanted, chunks: stream::empty().boxed() });
        }
        let mut request = Request::new(Operation::Download, Method::GET, path, &subject);
        request.wants = Wants::Data(range);
        let mut asked_again = false;
        let (response, server, exact_end) = loop {
            let mut answer = self.exchange(&request).await?;
            let Some(response) = answer.stream.take() else { return Err(answer.error(&request)) };
            match check(answer.status, response.headers(), wanted, size, range.is_some()) {
                Ok(exact_end) => break (response, answer.server, exact_end),
                // That ranges are ignored is remembered of a whole store: a single answer may be a fault on the way.
                Err((Kind::RangeUnsupported, _)) if !asked_again => asked_again = true,
                Err((kind, what)) => {
                    let id =
                        told_id(response.headers()).map(|id| format!("; request {id}")).unwrap_or_default();
                    return Err(wrong(kind, &format!("{what}{id}")));
                }
            }
        };
        let body = Body {
            glance: self.clone(),
            server: Some(server),
            response,
            missing: wanted.len(),
            exact_end,
            subject,
        };
        Ok(Download { range: wanted, chunks: stream::unfold(Some(body), Body::next).boxed() })
    }
}

/// The head of an answer promises exactly `wanted`. Tells whether the length is fixed, so that the end needs no look.
pub(super) fn check(
    status: StatusCode,
    headers: &HeaderMap,
    wanted: ByteRange,
    size: u64,
    ranged: bool,
) -> Result<bool, (Kind, String)> {
    let lie = |what: String| Err((Kind::Integrity, what));
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return lie("the answer is compressed although that was not asked for".into());
    }
    match status {
        StatusCode::PARTIAL_CONTENT if ranged => {
            let said = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            match content_range(said) {
                Some((range, total)) if range == wanted && total.is_none_or(|total| total == size) => {}
                _ => return lie(format!("asked for bytes {wanted} of {size}, got {said:?}")),
            }
        }
        // Asked for a part: all of it would have to be read for that, which is what streaming is for.
        StatusCode::OK if wanted != ByteRange::new(0, size) => {
            return Err((Kind::RangeUnsupported, "the server ignores ranges".into()));
        }
        StatusCode::OK => {}
        // Glance answers so when the store has lost the data of an active image.
        StatusCode::NO_CONTENT => return lie("the server has no data of it".into()),
        other => return lie(format!("an answer that fits no download (HTTP {})", other.as_u16())),
    }
    // Absent when the body is chunked, as the first full download through Glance's image cache is.
    let Some(length) = headers.get(CONTENT_LENGTH) else { return Ok(false) };
    match length.to_str().ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(length) if length == wanted.len() => Ok(true),
        _ => lie(format!("asked for {} bytes, the server promises {length:?}", wanted.len())),
    }
}

/// `bytes 0-99/1000` or `bytes 0-99/*`: the bytes and the size of the whole.
pub(super) fn content_range(text: &str) -> Option<(ByteRange, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    (first <= last).then_some((ByteRange::new(first, last.checked_add(1)?), total))
}

/// A body of which `missing` bytes are still to come.
pub(super) struct Body {
    pub glance: Glance,
    /// Which of Glance's servers it comes from; `None`: from another.
    pub server: Option<usize>,
    pub response: Response,
    pub missing: u64,
    pub exact_end: bool,
    pub subject: String,
}

impl Body {
    /// The next chunk; after an error, nothing more. Dropping the body unfinished closes its connection.
    pub(super) async fn next(state: Option<Self>) -> Option<(Result<Bytes>, Option<Self>)> {
        let mut body = state?;
        if body.missing == 0 {
            let error = body.end().await?;
            return Some((Err(error), None));
        }
        match body.chunk().await {
            Ok(chunk) => Some((Ok(chunk), Some(body))),
            Err(error) => {
                let (missing, subject) = (body.missing, &body.subject);
                tracing::warn!(operation = "download", subject, missing, %error, "a transfer was cut off");
                // The rest is asked of another server, where there is one.
                if let Some(server) = body.server {
                    body.glance.inner.server_failed(server);
                }
                Some((Err(error), None))
            }
        }
    }

    async fn chunk(&mut self) -> Result<Bytes> {
        let wrong = |kind, what: &str| failed(Operation::Download, &self.subject, kind, what);
        let stall = self.glance.inner.timeout;
        match timeout(stall, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) if chunk.len() as u64 <= self.missing => {
                self.missing -= chunk.len() as u64;
                Ok(chunk)
            }
            Ok(Ok(Some(_))) => Err(wrong(Kind::Integrity, "the server sends more than it promised")),
            Ok(Ok(None)) => {
                Err(wrong(Kind::Integrity, &format!("the body ends {} bytes too early", self.missing)))
            }
            Ok(Err(error)) => {
                let what = format!("the connection broke with {} bytes still to come", self.missing);
                Err(wrong(Kind::Unreachable, &what).with_source(error.without_url()))
            }
            Err(_) => Err(wrong(Kind::TimedOut, &format!("no byte came for {} s", stall.as_secs()))),
        }
    }

    /// All bytes are here; `None` if really nothing follows. Reading the end also frees the connection for the next.
    async fn end(&mut self) -> Option<crate::error::Error> {
        if self.exact_end {
            return None;
        }
        match timeout(END_WAIT, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) if !chunk.is_empty() => {
                let what = "the body is longer than the image";
                Some(failed(Operation::Download, &self.subject, Kind::Integrity, what))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((ByteRange::new(0, 100), Some(1000))));
        assert_eq!(content_range("bytes 5-5/*"), Some((ByteRange::new(5, 6), None)));
        for text in [
            "",
            "bytes */1000",
            "bytes 9-5/10",
            "items 0-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes -5/10",
        ] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn the_head_of_an_answer_must_promise_what_was_asked_for() {
        let headers = |list: &[(&'static str, &str)]| {
            list.iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        let asked = ByteRange::new(10, 20);
        let partial = |list: &[(&'static str, &str)]| {
            check(StatusCode::PARTIAL_CONTENT, &headers(list), asked, 100, true).map_err(|(kind, _)| kind)
        };
        assert_eq!(partial(&[("content-range", "bytes 10-19/100"), ("content-length", "10")]), Ok(true));
        assert_eq!(partial(&[("content-range", "bytes 10-19/*")]), Ok(false));
        for lies in [
            &[("content-length", "10")][..],
            &[("content-range", "bytes 0-9/100")],
            &[("content-range", "bytes 10-29/100")],
            &[("content-range", "bytes 10-19/101")],
            &[("content-range", "bytes 10-19/100"), ("content-length", "100")],
            &[("content-range", "bytes 10-19/100"), ("content-encoding", "gzip")],
        ] {
            assert_eq!(partial(lies), Err(Kind::Integrity), "{lies:?}");
        }
        let whole = ByteRange::new(0, 100);
        let full = |status, wanted, ranged| {
            check(status, &headers(&[("content-length", "100")]), wanted, 100, ranged)
                .map_err(|(kind, _)| kind)
        };
        assert_eq!(full(StatusCode::OK, whole, false), Ok(true));
        assert_eq!(
            full(StatusCode::OK, whole, true),
            Ok(true),
            "a range of everything may be answered with everything"
        );
        assert_eq!(full(StatusCode::OK, asked, true), Err(Kind::RangeUnsupported));
        assert_eq!(full(StatusCode::NO_CONTENT, whole, false), Err(Kind::Integrity));
        assert_eq!(full(StatusCode::PARTIAL_CONTENT, whole, false), Err(Kind::Integrity));
    }
}
