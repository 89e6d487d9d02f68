//! An image service in memory, for tests of the layers above: what Glance does, without HTTP.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{
    BodyStream, Change, Cloud, Download, Downloads, Facts, Image, Listing, NewImage, NextPage, OpenBody,
    Page, Records, Schema, Usage,
};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, ImageId};

/// The project that owns what is created.
pub(crate) const PROJECT: &str = "ours";

/// Records and data by id.
#[derive(Default)]
pub(crate) struct FakeService {
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) records: BTreeMap<ImageId, Value>,
    pub(crate) data: BTreeMap<ImageId, Vec<u8>>,
    /// Images in a page; 0: all.
    pub(crate) page: usize,
    /// The marker of so many coming pages has been deleted.
    pub(crate) lost_markers: usize,
    /// Every page names the same next page.
    pub(crate) circular: bool,
    /// Nothing answers.
    pub(crate) down: bool,
    /// Neither the whole list nor the schema ever comes.
    pub(crate) stuck: bool,
    /// The quota, and how long it takes to tell it.
    pub(crate) usage: Option<(std::time::Duration, Usage)>,
    /// The server knows no filter by time.
    pub(crate) ancient: bool,
    /// Pages given so far, the refused included.
    pub(crate) pages: usize,
    /// Where the pages of changed images go on: from when they are, and how many there are in one.
    changed: Option<(SystemTime, usize)>,
    /// The seconds of the records' times.
    clock: i64,
}

fn missing(id: &ImageId) -> Error {
    Error::new(Kind::NotFound, format!("no image {id}"))
}

fn parsed(record: &Value) -> Result<Image> {
    Image::from_record(&record.to_string())
}

impl FakeService {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// An active image appears, as another client's.
    pub(crate) fn add(&self, name: &str, data: &[u8]) -> ImageId {
        let id = ImageId::generate();
        let mut state = self.state();
        state.insert(&id, &json!({ "name": name, "disk_format": "raw", "container_format": "bare" }));
        state.fill(&id, data.to_vec());
        id
    }
}

impl State {
    fn page(&mut self, next: Option<&NextPage>) -> Result<Page> {
        if self.down {
            return Err(Error::new(Kind::Unreachable, "the fake is down"));
        }
        if next.is_some() && self.lost_markers > 0 {
            self.lost_markers -= 1;
            return Err(Error::new(Kind::NotFound, "no image found with the marker's id"));
        }
        self.pages += 1;
        let mut images: Vec<_> = self.records.values().map(|record| parsed(record).unwrap()).collect();
        let mut size = if self.page == 0 { usize::MAX } else { self.page };
        if let Some((since, limit)) = self.changed {
            images.retain(|image| image.updated_at >= since);
            images.sort_by_key(|image| Reverse(image.updated_at));
            size = limit;
        }
        let page = |from: usize| NextPage::from_server(&format!("/v2/images?from={from}"));
        let all = images.len();
        let from = (0..all).step_by(size).find(|&from| page(from).as_ref() == next).unwrap_or(0);
        let images: Vec<_> = images.into_iter().skip(from).take(size).collect();
        let end = from + images.len();
        let next = if self.circular { page(1) } else { page(end).filter(|_| end < all) };
        Ok(Page { images, next, next_view: None })
    }

    /// The time of the next change of a record.
    pub(crate) fn tick(&mut self) -> Value {
        self.clock += 1;
        jiff::Timestamp::from_second(1_700_000_000 + self.clock).unwrap().to_string().into()
    }

    fn insert(&mut self, id: &ImageId, body: &Value) {
        let at = self.tick();
        let mut record = json!({
            "id": id.as_str(), "name": null, "status": "queued", "owner": PROJECT, "visibility": "private",
            "protected": false, "size": null, "checksum": null, "os_hash_algo": null, "os_hash_value": null,
            "created_at": at, "updated_at": at, "tags": [], "disk_format": null, "container_format": null,
        });
        for (key, value) in body.as_object().into_iter().flatten() {
            record[key] = value.clone();
        }
        self.records.insert(id.clone(), record);
    }

    fn fill(&mut self, id: &ImageId, data: Vec<u8>) {
        let at = self.tick();
        let record = self.records.get_mut(id).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &data);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        record["updated_at"] = at;
        record["status"] = "active".into();
        record["size"] = data.len().into();
        record["os_hash_algo"] = "sha512".into();
        record["os_hash_value"] = hex.into();
        self.data.insert(id.clone(), data);
    }
}

impl Cloud for FakeService {
    fn cloud_key(&self) -> &str {
        "fake"
    }

    fn project_id(&self) -> Option<&str> {
        Some(PROJECT)
    }
}

#[async_trait]
impl Listing for FakeService {
    /// In the order of ids; the continuation says how many came before.
    async fn list(&self, _limit: u32, next: Option<&NextPage>) -> Result<Page> {
        if next.is_none() {
            self.state().changed = None;
        }
        if self.state().stuck {
            return std::future::pending().await;
        }
        self.state().page(next)
    }

    async fn changed_since(&self, since: SystemTime, limit: u32) -> Result<Page> {
        let mut state = self.state();
        state.changed = Some((since, limit as usize));
        if state.ancient {
            state.pages += 1;
            Err(Error::new(Kind::Invalid, "unknown filter"))
        } else {
            state.page(None)
        }
    }

    async fn find_by_name(&self, name: &str) -> Result<Vec<Image>> {
        let state = self.state();
        let found = state.records.values().filter(|record| record["name"] == *name);
        found.map(parsed).collect()
    }

    async fn schema(&self) -> Result<Schema> {
        let attributes = [
            "id",
            "name",
            "status",
            "size",
            "tags",
            "visibility",
            "protected",
            "os_hidden",
            "min_disk",
            "min_ram",
            "owner",
            "checksum",
            "disk_format",
            "container_format",
            "created_at",
            "updated_at",
        ];
        let attributes = attributes.map(Box::from).into();
        let (down, stuck) = {
            let state = self.state();
            (state.down, state.stuck)
        };
        if stuck {
            std::future::pending().await
        } else if down {
            Err(Error::new(Kind::Unreachable, "the fake is down"))
        } else {
            Ok(Schema { attributes })
        }
    }
}

#[async_trait]
impl Records for FakeService {
    async fn show(&self, id: &ImageId) -> Result<Image> {
        self.state().records.get(id).ok_or_else(|| missing(id)).and_then(parsed)
    }

    async fn create(&self, image: &NewImage) -> Result<Image> {
        let mut state = self.state();
        if state.records.contains_key(&image.id) {
            Err(Error::new(Kind::Exists, "the id is taken"))
        } else {
            let mut body = json!({
                "name": image.name, "disk_format": image.disk_format, "container_format": image.container_format,
            });
            body.as_object_mut().unwrap().extend(image.properties.iter().cloned());
            state.insert(&image.id, &body);
            parsed(&state.records[&image.id])
        }
    }

    async fn upload_stream(
        &self,
        id: &ImageId,
        _placement: &super::Placement,
        data: BodyStream,
    ) -> Result<()> {
        let data: Vec<Bytes> = data.try_collect().await.map_err(|error| Error::io("the body", error))?;
        let data = Bytes::from(data.concat());
        let size = data.len() as u64;
        let open = move || -> BodyStream { stream::iter([Ok(data.clone())]).boxed() };
        self.upload(id, size, &open).await
    }

    async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        let data: Vec<Bytes> = open().try_collect().await.map_err(|error| Error::io("the body", error))?;
        let data = data.concat();
        if data.len() as u64 != size {
            return Err(Error::new(Kind::Invalid, "size mismatch"));
        }
        let mut state = self.state();
        let record = state.records.get(id).ok_or_else(|| missing(id))?;
        if record["status"] != "queued" {
            return Err(Error::new(Kind::Busy, "not queued"));
        }
        state.fill(id, data);
        Ok(())
    }

    async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        let mut state = self.state();
        let at = state.tick();
        state.records.get_mut(id).ok_or_else(|| missing(id)).and_then(|record| {
            for change in changes {
                let there = |key: &str| record.get(key).is_some();
                match change {
                    Change::Create { key, .. } if there(key) => {
                        return Err(Error::new(Kind::Exists, "there is such a property already"));
                    }
                    Change::Replace { key, .. } | Change::Remove { key } if !there(key) => {
                        return Err(Error::new(Kind::NoData, "there is no such property"));
                    }
                    Change::Set { key, value }
                    | Change::Create { key, value }
                    | Change::Replace { key, value } => record[key] = value.clone(),
                    Change::Remove { key } => {
                        record.as_object_mut().unwrap().remove(key);
                    }
                }
            }
            record["updated_at"] = at;
            parsed(record)
        })
    }

    async fn set_readable(&self, id: &ImageId, readable: bool) -> Result<Image> {
        let status = if readable { "active" } else { "deactivated" };
        let mut state = self.state();
        state.records.get_mut(id).ok_or_else(|| missing(id)).and_then(|record| {
            record["status"] = status.into();
            parsed(record)
        })
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        let mut state = self.state();
        state.data.remove(id);
        state.records.remove(id).map(drop).ok_or_else(|| missing(id))
    }
}

#[async_trait]
impl Facts for FakeService {
    async fn usage(&self) -> Result<Usage> {
        let (after, usage) =
            self.state().usage.ok_or_else(|| Error::new(Kind::NotSupported, "the fake has no quota"))?;
        tokio::time::sleep(after).await;
        Ok(usage)
    }
}

#[async_trait]
impl Downloads for FakeService {
    async fn download(&self, id: &ImageId, size: u64, range: Option<ByteRange>) -> Result<Download> {
        self.state().data.get(id).ok_or_else(|| missing(id)).map(|data| {
            let range = range.unwrap_or(ByteRange::new(0, size));
            let bytes = Bytes::copy_from_slice(&data[range.start as usize..range.end as usize]);
            Download { range, chunks: stream::iter([Ok(bytes)]).boxed() }
        })
    }
}
