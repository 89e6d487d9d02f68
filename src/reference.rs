//! How a person names an image, or what a mount shall show: read from text, before anything is asked.
//!
//! The rules are those of Nova's and Cinder's `get_remote_image_service`: a word without a scheme is an id or
//! a name, an address is taken apart into the endpoint and the id at its end. Other than theirs, an address is
//! only read as an image's when it says so (`.../v2/images/<id>`).

use std::fmt;
use std::str::FromStr;

use url::Url;

use crate::error::{Error, Kind, Result};
use crate::units::ImageId;

/// One image, as a person names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageReference {
    /// A UUID, the form of every id that Glance makes or takes.
    Id(ImageId),
    /// Anything else without a scheme.
    Name(String),
    /// A full address.
    Url(ImageUrl),
}

/// The address of an image at a Glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUrl {
    /// The endpoint, without the version and with a `/` at its end.
    pub endpoint: Url,
    /// The image.
    pub id: ImageId,
}

impl ImageUrl {
    /// Reads `<endpoint>/v2/images/<id>`, with any version and perhaps `/file` at the end.
    ///
    /// # Errors
    /// `Invalid`, without showing a password that the text may hold.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let cure = "write it like https://glance.example.org:9292/v2/images/<id>";
            Error::new(Kind::Invalid, format!("this is no address of an image ({why}): {cure}"))
        };
        let url = Url::parse(text.trim()).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong("it is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it holds a user name or password"));
        }
        let mut parts: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
        parts.pop_if(|last| *last == "file");
        let id = parts.pop().ok_or_else(|| wrong("it has no path"))?;
        if parts.pop() != Some("images") || !parts.pop().is_some_and(is_version) {
            return Err(wrong("its path does not end in v2/images/<id>"));
        }
        let id = id.parse().map_err(|_| wrong("its last part is no id"))?;
        let mut endpoint = url.clone();
        endpoint.set_query(None);
        endpoint.set_fragment(None);
        let path: String = parts.iter().map(|part| format!("{part}/")).collect();
        endpoint.set_path(&path);
        Ok(Self { endpoint, id })
    }

    /// The address below one of `endpoints`, which are without a version.
    pub fn is_at(&self, endpoints: &[Url]) -> bool {
        endpoints.iter().any(|endpoint| same_endpoint(endpoint, &self.endpoint))
    }
}

/// The address of an image at `endpoint`, as [`ImageUrl::parse`] reads it.
impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.as_str().trim_end_matches('/');
        write!(f, "{endpoint}/v2/images/{}", self.id)
    }
}

/// Scheme, host, port and path are alike. Names are not resolved: a token goes to no host that merely has the
/// same address.
fn same_endpoint(one: &Url, other: &Url) -> bool {
    let path = |url: &Url| url.path().trim_matches('/').to_owned();
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
        && path(one) == path(other)
}

/// `v1`, `v2`, `v2.15`, ...
fn is_version(part: &str) -> bool {
    part.strip_prefix('v').is_some_and(|number| {
        number.starts_with(|digit: char| digit.is_ascii_digit())
            && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(Kind::Invalid, "an image is named by its id, its name or its address"));
        }
        if text.contains("://") {
            return ImageUrl::parse(text).map(Self::Url);
        }
        // With hyphens: a name of 32 hexadecimal digits is more likely a digest.
        let is_id = text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
        match text.parse() {
            Ok(id) if is_id => Ok(Self::Id(id)),
            _ => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// What `glancefs mount SOURCE MOUNTPOINT` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A cloud of clouds.yaml.
    Cloud(String),
    /// The address of a Glance.
    Endpoint(Url),
    /// One image; without a cloud, of the one that the options and variables give.
    Image {
        /// The cloud in front of the colon.
        cloud: Option<String>,
        /// The image.
        image: ImageReference,
    },
}

impl FromStr for MountSource {
    type Err = Error;

    /// A bare word is a cloud, `CLOUD:IMAGE` and `:IMAGE` one image, an address an image or an endpoint.
    fn from_str(text: &str) -> Result<Self> {
        if text.contains("://") {
            // A slip in the address of an image must not mount the whole cloud.
            return match Url::parse(text) {
                Ok(url) if !url.path().contains("/images") => Ok(Self::Endpoint(url)),
                _ => ImageUrl::parse(text)
                    .map(|url| Self::Image { cloud: None, image: ImageReference::Url(url) }),
            };
        }
        match text.split_once(':') {
            None if text.is_empty() => Err(Error::new(Kind::Invalid, "the source to be mounted is empty")),
            None => Ok(Self::Cloud(text.to_owned())),
            Some((cloud, image)) => {
                let cloud = Some(cloud.to_owned()).filter(|cloud| !cloud.is_empty());
                Ok(Self::Image { cloud, image: image.parse()? })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1f3c9a2b-0000-4000-8000-000000000001";

    fn url(endpoint: &str) -> ImageReference {
        ImageReference::Url(ImageUrl { endpoint: endpoint.parse().unwrap(), id: ID.parse().unwrap() })
    }

    #[test]
    fn ids_names_and_addresses_are_told_apart() {
        let read = |text: &str| text.parse::<ImageReference>().unwrap();
        assert_eq!(read(ID), ImageReference::Id(ID.parse().unwrap()));
        for name in ["debian-12.qcow2", "a/b", "1f3c9a2b000040008000000000000001", "1f3c9a2b", "a:b"] {
            assert_eq!(read(name), ImageReference::Name(name.into()));
        }
        for (text, endpoint) in [
            ("http://glance:9292/v2/images/", "http://glance:9292/"),
            ("http://glance:9292/v1/images/", "http://glance:9292/"),
            ("https://cloud.example.org/image/v2.15/images/", "https://cloud.example.org/image/"),
            ("http://[2001:db8::1]:9292//v2//images/", "http://[2001:db8::1]:9292/"),
        ] {
            for end in ["", "/", "/file", "?x=1#y"] {
                assert_eq!(read(&format!("{text}{ID}{end}")), url(endpoint), "{text} {end}");
            }
        }
    }

    #[test]
    fn what_is_no_address_of_an_image_is_refused_without_its_password() {
        for text in [
            "http://glance:9292",
            "http://glance:9292/v2/images",
            "http://glance/images/x",
            "http://glance/v2/flavors/x",
            "http://glance/v2/images/a%2Fb",
            "ftp://glance/v2/images/x",
            "http://user:pa55@glance/v2/images/x",
            "http://",
            "",
        ] {
            let error = text.parse::<ImageReference>().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(!error.to_string().contains("pa55"), "{error}");
        }
    }

    #[test]
    fn an_address_is_at_an_endpoint_of_the_same_host_port_and_path() {
        let at = |text: &str, endpoint: &str| {
            let url = ImageUrl::parse(&format!("{text}/v2/images/{ID}")).unwrap();
            url.is_at(&["http://first:9292/".parse().unwrap(), endpoint.parse().unwrap()])
        };
        assert!(at("http://glance:9292", "http://glance:9292/"));
        assert!(at("http://first:9292", "http://glance:9292/"));
        assert!(at("https://GLANCE:443/image", "https://glance/image"));
        assert!(!at("https://glance:9292", "http://glance:9292/"));
        assert!(!at("http://glance:9293", "http://glance:9292/"));
        assert!(!at("http://glance:9292", "http://glance:9292/image/"));
        assert!(!at("http://glance.evil:9292", "http://glance:9292/"));
    }

    #[test]
    fn an_address_reads_back() {
        let text = format!("https://cloud.example.org/image/v2/images/{ID}");
        assert_eq!(ImageUrl::parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn sources_of_a_mount_are_told_apart() {
        let read = |text: &str| text.parse::<MountSource>().unwrap();
        assert_eq!(read("mycloud"), MountSource::Cloud("mycloud".into()));
        assert_eq!(read("https://h/image/v2"), MountSource::Endpoint("https://h/image/v2".parse().unwrap()));
        let image = |cloud: Option<&str>, image| MountSource::Image { cloud: cloud.map(Into::into), image };
        assert_eq!(read(&format!("http://h:9292/v2/images/{ID}")), image(None, url("http://h:9292/")));
        assert_eq!(read(&format!("c:{ID}")), image(Some("c"), ImageReference::Id(ID.parse().unwrap())));
        assert_eq!(read("c:x:y"), image(Some("c"), ImageReference::Name("x:y".into())));
        assert_eq!(read(":x"), image(None, ImageReference::Name("x".into())));
        for wrong in ["", "c:", "http://h/v2/images", "http://h/v2/images/a/b"] {
            assert!(wrong.parse::<MountSource>().is_err(), "{wrong}");
        }
    }
}
