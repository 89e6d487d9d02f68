//! One record: look it up, create, change and delete it.

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::client::{Answer, Glance, Request};
use super::error::{Operation, failed};
use super::image::Image;
use crate::error::{Error, Kind, Result};
use crate::units::ImageId;

/// Glance's limit on names, in characters.
const NAME_LIMIT: usize = 255;

/// What a new record starts with.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Made by us, so that a repeated POST is recognised.
    pub id: ImageId,
    /// Up to 255 characters of the Basic Multilingual Plane.
    pub name: String,
    /// Needed before data can be uploaded.
    pub disk_format: Option<String>,
    /// Needed before data can be uploaded.
    pub container_format: Option<String>,
    /// Further attributes and properties, as in the JSON body.
    pub properties: Vec<(String, Value)>,
}

/// One change of a record (JSON patch as Glance takes it).
#[derive(Debug, Clone)]
pub enum Change {
    /// Sets an attribute or adds a property, replacing what was there.
    Set {
        /// The attribute or property.
        key: String,
        /// What Glance takes for it: for properties a string.
        value: Value,
    },
    /// Removes a property.
    Remove {
        /// The property.
        key: String,
    },
}

impl Glance {
    /// One image.
    ///
    /// # Errors
    /// `NotFound` when it does not exist or is not visible to the project.
    pub async fn show(&self, id: &ImageId) -> Result<Image> {
        let (path, subject) = (path(id), subject(id));
        let request = Request::new(Operation::Show, Method::GET, &path, &subject);
        record(&request, self.exchange(&request).await?, id)
    }

    /// Creates a record. A 409 on our own id after a lost answer counts as success.
    ///
    /// # Errors
    /// `Exists` when the id is taken; `NameTooLong` and `IllegalName` for names that Glance does not store.
    pub async fn create(&self, image: &NewImage) -> Result<Image> {
        let mut body = Map::new();
        body.extend(image.properties.iter().cloned());
        body.insert("id".into(), image.id.as_str().into());
        body.insert("name".into(), image.name.as_str().into());
        for (key, format) in
            [("disk_format", &image.disk_format), ("container_format", &image.container_format)]
        {
            if let Some(format) = format {
                body.insert(key.into(), format.as_str().into());
            }
        }
        let subject = subject(&image.id);
        let request = Request::new(Operation::Create, Method::POST, "v2/images", &subject)
            .body("application/json", Value::Object(body).to_string().into_bytes());
        let answer = self.exchange(&request).await?;
        if answer.status == StatusCode::CONFLICT && answer.repeated {
            // Who else would have this id and this name?
            let there = self.show(&image.id).await?;
            if there.name.as_deref() == Some(&image.name) {
                return Ok(there);
            }
        }
        if answer.status == StatusCode::BAD_REQUEST {
            return Err(name_error(&image.name, answer.error(&request)));
        }
        record(&request, answer, &image.id)
    }

    /// Changes a record; all changes or none.
    ///
    /// Glance has no concurrency control: changes of one image that run at once are lost (send them one by one), and so
    /// is a change during an upload of its data.
    ///
    /// # Errors
    /// `NoData` when a property to be removed does not exist, `NotPermitted` for attributes that cannot be set.
    pub async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        let (path, subject) = (path(id), subject(id));
        let operations: Vec<Value> = changes.iter().map(Change::operation).collect();
        let request = Request::new(Operation::Update, Method::PATCH, &path, &subject).body(
            "application/openstack-images-v2.1-json-patch",
            Value::Array(operations).to_string().into_bytes(),
        );
        let answer = self.exchange(&request).await?;
        if answer.status == StatusCode::CONFLICT && answer.repeated {
            // The removals may have been done by the try whose answer was lost.
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

    /// Deletes an image; deleting what is gone already succeeds only after a retry of ours.
    ///
    /// # Errors
    /// `NotPermitted` when it is protected, `Busy` when it is in use.
    pub async fn delete(&self, id: &ImageId) -> Result<()> {
        let (path, subject) = (path(id), subject(id));
        let request = Request::new(Operation::Delete, Method::DELETE, &path, &subject);
        let answer = self.exchange(&request).await?;
        if answer.status == StatusCode::NOT_FOUND && answer.repeated {
            return Ok(());
        }
        answer.success(&request).map(|_| ())
    }
}

impl Change {
    fn operation(&self) -> Value {
        match self {
            // `add` and not `replace`: in the v2.1 syntax it sets what is there and what is not.
            Self::Set { key, value } => json!({ "op": "add", "path": pointer(key), "value": value }),
            Self::Remove { key } => json!({ "op": "remove", "path": pointer(key) }),
        }
    }

    fn is_done(&self, image: &Image) -> bool {
        let record: Map<String, Value> =
            image.record.text().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        match self {
            Self::Set { key, value } => record.get(key) == Some(value),
            Self::Remove { key } => !record.contains_key(key),
        }
    }
}

/// A key as a JSON pointer (RFC 6901).
fn pointer(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// `v2/images/<id>`: an id needs no encoding.
pub(super) fn path(id: &ImageId) -> String {
    format!("v2/images/{id}")
}

/// For messages.
pub(super) fn subject(id: &ImageId) -> String {
    format!("image {id}")
}

/// The record in an answer, which must be the one that was asked for.
fn record(request: &Request<'_>, answer: Answer, id: &ImageId) -> Result<Image> {
    let answer = answer.success(request)?;
    let image = Image::from_record(&String::from_utf8_lossy(&answer.body))?;
    if image.id != *id {
        return Err(failed(
            request.operation,
            request.subject,
            Kind::ServerError,
            "the answer is another image",
        ));
    }
    Ok(image)
}

/// Glance's 400 does not say in a fixed form what is wrong with a name; the name itself does.
pub(super) fn name_error(name: &str, error: Error) -> Error {
    if name.chars().any(|c| c > '\u{ffff}') {
        error.with_kind(Kind::IllegalName)
    } else if name.chars().count() > NAME_LIMIT {
        error.with_kind(Kind::NameTooLong)
    } else {
        error
    }
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
}
