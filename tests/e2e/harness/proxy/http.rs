//! As much of HTTP/1.1 as a proxy needs that closes each connection after one exchange: heads, and bytes passed on.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Heads are smaller than this.
const LONGEST_HEAD: usize = 64 * 1024;

/// An answer that comes later than this comes never.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is passed on at once.
const PIECE: usize = 16 * 1024;

/// The head of a request or of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// `GET /v2/images HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head, and what came of the body with it; `None` when the other side ends before.
    pub fn read(from: &mut impl Read) -> io::Result<Option<(Self, Vec<u8>)>> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                let rest = bytes.split_off(end + 4);
                return Ok(Some((Self::parse(&String::from_utf8_lossy(&bytes)), rest)));
            }
            let count = from.read(&mut piece)?;
            if count == 0 || bytes.len() > LONGEST_HEAD {
                return Ok(None);
            }
            bytes.extend_from_slice(&piece[..count]);
        }
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        Self { first, headers }
    }

    /// An answer of the proxy's own.
    pub fn answer(status: u16) -> Self {
        Self { first: format!("HTTP/1.1 {status} Spoiled"), headers: Vec::new() }.with("connection", "close")
    }

    /// The same with this header only once, and with this value.
    pub fn with(self, name: &str, value: impl ToString) -> Self {
        let mut head = self.without(name);
        head.headers.push((name.to_owned(), value.to_string()));
        head
    }

    /// The same without this header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// Path and query of a request.
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.target().parse().unwrap_or_default()
    }

    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{headers}\r\n", self.first).into_bytes()
    }
}

/// How bytes are passed on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pipe {
    /// No more than so many of them.
    pub limit: Option<u64>,
    /// The connection stays behind the limit.
    pub stalls: bool,
    /// So many a second.
    pub rate: Option<u64>,
}

impl Pipe {
    /// Passes on `first` and what follows it: until its end, which is `true`, or until the limit.
    pub fn pass(self, first: &[u8], from: &mut impl Read, to: &mut impl Write) -> io::Result<bool> {
        let began = Instant::now();
        // Slow is a little at a time, not much and then a pause.
        let mut piece = vec![0; self.rate.map_or(PIECE, |rate| PIECE.min(1 + rate as usize / 20))];
        let mut source = first.chain(from);
        let mut passed = 0;
        loop {
            let most = piece.len() as u64;
            let room = self.limit.map_or(most, |limit| (limit - passed).min(most));
            if room == 0 {
                return Ok(false);
            }
            let count = source.read(&mut piece[..room as usize])?;
            if count == 0 {
                return Ok(true);
            }
            to.write_all(&piece[..count])?;
            passed += count as u64;
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(passed as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
    }
}

/// Sends one request to the server at `url` (`http://host:port`): the status and the body of its answer.
pub fn exchange(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> io::Result<(u16, Vec<u8>)> {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let server = TcpStream::connect(host)?;
    server.set_read_timeout(Some(LONGEST_WAIT))?;
    let request = Head { first: format!("{method} {path} HTTP/1.1"), headers: Vec::new() }
        .with("host", host)
        .with("connection", "close")
        .with("content-length", body.len());
    let request = headers.iter().fold(request, |request, (name, value)| request.with(name, value));
    (&server).write_all(&request.bytes())?;
    // A refused upload is closed early; the answer tells.
    let _ = (&server).write_all(body);
    let Some((answer, mut content)) = Head::read(&mut &server)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    (&server).read_to_end(&mut content)?;
    if answer.get("transfer-encoding").is_some() {
        content = unchunked(&content);
    }
    Ok((answer.status(), content))
}

/// The content of a body in chunks.
pub fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = body.windows(2).position(|end| end == b"\r\n") {
        let size = String::from_utf8_lossy(&body[..end]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
        let from = end + 2;
        if size == 0 || from + size > body.len() {
            break;
        }
        content.extend_from_slice(&body[from..from + size]);
        body = body.get(from + size + 2..).unwrap_or_default();
    }
    content
}
