//! Writing `.glancefs/images/<id>.json`: the record as a whole, properties that are left out go.
//!
//! The text is taken when a descriptor that wrote it is closed and it is a complete JSON object; then one PATCH
//! makes the record so, or changes nothing. This is the only way that purges; `setfattr` merges.

use std::sync::Mutex;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::writable::{self, is_attribute_to_set};
use super::{ImageFs, lock};
use crate::error::{Error, Kind, Result};
use crate::glance::{Change, SECRET_KEYS, Schema};
use crate::units::{ByteRange, ImageId};

/// 128 properties of 64 KiB, with room for what JSON adds.
const MOST_BYTES: u64 = 16 << 20;

/// A record that is being written.
#[derive(Debug)]
pub(super) struct NewRecord {
    pub(super) id: ImageId,
    text: Mutex<Text>,
}

#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    /// Something was written since it was last taken.
    dirty: bool,
}

impl NewRecord {
    pub(super) fn new(id: ImageId, text: &[u8]) -> Self {
        Self { id, text: Mutex::new(Text { bytes: text.to_vec(), dirty: false }) }
    }

    pub(super) fn size(&self) -> u64 {
        lock(&self.text).bytes.len() as u64
    }

    pub(super) fn read(&self, range: ByteRange) -> Bytes {
        let text = lock(&self.text);
        let range = range.clamp_to(text.bytes.len() as u64);
        // The range was clamped to a length in memory: it fits.
        Bytes::copy_from_slice(&text.bytes[range.start as usize..range.end as usize])
    }

    /// # Errors
    /// `TooLarge` beyond 16 MiB.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<usize> {
        let end = offset.saturating_add(data.len() as u64);
        if end > MOST_BYTES {
            return Err(Error::new(Kind::TooLarge, "a record has less than 16 MiB"));
        }
        let mut text = lock(&self.text);
        // Both are below 16 MiB.
        let (offset, end) = (offset as usize, end as usize);
        if text.bytes.len() < end {
            text.bytes.resize(end, b' ');
        }
        text.bytes[offset..end].copy_from_slice(data);
        text.dirty = true;
        Ok(data.len())
    }

    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn truncate(&self, size: u64) -> Result<()> {
        if size > MOST_BYTES {
            return Err(Error::new(Kind::TooLarge, "a record has less than 16 MiB"));
        }
        lock(&self.text).bytes.resize(size as usize, b' ');
        Ok(())
    }
}

impl ImageFs {
    /// Makes the record what was written, if something was.
    ///
    /// # Errors
    /// `Invalid` for what is no record of this image, `NotPermitted` where it changes what only Glance sets;
    /// what the server says.
    pub(super) async fn replace_record(&self, new: &NewRecord) -> Result<()> {
        let wanted = {
            let text = lock(&new.text);
            if !text.dirty {
                return Ok(());
            }
            serde_json::from_slice::<Map<String, Value>>(&text.bytes)
        };
        let invalid =
            |what: &str| Error::new(Kind::Invalid, format!("the record of image {}: {what}", new.id));
        let wanted = wanted.map_err(|error| invalid("not a JSON object").with_source(error))?;
        let turn = self.turn(&new.id).await?;
        self.until_no_upload(&new.id, &turn).await?;
        let now = self.layers.service.show(&new.id).await?;
        let text = now.record.text().unwrap_or_default();
        let now: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| invalid("what Glance has cannot be read").with_source(error))?;
        let changes = changes(&now, wanted, &self.layers.catalog.schema())?;
        if !changes.is_empty() {
            let image = self.change(&new.id, &changes, &turn).await?;
            self.show_as_listed(&image, &changes);
        }
        lock(&new.text).dirty = false;
        Ok(())
    }
}

/// What makes `now` what is `wanted`. Attributes that are left out stay: they cannot go.
fn changes(now: &Map<String, Value>, wanted: Map<String, Value>, schema: &Schema) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let is_property = |key: &str| !schema.attributes.contains(key) && !SECRET_KEYS.contains(&key);
    for (key, _) in now.iter().filter(|(key, _)| is_property(key)) {
        if !wanted.contains_key(key) && !writable::is_reserved(key) {
            changes.push(Change::Remove { key: key.clone() });
        }
    }
    for (key, value) in wanted {
        if now.get(&key) == Some(&value) || SECRET_KEYS.contains(&key.as_str()) {
            continue;
        }
        if is_property(&key) {
            let Value::String(text) = &value else {
                return Err(Error::new(Kind::Invalid, format!("property {key}: values are strings")));
            };
            writable::property(&key, text)?;
        } else if !is_attribute_to_set(&key) {
            return Err(Error::new(Kind::NotPermitted, format!("{key} cannot be set")));
        }
        changes.push(Change::Set { key, value });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(wanted: Value) -> Result<Vec<Change>> {
        let now =
            json!({"id": "i", "name": "n", "size": 3, "min_ram": 0, "a": "1", "b": "2", "os_glance_x": ""});
        let schema = Schema { attributes: ["id", "name", "size", "min_ram"].map(Box::from).into() };
        changes(now.as_object().unwrap(), wanted.as_object().unwrap().clone(), &schema)
    }

    #[test]
    fn what_is_left_out_goes_and_what_differs_is_set() {
        let set = |key: &str, value: Value| Change::Set { key: key.into(), value };
        let remove = |key: &str| Change::Remove { key: key.into() };
        assert_eq!(found(json!({"id": "i", "a": "1", "b": "2"})).unwrap(), []);
        assert_eq!(found(json!({})).unwrap(), [remove("a"), remove("b")], "but not what is Glance's own");
        assert_eq!(
            found(json!({"a": "1", "c": "3", "min_ram": 5, "size": 3})).unwrap(),
            [remove("b"), set("c", json!("3")), set("min_ram", json!(5))]
        );
    }

    #[test]
    fn what_cannot_be_is_refused_as_a_whole() {
        for (wanted, kind) in [
            (json!({"size": 4}), Kind::NotPermitted),
            (json!({"id": "j"}), Kind::NotPermitted),
            (json!({"os_glance_y": "1"}), Kind::NotPermitted),
            (json!({"c": 3}), Kind::Invalid),
            (json!({"c": "\u{1f600}"}), Kind::IllegalName),
        ] {
            assert_eq!(found(wanted.clone()).unwrap_err().kind(), kind, "{wanted}");
        }
    }

    #[test]
    fn it_is_written_in_any_order_within_its_limit() {
        let record = NewRecord::new(ImageId::generate(), b"{}");
        record.write(1, b"\"a\":\"b\"}").unwrap();
        assert_eq!(record.read(ByteRange::new(0, 100)), "{\"a\":\"b\"}");
        record.truncate(1).unwrap();
        assert_eq!(record.size(), 1);
        assert_eq!(record.write(MOST_BYTES, b"x").unwrap_err().kind(), Kind::TooLarge);
    }
}
