//! What the service says of itself and of the whereabouts of data: stores, usage, import methods, locations.

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::client::{Glance, Request};
use super::error::{Operation, failed};
use super::record::{path, subject};
use crate::error::{Kind, Result};
use crate::units::ImageId;

/// A place where the service keeps data.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Store {
    /// Its name, as `--store` takes it.
    pub id: String,
    /// `file`, `rbd`, ...: told to administrators only.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Data go here unless another is named. Glance writes it as text.
    #[serde(default)]
    pub default: Option<Value>,
    /// It takes no new images.
    #[serde(default, rename = "read-only")]
    pub read_only: Option<Value>,
}

impl Store {
    /// As JSON, with what the server said of it.
    pub fn to_json(&self) -> Value {
        let mut shown = Map::new();
        shown.insert("id".into(), self.id.as_str().into());
        if let Some(kind) = &self.kind {
            shown.insert("type".into(), kind.as_str().into());
        }
        for (key, flag) in [("default", &self.default), ("read-only", &self.read_only)] {
            if flag.as_ref().is_some_and(|flag| matches!(flag.to_string().trim_matches('"'), "true" | "True"))
            {
                shown.insert(key.into(), true.into());
            }
        }
        Value::Object(shown)
    }
}

/// What a project uses and may use; 0 or less stands for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Quota {
    /// Used, in the unit of the limit.
    pub usage: i64,
    /// The limit.
    pub limit: i64,
}

/// What a project occupies, where the service keeps limits in Keystone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Usage {
    /// Of data, in MiB.
    #[serde(default)]
    pub image_size_total: Option<Quota>,
    /// Of images.
    #[serde(default)]
    pub image_count_total: Option<Quota>,
}

impl Glance {
    /// The stores; their types too, where the token is an administrator's.
    ///
    /// # Errors
    /// `NotSupported` when the service has one unnamed store only.
    pub async fn stores(&self) -> Result<Vec<Store>> {
        #[derive(Deserialize)]
        struct Stores {
            stores: Vec<Store>,
        }
        let stores: Stores = match self.fact("v2/info/stores/detail").await {
            // Users, and servers before Yoga.
            Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::NotSupported) => {
                self.fact("v2/info/stores").await?
            }
            stores => stores?,
        };
        Ok(stores.stores)
    }

    /// What the project uses and may use; empty where the service does not limit it.
    ///
    /// # Errors
    /// `NotSupported` from servers before Xena.
    pub async fn usage(&self) -> Result<Usage> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            usage: Usage,
        }
        let document: Document = self.fact("v2/info/usage").await?;
        Ok(document.usage)
    }

    /// The ways in which the service fetches data by itself (`web-download`, ...).
    ///
    /// # Errors
    /// `NotSupported` from servers before Queens.
    pub async fn import_methods(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(rename = "import-methods")]
            methods: Methods,
        }
        #[derive(Deserialize)]
        struct Methods {
            value: Vec<String>,
        }
        let document: Document = self.fact("v2/info/import").await?;
        Ok(document.methods.value)
    }

    async fn fact<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = Request::new(Operation::Facts, Method::GET, path, "");
        let answer = self.exchange(&request).await?.success(&request)?;
        serde_json::from_slice(&answer.body).map_err(|error| {
            failed(Operation::Facts, "", Kind::ServerError, "the answer cannot be read").with_source(error)
        })
    }

    /// Where the data of an image are: `direct_url` and `locations` of the record as far as the server shows
    /// them, else what the API of locations (2.17) says. They can hold credentials (OSSN-0065).
    ///
    /// # Errors
    /// `Forbidden` when the server shows them to services only.
    pub async fn locations(&self, id: &ImageId) -> Result<Map<String, Value>> {
        let (path, subject) = (path(id), subject(id));
        let wrong = |error: serde_json::Error| {
            failed(Operation::Show, &subject, Kind::ServerError, "the answer cannot be read")
                .with_source(error)
        };
        let request = Request::new(Operation::Show, Method::GET, &path, &subject);
        let answer = self.exchange(&request).await?.success(&request)?;
        let mut record: Map<String, Value> = serde_json::from_slice(&answer.body).map_err(wrong)?;
        record.retain(|key, value| super::SECRET_KEYS.contains(&key.as_str()) && !value.is_null());
        if record.is_empty() {
            let path = format!("{path}/locations");
            let request = Request::new(Operation::Locations, Method::GET, &path, &subject);
            let answer = self.exchange(&request).await?.success(&request)?;
            let locations: Vec<Value> = serde_json::from_slice(&answer.body).map_err(wrong)?;
            let first = locations.first().and_then(|location| location.get("url")).cloned();
            record.extend(first.map(|url| ("direct_url".to_owned(), url)));
            record.insert("locations".to_owned(), json!(locations));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_show_what_is_true_of_them() {
        let read = |text: &str| serde_json::from_str::<Store>(text).unwrap().to_json().to_string();
        assert_eq!(
            read(r#"{"id": "file", "default": "true", "type": "file", "weight": 0}"#),
            r#"{"default":true,"id":"file","type":"file"}"#
        );
        assert_eq!(read(r#"{"id": "http", "read-only": true}"#), r#"{"id":"http","read-only":true}"#);
        assert_eq!(read(r#"{"id": "b", "default": false}"#), r#"{"id":"b"}"#);
    }
}
