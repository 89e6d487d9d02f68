//! Which keys of a record are attributes of the API, in the server's own words.

use std::collections::{HashMap, HashSet};

use reqwest::Method;
use serde::Deserialize;

use super::client::{Glance, Request};
use super::error::{Operation, failed};
use crate::error::{Kind, Result};

/// Attributes that are believed: Glance has some 30.
const ATTRIBUTE_LIMIT: usize = 1000;

/// Which keys of a record are attributes of the API; all others are properties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// `id`, `name`, `status`, ...
    pub attributes: HashSet<Box<str>>,
}

#[derive(Deserialize)]
struct Document {
    properties: HashMap<Box<str>, Property>,
}

#[derive(Deserialize)]
struct Property {
    /// Sites describe well-known properties (`os_distro`, ...) in the schema too, and mark them with `false` here.
    #[serde(default)]
    is_base: Option<bool>,
}

impl Glance {
    /// Which keys are attributes, from `/v2/schemas/image`.
    pub async fn schema(&self) -> Result<Schema> {
        let request = Request::new(Operation::Schema, Method::GET, "v2/schemas/image", "");
        let answer = self.exchange(&request).await?.success(&request)?;
        let wrong = |what| failed(Operation::Schema, "", Kind::ServerError, what);
        let document: Document = serde_json::from_slice(&answer.body)
            .map_err(|error| wrong("it cannot be read").with_source(error))?;
        if document.properties.len() > ATTRIBUTE_LIMIT {
            return Err(wrong("it has too many attributes"));
        }
        let is_attribute = |(_, property): &(_, Property)| property.is_base != Some(false);
        let attributes = document.properties.into_iter().filter(is_attribute).map(|(key, _)| key).collect();
        Ok(Schema { attributes })
    }
}
