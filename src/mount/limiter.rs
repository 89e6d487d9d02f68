//! Repeated warnings: the first is logged, the others are counted for a minute and told in one line.
//!
//! A server that is away makes hundreds of requests fail in the same way. What is the same: the place in the code, the
//! words of the error, and all fields but those that differ each time ([`VARYING`]). Only warnings are held back; an error is a defect, and
//! what is below warnings was asked for.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::metrics::PROCESS;

/// How long others of a kind are held back.
const WINDOW: Duration = Duration::from_secs(60);

/// Kinds that are known at once. Beyond, the oldest is told of and forgotten.
const KINDS: usize = 256;

/// How often it is looked what is to be told.
const LOOK: Duration = Duration::from_secs(5);

/// Fields whose values say nothing about the kind of a warning.
const VARYING: [&str; 5] = ["latency_ms", "request_id", "server_request_id", "missing", "range"];

/// The same of what the layer [`REQUESTS`] tells: a server that is away fails requests about any image.
const VARYING_OF_REQUESTS: [&str; 3] = ["image", "path", "subject"];
const REQUESTS: &str = "glancefs::glance";

/// Bytes of a warning that its summary repeats.
const SHOWN: usize = 200;

/// The target of summaries, which are never held back.
const TARGET: &str = "glancefs::repeated";

/// Decides which warnings are logged; cheap to clone.
#[derive(Clone)]
pub(super) struct Limiter {
    state: Arc<Mutex<State>>,
    window: Duration,
}

#[derive(Default)]
struct State {
    kinds: HashMap<u64, Repeated>,
    /// Told by the thread: not where they were found, which is in the middle of another event.
    over: Vec<Repeated>,
}

/// A warning that was logged.
struct Repeated {
    since: Instant,
    /// How many more came.
    more: u64,
    text: String,
}

impl Limiter {
    /// One that tells what it held back from a thread of its own, for as long as it lives.
    pub(super) fn start() -> Self {
        let limiter = Self::new(WINDOW);
        let state = Arc::downgrade(&limiter.state);
        let teller = std::thread::Builder::new().name("glancefs-log".into());
        // Without it nothing is lost but the numbers.
        let _ = teller.spawn(move || tell_now_and_then(&state, WINDOW));
        limiter
    }

    fn new(window: Duration) -> Self {
        Self { state: Arc::default(), window }
    }

    /// Whether a warning of this kind is to be logged now; `text` says what it is.
    fn admits(&self, kind: u64, text: String) -> bool {
        let mut state = lock(&self.state);
        let State { kinds, over } = &mut *state;
        if let Some(known) = kinds.get_mut(&kind)
            && known.since.elapsed() < self.window
        {
            known.more += 1;
            PROCESS.lines_left_out.add(1);
            return false;
        }
        let mut ended = kinds.remove(&kind);
        if ended.is_none() && kinds.len() >= KINDS {
            let oldest = kinds.iter().min_by_key(|(_, known)| known.since).map(|(kind, _)| *kind);
            ended = oldest.and_then(|kind| kinds.remove(&kind));
        }
        // What nobody fetches in time is not worth more memory.
        over.extend(ended.filter(|ended| ended.more > 0 && over.len() < KINDS));
        kinds.insert(kind, Repeated { since: Instant::now(), more: 0, text });
        true
    }
}

/// A layer that gets what the limiter admits. A filter of `tracing_subscriber` would be shorter, but those are asked once
/// for each place in the code, not for each event.
pub(super) struct Limited<L> {
    inner: L,
    limiter: Limiter,
}

impl Limiter {
    /// `layer`, with repeated warnings kept from it.
    pub(super) fn around<L>(self, layer: L) -> Limited<L> {
        Limited { inner: layer, limiter: self }
    }

    fn admits_event(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() != Level::WARN || metadata.target() == TARGET {
            return true;
        }
        let of_request = metadata.target().starts_with(REQUESTS);
        let mut kind = KindOf { hasher: DefaultHasher::new(), text: String::new(), of_request };
        metadata.callsite().hash(&mut kind.hasher);
        event.record(&mut kind);
        self.admits(kind.hasher.finish(), kind.text)
    }
}

impl<S, L> Layer<S> for Limited<L>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    L: Layer<S>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.limiter.admits_event(event) {
            self.inner.on_event(event, context);
        }
    }

    fn on_layer(&mut self, subscriber: &mut S) {
        self.inner.on_layer(subscriber);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.inner.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.inner.on_record(id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.inner.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.inner.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.inner.on_close(id, context);
    }
}

/// What makes a warning the same as another, and how a summary names it.
struct KindOf {
    hasher: DefaultHasher,
    text: String,
    of_request: bool,
}

impl Visit for KindOf {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        if VARYING.contains(&name) || self.of_request && VARYING_OF_REQUESTS.contains(&name) {
            return;
        }
        let shown = format!("{value:?}");
        match name {
            // Its numbers are ids, offsets and times.
            "error" => {
                let plain = |word: &&str| !word.contains(|c: char| c.is_ascii_digit());
                shown.split_whitespace().filter(plain).for_each(|word| word.hash(&mut self.hasher));
            }
            _ => shown.hash(&mut self.hasher),
        }
        let blank = if self.text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = match name {
            "message" => write!(self.text, "{blank}{shown}"),
            name => write!(self.text, "{blank}{name}={shown}"),
        };
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell_now_and_then(state: &Weak<Mutex<State>>, window: Duration) {
    loop {
        std::thread::sleep(LOOK);
        let Some(state) = state.upgrade() else { return };
        tell_over(&state, window);
    }
}

/// Tells of those whose time is over, and forgets them.
fn tell_over(state: &Mutex<State>, window: Duration) {
    let over: Vec<Repeated> = {
        let State { kinds, over } = &mut *lock(state);
        let ended = kinds.extract_if(|_, known| known.since.elapsed() >= window).map(|(_, known)| known);
        over.drain(..).chain(ended).collect()
    };
    // Not under the lock, which each event takes.
    over.iter().for_each(tell);
}

fn tell(repeated: &Repeated) {
    let Repeated { more, text, .. } = repeated;
    if *more > 0 {
        let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at);
        let times = if *more == 1 { "once" } else { &format!("{more} times") };
        warn!(target: TARGET, "{times} more in the last minute: {}", &text[..end]);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What is logged of what `act` warns of, and what the summaries say then.
    fn logged(window: Duration, act: impl FnOnce()) -> (String, String) {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (lines, limiter) = (Lines::default(), Limiter::new(window));
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(limiter.clone().around(layer));
        let taken = |lines: &Lines| String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            act();
            let said = taken(&lines);
            tell_over(&limiter.state, Duration::ZERO);
            (said, taken(&lines))
        })
    }

    #[test]
    fn of_the_same_warning_one_is_logged_and_the_others_are_counted() {
        let (said, summed) = logged(WINDOW, || {
            for number in 0..8 {
                warn!(peer = "h:1", status = 503, latency_ms = number, request_id = number, "request failed");
            }
            warn!(peer = "h:2", status = 503, "another peer");
        });
        assert_eq!(said.lines().count(), 2, "{said}");
        assert_eq!(summed.lines().count(), 1, "{summed}");
        assert!(summed.contains("7 times more in the last minute: request failed"), "{summed}");
        assert!(summed.contains("h:1") && !summed.contains("latency"), "{summed}");
    }

    #[test]
    fn another_peer_or_status_is_another_kind_and_after_a_minute_it_is_told_again() {
        let fail = |status: u16| warn!(peer = "h:1", status, "request failed");
        let (said, _) = logged(WINDOW, || [500, 503, 500].into_iter().for_each(fail));
        assert_eq!(said.lines().count(), 2, "{said}");
        let (said, _) = logged(Duration::ZERO, || [500, 500, 500].into_iter().for_each(fail));
        assert_eq!(said.lines().count(), 3, "{said}");
    }

    #[test]
    fn another_image_is_another_kind_except_of_requests_and_ids_in_an_error_are_not() {
        let (said, _) = logged(WINDOW, || {
            for image in ["one", "two", "one"] {
                warn!(image, error = format!("HTTP 404; request req-{image}7"), "cannot read");
                warn!(target: "glancefs::glance::trace", image, path = image, "request failed");
            }
            warn!(image = "one", error = "the disk is full", "cannot read");
        });
        let lines = |what: &str| said.lines().filter(|line| line.contains(what)).count();
        assert_eq!((lines("cannot read"), lines("request failed")), (3, 1), "{said}");
    }

    #[test]
    fn errors_and_information_are_never_held_back() {
        let (said, summed) = logged(WINDOW, || {
            for _ in 0..3 {
                tracing::error!("a defect");
                tracing::info!("news");
            }
        });
        assert_eq!((said.lines().count(), summed.as_str()), (6, ""));
    }

    #[test]
    fn the_table_is_bounded() {
        let limiter = Limiter::new(WINDOW);
        for kind in 0..3 * KINDS as u64 {
            assert!(limiter.admits(kind, String::new()));
        }
        assert_eq!(lock(&limiter.state).kinds.len(), KINDS);
    }
}
