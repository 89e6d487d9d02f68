//! Where Glance is: addresses as operators write them, and the choice from Keystone's catalogue.

use std::net::Ipv6Addr;

use url::Url;

use crate::error::{Error, Kind, Result};

/// Reads the address of a Glance server as operators write it.
///
/// A full URL, or `host`, `host:port`, `[v6]:port` for plain HTTP; a path is kept, a version at its end is not.
///
/// # Errors
/// `Config` when it is no HTTP address, or holds a user name or password.
pub fn parse_endpoint(text: &str) -> Result<Url> {
    let text = text.trim();
    let full = if text.contains("://") {
        text.to_owned()
    } else if text.parse::<Ipv6Addr>().is_ok() {
        format!("http://[{text}]")
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&full).map_err(|error| {
        // Not the text itself: a mistyped address may hold a password.
        Error::new(Kind::Config, "a Glance endpoint is not a URL such as https://glance.example.org:9292")
            .with_source(error)
    })?;
    base_url(&url)
}

/// The endpoint without its version, query and fragment, and with a `/` at the end, so that `v2/…` can be joined.
///
/// A URL that was read from `host:port` without a scheme (where `host` counts as the scheme) is understood too.
pub(super) fn base_url(url: &Url) -> Result<Url> {
    if !matches!(url.scheme(), "http" | "https") {
        if url.cannot_be_a_base() && !url.as_str().contains("://") {
            return parse_endpoint(&format!("http://{url}"));
        }
        let cure = "an endpoint begins with http:// or https://";
        return Err(Error::new(Kind::Config, format!("{:?} is no Glance endpoint: {cure}", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let cure = "endpoints hold no user name or password; give them as OS_USERNAME and OS_PASSWORD";
        return Err(Error::new(Kind::Config, cure));
    }
    let mut base = url.clone();
    base.set_query(None);
    base.set_fragment(None);
    let mut segments: Vec<&str> = url.path().split('/').filter(|segment| !segment.is_empty()).collect();
    if segments.last().is_some_and(|last| is_version(last)) {
        segments.pop();
    }
    let path = segments.iter().map(|segment| format!("{segment}/")).collect::<String>();
    base.set_path(&path);
    Ok(base)
}

/// `v1`, `v2`, `v2.15`, ...
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|number| {
        number.starts_with(|c: char| c.is_ascii_digit())
            && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// One address in Keystone's catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CatalogueEntry {
    pub service_type: String,
    pub region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub interface: String,
    pub url: String,
}

/// The image endpoint of `region` (any, when not given: the first) and `interface`.
///
/// # Errors
/// `Config`, naming the regions and interfaces that the catalogue does have.
pub(super) fn choose_image_endpoint(
    catalogue: &[CatalogueEntry],
    region: Option<&str>,
    interface: &str,
) -> Result<Url> {
    let images: Vec<_> = catalogue.iter().filter(|entry| entry.service_type == "image").collect();
    if images.is_empty() {
        let cure = "give the server with --endpoint";
        return Err(Error::new(Kind::Config, format!("the catalogue has no image service: {cure}")));
    }
    let chosen = images.iter().find(|entry| {
        entry.interface == interface && region.is_none_or(|wanted| entry.region.as_deref() == Some(wanted))
    });
    let Some(chosen) = chosen else {
        let there: Vec<String> = images
            .iter()
            .map(|entry| format!("{} in {}", entry.interface, entry.region.as_deref().unwrap_or("no region")))
            .collect();
        return Err(Error::new(
            Kind::Config,
            format!(
                "the catalogue has no {interface} image endpoint in {}; it has: {}; \
                 check OS_REGION_NAME and OS_INTERFACE, or give --endpoint",
                region.map_or("any region".to_owned(), |name| format!("region {name:?}")),
                there.join(", ")
            ),
        ));
    };
    parse_endpoint(&chosen.url).map_err(|error| error.context("the image endpoint of the catalogue"))
}

/// `OS_INTERFACE` and clouds.yaml know `public` and `publicURL` alike.
pub(super) fn interface_name(text: Option<&str>) -> &str {
    let name = text.filter(|text| !text.is_empty()).unwrap_or("public");
    name.strip_suffix("URL").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_operators_write_them() {
        for (text, base) in [
            ("http://glance:9292", "http://glance:9292/"),
            ("http://glance:9292/v2/", "http://glance:9292/"),
            ("https://cloud.example.org/image/v2", "https://cloud.example.org/image/"),
            ("https://cloud.example.org/image/v2.15/", "https://cloud.example.org/image/"),
            ("https://cloud.example.org/image/v1?x=1#y", "https://cloud.example.org/image/"),
            ("https://cloud.example.org/vault", "https://cloud.example.org/vault/"),
            ("glance:9292", "http://glance:9292/"),
            (" glance ", "http://glance/"),
            ("10.0.0.1:9292/v2", "http://10.0.0.1:9292/"),
            ("[2001:db8::1]:9292", "http://[2001:db8::1]:9292/"),
            ("2001:db8::1", "http://[2001:db8::1]/"),
        ] {
            let url = parse_endpoint(text).unwrap();
            assert_eq!(url.as_str(), base, "{text}");
            assert_eq!(base_url(&url).unwrap(), url, "normalising twice changes nothing: {text}");
        }
    }

    #[test]
    fn a_host_that_was_taken_for_a_scheme_is_understood() {
        let misread = Url::parse("localhost:9292").unwrap();
        assert_eq!(base_url(&misread).unwrap().as_str(), "http://localhost:9292/");
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_showing_a_password() {
        for text in ["", "ftp://glance/", "http://", "http://user:pa55@glance/", "http://user:pa55@:x/"] {
            let error = parse_endpoint(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{text}");
            assert!(!error.to_string().contains("pa55"), "{error}");
        }
    }

    fn entry(region: &str, interface: &str, url: &str) -> CatalogueEntry {
        CatalogueEntry {
            service_type: "image".into(),
            region: Some(region.into()),
            interface: interface.into(),
            url: url.into(),
        }
    }

    #[test]
    fn region_and_interface_choose_the_endpoint() {
        let catalogue = [
            entry("one", "internal", "http://one-int:9292"),
            entry("one", "public", "http://one:9292/v2"),
            entry("two", "public", "http://two:9292"),
        ];
        let choose = |region, interface| choose_image_endpoint(&catalogue, region, interface);
        assert_eq!(choose(None, "public").unwrap().as_str(), "http://one:9292/");
        assert_eq!(choose(Some("two"), "public").unwrap().as_str(), "http://two:9292/");
        assert_eq!(choose(None, "internal").unwrap().as_str(), "http://one-int:9292/");
        let error = choose(Some("three"), "public").unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("public in two"), "{error}");
        assert_eq!(choose_image_endpoint(&[], None, "public").unwrap_err().kind(), Kind::Config);
    }

    #[test]
    fn both_spellings_of_an_interface_mean_the_same() {
        assert_eq!(interface_name(None), "public");
        assert_eq!(interface_name(Some("")), "public");
        assert_eq!(interface_name(Some("internalURL")), "internal");
        assert_eq!(interface_name(Some("admin")), "admin");
    }
}
