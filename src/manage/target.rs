//! The image that a command is about: a path on a mount, an id, a name, or an address.

use crate::client::ImagePath;
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Negotiated};
use crate::reference::{ImageReference, ImageUrl};

/// An image as it was typed.
pub(super) struct Target {
    typed: String,
    reference: ImageReference,
    /// Where it was named by a path.
    path: Option<ImagePath>,
}

impl Target {
    /// Reads what was typed; a path is looked at.
    ///
    /// # Errors
    /// `NotFound` and `Invalid` for a path to no image of a mount, `Invalid` for what is no address of an image.
    pub(super) fn of(typed: &str) -> Result<Self> {
        let named = |error: Error| error.context(typed);
        let path = ImagePath::find(typed).map_err(named)?;
        let reference = match &path {
            Some(path) => ImageReference::Url(path.url.clone()),
            None => typed.parse().map_err(named)?,
        };
        Ok(Self { typed: typed.to_owned(), reference, path })
    }

    /// As it was typed, for messages.
    pub(super) fn typed(&self) -> &str {
        &self.typed
    }

    /// Finds it at the cloud.
    ///
    /// # Errors
    /// Those of [`Negotiated::resolve`]; a path of another cloud than the one we are logged in to is told as such.
    pub(super) async fn find(&self, glance: &Negotiated) -> Result<Image> {
        let error = match glance.resolve(&self.reference).await {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        Err(match &self.path {
            Some(ImagePath { url: ImageUrl { endpoint, .. }, .. }) if error.kind() == Kind::Invalid => {
                Error::new(
                    Kind::Invalid,
                    format!(
                        "{}: this mount shows another Glance ({endpoint}) than the one that is logged in to: \
                         give the command the cloud of the mount (--os-cloud, OS_CLOUD or the OS_* variables)",
                        self.typed
                    ),
                )
            }
            _ => error.context(&self.typed),
        })
    }

    /// Lets the mount that the image was named on know of a change; the change was made even if that fails.
    pub(super) fn changed(&self) {
        if let Some(path) = &self.path
            && let Err(error) = path.look_again()
        {
            eprintln!("glancefs: {}: the mount shows the change later: {error}", self.typed);
        }
    }
}
