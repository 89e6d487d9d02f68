//! What uploads need from the layers below, as two narrow traits: Glance, and the cache.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::cache::{Cache, ContentIdentity, Digest};
use crate::error::Result;
use crate::glance::{Change, Glance, Image, NewImage};
use crate::units::ImageId;

/// Starts the body of one try, from its first byte.
pub(super) type OpenBody<'a> = dyn Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync + 'a;

/// The requests that an upload makes; the methods are those of [`Glance`].
pub(super) trait ImageStore: Send + Sync + 'static {
    fn cloud_key(&self) -> &str;
    fn project_id(&self) -> Option<&str>;
    fn create<'a>(&'a self, image: &'a NewImage) -> BoxFuture<'a, Result<Image>>;
    fn upload<'a>(&'a self, id: &'a ImageId, size: u64, open: &'a OpenBody<'a>) -> BoxFuture<'a, Result<()>>;
    fn show<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Image>>;
    fn update<'a>(&'a self, id: &'a ImageId, changes: &'a [Change]) -> BoxFuture<'a, Result<Image>>;
    fn delete<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<()>>;
}

impl ImageStore for Glance {
    fn cloud_key(&self) -> &str {
        Glance::cloud_key(self)
    }

    fn project_id(&self) -> Option<&str> {
        Glance::project_id(self)
    }

    fn create<'a>(&'a self, image: &'a NewImage) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Glance::create(self, image))
    }

    fn upload<'a>(&'a self, id: &'a ImageId, size: u64, open: &'a OpenBody<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(Glance::upload(self, id, size, open))
    }

    fn show<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Glance::show(self, id))
    }

    fn update<'a>(&'a self, id: &'a ImageId, changes: &'a [Change]) -> BoxFuture<'a, Result<Image>> {
        Box::pin(Glance::update(self, id, changes))
    }

    fn delete<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<()>> {
        Box::pin(Glance::delete(self, id))
    }
}

/// Where an uploaded spool file may live on, so that its first reader downloads nothing.
pub(super) trait Keeper: Send + Sync + 'static {
    /// See [`Cache::adopt`]; blocks on the disk.
    fn adopt(&self, identity: &ContentIdentity, file: &Path) -> Result<()>;
}

impl Keeper for Cache {
    fn adopt(&self, identity: &ContentIdentity, file: &Path) -> Result<()> {
        Cache::adopt(self, identity, file)
    }
}

/// Names the content of an image that has data, for the cache of one cloud and project.
///
/// `None` when the size is unknown. The hashes are believed only as far as their form goes: a
/// value that is no hexadecimal of the right length counts as no hash.
pub fn content_identity(image: &Image, cloud: &str, project: Option<&str>) -> Option<ContentIdentity> {
    let hexadecimal = |text: &str, bits: usize| {
        text.len() == bits / 4
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let multi = image.hash.as_ref().filter(|hash| match hash.algorithm.as_ref() {
        "sha512" => hexadecimal(&hash.value, 512),
        "sha384" => hexadecimal(&hash.value, 384),
        "sha256" => hexadecimal(&hash.value, 256),
        _ => false,
    });
    let md5 = image.checksum.as_ref().filter(|value| hexadecimal(value, 128));
    let digest = match (multi, md5) {
        (Some(hash), _) => Digest::Multi { algorithm: hash.algorithm.clone(), value: hash.value.clone() },
        (None, Some(value)) => Digest::Md5(value.clone()),
        (None, None) => Digest::None,
    };
    // A clock before 1970 has no images; it only must not be confused with a time after it.
    let seconds = image
        .created_at
        .duration_since(UNIX_EPOCH)
        .map_or(-1, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    Some(ContentIdentity {
        cloud: cloud.into(),
        project: project.unwrap_or_default().into(),
        image: image.id.clone(),
        created_at: seconds,
        size: image.size?,
        digest,
    })
}
