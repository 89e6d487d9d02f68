//! Opening and reading: status decides who gets a handle, the handle's reader does the rest.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::attr::readable_size;
use super::draft::{DraftHandle, Writer};
use super::handle::Handle;
use super::replace::NewRecord;
use super::uploads::Request;
use super::vet::Vetted;
use super::whole::Wanted;
use super::{HandleId, ImageFs, Ino, Node, ThreadGroup};
use crate::blocking::blocking;
use crate::cache::{Backing, Key};
use crate::error::{Error, Kind, Result};
use crate::format::HEAD_BYTES;
use crate::glance::{Image, PROFILE_PROPERTY, Status};
use crate::metrics::PROCESS;
use crate::read::Reader;
use crate::units::{ByteRange, ImageId};

/// What an open(2) asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenMode {
    /// O_RDONLY or O_RDWR.
    pub read: bool,
    /// O_WRONLY or O_RDWR.
    pub write: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// O_EXCL.
    pub exclusive: bool,
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub handle: HandleId,
    /// The kernel must not cache it: a file that is being written, or a text made anew each time.
    pub direct_io: bool,
}

/// What a handle could be read from past us.
#[derive(Debug)]
pub struct Bypass {
    /// Handles of equal contents may share one file.
    pub content: Key,
    /// A file with all of it, when there is one.
    pub file: Option<Backing>,
}

impl ImageFs {
    /// Opens a file.
    ///
    /// # Errors
    /// By status: `NoData` (queued), `Busy` (data on their way), `Forbidden` (deactivated). For
    /// writing: `NotPermitted` unless the image is queued or `--allow-overwrite` is given and the
    /// open truncates; `ReadOnly`.
    pub async fn open(&self, ino: Ino, mode: OpenMode, opener: Option<ThreadGroup>) -> Result<Opened> {
        let node = self.node(ino)?;
        let id = match node {
            Node::Image(id) => id,
            Node::Base(id) => return self.open_base(&id, mode).await,
            Node::Record(id) if mode.write => {
                self.writable()?;
                let text = if mode.truncate { Bytes::new() } else { self.record_text(&id).await? };
                let handle = self.handles.insert(Handle::Record(Arc::new(NewRecord::new(id, &text))));
                return Ok(Opened { handle, direct_io: true });
            }
            Node::Record(_)
            | Node::Status
            | Node::StatusJson
            | Node::Errors
            | Node::Metrics
            | Node::Uploads => {
                if mode.write {
                    return Err(Error::new(Kind::NotPermitted, "this text cannot be written"));
                }
                if node == Node::Uploads {
                    let text = self.uploads_text().await?;
                    let handle = self.handles.insert(Handle::Uploads { text, request: Request::default() });
                    return Ok(Opened { handle, direct_io: true });
                }
                let handle = self.handles.insert(Handle::Text(self.full_text(&node).await?));
                return Ok(Opened { handle, direct_io: true });
            }
            _ => return Err(Error::new(Kind::IsDirectory, "a directory")),
        };
        if mode.write {
            self.writable()?;
        }
        if let Some(file) = self.draft(&id) {
            let writer = mode.write.then(|| Writer::new(opener, file.add_writer(opener, false)));
            let handle = DraftHandle { file: Arc::clone(&file), writer };
            let opened = Opened { handle: self.handles.insert(Handle::Draft(handle)), direct_io: true };
            if mode.write && mode.truncate {
                blocking(move || file.draft().truncate(0)).await?;
            }
            return Ok(opened);
        }
        let image = self.settled(&id).await?;
        if mode.write { self.open_over(image, ino, mode, opener).await } else { self.open_image(image) }
    }

    /// The image of this id; one that was not active when it was listed is asked for again, so that
    /// a new image opens before the next listing.
    pub(super) async fn settled(&self, id: &ImageId) -> Result<Arc<Image>> {
        let image = self.image(id).await?;
        if image.status == Status::Active { Ok(image) } else { self.shown_image(id).await }
    }

    fn open_image(&self, image: Arc<Image>) -> Result<Opened> {
        self.open_vetted(image, Vetted::default())
    }

    /// Opens an image for reading, of which is asked what `vetted` says.
    pub(super) fn open_vetted(&self, image: Arc<Image>, vetted: Vetted) -> Result<Opened> {
        readable(&image)?;
        let reader = self.reader(&image);
        reader.image().acquire();
        let wanted = Wanted::default();
        let handle = self.handles.insert(Handle::Image { reader: Box::new(reader), image, wanted, vetted });
        Ok(Opened { handle, direct_io: false })
    }

    /// A write over an image is let in, with `--allow-overwrite`.
    pub fn permits_overwrite(&self) -> bool {
        self.access.allow_overwrite && !self.access.read_only
    }

    /// How an open image could be read past us; `None` for any other file. Looks for the file when told
    /// to `look`, which takes as long as the cache disk needs, up to 2 s.
    pub async fn bypass(&self, handle: HandleId, look: bool) -> Option<Bypass> {
        let handle = self.handles.get(handle).ok()?;
        let Handle::Image { reader, image, vetted, .. } = &*handle else { return None };
        let file = match vetted.file() {
            _ if !look => None,
            Some(file) => Some(file.clone()),
            None => {
                let file = reader.image().backing().await;
                if let Some(file) = &file {
                    self.look_into(file, reader, image).await;
                }
                file
            }
        };
        Some(Bypass { content: reader.image().key(), file })
    }

    /// The bytes of `range` of an open file, short at its end.
    ///
    /// # Errors
    /// `Stale` for bytes of an image that was deleted and that are not cached; `Integrity`,
    /// `Io` and `ServerError` when the bytes could not be had.
    pub async fn read(&self, handle: HandleId, range: ByteRange) -> Result<Bytes> {
        match &*self.handles.get(handle)? {
            Handle::Image { reader, image, vetted, .. } => {
                self.check_vetted(vetted)?;
                match vetted.file() {
                    Some(file) => match self.read_file(file, image, range).await {
                        Err(_) if self.may_give_up(vetted) => self.read_image(reader, image, range).await,
                        read => read,
                    },
                    None => self.read_image(reader, image, range).await,
                }
            }
            Handle::Draft(open) => {
                let draft = open.file.draft();
                let spool = Arc::clone(&draft);
                let read = blocking(move || spool.read(range)).await;
                match draft.committed() {
                    // It became an image while it was open, and reads on as that.
                    Some(image) if read.is_err() && image.status == Status::Active => {
                        self.read_committed(&image, range).await
                    }
                    _ => read,
                }
            }
            Handle::Text(text) | Handle::Uploads { text, .. } => {
                let range = range.clamp_to(text.len() as u64);
                // The range was clamped to a length in memory: it fits.
                Ok(text.slice(range.start as usize..range.end as usize))
            }
            Handle::Record(record) => Ok(record.read(range)),
            Handle::Directory(_) => Err(Error::new(Kind::IsDirectory, "a directory")),
        }
    }

    pub(super) async fn read_image(&self, reader: &Reader, image: &Image, range: ByteRange) -> Result<Bytes> {
        let read = match reader.try_read(range) {
            Some(bytes) => Ok(bytes),
            None => reader.read(range).await,
        };
        if let Ok(bytes) = &read {
            PROCESS.served_bytes.add(bytes.len() as u64);
        }
        if range.start < HEAD_BYTES && read.is_ok() {
            self.look_at_header(reader, image);
        }
        read.map_err(|error| match error.kind() {
            Kind::NotFound => error.with_kind(Kind::Stale),
            // What read(2) gives when the bytes cannot be had, whatever the reason.
            Kind::Unreachable | Kind::TimedOut => error.with_kind(Kind::Io),
            _ => error,
        })
        .inspect_err(|error| {
            tracing::warn!(image = %image.id, %range, %error, "cannot read");
            self.note_failure(&image.id, &format!("reading {range} of image {}: {error}", image.id));
        })
    }

    /// The bytes of `range` from the file that the handle is bound to.
    pub(super) async fn read_file(&self, file: &Backing, image: &Image, range: ByteRange) -> Result<Bytes> {
        let range = range.clamp_to(readable_size(image));
        if let Some(bytes) = file.try_read(range) {
            return Ok(bytes);
        }
        let file = file.clone();
        blocking(move || file.read(range)).await.inspect_err(|error| {
            tracing::warn!(image = %image.id, %range, %error, "cannot read");
            self.note_failure(&image.id, &format!("reading {range} of image {}: {error}", image.id));
        })
    }

    pub(super) fn reader(&self, image: &Image) -> Reader {
        let cached = self.layers.cache.image(&self.identity(image), self.layers.sources.of(image));
        let (catalog, image) = (Arc::clone(&self.layers.catalog), image.clone());
        let size = readable_size(&image);
        let published = async move {
            let record = catalog.record(&image).await.ok()?;
            // Most have none, and need not be read.
            let record: Map<String, Value> =
                record.contains(PROFILE_PROPERTY).then(|| serde_json::from_str(&record).ok())??;
            record.get(PROFILE_PROPERTY)?.as_str().map(str::to_owned)
        };
        self.layers.readers.open(cached, size, Box::pin(published))
    }

    /// Ends a directory's handle.
    pub fn releasedir(&self, handle: HandleId) {
        self.handles.remove(handle);
    }
}

/// Status decides who may read.
fn readable(image: &Image) -> Result<()> {
    let refuse = |kind, why: &str| Err(Error::new(kind, format!("image {} {why}", image.id)));
    match &image.status {
        Status::Active if image.size.is_none() => refuse(Kind::ServerError, "is active but has no size"),
        Status::Active => Ok(()),
        Status::Queued => refuse(Kind::NoData, "is queued: it has no data yet"),
        Status::Saving | Status::Uploading | Status::Importing => refuse(Kind::Busy, "is being filled"),
        Status::Deactivated => refuse(Kind::Forbidden, "is deactivated"),
        Status::Killed => refuse(Kind::Io, "was killed by a failed upload"),
        Status::PendingDelete | Status::Deleted => refuse(Kind::NotFound, "is deleted"),
        Status::Other(status) => refuse(Kind::Busy, &format!("is in the unknown status {status}")),
    }
}
