//! The list of images in v1: `GET /v1/images/detail`, page by page.

use std::time::SystemTime;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::GlanceV1;
use super::headers::image_of_json;
use crate::error::{Kind, Result};
use crate::glance::client::Request;
use crate::glance::error::{Operation, failed};
use crate::glance::filter::Filter;
use crate::glance::image::Image;
use crate::glance::list::{NextPage, Page};
use crate::units::ImageId;

/// An administrator who asks for nothing else is shown public images only (`_get_is_public` of the registry).
const ALL: &str = "v1/images/detail?is_public=None";

#[derive(Deserialize)]
struct RawPage {
    images: Vec<Map<String, Value>>,
}

impl GlanceV1 {
    /// One page of `limit` images, the newest first; `None` asks for the first.
    ///
    /// v1 gives no continuation: a page is the last when it is empty, since the server may have a lower limit than
    /// ours.
    ///
    /// # Errors
    /// `NotFound` when the marker of `next` has vanished: start again from the first page.
    pub async fn list(&self, limit: u32, next: Option<&NextPage>) -> Result<Page> {
        match next {
            None => self.page(Operation::List, &format!("{ALL}&limit={limit}")).await,
            Some(next) => self.page(Operation::ListNext, next.path()).await,
        }
    }

    /// The first page of the images whose records were changed at `since` or later, the latest first.
    ///
    /// Those that were deleted or killed since then are among them, in that status.
    pub async fn changed_since(&self, since: SystemTime, limit: u32) -> Result<Page> {
        let since = Filter::ChangedSince(since).v1();
        let path = format!("{ALL}&limit={limit}&sort_key=updated_at&sort_dir=desc&{since}");
        self.page(Operation::List, &path).await
    }

    /// Every visible image of exactly this name, first page only; of names with a colon those among the 100 latest
    /// images, since Glance 15 takes what is before the colon for an operator and fails.
    pub async fn find_by_name(&self, name: &str) -> Result<Vec<Image>> {
        // 100: duplicates are possible without limit, but a person has a handful.
        let mut path = format!("{ALL}&limit=100");
        if !name.contains(':') {
            path.push_str(&format!("&{}", Filter::Name(name.to_owned()).v1()));
        }
        let mut found = self.page(Operation::List, &path).await?.images;
        found.retain(|image| image.name.as_deref() == Some(name));
        Ok(found)
    }

    async fn page(&self, operation: Operation, path: &str) -> Result<Page> {
        let request = Request::new(operation, Method::GET, path, "");
        let answer = self.glance.exchange(&request).await?.success(&request)?;
        let wrong = |what| failed(operation, "", Kind::ServerError, what);
        let text = String::from_utf8_lossy(&answer.body);
        let page: RawPage = serde_json::from_str(&text)
            .map_err(|error| wrong("the answer is no list of images").with_source(error))?;
        let next = match page.images.last() {
            None => None,
            Some(last) => {
                let marker = last.get("id").and_then(Value::as_str).and_then(|id| id.parse::<ImageId>().ok());
                let marker = marker.ok_or_else(|| wrong("the last image of a page has no id"))?;
                let first = path.split("&marker=").next().unwrap_or(path);
                Some(NextPage::of(format!("{first}&marker={marker}")))
            }
        };
        let images = page.images.into_iter().filter_map(|record| {
            let image = image_of_json(record);
            image.inspect_err(|error| tracing::warn!(%error, "an image is left out of the list")).ok()
        });
        Ok(Page { images: images.collect(), next, next_view: None })
    }
}
