//! A service with one image in it: what a mount of a single image is made of.
//!
//! The list of such a service is the record of that image. So the layers above need to know nothing of it:
//! renames, changes of status, the end of the image and outages show as in any list, each refresh costs one
//! request, and another image is not found by name or id.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use url::Url;

use super::facts::{Store, Usage};
use super::sharing::Member;
use super::{
    BodyStream, Change, Cloud, Download, Downloads, Facts, Image, ImageService, Listing, NewImage, NextPage,
    OpenBody, Page, Placement, Records, Schema,
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

    /// The service, for what concerns our image.
    fn ours(&self, id: &ImageId) -> Result<&dyn ImageService> {
        if *id == self.id {
            return Ok(&*self.whole);
        }
        Err(Error::new(Kind::NotFound, "another image than the one that is mounted"))
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

#[async_trait]
impl Listing for OnlyImage {
    async fn list(&self, _limit: u32, _next: Option<&NextPage>) -> Result<Page> {
        match self.whole.show(&self.id).await {
            Ok(image) => Ok(Page { images: vec![image], next: None, next_view: None }),
            Err(error) if error.kind() == Kind::NotFound => {
                Ok(Page { images: vec![], next: None, next_view: None })
            }
            Err(error) => Err(error),
        }
    }

    async fn changed_since(&self, _since: SystemTime, limit: u32) -> Result<Page> {
        self.list(limit, None).await
    }

    async fn find_by_name(&self, name: &str) -> Result<Vec<Image>> {
        let mut images = self.list(1, None).await?.images;
        images.retain(|image| image.name.as_deref() == Some(name));
        Ok(images)
    }

    async fn schema(&self) -> Result<Schema> {
        self.whole.schema().await
    }
}

#[async_trait]
impl Records for OnlyImage {
    async fn create(&self, _image: &NewImage) -> Result<Image> {
        Err(Error::new(
            Kind::NotPermitted,
            "a single image is mounted here: mount its cloud to create others",
        ))
    }

    async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        self.ours(id)?.upload(id, size, open).await
    }

    async fn upload_stream(&self, id: &ImageId, placement: &Placement, data: BodyStream) -> Result<()> {
        self.ours(id)?.upload_stream(id, placement, data).await
    }

    async fn show(&self, id: &ImageId) -> Result<Image> {
        self.ours(id)?.show(id).await
    }

    async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        self.ours(id)?.update(id, changes).await
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        self.ours(id)?.delete(id).await
    }

    async fn set_readable(&self, id: &ImageId, readable: bool) -> Result<Image> {
        self.ours(id)?.set_readable(id, readable).await
    }

    async fn upload_to(
        &self,
        id: &ImageId,
        size: u64,
        placement: &Placement,
        open: &OpenBody<'_>,
    ) -> Result<()> {
        self.ours(id)?.upload_to(id, size, placement, open).await
    }
}

#[async_trait]
impl Downloads for OnlyImage {
    async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        self.ours(id)?.download(id, size, range).await
    }

    async fn places(&self, id: &ImageId) -> Result<Vec<Url>> {
        self.ours(id)?.places(id).await
    }

    async fn download_at(&self, url: &Url, id: &ImageId, size: u64, range: ByteRange) -> Result<Download> {
        self.ours(id)?.download_at(url, id, size, range).await
    }
}

#[async_trait]
impl Facts for OnlyImage {
    async fn members(&self, id: &ImageId) -> Result<Vec<Member>> {
        self.ours(id)?.members(id).await
    }

    async fn locations(&self, id: &ImageId) -> Result<serde_json::Map<String, serde_json::Value>> {
        self.ours(id)?.locations(id).await
    }

    async fn stores(&self) -> Result<Vec<Store>> {
        self.whole.stores().await
    }

    async fn usage(&self) -> Result<Usage> {
        self.whole.usage().await
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
