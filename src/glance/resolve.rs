//! From an image as a person names it to the image.

use super::{Image, Listing, Negotiated, Records};
use crate::error::{Error, Kind, Result};
use crate::reference::ImageReference;

/// Ids of an ambiguous name that a message lists.
const LISTED: usize = 10;

impl Negotiated {
    /// The one image that `reference` means.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a name that several images have, with their ids, and for the address of another
    /// Glance: our token goes to none but the one we are logged in to.
    pub async fn resolve(&self, reference: &ImageReference) -> Result<Image> {
        match reference {
            ImageReference::Id(id) => match self.show(id).await {
                // A name may look like an id.
                Err(error) if error.kind() == Kind::NotFound => self.named(id.as_str()).await?.ok_or(error),
                shown => shown,
            },
            ImageReference::Name(name) => self
                .named(name)
                .await?
                .ok_or_else(|| Error::new(Kind::NotFound, format!("no image has the name {name:?}"))),
            ImageReference::Url(url) => {
                // With a token the catalogue is known, and it decides.
                let auth = &self.glance().inner.auth;
                auth.credential().await?;
                let ours = auth.endpoints();
                if !url.is_at(ours) {
                    let ours: Vec<_> = ours.iter().map(url::Url::as_str).collect();
                    return Err(Error::new(
                        Kind::Invalid,
                        format!(
                            "{url} is not an image of the Glance that is logged in to ({}): log in to that cloud, \
                             or, if it may have your token, give --endpoint {}",
                            ours.join(", "),
                            url.endpoint
                        ),
                    ));
                }
                self.show(&url.id).await
            }
        }
    }

    /// The one image of this name.
    async fn named(&self, name: &str) -> Result<Option<Image>> {
        let mut found = self.find_by_name(name).await?;
        if found.len() < 2 {
            return Ok(found.pop());
        }
        let ids: Vec<_> = found.iter().take(LISTED).map(|image| image.id.as_str()).collect();
        let more = if found.len() > LISTED { ", ..." } else { "" };
        Err(Error::new(
            Kind::Invalid,
            format!(
                "{} images have the name {name:?}: name one by its id: {}{more}",
                found.len(),
                ids.join(", ")
            ),
        ))
    }
}
