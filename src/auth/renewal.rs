//! When to get a new token: before expiry, or once after a 401; one login at a time, whoever asks.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use super::last_login::{Description, Facts};
use super::token::{Credential, Token};
use crate::error::{Error, Kind, Result};
use crate::metrics::PROCESS;

/// A token is renewed this long before it expires, so that requests which start now are still good when they arrive
/// and a short outage of Keystone goes unnoticed.
const MARGIN: Duration = Duration::from_secs(300);

/// ... but at most a quarter of its life, so that tokens of seconds are not renewed all the time.
const MARGIN_SHARE: u32 = 4;

/// Logins do not follow each other faster than this, however many requests ask.
const PAUSE: Duration = Duration::from_secs(1);

/// Failed logins come at growing intervals up to this while nothing depends on them yet, and when the credentials
/// were refused: Keystone may lock a user out after a few wrong passwords.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a login gave.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub token: Option<Token>,
    /// How long the token lives; `None`: until the server refuses it.
    pub lifetime: Option<Duration>,
    pub facts: Facts,
}

/// A way to a token that can be gone again and again.
pub(super) trait TokenSource: std::fmt::Debug + Send + Sync {
    /// Logs in anew.
    fn obtain(&self) -> BoxFuture<'_, Result<Session>>;

    /// Who logs in, and at which cloud, as of the last login; `None` when only the secret tells.
    fn description(&self) -> BoxFuture<'_, Option<Description>>;
}

/// The current token and its renewal.
///
/// Lock order: `flight` before `state`; `state` is held for a few instructions and never across an await.
#[derive(Debug)]
pub(super) struct Renewal {
    source: Box<dyn TokenSource>,
    /// A login may take this long.
    deadline: Duration,
    project_id: Option<String>,
    /// What the catalogue of the first login said; empty when the operator gave endpoints.
    catalogue: OnceLock<Vec<Url>>,
    /// Held by the one who logs in.
    flight: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    token: Option<Token>,
    generation: u64,
    obtained: Instant,
    lifetime: Option<Duration>,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    at: Instant,
    /// How many in a row.
    count: u32,
    error: Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Good,
    /// Still good, but soon no more.
    Ageing,
    Expired,
}

impl State {
    fn credential(&self) -> Credential {
        Credential { token: self.token.clone(), generation: self.generation }
    }

    fn freshness(&self) -> Freshness {
        let Some(lifetime) = self.lifetime else { return Freshness::Good };
        let age = self.obtained.elapsed();
        if age >= lifetime {
            Freshness::Expired
        } else if lifetime - age <= MARGIN.min(lifetime / MARGIN_SHARE) {
            Freshness::Ageing
        } else {
            Freshness::Good
        }
    }

    /// The last failure, while it is too early for another try.
    fn too_early(&self) -> Option<&Error> {
        let failure = self.failure.as_ref()?;
        let patient = failure.error.kind() == Kind::NotAuthenticated || self.freshness() == Freshness::Ageing;
        let growth = if patient { 1 << (failure.count - 1).min(5) } else { 1 };
        (failure.at.elapsed() < (PAUSE * growth).min(LONGEST_PAUSE)).then_some(&failure.error)
    }
}

impl Renewal {
    /// Begins with the first login's result.
    pub(super) fn new(source: Box<dyn TokenSource>, first: Session, deadline: Duration) -> Arc<Self> {
        note_end(first.lifetime);
        let state = State {
            token: first.token,
            generation: 1,
            obtained: Instant::now(),
            lifetime: first.lifetime,
            failure: None,
        };
        Self::begin(source, first.facts.project_id, first.facts.endpoints.into(), state, deadline)
    }

    /// Begins without a token, with the facts of an earlier login: this one has just failed with `error`, and the next
    /// comes when a request needs it.
    pub(super) fn without_login(
        source: Box<dyn TokenSource>,
        known: Facts,
        error: Error,
        deadline: Duration,
    ) -> Arc<Self> {
        let state = State {
            token: None,
            generation: 1,
            obtained: Instant::now(),
            lifetime: Some(Duration::ZERO),
            failure: Some(Failure { at: Instant::now(), count: 1, error }),
        };
        Self::begin(source, known.project_id, OnceLock::new(), state, deadline)
    }

    fn begin(
        source: Box<dyn TokenSource>,
        project_id: Option<String>,
        catalogue: OnceLock<Vec<Url>>,
        state: State,
        deadline: Duration,
    ) -> Arc<Self> {
        let state = Mutex::new(state);
        Arc::new(Self { source, deadline, project_id, catalogue, flight: Arc::default(), state })
    }

    /// The image endpoints of the catalogue; `None` before the first login, and when the operator gave others.
    pub(super) fn catalogue(&self) -> Option<&[Url]> {
        self.catalogue.get().map(Vec::as_slice).filter(|endpoints| !endpoints.is_empty())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that is good now. Within the margin a renewal begins in the background and the old token goes on;
    /// after expiry everyone waits for one login.
    pub(super) async fn credential(self: &Arc<Self>) -> Result<Credential> {
        let (credential, freshness) = {
            let state = self.state();
            (state.credential(), state.freshness())
        };
        match freshness {
            Freshness::Good => Ok(credential),
            Freshness::Ageing => {
                if let Ok(flight) = Arc::clone(&self.flight).try_lock_owned()
                    && self.state().too_early().is_none()
                {
                    let renewal = Arc::clone(self);
                    tokio::spawn(async move {
                        // A failure is logged and kept in the state; the old token is used up.
                        let _ = renewal.log_in().await;
                        drop(flight);
                    });
                }
                Ok(credential)
            }
            Freshness::Expired => self.renew(credential.generation).await,
        }
    }

    /// The server refused the token of `generation`.
    pub(super) async fn renew_after(&self, generation: u64) -> Result<Credential> {
        if self.is_new(generation) {
            return Err(Error::new(
                Kind::NotAuthenticated,
                "the server refuses a token that was issued just now: \
                 does Glance use the same Keystone, and can it reach it?",
            ));
        }
        self.renew(generation).await
    }

    /// The token of `generation` is so new that no other would be better.
    pub(super) fn is_new(&self, generation: u64) -> bool {
        let state = self.state();
        state.generation == generation && state.obtained.elapsed() < PAUSE
    }

    /// One login for all who hold the token of `generation`.
    async fn renew(&self, generation: u64) -> Result<Credential> {
        let _flight = self.flight.lock().await;
        {
            let state = self.state();
            if state.generation != generation {
                return Ok(state.credential());
            }
            if let Some(error) = state.too_early() {
                return Err(error.duplicate());
            }
        }
        self.log_in().await
    }

    /// The login itself; the caller holds `flight`.
    async fn log_in(&self) -> Result<Credential> {
        let begun = Instant::now();
        let outcome = match tokio::time::timeout(self.deadline, self.source.obtain()).await {
            Ok(outcome) => outcome.and_then(|session| self.same_project(session)),
            Err(_) => Err(Error::new(Kind::TimedOut, "no new token within the deadline")),
        };
        let mut state = self.state();
        match outcome {
            Ok(session) => {
                // Before anyone can have the token: it goes where this says.
                self.catalogue.get_or_init(|| session.facts.endpoints);
                state.token = session.token;
                state.lifetime = session.lifetime;
                note_end(session.lifetime);
                state.obtained = begun;
                state.generation += 1;
                if state.failure.take().is_some() {
                    tracing::info!("logging in works again");
                }
                tracing::debug!(generation = state.generation, "token renewed");
                Ok(state.credential())
            }
            Err(error) => {
                let count = state.failure.as_ref().map_or(0, |failure| failure.count) + 1;
                // Requests wait and ask again about once a second.
                match count {
                    1 => tracing::warn!(%error, "the token could not be renewed"),
                    _ => tracing::debug!(%error, count, "the token could still not be renewed"),
                }
                state.failure = Some(Failure { at: Instant::now(), count, error: error.duplicate() });
                Err(error)
            }
        }
    }

    /// What is cached belongs to the project of the first login: no other may read it through this mount.
    fn same_project(&self, session: Session) -> Result<Session> {
        if session.facts.project_id == self.project_id {
            return Ok(session);
        }
        let cure = "unmount and mount again to change it";
        Err(Error::new(Kind::Config, format!("the credentials are now those of another project: {cure}")))
    }
}

/// When the token that came just now ends, for `.glancefs/metrics`.
fn note_end(lifetime: Option<Duration>) {
    let end = lifetime.and_then(|left| std::time::SystemTime::now().checked_add(left));
    let end = end.and_then(|end| end.duration_since(std::time::UNIX_EPOCH).ok());
    PROCESS.token_end.set(end.map_or(0, |end| end.as_secs()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Gives token after token of one lifetime, unless told to fail.
    #[derive(Debug, Default)]
    struct Script {
        logins: AtomicU32,
        failure: Mutex<Option<Kind>>,
        project: Mutex<Option<String>>,
        lifetime: Option<Duration>,
        takes: Duration,
    }

    impl TokenSource for Arc<Script> {
        fn obtain(&self) -> BoxFuture<'_, Result<Session>> {
            Box::pin(async move {
                tokio::time::sleep(self.takes).await;
                let number = self.logins.fetch_add(1, Ordering::SeqCst) + 1;
                if let Some(kind) = *self.failure.lock().unwrap() {
                    return Err(Error::new(kind, "scripted"));
                }
                Ok(Session {
                    token: Some(Token::new(format!("token-{number}"))),
                    lifetime: self.lifetime,
                    facts: Facts {
                        project_id: self.project.lock().unwrap().clone(),
                        endpoints: vec![Url::parse(&format!("http://glance-{number}/")).unwrap()],
                    },
                })
            })
        }

        fn description(&self) -> BoxFuture<'_, Option<Description>> {
            Box::pin(async { None })
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    async fn start(lifetime: Option<u64>, takes: Duration) -> (Arc<Script>, Arc<Renewal>) {
        let script = Arc::new(Script { lifetime: lifetime.map(seconds), takes, ..Script::default() });
        let first = script.obtain().await.unwrap();
        let renewal = Renewal::new(Box::new(Arc::clone(&script)), first, seconds(60));
        (script, renewal)
    }

    fn text(credential: &Credential) -> String {
        credential.token.as_ref().unwrap().header().unwrap().to_str().unwrap().to_owned()
    }

    fn logins(script: &Script) -> u32 {
        script.logins.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_of_an_hour_is_renewed_five_minutes_before_its_end() {
        let (script, renewal) = start(Some(3600), Duration::ZERO).await;
        tokio::time::sleep(seconds(3299)).await;
        assert_eq!(text(&renewal.credential().await.unwrap()), "token-1");
        tokio::time::sleep(seconds(2)).await;
        assert_eq!(logins(&script), 1);
        assert_eq!(text(&renewal.credential().await.unwrap()), "token-1", "nobody waits for it");
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(text(&renewal.credential().await.unwrap()), "token-2");
        assert_eq!(logins(&script), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_of_five_seconds_lives_three_quarters_of_them() {
        let (script, renewal) = start(Some(5), Duration::ZERO).await;
        for _ in 0..60 {
            tokio::time::sleep(seconds(1)).await;
            let asked = Instant::now();
            renewal.credential().await.unwrap();
            assert_eq!(asked.elapsed(), Duration::ZERO);
        }
        assert!((12..=20).contains(&logins(&script)), "{}", logins(&script));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_waiters_cause_one_login() {
        let (script, renewal) = start(None, seconds(2)).await;
        tokio::time::sleep(seconds(5)).await;
        let waiters: Vec<_> = (0..100)
            .map(|_| {
                let renewal = Arc::clone(&renewal);
                tokio::spawn(async move { renewal.renew_after(1).await })
            })
            .collect();
        for waiter in waiters {
            let credential = waiter.await.unwrap().unwrap();
            assert_eq!((text(&credential).as_str(), credential.generation), ("token-2", 2));
        }
        assert_eq!(logins(&script), 2);
        assert_eq!(
            renewal.renew_after(1).await.unwrap().generation,
            2,
            "a late 401 of the old token logs in no more"
        );
        assert_eq!(logins(&script), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_valid_token_is_used_up_while_keystone_is_down() {
        let (script, renewal) = start(Some(3600), Duration::ZERO).await;
        *script.failure.lock().unwrap() = Some(Kind::Unreachable);
        tokio::time::sleep(seconds(3301)).await;
        for _ in 0..290 {
            assert_eq!(text(&renewal.credential().await.unwrap()), "token-1");
            tokio::time::sleep(seconds(1)).await;
        }
        assert!(logins(&script) < 20, "tried at growing intervals, not {} times", logins(&script));
        tokio::time::sleep(seconds(60)).await;
        assert_eq!(renewal.credential().await.unwrap_err().kind(), Kind::Unreachable);
        *script.failure.lock().unwrap() = None;
        tokio::time::sleep(seconds(1)).await;
        assert!(renewal.credential().await.is_ok(), "a second after Keystone is back");
    }

    #[tokio::test(start_paused = true)]
    async fn failing_logins_do_not_hammer_keystone() {
        let (script, renewal) = start(Some(10), Duration::ZERO).await;
        *script.failure.lock().unwrap() = Some(Kind::Unreachable);
        tokio::time::sleep(seconds(11)).await;
        for _ in 0..1000 {
            assert_eq!(renewal.credential().await.unwrap_err().kind(), Kind::Unreachable);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!((8..=12).contains(&logins(&script)), "10 s, one a second, not {}", logins(&script));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_is_tried_ever_more_rarely() {
        let (script, renewal) = start(Some(10), Duration::ZERO).await;
        *script.failure.lock().unwrap() = Some(Kind::NotAuthenticated);
        tokio::time::sleep(seconds(11)).await;
        for _ in 0..600 {
            assert_eq!(renewal.credential().await.unwrap_err().kind(), Kind::NotAuthenticated);
            tokio::time::sleep(seconds(1)).await;
        }
        assert!(logins(&script) < 30, "{}", logins(&script));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_token_that_is_refused_is_not_replaced_at_once() {
        let (script, renewal) = start(None, Duration::ZERO).await;
        assert_eq!(renewal.renew_after(1).await.unwrap_err().kind(), Kind::NotAuthenticated);
        assert_eq!(logins(&script), 1);
        tokio::time::sleep(seconds(2)).await;
        assert_eq!(renewal.renew_after(1).await.unwrap().generation, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_has_a_deadline() {
        let (_script, renewal) = start(None, seconds(100)).await;
        tokio::time::sleep(seconds(5)).await;
        assert_eq!(renewal.renew_after(1).await.unwrap_err().kind(), Kind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_of_another_project_are_refused() {
        let (script, renewal) = start(None, Duration::ZERO).await;
        *script.project.lock().unwrap() = Some("another".into());
        tokio::time::sleep(seconds(5)).await;
        assert_eq!(renewal.renew_after(1).await.unwrap_err().kind(), Kind::Config);
    }

    /// One that begins without a login, for `project`.
    fn start_without(project: Option<&str>) -> (Arc<Script>, Arc<Renewal>) {
        let script = Arc::new(Script::default());
        *script.failure.lock().unwrap() = Some(Kind::Unreachable);
        let known = Facts { project_id: project.map(str::to_owned), endpoints: Vec::new() };
        let error = Error::new(Kind::Unreachable, "the first login");
        let renewal = Renewal::without_login(Box::new(Arc::clone(&script)), known, error, seconds(60));
        (script, renewal)
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_began_without_a_login_logs_in_when_it_can() {
        let (script, renewal) = start_without(None);
        let error = renewal.credential().await.unwrap_err();
        assert!(error.to_string().contains("the first login"), "told at once: {error}");
        assert_eq!(logins(&script), 0);
        for _ in 0..1000 {
            assert_eq!(renewal.credential().await.unwrap_err().kind(), Kind::Unreachable);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!((8..=11).contains(&logins(&script)), "10 s, one a second, not {}", logins(&script));
        assert_eq!(renewal.catalogue(), None);

        *script.failure.lock().unwrap() = None;
        tokio::time::sleep(seconds(1)).await;
        let number = logins(&script) + 1;
        assert_eq!(text(&renewal.credential().await.unwrap()), format!("token-{number}"));
        assert_eq!(renewal.catalogue().unwrap()[0].as_str(), format!("http://glance-{number}/"));
        tokio::time::sleep(seconds(5)).await;
        renewal.credential().await.unwrap();
        assert_eq!(logins(&script), number, "a token without an end is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_began_without_a_login_refuses_another_project() {
        let (script, renewal) = start_without(Some("ours"));
        *script.failure.lock().unwrap() = None;
        *script.project.lock().unwrap() = Some("another".into());
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(renewal.credential().await.unwrap_err().kind(), Kind::Config);
        assert_eq!(renewal.catalogue(), None, "nor is its catalogue believed");
        *script.project.lock().unwrap() = Some("ours".into());
        tokio::time::sleep(seconds(1)).await;
        assert!(renewal.credential().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_began_without_a_login_tries_a_wrong_password_ever_more_rarely() {
        let (script, renewal) = start_without(None);
        *script.failure.lock().unwrap() = Some(Kind::NotAuthenticated);
        tokio::time::sleep(seconds(1)).await;
        for _ in 0..600 {
            assert_eq!(renewal.credential().await.unwrap_err().kind(), Kind::NotAuthenticated);
            tokio::time::sleep(seconds(1)).await;
        }
        assert!(logins(&script) < 30, "{}", logins(&script));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_goes_away_leaves_the_login_to_the_next() {
        let (_script, renewal) = start(None, seconds(3)).await;
        tokio::time::sleep(seconds(5)).await;
        assert!(tokio::time::timeout(seconds(1), renewal.renew_after(1)).await.is_err());
        assert_eq!(renewal.renew_after(1).await.unwrap().generation, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn debug_shows_no_token() {
        let (_script, renewal) = start(None, Duration::ZERO).await;
        assert!(!format!("{renewal:?}").contains("token-1"));
    }
}
