//! How long an upload may take, and with it the `close()` that waits for it: T is `--timeout`.
//!
//! - Requests about the record (create, change, show, delete), and the waits between them, take 2 T
//!   in all and T each: enough for one that no server answers, and for deleting what it may have
//!   made. This file keeps that account. The client below has tried them again already, so a record
//!   that cannot be created is the end.
//! - Sending the data takes as long as bytes move. None for T is the end too, without another try.
//! - After the last byte the store may have to join parts or to flatten them: 10 minutes (or T when
//!   that is longer), but only while the server keeps the connection and the record shows the upload under way. When it breaks, T is left to
//!   find out by the record whether the data arrived.
//! - Data whose connection broke are sent again, `--retries` times at most.
//!
//! A server that refuses connections so ends an upload after the tries of one request, in seconds
//! and at the most T; one that is silent in 2 T.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::{Error, Kind, Result};

/// What is left of the time for the requests of one upload.
#[derive(Debug)]
pub(super) struct Allowance {
    /// For one request, T.
    each: Duration,
    /// For all that are still to come.
    left: Mutex<Duration>,
}

impl Allowance {
    /// That of a new upload, where `each` is T.
    pub(super) fn new(each: Duration) -> Self {
        Self { each, left: Mutex::new(each.saturating_mul(2)) }
    }

    /// Waits for `request`, at most as long as is left.
    ///
    /// # Errors
    /// `TimedOut` when there was not enough left.
    pub(super) async fn wait_for<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.left().min(self.each);
        let begun = Instant::now();
        let outcome = timeout(limit, request).await;
        let left = self.left().saturating_sub(begun.elapsed());
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
        outcome.unwrap_or_else(|_| {
            let message = "the upload has waited for Glance as long as --timeout allows";
            Err(Error::new(Kind::TimedOut, message))
        })
    }

    fn left(&self) -> Duration {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waited(allowance: &Allowance, request: impl Future<Output = Result<()>>) -> (bool, u64) {
        let begun = Instant::now();
        let answered = allowance.wait_for(request).await.is_ok();
        (answered, begun.elapsed().as_secs())
    }

    async fn answer_after(seconds: u64) -> Result<()> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_bounded_each_and_together() {
        let allowance = Allowance::new(Duration::from_secs(60));
        assert_eq!(waited(&allowance, answer_after(20)).await, (true, 20));
        assert_eq!(waited(&allowance, std::future::pending()).await, (false, 60));
        assert_eq!(waited(&allowance, answer_after(30)).await, (true, 30));
        assert_eq!(waited(&allowance, answer_after(30)).await, (false, 10));
        assert_eq!(waited(&allowance, std::future::pending()).await, (false, 0));
    }
}
