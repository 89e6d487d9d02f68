//! When to try again, and how long to wait before.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Tries after the first one, each at the next server: what Nova and Cinder do by default.
pub(super) const RETRIES: u32 = 3;

/// Before the first retry: long enough for a restarted worker to listen again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Pauses grow up to this; the deadline of a request (60 s) bounds their number.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Growing pauses with jitter, so that a thousand hosts do not come back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    round: u32,
}

impl Backoff {
    /// The next pause: between half and all of 0.25 s, 0.5 s, 1 s, ... 5 s.
    pub(super) fn pause(&mut self) -> Duration {
        let full = (FIRST_PAUSE * (1 << self.round.min(5))).min(LONGEST_PAUSE);
        self.round += 1;
        full / 2 + full.mul_f64(random_fraction() / 2.0)
    }
}

/// In `0.0..1.0`. Each `RandomState` has keys of its own, which is randomness enough for spreading load.
pub(super) fn random_fraction() -> f64 {
    let bits = std::hash::RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// This status says that another try, perhaps at another server, may succeed.
///
/// A 500 is a failure of this one request; only reading is worth a second one. 501 and the like never are.
pub(super) fn is_transient(status: StatusCode, reading: bool) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504) || (status.as_u16() == 500 && reading)
}

/// `Retry-After`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // HTTP writes GMT where the mail format has an offset.
    let date = text.replace("GMT", "+0000");
    let when = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(&date).ok()?;
    Some(SystemTime::from(when).duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds() {
        let mut backoff = Backoff::default();
        for full in [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0] {
            let pause = backoff.pause().as_secs_f64();
            assert!((full / 2.0..=full).contains(&pause), "{pause} of {full}");
        }
    }

    #[test]
    fn jitter_differs() {
        let fractions: Vec<f64> = (0..8).map(|_| random_fraction()).collect();
        assert!(fractions.iter().all(|f| (0.0..1.0).contains(f)));
        assert!(fractions.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let header = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(header("7"), Some(Duration::from_secs(7)));
        assert_eq!(header("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(header("Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > Duration::from_secs(1 << 30));
        assert_eq!(header("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_500_is_retried_only_when_reading() {
        assert!(is_transient(StatusCode::INTERNAL_SERVER_ERROR, true));
        assert!(!is_transient(StatusCode::INTERNAL_SERVER_ERROR, false));
        assert!(is_transient(StatusCode::SERVICE_UNAVAILABLE, false));
        assert!(!is_transient(StatusCode::NOT_IMPLEMENTED, true));
    }
}
