//! The network between client and server: none at all (loopback), or a proxy of ours that is as slow as a real one.
//!
//! The proxy holds each piece of a request back for the delay, so a round trip takes that much longer (opening a
//! connection, too); answers pass through one gate of 1 Gb/s for all connections. Threads and not tasks: a sleep of a
//! thread is exact to some 60 µs, a timer of tokio to 1 ms. TCP's slow start and loss are not imitated.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// Bytes per second of the slow links: 1 Gb/s.
const BANDWIDTH: f64 = 125e6;

/// What is on its way in one piece. At 1 Gb/s it takes 0.5 ms: small against the delays.
const PIECE: usize = 64 << 10;

/// How late a piece may be and still be made up for: sleeps end late, and that must not make the link slower.
const LATENESS: Duration = Duration::from_micros(500);

/// The distance to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum LinkKind {
    /// Loopback.
    Direct,
    /// 1 ms of delay, 1 Gb/s: the same data centre.
    #[value(name = "1ms")]
    Near,
    /// 10 ms of delay, 1 Gb/s: another site.
    #[value(name = "10ms")]
    Far,
}

impl LinkKind {
    fn delay(self) -> Duration {
        Duration::from_millis(match self {
            Self::Direct => 0,
            Self::Near => 1,
            Self::Far => 10,
        })
    }
}

impl std::fmt::Display for LinkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Near => "1 ms",
            Self::Far => "10 ms",
        })
    }
}

/// Opens the way to a server's port; the port that clients use. A proxy lives as long as the bench.
pub fn open(kind: LinkKind, server: u16) -> Result<u16> {
    if kind == LinkKind::Direct {
        return Ok(server);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let gate = Arc::new(Gate { free_at: Mutex::new(Instant::now()) });
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let gate = Arc::clone(&gate);
            thread::spawn(move || connect(client, server, kind.delay(), &gate));
        }
    });
    Ok(port)
}

/// Serves one connection until both directions have ended. Errors end a direction, as they would end the connection.
fn connect(client: TcpStream, server: u16, delay: Duration, gate: &Gate) {
    let opened = Instant::now();
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    thread::scope(|scope| {
        // 64 pieces: more than a request ever is, and a bound for an upload.
        let (send, receive) = sync_channel(64);
        // The handshake was answered by the kernel at once; its round trip is made up for here.
        scope.spawn(|| delay_line_in(&client, send, opened, delay));
        scope.spawn(|| delay_line_out(&server, receive));
        answers(&server, &client, gate);
    });
}

fn delay_line_in(
    mut from: &TcpStream,
    line: SyncSender<(Instant, Vec<u8>)>,
    opened: Instant,
    delay: Duration,
) {
    let mut buffer = vec![0; PIECE];
    while let Some(length) = read(&mut from, &mut buffer) {
        let due = Instant::now().max(opened + delay) + delay;
        if line.send((due, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
}

fn delay_line_out(mut to: &TcpStream, line: Receiver<(Instant, Vec<u8>)>) {
    for (due, piece) in line {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn answers(mut from: &TcpStream, mut to: &TcpStream, gate: &Gate) {
    let mut buffer = vec![0; PIECE];
    while let Some(length) = read(&mut from, &mut buffer) {
        gate.pass(length);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // Both ways: a client that has gone, or a server that wants no more, ends the connection.
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

fn read(from: &mut &TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match from.read(buffer) {
            Ok(0) => return None,
            Ok(length) => return Some(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// The bandwidth that all connections share.
struct Gate {
    free_at: Mutex<Instant>,
}

impl Gate {
    /// Waits until `length` more bytes may have passed.
    fn pass(&self, length: usize) {
        let due = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(LATENESS).unwrap_or(*free_at);
            *free_at = (*free_at).max(earliest) + Duration::from_secs_f64(length as f64 / BANDWIDTH);
            *free_at
        };
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_delays_requests_limits_answers_and_changes_nothing() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = open(LinkKind::Far, server.local_addr().unwrap().port()).unwrap();
        let answer: Vec<u8> = (0..5_000_000u32).map(|number| number as u8).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut connection, _) = server.accept().unwrap();
                let mut request = [0; 3];
                connection.read_exact(&mut request).unwrap();
                assert_eq!(request, *b"get");
                connection.write_all(&answer).unwrap();
            });
            let began = Instant::now();
            let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            client.write_all(b"get").unwrap();
            let mut received = Vec::new();
            client.read_to_end(&mut received).unwrap();
            // 10 ms each for the connection and the request, and 40 ms for 5 MB at 1 Gb/s; only "not faster" is certain.
            assert!(began.elapsed() >= Duration::from_millis(55), "{:?}", began.elapsed());
            assert!(received == answer);
        });
    }
}
