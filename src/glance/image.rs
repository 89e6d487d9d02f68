//! One image as Glance describes it, read without trusting the description.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::readable::ReadableObject;
use crate::error::{Error, Kind, Result};
use crate::units::ImageId;

/// The life of an image, as Glance names its stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A record without data.
    Queued,
    /// Data are being uploaded.
    Saving,
    /// Data are being staged for an import.
    Uploading,
    /// An import is at work.
    Importing,
    /// Data are there and never change again.
    Active,
    /// Data are there, and only an administrator may read them.
    Deactivated,
    /// An upload failed (v1 of the API).
    Killed,
    /// Deleted, to be removed later.
    PendingDelete,
    /// Deleted.
    Deleted,
    /// A status that this version does not know: treated as not readable.
    Other(Box<str>),
}

/// Characters of a status that are kept. Glance's longest has 14.
const LONGEST_STATUS: usize = 32;

impl Status {
    fn from_name(name: &str) -> Self {
        match name {
            "queued" => Self::Queued,
            "saving" => Self::Saving,
            "uploading" => Self::Uploading,
            "importing" => Self::Importing,
            "active" => Self::Active,
            "deactivated" => Self::Deactivated,
            "killed" => Self::Killed,
            "pending_delete" => Self::PendingDelete,
            "deleted" => Self::Deleted,
            // It gets into messages: a word, and one line.
            other => Self::Other(other.chars().filter(|c| !c.is_control()).take(LONGEST_STATUS).collect()),
        }
    }

    /// As Glance writes it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Queued => "queued",
            Self::Saving => "saving",
            Self::Uploading => "uploading",
            Self::Importing => "importing",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::Killed => "killed",
            Self::PendingDelete => "pending_delete",
            Self::Deleted => "deleted",
            Self::Other(name) => name,
        }
    }
}

/// The hash Glance keeps of an image's data: `os_hash_algo` and `os_hash_value`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MultiHash {
    /// `sha512` unless the site says otherwise.
    pub algorithm: Arc<str>,
    /// Lower-case hexadecimal.
    pub value: Box<str>,
}

/// One image as Glance described it: what behaviour needs, parsed, and the whole record as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Exactly as Glance writes it.
    pub id: ImageId,
    /// `None`: the record says null.
    pub name: Option<Arc<str>>,
    /// What may be done with it now.
    pub status: Status,
    /// Bytes; known once data are there.
    pub size: Option<u64>,
    /// When the record was made; the epoch when the server wrote nothing readable.
    pub created_at: SystemTime,
    /// When the record was last changed; the epoch when the server wrote nothing readable.
    pub updated_at: SystemTime,
    /// The owning project.
    pub owner: Option<Arc<str>>,
    /// `public`, `private`, `shared` or `community`.
    pub visibility: Arc<str>,
    /// `raw`, `qcow2`, ...
    pub disk_format: Option<Arc<str>>,
    /// `bare`, ...
    pub container_format: Option<Arc<str>>,
    /// MD5 of the data, lower-case hexadecimal; only of an image that has data (see `hash`).
    pub checksum: Option<Box<str>>,
    /// Only of an active or deactivated image: a refused upload leaves its hashes on a queued record.
    pub hash: Option<MultiHash>,
    /// It cannot be deleted.
    pub protected: bool,
    /// The stores that hold the data (`stores`, comma separated), where the server says.
    pub stores: Option<Arc<str>>,
    /// The modification time of the file that it was made from, where that was kept: [`KEPT_MTIME`].
    pub kept_mtime: Option<SystemTime>,
    /// The record as Glance gives it, without what must stay hidden.
    pub record: RecordText,
}

/// The property with the modification time of the file that an image was made from.
pub const KEPT_MTIME: &str = "glancefs_mtime";

/// The property with what a start from the image reads.
pub const PROFILE_PROPERTY: &str = "glancefs_profile";

/// Never kept and never shown: URLs of locations can hold the store's credentials (OSSN-0065).
pub const SECRET_KEYS: [&str; 2] = ["locations", "direct_url"];

/// The record of an image: a JSON object on one line, or, once the text was put away, what tells it from another.
///
/// A record has 1 to 2 KiB and may have megabytes: the list of images holds none, and has them in a file.
#[derive(Debug, Clone)]
pub struct RecordText {
    text: Option<Box<str>>,
    digest: u64,
    len: u32,
}

impl RecordText {
    fn new(text: Box<str>) -> Self {
        // One answer of the server is far below 4 GiB.
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        Self { digest: digest(&text), len, text: Some(text) }
    }

    /// The text, unless it was put away.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Bytes of the text, also of one that was put away.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// The text is empty, which no record is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `text` is this record.
    pub fn is(&self, text: &str) -> bool {
        self.len as usize == text.len() && self.digest == digest(text)
    }

    /// Hands out the text; from now on this only knows it by its digest.
    pub fn put_away(&mut self) -> Option<Box<str>> {
        self.text.take()
    }
}

impl From<&str> for RecordText {
    fn from(text: &str) -> Self {
        Self::new(text.into())
    }
}

impl PartialEq for RecordText {
    fn eq(&self, other: &Self) -> bool {
        (self.len, self.digest) == (other.len, other.digest)
    }
}

/// Tells texts apart within one process. Two texts of one digest can be made, by whoever may write the record anyway.
fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The JSON object `json` on one line and without [`SECRET_KEYS`].
fn keepable(json: &str) -> std::result::Result<RecordText, serde_json::Error> {
    // A key may be written with escapes.
    if json.contains("\\u") || SECRET_KEYS.iter().any(|key| json.contains(key)) {
        let mut map: Map<String, Value> = serde_json::from_str(json)?;
        map.retain(|key, _| !SECRET_KEYS.contains(&key.as_str()));
        return Ok(RecordText::new(Value::Object(map).to_string().into()));
    }
    // The record is shown whole, though most of it is not looked at.
    serde_json::from_str::<ReadableObject>(json)?;
    if json.contains(['\n', '\r']) {
        // Between the tokens only: a string of JSON holds no raw line break.
        return Ok(RecordText::new(json.replace(['\n', '\r'], " ").into()));
    }
    Ok(json.into())
}

/// The attributes that behaviour depends on; all others stay in the record.
#[derive(Deserialize)]
struct Attributes {
    id: String,
    #[serde(default)]
    name: Option<Box<str>>,
    status: String,
    #[serde(default)]
    size: Option<serde_json::Number>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    updated_at: Option<String>,
    #[serde(default)]
    owner: Option<Box<str>>,
    #[serde(default)]
    visibility: Option<Box<str>>,
    #[serde(default)]
    disk_format: Option<Box<str>>,
    #[serde(default)]
    container_format: Option<Box<str>>,
    #[serde(default)]
    checksum: Option<String>,
    #[serde(default)]
    os_hash_algo: Option<Box<str>>,
    #[serde(default)]
    os_hash_value: Option<String>,
    #[serde(default)]
    protected: Option<bool>,
    #[serde(default)]
    stores: Option<Box<str>>,
    /// A property: anybody may have written anything.
    #[serde(default)]
    glancefs_mtime: Option<Value>,
}

impl Image {
    /// Reads one record.
    ///
    /// # Errors
    /// `ServerError` when it is no JSON object with an id and a status, when its size is no count of bytes, or when an
    /// attribute has the wrong type. A time that cannot be read is logged and becomes the epoch.
    pub fn from_record(json: &str) -> Result<Self> {
        let record: Attributes = serde_json::from_str(json).map_err(|error| {
            Error::new(Kind::ServerError, "an image record that cannot be read").with_source(error)
        })?;
        let text = keepable(json).map_err(|error| {
            Error::new(Kind::ServerError, "an image record that cannot be read").with_source(error)
        })?;
        let id: ImageId = record.id.parse().map_err(|error: Error| {
            Error::new(Kind::ServerError, "an image record with an impossible id").with_source(error)
        })?;
        let size = match record.size {
            None => None,
            Some(number) => {
                // The kernel counts the bytes of a file in 63 bits.
                let size = number.as_u64().filter(|size| i64::try_from(*size).is_ok());
                let wrong = || format!("image {id}: {number} is no size in bytes");
                Some(size.ok_or_else(|| Error::new(Kind::ServerError, wrong()))?)
            }
        };
        let status = Status::from_name(&record.status);
        let has_data = matches!(status, Status::Active | Status::Deactivated);
        let hash = match (record.os_hash_algo, record.os_hash_value.and_then(hexadecimal)) {
            (Some(algorithm), Some(value)) if has_data => {
                Some(MultiHash { algorithm: shared(&algorithm), value })
            }
            _ => None,
        };
        Ok(Self {
            created_at: time(&id, "created_at", record.created_at.as_deref()),
            updated_at: time(&id, "updated_at", record.updated_at.as_deref()),
            id,
            name: record.name.map(Arc::from),
            status,
            size,
            owner: record.owner.as_deref().map(shared),
            visibility: shared(record.visibility.as_deref().unwrap_or_default()),
            disk_format: record.disk_format.as_deref().map(shared),
            container_format: record.container_format.as_deref().map(shared),
            checksum: record.checksum.and_then(hexadecimal).filter(|_| has_data),
            hash,
            protected: record.protected.unwrap_or(false),
            stores: record.stores.as_deref().map(shared),
            kept_mtime: record.glancefs_mtime.as_ref().and_then(Value::as_str).and_then(parse_time),
            record: text,
        })
    }
}

/// Words that are kept once; projects are the only ones that there can be many of.
const SHARED_WORDS: usize = 4096;

/// `word`, in memory once for all images that have it: formats, visibilities, owners.
fn shared(word: &str) -> Arc<str> {
    static WORDS: Mutex<BTreeSet<Arc<str>>> = Mutex::new(BTreeSet::new());
    // Whole after each statement.
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = words.get(word) {
        return Arc::clone(known);
    }
    let new: Arc<str> = word.into();
    if words.len() < SHARED_WORDS {
        words.insert(Arc::clone(&new));
    }
    new
}

/// Hash values are compared as text: only hexadecimal is one, in lower case.
fn hexadecimal(text: String) -> Option<Box<str>> {
    let text = text.to_ascii_lowercase();
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.into())
}

/// A time as any release of Glance writes it. One bad time must not hide an image, so it is the epoch then.
fn time(id: &ImageId, attribute: &str, text: Option<&str>) -> SystemTime {
    match text.and_then(parse_time) {
        Some(time) => time,
        None => {
            tracing::warn!(image = %id, attribute, text, "not a time: taken as 1970-01-01");
            SystemTime::UNIX_EPOCH
        }
    }
}

/// `time` as [`KEPT_MTIME`] holds it.
///
/// # Errors
/// `Invalid` before the year -9999 and after 9999.
pub fn time_text(time: SystemTime) -> Result<String> {
    let timestamp = jiff::Timestamp::try_from(time);
    let timestamp =
        timestamp.map_err(|error| Error::new(Kind::Invalid, "no year has it").with_source(error))?;
    Ok(timestamp.to_string())
}

/// ISO 8601 with `Z`, an offset, or neither (then it is UTC); with or without a fraction.
fn parse_time(text: &str) -> Option<SystemTime> {
    let instant = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        jiff::tz::Offset::UTC.to_timestamp(civil).ok()
    })?;
    Some(instant.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ID: &str = "1f3c9a2b-0000-4000-8000-000000000001";

    fn record(rest: &str) -> String {
        format!(
            r#"{{"id":"{ID}","status":"active","created_at":"2026-11-20T10:00:00Z","updated_at":"2026-11-20T10:00:00Z"{rest}}}"#
        )
    }

    #[test]
    fn a_record_of_glance_33_is_read_and_kept_as_it_is() {
        let json = r#"{"hw_disk_bus": "virtio", "name": "debian-12", "disk_format": "qcow2", "container_format": "bare",
            "visibility": "shared", "size": 475000000, "virtual_size": null, "status": "active",
            "checksum": "D41D8CD98F00B204E9800998ECF8427E", "protected": true, "min_ram": 0, "min_disk": 0,
            "owner": "0d8ce8cb", "os_hidden": false, "os_hash_algo": "sha512", "os_hash_value": "cf83e1",
            "id": "1f3c9a2b-0000-4000-8000-000000000001", "created_at": "2026-11-20T10:00:00Z",
            "updated_at": "2026-11-20T10:00:01Z", "tags": ["a"], "self": "/v2/images/x", "stores": "file,file2"}"#;
        let image = Image::from_record(json).unwrap();
        assert_eq!(image.name.as_deref(), Some("debian-12"));
        assert_eq!(image.status, Status::Active);
        assert_eq!(image.size, Some(475_000_000));
        assert_eq!(image.checksum.as_deref(), Some("d41d8cd98f00b204e9800998ecf8427e"));
        assert_eq!(image.hash, Some(MultiHash { algorithm: "sha512".into(), value: "cf83e1".into() }));
        assert!(image.protected);
        assert_eq!(image.stores.as_deref(), Some("file,file2"));
        assert_eq!(image.record.text(), Some(json.replace('\n', " ").as_str()));
        assert_eq!(image.updated_at.duration_since(image.created_at).unwrap(), Duration::from_secs(1));
    }

    #[test]
    fn a_record_that_was_put_away_is_known_by_its_digest() {
        let mut image = Image::from_record(&record("")).unwrap();
        let whole = image.clone();
        let text = image.record.put_away().unwrap();
        assert_eq!(image.record.text(), None);
        assert_eq!(image, whole);
        assert_eq!(image.record.len() as usize, text.len());
        assert!(image.record.is(&text) && !image.record.is(&text.replace("active", "queued")));
        assert_ne!(image, Image::from_record(&record(r#","os_distro":"debian""#)).unwrap());
    }

    #[test]
    fn a_kept_time_is_exact_and_one_that_is_none_is_left_alone() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(981_158_400, 123_456_789);
        let text = time_text(time).unwrap();
        assert_eq!(text, "2001-02-03T00:00:00.123456789Z", "it is in records");
        let kept = |value: &str| {
            Image::from_record(&record(&format!(r#","glancefs_mtime":{value}"#))).unwrap().kept_mtime
        };
        assert_eq!(kept(&format!("\"{text}\"")), Some(time));
        assert_eq!((kept("\"yesterday\""), kept("7"), kept("null")), (None, None, None));
    }

    #[test]
    fn locations_are_not_kept() {
        let image = Image::from_record(&record(
            r#","locations":[{"url":"swift://user:key@host/x"}],"direct_url":"rbd://x","os_distro":"debian""#,
        ));
        let text = image.unwrap().record.put_away().unwrap();
        assert!(text.contains("debian") && !text.contains("key@host") && !text.contains("rbd"), "{text}");
    }

    #[test]
    fn nulls_and_absent_attributes_are_no_error() {
        let image =
            Image::from_record(&record(r#","name":null,"size":null,"owner":null,"checksum":null"#)).unwrap();
        assert_eq!((image.name, image.size, image.owner, image.hash), (None, None, None, None));
    }

    #[test]
    fn the_hashes_of_a_refused_upload_are_not_believed() {
        let hashes = r#","checksum":"00","os_hash_algo":"sha512","os_hash_value":"00""#;
        let queued = record(hashes).replace("active", "queued");
        let image = Image::from_record(&queued).unwrap();
        assert_eq!((image.checksum, image.hash), (None, None));
        assert!(Image::from_record(&record(hashes)).unwrap().hash.is_some());
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for json in [
            String::new(),
            "[]".into(),
            // A list of the first attributes.
            r#"["1f3c9a2b",null,"active"]"#.into(),
            "{}".into(),
            record(r#","size":-1"#),
            record(r#","size":1.5"#),
            record(r#","size":1e30"#),
            record(r#","name":7"#),
            record(r#","name":"\ud800""#),
            // Of attributes that nothing looks at: no type has this number, no reader goes so deep.
            record(r#","any":4e75000000"#),
            record(&format!(r#","any":{}7{}"#, "[".repeat(200), "]".repeat(200))),
            record(r#","any":{"\ud800":1}"#),
            record("").replace(ID, "../../etc/passwd"),
        ] {
            assert_eq!(Image::from_record(&json).unwrap_err().kind(), Kind::ServerError, "{json}");
        }
    }

    #[test]
    fn times_are_read_in_every_form_and_never_fail() {
        let ten = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_168_800);
        for text in [
            "2026-11-20T10:00:00Z",
            "2026-11-20T10:00:00",
            "2026-11-20T12:00:00+02:00",
            "2026-11-20 10:00:00.000000",
        ] {
            assert_eq!(parse_time(text), Some(ten), "{text}");
        }
        assert_eq!(parse_time("2026-11-20T10:00:00.5Z"), Some(ten + Duration::from_millis(500)));
        for text in ["", "yesterday", "2026-13-40T10:00:00Z"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
        let image = Image::from_record(&record("").replace("2026-11-20T10:00:00Z", "never")).unwrap();
        assert_eq!(image.created_at, SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn an_unknown_status_keeps_its_name() {
        let image = Image::from_record(&record("").replace("active", "frozen")).unwrap();
        assert_eq!(image.status, Status::Other("frozen".into()));
        assert_eq!(image.status.as_str(), "frozen");
    }
}
