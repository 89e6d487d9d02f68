//! Extended attributes of an image: its record as `user.glance.*`, local facts as `user.glancefs.*`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::glance::{KEPT_MTIME, SECRET_KEYS, Schema};

/// Attributes of the Image API.
pub(super) const ATTRIBUTE: &str = "user.glance.";
/// Everything else in a record.
pub(super) const PROPERTY: &str = "user.glance.property.";
/// What this mount knows.
pub(super) const LOCAL: &str = "user.glancefs.";

/// The boot profile of the image. Not in the list of names: who copies all attributes does not mean this one.
pub(super) const PROFILE: &str = "user.glancefs.profile";

/// How far an image is that is being uploaded: bytes sent and bytes in all, as `1048576/3145728`.
pub(super) const UPLOAD_PROGRESS: &str = "user.glancefs.upload_progress";

/// The largest value and the largest list of names the kernel carries (`XATTR_SIZE_MAX`,
/// `XATTR_LIST_MAX`).
const MOST_BYTES: usize = 65536;

/// The longest name of an attribute (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

/// The local facts, in the order they are listed.
pub(super) const LOCAL_NAMES: [&str; 4] = ["source", "cached_bytes", "verified", "last_error"];

/// The record of an image under the names of extended attributes.
pub(super) struct Record {
    map: Map<String, Value>,
    schema: Schema,
}

impl Record {
    /// Reads the record that Glance gave.
    pub(super) fn of(record: &str, schema: Schema) -> Result<Self> {
        let map = serde_json::from_str(record).map_err(|error| {
            Error::new(Kind::ServerError, "reading the image's record").with_source(error)
        })?;
        Ok(Self { map, schema })
    }

    /// The record that an image will have.
    pub(super) fn of_draft(map: Map<String, Value>, schema: Schema) -> Self {
        Self { map, schema }
    }

    fn shown(&self) -> impl Iterator<Item = (String, &Value)> {
        let shown =
            self.map.iter().filter(|(key, value)| !value.is_null() && !SECRET_KEYS.contains(&key.as_str()));
        shown.map(|(key, value)| (self.name_of(key), value))
    }

    /// What the schema of this server calls an attribute is one; where it could not be had, what
    /// Glance has always had (`tags` and the like are never properties).
    fn name_of(&self, key: &str) -> String {
        if self.schema.attributes.contains(key) {
            return fitting(ATTRIBUTE, key);
        }
        fitting(PROPERTY, key)
    }

    /// The names of all that are not null. A kept time is not among them: who copies attributes copies times as
    /// times, and rsync would remove it where the original has none.
    pub(super) fn names(&self) -> Vec<String> {
        let kept = fitting(PROPERTY, KEPT_MTIME);
        self.shown().map(|(name, _)| name).filter(|name| *name != kept).collect()
    }

    /// The key that is shown under this name.
    pub(super) fn key_of(&self, name: &str) -> Option<String> {
        self.map.keys().find(|key| self.name_of(key) == name).cloned()
    }

    /// What is there under `key`; null counts as nothing.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The value under a full name: text as it is, anything else as JSON.
    pub(super) fn value(&self, name: &str) -> Result<Vec<u8>> {
        let found = self.shown().find(|(shown, _)| shown == name);
        let (_, value) = found.ok_or_else(|| Error::new(Kind::NoData, format!("no attribute {name}")))?;
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if text.len() > MOST_BYTES {
            return Err(Error::new(
                Kind::ValueTooLarge,
                format!(
                    "{name} has {} bytes, the kernel carries {MOST_BYTES}: read .glancefs/images/<id>.json",
                    text.len()
                ),
            ));
        }
        Ok(text.into_bytes())
    }
}

/// The names as `listxattr` returns them: each ended by NUL.
///
/// # Errors
/// `ValueTooLarge` beyond the kernel's 64 KiB.
pub(super) fn joined(names: &[String]) -> Result<Vec<u8>> {
    let mut list = Vec::new();
    for name in names {
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    if list.len() > MOST_BYTES {
        return Err(Error::new(
            Kind::ValueTooLarge,
            "the names of the attributes are more than the kernel carries: read .glancefs/images/<id>.json",
        ));
    }
    Ok(list)
}

/// `prefix` and the key, with `%`, NUL and control bytes percent-encoded; an empty key is `%empty`,
/// and one that is too long ends in `~` and 8 hex digits of its checksum.
fn fitting(prefix: &str, key: &str) -> String {
    let encoded: Cow<'_, str> = if key.is_empty() { "%empty".into() } else { encoded(key) };
    let room = NAME_MAX - prefix.len();
    if encoded.len() <= room {
        return format!("{prefix}{encoded}");
    }
    let mut cut = room - 9;
    while !encoded.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{prefix}{}~{:08x}", &encoded[..cut], crc32c::crc32c(key.as_bytes()))
}

fn encoded(key: &str) -> Cow<'_, str> {
    if !key.contains(|character: char| character == '%' || character.is_ascii_control()) {
        return key.into();
    }
    let mut text = String::new();
    for character in key.chars() {
        if character == '%' || character.is_ascii_control() {
            text.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            text.push(character);
        }
    }
    text.into()
}

/// The key behind what [`fitting`] made of it; a `%` that begins no escape stands for itself.
pub(super) fn decoded(name: &str) -> Cow<'_, str> {
    match name {
        "%empty" => "".into(),
        _ if !name.contains('%') => name.into(),
        _ => percent_encoding::percent_decode_str(name).decode_utf8_lossy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(extra: &str) -> Record {
        let text = format!(
            r#"{{"id":"1f3c9a2b-0000-4000-8000-000000000001","name":null,"status":"active","size":3,
            "created_at":"2026-11-20T10:00:00Z","updated_at":"2026-11-20T10:00:00Z","visibility":"private",
            "protected":false,"tags":["a","b"]{extra}}}"#
        );
        let attributes =
            ["id", "name", "status", "size", "protected", "tags", "locations"].map(Box::from).into();
        Record::of(&text, Schema { attributes }).unwrap()
    }

    fn text(record: &Record, name: &str) -> String {
        String::from_utf8(record.value(name).unwrap()).unwrap()
    }

    #[test]
    fn the_schema_tells_attributes_from_properties() {
        let record = record(r#","os_distro":"debian","":"nothing""#);
        assert_eq!(text(&record, "user.glance.size"), "3");
        assert_eq!(text(&record, "user.glance.protected"), "false");
        assert_eq!(text(&record, "user.glance.tags"), r#"["a","b"]"#);
        assert_eq!(text(&record, "user.glance.property.os_distro"), "debian");
        assert_eq!(text(&record, "user.glance.property.%empty"), "nothing");
        assert_eq!(record.value("user.glance.name").unwrap_err().kind(), Kind::NoData, "null is absent");
        assert!(!record.names().contains(&"user.glance.name".to_owned()));
    }

    #[test]
    fn locations_stay_hidden() {
        let hidden = record(r#","locations":[{"url":"swift://user:key@host/x"}],"direct_url":"rbd://x""#);
        assert!(!hidden.names().iter().any(|name| name.contains("locations") || name.contains("direct_url")));
    }

    #[test]
    fn what_the_kernel_cannot_carry_is_refused() {
        let large = record(&format!(r#","large":"{}""#, "x".repeat(70_000)));
        assert_eq!(large.value("user.glance.property.large").unwrap_err().kind(), Kind::ValueTooLarge);
        let names: Vec<_> = (0..300).map(|number| format!("{PROPERTY}{number}{}", "k".repeat(220))).collect();
        assert_eq!(joined(&names).unwrap_err().kind(), Kind::ValueTooLarge);
    }

    #[test]
    fn odd_keys_get_names_the_kernel_takes() {
        let long = "k".repeat(255);
        let odd = record(&format!(r#","{long}":"v","{long}2":"w","a%b\n":"x""#));
        for name in odd.names() {
            assert!(name.len() <= NAME_MAX && !name.contains('\0'), "{name}");
        }
        assert_eq!(text(&odd, "user.glance.property.a%25b%0A"), "x");
        let unique: std::collections::HashSet<_> = odd.names().into_iter().collect();
        assert_eq!(unique.len(), odd.names().len());
    }
}
