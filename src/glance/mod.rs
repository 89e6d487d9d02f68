//! The Image API v2: requests, JSON, error kinds, retry with a deadline, server fail-over.

#[cfg(test)]
pub(crate) mod fake;
mod service;

use std::collections::HashSet;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::auth::Auth;
use crate::config::HttpConfig;
use crate::error::Result;
pub use service::{Cloud, Downloads, ImageService, Listing, OpenBody, Records};

use crate::units::{ByteRange, ImageId};

/// The life of an image, as Glance names its stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Queued,
    Saving,
    Uploading,
    Importing,
    Active,
    Deactivated,
    Killed,
    PendingDelete,
    Deleted,
    /// A status that this version does not know: treated as not readable.
    Other(Box<str>),
}

/// The hash Glance keeps of an image's data: `os_hash_algo` and `os_hash_value`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MultiHash {
    /// `sha512` unless the site says otherwise.
    pub algorithm: Box<str>,
    /// Lower-case hexadecimal.
    pub value: Box<str>,
}

/// One image as Glance described it: what behaviour needs, parsed, and the whole record as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    pub id: ImageId,
    /// `None`: the record says null.
    pub name: Option<Box<str>>,
    pub status: Status,
    /// Bytes; known once data are there.
    pub size: Option<u64>,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
    /// The owning project.
    pub owner: Option<Box<str>>,
    /// `public`, `private`, `shared` or `community`.
    pub visibility: Box<str>,
    pub disk_format: Option<Box<str>>,
    pub container_format: Option<Box<str>>,
    /// MD5 of the data.
    pub checksum: Option<Box<str>>,
    pub hash: Option<MultiHash>,
    pub protected: bool,
    /// The stores that hold the data (`stores`, comma separated), where the server says.
    pub stores: Option<Box<str>>,
    /// The record as Glance gives it: a JSON object.
    pub record: Box<str>,
}

impl Image {
    /// Reads one record.
    pub fn from_record(_json: &str) -> Result<Self> {
        unimplemented!()
    }
}

/// Which keys of a record are attributes of the API; all others are properties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    pub attributes: HashSet<Box<str>>,
}

/// One page of the listing.
#[derive(Debug)]
pub struct Page {
    pub images: Vec<Image>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<NextPage>,
}

/// The continuation that a server gave: a path and query on the same endpoint, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextPage(String);

/// What a new record starts with.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Made by us, so that a repeated POST is recognised.
    pub id: ImageId,
    pub name: String,
    pub disk_format: Option<String>,
    pub container_format: Option<String>,
    /// Further attributes and properties, as in the JSON body.
    pub properties: Vec<(String, serde_json::Value)>,
}

/// One change of a record (JSON patch as Glance takes it).
#[derive(Debug, Clone)]
pub enum Change {
    /// Sets an attribute or adds a property, replacing what was there.
    Set { key: String, value: serde_json::Value },
    /// Removes a property.
    Remove { key: String },
}

/// Image data on their way: `range` says which bytes come, `next` gives them in order.
pub struct Download {
    /// The bytes that will come: as asked for, or the whole image.
    pub range: ByteRange,
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

/// A client of one cloud's Glance; cheap to clone.
#[derive(Debug, Clone)]
pub struct Glance {}

impl Glance {
    /// Builds the client; sends nothing.
    pub fn new(_auth: Auth, _config: &HttpConfig) -> Result<Self> {
        unimplemented!()
    }

    /// The project of the token.
    pub fn project_id(&self) -> Option<&str> {
        unimplemented!()
    }

    /// Names this cloud in cache keys: the same for every server of it, however they are ordered.
    pub fn cloud_key(&self) -> &str {
        unimplemented!()
    }

    /// One page of `limit` images; `None` asks for the first.
    ///
    /// # Errors
    /// `NotFound` when the marker of `next` has vanished: start again from the first page.
    pub async fn list(&self, _limit: u32, _next: Option<&NextPage>) -> Result<Page> {
        unimplemented!()
    }

    /// Every visible image of exactly this name (`name=eq:`), first page only.
    pub async fn find_by_name(&self, _name: &str) -> Result<Vec<Image>> {
        unimplemented!()
    }

    /// One image.
    pub async fn show(&self, _id: &ImageId) -> Result<Image> {
        unimplemented!()
    }

    /// Which keys are attributes, from `/v2/schemas/image`.
    pub async fn schema(&self) -> Result<Schema> {
        unimplemented!()
    }

    /// Creates a record. A 409 on our own id after a lost answer counts as success.
    pub async fn create(&self, _image: &NewImage) -> Result<Image> {
        unimplemented!()
    }

    /// Uploads `size` bytes. `open` is called for each attempt with nothing sent yet; the stream must give exactly `size` bytes.
    pub async fn upload(&self, _id: &ImageId, _size: u64, _open: &OpenBody<'_>) -> Result<()> {
        unimplemented!()
    }

    /// Changes a record; all changes or none.
    pub async fn update(&self, _id: &ImageId, _changes: &[Change]) -> Result<Image> {
        unimplemented!()
    }

    /// Deletes an image; deleting what is gone already succeeds only after a retry of ours.
    pub async fn delete(&self, _id: &ImageId) -> Result<()> {
        unimplemented!()
    }

    /// Starts a download of an active image of `size` bytes: of `range`, or of everything.
    ///
    /// Status, `Content-Range` and lengths are checked; a body that ends early is an `Integrity`
    /// or `Unreachable` error of the stream, never a short end.
    ///
    /// # Errors
    /// `RangeUnsupported` when the store cannot serve ranges.
    pub async fn download(&self, _id: &ImageId, _size: u64, _range: Option<ByteRange>) -> Result<Download> {
        unimplemented!()
    }
}
