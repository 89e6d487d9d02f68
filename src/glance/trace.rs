//! What is logged and counted of each request: never its token.
//!
//! Each request is a line at debug, each that failed one at warn, with the operation, the image, the server, how long it took and
//! two ids: ours, which Glance logs as the global id of a request, and that of the server.

use std::fmt;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response};
use tokio::time::Instant;
use url::Url;

use super::client::{AUTH_TOKEN, host};
use super::error::Operation;
use crate::auth::Credential;
use crate::error::{Error, Kind, Result};
use crate::metrics::PROCESS;

pub(super) const REQUEST_ID: &str = "x-openstack-request-id";

/// Headers in which services tell the id of a request; older Nova-like ones have their own.
const TOLD_IDS: [&str; 2] = [REQUEST_ID, "x-compute-request-id"];

/// Characters of an id that are shown: `req-` and a UUID have 40.
const LONGEST_ID: usize = 80;

/// One request on its way.
pub(super) struct Exchange<'a> {
    operation: Operation,
    subject: &'a str,
    method: Method,
    base: &'a Url,
    path: &'a str,
    id: String,
    begun: Instant,
}

impl<'a> Exchange<'a> {
    /// About `subject` (`image <id>`, or empty).
    pub(super) fn new(
        operation: Operation,
        subject: &'a str,
        method: Method,
        base: &'a Url,
        path: &'a str,
    ) -> Self {
        let id = format!("req-{}", uuid::Uuid::new_v4());
        Self { operation, subject, method, base, path, id, begun: Instant::now() }
    }

    /// The request with the headers that every request has.
    pub(super) fn builder(
        &mut self,
        client: &Client,
        credential: &Credential,
    ) -> Result<reqwest::RequestBuilder> {
        let url = self
            .base
            .join(self.path)
            .map_err(|error| Error::new(Kind::Invalid, "a path that fits no URL").with_source(error))?;
        self.begun = Instant::now();
        let mut builder = client
            .request(self.method.clone(), url)
            .header(reqwest::header::ACCEPT, "application/json")
            .header(REQUEST_ID, &self.id);
        if let Some(token) = &credential.token {
            builder = builder.header(AUTH_TOKEN, token.header()?);
        }
        Ok(builder)
    }

    /// Its head is here.
    pub(super) fn answered(&self, response: &Response) {
        let status = response.status().as_u16();
        PROCESS.request(self.operation.call(), Some(status), self.begun.elapsed());
        let server_id = told_id(response.headers());
        // The level of an event cannot be a value.
        macro_rules! tell {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    operation = self.operation.call().word(),
                    image = self.image(),
                    peer = %host(self.base),
                    method = %self.method,
                    path = self.path,
                    status,
                    latency_ms = self.latency(),
                    request_id = self.id,
                    server_request_id = server_id,
                    $message
                )
            };
        }
        if is_failure(self.operation, status) {
            tell!(warn, "request failed");
        } else {
            tell!(debug, "request");
        }
    }

    /// No answer came.
    pub(super) fn unanswered(&self, error: &dyn fmt::Display) {
        PROCESS.request(self.operation.call(), None, self.begun.elapsed());
        tracing::warn!(
            operation = self.operation.call().word(),
            image = self.image(),
            peer = %host(self.base),
            method = %self.method,
            path = self.path,
            latency_ms = self.latency(),
            request_id = self.id,
            %error,
            "request without an answer"
        );
    }

    fn image(&self) -> Option<&str> {
        self.subject.strip_prefix("image ")
    }

    fn latency(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// It tells of something that a person may have to look at. What is asked in order to find out is answered by 404
/// (is there such an image?), 409 (is there such a property?) and 400 (does this store serve ranges?); after a 401 there
/// is a new login, which tells by itself when it fails.
fn is_failure(operation: Operation, status: u16) -> bool {
    match status {
        401 | 404 | 409 => false,
        400 => operation != Operation::Download,
        _ => status >= 400,
    }
}

/// The id by which the server logs this request, as far as it is one: it is a stranger's word.
pub(super) fn told_id(headers: &HeaderMap) -> Option<&str> {
    let told = TOLD_IDS.iter().find_map(|name| headers.get(*name))?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (!told.is_empty() && told.len() <= LONGEST_ID && told.bytes().all(plain)).then_some(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_shown_only_where_it_can_be_one() {
        let told = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            told_id(&headers).map(str::to_owned)
        };
        assert_eq!(told("x-openstack-request-id", "req-1f3c"), Some("req-1f3c".into()));
        assert_eq!(told("x-compute-request-id", "req-1f3c"), Some("req-1f3c".into()));
        for odd in ["", "req 1", "req-1; all is well", "<b>"] {
            assert_eq!(told("x-openstack-request-id", odd), None, "{odd}");
        }
        let long: &'static str = Box::leak("r".repeat(LONGEST_ID + 1).into_boxed_str());
        assert_eq!(told("x-openstack-request-id", long), None);
    }

    #[test]
    fn answers_to_questions_are_no_failures() {
        for (operation, status, failed) in [
            (Operation::Show, 404, false),
            (Operation::Download, 400, false),
            (Operation::Update, 409, false),
            (Operation::List, 401, false),
            (Operation::List, 200, false),
            (Operation::Versions, 300, false),
            (Operation::Update, 400, true),
            (Operation::Download, 403, true),
            (Operation::Show, 500, true),
            (Operation::Upload, 413, true),
        ] {
            assert_eq!(is_failure(operation, status), failed, "{operation:?} {status}");
        }
    }
}
