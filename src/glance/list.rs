//! The list of images, page by page, and the look-up by name.

use std::sync::Arc;
use std::time::SystemTime;

use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Glance, Request};
use super::error::{Operation, failed};
use super::filter::Filter;
use super::image::Image;
use crate::config::{Shown, Visibility};
use crate::error::{Kind, Result};

/// Bytes of a continuation that are taken. Glance's has some 60; gunicorn refuses request lines of 4 KiB.
const NEXT_LIMIT: usize = 2048;

/// One page of the listing.
#[derive(Debug)]
pub struct Page {
    /// Newest first, as Glance sorts them.
    pub images: Vec<Image>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<NextPage>,
    /// Where the next view begins, behind the last page of this one. One list of Glance does not have all that
    /// can be asked for: hidden images, for one, are in a list of their own.
    pub next_view: Option<NextPage>,
}

/// The continuation that a server gave: a path and query on the same endpoint, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextPage {
    /// With its query.
    path: String,
    /// The first pages of the views that follow.
    views: Arc<[String]>,
}

/// Filters of the lists in which all that is `shown` can be found, one after the other.
pub(super) fn views(shown: &Shown) -> Vec<String> {
    let mut views: Vec<_> =
        shown.visibilities.iter().map(|visibility| format!("&visibility={}", visibility.as_str())).collect();
    if views.is_empty() {
        views.push(String::new());
    }
    if shown.hidden {
        let hidden: Vec<_> = views.iter().map(|view| format!("{view}&os_hidden=true")).collect();
        views.extend(hidden);
    }
    views
}

/// Lists of what is `shown` have this image, as far as its record tells.
fn belongs(shown: &Shown, image: &Image) -> bool {
    #[derive(Deserialize)]
    struct Hidden {
        #[serde(default)]
        os_hidden: bool,
    }
    let hidden = || {
        let record = image.record.text().and_then(|text| serde_json::from_str(text).ok());
        record.is_some_and(|record: Hidden| record.os_hidden)
    };
    let seen =
        |visibility: &Visibility| *visibility == Visibility::All || visibility.as_str() == &*image.visibility;
    (shown.hidden || !hidden()) && (shown.visibilities.is_empty() || shown.visibilities.iter().any(seen))
}

impl NextPage {
    /// A path of our own making, for servers that give no continuation.
    pub(super) fn of(path: String) -> Self {
        Self { path, views: Arc::default() }
    }

    /// Where the next page is.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Takes the query of what the server says, and nothing else of it: the next request goes to the same path of an
    /// endpoint of ours, whatever host or path a `next` names.
    pub(super) fn from_server(next: &str) -> Option<Self> {
        let (path, query) = next.split_once('?')?;
        let query = query.split('#').next()?;
        let clean = query.bytes().all(|byte| byte.is_ascii_graphic());
        let is_list = path.trim_end_matches('/').ends_with("/v2/images");
        (is_list && clean && !query.is_empty() && query.len() <= NEXT_LIMIT)
            .then(|| Self { path: format!("v2/images?{query}"), views: Arc::default() })
    }
}

/// A page as it comes: the records stay text until each is read for itself.
#[derive(Deserialize)]
pub(super) struct RawPage<'a> {
    #[serde(borrow)]
    pub(super) images: Vec<&'a RawValue>,
    pub(super) next: Option<String>,
}

impl Glance {
    /// One page of `limit` images; `None` asks for the first.
    ///
    /// It shows what Glance lists by default: images of the project, public ones, and shared ones that were accepted.
    /// A record that cannot be read is left out and logged.
    ///
    /// # Errors
    /// `NotFound` when the marker of `next` has vanished: start again from the first page.
    pub async fn list(&self, limit: u32, next: Option<&NextPage>) -> Result<Page> {
        match next {
            None => self.first_page(Operation::List, &format!("v2/images?limit={limit}")).await,
            Some(next) => self.page(Operation::ListNext, &next.path, &next.views).await,
        }
    }

    /// The first page of the images whose records were changed at `since` or later, the latest first.
    ///
    /// Neither deletions nor images that others shared, published or hid meanwhile show here: nothing of the record
    /// changes, or it is not listed any more. Times have a resolution of a second: `since` itself is included, so what
    /// is known comes again. Glance spends 1 ms on each record.
    ///
    /// # Errors
    /// `Invalid` from servers before Mitaka, which do not know the filter.
    pub async fn changed_since(&self, since: SystemTime, limit: u32) -> Result<Page> {
        let since = Filter::ChangedSince(since).v2();
        let order = "sort_key=updated_at&sort_dir=desc";
        self.first_page(Operation::List, &format!("v2/images?limit={limit}&{order}&{since}")).await
    }

    /// An image that is ours is in these lists, going by its record.
    pub fn lists(&self, image: &Image) -> bool {
        belongs(&self.shown, image)
    }

    /// The first page of the first view.
    async fn first_page(&self, operation: Operation, path: &str) -> Result<Page> {
        let mut pages: Vec<_> = self.views.iter().map(|view| format!("{path}{view}")).collect();
        // There is always one.
        let views = pages.split_off(pages.len().min(1)).into();
        self.page(operation, pages.first().map_or(path, String::as_str), &views).await
    }

    /// Every visible image of exactly this name, first page only.
    pub async fn find_by_name(&self, name: &str) -> Result<Vec<Image>> {
        let name = Filter::Name(name.to_owned()).v2();
        // 100: duplicates are possible without limit, but a person has a handful.
        let mut page = self.first_page(Operation::Find, &format!("v2/images?limit=100&{name}")).await?;
        let mut found = page.images;
        while let Some(view) = page.next_view {
            page = self.page(Operation::Find, view.path(), &view.views).await?;
            found.append(&mut page.images);
        }
        Ok(found)
    }

    async fn page(&self, operation: Operation, path: &str, views: &Arc<[String]>) -> Result<Page> {
        let request = Request::new(operation, Method::GET, path, "");
        let answer = self.exchange(&request).await?.success(&request)?;
        let wrong = |what| failed(operation, "", Kind::ServerError, what);
        // Old databases hold names that are no UTF-8; they must not take the whole list with them.
        let text = String::from_utf8_lossy(&answer.body);
        let page: RawPage<'_> = serde_json::from_str(&text)
            .map_err(|error| wrong("the answer is no list of images").with_source(error))?;
        let images = page
            .images
            .into_iter()
            .filter_map(|record| {
                Image::from_record(record.get())
                    .inspect_err(|error| tracing::warn!(%error, "an image is left out of the list"))
                    .ok()
            })
            .collect();
        let next = match page.next.as_deref() {
            None | Some("") => None,
            // An error, not an end: a list that stops early would make images disappear.
            Some(next) => {
                let next = NextPage::from_server(next);
                let next = next.ok_or_else(|| wrong("the continuation leads elsewhere"))?;
                Some(NextPage { views: Arc::clone(views), ..next })
            }
        };
        let next_view =
            views.split_first().map(|(path, views)| NextPage { path: path.clone(), views: views.into() });
        Ok(Page { images, next, next_view })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_looked_for_in_one_list_after_the_other() {
        let shown = |visibilities: &[Visibility], hidden| {
            views(&Shown { visibilities: visibilities.to_vec(), hidden })
        };
        assert_eq!(shown(&[], false), [""]);
        assert_eq!(shown(&[], true), ["", "&os_hidden=true"]);
        assert_eq!(
            shown(&[Visibility::Public, Visibility::Community], true),
            [
                "&visibility=public",
                "&visibility=community",
                "&visibility=public&os_hidden=true",
                "&visibility=community&os_hidden=true"
            ]
        );
    }

    #[test]
    fn an_image_belongs_to_the_list_that_would_show_it() {
        let image = |visibility: &str, hidden: bool| {
            let record = serde_json::json!({
                "id": "1bea47ed-f6a9-463b-b423-14b9cca9ad27", "status": "active", "visibility": visibility,
                "os_hidden": hidden, "created_at": "2026-11-20T10:00:00Z", "updated_at": "2026-11-20T10:00:00Z",
            });
            Image::from_record(&record.to_string()).unwrap()
        };
        let listed = |visibilities: &[Visibility], hidden, image: Image| {
            belongs(&Shown { visibilities: visibilities.to_vec(), hidden }, &image)
        };
        assert!(listed(&[], false, image("private", false)));
        assert!(!listed(&[], false, image("private", true)));
        assert!(listed(&[], true, image("private", true)));
        assert!(!listed(&[Visibility::Public], true, image("private", false)));
        assert!(listed(&[Visibility::Public, Visibility::Private], false, image("private", false)));
        assert!(listed(&[Visibility::All], true, image("community", true)));
    }

    #[test]
    fn a_continuation_stays_on_our_server_and_path() {
        let query = "v2/images?marker=x&limit=2";
        for next in [
            "/v2/images?marker=x&limit=2",
            "/image/v2/images?marker=x&limit=2",
            "http://elsewhere/v2/images?marker=x&limit=2",
            "//elsewhere/v2/images?marker=x&limit=2#f",
        ] {
            assert_eq!(NextPage::from_server(next).unwrap().path, query, "{next}");
        }
        for next in
            ["", "/v2/images", "/v2/images?", "/v2/tasks?a=b", "?a=b", "/v2/images?a=b c", "/v2/images?\r\n"]
        {
            assert_eq!(NextPage::from_server(next), None, "{next:?}");
        }
        assert_eq!(NextPage::from_server(&format!("/v2/images?{}", "a".repeat(5000))), None);
    }
}
