//! What Glance's answers mean: HTTP status and text to a [`Kind`], in one table.
//!
//! Glance says several different things with one status, and tells them apart only in the text; every place where
//! glancefs looks at that text is here. Sources: `glance/api/v2/image_data.py`, `images.py` and the stores.

use reqwest::StatusCode;
use serde::Deserialize;

use crate::error::{Error, Kind};
use crate::metrics::Call;

/// What was asked, as far as the meaning of an answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// The first page of a listing.
    List,
    /// A later page, which needs its marker to exist.
    ListNext,
    /// A page of the images of one name.
    Find,
    Show,
    Schema,
    Create,
    Update,
    /// `actions/deactivate` and the like.
    Act,
    Delete,
    Upload,
    Download,
    /// Which versions of the API there are.
    Versions,
    /// Stores, limits and the like.
    Facts,
    Members,
    Import,
    Tasks,
    Locations,
}

impl Operation {
    /// It is about what there is as a whole: the last good answer serves when no other comes.
    pub(super) fn lists(self) -> bool {
        matches!(self, Self::List | Self::ListNext | Self::Schema | Self::Versions | Self::Facts)
    }

    /// For the log and `.glancefs/metrics`.
    pub(super) fn call(self) -> Call {
        match self {
            Self::List | Self::ListNext => Call::List,
            Self::Find => Call::Find,
            Self::Show => Call::Show,
            Self::Schema => Call::Schema,
            Self::Create => Call::Create,
            Self::Update => Call::Update,
            Self::Act => Call::Act,
            Self::Delete => Call::Delete,
            Self::Upload => Call::Upload,
            Self::Download => Call::Download,
            Self::Versions => Call::Versions,
            Self::Facts => Call::Facts,
            Self::Members => Call::Members,
            Self::Import => Call::Import,
            Self::Tasks => Call::Tasks,
            Self::Locations => Call::Locations,
        }
    }

    /// For the beginning of a message.
    fn doing(self) -> &'static str {
        match self {
            Self::List | Self::ListNext => "listing images",
            Self::Show => "looking up",
            Self::Find => "looking for a name",
            Self::Schema => "reading the schema of images",
            Self::Create => "creating",
            Self::Update | Self::Act => "changing",
            Self::Delete => "deleting",
            Self::Upload => "uploading",
            Self::Download => "downloading",
            Self::Versions => "asking for the versions of the Image API",
            Self::Facts => "asking what the image service has",
            Self::Members => "the members of",
            Self::Import => "importing",
            Self::Tasks => "the tasks of",
            Self::Locations => "the locations of",
        }
    }
}

/// The error for an answer that is no success. `subject` is the image, or empty; `request` the id by which the server
/// logs it, for those who can look there.
pub(super) fn answered(
    operation: Operation,
    subject: &str,
    status: StatusCode,
    request: Option<&str>,
    body: &[u8],
) -> Error {
    let said = text(body);
    let (kind, meaning) = meaning(operation, status.as_u16(), &said.to_lowercase());
    let space = if subject.is_empty() { "" } else { " " };
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let request = request.map(|id| format!("; request {id}")).unwrap_or_default();
    let status = status.as_u16();
    let message = format!("{}{space}{subject}: {meaning} (HTTP {status}{said}{request})", operation.doing());
    Error::new(kind, message)
}

/// The same form of message for what goes wrong without an answer.
pub(super) fn failed(operation: Operation, subject: &str, kind: Kind, what: &str) -> Error {
    let space = if subject.is_empty() { "" } else { " " };
    Error::new(kind, format!("{}{space}{subject}: {what}", operation.doing()))
}

/// `said` is in lower case.
fn meaning(operation: Operation, status: u16, said: &str) -> (Kind, &'static str) {
    use Operation as Op;
    let says = |words: &str| said.contains(words);
    match (operation, status) {
        (Op::ListNext, 403) => (Kind::NotFound, "the marker is not visible any more"),
        (Op::ListNext, 400) if says("no image found with id") || says("invalid marker") => {
            (Kind::NotFound, "the marker has vanished")
        }
        (Op::List | Op::ListNext | Op::Find | Op::Schema, 404) => (
            Kind::NotSupported,
            "there is no such version of the Image API: check the endpoint and --api-version",
        ),
        (_, 300..=399) => (
            Kind::NotSupported,
            "this server does not speak this version of the Image API here: check the endpoint and --api-version",
        ),
        (Op::Facts, 404) => (Kind::NotSupported, "this server does not tell"),
        (Op::Locations, 404) if !says("no image") => {
            (Kind::NotSupported, "this server has no API for locations")
        }
        (Op::Locations, 405) => (Kind::NotSupported, "this server has no API for locations"),
        (Op::Members, 403) => (Kind::Forbidden, "not allowed (is it ours, and is its visibility shared?)"),
        (Op::Members, 404) => (Kind::NotFound, "no such image or member, or not visible to this project"),
        (Op::Members, 409) => (Kind::Exists, "the project is a member already"),
        (Op::Download, 400) if says("getting images randomly") => {
            (Kind::RangeUnsupported, "the store cannot serve ranges")
        }
        (Op::Download, 400) if says("store selection") || says("is not configured") => {
            (Kind::NotSupported, "the server cannot prefer this store")
        }
        (Op::Download, 400) if says("store '") && says("does not exist") => {
            (Kind::NotSupported, "the server cannot prefer this store")
        }
        // The name of the rule in Glance's policy.
        (Op::Download, 403) if says("download_from_store") => {
            (Kind::NotSupported, "we may not prefer a store")
        }
        // v1; v2 says these with 413 and 415.
        (Op::Create | Op::Upload, 400) if says("larger than") => {
            (Kind::TooLarge, "the image is larger than the cloud allows")
        }
        (Op::Upload, 400) if says("did not match") => {
            (Kind::Integrity, "other bytes arrived than were announced")
        }
        (_, 400) => (Kind::Invalid, "the server refuses the request"),
        (_, 401) => (Kind::NotAuthenticated, "the token is not accepted"),
        (Op::Delete, 403) if says("protected") => (Kind::NotPermitted, "the image is protected"),
        (Op::Create | Op::Update, 403) if says("read-only") || says("readonly") || says("reserved") => {
            (Kind::NotPermitted, "the attribute cannot be set")
        }
        (Op::Update, 403) if says("forbidden to modify") => {
            (Kind::NotPermitted, "the attribute cannot be set")
        }
        (Op::Update, 403) if says("can be only replaced for") || says("can be only removed for") => {
            (Kind::NotPermitted, "the attribute is fixed once there are data")
        }
        (_, 403) => (Kind::Forbidden, "not allowed (a role may be missing, or the token has no project)"),
        (Op::Download, 404) if says("not active") => (Kind::NoData, "the image has no data"),
        (_, 404) => (Kind::NotFound, "no such image, or not visible to this project"),
        (_, 405 | 501) => (Kind::NotSupported, "this server cannot do that"),
        (_, 408) => (Kind::TimedOut, "the server waited too long for the request"),
        (Op::Create, 409) => (Kind::Exists, "the id is taken"),
        (Op::Update, 409) if says("does not exist") => (Kind::NoData, "there is no such property"),
        (Op::Update, 409) if says("already present") => (Kind::Exists, "there is such a property already"),
        (Op::Delete, 409) => (Kind::Busy, "its data are in use where they are stored (a clone, a snapshot)"),
        (_, 409) => (Kind::Busy, "the status of the image does not allow it now"),
        (Op::Upload, 410) if says("disabled") => (Kind::ReadOnly, "the store takes no images"),
        (_, 410) => (Kind::NotFound, "the image was deleted meanwhile"),
        (_, 413) => too_large(said),
        (Op::Upload, 415) => (Kind::WrongFormat, "the content does not match the disk_format"),
        (_, 416) => (Kind::Integrity, "the data are shorter than the record says"),
        (_, 431) => (Kind::ValueTooLarge, "the server takes no headers of that size"),
        (_, 429) => (Kind::ServerError, "the server asks for fewer requests"),
        (_, 500..) => (Kind::ServerError, "the server failed"),
        _ => (Kind::ServerError, "an answer that the Image API does not give"),
    }
}

/// 413 stands for six things (`image_data.py`, `StorageQuotaFull`, `StorageFull`, `ImageSizeLimitExceeded`, `LimitExceeded`).
fn too_large(said: &str) -> (Kind, &'static str) {
    let says = |words: &str| said.contains(words);
    if says("number of allowed image") {
        (Kind::NoSpace, "too many properties, tags or members")
    } else if says("quota") || says("over a limit") || says("over limit") || says("bytes remaining") {
        (Kind::QuotaExceeded, "the quota of the project is used up")
    } else if says("media is full") || says("not enough disk space") {
        (Kind::NoSpace, "the store is full")
    } else {
        (Kind::TooLarge, "the image is larger than the cloud allows")
    }
}

/// What a person can use of an error's body: Glance's own sentence, on one line, without markup.
fn text(body: &[u8]) -> String {
    /// `Accept: application/json` gives this form; proxies and some 500s answer in HTML all the same.
    #[derive(Deserialize)]
    struct Explained {
        message: String,
    }
    let raw = match serde_json::from_slice::<Explained>(body) {
        Ok(explained) => explained.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let mut plain = String::new();
    let mut in_tag = false;
    for c in raw.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                plain.push(' ');
            }
            _ if in_tag => {}
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    let words: Vec<&str> = plain.split_whitespace().collect();
    // 300 characters hold every sentence of Glance's; more would be a page of a proxy.
    words.join(" ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation as Op;

    fn kind(operation: Operation, status: u16, message: &str) -> Kind {
        let body = serde_json::json!({ "message": message, "code": "x", "title": "y" }).to_string();
        answered(operation, "x", StatusCode::from_u16(status).unwrap(), None, body.as_bytes()).kind()
    }

    #[test]
    fn each_answer_of_glance_has_its_kind() {
        for (operation, status, message, expected) in [
            (
                Op::Download,
                400,
                "Getting images randomly from this store is not supported. Offset: 10, length: 10",
                Kind::RangeUnsupported,
            ),
            (Op::Download, 400, "Store 'ceph' is not configured.", Kind::NotSupported),
            (Op::Download, 400, "Store 'ceph' does not exist.", Kind::NotSupported),
            (
                Op::Download,
                400,
                "Store selection for download is not available when multiple backends are not enabled.",
                Kind::NotSupported,
            ),
            (
                Op::Download,
                403,
                "You are not authorized to complete download_from_store action.",
                Kind::NotSupported,
            ),
            (Op::Download, 403, "You are not authorized to complete download_image action.", Kind::Forbidden),
            (Op::Create, 400, "Provided object does not match schema 'image'", Kind::Invalid),
            (Op::ListNext, 400, "No image found with ID 9b5", Kind::NotFound),
            (Op::ListNext, 403, "", Kind::NotFound),
            (Op::List, 400, "Invalid visibility value", Kind::Invalid),
            (Op::List, 404, "", Kind::NotSupported),
            (Op::Show, 404, "No image found with ID x", Kind::NotFound),
            (Op::List, 300, "", Kind::NotSupported),
            (Op::Show, 401, "", Kind::NotAuthenticated),
            (Op::Delete, 403, "Image x is protected and cannot be deleted.", Kind::NotPermitted),
            (Op::Delete, 403, "You are not authorized to complete delete_image action.", Kind::Forbidden),
            (Op::Update, 403, "Attribute 'size' is read-only.", Kind::NotPermitted),
            (Op::Update, 403, "Attribute 'x_secret' is reserved.", Kind::NotPermitted),
            (
                Op::Update,
                403,
                "Attribute disk_format can be only replaced for a queued image.",
                Kind::NotPermitted,
            ),
            (Op::Create, 409, "Image ID x already exists!", Kind::Exists),
            (Op::Update, 409, "Property x does not exist.", Kind::NoData),
            (Op::Update, 409, "Property x already present.", Kind::Exists),
            (Op::Upload, 409, "Image status transition from active to saving is not allowed", Kind::Busy),
            (Op::Delete, 409, "Image x could not be deleted because it is in use", Kind::Busy),
            (
                Op::Upload,
                410,
                "Image x could not be found after upload. The image may have been deleted during the upload",
                Kind::NotFound,
            ),
            (
                Op::Upload,
                410,
                "Error in store configuration. Adding images to store is disabled.",
                Kind::ReadOnly,
            ),
            (
                Op::Upload,
                413,
                "Image exceeds the storage quota: The size of the data 20 will exceed the limit. 10 bytes remaining.",
                Kind::QuotaExceeded,
            ),
            (
                Op::Upload,
                413,
                "Project p is over a limit for [Resource image_size_total is over limit of 10]",
                Kind::QuotaExceeded,
            ),
            (
                Op::Upload,
                413,
                "Image storage media is full: There is not enough disk space on the image storage media.",
                Kind::NoSpace,
            ),
            (
                Op::Upload,
                413,
                "The incoming image is too large: The provided image is too large.",
                Kind::TooLarge,
            ),
            (
                Op::Update,
                413,
                "The limit has been exceeded on the number of allowed image properties. Attempted: 129, Maximum: 128",
                Kind::NoSpace,
            ),
            (Op::Upload, 413, "<html><h1>413 Request Entity Too Large</h1>nginx</html>", Kind::TooLarge),
            (Op::Upload, 415, "Image disk_format qcow2 does not match stream data raw", Kind::WrongFormat),
            (Op::Download, 416, "", Kind::Integrity),
            (Op::Show, 429, "", Kind::ServerError),
            (Op::Show, 500, "", Kind::ServerError),
            (Op::Show, 503, "", Kind::ServerError),
            (Op::Schema, 501, "", Kind::NotSupported),
        ] {
            assert_eq!(kind(operation, status, message), expected, "{operation:?} {status} {message}");
        }
    }

    #[test]
    fn a_message_is_one_short_line_without_markup() {
        let body = br#"{"message": "Not <b>allowed</b>.<br /><br />\n\n\n", "code": "403 Forbidden"}"#;
        let error = answered(Op::Delete, "image x", StatusCode::FORBIDDEN, Some("req-7"), body);
        assert!(error.to_string().ends_with("(HTTP 403: Not allowed .; request req-7)"), "{error}");
        assert!(error.to_string().starts_with("deleting image x: "), "{error}");
        let page = "<html>\r\n".to_owned() + &"x ".repeat(10_000);
        let error = answered(Op::List, "", StatusCode::BAD_GATEWAY, None, page.as_bytes()).to_string();
        assert!(error.len() < 500 && !error.contains('\n'), "{error}");
        assert!(text(&[0xff, 0xfe, b'a']).ends_with('a'));
    }
}
