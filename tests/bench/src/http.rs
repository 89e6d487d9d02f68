//! The least HTTP client that can ask for exact ranges, one after another on one connection: the limit of what a reader
//! without read-ahead can reach, and of what listing costs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::Result;

/// A connection that is kept.
pub struct Connection {
    stream: BufReader<TcpStream>,
    port: u16,
}

impl Connection {
    /// To a port of this machine.
    pub fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        // Larger than a header, small enough that bodies go past it.
        Ok(Self { stream: BufReader::with_capacity(8 << 10, stream), port })
    }

    /// Fills `bytes` with the range of the resource that begins at `offset`.
    pub fn read_range(&mut self, path: &str, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let last = offset + bytes.len() as u64 - 1;
        let (status, length) = self.ask(path, &format!("Range: bytes={offset}-{last}\r\n"))?;
        if status != 206 || length != bytes.len() {
            return Err(format!("GET {path}: status {status} with {length} bytes").into());
        }
        Ok(self.stream.read_exact(bytes)?)
    }

    /// All of a small resource.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let (status, length) = self.ask(path, "")?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if status != 200 {
            return Err(format!("GET {path}: status {status}").into());
        }
        Ok(body)
    }

    /// Sends a request and reads the header: status and length of the body.
    fn ask(&mut self, path: &str, header: &str) -> Result<(u16, usize)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{header}\r\n", self.port);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        Ok((status, length))
    }
}
