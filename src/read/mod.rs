//! An open file for reading: bytes to blocks, with read-ahead for sequential readers.

mod ahead;
#[doc(hidden)]
pub mod fuzzing;
mod profile;
mod readers;
mod scatter;
mod stride;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::cache::{CachedImage, Found};
use crate::error::Result;
use crate::units::ByteRange;

use self::ahead::{Plan, ReadAhead};
use self::readers::Recorder;

pub use self::profile::publishable;
pub use self::readers::{Published, Readers};

/// One handle's reader. It holds no data: an idle handle costs a few hundred bytes.
pub struct Reader {
    image: Arc<CachedImage>,
    size: u64,
    /// A leaf lock, held for arithmetic only.
    ahead: Mutex<ReadAhead>,
    recorder: Option<Arc<Recorder>>,
}

impl Reader {
    fn new(image: Arc<CachedImage>, size: u64, recorder: Option<Arc<Recorder>>) -> Self {
        let ahead = Mutex::new(ReadAhead::new(size, image.memory_limit()));
        Self { image, size, ahead, recorder }
    }

    /// The bytes of `range`, clamped to the image, if no waiting is needed.
    ///
    /// When it gives `None`, [`Reader::read`] is to be asked for the same range.
    pub fn try_read(&self, range: ByteRange) -> Option<Bytes> {
        let range = range.clamp_to(self.size);
        let bytes = self.image.try_read(range)?;
        let plan = self.plan(range, Found::Here);
        self.fetch_ahead(ByteRange::new(range.end, plan.fetch.end), &plan);
        self.passed(range, &plan);
        Some(bytes)
    }

    /// The bytes of `range`, clamped to the image.
    ///
    /// # Errors
    /// Those of the source, when bytes must be fetched; `Integrity` when the image is not what its hash says.
    pub async fn read(&self, range: ByteRange) -> Result<Bytes> {
        let range = range.clamp_to(self.size);
        let found = self.image.look_for(range);
        let plan = self.plan(range, found);
        // What is missing comes in one request with what lies around it.
        let (fetch, beyond) = match found {
            Found::Missing => (plan.fetch, ByteRange::new(range.end, range.end)),
            _ => (range, ByteRange::new(range.end, plan.fetch.end)),
        };
        self.fetch_ahead(beyond, &plan);
        let bytes = self.image.read(range, fetch).await?;
        self.passed(range, &plan);
        Ok(bytes)
    }

    /// Begins to fetch what will be read soon.
    fn fetch_ahead(&self, beyond: ByteRange, plan: &Plan) {
        for ahead in plan.also.iter().chain([&beyond]).filter(|ahead| !ahead.is_empty()) {
            self.image.prefetch(*ahead);
        }
    }

    /// What a sequential reader has read need not stay in our memory: the kernel's page cache has it.
    fn passed(&self, range: ByteRange, plan: &Plan) {
        if plan.passing {
            self.image.let_pass(range);
        }
    }

    fn plan(&self, range: ByteRange, found: Found) -> Plan {
        let mut found = found;
        if let Some(recorder) = &self.recorder {
            recorder.note(range);
            if recorder.expects(range) {
                // Not here yet, but as good as on its way: what lies around it is not worth a guess.
                found = Found::OnItsWay;
            }
        }
        let pace = self.image.pace();
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).on_read(range, found, pace)
    }

    /// The cached image below.
    pub fn image(&self) -> &Arc<CachedImage> {
        &self.image
    }
}
