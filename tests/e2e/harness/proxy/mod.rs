//! A proxy between glancefs and the real servers that spoils what a test tells it to: which requests, and how.
//!
//! Each connection carries one exchange, since the proxy asks both sides to close it after the answer. So nothing has
//! to know where a body ends, and bodies are passed on as they are framed.

mod exchange;
mod fault;
pub mod http;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exchange::Exchange;
pub use fault::Fault;
use http::Head;

/// After this a side that says nothing is given up: longer than any deadline of a test.
const SILENCE: Duration = Duration::from_secs(120);

/// Which requests are spoiled, and how.
#[derive(Debug, Clone)]
pub struct Rule {
    method: &'static str,
    /// Of path and query; `*` stands for any characters.
    target: String,
    /// Matching requests that pass first.
    passing: usize,
    /// Matching requests that are spoiled then.
    times: usize,
    fault: Fault,
}

impl Rule {
    /// Every request of this method (`*`: any) whose path and query are as `target`, where `*` stands for any characters.
    pub fn new(method: &'static str, target: impl Into<String>, fault: Fault) -> Self {
        Self { method, target: target.into(), passing: 0, times: usize::MAX, fault }
    }

    /// Not the first `count` of them.
    pub fn after(self, count: usize) -> Self {
        Self { passing: count, ..self }
    }

    /// Only so many.
    pub fn times(self, count: usize) -> Self {
        Self { times: count, ..self }
    }

    /// The fault for this request, which is counted.
    fn meets(&mut self, head: &Head) -> Option<Fault> {
        let meets = (self.method == "*" || self.method == head.method()) && like(head.target(), &self.target);
        if !meets {
            return None;
        }
        if self.passing > 0 {
            self.passing -= 1;
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        Some(self.fault.clone())
    }
}

/// Whether `text` is as `pattern`, where `*` stands for any characters.
fn like(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return text == pattern };
    let Some(text) = text.strip_prefix(first) else { return false };
    text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| like(&text[at..], rest))
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
    /// It carried a token.
    pub has_token: bool,
    /// A rule spoiled it.
    pub spoiled: bool,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    /// The connections of clients, to break what still hangs when all is well again.
    open: HashMap<usize, TcpStream>,
    gone: bool,
}

struct Shared {
    server: String,
    state: Mutex<State>,
}

/// A port on this machine that leads to a server, spoiling what its rules say.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

impl Proxy {
    /// A proxy to the server at `url` (`http://host:port`), without rules yet.
    pub fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = url.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        let shared = Arc::new(Shared { server, state: Mutex::default() });
        let proxy = Self { shared: Arc::clone(&shared), port };
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                if shared.state().gone {
                    return;
                }
                shared.state().open.extend(client.try_clone().map(|client| (number, client)));
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // Whoever hangs up first: the other side sees that.
                    let _ = shared.exchange(&client);
                    let _ = client.shutdown(Shutdown::Both);
                    shared.state().open.remove(&number);
                });
            }
        });
        proxy
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on this rule holds, too. The first that meets a request counts.
    pub fn add(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// All is well again: no rules, and what hangs is broken off.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.rules.clear();
        state.open.drain().for_each(|(_, client)| drop(client.shutdown(Shutdown::Both)));
    }

    /// The requests that came since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.state().seen)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.heal();
        self.shared.state().gone = true;
        // Wakes the listener up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request; the fault that it is to meet.
    fn fault_of(&self, head: &Head) -> Option<Fault> {
        let mut state = self.state();
        let fault = state.rules.iter_mut().find_map(|rule| rule.meets(head));
        state.seen.push(Seen {
            method: head.method().to_owned(),
            target: head.target().to_owned(),
            has_token: head.get("x-auth-token").is_some() || head.get("authorization").is_some(),
            spoiled: fault.is_some(),
        });
        fault
    }

    /// One request and its answer.
    fn exchange(&self, client: &TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(SILENCE))?;
        let Some((request, body)) = Head::read(&mut &*client)? else { return Ok(()) };
        let fault = self.fault_of(&request);
        Exchange { server: &self.server, client, request, body, fault }.run()
    }
}
