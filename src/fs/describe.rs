//! Extended attributes of files: getxattr and listxattr.

use super::xattr::{self, LOCAL, LOCAL_NAMES, PROFILE, Record, UPLOAD_PROGRESS};
use super::{ImageFs, Ino, Node, lock};
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::fs::handle::Handle;
use crate::glance::Image;
use crate::source::SourceKind;

impl ImageFs {
    /// The value of one extended attribute.
    ///
    /// # Errors
    /// `NoData` when the file has none of this name, `ValueTooLarge` beyond 64 KiB.
    pub async fn getxattr(&self, ino: Ino, name: &str) -> Result<Vec<u8>> {
        // `ls -l` asks for security.selinux and system.posix_acl_access of every file.
        let absent = || Error::new(Kind::NoData, format!("no attribute {name}"));
        if !name.starts_with("user.glance") {
            return Err(absent());
        }
        let node = self.node(ino)?;
        let Some(id) = node.image() else { return self.directory_fact(&node, name).await };
        if let Some(file) = self.unrecorded(id) {
            if name == UPLOAD_PROGRESS {
                let running = file.draft().running();
                return running.map(|(sent, size)| format!("{sent}/{size}").into_bytes()).ok_or_else(absent);
            }
            return self.draft_record(&file).value(name);
        }
        let image = self.image(id).await?;
        if name == PROFILE {
            let identity = self.identity(&image);
            return self.layers.readers.profile(&identity.digest, identity.size).await;
        }
        if let Some(fact) = self.asked_fact(&image, name).await? {
            return Ok(fact);
        }
        match name.strip_prefix(LOCAL) {
            Some(fact) => self.local_fact(&image, fact).await?.map(String::into_bytes).ok_or_else(absent),
            None => self.record(&image).await?.value(name),
        }
    }

    /// The names of the extended attributes, each ended by NUL. Of a file in `.nova-base` none, though each can be asked
    /// for: an overlayfs copies all that are listed to its own disk, which may be too many for it.
    ///
    /// # Errors
    /// `ValueTooLarge` beyond 64 KiB.
    pub async fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let Node::Image(id) = self.node(ino)? else { return Ok(Vec::new()) };
        if let Some(file) = self.unrecorded(&id) {
            let mut names = self.draft_record(&file).names();
            names.extend(file.draft().running().map(|_| UPLOAD_PROGRESS.to_owned()));
            return xattr::joined(&names);
        }
        let image = self.image(&id).await?;
        let mut names = self.record(&image).await?.names();
        for fact in LOCAL_NAMES {
            if fact != "last_error" || self.last_error(&image).is_some() {
                names.push(format!("{LOCAL}{fact}"));
            }
        }
        xattr::joined(&names)
    }

    pub(super) async fn record(&self, image: &Image) -> Result<Record> {
        Record::of(&self.layers.catalog.record(image).await?, self.layers.catalog.schema())
    }

    async fn local_fact(&self, image: &Image, fact: &str) -> Result<Option<String>> {
        let open = self.handles.on_image(&image.id);
        let cached = match open.as_deref() {
            Some(Handle::Image { reader, .. }) => Some(reader.image()),
            _ => None,
        };
        Ok(match fact {
            "source" => {
                let direct = match open.as_deref() {
                    Some(Handle::Image { vetted, .. }) => vetted.is_direct(),
                    _ => false,
                };
                let kind = match cached {
                    Some(_) if direct => SourceKind::Direct,
                    Some(cached) => cached.source_kind(),
                    None => self.layers.sources.kind_of(image),
                };
                Some(kind.word().to_owned())
            }
            "cached_bytes" => Some(match cached {
                Some(cached) => cached.cached_bytes().to_string(),
                None => self.look_into_cache(image, crate::cache::Cache::cached_bytes).await?.to_string(),
            }),
            "verified" => {
                let signed = match open.as_deref() {
                    Some(Handle::Image { vetted, .. }) => vetted.is_signed(),
                    _ => false,
                };
                let verified = match cached {
                    Some(_) if signed => return Ok(Some("signature".to_owned())),
                    Some(cached) => cached.verified(),
                    None => self.look_into_cache(image, crate::cache::Cache::verified).await?,
                };
                Some(verified.word().to_owned())
            }
            "last_error" => self.last_error(image),
            _ => None,
        })
    }

    /// Asks the cache folder about an image that is not open: file operations, off the runtime.
    async fn look_into_cache<T: Send + 'static>(
        &self,
        image: &Image,
        ask: fn(&crate::cache::Cache, &crate::cache::ContentIdentity) -> T,
    ) -> Result<T> {
        let identity = self.identity(image);
        let cache = self.layers.cache.clone();
        blocking(move || Ok(ask(&cache, &identity))).await
    }

    fn last_error(&self, image: &Image) -> Option<String> {
        let open = match self.handles.on_image(&image.id).as_deref() {
            Some(Handle::Image { reader, .. }) => reader.image().last_error(),
            _ => None,
        };
        open.or_else(|| lock(&self.failures).peek(&image.id).cloned())
    }
}
