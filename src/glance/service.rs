//! What the layers above ask of an image service, as traits, each as narrow as its user needs it:
//! the real [`Glance`] stands behind all of them, reference models and scripted faults in tests.
//!
//! Methods are named as Nova's and Cinder's image services name them where they have them; each is
//! described at [`Glance`].

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde_json::{Map, Value};
use url::Url;

use super::upload::Destination;
use super::{
    Change, Download, Glance, Image, Member, NewImage, NextPage, Page, Placement, Schema, Store, Usage,
};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, ImageId};

/// The bytes of an upload, in order.
pub type BodyStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Opens the bytes of an upload from the start, once for each attempt.
pub type OpenBody<'a> = dyn Fn() -> BodyStream + Send + Sync + 'a;

/// Which cloud, and as whom.
pub trait Cloud: Send + Sync + 'static {
    /// Names this cloud in cache keys.
    fn cloud_key(&self) -> &str;
    /// The project of our token.
    fn project_id(&self) -> Option<&str>;
    /// Images can be created here that will be listed.
    fn takes_new_images(&self) -> bool {
        true
    }
}

/// What `catalog` asks for.
#[async_trait]
pub trait Listing: Cloud {
    /// One page of the listing.
    async fn list(&self, limit: u32, next: Option<&NextPage>) -> Result<Page>;
    /// The first page of the images changed since a time, the latest first.
    async fn changed_since(&self, since: SystemTime, limit: u32) -> Result<Page>;
    /// Every visible image of exactly this name.
    async fn find_by_name(&self, name: &str) -> Result<Vec<Image>>;
    /// Which keys are attributes.
    async fn schema(&self) -> Result<Schema>;
    /// An image that we changed is in the listing.
    fn lists(&self, _image: &Image) -> bool {
        true
    }
}

/// What `write` and `fs` do to records.
#[async_trait]
pub trait Records: Cloud {
    /// A new record.
    async fn create(&self, image: &NewImage) -> Result<Image>;
    /// The data of a queued record.
    async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()>;
    /// The data of a queued record, of a length that is not known, to a place.
    async fn upload_stream(&self, id: &ImageId, placement: &Placement, data: BodyStream) -> Result<()>;
    /// The same, to a place.
    async fn upload_to(
        &self,
        id: &ImageId,
        size: u64,
        _placement: &Placement,
        open: &OpenBody<'_>,
    ) -> Result<()> {
        self.upload(id, size, open).await
    }
    /// One image.
    async fn show(&self, id: &ImageId) -> Result<Image>;
    /// Changes of a record.
    async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image>;
    /// Deactivates an image, or (`readable`) reactivates it.
    async fn set_readable(&self, id: &ImageId, readable: bool) -> Result<Image>;
    /// The end of an image.
    async fn delete(&self, id: &ImageId) -> Result<()>;
}

/// What `source` asks for.
#[async_trait]
pub trait Downloads: Send + Sync + 'static {
    /// The data of an image, or a range of them.
    async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download>;

    /// Where the data of an image are stored; none where that is not told.
    async fn places(&self, _id: &ImageId) -> Result<Vec<Url>> {
        Ok(Vec::new())
    }

    /// A range of the data of an image from one of these places, without a token.
    async fn download_at(
        &self,
        _url: &Url,
        _id: &ImageId,
        _size: u64,
        _range: ByteRange,
    ) -> Result<Download> {
        Err(Error::new(Kind::NotSupported, "no locations can be read"))
    }
}

/// What `fs` asks for besides records, when somebody wants to know it. A service need not know any of it.
#[async_trait]
pub trait Facts: Send + Sync + 'static {
    /// The projects that an image is shared with.
    async fn members(&self, _id: &ImageId) -> Result<Vec<Member>> {
        Err(unknown())
    }
    /// `direct_url` and `locations` of an image.
    async fn locations(&self, _id: &ImageId) -> Result<Map<String, Value>> {
        Err(unknown())
    }
    /// The stores of the service.
    async fn stores(&self) -> Result<Vec<Store>> {
        Err(unknown())
    }
    /// What the project uses and may use.
    async fn usage(&self) -> Result<Usage> {
        Err(unknown())
    }
}

fn unknown() -> Error {
    Error::new(Kind::NotSupported, "this service does not tell")
}

/// All of it.
pub trait ImageService: Listing + Records + Downloads + Facts {}

impl<T: Listing + Records + Downloads + Facts> ImageService for T {}

impl Cloud for Glance {
    fn cloud_key(&self) -> &str {
        Glance::cloud_key(self)
    }

    fn project_id(&self) -> Option<&str> {
        Glance::project_id(self)
    }
}

#[async_trait]
impl Listing for Glance {
    async fn list(&self, limit: u32, next: Option<&NextPage>) -> Result<Page> {
        Glance::list(self, limit, next).await
    }

    async fn changed_since(&self, since: SystemTime, limit: u32) -> Result<Page> {
        Glance::changed_since(self, since, limit).await
    }

    async fn find_by_name(&self, name: &str) -> Result<Vec<Image>> {
        Glance::find_by_name(self, name).await
    }

    async fn schema(&self) -> Result<Schema> {
        Glance::schema(self).await
    }

    fn lists(&self, image: &Image) -> bool {
        Glance::lists(self, image)
    }
}

#[async_trait]
impl Records for Glance {
    async fn create(&self, image: &NewImage) -> Result<Image> {
        Glance::create(self, image).await
    }

    async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        Glance::upload(self, id, size, open).await
    }

    async fn upload_stream(&self, id: &ImageId, placement: &Placement, data: BodyStream) -> Result<()> {
        Glance::upload_stream(self, id, placement, data).await
    }

    async fn upload_to(
        &self,
        id: &ImageId,
        size: u64,
        placement: &Placement,
        open: &OpenBody<'_>,
    ) -> Result<()> {
        Glance::upload_to(self, Destination::Store, id, size, placement, open).await
    }

    async fn show(&self, id: &ImageId) -> Result<Image> {
        Glance::show(self, id).await
    }

    async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        Glance::update(self, id, changes).await
    }

    async fn set_readable(&self, id: &ImageId, readable: bool) -> Result<Image> {
        Glance::set_readable(self, id, readable).await
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        Glance::delete(self, id).await
    }
}

#[async_trait]
impl Downloads for Glance {
    async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        Glance::download(self, id, size, range).await
    }

    async fn places(&self, id: &ImageId) -> Result<Vec<Url>> {
        Glance::places(self, id).await
    }

    async fn download_at(&self, url: &Url, id: &ImageId, size: u64, range: ByteRange) -> Result<Download> {
        Glance::download_at(self, url, id, size, range).await
    }
}

#[async_trait]
impl Facts for Glance {
    async fn members(&self, id: &ImageId) -> Result<Vec<Member>> {
        Glance::members(self, id).await
    }

    async fn locations(&self, id: &ImageId) -> Result<Map<String, Value>> {
        Glance::locations(self, id).await
    }

    async fn stores(&self) -> Result<Vec<Store>> {
        Glance::stores(self).await
    }

    async fn usage(&self) -> Result<Usage> {
        Glance::usage(self).await
    }
}
