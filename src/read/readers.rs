//! Opens readers, watches the first of an image for its boot profile, and fetches ahead by one that is known.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::blocking::blocking;
use crate::cache::{CachedImage, Digest, DiskWatch, Key};
use crate::error::{Error, Kind, Result};
use crate::units::{BlockIndex, BlockRange, ByteRange};

use super::Reader;
use super::profile::{Gaps, Profile, Recording, Store, digest_text, requests};

/// How long the first readers of an image are watched: a guest under software emulation takes two minutes to
/// start.
const WATCHED: Duration = Duration::from_secs(180);
/// Requests for a profile at once: what the connections leave to prefetch by default.
const AT_ONCE: usize = 6;

/// The boot profile in an image's record, looked up when it is wanted.
pub type Published = BoxFuture<'static, Option<String>>;

/// Makes the readers of a mount.
pub struct Readers {
    runtime: Handle,
    store: Store,
    /// Images whose first readers are open. A leaf lock.
    watched: Mutex<HashMap<Key, Weak<Recorder>>>,
}

/// Watches the readers of one image, all that are open until the last is closed.
pub(super) struct Recorder {
    runtime: Handle,
    store: Store,
    until: Instant,
    ended: AtomicBool,
    /// A leaf lock, held for arithmetic only.
    recording: Mutex<Recording>,
    /// The blocks of the profile that is being fetched.
    expected: OnceLock<HashSet<BlockIndex>>,
    fetching: Mutex<Option<AbortHandle>>,
}

impl Readers {
    /// Readers whose profiles are kept in `folder` on this disk, made when the first is written.
    pub fn new(folder: PathBuf, disk: DiskWatch, runtime: Handle) -> Self {
        Self { runtime, store: Store::new(folder, disk), watched: Mutex::default() }
    }

    /// A reader of an image of `size` bytes; `published` tells the boot profile in its record, which is asked for
    /// when there is none here.
    pub fn open(&self, image: Arc<CachedImage>, size: u64, published: Published) -> Reader {
        let recorder = self.recorder(&image, size, published);
        Reader::new(image, size, recorder)
    }

    fn recorder(&self, image: &Arc<CachedImage>, size: u64, published: Published) -> Option<Arc<Recorder>> {
        let digest = digest_text(image.digest())?;
        let mut watched = self.watched();
        if let Some(recorder) = watched.get(&image.cache_key()).and_then(Weak::upgrade) {
            return Some(recorder);
        }
        watched.retain(|_, recorder| recorder.strong_count() > 0);
        let recorder = Arc::new(Recorder {
            runtime: self.runtime.clone(),
            store: self.store.clone(),
            until: Instant::now() + WATCHED,
            ended: AtomicBool::new(false),
            recording: Mutex::new(Recording::new(digest.clone(), size)),
            expected: OnceLock::new(),
            fetching: Mutex::default(),
        });
        watched.insert(image.cache_key(), Arc::downgrade(&recorder));
        drop(watched);
        let profile = known(self.store.clone(), digest, size, published);
        let work = fetch_ahead(Arc::clone(image), Arc::downgrade(&recorder), profile);
        let task = self.runtime.spawn(work);
        *recorder.fetching.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Some(recorder)
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<Key, Weak<Recorder>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The boot profile of a content, as text.
    ///
    /// # Errors
    /// `NoData`: there is none.
    pub async fn profile(&self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        let (store, digest) = (self.store.clone(), named(digest)?);
        let none = || Error::new(Kind::NoData, "this image has no boot profile here");
        blocking(move || store.load(&digest, size).map(|profile| profile.encode()).ok_or_else(none)).await
    }

    /// Keeps a profile that was made elsewhere.
    ///
    /// # Errors
    /// `Invalid`, with the reason, when it is none of this content; those of the disk.
    pub async fn keep_profile(&self, digest: &Digest, size: u64, text: Vec<u8>) -> Result<()> {
        let (store, digest) = (self.store.clone(), named(digest)?);
        blocking(move || store.save(&Profile::decode(&text, &digest, size)?)).await
    }
}

fn named(digest: &Digest) -> Result<String> {
    digest_text(digest).ok_or_else(|| {
        Error::new(Kind::NoData, "an image without a hash has no boot profile: nothing names its data")
    })
}

/// The profile of a content: the one that is kept here, else the one that its image bears.
async fn known(store: Store, digest: String, size: u64, published: Published) -> Option<Profile> {
    let named = digest.clone();
    if let Ok(Some(profile)) = blocking(move || Ok(store.load(&named, size))).await {
        return Some(profile);
    }
    let text = published.await?;
    Profile::from_property(&text, &digest, size)
        .inspect_err(|error| tracing::debug!(%error, "the boot profile of an image is left alone"))
        .ok()
}

/// Fetches what the profile of the image names, if there is one and the image is not here already.
async fn fetch_ahead(
    image: Arc<CachedImage>,
    recorder: Weak<Recorder>,
    profile: impl Future<Output = Option<Profile>>,
) {
    if image.is_complete().await {
        if let Some(recorder) = recorder.upgrade() {
            recorder.ended.store(true, Ordering::Relaxed);
        }
        return;
    }
    let Some(profile) = profile.await else { return };
    match recorder.upgrade() {
        Some(recorder) => {
            recorder.recording().continue_from(&profile);
            recorder.expected.get_or_init(|| profile.blocks().collect());
        }
        None => return,
    }
    tracing::debug!(image = %image.cache_key(), blocks = profile.blocks().count(), "fetching by its boot profile");
    let mut batches = profile.batches();
    // The first shows how fast this server is, and so which gaps are worth a request.
    let first: Vec<BlockRange> = batches.next().map(|batch| requests(batch, Gaps::NONE)).unwrap_or_default();
    let fetched = match image.fill(first, AT_ONCE).await {
        Ok(()) => {
            let gaps = Gaps::worth_it(image.pace(), AT_ONCE as u64);
            image.fill(batches.flat_map(|batch| requests(batch, gaps)).collect(), AT_ONCE).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = fetched {
        // Whoever reads these blocks meets the error himself.
        tracing::debug!(image = %image.cache_key(), %error, "fetching by the boot profile ended");
    }
}

impl Recorder {
    fn recording(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of `range` is in the profile, which is being fetched.
    pub(super) fn expects(&self, range: ByteRange) -> bool {
        self.expected
            .get()
            .is_some_and(|expected| range.blocks().iter().all(|block| expected.contains(&block)))
    }

    /// `range` is read.
    pub(super) fn note(&self, range: ByteRange) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        if Instant::now() < self.until {
            self.recording().note(range);
        } else if !self.ended.swap(true, Ordering::Relaxed) {
            self.save();
        }
    }

    fn save(&self) {
        let Some(profile) = self.recording().finish() else { return };
        let store = self.store.clone();
        self.runtime.spawn_blocking(move || store.save_if_possible(&profile));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(task) = self.fetching.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        if !*self.ended.get_mut() {
            self.save();
        }
    }
}
