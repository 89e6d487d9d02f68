//! A Glance of the tests: known bytes, and the faults that a script asks for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::config::HttpConfig;
use crate::error::{Error, Kind, Result};
use crate::glance::{Download, Image, Status};
use crate::units::{ByteRange, ImageId};

use super::{Downloads, Sources};

/// Bytes `range` of the test image `seed`: every offset has its own value in every image.
pub(crate) fn pattern(seed: u64, range: ByteRange) -> Vec<u8> {
    let word = |at: u64| (at ^ seed.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    let mut bytes = Vec::with_capacity(range.len() as usize + 8);
    let mut at = range.start / 8;
    let skip = (range.start % 8) as usize;
    while bytes.len() < range.len() as usize + skip {
        bytes.extend_from_slice(&word(at).to_le_bytes());
        at += 1;
    }
    bytes.truncate(range.len() as usize + skip);
    bytes.drain(..skip);
    bytes
}

/// Short deadlines and four connections.
pub(crate) fn http() -> HttpConfig {
    HttpConfig {
        timeout: Duration::from_millis(300),
        hard: false,
        retries: 3,
        ca_cert: None,
        client_cert: None,
        insecure: false,
        max_connections: 4,
    }
}

/// An active image of `size` bytes.
pub(crate) fn image_of(size: u64, stores: Option<&str>) -> Image {
    Image {
        id: "1f3c9a2b-0000-4000-8000-000000000001".parse().unwrap(),
        name: None,
        status: Status::Active,
        size: Some(size),
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
        owner: None,
        visibility: "private".into(),
        disk_format: None,
        container_format: None,
        checksum: None,
        hash: None,
        protected: false,
        stores: stores.map(Into::into),
        kept_mtime: None,
        record: "{}".into(),
    }
}

/// What happens to one request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It is refused with this kind.
    Refused(Kind),
    /// The body fails with this kind after so many bytes.
    Cut(u64, Kind),
    /// The body ends after so many bytes.
    Short(u64),
    /// The body stops after so many bytes and nothing more comes.
    Stall(u64),
    /// So many bytes more than promised.
    Surplus(u64),
    /// Another range than asked.
    WrongRange,
}

/// Serves `pattern(seed, ..)`; one fault of the script per request, then none.
#[derive(Clone)]
pub(crate) struct FakeDownloads {
    pub seed: u64,
    pub chunk: u64,
    pub ranges: bool,
    pub script: Arc<Mutex<VecDeque<Option<Fault>>>>,
    pub asked: Arc<Mutex<Vec<Option<ByteRange>>>>,
}

impl FakeDownloads {
    pub(crate) fn new(script: impl IntoIterator<Item = Option<Fault>>) -> Self {
        Self {
            seed: 7,
            chunk: 1000,
            ranges: true,
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            asked: Arc::default(),
        }
    }

    /// Sources over this Glance, and a record to ask them for. Their deadlines are the usual ones: on a
    /// busy machine a body of the tests can be as slow as one that stalls.
    pub(crate) fn sources_and_image(&self, size: u64) -> (Sources, Image) {
        let patient = HttpConfig { timeout: Duration::from_secs(60), ..http() };
        (Sources::new(Arc::new(self.clone()), &patient), image_of(size, None))
    }

    fn answer(&self, size: u64, asked: Option<ByteRange>) -> Result<Download> {
        self.asked.lock().unwrap().push(asked);
        if asked.is_some() && !self.ranges {
            return Err(Error::new(Kind::RangeUnsupported, "getting images randomly is not supported"));
        }
        let fault = self.script.lock().unwrap().pop_front().flatten();
        let mut range = asked.unwrap_or(ByteRange::new(0, size));
        let mut given = range;
        let mut last: Vec<Result<Bytes>> = Vec::new();
        let mut stall = false;
        match fault {
            None => {}
            Some(Fault::Refused(kind)) => return Err(Error::new(kind, "refused by the script")),
            Some(Fault::Cut(after, kind)) => {
                given.end = range.end.min(range.start + after);
                last.push(Err(Error::new(kind, "cut by the script")));
            }
            Some(Fault::Short(after)) => given.end = range.end.min(range.start + after),
            Some(Fault::Stall(after)) => {
                given.end = range.end.min(range.start + after);
                stall = true;
            }
            Some(Fault::Surplus(more)) => given.end += more,
            Some(Fault::WrongRange) => range.start += 1,
        }
        let (seed, chunk) = (self.seed, self.chunk);
        let chunks = stream::unfold(given, move |rest| async move {
            if rest.is_empty() {
                return None;
            }
            let now = ByteRange::at(rest.start, chunk.min(rest.len()));
            Some((Ok(Bytes::from(pattern(seed, now))), ByteRange::new(now.end, rest.end)))
        });
        let chunks = chunks.chain(stream::iter(last));
        let chunks = if stall { chunks.chain(stream::pending()).boxed() } else { chunks.boxed() };
        Ok(Download { range, chunks })
    }
}

#[async_trait]
impl Downloads for FakeDownloads {
    async fn download(&self, _id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        self.answer(size, range)
    }
}
