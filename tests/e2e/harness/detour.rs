//! A way to a real server on which some requests are answered by script: what it says only above stores, or in
//! moments, that a test cannot make.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a request up to its body: headers with a token are some 4 KiB.
const LONGEST_HEAD: usize = 64 * 1024;

/// A port on this machine that leads to a server, except for some requests. It serves until the tests end.
pub struct Detour {
    address: SocketAddr,
}

/// Which requests are answered here, and how.
struct Script {
    /// How they begin, such as `DELETE /v2/`.
    begin: String,
    /// From the status line to the body.
    answer: String,
    /// How many of them are still to be answered so.
    times: AtomicUsize,
}

impl Detour {
    /// The next `times` requests that begin with `begin` get the status `status` with the text `body`; all others go to
    /// the server at `url` (`http://host:port`).
    pub fn to(url: &str, begin: &str, times: usize, status: &str, body: &str) -> Self {
        let server = url.strip_prefix("http://").unwrap().to_owned();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let script = Arc::new(Script { begin: begin.to_owned(), answer, times: AtomicUsize::new(times) });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, script) = (server.clone(), Arc::clone(&script));
                // A client that goes away is nothing special.
                std::thread::spawn(move || pass(client, &server, &script));
            }
        });
        Self { address }
    }

    /// Its address as a server's.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn pass(mut client: TcpStream, server: &str, script: &Script) -> io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = client.read(&mut piece)?;
        if count == 0 || head.len() > LONGEST_HEAD {
            return Ok(());
        }
        head.extend_from_slice(&piece[..count]);
    }
    let one_less = |times: usize| times.checked_sub(1);
    if head.starts_with(script.begin.as_bytes())
        && script.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    {
        client.write_all(script.answer.as_bytes())?;
        // To its end, so that no reset overtakes the answer.
        return io::copy(&mut client, &mut io::sink()).map(drop);
    }
    let line = head.windows(2).position(|end| end == b"\r\n").unwrap() + 2;
    let mut server = TcpStream::connect(server)?;
    server.write_all(&head[..line])?;
    // One request for each connection, so that each is looked at.
    server.write_all(b"Connection: close\r\n")?;
    server.write_all(&head[line..])?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut server, &mut client);
    client.shutdown(Shutdown::Both)
}
