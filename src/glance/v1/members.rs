//! The projects that an image is shared with, in v1: they need not accept, and may be let share it further.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{GlanceV1, path};
use crate::error::Result;
use crate::glance::client::Request;
use crate::glance::error::Operation;
use crate::glance::record::subject;
use crate::units::ImageId;

/// A project that an image is shared with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct V1Member {
    /// The project's id.
    pub member_id: String,
    /// It may share the image with others.
    #[serde(default)]
    pub can_share: bool,
}

impl GlanceV1 {
    /// The projects that the image is shared with.
    pub async fn members(&self, id: &ImageId) -> Result<Vec<V1Member>> {
        self.glance.members_of(&path(id), id).await
    }

    /// Shares the image with a project; again without effect.
    ///
    /// # Errors
    /// `NotFound` when the image is not ours; `NoSpace` beyond the site's number of members.
    pub async fn add_member(&self, id: &ImageId, project: &str) -> Result<()> {
        self.member(Method::PUT, id, project).await
    }

    /// Ends that; what is ended already succeeds only after a retry of ours.
    ///
    /// # Errors
    /// `NotFound` when the image is not ours, or not shared with that project.
    pub async fn remove_member(&self, id: &ImageId, project: &str) -> Result<()> {
        self.member(Method::DELETE, id, project).await
    }

    async fn member(&self, method: Method, id: &ImageId, project: &str) -> Result<()> {
        let project = utf8_percent_encode(project, NON_ALPHANUMERIC);
        let (path, subject) = (format!("{}/members/{project}", path(id)), subject(id));
        let request = Request::new(Operation::Members, method, &path, &subject);
        let answer = self.glance.exchange(&request).await?;
        let ended = request.method == Method::DELETE && answer.status == StatusCode::NOT_FOUND;
        if ended && answer.repeated {
            return Ok(());
        }
        answer.success(&request).map(drop)
    }
}
