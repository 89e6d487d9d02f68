//! Changes of one record: JSON patch as Glance takes it, in both of its dialects.
//!
//! In the dialect of RFC 6902 (media type v2.1) `add` sets what is there and what is not. In that of its
//! draft 4 (v2.0) it is refused with 409 when the key is there: the only way to have the server decide
//! whether a property is new. `replace` and `remove` of what is not there are refused with 409 in both.

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::client::{Glance, Request};
use super::error::Operation;
use super::image::Image;
use super::record::{name_error, path, record, subject};
use crate::error::Result;
use crate::units::ImageId;

const RFC_6902: &str = "application/openstack-images-v2.1-json-patch";
const DRAFT_4: &str = "application/openstack-images-v2.0-json-patch";

/// One change of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Sets an attribute or adds a property, replacing what was there.
    Set {
        /// The attribute or property.
        key: String,
        /// What Glance takes for it: for properties a string.
        value: Value,
    },
    /// Adds a property that must not be there yet. Excludes [`Set`](Self::Set) beside it.
    Create {
        /// The property.
        key: String,
        /// Its value.
        value: Value,
    },
    /// Sets an attribute or property that must be there.
    Replace {
        /// The attribute or property.
        key: String,
        /// Its new value.
        value: Value,
    },
    /// Removes a property.
    Remove {
        /// The property.
        key: String,
    },
}

impl Change {
    /// The attribute or property.
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. }
            | Self::Create { key, .. }
            | Self::Replace { key, .. }
            | Self::Remove { key } => key,
        }
    }
}

impl Glance {
    /// Changes a record; all changes or none.
    ///
    /// Glance has no concurrency control: changes of one image that run at once are lost (send them one by one), and so
    /// is a change during an upload of its data.
    ///
    /// # Errors
    /// `Exists` when a property to be created is there, `NoData` when one to be replaced or removed is not;
    /// `NotPermitted` for attributes that cannot be set.
    pub async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        let (path, subject) = (path(id), subject(id));
        let (media_type, operations) = patch(changes);
        let request =
            Request::new(Operation::Update, Method::PATCH, &path, &subject).body(media_type, operations);
        let answer = self.exchange(&request).await?;
        if answer.status == StatusCode::CONFLICT && answer.repeated {
            // The try whose answer was lost may have done it.
            let there = self.show(id).await?;
            if changes.iter().all(|change| change.is_done(&there)) {
                return Ok(there);
            }
        }
        if answer.status == StatusCode::BAD_REQUEST {
            let name = changes.iter().find_map(|change| match change {
                Change::Set { key, value } if key == "name" => value.as_str(),
                _ => None,
            });
            return Err(name_error(name.unwrap_or_default(), answer.error(&request)));
        }
        record(&request, answer, id)
    }
}

/// The media type and the body for these changes.
fn patch(changes: &[Change]) -> (&'static str, Vec<u8>) {
    let creates = changes.iter().any(|change| matches!(change, Change::Create { .. }));
    let media_type = if creates { DRAFT_4 } else { RFC_6902 };
    let operation = |change: &Change| match change {
        Change::Set { key, value } | Change::Create { key, value } => {
            ("add", pointer(key), Some(value.clone()))
        }
        Change::Replace { key, value } => ("replace", pointer(key), Some(value.clone())),
        Change::Remove { key } => ("remove", pointer(key), None),
    };
    let operations = changes.iter().map(|change| {
        let (op, path, value) = operation(change);
        let mut written = if creates { json!({ op: path }) } else { json!({ "op": op, "path": path }) };
        if let Some(value) = value {
            written["value"] = value;
        }
        written
    });
    (media_type, Value::Array(operations.collect()).to_string().into_bytes())
}

impl Change {
    fn is_done(&self, image: &Image) -> bool {
        let record: Map<String, Value> =
            image.record.text().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        match self {
            Self::Set { key, value } | Self::Create { key, value } | Self::Replace { key, value } => {
                record.get(key) == Some(value)
            }
            Self::Remove { key } => !record.contains_key(key),
        }
    }
}

/// A key as a JSON pointer (RFC 6901).
fn pointer(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_json_pointers() {
        for (key, expected) in
            [("name", "/name"), ("", "/"), ("a/b", "/a~1b"), ("a~1", "/a~01"), ("~/", "/~0~1")]
        {
            assert_eq!(pointer(key), expected);
        }
    }

    #[test]
    fn a_property_that_must_be_new_is_asked_for_in_draft_4() {
        let (key, value) = ("a".to_owned(), Value::from("v"));
        let set = Change::Set { key: key.clone(), value: value.clone() };
        let remove = Change::Remove { key: "b".into() };
        let (media_type, body) = patch(&[set, remove]);
        assert_eq!(media_type, RFC_6902);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body, json!([{"op": "add", "path": "/a", "value": "v"}, {"op": "remove", "path": "/b"}]));
        let (media_type, body) = patch(&[Change::Create { key, value }]);
        assert_eq!((media_type, &*body), (DRAFT_4, br#"[{"add":"/a","value":"v"}]"#.as_slice()));
    }
}
