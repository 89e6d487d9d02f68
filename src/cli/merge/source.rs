//! The source of a mount: what `SOURCE` adds to the options about the cloud.

use url::Url;

use super::{endpoint, wrong};
use crate::cli::args::{LoginArguments, MountArguments};
use crate::error::Result;
use crate::reference::{ImageReference, MountSource};

/// The options about the cloud with what the source says, and the one image that it names.
pub(super) struct Chosen {
    pub(super) login: LoginArguments,
    pub(super) image: Option<ImageReference>,
    /// The Glance in the address of that image.
    pub(super) endpoint: Option<Url>,
}

/// # Errors
/// `Config` when the source names a cloud and the options another, or cannot be read.
pub(super) fn chosen(arguments: &MountArguments) -> Result<Chosen> {
    let mut login = arguments.cloud.login.clone();
    let none = |login| Chosen { login, image: None, endpoint: None };
    let Some(text) = &arguments.places.source else { return Ok(none(login)) };
    let source: MountSource =
        text.parse().map_err(|error: crate::error::Error| wrong(format!("SOURCE: {error}")))?;
    let (cloud, image) = match source {
        MountSource::Cloud(cloud) => (Some(cloud), None),
        MountSource::Endpoint(_) => {
            login.endpoint.push(endpoint("SOURCE", text)?.into());
            (None, None)
        }
        MountSource::Image { cloud, image } => (cloud, Some(image)),
    };
    // A section of a configuration file is no cloud of clouds.yaml: what it says of the login is among the options.
    if let Some(cloud) = cloud.filter(|cloud| arguments.own_cloud.as_ref() != Some(cloud)) {
        if login.os_cloud.as_ref().is_some_and(|other| !other.is_empty() && *other != cloud) {
            return Err(wrong(format!(
                "SOURCE names the cloud {cloud:?}, --os-cloud another: leave out one of them"
            )));
        }
        login.os_cloud = Some(cloud);
    }
    let address = match &image {
        Some(ImageReference::Url(url)) => Some(url.endpoint.clone()),
        _ => None,
    };
    Ok(Chosen { endpoint: address, image, login })
}
