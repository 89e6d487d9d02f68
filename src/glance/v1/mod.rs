//! The Image API v1, which clouds before Rocky (2018) may still speak only: records are headers, ranges are unknown.
//!
//! `headers` turns records into headers and back, `list`, `record` and `members` are what can be asked; uploads and
//! downloads are those of v2 with another path. What the layers above get is in the form of v2, so that they need not
//! know: `is_public` is `visibility`, properties stand beside attributes. What v1 cannot say (tags, `os_hidden`, keys
//! with capitals) is refused, never changed into something else.

mod headers;
mod list;
mod members;
mod record;

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::error::{Operation, failed};
use super::record::subject;
use super::upload::Destination;
use super::{
    Change, Cloud, Download, Downloads, Facts, Glance, Image, Listing, Member, NewImage, NextPage, OpenBody,
    Page, Placement, Records, Schema,
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

impl Listing for GlanceV1 {
    fn list<'a>(&'a self, limit: u32, next: Option<&'a NextPage>) -> BoxFuture<'a, Result<Page>> {
        Box::pin(Self::list(self, limit, next))
    }

    fn changed_since(&self, since: SystemTime, limit: u32) -> BoxFuture<'_, Result<Page>> {
        Box::pin(Self::changed_since(self, since, limit))
    }

    fn find_by_name<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Image>>> {
        Box::pin(Self::find_by_name(self, name))
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema>> {
        // v1 has no document of it.
        Box::pin(std::future::ready(Ok(headers::schema())))
    }
}

impl Records for GlanceV1 {
    fn create<'a>(&'a self, image: &'a NewImage) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Self::create(self, image))
    }

    fn upload<'a>(&'a self, id: &'a ImageId, size: u64, open: &'a OpenBody<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(Self::upload(self, id, size, open))
    }

    fn upload_stream<'a>(
        &'a self,
        id: &'a ImageId,
        placement: &'a Placement,
        data: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.glance.upload_stream_to(Destination::V1, id, placement, data))
    }

    fn upload_to<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        placement: &'a Placement,
        open: &'a OpenBody<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.glance.upload_to(Destination::V1, id, size, placement, open))
    }

    fn show<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Self::show(self, id))
    }

    fn update<'a>(&'a self, id: &'a ImageId, changes: &'a [Change]) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Self::update(self, id, changes))
    }

    fn set_readable<'a>(&'a self, _: &'a ImageId, _readable: bool) -> BoxFuture<'a, Result<Image>> {
        Box::pin(std::future::ready(Err(Error::new(Kind::NotSupported, "v1 cannot deactivate images"))))
    }

    fn delete<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<()>> {
        Box::pin(Self::delete(self, id))
    }
}

impl Facts for GlanceV1 {
    /// A member of v1 need not accept.
    fn members<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Member>>> {
        let accepted =
            |member: V1Member| Member { member_id: member.member_id, status: "accepted".to_owned() };
        Box::pin(async move { Ok(GlanceV1::members(self, id).await?.into_iter().map(accepted).collect()) })
    }
}

impl Downloads for GlanceV1 {
    fn download<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        range: Option<ByteRange>,
    ) -> BoxFuture<'a, Result<Download>> {
        Box::pin(Self::download(self, id, size, range))
    }
}
