//! What the image of a draft shall have besides its name and its data, until its record is created.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::carry::Formats;
use crate::error::{Error, Kind, Result};
use crate::glance::Placement;

/// Bytes of keys and values together. Kernels and programs set some KiB; what is kept goes into each journal.
const MOST_BYTES: usize = 256 << 10;

/// Formats in a record that the upload decides about.
const FORMATS: [&str; 2] = ["disk_format", "container_format"];

/// What was asked for an image before its data are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Attributes and properties by key, as in a record.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub record: BTreeMap<String, Value>,
    /// The formats of the image that this is a copy of, which count where the content does not tell.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub copied_formats: BTreeMap<String, String>,
    /// The id of the store that the data go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The image that the store may put the data beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_image: Option<String>,
}

impl Metadata {
    /// Nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is still to be heeded once the record is there: formats, and where the data go.
    pub fn of_record(mut self) -> Self {
        self.record.retain(|key, _| FORMATS.contains(&key.as_str()));
        self
    }

    /// # Errors
    /// `NoSpace` beyond 256 KiB.
    pub(super) fn check(&self) -> Result<()> {
        let bytes: usize = self.record.iter().map(|(key, value)| key.len() + value.to_string().len()).sum();
        if bytes > MOST_BYTES {
            return Err(Error::new(Kind::NoSpace, "more metadata than an upload takes along"));
        }
        Ok(())
    }

    /// Where the data are to go.
    pub(super) fn placement(&self) -> Placement {
        Placement { store: self.store.clone(), base_image: self.base_image.clone() }
    }

    /// The formats that were asked for go before all others.
    pub(super) fn decide(&self, formats: Formats) -> Formats {
        let asked = |key: &str| self.record.get(key).and_then(Value::as_str).map(str::to_owned);
        Formats {
            disk: asked("disk_format").unwrap_or(formats.disk),
            container: asked("container_format").unwrap_or(formats.container),
        }
    }

    /// What goes into a new record besides formats; `carried` is of the image that is replaced, and gives way.
    /// A record is protected last, so that a failed upload can be taken back.
    pub(super) fn attributes(&self, carried: Vec<(String, Value)>) -> Vec<(String, Value)> {
        let ours = |key: &str| FORMATS.contains(&key) || key == "protected";
        let mut attributes: BTreeMap<_, _> = carried.into_iter().collect();
        attributes.extend(self.record.clone());
        attributes.into_iter().filter(|(key, _)| !ours(key)).collect()
    }

    /// The image shall be protected, or (`Some(false)`) shall not although the one it replaces was.
    pub(super) fn protected(&self) -> Option<bool> {
        self.record.get("protected").and_then(Value::as_bool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_goes_before_what_is_carried_over() {
        let mut asked = Metadata::default();
        for (key, value) in [("a", "asked"), ("disk_format", "iso")] {
            asked.record.insert(key.into(), value.into());
        }
        asked.record.insert("protected".into(), true.into());
        let carried = vec![("a".to_owned(), "old".into()), ("b".to_owned(), "old".into())];
        let expected = vec![("a".to_owned(), "asked".into()), ("b".to_owned(), Value::from("old"))];
        assert_eq!(asked.attributes(carried), expected);
        assert_eq!(asked.protected(), Some(true));
        let formats = asked.decide(Formats { disk: "raw".into(), container: "bare".into() });
        assert_eq!((formats.disk.as_str(), formats.container.as_str()), ("iso", "bare"));
        assert_eq!(asked.of_record().record.len(), 1);
    }

    #[test]
    fn its_size_has_a_limit() {
        let mut asked = Metadata::default();
        asked.record.insert("a".into(), "v".repeat(MOST_BYTES / 2).into());
        assert!(asked.check().is_ok());
        asked.record.insert("b".into(), "v".repeat(MOST_BYTES / 2).into());
        assert_eq!(asked.check().unwrap_err().kind(), Kind::NoSpace);
    }
}
