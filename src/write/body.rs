//! The body of an upload: the spool file read ahead, hashed as it goes, counted as it is taken.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use bytes::Bytes;

use futures_util::{StreamExt, stream};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::spool::Spool;
use crate::error::{Error, Kind, Result};
use crate::glance::BodyStream;
use crate::units::{ByteRange, hexadecimal};

/// Bytes read, hashed and sent at a time: large enough that a chunk's hand-over costs nothing
/// beside its hashing (about 3 ms).
const CHUNK: u64 = 1 << 20;

/// Chunks that wait for the network. With the one being hashed and the one being sent, an upload
/// holds at most 4 MiB.
const CHUNKS_AHEAD: usize = 2;

/// The hashes that Glance computes too, lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digests {
    pub(super) md5: String,
    pub(super) sha512: String,
}

/// The bytes of one upload, to be sent as often as it takes.
pub(super) struct Body {
    spool: Arc<Spool>,
    size: u64,
    sent: Arc<AtomicU64>,
    /// Tries of which anything was taken.
    begun: Arc<AtomicU32>,
    /// Only the last can be running.
    tries: Arc<Mutex<Vec<Try>>>,
}

/// One reading of all bytes.
struct Try {
    reader: JoinHandle<Option<Digests>>,
    /// Where its chunks come out; `None` when nobody wants more.
    chunks: Chunks,
}

type Chunks = Arc<Mutex<Option<mpsc::Receiver<io::Result<Bytes>>>>>;

impl Body {
    /// The first `size` bytes of `spool`; `sent` counts how many of the present try were taken.
    pub(super) fn new(spool: Arc<Spool>, size: u64, sent: Arc<AtomicU64>) -> Self {
        Self { spool, size, sent, begun: Arc::default(), tries: Arc::default() }
    }

    /// Starts again from the first byte; call it on the runtime.
    pub(super) fn open(&self) -> BodyStream {
        let (to_network, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (spool, size) = (self.spool.clone(), self.size);
        let reader = tokio::task::spawn_blocking(move || read_and_hash(&spool, size, &to_network));
        let chunks: Chunks = Arc::new(Mutex::new(Some(chunks)));
        let these = Try { reader, chunks: Arc::clone(&chunks) };
        self.tries.lock().unwrap_or_else(PoisonError::into_inner).push(these);
        let sent = self.sent.clone();
        sent.store(0, Ordering::Relaxed);
        let begun = self.begun.clone();
        let next = move |cx: &mut Context<'_>| match chunks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
        {
            Some(chunks) => chunks.poll_recv(cx),
            None => Poll::Ready(Some(Err(io::Error::other("the upload was given up")))),
        };
        stream::poll_fn(next)
            .inspect(move |chunk| {
                let taken = chunk.as_ref().map_or(0, Bytes::len);
                if sent.fetch_add(taken as u64, Ordering::Relaxed) == 0 {
                    begun.fetch_add(1, Ordering::Relaxed);
                }
            })
            .boxed()
    }

    /// How often the data were begun to be sent.
    pub(super) fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Ends what still reads the file and waits for it, at most `patience`; the hashes, if a try read all of it.
    ///
    /// Streams give an error from now on. They may live on for a while: the HTTP client drops that of a request
    /// that was given up once the socket has taken what it has in hand.
    pub(super) async fn finish(&self, patience: Duration) -> Option<Digests> {
        let tries = std::mem::take(&mut *self.tries.lock().unwrap_or_else(PoisonError::into_inner));
        let end = |Try { reader, chunks }: Try| {
            chunks.lock().unwrap_or_else(PoisonError::into_inner).take();
            reader
        };
        let readers: Vec<_> = tries.into_iter().map(end).collect();
        let all = async {
            let mut digests = None;
            for reader in readers {
                digests = reader.await.ok().flatten().or(digests);
            }
            digests
        };
        tokio::time::timeout(patience, all).await.ok().flatten()
    }
}

/// Runs on a blocking thread; `None` when the receiver went away or the file could not be read.
fn read_and_hash(spool: &Spool, size: u64, to_network: &mpsc::Sender<io::Result<Bytes>>) -> Option<Digests> {
    let hashed = hash_chunks(spool, size, |chunk| to_network.blocking_send(Ok(chunk)).is_ok());
    match hashed {
        Ok(digests) => digests,
        Err(error) => {
            // If nobody listens any more there is nobody to tell.
            let _ = to_network.blocking_send(Err(io::Error::other(error)));
            None
        }
    }
}

/// Reads all `size` bytes in order, gives each chunk to `take` until it says false, and hashes them.
fn hash_chunks(spool: &Spool, size: u64, mut take: impl FnMut(Bytes) -> bool) -> Result<Option<Digests>> {
    let mut md5 = Md5::new();
    let mut sha512 = digest::Context::new(&SHA512);
    for chunk in chunks(spool, size) {
        let chunk = chunk?;
        md5.update(&chunk);
        sha512.update(&chunk);
        if !take(chunk) {
            return Ok(None);
        }
    }
    Ok(Some(Digests { md5: hexadecimal(&md5.finalize()), sha512: hexadecimal(sha512.finish().as_ref()) }))
}

/// The hashes of the first `size` bytes, read now; for a blocking thread.
pub(super) fn digests_of(spool: &Spool, size: u64) -> Result<Option<Digests>> {
    hash_chunks(spool, size, |_| true)
}

/// The value of another multihash over the first `size` bytes, read now; for a blocking thread.
///
/// `None`: `algorithm` is not one that a site can be expected to use (sha512, sha384, sha256).
pub(super) fn multihash_of(spool: &Spool, size: u64, algorithm: &str) -> Result<Option<String>> {
    let algorithm: &'static Algorithm = match algorithm {
        "sha512" => &SHA512,
        "sha384" => &SHA384,
        "sha256" => &SHA256,
        _ => return Ok(None),
    };
    let mut context = digest::Context::new(algorithm);
    for chunk in chunks(spool, size) {
        context.update(&chunk?);
    }
    Ok(Some(hexadecimal(context.finish().as_ref())))
}

/// The first `size` bytes in chunks; a file that is shorter is an `Integrity` error.
pub(super) fn chunks(spool: &Spool, size: u64) -> impl Iterator<Item = Result<Bytes>> {
    (0..size.div_ceil(CHUNK)).map(move |index| {
        let range = ByteRange::at(index * CHUNK, CHUNK).clamp_to(size);
        let chunk = spool.read(range)?;
        if chunk.len() as u64 != range.len() {
            let path = spool.path();
            let message = format!("the spool file {} became shorter than its {size} bytes", path.display());
            return Err(Error::new(Kind::Integrity, message));
        }
        Ok(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SpoolConfig;
    use crate::write::folder::Folder;

    fn spool(bytes: &[u8]) -> (tempfile::TempDir, Arc<Spool>) {
        let dir = tempfile::tempdir().unwrap();
        let folder =
            Folder::open(&SpoolConfig { dir: dir.path().into(), size: None, keep_failed: Duration::MAX })
                .unwrap();
        let spool = Spool::create(Arc::new(folder)).unwrap();
        spool.write(0, bytes).unwrap();
        (dir, Arc::new(spool))
    }

    async fn collect(mut stream: BodyStream) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(chunk) = stream.next().await {
            all.extend_from_slice(&chunk.unwrap());
        }
        all
    }

    #[tokio::test]
    async fn the_hashes_are_those_of_the_bytes_sent() {
        let bytes: Vec<u8> = (0..3 * CHUNK + 7).map(|n| (n % 251) as u8).collect();
        let (_dir, spool) = spool(&bytes);
        let sent = Arc::new(AtomicU64::new(0));
        let body = Body::new(spool.clone(), bytes.len() as u64, sent.clone());
        // A first try that is cut, then a whole one.
        let mut cut = body.open();
        assert!(cut.next().await.unwrap().is_ok());
        drop(cut);
        assert_eq!(collect(body.open()).await, bytes);
        assert_eq!(sent.load(Ordering::Relaxed), bytes.len() as u64);
        let digests = body.finish(Duration::from_secs(60)).await.unwrap();
        assert_eq!(Some(digests), digests_of(&spool, bytes.len() as u64).unwrap());
    }

    #[tokio::test]
    async fn a_stream_that_nobody_drops_does_not_keep_its_reader() {
        let (_dir, spool) = spool(&vec![1; 9 << 20]);
        let body = Body::new(spool, 9 << 20, Arc::default());
        let mut kept = body.open();
        assert!(kept.next().await.unwrap().is_ok());
        let finished = tokio::time::timeout(Duration::from_secs(20), body.finish(Duration::MAX)).await;
        assert_eq!(finished.unwrap(), None);
        assert!(kept.next().await.unwrap().is_err(), "and never looks like the end of the data");
    }

    #[test]
    fn the_hashes_are_the_well_known_ones() {
        let (_dir, spool) = spool(b"abc");
        let digests = digests_of(&spool, 3).unwrap().unwrap();
        assert_eq!(digests.md5, "900150983cd24fb0d6963f7d28e17f72");
        assert!(digests.sha512.starts_with("ddaf35a193617abacc417349ae204131"));
        let sha256 = multihash_of(&spool, 3, "sha256").unwrap().unwrap();
        assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(multihash_of(&spool, 3, "crc32").unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_breaks_the_stream() {
        let (_dir, spool) = spool(b"abc");
        let body = Body::new(spool, 4, Arc::default());
        let mut stream = body.open();
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
        drop(stream);
        assert_eq!(body.finish(Duration::from_secs(60)).await, None);
    }
}
