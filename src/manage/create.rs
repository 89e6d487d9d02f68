//! `glancefs import` and `register`: new images whose data do not come through a mount.
//!
//! The record is made by us, under an id of our own, so until the service has the data nobody else knows of it:
//! what fails or is interrupted before is taken back. Glance itself leaves an image in `importing` for ever when
//! the import of staged data fails, in `queued` when a download does, and by v1 of the API `killed`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;
use url::Url;

use super::shown::Shown;
use super::wait::{Order, Settled};
use super::{Connection, run, say, unless_interrupted};
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::format::disk_format_of;
use crate::glance::{
    BodyStream, Destination, Glance, GlanceV1, Image, ImportMethod, ImportStores, Negotiated, NewImage,
    Placement, Records, Versioned, v1_lacks,
};
use crate::units::{ImageId, human_bytes};

/// Read from the file at once: large enough for a disk, small enough for a bar that moves.
const CHUNK: usize = 1 << 20;

/// Between two looks at what was sent.
const LOOK: Duration = Duration::from_millis(100);

/// What v1 of the API has no way for.
const STAGING: &str = "staging area (glance-direct): copy the file into a mount instead";

/// Where the data of a new image come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The service fetches them from this address (`web-download`).
    Download(String),
    /// A file of this host, through the staging area (`glance-direct`).
    Stage(PathBuf),
    /// They are at this address and stay there.
    Location(String),
}

/// A new image.
#[derive(Debug, Clone)]
pub struct NewImageOrder {
    /// Its name.
    pub name: String,
    /// Its data.
    pub source: Source,
    /// `None`: told from the file or from the end of the address.
    pub disk_format: Option<String>,
    /// `bare`, ...
    pub container_format: String,
    /// `private`, `shared`, ...; `None`: as the service does.
    pub visibility: Option<String>,
    /// Further properties.
    pub properties: Vec<(String, String)>,
    /// Where the data shall be put.
    pub stores: ImportStores,
    /// How long nothing may change; `None`: the end is not waited for.
    pub patience: Option<Duration>,
}

/// How far we are, as far as an interruption has to know.
enum Phase {
    /// Nothing was sent.
    Nothing,
    /// There may be a record of this id, and nothing more.
    Ours(ImageId),
    /// The service has the order and does it by itself.
    Ordered(ImageId),
}

/// Makes the image and waits for its data.
pub fn create(connection: &Connection, order: &NewImageOrder) -> ExitCode {
    run(connection, async |glance| {
        let phase = RefCell::new(Phase::Nothing);
        let outcome = unless_interrupted(order.carry_out(&glance, &phase)).await?;
        match (outcome, phase.into_inner()) {
            (Some(outcome), _) => outcome.map_err(|error| error.context(&order.name)),
            (None, Phase::Nothing) => {
                Err(Error::new(Kind::Interrupted, "interrupted before anything was done"))
            }
            (None, Phase::Ours(id)) => {
                let after = take_back(&glance, &id).await;
                Err(Error::new(Kind::Interrupted, format!("{}: interrupted: {after}", order.name)))
            }
            (None, Phase::Ordered(id)) => {
                let see = match glance.versioned().await? {
                    Versioned::V1(_) => String::new(),
                    Versioned::V2(_) => format!("; see: glancefs tasks {id}"),
                };
                let what = format!(
                    "{}: interrupted: the image service goes on by itself with image {id}{see}",
                    order.name
                );
                Err(Error::new(Kind::Interrupted, what))
            }
        }
    })
}

impl NewImageOrder {
    async fn carry_out(&self, glance: &Negotiated, phase: &RefCell<Phase>) -> Result<()> {
        let service = glance.versioned().await?;
        match service {
            Versioned::V1(_) => self.check_v1()?,
            Versioned::V2(glance) => self.check_method(glance).await?,
        }
        let disk_format = self.disk_format().await?;
        let mut shown = Shown::begin(&self.name);
        let id = ImageId::generate();
        phase.replace(Phase::Ours(id.clone()));
        let made = self.make(service, &id, disk_format, &mut shown).await;
        if let Err(error) = made {
            let after = take_back(glance, &id).await;
            return Err(Error::new(error.kind(), format!("{error}; {after}")));
        }
        phase.replace(Phase::Ordered(id.clone()));
        let Some(patience) = self.patience else {
            say(format_args!("{}: the image service goes on by itself, image {id}", self.name));
            return Ok(());
        };
        let settled = Order { glance, id: &id, before: HashSet::new(), patience }.settle(&mut shown).await;
        drop(shown);
        match settled {
            Ok(Settled::Done(image)) => {
                say(format_args!("{}: {}", self.name, summary(&image)));
                Ok(())
            }
            Ok(Settled::Partly(stores)) => {
                Err(Error::new(Kind::Io, format!("image {id} is active, but not in {stores}")))
            }
            Ok(Settled::Failed(why)) => {
                let after = take_back(glance, &id).await;
                Err(Error::new(Kind::Io, format!("{why}; {after}")))
            }
            Err(error) if error.kind() == Kind::NotFound => Err(error),
            // Nobody knows what becomes of it, so nothing is taken back.
            Err(error) => {
                let more = format!("the image service may go on with image {id}");
                Err(Error::new(error.kind(), format!("{error}; {more}")))
            }
        }
    }

    /// The record, the data where they come from us, and the order.
    async fn make(
        &self,
        service: Versioned<'_>,
        id: &ImageId,
        disk_format: String,
        shown: &mut Shown,
    ) -> Result<()> {
        let mut properties: Vec<(String, Value)> =
            self.properties.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        properties.extend(self.visibility.iter().map(|word| ("visibility".to_owned(), word.as_str().into())));
        let image = NewImage {
            id: id.clone(),
            name: self.name.clone(),
            disk_format: Some(disk_format),
            container_format: Some(self.container_format.clone()),
            properties,
        };
        let glance = match service {
            Versioned::V1(glance) => return self.make_by_v1(glance, &image).await,
            Versioned::V2(glance) => glance,
        };
        glance.create(&image).await?;
        match &self.source {
            Source::Download(address) => {
                glance.import(id, &ImportMethod::WebDownload(address.clone()), &self.stores).await?;
            }
            Source::Stage(file) => {
                stage(glance, id, file, shown).await?;
                glance.import(id, &ImportMethod::GlanceDirect, &self.stores).await?;
            }
            Source::Location(address) => glance.register(id, address).await?,
        }
        Ok(())
    }

    /// Refuses before anything is made what v1 does not have.
    fn check_v1(&self) -> Result<()> {
        if matches!(self.source, Source::Stage(_)) {
            return Err(v1_lacks(STAGING));
        }
        if self.stores != ImportStores::default() {
            return Err(v1_lacks("import into chosen stores"));
        }
        Ok(())
    }

    /// The record and the order, which are one request in v1.
    async fn make_by_v1(&self, glance: &GlanceV1, image: &NewImage) -> Result<()> {
        match &self.source {
            Source::Download(address) => glance.copy_from(image, &url_of(address)?).await.map(drop),
            Source::Location(address) => glance.register(image, &url_of(address)?).await.map(drop),
            Source::Stage(_) => Err(v1_lacks(STAGING)),
        }
    }

    /// Refuses before anything is made what the service does not offer.
    async fn check_method(&self, glance: &Glance) -> Result<()> {
        let wanted = match &self.source {
            Source::Download(_) => "web-download",
            Source::Stage(_) => "glance-direct",
            Source::Location(_) => return Ok(()),
        };
        let offered = match glance.import_methods().await {
            Err(error) if error.kind() == Kind::NotSupported => Vec::new(),
            offered => offered?,
        };
        if offered.iter().any(|method| method == wanted) {
            return Ok(());
        }
        let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
        Err(Error::new(
            Kind::NotSupported,
            format!(
                "this cloud does not offer {wanted} (import methods: {offered}): copy the file into a mount instead"
            ),
        ))
    }

    async fn disk_format(&self) -> Result<String> {
        if let Some(format) = &self.disk_format {
            return Ok(format.clone());
        }
        match &self.source {
            Source::Stage(path) => {
                let path = path.clone();
                let sniffed = blocking(move || disk_format_of(&open(&path)?)).await?;
                Ok(sniffed.to_owned())
            }
            Source::Download(address) | Source::Location(address) => {
                format_of_address(address).map(str::to_owned).ok_or_else(|| {
                    let what = "its disk_format cannot be told from the address";
                    Error::new(Kind::Config, format!("{what}: give --disk-format (qcow2, raw, ...)"))
                })
            }
        }
    }
}

/// Brings a file of this host into the staging area.
async fn stage(glance: &Glance, id: &ImageId, path: &Path, shown: &mut Shown) -> Result<()> {
    let path = path.to_owned();
    let file = Arc::new(blocking(move || open(&path)).await?);
    let size = file.metadata().map_err(|error| Error::io("looking at the file", error))?.len();
    let sent = Arc::new(AtomicU64::new(0));
    let (open, placement) = (|| content(&file, size, &sent), Placement::default());
    let mut sending = std::pin::pin!(glance.upload_to(Destination::Stage, id, size, &placement, &open));
    loop {
        tokio::select! {
            outcome = &mut sending => return outcome,
            () = tokio::time::sleep(LOOK) => shown.sent(sent.load(Ordering::Relaxed), size),
        }
    }
}

/// The first `size` bytes of a file, from its start; counted as they are taken.
fn content(file: &Arc<File>, size: u64, sent: &Arc<AtomicU64>) -> BodyStream {
    let (file, sent) = (Arc::clone(file), Arc::clone(sent));
    sent.store(0, Ordering::Relaxed);
    let reader = async move {
        use tokio::io::AsyncSeekExt;
        let mut file = tokio::fs::File::from_std(file.try_clone()?);
        file.rewind().await?;
        Ok::<_, std::io::Error>(ReaderStream::with_capacity(file.take(size), CHUNK))
    };
    stream::once(reader)
        .try_flatten()
        .inspect_ok(move |chunk: &Bytes| {
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        })
        .boxed()
}

/// A regular file: of anything else the size is not known, and Glance wants to know it.
fn open(path: &Path) -> Result<File> {
    let failed = |error| Error::io(format!("reading {}", path.display()), error);
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::new(Kind::Invalid, format!("{} is no regular file", path.display())));
    }
    Ok(file)
}

/// An address as a URL: v1 is told it in a header.
fn url_of(address: &str) -> Result<Url> {
    Url::parse(address).map_err(|error| Error::new(Kind::Invalid, format!("the address is no URL: {error}")))
}

/// What the end of an address says. Not `.img`: behind it are raw disks and qcow2 alike.
fn format_of_address(address: &str) -> Option<&'static str> {
    let url = Url::parse(address).ok()?;
    let (_, extension) = url.path().rsplit_once('.')?;
    match extension.to_ascii_lowercase().as_str() {
        "qcow2" => Some("qcow2"),
        "raw" => Some("raw"),
        "iso" => Some("iso"),
        "vmdk" => Some("vmdk"),
        "vhd" => Some("vhd"),
        "vhdx" => Some("vhdx"),
        "vdi" => Some("vdi"),
        _ => None,
    }
}

/// Deletes the record of an order that failed, and says what became of it.
async fn take_back(glance: &Negotiated, id: &ImageId) -> String {
    match glance.delete(id).await {
        Ok(()) => format!("its record (image {id}) was deleted again"),
        Err(error) if error.kind() == Kind::NotFound => "nothing is left of it".to_owned(),
        Err(error) => format!("its record (image {id}) is left: {error}"),
    }
}

fn summary(image: &Image) -> String {
    let size = image.size.map(human_bytes).unwrap_or_else(|| "of unknown size".to_owned());
    format!("{}, {size}, image {}", image.status.as_str(), image.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_address_tells_the_format_where_it_is_sure() {
        for (address, format) in [
            ("https://h/debian-12.qcow2", Some("qcow2")),
            ("http://h/a.b/disk.RAW?x=.iso", Some("raw")),
            ("http://h/ubuntu.img", None),
            ("http://h.iso/", None),
            ("not an address.iso", None),
        ] {
            assert_eq!(format_of_address(address), format, "{address}");
        }
    }
}
