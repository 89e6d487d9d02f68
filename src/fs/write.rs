//! Creating and writing: files that become images when their writer closes them.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use tracing::{info, warn};

use super::closing::{self, Decision, Watch};
use super::draft::{DraftFile, DraftHandle, Outcome, Writer};
use super::handle::Handle;
use super::{
    Attr, Closer, Entry, FRESH, FileKind, Fresh, HandleId, ImageFs, Ino, Invalidation, Node, OpenMode,
    Opened, ThreadGroup, lock,
};
use crate::blocking::blocking;
use crate::catalog::names;
use crate::error::{Error, Kind, Result};
use crate::glance::{Change, Image, KEPT_MTIME, Status, time_text};
use crate::units::ImageId;
use crate::write::{Draft, Intent, Metadata};

/// What a setattr asks for, besides times to be set to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NewAttributes {
    /// truncate(2)
    pub size: Option<u64>,
    /// chmod(2), permission bits only.
    pub mode: Option<u16>,
    /// chown(2)
    pub uid: Option<u32>,
    /// chown(2)
    pub gid: Option<u32>,
    /// utimensat(2) of mtime or atime.
    pub times: bool,
    /// The mtime of it.
    pub mtime: Option<SystemTime>,
}

impl ImageFs {
    /// Creates a file and opens it for writing; no request is made yet.
    ///
    /// # Errors
    /// `ReadOnly`; `NotPermitted` outside the root; those of the name; `Exists` with O_EXCL.
    pub async fn create(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: OpenMode,
        opener: Option<ThreadGroup>,
    ) -> Result<(Entry, Opened)> {
        self.writable()?;
        self.refuse_in_base(parent, name)?;
        if self.node(parent)? != Node::Root {
            return Err(Error::new(Kind::NotPermitted, "images are created in the root directory only"));
        }
        let glance_name = names::name_for_new(name)?;
        // The kernel looked the name up before; another mount or process may have been faster.
        if let Some(node) = name.to_str().and_then(|name| self.known_in_root(name)) {
            if mode.exclusive {
                return Err(Error::new(Kind::Exists, format!("{name:?} exists")));
            }
            let entry = self.enter(&node)?;
            let opened = self.open(entry.attr.ino, mode, opener).await;
            let opened = opened.inspect_err(|_| self.forget(entry.attr.ino, 1))?;
            return Ok((entry, opened));
        }
        if !self.layers.service.takes_new_images() {
            let why = "a single image is mounted here: mount its cloud to create others";
            return Err(Error::new(Kind::NotPermitted, why));
        }
        let stepwise = mode.read && !mode.exclusive && !mode.truncate;
        let intent = Intent { id: ImageId::generate(), name: glance_name, reserved: false, replaces: None };
        let file = self.new_draft(intent, stepwise.then_some(opener)).await?;
        let node = Node::Image(file.id.clone());
        let opened = self.open_draft(file, opener, true);
        Ok((self.enter(&node)?, opened))
    }

    /// Reserves an image without opening it, as `tar -x --xattrs` creates its files.
    ///
    /// # Errors
    /// As [`create`](Self::create) with O_EXCL; those of the request.
    pub async fn mknod(
        self: &Arc<Self>,
        parent: Ino,
        name: &OsStr,
        maker: Option<ThreadGroup>,
    ) -> Result<Entry> {
        let mode = OpenMode { write: true, exclusive: true, ..OpenMode::default() };
        let (entry, opened) = self.create(parent, name, mode, maker).await?;
        let handle = self.handles.get(opened.handle)?;
        let reserved = match &*handle {
            Handle::Draft(DraftHandle { file, .. }) => self.reserve(file).await,
            _ => Ok(()),
        };
        self.release(opened.handle).await;
        reserved.inspect_err(|_| self.forget(entry.attr.ino, 1))?;
        Ok(entry)
    }

    async fn new_draft(
        &self,
        intent: Intent,
        stepwise: Option<Option<ThreadGroup>>,
    ) -> Result<Arc<DraftFile>> {
        let draft = self.spool(intent.clone()).await?;
        let file = Arc::new(DraftFile::new(draft, intent, stepwise));
        let mut drafts = lock(&self.drafts);
        if let Some(other) = drafts.get(&file.id).filter(|other| other.is_open()) {
            // Two opened the same reservation at once: they write the same file. Ours is empty, and
            // dropping it removes its spool.
            return Ok(Arc::clone(other));
        }
        drafts.insert(file.id.clone(), Arc::clone(&file));
        Ok(file)
    }

    async fn spool(&self, intent: Intent) -> Result<Arc<Draft>> {
        let uploads = self.layers.uploads.clone();
        blocking(move || uploads.draft(intent)).await
    }

    fn open_draft(&self, file: Arc<DraftFile>, opener: Option<ThreadGroup>, creates: bool) -> Opened {
        let writer = Some(Writer::new(opener, file.add_writer(opener, creates)));
        let handle = self.handles.insert(Handle::Draft(DraftHandle { file, writer }));
        Opened { handle, direct_io: true }
    }

    /// Opens an image that exists for writing: a reservation is filled, anything else is replaced.
    pub(super) async fn open_over(
        &self,
        image: Arc<Image>,
        ino: Ino,
        mode: OpenMode,
        opener: Option<ThreadGroup>,
    ) -> Result<Opened> {
        let name = image.name.as_deref().unwrap_or_default().to_owned();
        match image.status {
            Status::Queued => {
                let intent = Intent { id: image.id.clone(), name, reserved: true, replaces: None };
                let file = self.new_draft(intent, None).await?;
                let asked = lock(&self.asked).get(&image.id).cloned().unwrap_or_default();
                with_metadata(file.draft(), asked).await?;
                Ok(self.open_draft(file, opener, false))
            }
            Status::Saving | Status::Uploading | Status::Importing => {
                Err(Error::new(Kind::Busy, format!("image {} is being filled", image.id)))
            }
            _ => {
                let act = || format!("write over image {} ({name:?}); its data are immutable", image.id);
                self.permitted(self.access.allow_overwrite, "--allow-overwrite", act)?;
                if !mode.truncate {
                    let text =
                        format!("image {} can be replaced as a whole only: open it with O_TRUNC", image.id);
                    warn!("{text}");
                    return Err(Error::new(Kind::NotPermitted, text));
                }
                let replaces = Some(self.layers.catalog.with_record(&image).await?);
                let intent = Intent { id: ImageId::generate(), name, reserved: false, replaces };
                let file = self.new_draft(intent, None).await?;
                info!(image = %image.id, new = %file.id, "an image is being replaced");
                let _ = self.invalidate.send(Invalidation::Attributes(ino));
                Ok(self.open_draft(file, opener, false))
            }
        }
    }

    /// The handle is of a file that is being written: only then does a FLUSH mean anything.
    pub fn is_written(&self, handle: HandleId) -> bool {
        self.writer_of(handle).is_ok()
    }

    /// Who has opened the file that is being written through the handle, if that is known.
    pub fn opener(&self, handle: HandleId) -> Option<ThreadGroup> {
        match &*self.handles.get(handle).ok()? {
            Handle::Draft(DraftHandle { writer: Some(writer), .. }) => writer.facts().opener,
            _ => None,
        }
    }

    fn writer_of(&self, handle: HandleId) -> Result<Arc<Handle>> {
        let handle = self.handles.get(handle)?;
        match &*handle {
            Handle::Draft(DraftHandle { writer: Some(_), .. }) | Handle::Record(_) => Ok(handle),
            _ => Err(Error::new(Kind::BadHandle, "not open for writing")),
        }
    }

    /// Writes all of `data` at `offset` into the spool.
    ///
    /// # Errors
    /// `BadHandle`; `NoSpace` at the spool's limit; `NotPermitted` after the file became an image.
    pub async fn write(&self, handle: HandleId, offset: u64, data: Bytes) -> Result<usize> {
        let handle = self.writer_of(handle)?;
        if let Handle::Record(record) = &*handle {
            return record.write(offset, &data);
        }
        let Handle::Draft(DraftHandle { file, writer: Some(writer) }) = &*handle else {
            return Err(Error::new(Kind::BadHandle, "not open for writing"));
        };
        still_open(file)?;
        writer.note(&data);
        let (draft, length) = (file.draft(), data.len());
        blocking(move || draft.write(offset, &data)).await?;
        Ok(length)
    }

    /// Makes what was written durable in the spool; commits nothing.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn fsync(&self, handle: HandleId) -> Result<()> {
        match &*self.handles.get(handle)? {
            Handle::Draft(open) if open.file.is_open() => {
                let draft = open.file.draft();
                blocking(move || draft.sync()).await
            }
            _ => Ok(()),
        }
    }

    /// Changes attributes. Sizes can be set while a file is being written. Mode, owner and times are
    /// not stored; setting them succeeds while a file is being written and a minute after.
    ///
    /// # Errors
    /// `NotPermitted`; `ReadOnly`; `NoSpace`.
    pub async fn setattr(&self, ino: Ino, handle: Option<HandleId>, new: NewAttributes) -> Result<Attr> {
        self.writable()?;
        if let Node::Base(id) = self.node(ino)? {
            return self.set_base_attr(ino, &id, new);
        }
        let handle = handle.map(|handle| self.handles.get(handle)).transpose()?;
        if let (Some(Handle::Record(record)), Some(size)) = (handle.as_deref(), new.size) {
            record.truncate(size)?;
            return Ok(self.attributes.record(ino, size));
        }
        let file = match (handle.as_deref(), self.node(ino)?) {
            (Some(Handle::Draft(open)), _) => Some(Arc::clone(&open.file)),
            (_, Node::Image(id)) => self.draft(&id),
            _ => None,
        };
        let now = match &file {
            Some(file) if file.is_open() => self.attributes.draft(ino, file),
            _ => self.getattr(ino, None).await?,
        };
        if let Some(size) = new.size.filter(|size| *size != now.size) {
            let file = file.as_ref().filter(|file| file.is_open()).ok_or_else(|| {
                Error::new(Kind::NotPermitted, "the size of an image cannot change: its data are immutable")
            })?;
            let draft = file.draft();
            blocking(move || draft.truncate(size)).await?;
        }
        if let (true, Some(mtime), Node::Image(id)) = (self.access.keep_times, new.mtime, self.node(ino)?) {
            self.keep_mtime(&id, file.as_deref(), mtime).await?;
            let now = match &file {
                Some(file) if file.is_open() => self.attributes.draft(ino, file),
                _ => self.getattr(ino, None).await?,
            };
            return Ok(now);
        }
        // `tar -x` and `cp -a dir/. mnt/` set the times of the root directory last.
        let changes = (new.times && now.kind != FileKind::Directory)
            || new.mode.is_some_and(|mode| mode != now.mode)
            || new.uid.is_some_and(|uid| uid != now.uid)
            || new.gid.is_some_and(|gid| gid != now.gid);
        if changes && !file.as_ref().is_some_and(|file| file.is_open()) && !self.is_fresh(ino) {
            let text = "mode, owner and times of an image are not stored";
            return Err(Error::new(Kind::NotPermitted, text));
        }
        match file {
            Some(file) if file.is_open() => Ok(self.attributes.draft(ino, &file)),
            _ => Ok(now),
        }
    }

    /// Keeps a modification time in the property for it.
    async fn keep_mtime(&self, id: &ImageId, file: Option<&DraftFile>, mtime: SystemTime) -> Result<()> {
        let value = Value::from(time_text(mtime)?);
        if let Some(file) = file.filter(|file| file.is_open()) {
            file.keep_mtime(mtime);
            let (draft, value) = (file.draft(), value.clone());
            if !file.is_recorded() {
                let keep = move |metadata: &mut Metadata| {
                    metadata.record.insert(KEPT_MTIME.to_owned(), value);
                    Ok(())
                };
                return blocking(move || draft.change_metadata(keep)).await;
            }
        }
        let turn = self.turn(id).await?;
        self.change(id, &[Change::Set { key: KEPT_MTIME.to_owned(), value }], &turn).await.map(drop)
    }

    /// Created through this mount a moment ago.
    fn is_fresh(&self, ino: Ino) -> bool {
        let Ok(Node::Image(id)) = self.node(ino) else { return false };
        self.fresh(&id).is_some()
    }

    /// How this image was created, if that was through this mount and a moment ago.
    pub(super) fn fresh(&self, id: &ImageId) -> Option<Fresh> {
        lock(&self.fresh).peek(id).filter(|fresh| fresh.made.elapsed() < FRESH).copied()
    }

    /// One close of one copy of a descriptor: the last chance to commit and to report an error. A
    /// closing process that is killed meanwhile is let go.
    ///
    /// # Errors
    /// Those of the upload; `Interrupted`.
    pub async fn flush(
        self: &Arc<Self>,
        handle: HandleId,
        closer: Closer,
        process: impl Watch,
    ) -> Result<()> {
        let handle = self.handles.get(handle)?;
        if let Handle::Record(record) = &*handle {
            if closer.killed {
                return Ok(());
            }
            let (fs, record) = (Arc::clone(self), Arc::clone(record));
            let replacing = async move {
                let replaced = fs.replace_record(&record).await;
                replaced.inspect_err(|error| fs.note_failure(&record.id, &error.to_string()))
            };
            return carried_out(replacing, process).await;
        }
        let Handle::Draft(DraftHandle { file, writer: Some(writer) }) = &*handle else { return Ok(()) };
        file.failure()?;
        if !file.is_open() {
            return Ok(());
        }
        // Only for who decides by it: a disk that fails here would have the close fail, and nothing else of the upload.
        let container = if writer.facts().step == closing::Step::Second {
            let draft = file.draft();
            match blocking(move || draft.is_container()).await {
                Ok(container) => container,
                Err(error) => return Err(self.failed(file, error).await),
            }
        } else {
            false
        };
        let facts = closing::File { dirty: file.draft().is_dirty(), recorded: file.is_recorded(), container };
        let decision = closing::on_flush(facts, writer.facts(), closer);
        tracing::debug!(id = %file.id, ?facts, ?closer, ?decision, "flush");
        match decision {
            Decision::Nothing => Ok(()),
            Decision::Reserve => {
                let (fs, file) = (Arc::clone(self), Arc::clone(file));
                carried_out(async move { fs.reserve(&file).await }, process).await
            }
            Decision::WhenGone => {
                self.settle_when_gone(Arc::clone(file), process);
                Ok(())
            }
            Decision::Abandon => {
                self.abandon(file, "the process that wrote it was killed").await;
                Ok(())
            }
            Decision::Commit => {
                tokio::select! {
                    committed = self.commit(file) => committed,
                    () = process.killed() => {
                        self.abandon(file, "the process that wrote it was killed during the upload").await;
                        Err(Error::new(Kind::Interrupted, "killed during the upload"))
                    }
                }
            }
        }
    }

    /// The last copy of a descriptor is gone. What a FLUSH could not settle is settled here; nobody
    /// hears of an error but the log and `.glancefs/errors`.
    pub async fn release(self: &Arc<Self>, handle: HandleId) {
        let Some(handle) = self.handles.remove(handle) else { return };
        match &*handle {
            Handle::Image { reader, image, vetted, .. } => {
                if vetted.is_base() {
                    self.bases.used(&image.id, SystemTime::now());
                }
                reader.image().release();
            }
            Handle::Draft(DraftHandle { file, writer: Some(writer) }) => {
                if !file.remove_writer() || !file.is_open() {
                    self.drop_ended(file);
                    return;
                }
                if writer.facts().step == closing::Step::Only || file.is_orphaned() {
                    self.settle(file).await;
                }
            }
            _ => {}
        }
    }

    /// The image was created here just now.
    pub(super) fn note_fresh(&self, image: &Image, writer: Option<ThreadGroup>) {
        let mut fresh = lock(&self.fresh);
        // In the order in which they were made.
        while fresh.peek_lru().is_some_and(|(_, oldest)| oldest.made.elapsed() >= FRESH) {
            fresh.pop_lru();
        }
        fresh.put(image.id.clone(), Fresh { made: Instant::now(), writer });
    }

    /// Commits or reserves without a program that waits for it.
    async fn settle(self: &Arc<Self>, file: &Arc<DraftFile>) {
        let settled =
            if file.draft().is_dirty() { self.commit(file).await } else { self.reserve(file).await };
        // A failure was told where it happened.
        if settled.is_ok() && file.is_open() {
            // A reservation that nobody is writing to any more.
            file.end(Outcome::Committed);
            discard(file.draft()).await;
        }
        self.drop_ended(file);
    }

    fn drop_ended(&self, file: &Arc<DraftFile>) {
        if !file.is_open() && !file.has_writers() {
            lock(&self.drafts).remove(&file.id);
        }
    }

    /// Waits for the end of a process that may go on with the file, then settles it.
    fn settle_when_gone(self: &Arc<Self>, file: Arc<DraftFile>, process: impl Watch) {
        if !file.begin_watch() {
            return;
        }
        let fs = Arc::clone(self);
        tokio::spawn(async move {
            process.ended().await;
            if file.owner_ended() && file.is_open() {
                fs.settle(&file).await;
            }
        });
    }

    /// Creates the record of a file that has no data yet; its writer may still go on.
    async fn reserve(&self, file: &Arc<DraftFile>) -> Result<()> {
        if file.replaces.is_some() {
            // Nothing was written over the image: it stays, and needs no second record.
            return Ok(());
        }
        let _one_at_a_time = file.committing.lock().await;
        if file.is_recorded() || !file.is_open() {
            return file.failure();
        }
        let _turn = self.turns.take(&file.id).await;
        let reserved = file.draft().reserve().await;
        let image = match reserved {
            Ok(image) => image,
            Err(error) => return Err(self.failed(file, error).await),
        };
        self.note_fresh(&image, file.opener());
        let image = self.layers.catalog.learn(image);
        info!(image = %image.id, name = file.name(), "reserved");
        let intent = Intent { id: image.id.clone(), name: file.name(), reserved: true, replaces: None };
        let asked = file.draft().metadata().of_record();
        self.remember_asked(&image.id, &asked);
        let draft = self.spool(intent).await?;
        file.set_recorded(with_metadata(draft, asked).await?);
        if image.id != file.id {
            // Another id was needed: a writer that goes on opens the reservation anew.
            lock(&self.inodes).rebind(&file.id, &image.id);
            file.end(Outcome::Committed);
        }
        Ok(())
    }

    /// Makes a file an image.
    async fn commit(&self, file: &Arc<DraftFile>) -> Result<()> {
        let _one_at_a_time = file.committing.lock().await;
        if !file.is_open() {
            return file.failure();
        }
        // Held as long as bytes move: who wants to change the record meanwhile waits no longer than that makes sense.
        let _turn = self.turns.take(&file.id).await;
        let (began, draft) = (Instant::now(), file.draft());
        let committed = draft.commit().await;
        let image = match committed {
            Ok(image) => image,
            Err(error) => return Err(self.failed(file, error).await),
        };
        self.note_fresh(&image, file.opener());
        info!(image = %image.id, name = file.name(), bytes = image.size, took = ?began.elapsed(), "uploaded");
        if image.id != file.id {
            lock(&self.inodes).rebind(&file.id, &image.id);
        }
        let image = self.layers.catalog.learn(image);
        file.end(Outcome::Committed);
        let ino = lock(&self.inodes).number(&Node::Image(image.id.clone()));
        let _ = self.invalidate.send(Invalidation::Data(ino));
        match (&file.replaces, draft.warning()) {
            (Some(old), None) => {
                self.layers.catalog.forget(old);
                lock(&self.inodes).rebind(old, &image.id);
            }
            (_, Some(warning)) => self.events.note(warning),
            (None, None) => {}
        }
        self.drop_ended(file);
        Ok(())
    }

    /// Notes the failure of an upload and gives it back. What was written is kept, unless a write
    /// failed: then it is not all there, its writer was told, and a full disk needs the room.
    async fn failed(&self, file: &DraftFile, error: Error) -> Error {
        let draft = file.draft();
        let damaged = draft.is_damaged();
        let rest = if damaged { "nothing is kept".to_owned() } else { kept(&draft) };
        let text = format!("uploading {:?} failed: {error}; {rest}", file.name());
        warn!("{text}");
        self.events.note(text);
        file.end(Outcome::Failed(error.duplicate()));
        if damaged {
            discard(draft).await;
        }
        error
    }

    async fn abandon(&self, file: &Arc<DraftFile>, reason: &'static str) {
        let draft = file.draft();
        let text = format!("{:?} is not published: {reason}; {}", file.name(), kept(&draft));
        warn!("{text}");
        self.events.note(text);
        file.end(Outcome::Abandoned);
        let abandoned = blocking(move || {
            draft.abandon(reason);
            Ok(())
        });
        if let Err(error) = abandoned.await {
            warn!(%error, "a spool was left as it was");
        }
        self.drop_ended(file);
    }
}

/// Gives a draft what was asked for it before.
async fn with_metadata(draft: Arc<Draft>, asked: Metadata) -> Result<Arc<Draft>> {
    if asked.is_empty() {
        return Ok(draft);
    }
    blocking(move || {
        draft.change_metadata(|metadata| {
            *metadata = asked;
            Ok(())
        })?;
        Ok(draft)
    })
    .await
}

/// Carries out a change to its end, also when the process that waits for it is killed: of half a change nobody would know.
async fn carried_out(
    change: impl Future<Output = Result<()>> + Send + 'static,
    process: impl Watch,
) -> Result<()> {
    let interrupted = |what: &'static str| Err(Error::new(Kind::Interrupted, what));
    tokio::select! {
        done = tokio::spawn(change) => done.unwrap_or_else(|_| interrupted("glancefs is ending")),
        () = process.killed() => interrupted("killed during the change"),
    }
}

/// Removes the spool of a file that nobody wants.
async fn discard(draft: Arc<Draft>) {
    let discarded = blocking(move || {
        draft.discard();
        Ok(())
    });
    if let Err(error) = discarded.await {
        warn!(%error, "a spool was left as it was");
    }
}

/// For a person who wants the bytes of a file that became no image.
fn kept(draft: &Draft) -> String {
    match draft.kept_in() {
        Some(path) => format!("what was written is kept in {}", path.display()),
        None => "nothing is kept".to_owned(),
    }
}

fn still_open(file: &DraftFile) -> Result<()> {
    if file.is_open() {
        return Ok(());
    }
    file.failure()?;
    Err(Error::new(Kind::NotPermitted, "the file was uploaded already: image data are immutable"))
}
