//! An image service of the version that its servers have: asked once, before the first request.
//!
//! Not sooner, so that a mount can begin while no server answers. The version that was found holds for as long as the
//! service does. What both versions have is asked by the traits of `service`, whatever else by [`Versioned`].

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;
use url::Url;

use super::client::Request;
use super::error::{Operation, failed};
use super::v1::GlanceV1;
use super::{
    Change, Cloud, Download, Downloads, Facts, Glance, Image, ImageService, Listing, Member, NewImage,
    NextPage, OpenBody, Page, Placement, Records, Schema, Store, Usage,
};
use crate::config::ApiVersion;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, ImageId};

/// Glance by the version of its API that is configured, or that is found.
#[derive(Debug)]
pub struct Negotiated {
    v1: GlanceV1,
    v2: Glance,
    chosen: OnceCell<Version>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The document at the root of a Glance: `{"versions": [{"id": "v2.17", "status": "CURRENT", ...}, ...]}`.
#[derive(Deserialize)]
struct Versions {
    versions: Vec<Offered>,
}

#[derive(Deserialize)]
struct Offered {
    id: String,
}

/// A service by its version, for what the two do not have in common.
#[derive(Debug, Clone, Copy)]
pub enum Versioned<'a> {
    /// v1 only.
    V1(&'a GlanceV1),
    /// v2.
    V2(&'a Glance),
}

impl Negotiated {
    /// Asks nothing yet.
    pub fn new(glance: Glance, wanted: ApiVersion) -> Self {
        let chosen = match wanted {
            ApiVersion::V1 => OnceCell::new_with(Some(Version::V1)),
            ApiVersion::V2 => OnceCell::new_with(Some(Version::V2)),
            ApiVersion::Auto => OnceCell::new(),
        };
        Self { v1: GlanceV1::new(glance.clone()), v2: glance, chosen }
    }

    /// The service of the version that is spoken.
    ///
    /// # Errors
    /// `NotSupported` when the servers have neither version, and the failures of asking them.
    pub async fn versioned(&self) -> Result<Versioned<'_>> {
        Ok(match self.chosen.get_or_try_init(|| self.ask()).await? {
            Version::V1 => Versioned::V1(&self.v1),
            Version::V2 => Versioned::V2(&self.v2),
        })
    }

    /// The service for `what` v1 does not have.
    ///
    /// # Errors
    /// `NotSupported` where v1 is spoken; those of [`versioned`](Self::versioned).
    pub async fn v2_for(&self, what: &str) -> Result<&Glance> {
        match self.versioned().await? {
            Versioned::V1(_) => Err(v1_lacks(what)),
            Versioned::V2(glance) => Ok(glance),
        }
    }

    /// Whose login it is, of either version.
    pub(super) fn glance(&self) -> &Glance {
        &self.v2
    }

    async fn service(&self) -> Result<&dyn ImageService> {
        Ok(match self.versioned().await? {
            Versioned::V1(service) => service,
            Versioned::V2(service) => service,
        })
    }

    /// v2 where it is offered, and where what answers at the root is not Glance (a proxy, a page for people).
    async fn ask(&self) -> Result<Version> {
        let request = Request::new(Operation::Versions, Method::GET, "", "");
        let answer = self.v2.exchange(&request).await?;
        // 300 Multiple Choices, as Glance says it, or 200.
        let Ok(document) = serde_json::from_slice::<Versions>(&answer.body) else {
            tracing::debug!(
                status = answer.status.as_u16(),
                "no document of versions: taking v2 of the Image API"
            );
            return Ok(Version::V2);
        };
        let offers = |version: &str| document.versions.iter().any(|offered| offered.id.starts_with(version));
        if offers("v2") {
            Ok(Version::V2)
        } else if offers("v1") {
            tracing::info!("this cloud speaks v1 of the Image API only: images are read as streams");
            Ok(Version::V1)
        } else {
            let what = "this server offers neither v1 nor v2 of the Image API";
            Err(failed(Operation::Versions, "", Kind::NotSupported, what))
        }
    }
}

/// The refusal of `what` only v2 has.
pub fn v1_lacks(what: &str) -> Error {
    Error::new(Kind::NotSupported, format!("v1 of the Image API has no {what}"))
}

impl Cloud for Negotiated {
    fn cloud_key(&self) -> &str {
        self.v2.cloud_key()
    }

    fn project_id(&self) -> Option<&str> {
        self.v2.project_id()
    }
}

impl Listing for Negotiated {
    fn list<'a>(&'a self, limit: u32, next: Option<&'a NextPage>) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move { self.service().await?.list(limit, next).await })
    }

    fn changed_since(&self, since: SystemTime, limit: u32) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move { self.service().await?.changed_since(since, limit).await })
    }

    fn find_by_name<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Image>>> {
        Box::pin(async move { self.service().await?.find_by_name(name).await })
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema>> {
        Box::pin(async move { self.service().await?.schema().await })
    }

    fn lists(&self, image: &Image) -> bool {
        // v1 gets its records in the form of v2.
        self.v2.lists(image)
    }
}

impl Records for Negotiated {
    fn create<'a>(&'a self, image: &'a NewImage) -> BoxFuture<'a, Result<Image>> {
        Box::pin(async move { self.service().await?.create(image).await })
    }

    fn upload<'a>(&'a self, id: &'a ImageId, size: u64, open: &'a OpenBody<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.service().await?.upload(id, size, open).await })
    }

    fn upload_stream<'a>(
        &'a self,
        id: &'a ImageId,
        placement: &'a Placement,
        data: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.service().await?.upload_stream(id, placement, data).await })
    }

    fn upload_to<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        placement: &'a Placement,
        open: &'a OpenBody<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.service().await?.upload_to(id, size, placement, open).await })
    }

    fn show<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Image>> {
        Box::pin(async move { self.service().await?.show(id).await })
    }

    fn update<'a>(&'a self, id: &'a ImageId, changes: &'a [Change]) -> BoxFuture<'a, Result<Image>> {
        Box::pin(async move { self.service().await?.update(id, changes).await })
    }

    fn set_readable<'a>(&'a self, id: &'a ImageId, readable: bool) -> BoxFuture<'a, Result<Image>> {
        Box::pin(async move { self.service().await?.set_readable(id, readable).await })
    }

    fn delete<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.service().await?.delete(id).await })
    }
}

impl Facts for Negotiated {
    fn members<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Member>>> {
        Box::pin(async move { self.service().await?.members(id).await })
    }

    fn locations<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Map<String, Value>>> {
        Box::pin(async move { self.service().await?.locations(id).await })
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<Store>>> {
        Box::pin(async move { self.service().await?.stores().await })
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage>> {
        Box::pin(async move { self.service().await?.usage().await })
    }
}

impl Downloads for Negotiated {
    fn download<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        range: Option<ByteRange>,
    ) -> BoxFuture<'a, Result<Download>> {
        Box::pin(async move { self.service().await?.download(id, size, range).await })
    }

    fn places<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Url>>> {
        Box::pin(async move { self.service().await?.places(id).await })
    }

    fn download_at<'a>(
        &'a self,
        url: &'a Url,
        id: &'a ImageId,
        size: u64,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Download>> {
        Box::pin(async move { self.service().await?.download_at(url, id, size, range).await })
    }
}
