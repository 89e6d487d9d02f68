//! Changing metadata: setxattr and removexattr, on images and on files that are being written.
//!
//! A change of an image is one PATCH of what was named and of nothing else. What is set on a file before its
//! record exists is kept with the draft and goes with the POST.
//!
//! Tools that copy files with their attributes (`cp -a`, `rsync -aX`, `tar --xattrs`) set all that they find,
//! the id of the original included, and rsync and tar count each refusal as a failure. So from the process that
//! wrote a file, until a minute after, what a copy cannot have is accepted without effect, as chmod is.
//! Everybody else gets EPERM; and who was once told so, with an attribute that only Glance sets, is copying
//! onto a file that was there before (`rsync -aX`, the second time): he gets EPERM, too, for what would rename
//! the file, publish it or lock it.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use super::draft::DraftFile;
use super::writable::{self, BASE_IMAGE, Edit, Removal, STORE};
use super::xattr::{ATTRIBUTE, PROFILE, Record};
use super::{FRESH, ImageFs, Ino, Node, ThreadGroup, lock};
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::glance::{Change, Status};
use crate::ioctl::IMMUTABLE;
use crate::units::ImageId;
use crate::write::Metadata;

/// An upload goes on under a fresh id at most twice.
const REBOUND: usize = 4;

/// The flags of setxattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// None: there or not.
    #[default]
    Any,
    /// XATTR_CREATE: it must not be there.
    Create,
    /// XATTR_REPLACE: it must be there.
    Replace,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// The process; `None` for one in a PID namespace that we cannot see.
    pub group: Option<ThreadGroup>,
}

/// What is to be done.
enum Act {
    Edit(Edit, XattrMode),
    Remove(Removal),
}

impl ImageFs {
    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists` and `NoData` as the mode says; `NotPermitted` for what only Glance sets; `NotSupported` for
    /// names that images do not have; `Invalid`, `NameTooLong` and `IllegalName` for values that are none;
    /// `Busy` when the image is being uploaded for longer than `--timeout`; what the server says.
    pub async fn setxattr(
        &self,
        ino: Ino,
        name: &str,
        value: Vec<u8>,
        mode: XattrMode,
        caller: Caller,
    ) -> Result<()> {
        let Node::Image(id) = self.node(ino)? else {
            return Err(Error::new(Kind::NotSupported, "only images have attributes"));
        };
        if name == PROFILE {
            return self.set_profile(&id, value, caller.uid).await;
        }
        if !writable::is_ours(name) {
            return Err(Error::new(Kind::NotSupported, format!("{name}: images have no such attribute")));
        }
        self.writable()?;
        self.apply(ino, name, caller, |record| {
            let schema = self.layers.catalog.schema();
            let edit = writable::edit(name, &value, &schema, |name| record.key_of(name))?;
            Ok(Act::Edit(edit, mode))
        })
        .await
        // setxattr(2) tells no reason: the log does.
        .inspect_err(|error| tracing::info!(image = %id, name, %error, "an attribute was not set"))
    }

    /// Removes an extended attribute: a property goes; tags, sizes and name become what they are when nobody
    /// sets them.
    ///
    /// # Errors
    /// `NoData` when there is none of this name, else as [`setxattr`](Self::setxattr).
    pub async fn removexattr(&self, ino: Ino, name: &str, caller: Caller) -> Result<()> {
        let Node::Image(id) = self.node(ino)? else {
            return Err(Error::new(Kind::NotSupported, "only images have attributes"));
        };
        if !writable::is_ours(name) {
            return Err(Error::new(Kind::NoData, format!("no attribute {name}")));
        }
        self.writable()?;
        self.apply(ino, name, caller, |record| {
            let schema = self.layers.catalog.schema();
            Ok(Act::Remove(writable::removal(name, &schema, |name| record.key_of(name))?))
        })
        .await
        .inspect_err(|error| tracing::info!(image = %id, name, %error, "an attribute was not removed"))
    }

    async fn apply(
        &self,
        ino: Ino,
        name: &str,
        caller: Caller,
        act: impl Fn(&Record) -> Result<Act>,
    ) -> Result<()> {
        for _ in 0..REBOUND {
            let Node::Image(id) = self.node(ino)? else { break };
            let copying = self.is_written_by(&id, caller);
            let turn = self.turn(&id).await?;
            if self.node(ino)? != Node::Image(id.clone()) {
                // What was waited for was an upload that ended under another id.
                continue;
            }
            if let Some(file) = self.unrecorded(&id).or_else(|| self.replacement(&id, caller)) {
                let record = self.draft_record(&file);
                let Some(act) = self.left_behind(act(&record), caller, copying)? else { return Ok(()) };
                let draft = file.draft();
                return blocking(move || draft.change_metadata(|metadata| on_draft(metadata, act, copying)))
                    .await;
            }
            let image = self.image(&id).await?;
            let record = self.record(&image).await?;
            let Some(act) = self.left_behind(act(&record), caller, copying)? else { return Ok(()) };
            let has_data = matches!(image.status, Status::Active | Status::Deactivated);
            let changes = match act {
                Act::Edit(Edit::Readable(readable), _) => {
                    self.until_no_upload(&id, &turn).await?;
                    let image = self.layers.service.set_readable(&id, readable).await?;
                    self.learn(image);
                    return Ok(());
                }
                Act::Edit(Edit::Store(_) | Edit::BaseImage(_), _) if has_data => {
                    return Err(Error::new(
                        Kind::NotPermitted,
                        format!("{name}: the data are there already"),
                    ));
                }
                // Of a copy the content tells, and where it does not, the upload looks here.
                Act::Edit(Edit::Attribute { key: "disk_format" | "container_format", .. }, _) if copying => {
                    if !has_data {
                        self.ask(&id, act, copying).await?;
                    }
                    return Ok(());
                }
                act @ Act::Edit(Edit::Store(_) | Edit::BaseImage(_), _) => {
                    return self.ask(&id, act, copying).await;
                }
                Act::Edit(edit @ Edit::Attribute { key: "disk_format" | "container_format", .. }, mode) => {
                    let changes = change(&record, edit.clone(), mode)?;
                    if !has_data {
                        self.ask(&id, Act::Edit(edit, XattrMode::Any), copying).await?;
                    }
                    changes
                }
                Act::Edit(edit, mode) => change(&record, edit, mode)?,
                Act::Remove(Removal::Property { key }) => Change::Remove { key },
                Act::Remove(Removal::Attribute { key, value }) => Change::Set { key: key.to_owned(), value },
            };
            let changes = [changes];
            let image = self.change(&id, &changes, &turn).await?;
            if !copying {
                // A copy is still to be renamed by its name.
                self.show_as_listed(&image, &changes);
            }
            return Ok(());
        }
        Err(Error::new(Kind::Stale, "the file became another image"))
    }

    /// Keeps what is only heeded when the data of a reservation are sent.
    async fn ask(&self, id: &ImageId, act: Act, copying: bool) -> Result<()> {
        let mut asked = lock(&self.asked).get(id).cloned().unwrap_or_default();
        on_draft(&mut asked, act, copying)?;
        if let Some(file) = self.draft(id) {
            let (draft, asked) = (file.draft(), asked.clone());
            let keep = move |metadata: &mut Metadata| {
                *metadata = asked;
                Ok(())
            };
            blocking(move || draft.change_metadata(keep)).await?;
        }
        self.remember_asked(id, &asked);
        Ok(())
    }

    pub(super) fn remember_asked(&self, id: &ImageId, asked: &Metadata) {
        if !asked.is_empty() {
            lock(&self.asked).put(id.clone(), asked.clone());
        }
    }

    /// The flags that `lsattr` shows: `i` for a protected image.
    ///
    /// # Errors
    /// `NotFound`, `Stale`.
    pub async fn flags(&self, ino: Ino) -> Result<u32> {
        let Node::Image(id) = self.node(ino)? else { return Ok(0) };
        let protected = match self.unrecorded(&id) {
            Some(file) => file.draft().metadata().record.get("protected") == Some(&Value::Bool(true)),
            None => self.image(&id).await?.protected,
        };
        Ok(if protected { IMMUTABLE } else { 0 })
    }

    /// `chattr +i` protects an image, `chattr -i` ends that. Who may, the kernel has decided: it takes
    /// CAP_LINUX_IMMUTABLE.
    ///
    /// # Errors
    /// `NotSupported` for other flags; as [`setxattr`](Self::setxattr).
    pub async fn set_flags(&self, ino: Ino, flags: u32) -> Result<()> {
        if flags & !IMMUTABLE != 0 {
            return Err(Error::new(Kind::NotSupported, "of all flags images have only i"));
        }
        let value: &[u8] = if flags == 0 { b"false" } else { b"true" };
        let name = format!("{ATTRIBUTE}protected");
        self.setxattr(ino, &name, value.to_vec(), XattrMode::Any, Caller::default()).await
    }

    async fn set_profile(&self, id: &ImageId, value: Vec<u8>, uid: u32) -> Result<()> {
        if uid != 0 && uid != self.access.uid {
            return Err(Error::new(Kind::NotPermitted, "a boot profile is set by the owner of the mount"));
        }
        let image = self.image(id).await?;
        let identity = self.identity(&image);
        let kept = self.layers.readers.keep_profile(&identity.digest, identity.size, value).await;
        kept.inspect_err(|error| tracing::warn!(image = %id, %error, "a boot profile was refused"))
    }

    /// The file that is being written under this id and has no record yet.
    pub(super) fn unrecorded(&self, id: &ImageId) -> Option<Arc<DraftFile>> {
        self.draft(id).filter(|file| !file.is_recorded())
    }

    /// The file with which this process is replacing an image.
    fn replacement(&self, id: &ImageId, caller: Caller) -> Option<Arc<DraftFile>> {
        let drafts = lock(&self.drafts);
        let replaces = |file: &&Arc<DraftFile>| file.is_open() && file.replaces.as_ref() == Some(id);
        drafts.values().filter(replaces).find(|file| file.opener() == caller.group).cloned()
    }

    /// The process wrote the file, and it is the file's last minute as something new.
    fn is_written_by(&self, id: &ImageId, caller: Caller) -> bool {
        let writer = match self.draft(id).or_else(|| self.replacement(id, caller)) {
            Some(file) => Some(file.opener()),
            None => self.fresh(id).map(|fresh| fresh.writer),
        };
        writer.is_some_and(|writer| writer == caller.group)
    }

    /// What remains to be done when a copy leaves behind what it cannot have.
    fn left_behind(&self, act: Result<Act>, caller: Caller, copying: bool) -> Result<Option<Act>> {
        match act {
            Err(error) if error.kind() == Kind::NotPermitted => {
                if copying {
                    return Ok(None);
                }
                lock(&self.copiers).put(caller.group, Instant::now());
                Err(error)
            }
            Ok(Act::Edit(edit, _)) if !edit.goes_with_a_copy() && copying => Ok(None),
            Ok(Act::Edit(edit, _)) if !edit.goes_with_a_copy() && self.is_copier(caller) => {
                Err(Error::new(Kind::NotPermitted, "a copy does not take this of its original"))
            }
            // rsync takes away what the original does not have.
            Ok(Act::Remove(Removal::Attribute { .. })) if copying => Ok(None),
            act => act.map(Some),
        }
    }

    fn is_copier(&self, caller: Caller) -> bool {
        lock(&self.copiers).get(&caller.group).is_some_and(|at| at.elapsed() < FRESH)
    }

    /// The record that a file will have.
    pub(super) fn draft_record(&self, file: &DraftFile) -> Record {
        let asked = file.draft().metadata();
        let mut map: Map<String, Value> = asked.record.into_iter().collect();
        map.insert("name".into(), file.name().into());
        map.insert("status".into(), Status::Queued.as_str().into());
        Record::of_draft(map, self.layers.catalog.schema())
    }
}

/// The change of a record that sets an attribute.
fn change(record: &Record, edit: Edit, mode: XattrMode) -> Result<Change> {
    match edit {
        // The server decides whether a property is there.
        Edit::Property { key, value } => {
            let value = value.into();
            Ok(match mode {
                XattrMode::Any => Change::Set { key, value },
                XattrMode::Create => Change::Create { key, value },
                XattrMode::Replace => Change::Replace { key, value },
            })
        }
        // For the server an attribute is always there; one that is null is none here.
        Edit::Attribute { key, value } => {
            agrees(mode, record.get(key).is_some(), key)?;
            Ok(Change::Set { key: key.to_owned(), value })
        }
        _ => Err(Error::new(Kind::NotSupported, "not an attribute of the record")),
    }
}

fn agrees(mode: XattrMode, there: bool, key: &str) -> Result<()> {
    match (mode, there) {
        (XattrMode::Create, true) => Err(Error::new(Kind::Exists, format!("there is a {key}"))),
        (XattrMode::Replace, false) => Err(Error::new(Kind::NoData, format!("there is no {key}"))),
        _ => Ok(()),
    }
}

/// Does it to what a draft's image shall have.
fn on_draft(metadata: &mut Metadata, act: Act, copying: bool) -> Result<()> {
    match act {
        Act::Edit(Edit::Attribute { key: key @ ("disk_format" | "container_format"), value }, _)
            if copying =>
        {
            metadata.copied_formats.insert(key.to_owned(), value.as_str().unwrap_or_default().to_owned());
        }
        Act::Edit(Edit::Attribute { key: "name", .. }, _) => {
            return Err(Error::new(Kind::NotSupported, "rename the file while it is being written"));
        }
        Act::Edit(Edit::Attribute { key, value }, mode) => {
            agrees(mode, metadata.record.contains_key(key), key)?;
            metadata.record.insert(key.to_owned(), value);
        }
        Act::Edit(Edit::Property { key, value }, mode) => {
            agrees(mode, metadata.record.contains_key(&key), &key)?;
            metadata.record.insert(key, value.into());
        }
        Act::Edit(Edit::Store(store), mode) => {
            agrees(mode, metadata.store.is_some(), STORE)?;
            metadata.store = Some(store);
        }
        Act::Edit(Edit::BaseImage(image), mode) => {
            agrees(mode, metadata.base_image.is_some(), BASE_IMAGE)?;
            metadata.base_image = Some(image);
        }
        Act::Edit(Edit::Readable(_), _) => {
            return Err(Error::new(Kind::NotPermitted, "there are no data yet"));
        }
        Act::Remove(Removal::Property { key }) => {
            let gone = metadata.record.remove(&key);
            gone.ok_or_else(|| Error::new(Kind::NoData, format!("there is no {key}")))?;
        }
        Act::Remove(Removal::Attribute { key, .. }) => {
            metadata.record.remove(key);
        }
    }
    Ok(())
}
