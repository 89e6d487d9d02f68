//! What the layers above ask of an image service, as traits, each as narrow as its user needs it:
//! the real [`Glance`] stands behind all of them, reference models and scripted faults in tests.
//!
//! Methods are named as Nova's and Cinder's image services name them where they have them; each is
//! described at [`Glance`].

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::BoxStream;
use serde_json::{Map, Value};
use url::Url;

use super::upload::Destination;
use super::{
    Change, Download, Glance, Image, Member, NewImage, NextPage, Page, Placement, Schema, Store, Usage,
};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, ImageId};

/// Opens the bytes of an upload from the start, once for each attempt.
pub type OpenBody<'a> = dyn Fn() -> BoxStream<'static, std::io::Result<Bytes>> + Send + Sync + 'a;

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
pub trait Listing: Cloud {
    /// One page of the listing.
    fn list<'a>(&'a self, limit: u32, next: Option<&'a NextPage>) -> BoxFuture<'a, Result<Page>>;
    /// The first page of the images changed since a time, the latest first.
    fn changed_since(&self, since: SystemTime, limit: u32) -> BoxFuture<'_, Result<Page>>;
    /// Every visible image of exactly this name.
    fn find_by_name<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Image>>>;
    /// Which keys are attributes.
    fn schema(&self) -> BoxFuture<'_, Result<Schema>>;
    /// An image that we changed is in the listing.
    fn lists(&self, _image: &Image) -> bool {
        true
    }
}

/// What `write` and `fs` do to records.
pub trait Records: Cloud {
    /// A new record.
    fn create<'a>(&'a self, image: &'a NewImage) -> BoxFuture<'a, Result<Image>>;
    /// The data of a queued record.
    fn upload<'a>(&'a self, id: &'a ImageId, size: u64, open: &'a OpenBody<'a>) -> BoxFuture<'a, Result<()>>;
    /// The data of a queued record, of a length that is not known, to a place.
    fn upload_stream<'a>(
        &'a self,
        id: &'a ImageId,
        placement: &'a Placement,
        data: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxFuture<'a, Result<()>>;
    /// The same, to a place.
    fn upload_to<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        _placement: &'a Placement,
        open: &'a OpenBody<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        self.upload(id, size, open)
    }
    /// One image.
    fn show<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Image>>;
    /// Changes of a record.
    fn update<'a>(&'a self, id: &'a ImageId, changes: &'a [Change]) -> BoxFuture<'a, Result<Image>>;
    /// Deactivates an image, or (`readable`) reactivates it.
    fn set_readable<'a>(&'a self, id: &'a ImageId, readable: bool) -> BoxFuture<'a, Result<Image>>;
    /// The end of an image.
    fn delete<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<()>>;
}

/// What `source` asks for.
pub trait Downloads: Send + Sync + 'static {
    /// The data of an image, or a range of them.
    fn download<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        range: Option<ByteRange>,
    ) -> BoxFuture<'a, Result<Download>>;

    /// Where the data of an image are stored; none where that is not told.
    fn places<'a>(&'a self, _id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Url>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// A range of the data of an image from one of these places, without a token.
    fn download_at<'a>(
        &'a self,
        _url: &'a Url,
        _id: &'a ImageId,
        _size: u64,
        _range: ByteRange,
    ) -> BoxFuture<'a, Result<Download>> {
        Box::pin(std::future::ready(Err(Error::new(Kind::NotSupported, "no locations can be read"))))
    }
}

/// What `fs` asks for besides records, when somebody wants to know it. A service need not know any of it.
pub trait Facts: Send + Sync + 'static {
    /// The projects that an image is shared with.
    fn members<'a>(&'a self, _id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Member>>> {
        unknown()
    }
    /// `direct_url` and `locations` of an image.
    fn locations<'a>(&'a self, _id: &'a ImageId) -> BoxFuture<'a, Result<Map<String, Value>>> {
        unknown()
    }
    /// The stores of the service.
    fn stores(&self) -> BoxFuture<'_, Result<Vec<Store>>> {
        unknown()
    }
    /// What the project uses and may use.
    fn usage(&self) -> BoxFuture<'_, Result<Usage>> {
        unknown()
    }
}

fn unknown<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T>> {
    Box::pin(future::ready(Err(Error::new(Kind::NotSupported, "this service does not tell"))))
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

impl Listing for Glance {
    fn list<'a>(&'a self, limit: u32, next: Option<&'a NextPage>) -> BoxFuture<'a, Result<Page>> {
        Box::pin(Glance::list(self, limit, next))
    }

    fn changed_since(&self, since: SystemTime, limit: u32) -> BoxFuture<'_, Result<Page>> {
        Box::pin(Glance::changed_since(self, since, limit))
    }

    fn find_by_name<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Image>>> {
        Box::pin(Glance::find_by_name(self, name))
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema>> {
        Box::pin(Glance::schema(self))
    }

    fn lists(&self, image: &Image) -> bool {
        Glance::lists(self, image)
    }
}

impl Records for Glance {
    fn create<'a>(&'a self, image: &'a NewImage) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Glance::create(self, image))
    }

    fn upload<'a>(&'a self, id: &'a ImageId, size: u64, open: &'a OpenBody<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(Glance::upload(self, id, size, open))
    }

    fn upload_stream<'a>(
        &'a self,
        id: &'a ImageId,
        placement: &'a Placement,
        data: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(Glance::upload_stream(self, id, placement, data))
    }

    fn upload_to<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        placement: &'a Placement,
        open: &'a OpenBody<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(Glance::upload_to(self, Destination::Store, id, size, placement, open))
    }

    fn show<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Glance::show(self, id))
    }

    fn update<'a>(&'a self, id: &'a ImageId, changes: &'a [Change]) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Glance::update(self, id, changes))
    }

    fn set_readable<'a>(&'a self, id: &'a ImageId, readable: bool) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Glance::set_readable(self, id, readable))
    }

    fn delete<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<()>> {
        Box::pin(Glance::delete(self, id))
    }
}

impl Downloads for Glance {
    fn download<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        range: Option<ByteRange>,
    ) -> BoxFuture<'a, Result<Download>> {
        Box::pin(Glance::download(self, id, size, range))
    }

    fn places<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Url>>> {
        Box::pin(Glance::places(self, id))
    }

    fn download_at<'a>(
        &'a self,
        url: &'a Url,
        id: &'a ImageId,
        size: u64,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Download>> {
        Box::pin(Glance::download_at(self, url, id, size, range))
    }
}

impl Facts for Glance {
    fn members<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Member>>> {
        Box::pin(Glance::members(self, id))
    }

    fn locations<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Map<String, Value>>> {
        Box::pin(Glance::locations(self, id))
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<Store>>> {
        Box::pin(Glance::stores(self))
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage>> {
        Box::pin(Glance::usage(self))
    }
}
