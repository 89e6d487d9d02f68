//! Which extended attributes can be written, and what a value becomes in the record. Pure: no request, no clock.
//!
//! The values are checked as far as Glance's schema is the same everywhere; what a site or a role forbids,
//! the server says.

use serde_json::Value;

use super::xattr::{ATTRIBUTE, LOCAL, PROPERTY, decoded};
use crate::error::{Error, Kind, Result};
use crate::glance::Schema;
use crate::write::describes_data;

/// Characters of a name, a tag or a key, as Glance's database has them.
const MOST_CHARACTERS: usize = 255;

/// Keys that Glance keeps for itself (`RESERVED` of `api/v2/images.py`), besides `os_glance_*`.
const RESERVED: [&str; 3] = ["location", "deleted", "deleted_at"];

/// The attributes of a record that are set by [`Edit::Attribute`].
const TO_SET: [&str; 10] = [
    "name",
    "visibility",
    "protected",
    "os_hidden",
    "min_disk",
    "min_ram",
    "owner",
    "disk_format",
    "container_format",
    "tags",
];

/// Attributes that are only known where the data go, before they do.
pub(super) const STORE: &str = "store";
/// The image that the store may put the data beside, in the same place.
pub(super) const BASE_IMAGE: &str = "base_image_ref";

/// What setting an attribute means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Edit {
    /// An attribute of the record, which is always there.
    Attribute { key: &'static str, value: Value },
    /// A property.
    Property { key: String, value: String },
    /// `user.glance.status`: take the data away from readers, or give them back.
    Readable(bool),
    /// The store that the data shall go to.
    Store(String),
    /// See [`BASE_IMAGE`].
    BaseImage(String),
}

/// What removing an attribute means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Removal {
    /// A property goes.
    Property { key: String },
    /// An attribute gets the value it has when nobody sets it.
    Attribute { key: &'static str, value: Value },
}

impl Edit {
    /// A copy of an image has this of the original. Name, owner and visibility are those of the copy: a file
    /// that is copied must not be published by that, nor be locked against its copier (`protected`).
    pub(super) fn goes_with_a_copy(&self) -> bool {
        match self {
            Self::Property { key, .. } => !describes_data(key),
            Self::Attribute { key, .. } => {
                matches!(
                    *key,
                    "tags" | "min_disk" | "min_ram" | "os_hidden" | "disk_format" | "container_format"
                )
            }
            _ => false,
        }
    }
}

/// What setting `name` means; `known` tells the key of a property that is shown under this name.
///
/// # Errors
/// `NotPermitted` for what Glance sets itself, `NotSupported` for other names, `Invalid`, `NameTooLong` and
/// `IllegalName` for values that are none.
pub(super) fn edit(
    name: &str,
    value: &[u8],
    schema: &Schema,
    known: impl Fn(&str) -> Option<String>,
) -> Result<Edit> {
    let text = || {
        let text = std::str::from_utf8(value);
        text.map_err(|_| Error::new(Kind::Invalid, format!("{name}: values are UTF-8")))
    };
    if name.starts_with(PROPERTY) {
        let key = key(name, schema, known)?;
        return Ok(Edit::Property { key, value: storable(text()?)?.to_owned() });
    }
    let Some(attribute) = name.strip_prefix(ATTRIBUTE) else { return Err(refused(name, schema)) };
    let wrong = |what: &str| Error::new(Kind::Invalid, format!("{name}: {what}"));
    let (key, value) = match attribute {
        "name" => ("name", short(text()?)?.into()),
        "visibility" => match text()? {
            level @ ("public" | "private" | "shared" | "community") => ("visibility", level.into()),
            _ => return Err(wrong("one of public, private, shared and community")),
        },
        "protected" => ("protected", boolean(text()?).ok_or_else(|| wrong("true or false"))?.into()),
        "os_hidden" => ("os_hidden", boolean(text()?).ok_or_else(|| wrong("true or false"))?.into()),
        "min_disk" => ("min_disk", number(text()?).ok_or_else(|| wrong("a number of GB"))?.into()),
        "min_ram" => ("min_ram", number(text()?).ok_or_else(|| wrong("a number of MB"))?.into()),
        "owner" => ("owner", short(text()?)?.into()),
        "disk_format" => ("disk_format", short(text()?)?.into()),
        "container_format" => ("container_format", short(text()?)?.into()),
        "tags" => {
            let tags: Vec<String> =
                serde_json::from_str(text()?).map_err(|_| wrong("a JSON array of strings"))?;
            for tag in &tags {
                short(tag)?;
            }
            ("tags", tags.into())
        }
        "status" => {
            return match text()? {
                "active" => Ok(Edit::Readable(true)),
                "deactivated" => Ok(Edit::Readable(false)),
                _ => Err(wrong("active or deactivated")),
            };
        }
        STORE => return Ok(Edit::Store(header(text()?).ok_or_else(|| wrong("the id of a store"))?)),
        BASE_IMAGE => {
            return Ok(Edit::BaseImage(header(text()?).ok_or_else(|| wrong("the id of an image"))?));
        }
        _ => return Err(refused(name, schema)),
    };
    // An old server would take an attribute that it does not have for a property.
    if !schema.attributes.is_empty() && !schema.attributes.contains(key) {
        return Err(Error::new(Kind::NotSupported, format!("images of this server have no {key}")));
    }
    Ok(Edit::Attribute { key, value })
}

/// What removing `name` means.
///
/// # Errors
/// As [`edit`].
pub(super) fn removal(
    name: &str,
    schema: &Schema,
    known: impl Fn(&str) -> Option<String>,
) -> Result<Removal> {
    if name.starts_with(PROPERTY) {
        return Ok(Removal::Property { key: key(name, schema, known)? });
    }
    Ok(match name.strip_prefix(ATTRIBUTE) {
        Some("tags") => Removal::Attribute { key: "tags", value: Value::Array(Vec::new()) },
        Some("min_disk") => Removal::Attribute { key: "min_disk", value: 0.into() },
        Some("min_ram") => Removal::Attribute { key: "min_ram", value: 0.into() },
        Some(
            "name" | "visibility" | "protected" | "os_hidden" | "owner" | "disk_format" | "container_format",
        ) => {
            return Err(Error::new(Kind::NotPermitted, format!("{name} is always there")));
        }
        _ => return Err(refused(name, schema)),
    })
}

/// `name` is of those that images have here: others are no concern of ours.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(ATTRIBUTE) || name.starts_with(LOCAL)
}

/// An attribute of the record that somebody but Glance sets.
pub(super) fn is_attribute_to_set(key: &str) -> bool {
    TO_SET.contains(&key)
}

/// Looks whether a property can be.
///
/// # Errors
/// `NotPermitted` for Glance's own; `Invalid`, `NameTooLong`, `IllegalName`.
pub(super) fn property(key: &str, value: &str) -> Result<()> {
    if is_reserved(key) {
        return Err(read_only(key));
    }
    storable(short(key)?)?;
    storable(value).map(drop)
}

fn key(name: &str, schema: &Schema, known: impl Fn(&str) -> Option<String>) -> Result<String> {
    if let Some(key) = known(name) {
        return if is_reserved(&key) { Err(read_only(name)) } else { Ok(key) };
    }
    let key = decoded(name.strip_prefix(PROPERTY).unwrap_or_default());
    if is_reserved(&key) {
        return Err(read_only(name));
    }
    if schema.attributes.contains(key.as_ref()) {
        return Err(Error::new(Kind::Invalid, format!("{key} is no property: set {ATTRIBUTE}{key}")));
    }
    // Glance takes blanks at the ends away: another property than was asked for.
    if key.trim() != key {
        return Err(Error::new(Kind::Invalid, format!("{name}: Glance keeps no blanks around a key")));
    }
    Ok(short(&key)?.to_owned())
}

/// Glance keeps this property for itself.
pub(super) fn is_reserved(key: &str) -> bool {
    key.starts_with("os_glance_") || RESERVED.contains(&key)
}

fn refused(name: &str, schema: &Schema) -> Error {
    match name.strip_prefix(ATTRIBUTE) {
        Some(key) if schema.attributes.contains(key) => read_only(name),
        None if name.starts_with(LOCAL) => read_only(name),
        _ => Error::new(Kind::NotSupported, format!("{name}: images have no such attribute")),
    }
}

fn read_only(name: &str) -> Error {
    Error::new(Kind::NotPermitted, format!("{name} cannot be set"))
}

/// Glance stores no characters beyond the Basic Multilingual Plane.
fn storable(text: &str) -> Result<&str> {
    match text.chars().find(|character| *character > '\u{ffff}') {
        Some(character) => Err(Error::new(Kind::IllegalName, format!("Glance does not store {character:?}"))),
        None => Ok(text),
    }
}

fn short(text: &str) -> Result<&str> {
    if text.chars().count() > MOST_CHARACTERS {
        let most = format!("more than {MOST_CHARACTERS} characters");
        return Err(Error::new(Kind::NameTooLong, most));
    }
    storable(text)
}

/// As JSON has them, and as the openstack client shows them.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" => Some(true),
        "false" | "False" => Some(false),
        _ => None,
    }
}

/// A column of 32 bits.
fn number(text: &str) -> Option<i32> {
    text.parse().ok().filter(|number| *number >= 0)
}

/// What can stand in a header of HTTP.
fn header(text: &str) -> Option<String> {
    let fits =
        !text.is_empty() && text.len() <= MOST_CHARACTERS && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let attributes = [
            "id",
            "name",
            "size",
            "tags",
            "visibility",
            "protected",
            "min_ram",
            "checksum",
            "status",
            "owner",
            "disk_format",
        ];
        Schema { attributes: attributes.map(Box::from).into() }
    }

    fn set(name: &str, value: &str) -> Result<Edit> {
        edit(name, value.as_bytes(), &schema(), |_| None)
    }

    fn refusal(name: &str, value: &str) -> Kind {
        set(name, value).unwrap_err().kind()
    }

    #[test]
    fn values_become_what_glance_takes() {
        let attribute = |key, value: Value| Edit::Attribute { key, value };
        for (name, value, expected) in [
            ("name", "a/b", attribute("name", "a/b".into())),
            ("visibility", "community", attribute("visibility", "community".into())),
            ("protected", "True", attribute("protected", true.into())),
            ("min_ram", "512", attribute("min_ram", 512.into())),
            ("tags", r#"["a", "b c"]"#, attribute("tags", vec!["a", "b c"].into())),
            ("status", "deactivated", Edit::Readable(false)),
            ("store", "fast", Edit::Store("fast".into())),
        ] {
            assert_eq!(set(&format!("user.glance.{name}"), value).unwrap(), expected);
        }
        let property = |key: &str| Edit::Property { key: key.into(), value: "v".into() };
        for (name, key) in
            [("os_distro", "os_distro"), ("a/b", "a/b"), ("a%25b%0A", "a%b\n"), ("100%", "100%")]
        {
            let found = set(&format!("user.glance.property.{name}"), "v");
            match key.trim() == key {
                true => assert_eq!(found.unwrap(), property(key)),
                false => assert_eq!(found.unwrap_err().kind(), Kind::Invalid),
            }
        }
        let known = |_: &str| Some("the whole key".to_owned());
        let found = edit("user.glance.property.the~01234567", b"v", &schema(), known).unwrap();
        assert_eq!(found, property("the whole key"));
    }

    #[test]
    fn what_is_none_of_the_values_is_invalid() {
        for (name, value) in [
            ("visibility", "secret"),
            ("protected", "1"),
            ("min_ram", "-1"),
            ("min_ram", "99999999999"),
            ("tags", "a,b"),
            ("tags", "[1]"),
            ("status", "queued"),
            ("store", "a\r\nb"),
            ("property.size", "1"),
            ("property. a", "1"),
        ] {
            assert_eq!(refusal(&format!("user.glance.{name}"), value), Kind::Invalid, "{name} {value}");
        }
        assert_eq!(refusal("user.glance.property.a", "\u{1f600}"), Kind::IllegalName);
        assert_eq!(refusal("user.glance.name", &"n".repeat(256)), Kind::NameTooLong);
        let bytes = edit("user.glance.property.a", b"\xff", &schema(), |_| None);
        assert_eq!(bytes.unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn what_glance_sets_itself_is_refused_and_other_names_are_unknown() {
        for name in ["user.glance.size", "user.glance.checksum", "user.glance.property.os_glance_x"] {
            assert_eq!(refusal(name, "1"), Kind::NotPermitted, "{name}");
            assert_eq!(removal(name, &schema(), |_| None).unwrap_err().kind(), Kind::NotPermitted, "{name}");
        }
        assert_eq!(refusal("user.glancefs.source", "1"), Kind::NotPermitted);
        for name in ["user.other", "user.glance.nothing", "security.selinux", "user.glance.min_disk"] {
            assert_eq!(refusal(name, "1"), Kind::NotSupported, "{name}");
        }
        assert!(removal("user.glance.property.a", &schema(), |_| None).is_ok());
        // `rsync -aX` from a folder without attributes would make a file vanish.
        assert_eq!(removal("user.glance.name", &schema(), |_| None).unwrap_err().kind(), Kind::NotPermitted);
    }

    #[test]
    fn a_copy_takes_what_describes_the_image_and_neither_its_readers_nor_its_signature() {
        for (name, value, goes) in [
            ("property.os_distro", "debian", true),
            ("property.img_signature", "x", false),
            ("property.owner_specified.openstack.md5", "x", false),
            ("tags", "[]", true),
            ("min_ram", "1", true),
            ("name", "n", false),
            ("visibility", "public", false),
            ("protected", "true", false),
            ("owner", "p", false),
            ("status", "deactivated", false),
        ] {
            assert_eq!(
                set(&format!("user.glance.{name}"), value).unwrap().goes_with_a_copy(),
                goes,
                "{name}"
            );
        }
    }
}
