//! Whether the cache disk is worth trying: after a failure it is left alone for a while.
//!
//! Reads never fail because of the cache. A full, read-only or dying disk only means that blocks are
//! fetched again, and one line in the log.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a disk that failed is left alone. Long enough not to slow every read down by another
/// failure, short enough that space freed by an operator is used soon.
const REST: Duration = Duration::from_secs(60);

/// The state of the cache disk.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// It failed; not tried again before then.
    rest_until: Option<Instant>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk may be used.
    pub(crate) fn is_well(&self) -> bool {
        self.state().rest_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Something did not work while doing `what`.
    pub(crate) fn failed(&self, what: &str, error: &dyn fmt::Display) {
        let mut state = self.state();
        if state.rest_until.is_none() {
            let rest = REST.as_secs();
            tracing::warn!(%error, "{what} failed: the cache disk is left alone for {rest} s at a time, reads go on without it");
        }
        state.rest_until = Some(Instant::now() + REST);
    }

    /// Something was written.
    pub(crate) fn worked(&self) {
        let mut state = self.state();
        if state.rest_until.is_some_and(|until| Instant::now() >= until) {
            state.rest_until = None;
            tracing::info!("the cache disk works again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_failed_is_left_alone_and_tried_again_later() {
        let health = Health::default();
        assert!(health.is_well());
        health.failed("writing", &std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(!health.is_well());
        health.worked();
        assert!(!health.is_well(), "a write begun before the failure proves nothing");
        health.state().rest_until = Some(Instant::now());
        assert!(health.is_well());
        health.worked();
        assert!(health.state().rest_until.is_none());
    }
}
