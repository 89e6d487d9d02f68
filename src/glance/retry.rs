//! When to try again, and how long to wait before.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::error::Kind;

/// Before the first retry: long enough for a restarted worker to listen again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Pauses grow up to this.
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

/// How often a request that failed is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// Until its deadline: nothing works behind that address now, or it says when to come back.
    UntilDeadline,
    /// `--retries` times: it may be about this request.
    AFewTries,
    /// Never.
    Nothing,
}

/// What an answer of this status and these headers is worth.
///
/// A 500 is a failure of this one request; only reading is worth a second one. 501 and the like never are.
pub(super) fn worth(status: StatusCode, headers: &HeaderMap, reading: bool) -> Worth {
    match status.as_u16() {
        502..=504 => Worth::UntilDeadline,
        429 if retry_after(headers).is_some() => Worth::UntilDeadline,
        429 => Worth::AFewTries,
        500 if reading => Worth::AFewTries,
        _ => Worth::Nothing,
    }
}

/// What a try is worth that had no answer: refused, reset, timed out, cut off.
pub(super) fn worth_of_silence(kind: Kind) -> Worth {
    match kind {
        Kind::Unreachable | Kind::TimedOut => Worth::UntilDeadline,
        // Another server may have another certificate, or an answer with an end; waiting mends neither.
        _ => Worth::AFewTries,
    }
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
    fn an_outage_is_waited_for_and_a_failing_request_is_not() {
        let (none, mut later) = (HeaderMap::new(), HeaderMap::new());
        later.insert(RETRY_AFTER, "7".parse().unwrap());
        for (status, headers, reading, expected) in [
            (502, &none, false, Worth::UntilDeadline),
            (503, &none, false, Worth::UntilDeadline),
            (504, &none, true, Worth::UntilDeadline),
            (429, &later, false, Worth::UntilDeadline),
            (429, &none, false, Worth::AFewTries),
            (500, &later, true, Worth::AFewTries),
            (500, &none, false, Worth::Nothing),
            (501, &none, true, Worth::Nothing),
            (413, &later, true, Worth::Nothing),
            (404, &none, true, Worth::Nothing),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(worth(status, headers, reading), expected, "{status} {reading}");
        }
        assert_eq!(worth_of_silence(Kind::Unreachable), Worth::UntilDeadline);
        assert_eq!(worth_of_silence(Kind::Untrusted), Worth::AFewTries);
    }
}
