//! The images as last listed: TTL, refreshes, the last good list, and what changed since.
//!
//! A walk over the whole list fills every attribute of every image; look-ups and `stat` then cost no
//! request. A list older than its TTL is refreshed in the background when somebody uses the mount;
//! while the servers are down the last good list stays.

#[doc(hidden)]
pub mod fuzzing;
pub mod names;
mod records;
mod refresh;
mod snapshot;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, broadcast};
use tracing::{debug, info, warn};

pub use snapshot::Snapshot;

use crate::blocking::blocking;
use crate::config::CatalogConfig;
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, ImageService, Schema};
use crate::units::ImageId;
use refresh::{Found, Refresher};
use snapshot::{Edit, Listed};

/// Listings that a slow listener may lag behind before it is told to look at everything (16: a
/// listener is woken for each, and one message carries a whole new list).
const CHANGES_KEPT: usize = 16;

/// How long after its begin a refresh is waited for by those who use the mount; then the old list is
/// shown. A person who types `ls` after an hour wants today's images, and does not want to wait for a
/// dead server.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the first answer is waited for where a saved list can stand in (`--allow-stale`): a request to servers that
/// are away goes on for `--timeout`, and a host that starts during an outage shall have its images before.
pub const STAND_IN: Duration = Duration::from_secs(10);

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
    /// Where the records of the list are kept, also for `--allow-stale`.
    saved_at: Option<PathBuf>,
    /// Held for moments only: a new list is made beside it.
    state: RwLock<State>,
    schema: RwLock<Schema>,
    /// Held by the one refresh that is under way.
    refresher: Mutex<Refresher>,
    /// When that began.
    refresh_began: RwLock<tokio::time::Instant>,
    /// Told when what a refresh found first is shown, or when it failed.
    refreshed: Notify,
    /// The last refresh failed: said once in the log, until one succeeds.
    failing: AtomicBool,
    /// A record could not be read from the disk: said once in the log.
    is_loss_told: AtomicBool,
    changes: broadcast::Sender<Changed>,
}

struct State {
    current: Arc<Snapshot>,
    /// When the list was fetched; `None` for one that was read from a file.
    listed_at: Option<Instant>,
}

impl Catalog {
    /// A catalogue with nothing in it yet; records are kept in the file `saved_at`.
    pub fn new(service: Arc<dyn ImageService>, config: CatalogConfig, saved_at: Option<PathBuf>) -> Self {
        let current = Arc::new(Snapshot::of_project(service.project_id()));
        Self {
            service,
            config,
            refresher: Mutex::new(Refresher::new(saved_at.clone())),
            refresh_began: RwLock::new(tokio::time::Instant::now()),
            refreshed: Notify::new(),
            saved_at,
            state: RwLock::new(State { current, listed_at: None }),
            schema: RwLock::default(),
            failing: AtomicBool::new(false),
            is_loss_told: AtomicBool::new(false),
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
                let images = self.load_saved().await.map_err(|load| {
                    Error::new(
                        error.kind(),
                        format!("{error}; and there is no saved list to mount with: {load}"),
                    )
                })?;
                warn!(%error, images, "no server answers: mounted with the saved list of images");
                self.failing.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn first_listing(&self) -> Result<()> {
        let schema = self.service.schema();
        let schema = if self.config.allow_stale && self.has_saved().await {
            let late =
                || Error::new(Kind::TimedOut, format!("no server answered within {} s", STAND_IN.as_secs()));
            tokio::time::timeout(STAND_IN, schema).await.map_err(|_| late())??
        } else {
            schema.await?
        };
        *write_lock(&self.schema) = schema;
        self.refresh().await
    }

    async fn has_saved(&self) -> bool {
        let Some(path) = self.saved_at.clone() else { return false };
        blocking(move || Ok(path.is_file())).await.unwrap_or(false)
    }

    async fn load_saved(&self) -> Result<usize> {
        let path =
            self.saved_at.clone().ok_or_else(|| Error::new(Kind::Config, "no folder to keep one in"))?;
        let (edits, schema) = blocking(move || records::load(&path)).await?;
        *write_lock(&self.schema) = schema;
        let before = self.snapshot();
        let found = Found { news: edits.len(), edits };
        self.publish(&before, found, None).await?;
        Ok(self.snapshot().len())
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

    /// How old the list is; `None` for one that no server has told yet, and for one that is known to be old.
    pub fn age(&self) -> Option<Duration> {
        read_lock(&self.state).listed_at.map(|at| at.elapsed())
    }

    /// Whoever uses the mount next refreshes the list.
    pub fn expire(&self) {
        write_lock(&self.state).listed_at = None;
    }

    /// The last listing failed: what is shown is the last good one.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// How long what is known now may be believed without asking again.
    pub fn ttl(&self) -> Duration {
        self.config.ttl
    }

    /// Refreshes a stale list, waiting for it a little; the old list serves when that fails.
    pub async fn refresh_if_stale(self: &Arc<Self>) {
        if !self.is_stale() {
            return;
        }
        let mut refreshed = std::pin::pin!(self.refreshed.notified());
        refreshed.as_mut().enable();
        self.refresh_behind();
        // It may have ended before this began to listen.
        if self.is_stale() {
            let waited = read_lock(&self.refresh_began).elapsed();
            if tokio::time::timeout(self.patience().saturating_sub(waited), refreshed).await.is_err() {
                debug!("the new list takes long: showing the old one meanwhile");
            }
        }
    }

    /// Half of the deadline of a reply at most: the rest is for the reply.
    fn patience(&self) -> Duration {
        PATIENCE.min(self.config.timeout / 2)
    }

    /// Starts to refresh a stale list, unless that is under way, and does not wait.
    pub fn refresh_behind(self: &Arc<Self>) {
        if self.is_stale() && self.refresher.try_lock().is_ok() {
            *write_lock(&self.refresh_began) = tokio::time::Instant::now();
            let catalog = Arc::clone(self);
            tokio::spawn(async move { catalog.refresh_unless_fresh().await });
        }
    }

    async fn refresh_unless_fresh(&self) {
        let mut refresher = self.refresher.lock().await;
        if self.is_stale()
            && let Err(error) = self.refresh_with(&mut refresher).await
        {
            // After a failure the old list counts as fresh for a while: a dead server must not make
            // every `ls` wait.
            write_lock(&self.state).listed_at = Some(Instant::now());
            if !self.failing.swap(true, Ordering::Relaxed) {
                warn!(%error, "cannot list the images: the last good list stays");
            }
        }
        self.refreshed.notify_waiters();
    }

    /// Refreshes the list now.
    ///
    /// # Errors
    /// Those of the listing; the old list stays.
    pub async fn refresh(&self) -> Result<()> {
        let mut refresher = self.refresher.lock().await;
        self.refresh_with(&mut refresher).await
    }

    /// First what was changed, which costs one request and is shown at once; then, where it is time for
    /// that, the whole list.
    async fn refresh_with(&self, refresher: &mut Refresher) -> Result<()> {
        let before = self.snapshot();
        let whole = refresher.wants_whole(&before, self.config.ttl);
        if refresher.can_ask_for_changes(&before) {
            let began = Instant::now();
            match refresher.changes(self.service.as_ref(), &before).await {
                Ok(found) => {
                    self.publish(&before, found, Some(began)).await?;
                    self.refreshed.notify_waiters();
                    if !whole {
                        return Ok(());
                    }
                }
                Err(error) if error.kind().is_transient() => return Err(error),
                // Servers before Mitaka do not know the filter.
                Err(error) => debug!(%error, "cannot ask for changes: listing all images"),
            }
        }
        let (began, before) = (Instant::now(), self.snapshot());
        if read_lock(&self.schema).attributes.is_empty() {
            let schema = self.service.schema().await?;
            *write_lock(&self.schema) = schema;
        }
        let found = refresher.whole(self.service.as_ref(), &before, &self.schema()).await?;
        self.publish(&before, found, Some(began)).await?;
        refresher.tidy_up();
        Ok(())
    }

    /// Does what was found to the list and tells the listeners, if there is news.
    ///
    /// What this mount changed since `before` (the list when the refresh began) wins over what was
    /// found: an image created a moment ago must not vanish until the next refresh.
    async fn publish(&self, before: &Arc<Snapshot>, found: Found, listed_at: Option<Instant>) -> Result<()> {
        debug!(news = found.news, "listed");
        if listed_at.is_some() && self.failing.swap(false, Ordering::Relaxed) {
            info!("listing the images works again");
        }
        let list = if found.edits.is_empty() {
            None
        } else {
            let mut list = Snapshot::clone(before);
            // A hundred thousand new names take a while.
            Some(
                blocking(move || {
                    list.apply(found.edits);
                    Ok(list)
                })
                .await?,
            )
        };
        let mut state = write_lock(&self.state);
        state.listed_at = listed_at.or(state.listed_at);
        if let Some(mut list) = list {
            if !Arc::ptr_eq(before, &state.current) {
                list.apply(before.edits_to(&state.current));
            }
            self.replace(&mut state, list, found.news > 0);
        }
        Ok(())
    }

    /// Puts `new` in place of the current list and announces it, if there is news in it.
    fn replace(&self, state: &mut State, new: Snapshot, news: bool) {
        let new = Arc::new(new);
        let old = std::mem::replace(&mut state.current, Arc::clone(&new));
        if news {
            // Sent under the lock, so that listeners see changes in their order; nobody listening is fine.
            let _ = self.changes.send(Changed { old, new });
        }
    }

    fn edit(&self, edits: impl IntoIterator<Item = Edit>) {
        let mut state = write_lock(&self.state);
        let known = |edit: &Edit| match (state.current.get(edit.id()), edit) {
            (Some(known), Edit::Put(new)) => *known == new.image,
            (known, Edit::Remove(_)) => known.is_none(),
            (None, Edit::Put(_)) => false,
        };
        let edits: Vec<_> = edits.into_iter().filter(|edit| !known(edit)).collect();
        if !edits.is_empty() {
            let mut new = Snapshot::clone(&state.current);
            new.apply(edits);
            self.replace(&mut state, new, true);
        }
    }

    /// Takes over what the server just said of one image.
    pub fn learn(&self, image: Image) -> Arc<Image> {
        let image = Arc::new(image);
        self.edit([put(&image)]);
        image
    }

    /// Forgets an image that the server just called gone.
    pub fn forget(&self, id: &ImageId) {
        self.edit([Edit::Remove(id.clone())]);
    }

    /// Asks the server for images of this name that the list does not have yet.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn find_by_name(&self, name: &str) -> Result<Vec<Arc<Image>>> {
        let found: Vec<_> = self.service.find_by_name(name).await?.into_iter().map(Arc::new).collect();
        self.edit(found.iter().map(put));
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

    /// The record of an image: as listed, else as the server shows it.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn record(&self, image: &Image) -> Result<Box<str>> {
        if let Some(text) = image.record.text() {
            return Ok(text.into());
        }
        let list = self.snapshot();
        if let Some((_, listed)) = list.listed(&image.id) {
            if let Some(text) = listed.image.record.text() {
                return Ok(text.into());
            }
            if let Some(kept) = listed.kept.clone() {
                let len = listed.image.record.len();
                let lost = match blocking(move || kept.read(len)).await {
                    Ok(text) if listed.image.record.is(&text) => return Ok(text),
                    Ok(_) => Error::new(Kind::Integrity, "it was changed on disk"),
                    Err(error) => error,
                };
                if !self.is_loss_told.swap(true, Ordering::Relaxed) {
                    warn!(image = %image.id, error = %lost, "records are lost from the saved list: the server is asked for them");
                }
            }
        }
        let mut shown = self.service.show(&image.id).await?;
        shown.record.put_away().ok_or_else(|| Error::new(Kind::ServerError, "an image without a record"))
    }

    /// The image together with its record.
    ///
    /// # Errors
    /// Those of [`record`](Self::record).
    pub async fn with_record(&self, image: &Image) -> Result<Image> {
        let record = self.record(image).await?;
        Ok(Image { record: (&*record).into(), ..image.clone() })
    }
}

/// The entry of an image whose record is in memory, until the next refresh puts it away.
fn put(image: &Arc<Image>) -> Edit {
    Edit::Put(Listed { image: Arc::clone(image), kept: None })
}

/// A poisoned lock still holds a whole list: every write of it is one assignment.
fn read_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
