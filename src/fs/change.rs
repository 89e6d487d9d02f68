//! Renaming and removing images.

use std::ffi::OsStr;
use std::sync::Arc;

use serde_json::Value;
use tracing::{info, warn};

use super::draft::Outcome;
use super::{ImageFs, Ino, Node};
use crate::blocking::blocking;
use crate::catalog::names;
use crate::error::{Error, Kind, Result};
use crate::glance::{Change, Image};
use crate::units::ImageId;

impl ImageFs {
    /// Renames an image, or a file that is being written. Over an existing name it replaces that
    /// image, which `--allow-overwrite` permits; `keep_existing` (RENAME_NOREPLACE) never does.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `NotPermitted`, `ReadOnly`, `Busy`, and those of the name.
    pub async fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        keep_existing: bool,
    ) -> Result<()> {
        self.writable()?;
        self.refuse_in_base(new_parent, new_name)?;
        if self.node(parent)? != Node::Root || self.node(new_parent)? != Node::Root {
            return Err(Error::new(Kind::NotPermitted, "images are renamed in the root directory only"));
        }
        let id = self.image_in_root(name).await?;
        // Names that are listed may end in ~ and an id; a new one may not.
        let target = new_name.to_str().and_then(|name| self.known_in_root(name));
        let glance_name = names::name_for_new(new_name)?;
        let replaced = match target {
            None => None,
            Some(Node::Image(target)) if target == id => return Ok(()),
            Some(_) if keep_existing => return Err(Error::new(Kind::Exists, format!("{new_name:?} exists"))),
            Some(Node::Image(target)) if self.draft(&target).is_some() => {
                return Err(Error::new(Kind::Busy, format!("{new_name:?} is being written")));
            }
            Some(Node::Image(target)) => {
                let act = || format!("rename over {new_name:?} (image {target})");
                self.permitted(self.access.allow_overwrite, "--allow-overwrite", act)?;
                Some(self.image(&target).await?)
            }
            Some(_) => return Err(Error::new(Kind::IsDirectory, "a directory")),
        };
        if let Some(old) = &replaced {
            self.deletable(old).await?;
        }
        if let Some(file) = self.draft(&id) {
            if replaced.is_some() {
                return Err(Error::new(Kind::Busy, "close the file before you rename it over an image"));
            }
            file.rename(glance_name.clone());
            if !file.is_recorded() {
                return Ok(());
            }
        }
        let name = Value::String(glance_name);
        let changes = [Change::Set { key: "name".to_owned(), value: name }];
        let turn = self.turn(&id).await?;
        let before = self.known_image(&id).and_then(|image| image.name.clone());
        self.change(&id, &changes, &turn).await?;
        let Some(old) = replaced else { return Ok(()) };
        let deleted = self.delete(&old).await;
        if deleted.is_err() {
            // The two have one name now, which is not what was asked for, and not what was.
            let value = before.as_deref().map_or(Value::Null, Value::from);
            let back = [Change::Set { key: "name".to_owned(), value }];
            if let Err(error) = self.change(&id, &back, &turn).await {
                warn!(image = %id, %error, "an image keeps the name of one that could not be deleted");
            }
        }
        deleted
    }

    /// Deletes an image, which `--allow-delete` permits, or forgets a file that is being written. In `.nova-base` it
    /// only drops what is cached.
    ///
    /// # Errors
    /// `NotFound`, `NotPermitted` (option missing, or protected), `Forbidden`, `Busy`, `ReadOnly`.
    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &OsStr) -> Result<()> {
        self.writable()?;
        let id = match self.node(parent)? {
            Node::Root => self.image_in_root(name).await?,
            Node::ById => {
                let id = name.to_str().and_then(|name| name.parse().ok());
                id.ok_or_else(|| Error::new(Kind::NotFound, "no such image"))?
            }
            Node::NovaBase => return self.evict_base(name).await,
            _ => return Err(Error::new(Kind::NotPermitted, "these files cannot be removed")),
        };
        if let Some(file) = self.draft(&id) {
            // Nothing was published: taking it back deletes no image.
            let _no_commit_meanwhile = file.committing.lock().await;
            if file.is_open() {
                if file.is_recorded() {
                    // A reservation: its record is at the server.
                    let act = || format!("delete {name:?} (image {id})");
                    self.permitted(self.access.allow_delete, "--allow-delete", act)?;
                }
                file.end(Outcome::Abandoned);
                let draft = file.draft();
                blocking(move || {
                    draft.discard();
                    Ok(())
                })
                .await?;
                if !file.is_recorded() {
                    return Ok(());
                }
            }
        }
        let image = self.image(&id).await?;
        let act = || format!("delete {name:?} (image {id})");
        self.permitted(self.access.allow_delete, "--allow-delete", act)?;
        self.deletable(&image).await?;
        self.delete(&image).await
    }

    async fn delete(&self, image: &Image) -> Result<()> {
        match self.layers.service.delete(&image.id).await {
            Err(error) if error.kind() != Kind::NotFound => {
                // unlink(2) tells no reason.
                warn!(%error, "an image was not deleted");
                self.note_failure(&image.id, &error.to_string());
                return Err(error);
            }
            _ => {}
        }
        info!(image = %image.id, name = image.name.as_deref().unwrap_or_default(), "deleted");
        self.layers.catalog.forget(&image.id);
        Ok(())
    }

    /// Somebody may have ended the protection since the image was listed.
    async fn deletable(&self, image: &Image) -> Result<()> {
        if image.protected && self.shown_image(&image.id).await?.protected {
            return Err(Error::new(Kind::NotPermitted, format!("image {} is protected", image.id)));
        }
        Ok(())
    }

    async fn image_in_root(&self, name: &OsStr) -> Result<ImageId> {
        let known = name.to_str().and_then(|name| self.known_in_root(name));
        match known {
            Some(Node::Image(id)) => Ok(id),
            Some(_) => Err(Error::new(Kind::NotPermitted, "this directory cannot be changed")),
            None => Err(Error::new(Kind::NotFound, "no such image")),
        }
    }
}
