//! `.glancefs/uploads.json`: the uploads in the spool; and, asked of that file while it is open, to upload one
//! of them again or to throw it away.
//!
//! As with a fill (`whole.rs`), what was asked belongs to the open file: an upload whose command is ended
//! publishes nothing, and its bytes stay in the spool.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::handle::Handle;
use super::{HandleId, ImageFs, Invalidation, Node, lock};
use crate::blocking::blocking;
use crate::catalog::names;
use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::ioctl::{Choice, Progress, Stage};
use crate::write::{Draft, TakenUp, Uploading};

/// What was asked of one open `uploads.json`; ended with it.
#[derive(Default)]
pub(super) struct Request {
    asked: Mutex<Option<Asked>>,
}

struct Asked {
    state: watch::Receiver<State>,
    /// Ends it when this is dropped.
    _until: tokio_util::sync::DropGuard,
}

#[derive(Clone)]
enum State {
    /// It is being looked for.
    Begun,
    Sending(Arc<Draft>),
    /// The text is for a person: the id of the image.
    Done(Arc<str>),
    Failed(Arc<str>),
}

impl Request {
    /// Notes something as asked; `Busy` while the one before runs.
    fn ask(&self) -> Result<(watch::Sender<State>, CancellationToken)> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let running = |asked: &Asked| matches!(*asked.state.borrow(), State::Begun | State::Sending(_));
        if asked.as_ref().is_some_and(running) {
            return Err(Error::new(Kind::Busy, "one thing at a time"));
        }
        let (sender, state) = watch::channel(State::Begun);
        let cancel = CancellationToken::new();
        *asked = Some(Asked { state, _until: cancel.clone().drop_guard() });
        Ok((sender, cancel))
    }

    fn progress(&self) -> Progress {
        let state = {
            let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.as_ref().map(|asked| asked.state.borrow().clone())
        };
        let told = |stage, text: &str| Progress { stage, size: 0, cached: 0, text: text.to_owned() };
        match state {
            None => told(Stage::Idle, ""),
            Some(State::Begun) => told(Stage::Filling, ""),
            Some(State::Sending(draft)) => {
                let (cached, size) = draft.running().unwrap_or_default();
                let stage = if cached == size && size > 0 { Stage::Verifying } else { Stage::Filling };
                Progress { stage, size, cached, text: String::new() }
            }
            Some(State::Done(text)) => told(Stage::Done, &text),
            Some(State::Failed(why)) => told(Stage::Failed, &why),
        }
    }
}

impl ImageFs {
    /// The uploads in the spool.
    pub(super) async fn uploads(&self) -> Result<Uploading> {
        let uploads = self.layers.uploads.clone();
        blocking(move || uploads.reports()).await
    }

    /// The same as the text of `.glancefs/uploads.json`.
    pub(super) async fn uploads_text(&self) -> Result<Bytes> {
        let failed = |error| Error::new(Kind::Io, "writing the list of uploads").with_source(error);
        let mut text = serde_json::to_vec_pretty(&self.uploads().await?).map_err(failed)?;
        text.push(b'\n');
        Ok(text.into())
    }

    /// Begins to upload again what `choice` names, for the user `by`; it ends with the handle.
    ///
    /// # Errors
    /// `NotPermitted`, `ReadOnly`; `Invalid` for another file; `Busy` while the handle has something under way.
    /// What goes wrong later is told by [`upload_progress`](Self::upload_progress).
    pub fn retry_upload(self: &Arc<Self>, handle: HandleId, by: u32, choice: Choice) -> Result<()> {
        let (state, cancel) = self.asked_of(handle, by)?;
        let fs = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = fs.upload_again(choice, &state, &cancel).await;
            state.send_replace(match outcome {
                Ok(image) => State::Done(image.id.as_str().into()),
                Err(error) => State::Failed(error.to_string().into()),
            });
        });
        Ok(())
    }

    /// Begins to throw away what `choice` names, for the user `by`.
    ///
    /// # Errors
    /// As [`retry_upload`](Self::retry_upload).
    pub fn discard_upload(self: &Arc<Self>, handle: HandleId, by: u32, choice: Choice) -> Result<()> {
        let (state, _) = self.asked_of(handle, by)?;
        let (uploads, catalog) = (self.layers.uploads.clone(), Arc::clone(&self.layers.catalog));
        tokio::spawn(async move {
            let thrown = uploads.throw_away(&choice.id).await;
            state.send_replace(match thrown {
                Ok(deleted) => {
                    info!(upload = choice.id, "discarded");
                    deleted.iter().for_each(|id| catalog.forget(id));
                    State::Done("".into())
                }
                Err(error) => State::Failed(error.to_string().into()),
            });
        });
        Ok(())
    }

    /// How far that is.
    ///
    /// # Errors
    /// `Invalid` for another file.
    pub async fn upload_progress(&self, handle: HandleId) -> Result<Progress> {
        let handle = self.handles.get(handle)?;
        blocking(move || match &*handle {
            Handle::Uploads { request, .. } => Ok(request.progress()),
            _ => Err(other_file()),
        })
        .await
    }

    /// The handle is one of `.glancefs/uploads.json`.
    pub fn is_uploads(&self, handle: HandleId) -> bool {
        self.handles.get(handle).is_ok_and(|handle| matches!(&*handle, Handle::Uploads { .. }))
    }

    fn asked_of(&self, handle: HandleId, by: u32) -> Result<(watch::Sender<State>, CancellationToken)> {
        self.writable()?;
        if by != 0 && by != rustix::process::geteuid().as_raw() {
            let why = "only the user who mounted and root may do this";
            return Err(Error::new(Kind::NotPermitted, why));
        }
        match &*self.handles.get(handle)? {
            Handle::Uploads { request, .. } => request.ask(),
            _ => Err(other_file()),
        }
    }

    async fn upload_again(
        &self,
        choice: Choice,
        state: &watch::Sender<State>,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        let began = Instant::now();
        let name = choice.name.as_deref().map(name_of_file).transpose()?;
        let draft = match self.layers.uploads.take_up(&choice.id, name).await? {
            TakenUp::Draft { draft, deleted } => {
                deleted.iter().for_each(|id| self.layers.catalog.forget(id));
                draft
            }
            TakenUp::Image(image) => {
                self.layers.catalog.learn((*image).clone());
                return Ok(*image);
            }
        };
        self.refuse_taken_name(&draft)?;
        state.send_replace(State::Sending(Arc::clone(&draft)));
        let committed = tokio::select! {
            committed = draft.commit() => committed,
            () = cancel.cancelled() => {
                draft.abandon("the command that uploaded it again was ended");
                // Until its record is gone.
                draft.commit().await
            }
        };
        let name = draft.name();
        let image = committed.inspect_err(|error| {
            let kept = draft.kept_in().map(|path| path.display().to_string()).unwrap_or_default();
            let text = format!("uploading {name:?} again failed: {error}; it stays in {kept}");
            warn!("{text}");
            self.events.note(text);
        })?;
        info!(image = %image.id, name, bytes = image.size, took = ?began.elapsed(), "uploaded from the spool");
        self.note_fresh(&image, None);
        self.layers.catalog.learn(image.clone());
        let ino = lock(&self.inodes).number(&Node::Image(image.id.clone()));
        let _ = self.invalidate.send(Invalidation::Data(ino));
        match (draft.replaces(), draft.warning()) {
            (Some(old), None) => {
                self.layers.catalog.forget(&old);
                lock(&self.inodes).rebind(&old, &image.id);
            }
            (_, Some(warning)) => self.events.note(warning),
            (None, None) => {}
        }
        Ok(image)
    }

    /// As `cp` would be refused: an image of this name stays, unless it is to be replaced or filled by this.
    fn refuse_taken_name(&self, draft: &Draft) -> Result<()> {
        let (name, replaces) = (draft.name(), draft.replaces());
        if let Some(old) = &replaces {
            let act = || format!("replace image {old} ({name:?})");
            self.permitted(self.access.allow_overwrite, "--allow-overwrite", act)?;
        }
        match self.known_in_root(&names::encode(&name)) {
            Some(Node::Image(id)) if Some(&id) != replaces.as_ref() && id != draft.image_id() => {
                let cure = "give another with --as NAME";
                Err(Error::new(Kind::Exists, format!("there is an image named {name:?}: {cure}")))
            }
            _ => Ok(()),
        }
    }
}

/// The name in Glance of an image that shall be the file `name`.
fn name_of_file(name: &str) -> Result<String> {
    if name.contains(['/', '\0']) || matches!(name, "." | "..") {
        let cure = "write it as a file name in the mount; %2F stands for a slash";
        return Err(Error::new(Kind::Invalid, format!("{name:?} is no file name: {cure}")));
    }
    names::name_for_new(name.as_ref())
}

fn other_file() -> Error {
    Error::new(Kind::Invalid, "this is not .glancefs/uploads.json")
}
