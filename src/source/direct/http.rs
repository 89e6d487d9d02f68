//! An image read from an HTTP server that stores it, by ranges and without a token; else from Glance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use url::Url;

use super::Direct;
use crate::error::Result;
use crate::glance::{Download, Downloads, Image};
use crate::units::{ByteRange, ImageId};

/// A location that may be asked: credentials in it are the store's, not ours to send.
pub(super) fn may_be_asked(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
}

/// One image, as long as it is open.
pub(in super::super) struct HttpImage {
    direct: Arc<Direct>,
    updated_at: SystemTime,
    url: OnceCell<Option<Url>>,
    /// Something went wrong: from now on Glance is asked.
    given_up: AtomicBool,
}

impl HttpImage {
    pub(in super::super) fn new(direct: Arc<Direct>, image: &Image) -> Arc<Self> {
        let (url, given_up) = (OnceCell::new(), AtomicBool::new(false));
        Arc::new(Self { direct, updated_at: image.updated_at, url, given_up })
    }

    /// It has a location that was not found wanting. The first call asks the server.
    pub(in super::super) async fn is_usable(&self, id: &ImageId) -> bool {
        !self.given_up.load(Ordering::Relaxed) && self.url(id).await.is_some()
    }

    async fn url(&self, id: &ImageId) -> Option<&Url> {
        self.url.get_or_init(|| self.direct.url(id, self.updated_at)).await.as_ref()
    }

    async fn fetch(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        if !self.given_up.load(Ordering::Relaxed)
            && let Some(url) = self.url(id).await
        {
            let wanted = range.unwrap_or(ByteRange::new(0, size));
            match self.direct.downloads.download_at(url, id, size, wanted).await {
                Ok(download) => return Ok(download),
                Err(error) => {
                    if !self.given_up.swap(true, Ordering::Relaxed) {
                        tracing::info!(image = %id, %error, "the image is read through Glance");
                    }
                }
            }
        }
        self.direct.downloads.download(id, size, range).await
    }
}

#[async_trait]
impl Downloads for HttpImage {
    async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        self.fetch(id, size, range).await
    }
}
