//! Whole images: filled because somebody asked or because they were opened, and dropped from the cache.
//!
//! A fill lives as long as a handle that wants it: when the last one is closed, by whatever end of its
//! process, the fill stops and what came stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::handle::Handle;
use super::{HandleId, ImageFs, Ino, Invalidation, lock};
use crate::blocking::blocking;
use crate::cache::{CachedImage, Evicted, Verified};
use crate::config::Prefetch;
use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::ioctl::{Progress, Stage};
use crate::read::Reader;
use crate::units::ImageId;

/// Who wants an image to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wish {
    /// A person, who waits for it.
    Asked,
    /// Nobody: it was opened (`--prefetch open`).
    Opened,
}

impl Wish {
    /// Requests under way at once: a stream's window for who waits, half of it for who does not.
    fn at_once(self) -> usize {
        match self {
            Self::Asked => 4,
            Self::Opened => 2,
        }
    }

    /// How long a handle must have been open first. Programs that only look what a file is, such as `file`
    /// and `qemu-img info`, are done by then.
    fn delay(self) -> Duration {
        match self {
            Self::Asked => Duration::ZERO,
            Self::Opened => Duration::from_secs(2),
        }
    }
}

/// Where a fill is.
#[derive(Debug, Clone)]
enum State {
    Filling,
    Verifying,
    Done(Verified),
    Failed(Kind, Arc<str>),
}

/// One image being filled; ends when dropped.
pub(super) struct Fill {
    cached: Arc<CachedImage>,
    state: watch::Receiver<State>,
    task: AbortOnDropHandle<()>,
}

impl Fill {
    fn begin(id: ImageId, cached: Arc<CachedImage>, wish: Wish) -> Self {
        let (sender, state) = watch::channel(State::Filling);
        let image = Arc::clone(&cached);
        let task = tokio::spawn(async move {
            tokio::time::sleep(wish.delay()).await;
            let outcome = async {
                image.complete(wish.at_once()).await?;
                sender.send_replace(State::Verifying);
                image.proof().await
            };
            let end = match outcome.await {
                Ok(proof) => State::Done(proof),
                Err(error) => {
                    info!(image = %id, %error, ?wish, "the image was not filled");
                    State::Failed(error.kind(), error.to_string().into())
                }
            };
            sender.send_replace(end);
        });
        Self { cached, state, task: AbortOnDropHandle::new(task) }
    }

    fn is_over(&self) -> bool {
        self.task.is_finished() || matches!(*self.state.borrow(), State::Done(_) | State::Failed(..))
    }

    /// How it ends.
    ///
    /// # Errors
    /// Those of the source, of the cache disk and of the verification; `Busy`: it was stopped by an eviction.
    pub(super) async fn outcome(&self) -> Result<Verified> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                State::Done(proof) => return Ok(*proof),
                State::Failed(kind, why) => return Err(Error::new(*kind, why.to_string())),
                State::Filling | State::Verifying => {}
            }
            if state.changed().await.is_err() {
                return Err(Error::new(Kind::Busy, "the image was evicted meanwhile"));
            }
        }
    }

    fn progress(&self) -> (Stage, String) {
        match &*self.state.borrow() {
            State::Done(Verified::None) => (Stage::Done, String::new()),
            State::Done(proof) => (Stage::Done, proof.word().to_owned()),
            State::Failed(_, why) => (Stage::Failed, why.to_string()),
            _ if self.task.is_finished() => (Stage::Failed, "it was evicted meanwhile".to_owned()),
            State::Filling => (Stage::Filling, String::new()),
            State::Verifying => (Stage::Verifying, String::new()),
        }
    }
}

/// Every fill that some handle wants. Its lock is a leaf.
#[derive(Default)]
pub(super) struct Fills {
    running: Mutex<HashMap<(ImageId, Wish), Weak<Fill>>>,
}

impl Fills {
    /// The fill of this image, begun unless one is under way.
    pub(super) fn of(&self, id: &ImageId, cached: &Arc<CachedImage>, wish: Wish) -> Arc<Fill> {
        let mut running = lock(&self.running);
        running.retain(|_, fill| fill.strong_count() > 0);
        let known = running.get(&(id.clone(), wish)).and_then(Weak::upgrade);
        // An image that did not match its hash is another one when it is opened again.
        if let Some(fill) = known.filter(|fill| !fill.is_over() && Arc::ptr_eq(&fill.cached, cached)) {
            return fill;
        }
        let fill = Arc::new(Fill::begin(id.clone(), Arc::clone(cached), wish));
        running.insert((id.clone(), wish), Arc::downgrade(&fill));
        fill
    }

    /// Ends every fill of an image, whoever wants it.
    fn stop(&self, id: &ImageId) {
        let running = lock(&self.running);
        running.iter().filter(|((image, _), _)| image == id).filter_map(|(_, fill)| fill.upgrade()).for_each(
            |fill| {
                fill.task.abort();
            },
        );
    }

    /// Somebody waits for this image to be filled, or it is being filled because it is open.
    pub(super) fn is_running(&self, id: &ImageId) -> bool {
        let running = lock(&self.running);
        let of = |wish| running.get(&(id.clone(), wish)).and_then(Weak::upgrade);
        [Wish::Asked, Wish::Opened].into_iter().filter_map(of).any(|fill| !fill.is_over())
    }
}

/// The fills that one handle wants.
pub(super) struct Wanted {
    /// Kept for as long as the handle is open; nobody looks at it.
    _opened: Option<Arc<Fill>>,
    asked: Mutex<Option<Arc<Fill>>>,
}

impl ImageFs {
    /// What a new handle on an image wants of it.
    pub(super) fn wanted(&self, image: &Image, reader: &Reader) -> Wanted {
        let fill = || self.fills.of(&image.id, reader.image(), Wish::Opened);
        Wanted { _opened: (self.prefetch == Prefetch::Open).then(fill), asked: Mutex::default() }
    }

    /// Begins to bring all of an open image into the cache; it ends with the handle.
    ///
    /// # Errors
    /// `Invalid`: it is no image. `Busy`: it is being written.
    pub fn prefetch(&self, handle: HandleId) -> Result<()> {
        match &*self.handles.get(handle)? {
            Handle::Image { reader, image, wanted, .. } => {
                let mut asked = lock(&wanted.asked);
                if asked.as_ref().is_none_or(|fill| fill.is_over()) {
                    *asked = Some(self.fills.of(&image.id, reader.image(), Wish::Asked));
                }
                Ok(())
            }
            Handle::Draft(_) => Err(Error::new(Kind::Busy, "the image is being written")),
            Handle::Text(_) | Handle::Record(_) | Handle::Uploads { .. } | Handle::Directory(_) => {
                Err(no_image())
            }
        }
    }

    /// How far that is.
    ///
    /// # Errors
    /// `Invalid`: it is no image.
    pub async fn prefetch_progress(&self, handle: HandleId) -> Result<Progress> {
        let handle = self.handles.get(handle)?;
        let Handle::Image { reader, image, wanted, .. } = &*handle else { return Err(no_image()) };
        let asked = lock(&wanted.asked).clone();
        let (stage, text) = asked.map_or((Stage::Idle, String::new()), |fill| fill.progress());
        let cached = Arc::clone(reader.image());
        // May look into the index.
        let cached = blocking(move || Ok(cached.cached_bytes())).await?;
        Ok(Progress { stage, size: image.size.unwrap_or(0), cached, text })
    }

    /// The image with this number, which the user `by` wants dropped from the cache: the mount's owner or root.
    ///
    /// # Errors
    /// `NotPermitted`; `Invalid`: no image has this number.
    pub fn evictable(&self, ino: Ino, by: u32) -> Result<ImageId> {
        if by != 0 && by != rustix::process::geteuid().as_raw() {
            let why = "only the user who mounted and root may drop images from the cache";
            return Err(Error::new(Kind::NotPermitted, why));
        }
        self.node(ino)?.image().cloned().ok_or_else(no_image)
    }

    /// Drops what is cached of an image. The kernel is told to drop it as well, shortly after. Who reads the
    /// image goes on, from the server.
    ///
    /// # Errors
    /// `Busy`: it is being written, or programs read it past us; those of the cache disk.
    pub async fn evict(&self, id: &ImageId) -> Result<Evicted> {
        if self.draft(id).is_some() {
            return Err(Error::new(Kind::Busy, "the image is being written"));
        }
        let image = self.image(id).await?;
        self.fills.stop(id);
        let evicted = self.layers.cache.evict(&self.identity(&image)).await?;
        info!(image = %id, freed = evicted.freed, "evicted");
        for ino in self.inos_of(id) {
            // Nobody listening is fine: the mount is ending.
            let _ = self.invalidate.send(Invalidation::Data(ino));
        }
        Ok(evicted)
    }
}

fn no_image() -> Error {
    Error::new(Kind::Invalid, "this is no image")
}
