//! Whole images: filled because somebody asked or because they were opened, and dropped from the cache.
//!
//! A fill lives as long as a handle that wants it: when the last one is closed, by whatever end of its
//! process, the fill stops and what came stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::control::Events;
use super::handle::Handle;
use super::{HandleId, ImageFs, Ino, Invalidation, lock};
use crate::blocking::blocking;
use crate::cache::{CachedImage, Evicted, Kept, Verified};
use crate::config::{Hold, Prefetch};
use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::ioctl::{Progress, Stage};
use crate::read::Reader;
use crate::units::{ImageId, human_bytes};

/// Between two tries to complete an image that is held while no server answers; each has tried for `--timeout` by then.
const AGAIN: Duration = Duration::from_secs(30);

/// Who wants an image to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wish {
    /// A person, who waits for it.
    Asked,
    /// Nobody: it was opened (`--prefetch open`).
    Opened,
    /// A guest, that shall not lose its disk when the image is deleted (`--hold open`).
    Held,
}

impl Wish {
    /// Requests under way at once: a stream's window for who waits, half of it for who does not.
    fn at_once(self) -> usize {
        match self {
            Self::Asked => 4,
            Self::Opened | Self::Held => 2,
        }
    }

    /// How long a handle must have been open first. Programs that only look what a file is, such as `file`
    /// and `qemu-img info`, are done by then.
    fn delay(self) -> Duration {
        match self {
            Self::Asked => Duration::ZERO,
            Self::Opened | Self::Held if cfg!(test) => Duration::from_millis(20),
            Self::Opened | Self::Held => Duration::from_secs(2),
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
    /// Of a held one, from before the first block is fetched.
    kept: Arc<OnceLock<Kept>>,
    task: AbortOnDropHandle<()>,
}

impl Fill {
    fn begin(id: ImageId, cached: Arc<CachedImage>, wish: Wish, events: Arc<Events>) -> Self {
        let (sender, state) = watch::channel(State::Filling);
        let image = Arc::clone(&cached);
        let kept = Arc::new(OnceLock::new());
        let keeping = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            tokio::time::sleep(wish.delay()).await;
            let outcome = async {
                match wish {
                    Wish::Held => hold(&image, &keeping, wish.at_once()).await?,
                    Wish::Asked | Wish::Opened => image.complete(wish.at_once()).await?,
                }
                sender.send_replace(State::Verifying);
                image.proof().await
            };
            let end = match outcome.await {
                Ok(proof) => {
                    if wish == Wish::Held {
                        info!(image = %id, "the image is held: all of it is in the cache");
                    }
                    State::Done(proof)
                }
                Err(error) => {
                    match wish {
                        Wish::Held => {
                            let text = not_held(&id, &image, &error);
                            warn!(image = %id, "{text}");
                            events.note_once(text);
                        }
                        _ => info!(image = %id, %error, ?wish, "the image was not filled"),
                    }
                    State::Failed(error.kind(), error.to_string().into())
                }
            };
            sender.send_replace(end);
        });
        Self { cached, state, kept, task: AbortOnDropHandle::new(task) }
    }

    fn is_over(&self) -> bool {
        self.task.is_finished() || matches!(*self.state.borrow(), State::Done(_) | State::Failed(..))
    }

    /// All of it is here, and stays.
    fn is_held(&self) -> bool {
        self.kept.get().is_some() && matches!(*self.state.borrow(), State::Done(_))
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

/// Brings all of an image to the cache, of which nothing leaves it from now on. Servers that are away are waited for as long as
/// the image is open.
async fn hold(image: &Arc<CachedImage>, kept: &OnceLock<Kept>, at_once: usize) -> Result<()> {
    // Nobody else sets it.
    let _ = kept.set(image.keep().await?);
    loop {
        match image.complete(at_once).await {
            Err(error) if error.kind().is_transient() => {
                debug!(%error, "an image that is held is not complete yet");
                tokio::time::sleep(AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

/// What a person is told of an open image that does not outlive its deletion.
fn not_held(id: &ImageId, image: &CachedImage, error: &Error) -> String {
    if error.kind() != Kind::Stale {
        return format!("image {id} is open and not held: {error}");
    }
    let [here, size] = [image.cached_bytes(), image.size()].map(human_bytes);
    format!(
        "image {id} was deleted while it is open: {here} of {size} are here and stay, reads of the rest give ESTALE"
    )
}

/// Every fill that some handle wants. Its lock is a leaf.
#[derive(Default)]
pub(super) struct Fills {
    running: Mutex<HashMap<(ImageId, Wish), Weak<Fill>>>,
}

impl Fills {
    /// The fill of this image, begun unless one is under way.
    pub(super) fn of(
        &self,
        id: &ImageId,
        cached: &Arc<CachedImage>,
        wish: Wish,
        events: &Arc<Events>,
    ) -> Arc<Fill> {
        let mut running = lock(&self.running);
        running.retain(|_, fill| fill.strong_count() > 0);
        let known = running.get(&(id.clone(), wish)).and_then(Weak::upgrade);
        // An image that did not match its hash is another one when it is opened again.
        let serves = |fill: &Arc<Fill>| {
            let is_there = !fill.is_over() || fill.is_held();
            is_there && Arc::ptr_eq(&fill.cached, cached)
        };
        if let Some(fill) = known.filter(serves) {
            return fill;
        }
        let fill = Arc::new(Fill::begin(id.clone(), Arc::clone(cached), wish, Arc::clone(events)));
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
        [Wish::Asked, Wish::Opened, Wish::Held].into_iter().filter_map(of).any(|fill| !fill.is_over())
    }

    /// All of the image is here, and stays.
    pub(super) fn is_held(&self, id: &ImageId) -> bool {
        let held = lock(&self.running).get(&(id.clone(), Wish::Held)).and_then(Weak::upgrade);
        held.is_some_and(|fill| fill.is_held())
    }

    /// What is here of the image stays.
    fn is_kept(&self, id: &ImageId) -> bool {
        let held = lock(&self.running).get(&(id.clone(), Wish::Held)).and_then(Weak::upgrade);
        held.is_some_and(|fill| fill.kept.get().is_some())
    }
}

/// The fills that one handle wants.
#[derive(Default)]
pub(super) struct Wanted {
    /// Kept for as long as the handle is open; nobody looks at it.
    opened: OnceLock<Arc<Fill>>,
    asked: Mutex<Option<Arc<Fill>>>,
}

impl ImageFs {
    /// Begins what a new handle wants of its image, once that may be read. An image that is read from its store wants
    /// nothing: an open file is there also when it is deleted.
    pub(super) fn begin_wanted(&self, image: &Image, reader: &Reader, wanted: &Wanted) {
        let wish = match (self.hold, self.prefetch) {
            (Hold::Open, _) => Some(Wish::Held),
            (Hold::Off, Prefetch::Open) => Some(Wish::Opened),
            (Hold::Off, Prefetch::Off) => None,
        };
        if let Some(wish) = wish {
            // Set once: a handle is vetted by the one who opened it.
            let _ = wanted.opened.set(self.fills.of(&image.id, reader.image(), wish, &self.events));
        }
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
                    *asked = Some(self.fills.of(&image.id, reader.image(), Wish::Asked, &self.events));
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
    /// `Busy`: it is being written, it is held, or programs read it past us; those of the cache disk.
    pub async fn evict(&self, id: &ImageId) -> Result<Evicted> {
        if self.draft(id).is_some() {
            return Err(Error::new(Kind::Busy, "the image is being written"));
        }
        if self.fills.is_kept(id) {
            return Err(Error::new(Kind::Busy, "the image is open and held (--hold open)"));
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
