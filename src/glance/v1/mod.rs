//! The Image API v1, which clouds before Rocky (2018) may still speak only: records are headers, ranges are unknown.
//!
//! `headers` turns records into headers and back, `list`, `record` and `members` are what can be asked; uploads and
//! downloads are those of v2 with another path. What the layers above get is in the form of v2, so that they need not
//! know: `is_public` is `visibility`, properties stand beside attributes. What v1 cannot say (tags, `os_hidden`, keys
//! with capitals) is refused, never changed into something else.

pub(super) mod fuzzing;
mod headers;
mod list;
mod members;
mod record;

use std::time::SystemTime;

use async_trait::async_trait;

use super::error::{Operation, failed};
use super::record::subject;
use super::upload::Destination;
use super::{
    BodyStream, Change, Cloud, Download, Downloads, Facts, Glance, Image, Listing, Member, NewImage,
    NextPage, OpenBody, Page, Placement, Records, Schema,
};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, ImageId};

pub use members::V1Member;

/// A cloud's Glance, asked by v1 of its API; cheap to clone.
#[derive(Debug, Clone)]
pub struct GlanceV1 {
    glance: Glance,
}

/// `v1/images/<id>`: an id needs no encoding.
pub(super) fn path(id: &ImageId) -> String {
    format!("v1/images/{id}")
}

impl GlanceV1 {
    /// Asks the servers of `glance` by v1.
    pub fn new(glance: Glance) -> Self {
        Self { glance }
    }

    /// The data of an active image of `size` bytes.
    ///
    /// # Errors
    /// `RangeUnsupported` for a part of them: v1 ignores ranges and sends everything. Else those of
    /// [`Glance::download`]; `NoData` when the image is not active.
    pub async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        if range.is_some_and(|range| range != ByteRange::new(0, size)) {
            let what = "v1 of the Image API serves no ranges";
            return Err(failed(Operation::Download, &subject(id), Kind::RangeUnsupported, what));
        }
        if let Some(prefer) = &self.glance.inner.prefer {
            prefer.give_up("v1 of the Image API has no such choice");
        }
        self.glance.download_from(&path(id), id, size, None).await
    }

    /// Uploads the data of a queued image: see [`Glance::upload`]. An upload that fails leaves the image `killed`.
    ///
    /// # Errors
    /// Those of [`Glance::upload`].
    pub async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        self.glance.upload_to(Destination::V1, id, size, &Placement::default(), open).await
    }
}

impl Cloud for GlanceV1 {
    fn cloud_key(&self) -> &str {
        self.glance.cloud_key()
    }

    fn project_id(&self) -> Option<&str> {
        self.glance.project_id()
    }
}

#[async_trait]
impl Listing for GlanceV1 {
    async fn list(&self, limit: u32, next: Option<&NextPage>) -> Result<Page> {
        Self::list(self, limit, next).await
    }

    async fn changed_since(&self, since: SystemTime, limit: u32) -> Result<Page> {
        Self::changed_since(self, since, limit).await
    }

    async fn find_by_name(&self, name: &str) -> Result<Vec<Image>> {
        Self::find_by_name(self, name).await
    }

    async fn schema(&self) -> Result<Schema> {
        // v1 has no document of it.
        Ok(headers::schema())
    }
}

#[async_trait]
impl Records for GlanceV1 {
    async fn create(&self, image: &NewImage) -> Result<Image> {
        Self::create(self, image).await
    }

    async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        Self::upload(self, id, size, open).await
    }

    async fn upload_stream(&self, id: &ImageId, placement: &Placement, data: BodyStream) -> Result<()> {
        self.glance.upload_stream_to(Destination::V1, id, placement, data).await
    }

    async fn upload_to(
        &self,
        id: &ImageId,
        size: u64,
        placement: &Placement,
        open: &OpenBody<'_>,
    ) -> Result<()> {
        self.glance.upload_to(Destination::V1, id, size, placement, open).await
    }

    async fn show(&self, id: &ImageId) -> Result<Image> {
        Self::show(self, id).await
    }

    async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        Self::update(self, id, changes).await
    }

    async fn set_readable(&self, _: &ImageId, _readable: bool) -> Result<Image> {
        Err(Error::new(Kind::NotSupported, "v1 cannot deactivate images"))
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        Self::delete(self, id).await
    }
}

#[async_trait]
impl Facts for GlanceV1 {
    /// A member of v1 need not accept.
    async fn members(&self, id: &ImageId) -> Result<Vec<Member>> {
        let accepted =
            |member: V1Member| Member { member_id: member.member_id, status: "accepted".to_owned() };
        Ok(GlanceV1::members(self, id).await?.into_iter().map(accepted).collect())
    }
}

#[async_trait]
impl Downloads for GlanceV1 {
    async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        Self::download(self, id, size, range).await
    }
}
