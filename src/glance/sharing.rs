//! Members: the projects that an image is shared with. And what an operator does to an image as a whole.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Glance, Request};
use super::error::{Operation, failed};
use super::record::{path, subject};
use crate::error::{Kind, Result};
use crate::units::ImageId;

/// A project that an image is shared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The id of the project.
    pub member_id: String,
    /// `pending`, `accepted` or `rejected`. Only accepted images are in the member's list.
    pub status: String,
}

/// What a member says of an image that was shared with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It shall be in our list.
    Accepted,
    /// It shall not.
    Rejected,
}

#[derive(Deserialize)]
struct Members<M> {
    members: Vec<M>,
}

impl Glance {
    /// The members of an image: all to its owner, itself to a member.
    ///
    /// # Errors
    /// `Forbidden` for images that are not `shared`; `NotFound`.
    pub async fn members(&self, id: &ImageId) -> Result<Vec<Member>> {
        self.members_of(&path(id), id).await
    }

    /// The members of the image at `path`, of either version of the API.
    pub(super) async fn members_of<M: DeserializeOwned>(&self, path: &str, id: &ImageId) -> Result<Vec<M>> {
        let (path, subject) = (format!("{path}/members"), subject(id));
        let request = Request::new(Operation::Members, Method::GET, &path, &subject);
        let answer = self.exchange(&request).await?.success(&request)?;
        let members: Members<M> = serde_json::from_slice(&answer.body).map_err(|error| {
            let what = "the answer is no list of members";
            failed(Operation::Members, &subject, Kind::ServerError, what).with_source(error)
        })?;
        Ok(members.members)
    }

    /// Shares an image with a project.
    ///
    /// # Errors
    /// `Exists` when it is a member; `Forbidden` when the image is not `shared`, or not ours.
    pub async fn add_member(&self, id: &ImageId, project: &str) -> Result<()> {
        let (path, subject) = (format!("{}/members", path(id)), subject(id));
        let body = json!({ "member": project }).to_string().into_bytes();
        let request =
            Request::new(Operation::Members, Method::POST, &path, &subject).body("application/json", body);
        let answer = self.exchange(&request).await?;
        if answer.status == StatusCode::CONFLICT && answer.repeated {
            return Ok(());
        }
        answer.success(&request).map(drop)
    }

    /// Ends that.
    ///
    /// # Errors
    /// `NotFound` when it is no member; `Forbidden`.
    pub async fn remove_member(&self, id: &ImageId, project: &str) -> Result<()> {
        let (path, subject) = (member_path(id, project), subject(id));
        let request = Request::new(Operation::Members, Method::DELETE, &path, &subject);
        let answer = self.exchange(&request).await?;
        if answer.status == StatusCode::NOT_FOUND && answer.repeated {
            return Ok(());
        }
        answer.success(&request).map(drop)
    }

    /// What the member itself says of the image.
    ///
    /// # Errors
    /// `NotFound` when it is no member; `Forbidden` for the owner of the image.
    pub async fn judge(&self, id: &ImageId, project: &str, verdict: Verdict) -> Result<()> {
        let (path, subject) = (member_path(id, project), subject(id));
        let status = match verdict {
            Verdict::Accepted => "accepted",
            Verdict::Rejected => "rejected",
        };
        let body = json!({ "status": status }).to_string().into_bytes();
        let request =
            Request::new(Operation::Members, Method::PUT, &path, &subject).body("application/json", body);
        self.exchange(&request).await?.success(&request).map(drop)
    }

    /// Nobody but administrators can read the image from now on (`false`), or everybody again (`true`).
    ///
    /// # Errors
    /// `Forbidden`; `Busy` when the image has no data.
    pub async fn set_active(&self, id: &ImageId, active: bool) -> Result<()> {
        let action = if active { "reactivate" } else { "deactivate" };
        let (path, subject) = (format!("{}/actions/{action}", path(id)), subject(id));
        let request = Request::new(Operation::Update, Method::POST, &path, &subject);
        self.exchange(&request).await?.success(&request).map(drop)
    }
}

/// A project's id is text that a person typed.
fn member_path(id: &ImageId, project: &str) -> String {
    format!("{}/members/{}", path(id), utf8_percent_encode(project, NON_ALPHANUMERIC))
}
