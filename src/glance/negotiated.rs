//! An image service of the version that its servers have: asked once, before the first request.
//!
//! Not sooner, so that a mount can begin while no server answers. The version that was found holds for as long as the
//! service does. What both versions have is asked by the traits of `service`, whatever else by [`Versioned`].

use std::time::SystemTime;

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;
use url::Url;

use super::client::Request;
use super::error::{Operation, failed};
use super::v1::GlanceV1;
use super::{
    BodyStream, Change, Cloud, Download, Downloads, Facts, Glance, Image, ImageService, Listing, Member,
    NewImage, NextPage, OpenBody, Page, Placement, Records, Schema, Store, Usage,
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

#[async_trait]
impl Listing for Negotiated {
    async fn list(&self, limit: u32, next: Option<&NextPage>) -> Result<Page> {
        self.service().await?.list(limit, next).await
    }

    async fn changed_since(&self, since: SystemTime, limit: u32) -> Result<Page> {
        self.service().await?.changed_since(since, limit).await
    }

    async fn find_by_name(&self, name: &str) -> Result<Vec<Image>> {
        self.service().await?.find_by_name(name).await
    }

    async fn schema(&self) -> Result<Schema> {
        self.service().await?.schema().await
    }

    fn lists(&self, image: &Image) -> bool {
        // v1 gets its records in the form of v2.
        self.v2.lists(image)
    }
}

#[async_trait]
impl Records for Negotiated {
    async fn create(&self, image: &NewImage) -> Result<Image> {
        self.service().await?.create(image).await
    }

    async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        self.service().await?.upload(id, size, open).await
    }

    async fn upload_stream(&self, id: &ImageId, placement: &Placement, data: BodyStream) -> Result<()> {
        self.service().await?.upload_stream(id, placement, data).await
    }

    async fn upload_to(
        &self,
        id: &ImageId,
        size: u64,
        placement: &Placement,
        open: &OpenBody<'_>,
    ) -> Result<()> {
        self.service().await?.upload_to(id, size, placement, open).await
    }

    async fn show(&self, id: &ImageId) -> Result<Image> {
        self.service().await?.show(id).await
    }

    async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        self.service().await?.update(id, changes).await
    }

    async fn set_readable(&self, id: &ImageId, readable: bool) -> Result<Image> {
        self.service().await?.set_readable(id, readable).await
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        self.service().await?.delete(id).await
    }
}

#[async_trait]
impl Facts for Negotiated {
    async fn members(&self, id: &ImageId) -> Result<Vec<Member>> {
        self.service().await?.members(id).await
    }

    async fn locations(&self, id: &ImageId) -> Result<Map<String, Value>> {
        self.service().await?.locations(id).await
    }

    async fn stores(&self) -> Result<Vec<Store>> {
        self.service().await?.stores().await
    }

    async fn usage(&self) -> Result<Usage> {
        self.service().await?.usage().await
    }
}

#[async_trait]
impl Downloads for Negotiated {
    async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        self.service().await?.download(id, size, range).await
    }

    async fn places(&self, id: &ImageId) -> Result<Vec<Url>> {
        self.service().await?.places(id).await
    }

    async fn download_at(&self, url: &Url, id: &ImageId, size: u64, range: ByteRange) -> Result<Download> {
        self.service().await?.download_at(url, id, size, range).await
    }
}
