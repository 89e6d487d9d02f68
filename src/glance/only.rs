//! A service with one image in it: what a mount of a single image is made of.
//!
//! The list of such a service is the record of that image. So the layers above need to know nothing of it:
//! renames, changes of status, the end of the image and outages show as in any list, each refresh costs one
//! request, and another image is not found by name or id.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::BoxStream;
use url::Url;

use super::facts::{Store, Usage};
use super::sharing::Member;
use super::{
    Change, Cloud, Download, Downloads, Facts, Image, ImageService, Listing, NewImage, NextPage, OpenBody,
    Page, Placement, Records, Schema,
};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, ImageId};

/// The service `whole` as far as it concerns the image `id`.
pub struct OnlyImage {
    whole: Arc<dyn ImageService>,
    id: ImageId,
}

impl OnlyImage {
    /// That of `id`, which need not exist.
    pub fn new(whole: Arc<dyn ImageService>, id: ImageId) -> Self {
        Self { whole, id }
    }

    /// The call if it concerns our image.
    fn ours<'a, T: Send + 'a>(
        &'a self,
        id: &ImageId,
        call: impl FnOnce(&'a dyn ImageService) -> BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        if *id == self.id {
            return call(&*self.whole);
        }
        Box::pin(future::ready(Err(Error::new(Kind::NotFound, "another image than the one that is mounted"))))
    }
}

impl Cloud for OnlyImage {
    fn cloud_key(&self) -> &str {
        self.whole.cloud_key()
    }

    fn project_id(&self) -> Option<&str> {
        self.whole.project_id()
    }

    fn takes_new_images(&self) -> bool {
        false
    }
}

impl Listing for OnlyImage {
    fn list<'a>(&'a self, _limit: u32, _next: Option<&'a NextPage>) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async {
            match self.whole.show(&self.id).await {
                Ok(image) => Ok(Page { images: vec![image], next: None, next_view: None }),
                Err(error) if error.kind() == Kind::NotFound => {
                    Ok(Page { images: vec![], next: None, next_view: None })
                }
                Err(error) => Err(error),
            }
        })
    }

    fn changed_since(&self, _since: SystemTime, limit: u32) -> BoxFuture<'_, Result<Page>> {
        self.list(limit, None)
    }

    fn find_by_name<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Image>>> {
        Box::pin(async move {
            let mut images = self.list(1, None).await?.images;
            images.retain(|image| image.name.as_deref() == Some(name));
            Ok(images)
        })
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema>> {
        self.whole.schema()
    }
}

impl Records for OnlyImage {
    fn create<'a>(&'a self, _image: &'a NewImage) -> BoxFuture<'a, Result<Image>> {
        Box::pin(future::ready(Err(Error::new(
            Kind::NotPermitted,
            "a single image is mounted here: mount its cloud to create others",
        ))))
    }

    fn upload<'a>(&'a self, id: &'a ImageId, size: u64, open: &'a OpenBody<'a>) -> BoxFuture<'a, Result<()>> {
        self.ours(id, |whole| whole.upload(id, size, open))
    }

    fn upload_stream<'a>(
        &'a self,
        id: &'a ImageId,
        placement: &'a Placement,
        data: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxFuture<'a, Result<()>> {
        self.ours(id, |whole| whole.upload_stream(id, placement, data))
    }

    fn show<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Image>> {
        self.ours(id, |whole| whole.show(id))
    }

    fn update<'a>(&'a self, id: &'a ImageId, changes: &'a [Change]) -> BoxFuture<'a, Result<Image>> {
        self.ours(id, |whole| whole.update(id, changes))
    }

    fn delete<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<()>> {
        self.ours(id, |whole| whole.delete(id))
    }

    fn set_readable<'a>(&'a self, id: &'a ImageId, readable: bool) -> BoxFuture<'a, Result<Image>> {
        self.ours(id, |whole| whole.set_readable(id, readable))
    }

    fn upload_to<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        placement: &'a Placement,
        open: &'a OpenBody<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        self.ours(id, |whole| whole.upload_to(id, size, placement, open))
    }
}

impl Downloads for OnlyImage {
    fn download<'a>(
        &'a self,
        id: &'a ImageId,
        size: u64,
        range: Option<ByteRange>,
    ) -> BoxFuture<'a, Result<Download>> {
        self.ours(id, |whole| whole.download(id, size, range))
    }

    fn places<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Url>>> {
        self.ours(id, |whole| whole.places(id))
    }

    fn download_at<'a>(
        &'a self,
        url: &'a Url,
        id: &'a ImageId,
        size: u64,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Download>> {
        self.ours(id, |whole| whole.download_at(url, id, size, range))
    }
}

impl Facts for OnlyImage {
    fn members<'a>(&'a self, id: &'a ImageId) -> BoxFuture<'a, Result<Vec<Member>>> {
        self.ours(id, |whole| whole.members(id))
    }

    fn locations<'a>(
        &'a self,
        id: &'a ImageId,
    ) -> BoxFuture<'a, Result<serde_json::Map<String, serde_json::Value>>> {
        self.ours(id, |whole| whole.locations(id))
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<Store>>> {
        self.whole.stores()
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage>> {
        self.whole.usage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glance::fake::FakeService;

    #[tokio::test]
    async fn one_image_is_listed_and_no_other_is_found() {
        let whole = Arc::new(FakeService::default());
        let (ours, other) = (whole.add("ours", b"x"), whole.add("other", b"y"));
        let only = OnlyImage::new(whole.clone(), ours.clone());
        let names = async || {
            let page = only.list(500, None).await.unwrap();
            assert_eq!(page.next, None);
            page.images.into_iter().map(|image| image.name.unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names().await, ["ours"]);
        assert_eq!(only.show(&other).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(only.delete(&other).await.unwrap_err().kind(), Kind::NotFound);
        assert!(only.find_by_name("other").await.unwrap().is_empty());
        assert_eq!(only.find_by_name("ours").await.unwrap()[0].id, ours);

        let change = Change::Set { key: "name".into(), value: "renamed".into() };
        only.update(&ours, &[change]).await.unwrap();
        assert_eq!(names().await, ["renamed"]);
        only.delete(&ours).await.unwrap();
        assert!(names().await.is_empty());
        assert!(whole.state().records.contains_key(&other));
    }
}
