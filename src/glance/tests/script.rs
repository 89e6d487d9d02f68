//! A server that answers by script, for faults that no real one produces.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::auth::Auth;
use crate::config::{AuthConfig, AuthMethod, HttpConfig};
use crate::glance::Glance;

/// What is done with one request.
#[derive(Clone)]
pub enum Act {
    /// Reads the request and its body, then sends this and closes.
    Answer(Vec<u8>),
    /// The same, but closes only after a while: what is sent is not all there is to come.
    AnswerAndHang(Vec<u8>),
    /// Reads the request and its body, then closes without an answer.
    Close,
    /// Reads the head of the request, sends this and closes while the client still sends its body.
    Refuse(Vec<u8>),
    /// Reads the head of the request and some of the body, sends this, and reads on until the client breaks off.
    RefuseAndListen(Vec<u8>),
    /// Reads nothing more and says nothing.
    Hang,
    /// The first for PUT, the second for all others.
    IfPut(Box<Act>, Box<Act>),
}

/// Head and body of each request, in order.
type Requests = Vec<(String, Vec<u8>)>;

/// The server; each connection serves one request.
pub struct Script {
    pub url: Url,
    requests: Arc<Mutex<Requests>>,
}

impl Script {
    /// Serves `acts` one after the other; the last one for ever.
    pub async fn serve(acts: Vec<Act>) -> Self {
        Self::serve_at("127.0.0.1:0".parse().unwrap(), acts).await
    }

    /// The same at an address.
    pub async fn serve_at(address: SocketAddr, acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let requests = Arc::default();
        tokio::spawn(accept(listener, acts, Arc::clone(&requests)));
        Self { url, requests }
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// The head of request `index`, in lower case.
    pub fn head(&self, index: usize) -> String {
        self.requests.lock().unwrap()[index].0.to_lowercase()
    }

    pub fn body(&self, index: usize) -> Vec<u8> {
        self.requests.lock().unwrap()[index].1.clone()
    }

    /// What came of a body until the client broke off.
    pub async fn rest_of(&self, index: usize) -> Vec<u8> {
        let arrived = async {
            while self.body(index).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("the client breaks off");
        self.body(index)
    }

    /// A client of this server only, with a deadline of `timeout`.
    pub async fn client(&self, timeout: Duration) -> Glance {
        client(&[&self.url], AuthMethod::AdminToken("the-token".into()), timeout).await
    }
}

pub async fn client(urls: &[&Url], method: AuthMethod, timeout: Duration) -> Glance {
    client_with(urls, method, timeout, 3).await
}

pub async fn client_with(urls: &[&Url], method: AuthMethod, timeout: Duration, retries: u32) -> Glance {
    let endpoints = urls.iter().copied().cloned().collect();
    let http = HttpConfig {
        timeout,
        hard: false,
        retries,
        ca_cert: None,
        client_cert: None,
        insecure: false,
        max_connections: 4,
    };
    let auth = AuthConfig { method, auth_type: None, endpoints, region: None, interface: None };
    Glance::new(Auth::connect(&auth, &http, None).await.unwrap(), &http).unwrap()
}

async fn accept(listener: TcpListener, acts: Vec<Act>, requests: Arc<Mutex<Requests>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(one(stream, acts.clone(), Arc::clone(&requests)));
    }
}

async fn one(mut stream: TcpStream, acts: Vec<Act>, requests: Arc<Mutex<Requests>>) {
    let Some((head, mut body)) = read_head(&mut stream).await else { return };
    let length = head
        .to_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0usize);
    let is_put = head.starts_with("PUT ");
    let index = {
        let mut requests = requests.lock().unwrap();
        requests.push((head, Vec::new()));
        requests.len() - 1
    };
    let act = match acts.get(index).or(acts.last()).unwrap().clone() {
        Act::IfPut(act, _) if is_put => *act,
        Act::IfPut(_, act) => *act,
        act => act,
    };
    if !matches!(act, Act::Refuse(_) | Act::RefuseAndListen(_) | Act::Hang) {
        let mut buffer = vec![0; 1 << 16];
        while body.len() < length {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => body.extend_from_slice(&buffer[..n]),
            }
        }
        requests.lock().unwrap()[index].1 = body;
    }
    match act {
        Act::Answer(bytes) | Act::Refuse(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        Act::AnswerAndHang(bytes) => {
            let _ = stream.write_all(&bytes).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        Act::RefuseAndListen(bytes) => {
            let mut body = Vec::new();
            let mut buffer = vec![0; 1 << 16];
            let mut refusal = Some(bytes);
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                body.extend_from_slice(&buffer[..count]);
                if body.len() > 100_000
                    && let Some(refusal) = refusal.take()
                {
                    let _ = stream.write_all(&refusal).await;
                }
            }
            requests.lock().unwrap()[index].1 = body;
        }
        Act::Close | Act::IfPut(..) => {}
        Act::Hang => tokio::time::sleep(Duration::from_secs(30)).await,
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Some((String::from_utf8(bytes).unwrap(), body));
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

/// A whole answer with a body of its stated length.
pub fn answer(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        bytes.push_str(header);
        bytes.push_str("\r\n");
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
