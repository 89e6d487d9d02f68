//! One record: look it up, create it, make it unreadable for a while, delete it (changes: [`super::patch`]).

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

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

    /// Takes the data away from readers (`deactivate`) or gives them back (`reactivate`), and shows the record.
    ///
    /// # Errors
    /// `Forbidden` where policy reserves it to administrators, as Glance's did before Xena.
    pub async fn set_readable(&self, id: &ImageId, readable: bool) -> Result<Image> {
        let action = if readable { "reactivate" } else { "deactivate" };
        let (path, subject) = (format!("{}/actions/{action}", path(id)), subject(id));
        let request = Request::new(Operation::Act, Method::POST, &path, &subject);
        self.exchange(&request).await?.success(&request)?;
        self.show(id).await
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

/// `v2/images/<id>`: an id needs no encoding.
pub(super) fn path(id: &ImageId) -> String {
    format!("v2/images/{id}")
}

/// For messages.
pub(super) fn subject(id: &ImageId) -> String {
    format!("image {id}")
}

/// The record in an answer, which must be the one that was asked for.
pub(super) fn record(request: &Request<'_>, answer: Answer, id: &ImageId) -> Result<Image> {
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
