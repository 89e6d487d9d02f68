//! What the service is asked for only when somebody wants to know it: attributes that are in no record, the
//! quota, and a second look at one image.
//!
//! These attributes are not in the list of names: `getfattr -d *` and `cp -a` would cost a request a file.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tracing::debug;
use url::Url;

use super::{ImageFs, Node, lock};
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Usage};
use crate::reference::ImageUrl;
use crate::units::ImageId;

/// The stores of the service, on the root directory.
const STORES: &str = "user.glance.stores";
/// The addresses of the service, on the root directory: those by which an image of it can be named.
const ENDPOINTS: &str = "user.glancefs.endpoints";
/// The address of an image at its service.
const URL: &str = "user.glance.url";
/// The projects an image is shared with.
const MEMBERS: &str = "user.glance.members";
/// Where its data are; with `--show-locations` only.
const LOCATIONS: &str = "user.glance.locations";
/// The first of these places.
const DIRECT_URL: &str = "user.glance.direct_url";

/// How long `df` waits for the quota; many programs ask for the free space in passing.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long "there are no limits" is believed: that is how a site is set up, and agents on a thousand hosts ask for
/// the free space each minute.
const NO_LIMITS: Duration = Duration::from_secs(3600);

/// The quota as last told, shared with whoever asks for it just now.
#[derive(Debug, Default)]
pub(super) struct KeptUsage {
    /// When, and what; `None`: nobody could tell.
    told: Mutex<Option<(Instant, Option<Usage>)>>,
    /// Held by who asks: one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The answer is there.
    news: tokio::sync::Notify,
}

impl ImageFs {
    /// The attribute `name` of something that is no image.
    ///
    /// # Errors
    /// `NoData` when it has none of this name; those of the request.
    pub(super) async fn directory_fact(&self, node: &Node, name: &str) -> Result<Vec<u8>> {
        match (node, name) {
            (Node::Root, STORES) => {
                let stores = self.layers.service.stores().await?;
                let stores: Vec<_> = stores.iter().map(crate::glance::Store::to_json).collect();
                Ok(Value::from(stores).to_string().into_bytes())
            }
            (Node::Root, ENDPOINTS) => Ok(self.layers.service.cloud_key().into()),
            _ => Err(absent(name)),
        }
    }

    /// The attribute `name` of an image, if it is one that is not in the record.
    ///
    /// # Errors
    /// `NoData` for members of an image that is not shared and for locations nobody may see; those of the request.
    pub(super) async fn asked_fact(&self, image: &Image, name: &str) -> Result<Option<Vec<u8>>> {
        let service = &self.layers.service;
        let value = match name {
            URL => self.url_of(&image.id).map(|url| url.to_string()),
            MEMBERS if matches!(&*image.visibility, "shared" | "private") => {
                match service.members(&image.id).await {
                    // v1 shares private images; v2 does not, and forbids the question.
                    Err(error) if error.kind() == Kind::Forbidden && &*image.visibility == "private" => None,
                    members => serde_json::to_string(&members?).ok(),
                }
            }
            LOCATIONS | DIRECT_URL if self.access.show_locations => {
                let key = name.trim_start_matches("user.glance.");
                match service.locations(&image.id).await?.remove(key) {
                    Some(Value::String(text)) => Some(text),
                    other => other.map(|value| value.to_string()),
                }
            }
            MEMBERS | LOCATIONS | DIRECT_URL => None,
            _ => return Ok(None),
        };
        value.map(|value| Some(value.into_bytes())).ok_or_else(|| absent(name))
    }

    /// Its address. Of several endpoints of a cloud the first in order, whichever is asked.
    fn url_of(&self, id: &ImageId) -> Option<ImageUrl> {
        let first = self.layers.service.cloud_key().split(' ').next()?;
        Some(ImageUrl { endpoint: Url::parse(first).ok()?, id: id.clone() })
    }

    /// Asks the service about one image now, whatever is known of it: somebody changed it.
    ///
    /// # Errors
    /// Those of the request. That there is no such image any more is none.
    pub async fn look_again(&self, id: &ImageId) -> Result<()> {
        lock(&self.unlisted).pop(id);
        lock(&self.misses).pop(id.as_str());
        match self.layers.catalog.show(id).await {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What the project uses and may use, not older than the list may be; `None` where nobody tells. What takes longer
    /// than [`PATIENCE`] is there for who asks next.
    pub(super) async fn quota(&self) -> Option<Usage> {
        let kept = &self.usage;
        if let Some(usage) = self.fresh_quota(*lock(&kept.told)) {
            return usage;
        }
        let mut news = std::pin::pin!(kept.news.notified());
        news.as_mut().enable();
        if let Ok(turn) = Arc::clone(&kept.turn).try_lock_owned() {
            let (kept, service) = (Arc::clone(kept), Arc::clone(&self.layers.service));
            tokio::spawn(async move {
                let usage =
                    service.usage().await.inspect_err(|error| debug!(%error, "no quota is known")).ok();
                *lock(&kept.told) = Some((Instant::now(), usage));
                kept.news.notify_waiters();
                drop(turn);
            });
        }
        // With time left for the reply.
        let late = tokio::time::timeout(PATIENCE.min(self.access.patience / 2), news).await.is_err();
        let mut told = lock(&kept.told);
        if late && self.fresh_quota(*told).is_none() {
            // Who asks meanwhile does not wait as well.
            *told = Some((Instant::now(), None));
        }
        self.fresh_quota(*told).flatten()
    }

    fn fresh_quota(&self, told: Option<(Instant, Option<Usage>)>) -> Option<Option<Usage>> {
        let (at, usage) = told?;
        let limit = if usage == Some(Usage::default()) { NO_LIMITS } else { self.layers.catalog.ttl() };
        (at.elapsed() < limit).then_some(usage)
    }
}

fn absent(name: &str) -> Error {
    Error::new(Kind::NoData, format!("no attribute {name}"))
}
