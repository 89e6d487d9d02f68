//! A Glance in memory that fails as it is told, for the tests of uploads.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use md5::{Digest as _, Md5};

use super::keeper::Keeper;
use super::upload::Pace;
use super::{Intent, Uploads};
use crate::cache::ContentIdentity;
use crate::config::SpoolConfig;
use crate::error::{Error, Kind, Result};
use crate::glance::{
    BodyStream, Change, Cloud, Image, MultiHash, NewImage, OpenBody, Placement, Records, Status,
};
use crate::units::{ImageId, hexadecimal};

/// What `--timeout` is for these uploads.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// What the next requests meet, instead of plain success.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// POST is refused; no record.
    RefuseCreate(Kind),
    /// POST works, the answer is lost.
    LoseCreated,
    /// PUT begins to take the data so often, each time in vain, then fails; the record is `queued` again.
    BreakBodies(u32),
    /// PUT takes this many bytes, then fails; the record is `queued` again.
    BreakBody(u64, Kind),
    /// PUT takes the whole body, then fails; a 415 keeps the checksum of what was refused.
    Refuse(Kind),
    /// PUT takes the whole body, then the server is killed: the record stays `saving` for ever.
    Stick,
    /// PUT works, the answer is lost.
    LoseUploaded,
    /// PUT works but stores other bytes.
    Corrupt,
    /// PUT works but the image stays `saving` for this many looks.
    Linger(u32),
    /// PUT never answers.
    Hang,
    /// PUT fails, and from then on nothing is answered.
    Die,
    /// DELETE fails.
    KeepRecord,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<ImageId, (Image, Bytes)>,
    pub(super) deleted: Vec<ImageId>,
    pub(super) log: Vec<String>,
    pub(super) created: Vec<NewImage>,
    /// Where the data of streamed uploads were to go.
    pub(super) placed: Vec<Placement>,
    pub(super) faults: VecDeque<Fault>,
    pub(super) delete_faults: VecDeque<Fault>,
    pub(super) adopted: Vec<(ContentIdentity, Vec<u8>)>,
    /// No request is ever answered.
    pub(super) silent: bool,
    /// `os_hash_algo` of the site.
    pub(super) algorithm: Option<&'static str>,
    lingering: u32,
}

/// Cheap to clone; every clone is the same cloud.
#[derive(Clone, Default)]
pub(super) struct FakeGlance(Arc<Mutex<State>>);

/// A queued record; `n` makes its id.
pub(super) fn image(n: u32) -> Image {
    record(&format!("00000000-0000-4000-8000-{n:012}").parse().unwrap(), "old")
}

fn record(id: &ImageId, name: &str) -> Image {
    Image {
        id: id.clone(),
        name: Some(name.into()),
        status: Status::Queued,
        size: None,
        created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000),
        updated_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000),
        owner: None,
        visibility: "shared".into(),
        disk_format: None,
        container_format: None,
        checksum: None,
        hash: None,
        protected: false,
        stores: None,
        kept_mtime: None,
        record: "{}".into(),
    }
}

fn fail<T>(kind: Kind) -> Result<T> {
    Err(Error::new(kind, "as told"))
}

impl FakeGlance {
    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The next requests meet these; the first fault that fits a request is used up by it.
    pub(super) fn will(&self, faults: &[Fault]) {
        for fault in faults {
            match fault {
                Fault::KeepRecord => self.state().delete_faults.push_back(*fault),
                _ => self.state().faults.push_back(*fault),
            }
        }
    }

    /// Uploads into a spool in `dir`, without waiting between tries.
    pub(super) fn uploads(&self, dir: &Path) -> Uploads {
        self.uploads_with(dir, None)
    }

    pub(super) fn uploads_with(&self, dir: &Path, size: Option<u64>) -> Uploads {
        self.uploads_of(dir, size, 3)
    }

    /// The same, with `--retries`.
    pub(super) fn uploads_of(&self, dir: &Path, size: Option<u64>, retries: u32) -> Uploads {
        let moment = Duration::from_millis(1);
        let pace = Pace { retry: moment, retries, poll: moment, timeout: TIMEOUT, patience: TIMEOUT };
        let keep_failed = Duration::from_secs(7 * 24 * 3600);
        let config = SpoolConfig { dir: dir.to_owned(), size, keep_failed };
        Uploads::with(&config, Arc::new(self.clone()), Arc::new(self.clone()), pace).unwrap()
    }

    /// The only image that is there, and its bytes.
    pub(super) fn only_image(&self) -> (Image, Bytes) {
        let state = self.state();
        assert_eq!(state.images.len(), 1, "{:?}", state.log);
        state.images.values().next().unwrap().clone()
    }

    /// Ends at once, or never.
    async fn answers(&self) {
        if self.state().silent {
            std::future::pending::<()>().await;
        }
    }

    /// A fault for POST is at the front of the queue.
    fn create_fault(&self) -> Option<Fault> {
        let mut state = self.state();
        match state.faults.front() {
            Some(Fault::RefuseCreate(_) | Fault::LoseCreated) => state.faults.pop_front(),
            _ => None,
        }
    }

    async fn put(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        let fault = self.state().faults.pop_front();
        self.state().log.push(format!("PUT {id}"));
        match self.state().images.get(id) {
            None => return fail(Kind::NotFound),
            Some((image, _)) if image.status != Status::Queued => return fail(Kind::Busy),
            Some((image, _)) if image.record.text() != Some("{}") => return fail(Kind::ServerError),
            Some((image, _)) if image.disk_format.is_none() => return fail(Kind::Invalid),
            Some(_) => {}
        }
        if let Some(Fault::Hang) = fault {
            // The body is begun, so that its reader is there too.
            let _body = open().next().await;
            std::future::pending::<()>().await;
        }
        if let Some(Fault::Die) = fault {
            self.state().silent = true;
            return fail(Kind::Unreachable);
        }
        if let Some(Fault::BreakBodies(tries)) = fault {
            for _ in 0..tries {
                let _ = open().next().await;
            }
            return fail(Kind::Unreachable);
        }
        let mut body = open();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next().await {
            bytes.extend_from_slice(&chunk.map_err(|error| Error::io("body", error))?);
            if let Some(Fault::BreakBody(after, kind)) = fault
                && bytes.len() as u64 >= after
            {
                return fail(kind);
            }
        }
        assert_eq!(bytes.len() as u64, size, "the promised length is kept");
        if let Some(Fault::Corrupt) = fault {
            bytes[0] ^= 1;
        }
        let mut state = self.state();
        let algorithm = state.algorithm.unwrap_or("sha512");
        let (image, stored) = state.images.get_mut(id).unwrap();
        image.checksum = Some(hexadecimal(&Md5::digest(&bytes)).into());
        if let Some(Fault::Refuse(kind)) = fault {
            // As the client gives it: the hash of an image that is not active is in the record only.
            image.checksum = None;
            if kind == Kind::WrongFormat {
                image.record = r#"{"checksum": "1a7cf105fec22ee7ead2dc8594f135b2"}"#.into();
            }
            return fail(kind);
        }
        if let Some(Fault::Stick) = fault {
            (image.checksum, image.status) = (None, Status::Saving);
            return fail(Kind::ServerError);
        }
        let digest = match algorithm {
            "sha256" => &aws_lc_rs::digest::SHA256,
            _ => &aws_lc_rs::digest::SHA512,
        };
        let value = hexadecimal(aws_lc_rs::digest::digest(digest, &bytes).as_ref());
        image.hash = Some(MultiHash { algorithm: algorithm.into(), value: value.into() });
        image.size = Some(size);
        image.status = Status::Active;
        *stored = bytes.into();
        match fault {
            Some(Fault::LoseUploaded) => fail(Kind::Unreachable),
            Some(Fault::Linger(looks)) => {
                state.lingering = looks;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Cloud for FakeGlance {
    fn cloud_key(&self) -> &str {
        "fake"
    }

    fn project_id(&self) -> Option<&str> {
        Some("ours")
    }
}

#[async_trait]
impl Records for FakeGlance {
    async fn create(&self, new: &NewImage) -> Result<Image> {
        self.state().log.push(format!("POST {}", new.id));
        self.answers().await;
        let fault = self.create_fault();
        let mut state = self.state();
        if let Some(Fault::RefuseCreate(kind)) = fault {
            return fail(kind);
        }
        if state.images.contains_key(&new.id) || state.deleted.contains(&new.id) {
            return fail(Kind::Exists);
        }
        let mut image = record(&new.id, &new.name);
        image.disk_format = new.disk_format.clone().map(Into::into);
        image.container_format = new.container_format.clone().map(Into::into);
        state.created.push(new.clone());
        state.images.insert(new.id.clone(), (image.clone(), Bytes::new()));
        if let Some(Fault::LoseCreated) = fault {
            return fail(Kind::TimedOut);
        }
        Ok(image)
    }

    async fn upload(&self, id: &ImageId, size: u64, open: &OpenBody<'_>) -> Result<()> {
        self.put(id, size, open).await
    }

    async fn upload_stream(&self, id: &ImageId, placement: &Placement, mut data: BodyStream) -> Result<()> {
        self.state().placed.push(placement.clone());
        let broken = match self.state().faults.front() {
            Some(Fault::BreakBody(after, kind)) => Some((*after, *kind)),
            _ => None,
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = data.next().await {
            bytes.extend_from_slice(&chunk.map_err(|error| Error::io("body", error))?);
            if let Some((after, kind)) = broken
                && bytes.len() as u64 >= after
            {
                self.state().faults.pop_front();
                return fail(kind);
            }
        }
        let bytes = Bytes::from(bytes);
        let size = bytes.len() as u64;
        let open = move || -> BodyStream { Box::pin(futures_util::stream::iter([Ok(bytes.clone())])) };
        self.put(id, size, &open).await
    }

    async fn show(&self, id: &ImageId) -> Result<Image> {
        self.answers().await;
        let mut state = self.state();
        let lingers = state.lingering > 0;
        state.lingering = state.lingering.saturating_sub(1);
        let Some((image, _)) = state.images.get(id) else { return fail(Kind::NotFound) };
        let mut image = image.clone();
        if lingers {
            image.status = Status::Saving;
        }
        Ok(image)
    }

    async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        self.state().log.push(format!("PATCH {id}"));
        self.answers().await;
        let mut state = self.state();
        let Some((image, _)) = state.images.get_mut(id) else { return fail(Kind::NotFound) };
        for change in changes {
            let Change::Set { key, value } = change else { return fail(Kind::NotSupported) };
            let text = value.as_str().map(Into::into);
            match key.as_str() {
                "name" => image.name = text,
                "disk_format" => image.disk_format = text,
                "container_format" => image.container_format = text,
                "protected" => image.protected = value.as_bool().unwrap(),
                _ => return fail(Kind::NotSupported),
            }
        }
        Ok(image.clone())
    }

    async fn set_readable(&self, _: &ImageId, _readable: bool) -> Result<Image> {
        fail(Kind::NotSupported)
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        self.state().log.push(format!("DELETE {id}"));
        self.answers().await;
        let mut state = self.state();
        if state.delete_faults.pop_front().is_some() {
            return fail(Kind::Unreachable);
        }
        if state.images.remove(id).is_none() {
            return fail(Kind::NotFound);
        }
        state.deleted.push(id.clone());
        Ok(())
    }
}

impl Keeper for FakeGlance {
    fn adopt(&self, identity: &ContentIdentity, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).unwrap();
        // The lock has to be free by now.
        assert!(super::spool::try_lock(&std::fs::File::open(file).unwrap()).unwrap());
        std::fs::remove_file(file).unwrap();
        self.state().adopted.push((identity.clone(), bytes));
        Ok(())
    }
}

/// A new image of this name.
pub(super) fn intent(name: &str) -> Intent {
    Intent { id: ImageId::generate(), name: name.into(), reserved: false, replaces: None }
}

/// The files in a spool.
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}
