//! One record in v1: look it up, create it in one of four ways, change and delete it.
//!
//! The four ways of `POST /v1/images` are: with the data as the body, `x-glance-api-copy-from`, `x-image-meta-location`,
//! and nothing, which reserves a record. The first is sent as a reservation and an upload into it: it comes to the same,
//! and each of the two can be repeated by itself when its answer is lost.

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::headers::{self, header_value, image_of_headers, image_of_json};
use super::{GlanceV1, path};
use crate::error::{Error, Kind, Result};
use crate::glance::client::{Answer, Request};
use crate::glance::error::{Operation, failed};
use crate::glance::image::{Image, Status};
use crate::glance::patch::Change;
use crate::glance::record::{NewImage, name_error, subject};
use crate::units::ImageId;

/// Whether a PUT removes the properties that it does not name. It does unless told not to, also when a name is changed.
const PURGE: HeaderName = HeaderName::from_static("x-glance-registry-purge-props");
const COPY_FROM: HeaderName = HeaderName::from_static("x-glance-api-copy-from");
const LOCATION: HeaderName = HeaderName::from_static("x-image-meta-location");

#[derive(Deserialize)]
struct Wrapped {
    image: Map<String, Value>,
}

impl GlanceV1 {
    /// One image, by HEAD. Capitals in the keys of its properties, which v2 can make, are lost.
    ///
    /// # Errors
    /// `NotFound` when it does not exist, is not visible to the project, or was deleted.
    pub async fn show(&self, id: &ImageId) -> Result<Image> {
        let (path, subject) = (path(id), subject(id));
        let request = Request::new(Operation::Show, Method::HEAD, &path, &subject);
        let answer = self.glance.exchange(&request).await?.success(&request)?;
        let image = right(&request, image_of_headers(&answer.headers)?, id)?;
        if image.status == Status::Deleted {
            // An administrator is shown it.
            return Err(failed(Operation::Show, &subject, Kind::NotFound, "it was deleted"));
        }
        Ok(image)
    }

    /// Reserves a record. A 409 on our own id after a lost answer counts as success.
    ///
    /// # Errors
    /// `Exists` when the id is taken; `NameTooLong` and `IllegalName` for names that Glance does not store; `Invalid` and
    /// `NotSupported` for what v1 cannot say.
    pub async fn create(&self, image: &NewImage) -> Result<Image> {
        self.create_from(image, HeaderMap::new()).await
    }

    /// Creates an image of what an HTTP server has: Glance copies it into its store behind the answer, and the image is
    /// `killed` if that fails.
    ///
    /// # Errors
    /// Those of [`create`](Self::create); `NotFound` when the server has no such file; `Invalid` when Glance refuses the
    /// scheme.
    pub async fn copy_from(&self, image: &NewImage, source: &Url) -> Result<Image> {
        let headers = HeaderMap::from_iter([(COPY_FROM, header_value("copy-from", source.as_str())?)]);
        self.create_from(image, headers).await
    }

    /// Registers data that stay where they are; the image is active at once.
    ///
    /// # Errors
    /// Those of [`copy_from`](Self::copy_from).
    pub async fn register(&self, image: &NewImage, location: &Url) -> Result<Image> {
        let headers = HeaderMap::from_iter([(LOCATION, header_value("location", location.as_str())?)]);
        self.create_from(image, headers).await
    }

    async fn create_from(&self, image: &NewImage, mut headers: HeaderMap) -> Result<Image> {
        let mut sent = image.properties.clone();
        sent.push(("name".into(), image.name.as_str().into()));
        for (key, format) in
            [("disk_format", &image.disk_format), ("container_format", &image.container_format)]
        {
            sent.extend(format.as_deref().map(|format| (key.to_owned(), format.into())));
        }
        for (key, value) in &sent {
            headers::set(&mut headers, key, value)?;
        }
        headers.insert("x-image-meta-id", header_value("id", image.id.as_str())?);
        let subject = subject(&image.id);
        let mut request = Request::new(Operation::Create, Method::POST, "v1/images", &subject);
        request.headers = headers;
        let answer = self.glance.exchange(&request).await?;
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
        let created = record(&request, answer, &image.id)?;
        let kept = keeps(&created, sent.iter().map(|(key, value)| (key.as_str(), value)));
        if let Err(error) = kept {
            if let Err(left) = self.delete(&image.id).await {
                tracing::warn!(image = %image.id, error = %left, "a record that is not as it should be stays");
            }
            return Err(error);
        }
        Ok(created)
    }

    /// Changes a record; what is not named stays.
    ///
    /// v1 cannot remove one property. Where that is asked for, all properties but those are sent in place of what is
    /// there; a change that somebody makes at the same moment is lost then.
    ///
    /// # Errors
    /// `NoData` when a property to be removed does not exist, `NotPermitted` for attributes that cannot be set, `Invalid`
    /// and `NotSupported` for what v1 cannot say.
    pub async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        let mut headers = HeaderMap::new();
        let (mut set, mut removed) = (Vec::new(), Vec::new());
        let mut present = None;
        for change in changes {
            match change {
                Change::Create { key, .. } | Change::Replace { key, .. } => {
                    // Here the server cannot decide: it is looked at before.
                    let there = match &present {
                        Some(there) => there,
                        None => present.insert(fields(&self.put(id, HeaderMap::new(), "false").await?)?),
                    };
                    let is_there = there.get(key).is_some_and(|value| !value.is_null());
                    let refused = |kind, what| Err(failed(Operation::Update, &subject(id), kind, what));
                    match (change, is_there) {
                        (Change::Create { .. }, true) => {
                            return refused(Kind::Exists, "there is such a property already");
                        }
                        (Change::Replace { .. }, false) => {
                            return refused(Kind::NoData, "there is no such property");
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
            match change {
                Change::Set { key, value }
                | Change::Create { key, value }
                | Change::Replace { key, value } => {
                    headers::set(&mut headers, key, value)?;
                    set.push((key.as_str(), value));
                }
                Change::Remove { key } => removed.push(key.as_str()),
            }
        }
        if removed.is_empty() {
            let changed = self.put(id, headers, "false").await?;
            return keeps(&changed, set).map(|()| changed);
        }
        // Unlike HEAD, the answer to a PUT has the keys of properties as they are.
        let present = fields(&self.put(id, HeaderMap::new(), "false").await?)?;
        let attributes = headers::schema().attributes;
        if let Some(missing) = removed.iter().find(|key| !present.contains_key(**key)) {
            let what = format!("there is no property {missing:?}");
            return Err(failed(Operation::Update, &subject(id), Kind::NoData, &what));
        }
        if let Some(attribute) = removed.iter().find(|key| attributes.contains(**key)) {
            let what = format!("the attribute {attribute:?} cannot be removed");
            return Err(failed(Operation::Update, &subject(id), Kind::NotPermitted, &what));
        }
        let mut all = HeaderMap::new();
        for (key, value) in present.iter().filter(|(key, _)| !attributes.contains(key.as_str())) {
            if !removed.contains(&key.as_str()) {
                headers::set(&mut all, key, value).map_err(|error| {
                    error.context("v1 removes a property by sending all others, and cannot send one of them")
                })?;
            }
        }
        all.extend(headers);
        let changed = self.put(id, all, "true").await?;
        keeps(&changed, set).map(|()| changed)
    }

    async fn put(&self, id: &ImageId, headers: HeaderMap, purge: &'static str) -> Result<Image> {
        let (path, subject) = (path(id), subject(id));
        let mut request = Request::new(Operation::Update, Method::PUT, &path, &subject);
        request.headers = headers;
        request.headers.insert(PURGE, reqwest::header::HeaderValue::from_static(purge));
        let answer = self.glance.exchange(&request).await?;
        if answer.status == StatusCode::BAD_REQUEST {
            let name = request.headers.get("x-image-meta-name");
            let name = name.and_then(|name| std::str::from_utf8(name.as_bytes()).ok()).unwrap_or_default();
            return Err(name_error(name, answer.error(&request)));
        }
        record(&request, answer, id)
    }

    /// Deletes an image, also a `killed` one; deleting what is gone already succeeds only after a retry of ours.
    ///
    /// # Errors
    /// `NotPermitted` when it is protected, `Busy` when it is in use.
    pub async fn delete(&self, id: &ImageId) -> Result<()> {
        let (path, subject) = (path(id), subject(id));
        let request = Request::new(Operation::Delete, Method::DELETE, &path, &subject);
        let answer = self.glance.exchange(&request).await?;
        if answer.status == StatusCode::NOT_FOUND && answer.repeated {
            return Ok(());
        }
        answer.success(&request).map(|_| ())
    }
}

/// The record in an answer, which must be the one that was asked for.
fn record(request: &Request<'_>, answer: Answer, id: &ImageId) -> Result<Image> {
    let answer = answer.success(request)?;
    let wrapped: Wrapped = serde_json::from_slice(&answer.body).map_err(|error| {
        let what = "the answer is no image record";
        failed(request.operation, request.subject, Kind::ServerError, what).with_source(error)
    })?;
    right(request, image_of_json(wrapped.image)?, id)
}

fn right(request: &Request<'_>, image: Image, id: &ImageId) -> Result<Image> {
    if image.id == *id {
        return Ok(image);
    }
    Err(failed(request.operation, request.subject, Kind::ServerError, "the answer is another image"))
}

/// The name and the properties are in the record as they were sent: servers and proxies may read headers as Latin-1.
fn keeps<'a>(image: &Image, sent: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Result<()> {
    let record = fields(image)?;
    let attributes = headers::schema().attributes;
    for (key, value) in sent {
        if (key == "name" || !attributes.contains(key)) && record.get(key) != Some(value) {
            let kind = if key == "name" { Kind::IllegalName } else { Kind::Invalid };
            let there = record.get(key).unwrap_or(&Value::Null);
            let what = format!("image {}: this server makes {there} of {key:?} = {value}", image.id);
            return Err(Error::new(kind, what));
        }
    }
    Ok(())
}

fn fields(image: &Image) -> Result<Map<String, Value>> {
    let record = image.record.text().unwrap_or_default();
    serde_json::from_str(record)
        .map_err(|error| Error::new(Kind::ServerError, "an image without a record").with_source(error))
}
