//! What `fuzz/` gives hostile bytes to in this layer; not part of the API.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use url::Url;

use super::download::{check, content_range};
use super::image::{Image, SECRET_KEYS};
use super::list::{NextPage, RawPage};
use super::v1::fuzzing as v1;
use crate::units::ByteRange;

/// The first line is a `Content-Range`, the second a `Content-Length`.
pub fn ranges(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let (range, length) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found = std::str::from_utf8(range).ok().and_then(content_range);
    if let Some((range, _)) = found {
        assert!(range.start < range.end);
    }
    let mut headers = HeaderMap::new();
    let values = [(CONTENT_RANGE, range), (CONTENT_LENGTH, length)];
    headers.extend(values.into_iter().filter_map(|(name, value)| {
        Some((name, HeaderValue::from_bytes(value).ok().filter(|value| !value.is_empty())?))
    }));
    let (wanted, size) = (ByteRange::new(10, 20), 100);
    if check(StatusCode::PARTIAL_CONTENT, &headers, wanted, size, true).is_ok() {
        assert!(found.is_some_and(|(range, total)| range == wanted && total.is_none_or(|all| all == size)));
    }
    let _ = check(StatusCode::OK, &headers, ByteRange::new(0, size), size, false);
}

/// The record of an image.
pub fn record(bytes: &[u8]) {
    if let Ok(image) = Image::from_record(&String::from_utf8_lossy(bytes)) {
        plausible(&image);
    }
}

/// A page of the list, and where it says that the next one is.
pub fn page(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    stays_here(&text);
    let Ok(page) = serde_json::from_str::<RawPage<'_>>(&text) else { return };
    for image in page.images.iter().filter_map(|record| Image::from_record(record.get()).ok()) {
        plausible(&image);
    }
    stays_here(page.next.as_deref().unwrap_or_default());
}

fn stays_here(next: &str) {
    let Some(next) = NextPage::from_server(next) else { return };
    for endpoint in ["http://glance.test:9292/", "https://cloud.test/image/"] {
        let Ok(base) = Url::parse(endpoint) else { continue };
        let joined = base.join(next.path());
        assert!(joined.is_ok_and(|url| {
            url.origin() == base.origin() && url.path() == format!("{}v2/images", base.path())
        }));
    }
}

/// The headers of v1, a line each; the same bytes as a record of v1 in JSON.
pub fn v1_headers(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    if let Ok(image) = v1::image_of_headers(&headers) {
        plausible(&image);
    }
    if let Ok(record) = serde_json::from_slice::<Map<String, Value>>(bytes)
        && let Ok(image) = v1::image_of_json(record)
    {
        plausible(&image);
    }
}

/// What the layers above rely on, whoever wrote the record.
fn plausible(image: &Image) {
    let id = image.id.as_str();
    assert!(!id.is_empty() && id.len() <= 64 && !id.contains(['/', '.', '%', '?', '#', '\0']));
    assert!(image.size.is_none_or(|size| i64::try_from(size).is_ok()), "no file can have {:?}", image.size);
    let text = image.record.text().unwrap_or_default();
    assert!(!text.contains(['\n', '\r']), "a record is one line");
    assert!(!image.status.as_str().contains(char::is_control), "a status is a word");
    let record = serde_json::from_str::<Map<String, Value>>(text);
    assert!(record.is_ok_and(|record| SECRET_KEYS.iter().all(|key| !record.contains_key(*key))));
    let hashes = [image.checksum.as_deref(), image.hash.as_ref().map(|hash| &*hash.value)];
    assert!(hashes.into_iter().flatten().all(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit())));
}
