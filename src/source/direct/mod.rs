//! Image data from where they are stored, past Glance: what of an image's locations this host may read.
//!
//! The operator names the folders and schemes, the server tells the locations, and what it tells is checked: a file
//! must lie below a folder that was named and have the size of the image (`file`), an HTTP server is sent no token and
//! must have exactly the bytes asked for (`http`). Where that fails Glance is asked, which is logged once an image.

mod file;
mod http;

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use url::Url;

use crate::blocking::blocking;
use crate::config::DirectConfig;
use crate::glance::{Downloads, Image};
use crate::units::ImageId;

pub(super) use self::http::HttpImage;

/// How long an open may wait for the locations of an image, or for a shared file system: beyond, Glance is read.
const PATIENCE: Duration = Duration::from_secs(5);
/// Images whose locations are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// What may be read directly, and what is known of images.
pub(super) struct Direct {
    config: DirectConfig,
    downloads: Arc<dyn Downloads>,
    /// A leaf lock.
    known: Mutex<Known>,
}

/// The locations of an image as of its last change, which adding or removing one is.
type Known = LruCache<(ImageId, SystemTime), Arc<Vec<Url>>>;

impl Direct {
    pub(super) fn new(config: DirectConfig, downloads: Arc<dyn Downloads>) -> Self {
        Self { config, downloads, known: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    pub(super) fn reads_http(&self) -> bool {
        self.config.http
    }

    /// The locations of this image (by id and time of its last change); none when the server does not tell them in time.
    async fn locations(&self, id: &ImageId, updated_at: SystemTime) -> Arc<Vec<Url>> {
        let key = (id.clone(), updated_at);
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(known);
        }
        let asked = tokio::time::timeout(PATIENCE, self.downloads.places(id)).await;
        let found = match asked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(image = %id, %error, "the locations of the image are not known");
                return Arc::default();
            }
            Err(_) => return Arc::default(),
        };
        if found.is_empty() {
            tracing::info!(
                image = %id,
                "the server shows no locations of the image (show_image_direct_url, show_multiple_locations): it is read through Glance"
            );
        }
        let found = Arc::new(found);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.put(key, Arc::clone(&found));
        found
    }

    /// The file of a shared store with the data of `image`, if this host has it below a folder that was named.
    pub(super) async fn file(&self, image: &Image) -> Option<File> {
        if self.config.roots.is_empty() {
            return None;
        }
        let locations = self.locations(&image.id, image.updated_at).await;
        let places = file::places(&self.config.roots, &locations);
        if places.is_empty() {
            return None;
        }
        let size = image.size?;
        let opening = blocking(move || file::open_first(&places, size));
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(Ok(file)) => Some(file),
            Ok(Err(error)) => {
                tracing::info!(image = %image.id, %error, "the image is read through Glance");
                None
            }
            Err(_) => {
                tracing::info!(image = %image.id, "a shared file system does not answer: the image is read through Glance");
                None
            }
        }
    }

    /// The HTTP location of an image.
    async fn url(&self, id: &ImageId, updated_at: SystemTime) -> Option<Url> {
        let locations = self.locations(id, updated_at).await;
        locations.iter().find(|url| http::may_be_asked(url)).cloned()
    }
}
