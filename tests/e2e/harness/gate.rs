//! A way to a server that can be shut: what a client sees when the network or the server fails.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The pause after each piece of [`PIECE`] bytes of a slow connection.
const SLOWNESS: Duration = Duration::from_millis(20);
const PIECE: usize = 64 * 1024;

/// Copies until the end, with a pause after each piece. A piece of which `lost` holds is not passed on, nor
/// anything after it.
fn copy(
    from: &mut TcpStream,
    to: &mut TcpStream,
    pause: Duration,
    mut lost: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut is_lost = false;
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            count => {
                is_lost = is_lost || lost(&piece[..count]);
                if !is_lost {
                    to.write_all(&piece[..count])?;
                }
            }
        }
        std::thread::sleep(pause);
    }
}

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// They reach the server.
    Open,
    /// They are closed at once, also those that were open.
    Shut,
    /// They reach the server, and answers come slowly.
    Slow,
    /// They are accepted, and nothing is ever answered.
    Silent,
    /// The gate is being taken down.
    Gone,
}

struct Shared {
    state: Mutex<State>,
    open: Mutex<Vec<TcpStream>>,
    server: Mutex<String>,
    /// Answers that begin so are lost, with all that follows on their connection.
    lost: Mutex<Option<String>>,
}

/// A port on this machine that leads to a server.
pub struct Gate {
    shared: Arc<Shared>,
    port: u16,
}

impl Gate {
    /// An open gate to the server at `url` (`http://host:port`).
    pub fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Mutex::new(url.strip_prefix("http://").unwrap().to_owned());
        let (state, open, lost) = (Mutex::new(State::Open), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { state, open, server, lost });
        let gate = Self { shared: Arc::clone(&shared), port };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                match *shared.state.lock().unwrap_or_else(PoisonError::into_inner) {
                    State::Open => drop(shared.connect(client, Duration::ZERO)),
                    State::Slow => drop(shared.connect(client, SLOWNESS)),
                    State::Shut => drop(client),
                    State::Silent => shared.keep(&client),
                    State::Gone => return,
                }
            }
        });
        gate
    }

    /// Its address, as messages show it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Connections reach another server (`host:port`) from now on; those that are open break.
    pub fn lead_to(&self, server: &str) {
        *self.shared.server.lock().unwrap() = server.to_owned();
        self.set(State::Open);
    }

    /// Connections reach the server again.
    pub fn open(&self) {
        self.set(State::Open);
    }

    /// Connections reach the server again, and each brings about 3 MB a second.
    pub fn slow(&self) {
        self.set(State::Slow);
    }

    /// Requests reach the server, but answers that contain `answer`, and what follows them on their
    /// connection, do not come back.
    pub fn lose(&self, answer: &str) {
        *self.shared.lost.lock().unwrap() = Some(answer.to_owned());
    }

    /// The server seems to have died: connections break, new ones too.
    pub fn shut(&self) {
        self.set(State::Shut);
    }

    /// The server seems to hang: connections stay, without an answer.
    pub fn silence(&self) {
        self.set(State::Silent);
    }

    fn set(&self, state: State) {
        *self.shared.state.lock().unwrap() = state;
        for connection in self.shared.open.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.set(State::Gone);
        // Wakes the listener up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn keep(&self, connection: &TcpStream) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).extend(connection.try_clone());
    }

    fn connect(self: &Arc<Self>, client: TcpStream, pause: Duration) -> io::Result<()> {
        let address = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let server = TcpStream::connect(address)?;
        for (from, to, answers) in [(&client, &server, false), (&server, &client, true)] {
            from.set_read_timeout(Some(Duration::from_secs(120)))?;
            self.keep(from);
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                let lost = |piece: &[u8]| {
                    let lost = shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
                    let lost = lost.as_deref().filter(|_| answers);
                    lost.is_some_and(|lost| String::from_utf8_lossy(piece).contains(lost))
                };
                let _ = copy(&mut from, &mut to, pause, lost);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        Ok(())
    }
}
