//! One request and its answer, on their way through the proxy with or without a fault.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::SILENCE;
use super::fault::Fault;
use super::http::{Head, Pipe, unchunked};

/// A client that is refused early may send on for so long; then it is hung up on.
const DRAIN: Duration = Duration::from_secs(2);

/// The answer's body, where one is changed: lists and records of the tests are far smaller, and so are their images.
const LONGEST_BODY: u64 = 64 << 20;

/// What is appended to a body that is too long.
const SURPLUS: &[u8] = &[b'x'; 4096];

/// A request that came, and what becomes of it.
pub struct Exchange<'a> {
    /// `host:port`.
    pub server: &'a str,
    pub client: &'a TcpStream,
    pub request: Head,
    /// What came of the request's body with its head.
    pub body: Vec<u8>,
    pub fault: Option<Fault>,
}

impl Exchange<'_> {
    /// Carries it out.
    pub fn run(mut self) -> io::Result<()> {
        let plain = Pipe::default();
        let limit = |limit| Pipe { limit: Some(limit), ..plain };
        match self.fault.take() {
            None => self.pass(plain),
            Some(Fault::BlackHole) => self.hang(),
            Some(Fault::Reset) => reset(self.client),
            Some(Fault::Status(status, retry_after)) => {
                let head = Head::answer(status);
                let head = match retry_after {
                    Some(seconds) => head.with("retry-after", seconds),
                    None => head,
                };
                self.refuse(head)
            }
            Some(Fault::Empty204) => self.refuse(Head::answer(204)),
            Some(Fault::Delay(time)) => {
                std::thread::sleep(time);
                self.pass(plain)
            }
            Some(Fault::Slow(rate)) => self.pass(Pipe { rate: Some(rate), ..plain }),
            Some(Fault::Cut(bytes)) => self.pass(limit(bytes)),
            Some(Fault::Stall(bytes)) => {
                self.pass(Pipe { stalls: true, ..limit(bytes) })?;
                self.hang()
            }
            Some(Fault::LostAnswer) => {
                let server = self.send(plain)?;
                Head::read(&mut &server)?;
                reset(self.client)
            }
            Some(Fault::EndlessPages) if self.request.target().contains("marker=") => {
                self.answer(Head::answer(200), endless(serde_json::json!({"images": []})).as_bytes())
            }
            Some(fault) => self.lie(&fault),
        }
    }

    fn uploads(&self) -> bool {
        self.request.method() == "PUT"
    }

    /// Sends the request on; its body, as far as `pipe` lets it through, follows by itself.
    fn send(&mut self, pipe: Pipe) -> io::Result<TcpStream> {
        let server = TcpStream::connect(self.server)?;
        server.set_read_timeout(Some(SILENCE))?;
        (&server).write_all(&self.request.clone().with("connection", "close").bytes())?;
        let (mut from, mut to) = (self.client.try_clone()?, server.try_clone()?);
        let body = std::mem::take(&mut self.body);
        std::thread::spawn(move || {
            // The end of the client is the server's, and what hangs for the one hangs for the other.
            let _ = pipe.pass(&body, &mut from, &mut to);
            if pipe.stalls {
                until_hung_up(&from);
            }
            let _ = to.shutdown(Shutdown::Both);
        });
        Ok(server)
    }

    /// Passes request and answer on; the data of either through `pipe`.
    fn pass(&mut self, pipe: Pipe) -> io::Result<()> {
        let (there, back) = if self.uploads() { (pipe, Pipe::default()) } else { (Pipe::default(), pipe) };
        let server = self.send(there)?;
        let Some((answer, first)) = Head::read(&mut &server)? else { return Ok(()) };
        let mut client = self.client;
        client.write_all(&answer.with("connection", "close").bytes())?;
        back.pass(&first, &mut &server, &mut client).map(drop)
    }

    /// Passes the request on, and changes the answer.
    fn lie(&mut self, fault: &Fault) -> io::Result<()> {
        let asked = self.request.get("range").map(str::to_owned);
        if matches!(fault, Fault::WholeAs206 | Fault::Short200) {
            self.request = self.request.clone().without("range");
        }
        let server = self.send(Pipe::default())?;
        let Some((head, mut body)) = Head::read(&mut &server)? else { return Ok(()) };
        (&server).take(LONGEST_BODY).read_to_end(&mut body)?;
        if head.get("transfer-encoding").is_some() {
            body = unchunked(&body);
        }
        let head = head.without("transfer-encoding");
        let whole = body.len() as u64;
        match fault {
            Fault::WrongRange => {
                let wrong = head
                    .get("content-range")
                    .and_then(bounds)
                    .map(|(first, last, size)| format!("bytes {}-{}/{size}", first + 1, last + 1));
                let head = match wrong {
                    Some(wrong) => head.with("content-range", wrong),
                    None => head,
                };
                self.answer(head, &body)
            }
            Fault::WholeAs206 => {
                let range = asked.as_deref().and_then(|range| range.strip_prefix("bytes=")).unwrap_or("0-0");
                let mut head = head.with("content-range", format!("bytes {range}/{whole}"));
                head.first = "HTTP/1.1 206 Partial Content".to_owned();
                self.answer(head, &body)
            }
            Fault::Date(date) => self.answer(head.with("date", date), &body),
            Fault::Short200 => self.answer(head, &body[..body.len() / 2]),
            Fault::Long => {
                let mut client = self.client;
                client.write_all(&head.without("content-length").with("connection", "close").bytes())?;
                client.write_all(&body)?;
                client.write_all(SURPLUS)
            }
            Fault::EndlessPages => {
                let page = endless(serde_json::from_slice(&body)?);
                self.answer(head, page.as_bytes())
            }
            Fault::NextElsewhere(url) => {
                let mut page: serde_json::Value = serde_json::from_slice(&body)?;
                // What they say of the page that follows stays, so that only the address is wrong.
                let last = page["images"].as_array().and_then(|images| images.last());
                if let Some(last) = last.map(|image| image["id"].clone()) {
                    page["next"] = format!("{url}/v2/images?marker={}", last.as_str().unwrap_or("")).into();
                }
                self.answer(head, page.to_string().as_bytes())
            }
            _ => self.answer(head, b"<html>This is not what you asked for.</html>"),
        }
    }

    fn answer(&self, head: Head, body: &[u8]) -> io::Result<()> {
        let mut client = self.client;
        client.write_all(&head.with("content-length", body.len()).with("connection", "close").bytes())?;
        client.write_all(body)
    }

    /// Answers without the server, and takes for a while what the client still sends: it would not see the answer otherwise.
    fn refuse(&self, head: Head) -> io::Result<()> {
        let mut client = self.client;
        let head = if head.status() == 204 { head } else { head.with("content-length", 0) };
        client.write_all(&head.bytes())?;
        client.shutdown(Shutdown::Write)?;
        client.set_read_timeout(Some(DRAIN))?;
        io::copy(&mut client, &mut io::sink()).map(drop)
    }

    /// Keeps the connection, without reading what comes on it, until the client or the test ends it.
    fn hang(&self) -> io::Result<()> {
        until_hung_up(self.client);
        Ok(())
    }
}

/// Waits for the other side's end. What comes meanwhile fills the buffers, so that a sender notices.
fn until_hung_up(connection: &TcpStream) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut waiting = [PollFd::new(connection, PollFlags::RDHUP)];
    let limit = Timespec { tv_sec: SILENCE.as_secs() as i64, tv_nsec: 0 };
    let _ = poll(&mut waiting, Some(&limit));
}

/// Ends a connection with RST, whoever has a copy of its descriptor.
fn reset(client: &TcpStream) -> io::Result<()> {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the descriptor is open, and the address is one of `AF_UNSPEC`, of which the kernel reads the family only.
    match unsafe { libc::connect(client.as_raw_fd(), &raw const nowhere, size_of_val(&nowhere) as u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A page of a list that has a next one, each time another.
fn endless(mut page: serde_json::Value) -> String {
    page["next"] = format!("/v2/images?marker={}", uuid::Uuid::new_v4()).into();
    page.to_string()
}

/// First and last byte and size of `bytes 0-99/1000`.
fn bounds(text: &str) -> Option<(u64, u64, &str)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size))
}
