//! `.nova-base`: the images as the libvirt driver of Nova looks for them in its image cache, `_base`.
//!
//! There the file of an image is called by the SHA-1 of its id (`imagecache.get_cache_fname`), and is downloaded only if no
//! file of that name exists. What exists is looked into (`images.get_image_format`, `qemu-img info`), gets its times set as a sign
//! that it is in use (`privsep.path.utime`), and becomes the backing file of a guest's disk, or is copied to one. Now and then the
//! folder is listed, and what no instance has used for a day is unlinked (`imagecache.ImageCacheManager`).
//!
//! So a name is answered as soon as the image is known, and only of images that Nova would keep as they are: all others it
//! converts. The list has what is in the cache of this host, which is what Nova means by it, and keeps it from unlinking all
//! images of the cloud. An unlink drops what is cached, never the image. Nothing can be made here: Nova keeps its
//! locks elsewhere (`instances_path/locks`), but swap disks and what it converts in this folder, so that a host
//! that needs those puts an overlayfs over it (`docs/hypervisors.md`).
//!
//! The files are others than those of `.by-id`: their times say when they were used, and nothing of their images can be changed
//! through them.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA1_OUTPUT_LEN, digest};
use imbl::OrdMap;
use lru::LruCache;
use tracing::warn;

use super::handle::{Handle, Listing};
use super::vet::Vetted;
use super::{Attr, ImageFs, Ino, Invalidation, MISS_TTL, NewAttributes, Node, OpenMode, Opened, lock};
use crate::blocking::blocking;
use crate::cache::ContentIdentity;
use crate::catalog::Snapshot;
use crate::config::NovaBase;
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Status};
use crate::units::ImageId;

/// Images whose last use is remembered. A host runs guests of a few hundred; who is forgotten counts as used when the mount
/// began.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// How often an eviction is tried that the kernel is in the way of. It lets go of a file some 5 to 10 s after its last close.
const LET_GO_TRIES: u32 = 30;
const LET_GO_PAUSE: Duration = Duration::from_secs(1);

/// The SHA-1 of an id: a name, no proof of anything.
type Digest = [u8; SHA1_OUTPUT_LEN];

/// What `.nova-base` shows, and when that was used. Its locks are leaves.
pub(super) struct Bases {
    shown: NovaBase,
    table: Mutex<Table>,
    used: Mutex<LruCache<ImageId, SystemTime>>,
    since: SystemTime,
}

/// The ids of a list by their digests. A copy costs nothing.
#[derive(Clone, Default)]
struct Table {
    list: Arc<Snapshot>,
    ids: OrdMap<Digest, ImageId>,
}

impl Table {
    /// The table of `list`: as much work as that differs from the list of this one.
    fn brought_to(mut self, list: Arc<Snapshot>) -> Self {
        let gone = self.list.changed_in(&list).filter(|(_, now)| now.is_none());
        for (image, _) in gone {
            self.ids.remove(&digest_of(&image.id));
        }
        for (image, _) in list.changed_in(&self.list).filter(|(_, before)| before.is_none()) {
            self.ids.insert(digest_of(&image.id), image.id.clone());
        }
        self.list = list;
        self
    }
}

impl Bases {
    pub(super) fn new(shown: NovaBase) -> Self {
        let used = Mutex::new(LruCache::new(REMEMBERED));
        Self { shown, table: Mutex::default(), used, since: SystemTime::now() }
    }

    /// There is such a folder.
    pub(super) fn is_on(&self) -> bool {
        self.shown != NovaBase::Off
    }

    /// The image was used at that time.
    pub(super) fn used(&self, id: &ImageId, at: SystemTime) {
        lock(&self.used).put(id.clone(), at);
    }

    fn last_use(&self, id: &ImageId) -> SystemTime {
        lock(&self.used).peek(id).copied().unwrap_or(self.since)
    }

    /// Nova uses the image as it is: `fetch_to_raw` renames what it downloaded, and converts nothing. To it, ISO and the
    /// parts of an Amazon image are raw (`do_image_deep_inspection`).
    fn shows(&self, image: &Image) -> bool {
        let raw = match (image.container_format.as_deref(), image.disk_format.as_deref()) {
            (Some("bare"), Some("qcow2")) => self.shown == NovaBase::Qcow2,
            (Some("bare"), Some(format)) => matches!(format, "raw" | "iso"),
            (Some("ami" | "aki" | "ari"), Some(format)) => matches!(format, "ami" | "aki" | "ari"),
            _ => false,
        };
        raw && self.is_on() && image.status == Status::Active
    }
}

impl ImageFs {
    /// The image that Nova looks for under this name.
    ///
    /// # Errors
    /// `NotFound`: there is none, or none that Nova could use as it is.
    pub(super) async fn find_base(&self, name: &str) -> Result<ImageId> {
        // Nova asks for swap_512 and the like, too.
        let digest = digest_of_name(name).ok_or_else(not_found)?;
        self.layers.catalog.refresh_behind();
        let id = match self.id_of_digest(&digest).await? {
            Some(id) => id,
            None => {
                self.look_for_new(name).await;
                self.id_of_digest(&digest).await?.ok_or_else(not_found)?
            }
        };
        let image = self.settled(&id).await?;
        self.bases.shows(&image).then_some(id).ok_or_else(not_found)
    }

    async fn id_of_digest(&self, digest: &Digest) -> Result<Option<ImageId>> {
        let list = self.layers.catalog.snapshot();
        let mut table = lock(&self.bases.table).clone();
        if !Arc::ptr_eq(&table.list, &list) {
            // 0.1 s for the first list of 100,000.
            table = blocking(move || Ok(table.brought_to(list))).await?;
            *lock(&self.bases.table) = table.clone();
        }
        if let Some(id) = table.ids.get(digest) {
            return Ok(Some(id.clone()));
        }
        let unlisted = lock(&self.unlisted);
        Ok(unlisted.iter().map(|(id, _)| id).find(|id| digest_of(id) == *digest).cloned())
    }

    /// No server can be asked for a digest. But a guest is often started from an image that was made just now, and what
    /// Nova does not find here it downloads whole: the list is looked at anew.
    async fn look_for_new(&self, name: &str) {
        let catalog = &self.layers.catalog;
        let name = format!(".nova-base/{name}");
        if catalog.is_failing() || lock(&self.misses).peek(&name).is_some_and(|at| at.elapsed() < MISS_TTL) {
            return;
        }
        catalog.expire();
        catalog.refresh_if_stale().await;
        self.note_miss(name);
    }

    /// The image of a file that was found here, also of one that is gone and still open.
    pub(super) fn known_base(&self, id: &ImageId) -> Result<Arc<Image>> {
        self.known_image(id)
            .or_else(|| match self.handles.on_image(id).as_deref() {
                Some(Handle::Image { image, .. }) => Some(Arc::clone(image)),
                _ => None,
            })
            .ok_or_else(not_found)
    }

    /// What `stat` shows here: of the times the last use, by which Nova tells what it may unlink.
    pub(super) fn base_attr(&self, ino: Ino, image: &Image) -> Attr {
        Attr { mtime: self.bases.last_use(&image.id), ..self.attributes.image(ino, image) }
    }

    /// The files that have something in the cache.
    pub(super) async fn list_bases(&self) -> Result<Listing> {
        let list = self.layers.catalog.snapshot();
        let identified = |image: &Arc<Image>| (image.id.clone(), self.identity(image));
        let shown: Vec<(ImageId, ContentIdentity)> =
            list.iter().filter(|image| self.bases.shows(image)).map(identified).collect();
        let cache = self.layers.cache.clone();
        let here = blocking(move || cache.holdings(shown)).await?;
        Ok(here.into_iter().map(|(id, _)| (base_name(&id).into(), Node::Base(id))).collect())
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// `ReadOnly`: for writing. `NotFound` and those of its status.
    pub(super) async fn open_base(&self, id: &ImageId, mode: OpenMode) -> Result<Opened> {
        if mode.write {
            return Err(Error::new(Kind::ReadOnly, "images cannot be written in .nova-base"));
        }
        let image = self.settled(id).await?;
        self.bases.used(id, SystemTime::now());
        self.open_vetted(image, Vetted::of_base())
    }

    /// Takes down that the image is in use. What else can be set is refused: nothing of an image is changed here.
    ///
    /// # Errors
    /// `NotPermitted`, `NotFound`.
    pub(super) fn set_base_attr(&self, ino: Ino, id: &ImageId, new: NewAttributes) -> Result<Attr> {
        let image = self.known_base(id)?;
        let now = self.base_attr(ino, &image);
        let changes = new.size.is_some_and(|size| size != now.size)
            || new.mode.is_some_and(|mode| mode != now.mode)
            || new.uid.is_some_and(|uid| uid != now.uid)
            || new.gid.is_some_and(|gid| gid != now.gid);
        if changes {
            return Err(Error::new(Kind::NotPermitted, "images are not changed in .nova-base"));
        }
        if let Some(mtime) = new.mtime {
            self.bases.used(id, mtime);
        }
        Ok(self.base_attr(ino, &image))
    }

    /// Drops what is cached of an image, as Nova does with what no instance uses.
    ///
    /// The kernel holds a file that is read past us for a while after its last close, and cannot let go of it before this
    /// unlink is answered: then the eviction comes behind, unless the image is opened meanwhile.
    ///
    /// # Errors
    /// `NotFound`; `Busy` while it is open; those of the eviction.
    pub(super) async fn evict_base(self: &Arc<Self>, name: &OsStr) -> Result<()> {
        let name = name.to_str().ok_or_else(not_found)?;
        let id = self.find_base(name).await?;
        if self.handles.on_image(&id).is_some() {
            return Err(Error::new(Kind::Busy, format!("image {id} is open")));
        }
        match self.evict(&id).await {
            Err(error) if error.kind() == Kind::Busy => {
                let fs = Arc::clone(self);
                tokio::spawn(async move { fs.evict_later(&id).await });
                Ok(())
            }
            evicted => evicted.map(|_| ()),
        }
    }

    async fn evict_later(&self, id: &ImageId) {
        for _ in 0..LET_GO_TRIES {
            tokio::time::sleep(LET_GO_PAUSE).await;
            if self.handles.on_image(id).is_some() {
                return;
            }
            match self.evict(id).await {
                Err(error) if error.kind() == Kind::Busy => {}
                // Told where it happened.
                _ => return,
            }
        }
        warn!(image = %id, "what Nova removed is still in the cache: another process reads it, or the kernel holds it");
    }

    /// Nothing is made here, and a person shall know what Nova lacks.
    ///
    /// # Errors
    /// `ReadOnly`.
    pub(super) fn refuse_in_base(&self, parent: Ino, name: &OsStr) -> Result<()> {
        if self.node(parent)? != Node::NovaBase {
            return Ok(());
        }
        let text = format!(
            "{name:?} cannot be made in .nova-base, where images are only read: put an overlayfs over it (docs/hypervisors.md)"
        );
        warn!("{text}");
        self.events.note(text.clone());
        Err(Error::new(Kind::ReadOnly, text))
    }
}

fn not_found() -> Error {
    Error::new(Kind::NotFound, "no image that Nova could use as it is")
}

fn digest_of(id: &ImageId) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, id.as_str().as_bytes()).as_ref());
    bytes
}

/// What a name of 40 lower-case hexadecimal digits says.
fn digest_of_name(name: &str) -> Option<Digest> {
    let mut bytes = Digest::default();
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if name.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(name.as_bytes().chunks(2)) {
        *byte = digit(pair.first()?)? << 4 | digit(pair.get(1)?)?;
    }
    Some(bytes)
}

/// The name of the image's file in Nova's image cache.
pub(super) fn base_name(id: &ImageId) -> String {
    digest_of(id).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the kernel may hold of it.
pub(super) fn base_entry(id: &ImageId) -> Invalidation {
    Invalidation::Entry(Ino::NOVA_BASE, base_name(id).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_by_the_sha1_of_the_id() {
        // nova.virt.libvirt.imagecache.get_cache_fname, Nova 34.0.0.
        let id: ImageId = "155d900f-4e14-4e4c-a73d-069cbf4541e6".parse().unwrap();
        assert_eq!(base_name(&id), "f2d1a8250ed3d4b744a8250dab8f6840179d502a");
        assert_eq!(digest_of_name(&base_name(&id)), Some(digest_of(&id)));
    }

    #[test]
    fn other_names_that_nova_asks_for_are_none() {
        let converted = format!("{}.converted", "0".repeat(40));
        for name in ["swap_512", "ephemeral_1_40d1d2c", &"G".repeat(40), &"A".repeat(40), "", &converted] {
            assert_eq!(digest_of_name(name), None, "{name}");
        }
    }
}
