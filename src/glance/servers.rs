//! Several API servers: which one is asked, and which is left out because it failed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::retry::random_fraction;

/// A server that failed is left out this long; each further failure doubles it.
const FIRST_REST: Duration = Duration::from_secs(30);

/// ... up to this, so that a server that came back is found within minutes.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// The servers of one cloud, in an order of this mount's own.
///
/// Requests stay with one server until it fails, since a warm connection and that server's token cache are worth
/// something; then the next takes over. When all are left out, they are asked in turn all the same.
#[derive(Debug)]
pub(super) struct Servers {
    urls: Vec<Url>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: usize,
    health: Vec<Health>,
}

#[derive(Debug, Clone, Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Servers {
    /// Shuffles a copy of `urls`, so that many hosts with one configuration spread over the servers.
    pub(super) fn new(urls: &[Url]) -> Self {
        let mut urls = urls.to_vec();
        for last in (1..urls.len()).rev() {
            let other = (random_fraction() * (last + 1) as f64) as usize;
            urls.swap(last, other.min(last));
        }
        Self::in_order(urls)
    }

    fn in_order(urls: Vec<Url>) -> Self {
        let health = vec![Health::default(); urls.len()];
        Self { urls, state: Mutex::new(State { current: 0, health }) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server for the next request: its number, for [`failed`](Self::failed), and its address.
    pub(super) fn pick(&self) -> (usize, &Url) {
        let mut state = self.state();
        let now = Instant::now();
        let count = self.urls.len();
        let rests = |index: usize| state.health[index].rests_until.is_some_and(|until| until > now);
        let mut order = (0..count).map(|step| (state.current + step) % count);
        let chosen = order.find(|&index| !rests(index)).unwrap_or(state.current);
        state.current = chosen;
        (chosen, &self.urls[chosen])
    }

    /// No usable answer came from the server `index`.
    pub(super) fn failed(&self, index: usize) {
        self.pass_over(index);
        let mut state = self.state();
        let health = &mut state.health[index];
        // Requests that failed together count as one failure.
        if health.rests_until.is_none_or(|until| until <= Instant::now()) {
            let rest = (FIRST_REST * (1 << health.failures.min(4))).min(LONGEST_REST);
            health.failures += 1;
            health.rests_until = Some(Instant::now() + rest);
            if self.urls.len() > 1 {
                tracing::warn!(server = %self.urls[index], seconds = rest.as_secs(), "server left out for a while");
            }
        }
    }

    /// The next try goes to another server, where there is one: `index` works, and failed at this request.
    pub(super) fn pass_over(&self, index: usize) {
        let mut state = self.state();
        if state.current == index {
            state.current = (index + 1) % self.urls.len();
        }
    }

    /// The server `index` answered.
    pub(super) fn succeeded(&self, index: usize) {
        self.state().health[index] = Health::default();
    }
}

/// Names the cloud whatever the order of its endpoints: all of them, sorted, joined by a blank.
pub(super) fn cloud_key(urls: &[Url]) -> String {
    let mut names: Vec<&str> = urls.iter().map(Url::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Servers {
        Servers::in_order((0..count).map(|n| Url::parse(&format!("http://s{n}/")).unwrap()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_stay_with_a_server_until_it_fails() {
        let servers = servers(3);
        assert_eq!((servers.pick().0, servers.pick().0), (0, 0));
        servers.failed(0);
        assert_eq!((servers.pick().0, servers.pick().0), (1, 1));
        servers.failed(1);
        assert_eq!(servers.pick().0, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_server_is_left_out_ever_longer() {
        let servers = servers(2);
        for rest in [30, 60, 120, 240, 300, 300] {
            servers.failed(0);
            servers.failed(0);
            tokio::time::sleep(Duration::from_secs(rest - 1)).await;
            servers.state().current = 0;
            assert_eq!(servers.pick().0, 1, "server 0 still rests after {rest} - 1 s");
            tokio::time::sleep(Duration::from_secs(1)).await;
            servers.state().current = 0;
            assert_eq!(servers.pick().0, 0, "server 0 is asked again after {rest} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_have_failed_they_are_asked_in_turn() {
        let servers = servers(3);
        let mut asked = Vec::new();
        for _ in 0..6 {
            let (index, _) = servers.pick();
            asked.push(index);
            servers.failed(index);
        }
        assert_eq!(asked, [0, 1, 2, 0, 1, 2]);
        servers.succeeded(1);
        assert_eq!(servers.pick().0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_server_is_always_asked() {
        let servers = servers(1);
        servers.failed(0);
        assert_eq!(servers.pick().0, 0);
    }

    #[test]
    fn the_order_of_servers_is_this_mounts_own() {
        let urls: Vec<Url> = (0..20).map(|n| Url::parse(&format!("http://s{n}/")).unwrap()).collect();
        let shuffled = Servers::new(&urls);
        assert_ne!(shuffled.urls, urls);
        let mut sorted = shuffled.urls.clone();
        sorted.sort_by_key(|url| urls.iter().position(|other| other == url));
        assert_eq!(sorted, urls, "none is lost");
        assert_eq!(cloud_key(&shuffled.urls), cloud_key(&urls));
    }
}
