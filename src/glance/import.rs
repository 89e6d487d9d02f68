//! The ways to fill an image other than by an upload: import, registered locations, and their tasks.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Glance, Request};
use super::error::{Operation, failed};
use super::record::{path, subject};
use crate::error::{Kind, Result};
use crate::units::ImageId;

/// How the service shall get the data of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportMethod {
    /// `web-download`: it fetches them from an address.
    WebDownload(String),
    /// `glance-direct`: they were staged before.
    GlanceDirect,
    /// `copy-image`: it has them in another store.
    CopyImage,
}

impl ImportMethod {
    /// As Glance names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::WebDownload(_) => "web-download",
            Self::GlanceDirect => "glance-direct",
            Self::CopyImage => "copy-image",
        }
    }
}

/// Where an import shall put the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportStores {
    /// These; the default store when there is none and not `all`.
    pub named: Vec<String>,
    /// Every store.
    pub all: bool,
    /// An image that is in one of them is active, although another failed.
    pub may_be_partial: bool,
}

/// What the service does about an image in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// `api_image_import`, `location_import`, ...
    #[serde(default, rename = "type")]
    pub kind: String,
    /// `pending`, `processing`, `success` or `failure`.
    pub status: String,
    /// How far it is, or why it failed.
    #[serde(default)]
    pub message: Option<String>,
    /// As the server writes times.
    #[serde(default)]
    pub created_at: Option<String>,
    /// As the server writes times.
    #[serde(default)]
    pub updated_at: Option<String>,
}

impl Task {
    /// It will not change any more.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "success" | "failure")
    }
}

impl Glance {
    /// Asks the service to fill a queued image, or to copy an active one to other stores. Returns when it has
    /// taken the order; [`tasks`](Self::tasks) tell how it goes.
    ///
    /// # Errors
    /// `Invalid` for an address or a store that the service does not take; `Busy` when the image is not in the
    /// status for it; `Forbidden`.
    pub async fn import(&self, id: &ImageId, method: &ImportMethod, stores: &ImportStores) -> Result<()> {
        let mut how = json!({ "name": method.name() });
        if let ImportMethod::WebDownload(address) = method {
            how["uri"] = address.as_str().into();
        }
        let mut body = json!({ "method": how });
        if stores.all {
            body["all_stores"] = true.into();
        } else if !stores.named.is_empty() {
            body["stores"] = json!(stores.named);
        }
        if body.get("stores").or(body.get("all_stores")).is_some() {
            body["all_stores_must_succeed"] = (!stores.may_be_partial).into();
        }
        let (path, subject) = (format!("{}/import", path(id)), subject(id));
        self.order(Operation::Import, &path, &subject, body).await
    }

    /// Tells the service that the data of a queued image are at `address`: it keeps the address, not the data.
    ///
    /// # Errors
    /// `Invalid` for an address that the service does not take; `Forbidden` where users may not.
    pub async fn register(&self, id: &ImageId, address: &str) -> Result<()> {
        let (new, subject) = (format!("{}/locations", path(id)), subject(id));
        let order = self.order(Operation::Locations, &new, &subject, json!({ "url": address })).await;
        match order {
            // Before 2.17 a location was a change of the record, which sites had to allow.
            Err(error) if error.kind() == Kind::NotSupported => {}
            done => return done,
        }
        let change =
            json!([{ "op": "add", "path": "/locations/-", "value": { "url": address, "metadata": {} } }]);
        let old = path(id);
        let request = Request::new(Operation::Locations, Method::PATCH, &old, &subject)
            .body("application/openstack-images-v2.1-json-patch", change.to_string().into_bytes());
        self.exchange(&request).await?.success(&request).map(drop)
    }

    async fn order(&self, operation: Operation, path: &str, subject: &str, body: Value) -> Result<()> {
        let request = Request::new(operation, Method::POST, path, subject)
            .body("application/json", body.to_string().into_bytes());
        let answer = self.exchange(&request).await?;
        if answer.status == StatusCode::CONFLICT && answer.repeated {
            // The try whose answer was lost is at work.
            return Ok(());
        }
        answer.success(&request).map(drop)
    }

    /// Removes the data of an image from one of its stores.
    ///
    /// # Errors
    /// `Forbidden` for the last store, and for users where this is left to administrators; `NotFound` when the
    /// image is not in this store.
    pub async fn remove_from_store(&self, id: &ImageId, store: &str) -> Result<()> {
        let store = utf8_percent_encode(store, NON_ALPHANUMERIC);
        let (path, subject) = (format!("v2/stores/{store}/{id}"), subject(id));
        let request = Request::new(Operation::Locations, Method::DELETE, &path, &subject);
        let answer = self.exchange(&request).await?;
        if answer.status == StatusCode::NOT_FOUND && answer.repeated {
            return Ok(());
        }
        answer.success(&request).map(drop)
    }

    /// What the service does and did about an image, the latest last.
    ///
    /// # Errors
    /// `NotFound`; also from servers before Wallaby, which do not tell.
    pub async fn tasks(&self, id: &ImageId) -> Result<Vec<Task>> {
        #[derive(Deserialize)]
        struct Tasks {
            tasks: Vec<Task>,
        }
        let (path, subject) = (format!("{}/tasks", path(id)), subject(id));
        let request = Request::new(Operation::Tasks, Method::GET, &path, &subject);
        let answer = self.exchange(&request).await?.success(&request)?;
        let mut tasks: Tasks = serde_json::from_slice(&answer.body).map_err(|error| {
            failed(Operation::Tasks, &subject, Kind::ServerError, "the answer cannot be read")
                .with_source(error)
        })?;
        tasks.tasks.sort_by(|one, other| one.created_at.cmp(&other.created_at));
        Ok(tasks.tasks)
    }
}
