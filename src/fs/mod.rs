//! File semantics on plain types: inodes, names, attributes, handles and refusals.
//!
//! This layer knows neither FUSE nor HTTP: `fuse` calls it with what the kernel said, tests call it
//! without a kernel. Every operation is a future that is ready at once when nothing has to be waited
//! for; `fuse` polls it in place and hands it to the runtime only when it is not.

mod attr;
mod change;
mod closing;
mod control;
mod describe;
mod draft;
mod facts;
#[cfg(test)]
mod fixture;
mod handle;
#[cfg(test)]
mod hold_test;
mod inode;
mod lookup;
mod measure;
mod metadata;
mod mode;
#[cfg(test)]
mod model_test;
mod nova;
#[cfg(test)]
mod nova_test;
mod open;
mod replace;
mod status;
#[cfg(test)]
mod tests;
mod turns;
mod uploads;
mod vet;
#[cfg(test)]
mod vet_test;
mod view;
mod whole;
mod writable;
mod write;
mod xattr;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use tracing::warn;

pub use attr::{Attr, FileKind};
pub use closing::{Closer, ThreadGroup, Watch};
pub use handle::{DirEntry, HandleId};
pub use inode::{Ino, Node};
pub use lookup::{Entry, Statistics};
pub use metadata::{Caller, XattrMode};
pub use mode::Modes;
pub use open::{Bypass, OpenMode, Opened};
pub use view::Invalidation;
pub use write::NewAttributes;

use crate::cache::{Cache, ContentIdentity, Mismatch};
use crate::catalog::Catalog;
use crate::config::{AccessConfig, GuestsConfig, Hold, Prefetch, TrustConfig};
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, ImageService};
use crate::metrics::OpenCounters;
use crate::read::Readers;
use crate::source::Sources;
use crate::units::ImageId;
use crate::write::{Metadata, Uploads};

use attr::Attributes;
use control::Events;
use draft::DraftFile;
use facts::KeptUsage;
use handle::Handles;
use inode::Inodes;
use nova::Bases;
use turns::Turns;
use vet::Vetting;
use whole::Fills;

/// Names that were just asked for in vain, and for how long that is believed: a shell that looks
/// for one file in many ways must not cost a request each time; a new image still opens at once.
const MISSES_KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const MISS_TTL: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(1) };

/// How long after its creation an image takes chmod, chown and utimes without effect, so that
/// `cp -p`, `rsync -a` and `tar -x`, which set them last, end well.
const FRESH: Duration = Duration::from_secs(60);

/// Images created here that are remembered as fresh; a restore of more at once loses nothing but
/// the courtesy.
const FRESH_KEPT: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Processes that copy attributes at once.
const COPIERS_KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Images whose last failure is remembered after their last close.
const FAILURES_KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Images kept that are not listed: a hypervisor has a handful open.
const UNLISTED_KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The layers that files are made of.
pub struct Layers {
    /// Where records are changed.
    pub service: Arc<dyn ImageService>,
    /// Where images are listed.
    pub catalog: Arc<Catalog>,
    /// Where read data are kept.
    pub cache: Cache,
    /// Where they come from.
    pub sources: Sources,
    /// What reads them.
    pub readers: Readers,
    /// Where written data go.
    pub uploads: Uploads,
}

/// An image that was created through this mount a moment ago.
#[derive(Debug, Clone, Copy)]
struct Fresh {
    made: Instant,
    /// Who wrote it.
    writer: Option<ThreadGroup>,
}

/// The images as files.
pub struct ImageFs {
    layers: Layers,
    access: AccessConfig,
    prefetch: Prefetch,
    hold: Hold,
    fills: Fills,
    vetting: Vetting,
    bases: Bases,
    attributes: Attributes,
    inodes: Mutex<Inodes>,
    handles: Handles,
    /// Files that are being written, by the id they will have.
    drafts: Mutex<std::collections::HashMap<ImageId, Arc<DraftFile>>>,
    misses: Mutex<LruCache<String, Instant>>,
    fresh: Mutex<LruCache<ImageId, Fresh>>,
    /// What was asked for reservations, until their data are sent.
    asked: Mutex<LruCache<ImageId, Metadata>>,
    turns: Turns,
    /// Processes that set what only Glance sets, and when: they copy attributes.
    copiers: Mutex<LruCache<Option<ThreadGroup>, Instant>>,
    /// Images that were asked for by id and are not listed, and when they were shown.
    unlisted: Mutex<LruCache<ImageId, (Arc<Image>, Instant)>>,
    /// For `df`.
    usage: Arc<KeptUsage>,
    events: Arc<Events>,
    /// When the mount began.
    begun: SystemTime,
    /// How files were opened.
    opens: OpenCounters,
    /// How images are read, for `.glancefs/status`.
    way: Mutex<String>,
    /// The last failure of an image, for `user.glancefs.last_error`.
    failures: Mutex<LruCache<ImageId, String>>,
    /// Told by operations, besides what a new listing changes.
    invalidate: tokio::sync::broadcast::Sender<Invalidation>,
}

impl ImageFs {
    /// The files of `layers`, as `access` wants them; `prefetch` says when they are read unasked, `guests` what is
    /// done for hypervisors, `trust` what is asked of images first.
    pub fn new(
        layers: Layers,
        access: AccessConfig,
        prefetch: Prefetch,
        guests: GuestsConfig,
        trust: TrustConfig,
    ) -> Arc<Self> {
        let attributes = Attributes::new(access.clone(), layers.catalog.ttl());
        let events = Arc::new(Events::default());
        let told = Arc::clone(&events);
        layers.uploads.listen(move |line| told.note(line));
        for line in layers.uploads.leftovers() {
            events.note(format!("unfinished upload of an earlier mount: {line}"));
        }
        Arc::new(Self {
            access,
            prefetch,
            hold: guests.hold,
            fills: Fills::default(),
            vetting: Vetting::new(trust),
            bases: Bases::new(guests.nova_base),
            attributes,
            inodes: Mutex::default(),
            handles: Handles::default(),
            drafts: Mutex::default(),
            misses: Mutex::new(LruCache::new(MISSES_KEPT)),
            fresh: Mutex::new(LruCache::new(FRESH_KEPT)),
            asked: Mutex::new(LruCache::new(FRESH_KEPT)),
            turns: Turns::default(),
            copiers: Mutex::new(LruCache::new(COPIERS_KEPT)),
            unlisted: Mutex::new(LruCache::new(UNLISTED_KEPT)),
            usage: Arc::default(),
            events,
            begun: SystemTime::now(),
            opens: OpenCounters::default(),
            way: Mutex::default(),
            failures: Mutex::new(LruCache::new(FAILURES_KEPT)),
            invalidate: tokio::sync::broadcast::Sender::new(1024),
            layers,
        })
    }

    /// What names the content of `image` in the cache.
    fn identity(&self, image: &Image) -> ContentIdentity {
        ContentIdentity::of(image, self.layers.service.cloud_key(), self.layers.service.project_id())
    }

    /// The file that is being written under this id.
    fn draft(&self, id: &ImageId) -> Option<Arc<DraftFile>> {
        lock(&self.drafts).get(id).filter(|file| file.is_open()).cloned()
    }

    /// The file that is being written under this name.
    fn draft_named(&self, name: &str) -> Option<Arc<DraftFile>> {
        lock(&self.drafts).values().find(|file| file.is_open() && file.name() == name).cloned()
    }

    /// What an inode of the kernel stands for.
    fn node(&self, ino: Ino) -> Result<Node> {
        lock(&self.inodes).node(ino).ok_or_else(|| Error::new(Kind::Stale, "no such inode"))
    }

    /// Nothing may change on a read-only mount.
    fn writable(&self) -> Result<()> {
        if self.access.read_only {
            return Err(Error::new(Kind::ReadOnly, "the mount is read-only"));
        }
        Ok(())
    }

    /// A failure of an image, for those who look at it or at `.glancefs/errors`.
    fn note_failure(&self, id: &ImageId, what: &str) {
        self.events.note(what);
        lock(&self.failures).put(id.clone(), what.to_owned());
    }

    /// How files were opened so far.
    pub fn opens(&self) -> &OpenCounters {
        &self.opens
    }

    /// Takes down how images are read, for `.glancefs/status`.
    pub fn set_way(&self, way: impl Into<String>) {
        *lock(&self.way) = way.into();
    }

    /// An image turned out not to match its hash: the kernel must drop what it holds of it.
    pub fn mismatched(&self, mismatch: &Mismatch) -> Vec<Invalidation> {
        self.note_failure(&mismatch.image, &mismatch.what);
        self.inos_of(&mismatch.image).into_iter().map(Invalidation::Data).collect()
    }

    /// The inodes of an image: of itself, and of its file in `.nova-base` where the kernel knows it.
    pub fn inos_of(&self, image: &ImageId) -> Vec<Ino> {
        let inodes = lock(&self.inodes);
        let base = inodes.number(&Node::Base(image.clone()));
        let mut inos = vec![inodes.number(&Node::Image(image.clone()))];
        inos.extend(inodes.is_known(base).then_some(base));
        inos
    }

    /// An act that wants an option: without it one log line says which.
    fn permitted(&self, allowed: bool, option: &str, act: impl FnOnce() -> String) -> Result<()> {
        self.writable()?;
        if allowed {
            return Ok(());
        }
        let text = format!("refused to {}: the mount was made without {option}", act());
        warn!("{text}");
        self.events.note(text.clone());
        Err(Error::new(Kind::NotPermitted, text))
    }
}

/// A poisoned lock is used on: what these locks guard is whole after each statement, and a panic in
/// one operation must not end the mount.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
