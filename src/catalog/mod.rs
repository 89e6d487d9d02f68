//! The images as last listed: TTL, paging, the last good list, and what changed since.
//!
//! One paged walk fills every attribute of every image; look-ups and `stat` then cost no request.
//! A list older than its TTL is fetched again in the background when somebody uses the mount; while
//! the servers are down the last good list stays.

mod saved;
mod snapshot;
#[cfg(test)]
mod tests;
mod walk;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, broadcast};
use tracing::{debug, info, warn};

pub use snapshot::Snapshot;

use crate::config::CatalogConfig;
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, ImageService, Schema};
use crate::units::ImageId;

/// Listings that a slow listener may lag behind before it is told to look at everything (16: a
/// listener is woken for each, and one message carries a whole new list).
const CHANGES_KEPT: usize = 16;

/// How long `refresh_if_stale` makes a caller wait for a new list before the old one is shown. A
/// person who types `ls` after an hour wants today's images, and does not want to wait for a dead
/// server.
const PATIENCE: Duration = Duration::from_secs(5);

/// The list before and after a change; equal lists are not announced.
#[derive(Debug, Clone)]
pub struct Changed {
    /// What was shown until now.
    pub old: Arc<Snapshot>,
    /// What is shown from now on.
    pub new: Arc<Snapshot>,
}

/// The images of the cloud as this mount knows them.
pub struct Catalog {
    service: Arc<dyn ImageService>,
    config: CatalogConfig,
    /// Where the last list is kept for `--allow-stale`.
    saved_at: Option<PathBuf>,
    state: RwLock<State>,
    schema: RwLock<Schema>,
    /// Held by the one walk that is under way.
    walking: Mutex<()>,
    /// The last walk failed: said once in the log, until one succeeds.
    failing: AtomicBool,
    changes: broadcast::Sender<Changed>,
}

struct State {
    current: Arc<Snapshot>,
    /// When the list was fetched; `None` for one that was read from a file.
    listed_at: Option<Instant>,
}

impl Catalog {
    /// A catalogue with nothing in it yet; the last list is saved in the file `saved_at`.
    pub fn new(service: Arc<dyn ImageService>, config: CatalogConfig, saved_at: Option<PathBuf>) -> Self {
        let current = Arc::new(Snapshot::default());
        Self {
            service,
            config,
            saved_at,
            state: RwLock::new(State { current, listed_at: None }),
            schema: RwLock::default(),
            walking: Mutex::default(),
            failing: AtomicBool::new(false),
            changes: broadcast::Sender::new(CHANGES_KEPT),
        }
    }

    /// The first listing. With `--allow-stale` a saved list serves when no server answers.
    ///
    /// # Errors
    /// The failure of the listing; of a saved list that cannot be read, with that as well.
    pub async fn start(&self) -> Result<()> {
        match self.first_listing().await {
            Ok(()) => Ok(()),
            Err(error) if self.config.allow_stale && error.kind().is_transient() => {
                let saved = self.load_saved().await.map_err(|load| {
                    Error::new(
                        error.kind(),
                        format!("{error}; and there is no saved list to mount with: {load}"),
                    )
                })?;
                warn!(%error, images = saved.0.len(), "no server answers: mounted with the saved list of images");
                *write_lock(&self.schema) = saved.1;
                self.publish(saved.0, None, &Snapshot::default());
                self.failing.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn first_listing(&self) -> Result<()> {
        let schema = self.service.schema().await?;
        *write_lock(&self.schema) = schema;
        self.refresh().await
    }

    async fn load_saved(&self) -> Result<(Snapshot, Schema)> {
        let path =
            self.saved_at.clone().ok_or_else(|| Error::new(Kind::Config, "no folder to keep one in"))?;
        crate::catalog::saved::load(path).await
    }

    /// Names the cloud to people and to the cache.
    pub fn cloud_key(&self) -> &str {
        self.service.cloud_key()
    }

    /// The images as last listed.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&read_lock(&self.state).current)
    }

    /// Which keys of a record are attributes of the API.
    pub fn schema(&self) -> Schema {
        read_lock(&self.schema).clone()
    }

    /// Every later change of the list.
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    /// The list is older than its TTL, or was never fetched.
    pub fn is_stale(&self) -> bool {
        read_lock(&self.state).listed_at.is_none_or(|at| at.elapsed() >= self.config.ttl)
    }

    /// The last listing failed: what is shown is the last good one.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// How long what is known now may be believed without asking again.
    pub fn ttl(&self) -> Duration {
        self.config.ttl
    }

    /// Fetches a stale list again, waiting for it a little; the old list serves when that fails.
    pub async fn refresh_if_stale(self: &Arc<Self>) {
        if !self.is_stale() {
            return;
        }
        let walk = tokio::spawn({
            let catalog = Arc::clone(self);
            async move { catalog.refresh_unless_fresh().await }
        });
        if tokio::time::timeout(PATIENCE, walk).await.is_err() {
            debug!("the new list takes long: showing the old one meanwhile");
        }
    }

    /// Starts to fetch a stale list again, and does not wait.
    pub fn refresh_behind(self: &Arc<Self>) {
        if self.is_stale() && self.walking.try_lock().is_ok() {
            let catalog = Arc::clone(self);
            tokio::spawn(async move { catalog.refresh_unless_fresh().await });
        }
    }

    async fn refresh_unless_fresh(&self) {
        let _one_at_a_time = self.walking.lock().await;
        if self.is_stale()
            && let Err(error) = self.walk().await
        {
            // After a failure the old list counts as fresh for a while: a dead server must not make
            // every `ls` wait.
            let mut state = write_lock(&self.state);
            state.listed_at = Some(Instant::now());
            drop(state);
            if !self.failing.swap(true, Ordering::Relaxed) {
                warn!(%error, "cannot list the images: the last good list stays");
            }
        }
    }

    /// Fetches the list now.
    ///
    /// # Errors
    /// Those of the listing; the old list stays.
    pub async fn refresh(&self) -> Result<()> {
        let _one_at_a_time = self.walking.lock().await;
        self.walk().await
    }

    async fn walk(&self) -> Result<()> {
        let began = Instant::now();
        let before = self.snapshot();
        let images = walk::every_image(self.service.as_ref()).await?;
        let listed = Snapshot::new(images);
        debug!(images = listed.len(), took = ?began.elapsed(), "listed");
        if self.failing.swap(false, Ordering::Relaxed) {
            info!(images = listed.len(), "listing the images works again");
        }
        if read_lock(&self.schema).attributes.is_empty() {
            let schema = self.service.schema().await?;
            *write_lock(&self.schema) = schema;
        }
        let saved = self.saved_at.clone();
        if let Some(new) = self.publish(listed, Some(began), &before)
            && let Some(path) = saved
        {
            saved::save(path, new, self.schema()).await;
        }
        Ok(())
    }

    /// Makes `new` the list and tells the listeners; the list itself when it differs from the old.
    ///
    /// What this mount changed since `before` (the list when the walk began) wins over what the walk
    /// saw: an image created a moment ago must not vanish until the next walk.
    fn publish(
        &self,
        mut new: Snapshot,
        listed_at: Option<Instant>,
        before: &Snapshot,
    ) -> Option<Arc<Snapshot>> {
        let mut state = write_lock(&self.state);
        state.listed_at = listed_at.or(state.listed_at);
        for image in state.current.iter() {
            if before.get(&image.id).is_none_or(|old| !Arc::ptr_eq(old, image)) {
                new.insert(Arc::clone(image));
            }
        }
        for image in before.iter().filter(|image| state.current.get(&image.id).is_none()) {
            new.remove(&image.id);
        }
        self.replace(&mut state, new)
    }

    /// Puts `new` in place of the current list and announces it, unless they are equal.
    fn replace(&self, state: &mut State, new: Snapshot) -> Option<Arc<Snapshot>> {
        if new == *state.current {
            return None;
        }
        let new = Arc::new(new);
        let old = std::mem::replace(&mut state.current, Arc::clone(&new));
        // Sent under the lock, so that listeners see changes in their order; nobody listening is fine.
        let _ = self.changes.send(Changed { old, new: Arc::clone(&new) });
        Some(new)
    }

    fn edit(&self, edit: impl FnOnce(&mut Snapshot)) {
        let mut state = write_lock(&self.state);
        let mut new = (*state.current).clone();
        edit(&mut new);
        self.replace(&mut state, new);
    }

    /// Takes over what the server just said of one image.
    pub fn learn(&self, image: Image) -> Arc<Image> {
        let image = Arc::new(image);
        self.edit(|list| list.insert(Arc::clone(&image)));
        image
    }

    /// Forgets an image that the server just called gone.
    pub fn forget(&self, id: &ImageId) {
        self.edit(|list| list.remove(id));
    }

    /// Asks the server for images of this name that the list does not have yet.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn find_by_name(&self, name: &str) -> Result<Vec<Arc<Image>>> {
        let found: Vec<_> = self.service.find_by_name(name).await?.into_iter().map(Arc::new).collect();
        if !found.is_empty() {
            self.edit(|list| found.iter().for_each(|image| list.insert(Arc::clone(image))));
        }
        Ok(found)
    }

    /// Asks the server for one image; a listed one is taken over, and forgotten when it is gone. One
    /// that is not listed stays so: it may be an image that listings do not show.
    ///
    /// # Errors
    /// Those of the request; `NotFound` when there is no such image.
    pub async fn show(&self, id: &ImageId) -> Result<Arc<Image>> {
        match self.service.show(id).await {
            Ok(image) if self.snapshot().get(id).is_none() => Ok(Arc::new(image)),
            Ok(image) => Ok(self.learn(image)),
            Err(error) => {
                if error.kind() == Kind::NotFound {
                    self.forget(id);
                }
                Err(error)
            }
        }
    }
}

/// A poisoned lock still holds a whole list: every write of it is one assignment.
fn read_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
