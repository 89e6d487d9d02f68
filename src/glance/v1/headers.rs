//! Records of v1 as headers and as JSON, and records as the layers above know them (those of v2).
//!
//! `x-image-meta-<attribute>` and `x-image-meta-property-<key>` (`glance/common/utils.py`). Values are UTF-8 as they
//! stand: Glance 15 keeps what is percent-encoded with its percent signs, as today's python-glanceclient sends it, so
//! that a name would not come back as it was given. Names are written with `-` for `_`, which a WSGI server cannot tell
//! apart; proxies and gunicorn drop names with `_`. For the same reason the server loses capitals and `-` in the keys of
//! properties: such keys are refused here.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Schema};

const PREFIX: &str = "x-image-meta-";
const PROPERTY: &str = "property-";

/// What v1 says of an image, with the names of v2.
const ATTRIBUTES: [&str; 15] = [
    "id",
    "name",
    "status",
    "size",
    "virtual_size",
    "disk_format",
    "container_format",
    "checksum",
    "min_disk",
    "min_ram",
    "owner",
    "protected",
    "visibility",
    "created_at",
    "updated_at",
];

/// Keys that v2 has for attributes and v1 for none, or for something else. A property of such a name would be taken for
/// the attribute: `os_hash_value` for a hash of Glance's.
const RESERVED: [&str; 15] = [
    "tags",
    "os_hidden",
    "os_hash_algo",
    "os_hash_value",
    "stores",
    "self",
    "file",
    "schema",
    "direct_url",
    "locations",
    "location",
    "deleted",
    "deleted_at",
    "is_public",
    "store",
];

/// Which keys are attributes.
pub(super) fn schema() -> Schema {
    Schema { attributes: ATTRIBUTES.into_iter().chain(RESERVED).map(Box::from).collect() }
}

fn is_attribute(key: &str) -> bool {
    ATTRIBUTES.contains(&key) || RESERVED.contains(&key)
}

fn unreadable(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::ServerError, format!("an image record that cannot be read: {what}"))
}

/// The image in the headers of an answer to HEAD. Null attributes are not among them.
pub(in crate::glance) fn image_of_headers(headers: &HeaderMap) -> Result<Image> {
    let (mut attributes, mut properties) = (Map::new(), Map::new());
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(PREFIX) else { continue };
        // Old databases hold values that are no UTF-8.
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if let Some(key) = key.strip_prefix(PROPERTY) {
            properties.insert(key.to_owned(), value.into());
        } else {
            let key = key.replace('-', "_");
            let value = typed(&key, value)?;
            attributes.insert(key, value);
        }
    }
    image(attributes, properties)
}

/// A value as JSON has it. Empty, and "None" where a number is expected, are null.
fn typed(key: &str, text: String) -> Result<Value> {
    let wrong = || unreadable(format!("{key} is {text:?}"));
    Ok(match key {
        _ if text.is_empty() => Value::Null,
        "size" | "virtual_size" | "min_disk" | "min_ram" => match text.as_str() {
            "None" => Value::Null,
            number => number.parse::<u64>().map_err(|_| wrong())?.into(),
        },
        "is_public" | "protected" | "deleted" => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => true.into(),
            "false" | "0" => false.into(),
            _ => return Err(wrong()),
        },
        _ => text.into(),
    })
}

/// The image in a JSON object, as lists and the answers to POST and PUT have it.
pub(in crate::glance) fn image_of_json(mut record: Map<String, Value>) -> Result<Image> {
    let properties = match record.remove("properties") {
        Some(Value::Object(properties)) => properties,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(unreadable("properties are no object")),
    };
    image(record, properties)
}

/// One flat record, the same from headers and from JSON.
fn image(mut attributes: Map<String, Value>, properties: Map<String, Value>) -> Result<Image> {
    let mut record: Map<String, Value> = properties
        .into_iter()
        .filter(|(key, value)| !value.is_null() && !is_attribute(key))
        .map(|(key, value)| (key, if value.is_string() { value } else { value.to_string().into() }))
        .collect();
    let is_public = attributes.remove("is_public").and_then(|value| value.as_bool()).unwrap_or(false);
    attributes.insert("visibility".into(), if is_public { "public" } else { "private" }.into());
    // Before there are data, v1 says 0 or what somebody announced.
    if matches!(attributes.get("status").and_then(Value::as_str), Some("queued" | "saving" | "killed")) {
        attributes.remove("size");
    }
    for key in ATTRIBUTES {
        record.insert(key.into(), attributes.remove(key).unwrap_or(Value::Null));
    }
    Image::from_record(&Value::Object(record).to_string())
}

/// Sets an attribute or a property in the headers of a request.
///
/// # Errors
/// `NotSupported` for what v1 does not have, `NotPermitted` for what the server sets, `Invalid` for keys and values that
/// would not arrive as they are.
pub(super) fn set(headers: &mut HeaderMap, key: &str, value: &Value) -> Result<()> {
    let (name, text) = match key {
        "name" | "disk_format" | "container_format" | "owner" => (key.replace('_', "-"), string(key, value)?),
        "min_disk" | "min_ram" => (key.replace('_', "-"), number(key, value)?.to_string()),
        "protected" => ("protected".into(), truth(key, value)?.to_string()),
        "visibility" => match value.as_str() {
            Some("public") => ("is-public".into(), "true".into()),
            Some("private") => ("is-public".into(), "false".into()),
            _ => {
                return Err(cannot(
                    Kind::NotSupported,
                    "v1 of the Image API knows images that are public or private",
                ));
            }
        },
        _ if ATTRIBUTES.contains(&key) => {
            return Err(cannot(Kind::NotPermitted, &format!("the attribute {key:?} is the server's")));
        }
        _ if RESERVED.contains(&key) => {
            return Err(cannot(Kind::NotSupported, &format!("v1 of the Image API has no attribute {key:?}")));
        }
        _ => (property_name(key)?, string(key, value)?),
    };
    let name = HeaderName::try_from(format!("{PREFIX}{name}"));
    let name = name.map_err(|error| cannot(Kind::Invalid, &format!("the key {key:?}")).with_source(error))?;
    headers.insert(name, header_value(key, &text)?);
    Ok(())
}

/// The end of the header's name for a property.
fn property_name(key: &str) -> Result<String> {
    // A token (RFC 9110), without what the server would change.
    let stays =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.!#$%&'*+^`|~".contains(&byte);
    if key.is_empty() || !key.bytes().all(stays) {
        let what = format!(
            "the property {key:?}: v1 of the Image API keeps keys of lower-case letters, digits, \"_\" and \".\" only"
        );
        return Err(cannot(Kind::Invalid, &what));
    }
    Ok(format!("{PROPERTY}{}", key.replace('_', "-")))
}

/// A value that arrives as it is.
pub(super) fn header_value(key: &str, text: &str) -> Result<HeaderValue> {
    let why = if text.is_empty() {
        "is empty, which v1 of the Image API takes for null"
    } else if text.trim_matches([' ', '\t']) != text {
        "begins or ends with a blank, which HTTP does not keep in headers"
    } else if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        "has a control character, and v1 of the Image API sends values as headers"
    } else {
        return HeaderValue::from_bytes(text.as_bytes())
            .map_err(|error| cannot(Kind::Invalid, &format!("the value of {key:?}")).with_source(error));
    };
    let kind = if key == "name" { Kind::IllegalName } else { Kind::Invalid };
    Err(cannot(kind, &format!("the value of {key:?} {why}")))
}

fn string(key: &str, value: &Value) -> Result<String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| cannot(Kind::Invalid, &format!("the value of {key:?} is no string")))
}

fn number(key: &str, value: &Value) -> Result<u64> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or_else(|| cannot(Kind::Invalid, &format!("the value of {key:?} is no whole number from 0 on")))
}

fn truth(key: &str, value: &Value) -> Result<bool> {
    let truth = value.as_bool().or_else(|| value.as_str()?.parse().ok());
    truth.ok_or_else(|| cannot(Kind::Invalid, &format!("the value of {key:?} is neither true nor false")))
}

fn cannot(kind: Kind, what: &str) -> Error {
    Error::new(kind, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glance::Status;
    use serde_json::json;

    const ID: &str = "1f3c9a2b-0000-4000-8000-000000000001";

    fn answer(lines: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(pair).collect()
    }

    fn sent(key: &str, value: Value) -> Result<Vec<String>, Kind> {
        let mut headers = HeaderMap::new();
        set(&mut headers, key, &value).map_err(|error| error.kind())?;
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        Ok(headers.iter().map(line).collect())
    }

    #[test]
    fn headers_and_json_of_glance_15_give_the_same_record() {
        let from_headers = image_of_headers(&answer(&[
            ("content-type", "text/html"),
            ("x-image-meta-is_public", "False"),
            ("x-image-meta-disk_format", "raw"),
            ("x-image-meta-min_ram", "0"),
            ("x-image-meta-min_disk", "3"),
            ("x-image-meta-owner", "alpha"),
            ("x-image-meta-deleted", "False"),
            ("x-image-meta-size", "5"),
            ("x-image-meta-status", "active"),
            ("x-image-meta-protected", "True"),
            ("x-image-meta-container_format", "bare"),
            ("x-image-meta-id", ID),
            ("x-image-meta-virtual_size", "None"),
            ("x-image-meta-checksum", "5d41402abc4b2a76b9719d911017c592"),
            ("x-image-meta-updated_at", "2026-11-21T06:41:12.633673"),
            ("x-image-meta-created_at", "2026-11-21T06:41:12.633667"),
            ("x-image-meta-name", "größer"),
            ("x-image-meta-property-os_type", "li nux"),
            ("x-image-meta-property-url", "a%2Fb"),
        ]));
        let from_json = image_of_json(
            json!({
                "is_public": false, "disk_format": "raw", "min_ram": 0, "min_disk": 3, "owner": "alpha", "deleted": false,
                "size": 5, "deleted_at": null, "status": "active", "protected": true, "container_format": "bare", "id": ID,
                "checksum": "5d41402abc4b2a76b9719d911017c592", "virtual_size": null, "location": "http://secret",
                "updated_at": "2026-11-21T06:41:12.633673", "created_at": "2026-11-21T06:41:12.633667", "name": "größer",
                "properties": {"os_type": "li nux", "url": "a%2Fb", "gone": null},
            })
            .as_object()
            .unwrap()
            .clone(),
        );
        let image = from_headers.unwrap();
        assert_eq!(image, from_json.unwrap());
        assert_eq!((image.name.as_deref(), image.size), (Some("größer"), Some(5)));
        assert_eq!((&image.status, image.protected, &*image.visibility), (&Status::Active, true, "private"));
        let text = image.record.text().unwrap();
        assert!(
            text.contains(r#""os_type":"li nux""#) && !text.contains("secret") && !text.contains("deleted")
        );
    }

    #[test]
    fn an_image_without_data_has_no_size() {
        for (status, size) in [("queued", None), ("saving", None), ("killed", None), ("active", Some(0))] {
            let headers = answer(&[
                ("x-image-meta-id", ID),
                ("x-image-meta-status", status),
                ("x-image-meta-size", "0"),
            ]);
            assert_eq!(image_of_headers(&headers).unwrap().size, size, "{status}");
        }
    }

    #[test]
    fn a_property_is_not_taken_for_an_attribute() {
        let record = json!({
            "id": ID, "status": "active", "size": 1,
            "properties": {"os_hash_algo": "sha512", "os_hash_value": "00", "stores": "x", "status": "queued", "a": "b"},
        });
        let image = image_of_json(record.as_object().unwrap().clone()).unwrap();
        assert_eq!((image.hash, image.stores, image.status), (None, None, Status::Active));
        assert!(image.record.text().unwrap().contains(r#""a":"b""#));
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let base = [("x-image-meta-id", ID), ("x-image-meta-status", "active")];
        for wrong in
            [("x-image-meta-size", "-1"), ("x-image-meta-size", "many"), ("x-image-meta-is_public", "maybe")]
        {
            let headers = answer(&[base[0], base[1], wrong]);
            assert_eq!(image_of_headers(&headers).unwrap_err().kind(), Kind::ServerError, "{wrong:?}");
        }
        assert_eq!(image_of_headers(&HeaderMap::new()).unwrap_err().kind(), Kind::ServerError);
    }

    #[test]
    fn attributes_and_properties_become_headers() {
        for (key, value, line) in [
            ("name", json!("größer 5%"), "x-image-meta-name: größer 5%"),
            ("disk_format", json!("raw"), "x-image-meta-disk-format: raw"),
            ("min_disk", json!(3), "x-image-meta-min-disk: 3"),
            ("min_ram", json!("64"), "x-image-meta-min-ram: 64"),
            ("protected", json!(true), "x-image-meta-protected: true"),
            ("visibility", json!("public"), "x-image-meta-is-public: true"),
            ("os_type", json!("linux"), "x-image-meta-property-os-type: linux"),
            ("my.key", json!("a"), "x-image-meta-property-my.key: a"),
        ] {
            assert_eq!(sent(key, value).unwrap(), [line], "{key}");
        }
    }

    #[test]
    fn what_would_not_arrive_as_it_is_is_refused() {
        for (key, value, kind) in [
            ("My_key", json!("v"), Kind::Invalid),
            ("my-key", json!("v"), Kind::Invalid),
            ("my key", json!("v"), Kind::Invalid),
            ("my:key", json!("v"), Kind::Invalid),
            ("schlüssel", json!("v"), Kind::Invalid),
            ("", json!("v"), Kind::Invalid),
            ("key", json!(""), Kind::Invalid),
            ("key", json!(" v"), Kind::Invalid),
            ("key", json!("a\nb"), Kind::Invalid),
            ("key", json!(7), Kind::Invalid),
            ("name", json!("a\u{1}b"), Kind::IllegalName),
            ("name", json!("blank "), Kind::IllegalName),
            ("min_disk", json!(-1), Kind::Invalid),
            ("protected", json!("perhaps"), Kind::Invalid),
            ("visibility", json!("shared"), Kind::NotSupported),
            ("tags", json!(["a"]), Kind::NotSupported),
            ("os_hidden", json!(true), Kind::NotSupported),
            ("status", json!("active"), Kind::NotPermitted),
            ("checksum", json!("00"), Kind::NotPermitted),
        ] {
            assert_eq!(sent(key, value.clone()), Err(kind), "{key} {value}");
        }
    }
}
