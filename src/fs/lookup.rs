//! Finding and listing files: lookup, getattr, readdir, statfs.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::{Handle, Listing};
use super::nova::base_entry;
use super::view::record_name;
use super::{Attr, DirEntry, FileKind, HandleId, ImageFs, Ino, Invalidation, MISS_TTL, Node, lock};
use crate::catalog::names::{self, NAME_MAX};
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Quota};
use crate::units::ImageId;

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its attributes.
    pub attr: Attr,
    /// How long the kernel may believe the name without asking.
    pub ttl: Duration,
}

/// The figures of `df`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may still be used.
    pub free: u64,
    /// Images: those that there may be, where that is limited, else those that there are.
    pub files: u64,
    /// Images that may still be made, where that is limited.
    pub free_files: u64,
}

/// Room that `df` shows as free when no quota is known: more than any image needs.
const UNLIMITED: u64 = 1 << 50;

fn not_found() -> Error {
    Error::new(Kind::NotFound, "no such image")
}

impl ImageFs {
    /// Finds `name` in a directory and counts the kernel's look-up of it.
    ///
    /// # Errors
    /// `NotFound`; `NotDirectory`; those of the one request that an unknown name costs.
    pub async fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry> {
        if name.len() > NAME_MAX {
            return Err(Error::new(Kind::NameTooLong, "file names have up to 255 bytes"));
        }
        let name = name.to_str().ok_or_else(not_found)?;
        let node = match self.node(parent)? {
            Node::Root => {
                // Who has a name by now is what counts: a path that nobody ever lists must not lead
                // to what was there an hour ago.
                self.layers.catalog.refresh_if_stale().await;
                self.find_in_root(name).await?
            }
            Node::ById => {
                // An id never means another image, so a hypervisor need not wait for the list.
                self.layers.catalog.refresh_behind();
                let id: ImageId = name.parse().map_err(|_| not_found())?;
                self.known_or_shown(&id).await?;
                Node::Image(id)
            }
            Node::NovaBase => Node::Base(self.find_base(name).await?),
            Node::Records => {
                let id = name.strip_suffix(".json").ok_or_else(not_found)?;
                let id: ImageId = id.parse().map_err(|_| not_found())?;
                self.image(&id).await?;
                Node::Record(id)
            }
            Node::Control => match name {
                "status" => Node::Status,
                "status.json" => Node::StatusJson,
                "errors" => Node::Errors,
                "metrics" => Node::Metrics,
                "uploads.json" => Node::Uploads,
                "images" => Node::Records,
                _ => return Err(not_found()),
            },
            _ => return Err(Error::new(Kind::NotDirectory, "not a directory")),
        };
        self.enter(&node)
    }

    /// What is called `name` in the root: known, or asked for.
    async fn find_in_root(&self, name: &str) -> Result<Node> {
        if let Some(node) = self.known_in_root(name) {
            return Ok(node);
        }
        let wanted = names::name_to_ask_for(name).ok_or_else(not_found)?;
        if lock(&self.misses).peek(&wanted).is_some_and(|asked| asked.elapsed() < MISS_TTL) {
            return Err(not_found());
        }
        if self.layers.catalog.find_by_name(&wanted).await?.is_empty() {
            self.note_miss(wanted);
            return Err(not_found());
        }
        self.known_in_root(name).ok_or_else(not_found)
    }

    /// There is nothing of this name or id just now.
    pub(super) fn note_miss(&self, name: String) {
        let mut misses = lock(&self.misses);
        while misses.peek_lru().is_some_and(|(_, asked)| asked.elapsed() >= MISS_TTL) {
            misses.pop_lru();
        }
        misses.put(name, Instant::now());
    }

    /// What is called `name` in the root, as far as is known without asking.
    pub(super) fn known_in_root(&self, name: &str) -> Option<Node> {
        match name {
            ".by-id" => return Some(Node::ById),
            ".glancefs" => return Some(Node::Control),
            ".nova-base" if self.bases.is_on() => return Some(Node::NovaBase),
            _ => {}
        }
        let draft = names::decode(name).and_then(|wanted| self.draft_named(&wanted));
        if let Some(file) = draft {
            return Some(Node::Image(file.id.clone()));
        }
        self.layers.catalog.snapshot().names().find(name).map(|id| Node::Image(id.clone()))
    }

    /// Makes sure that there is an image, or a file being written, of this id.
    async fn known_or_shown(&self, id: &ImageId) -> Result<()> {
        if self.draft(id).is_none() {
            self.image(id).await?;
        }
        Ok(())
    }

    /// The image of this id, as far as is known without asking. Images that are not listed, such as
    /// another project's community images, can still be had by their id.
    pub(super) fn known_image(&self, id: &ImageId) -> Option<Arc<Image>> {
        if let Some(image) = self.layers.catalog.snapshot().get(id) {
            return Some(Arc::clone(image));
        }
        let mut unlisted = lock(&self.unlisted);
        let (image, _) = unlisted.get(id).filter(|(_, shown)| shown.elapsed() < self.layers.catalog.ttl())?;
        Some(Arc::clone(image))
    }

    /// The image of this id: as listed, else as the server shows it.
    pub(super) async fn image(&self, id: &ImageId) -> Result<Arc<Image>> {
        match self.known_image(id) {
            Some(image) => Ok(image),
            None => self.shown_image(id).await,
        }
    }

    /// The image of this id as the server shows it now.
    pub(super) async fn shown_image(&self, id: &ImageId) -> Result<Arc<Image>> {
        let asked = id.to_string();
        if lock(&self.misses).peek(&asked).is_some_and(|at| at.elapsed() < MISS_TTL) {
            return Err(not_found());
        }
        let shown = self.layers.catalog.show(id).await;
        match &shown {
            Ok(image) => {
                lock(&self.unlisted).put(id.clone(), (Arc::clone(image), Instant::now()));
            }
            Err(error) if error.kind() == Kind::NotFound => {
                lock(&self.unlisted).pop(id);
                self.note_miss(asked);
            }
            Err(_) => {}
        }
        shown
    }

    /// Counts a look-up of `node` and describes it.
    pub(super) fn enter(&self, node: &Node) -> Result<Entry> {
        let ino = lock(&self.inodes).look_up(node);
        let entry = self.describe(node, ino).map(|attr| Entry { ttl: attr.ttl, attr });
        if entry.is_err() {
            self.forget(ino, 1);
        }
        entry
    }

    /// The attributes of `node`.
    fn describe(&self, node: &Node, ino: Ino) -> Result<Attr> {
        Ok(match node {
            directory if directory.is_directory() => self.attributes.directory(ino),
            // Its length shows when it is read, as in /proc: to tell it, the cache folder would have to be
            // looked at, and a look at a name must not wait for the disk.
            Node::Status | Node::StatusJson | Node::Uploads | Node::Metrics => self.attributes.text(ino, 0),
            Node::Errors => self.attributes.text(ino, self.text(node)?.len() as u64),
            Node::Record(id) => {
                let image = self.known_image(id).ok_or_else(not_found)?;
                // And the newline that ends it.
                self.attributes.record(ino, u64::from(image.record.len()) + 1)
            }
            Node::Image(id) => {
                if let Some(file) = self.draft(id) {
                    return Ok(self.attributes.draft(ino, &file));
                }
                if let Some(image) = self.known_image(id) {
                    return Ok(self.attributes.image(ino, &image));
                }
                match self.handles.on_image(id).as_deref() {
                    Some(Handle::Image { image, .. }) => self.attributes.image(ino, image),
                    _ => return Err(not_found()),
                }
            }
            Node::Base(id) => {
                let image = self.known_base(id)?;
                self.base_attr(ino, &image)
            }
            _ => return Err(not_found()),
        })
    }

    /// The attributes of a file; of an open one, as its handle sees it.
    ///
    /// # Errors
    /// `NotFound` when the image is gone, `Stale` when the inode was never known.
    pub async fn getattr(&self, ino: Ino, handle: Option<HandleId>) -> Result<Attr> {
        let handle = handle.map(|handle| self.handles.get(handle)).transpose()?;
        match handle.as_deref() {
            Some(Handle::Draft(open)) if open.file.is_open() => Ok(self.attributes.draft(ino, &open.file)),
            Some(Handle::Image { image, vetted, .. }) if vetted.is_base() => Ok(self.base_attr(ino, image)),
            Some(Handle::Image { image, .. }) => Ok(self.attributes.image(ino, image)),
            Some(Handle::Record(record)) => Ok(self.attributes.record(ino, record.size())),
            _ => {
                let node = self.node(ino)?;
                self.describe(&node, ino)
            }
        }
    }

    /// The kernel dropped `count` look-ups of an inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        lock(&self.inodes).forget(ino, count);
    }

    /// The kernel may hold an inode: false only when it cannot have an open or mapped file of it.
    pub fn is_known(&self, ino: Ino) -> bool {
        lock(&self.inodes).is_known(ino)
    }

    /// Asks the kernel to forget the names of an image, and with them its inode, unless something uses it.
    pub fn let_go(&self, ino: Ino) {
        let id = match self.node(ino) {
            Ok(Node::Image(id)) => id,
            Ok(Node::Base(id)) => {
                let _ = self.invalidate.send(base_entry(&id));
                return;
            }
            _ => return,
        };
        let list = self.layers.catalog.snapshot();
        let names = list.names().iter().filter(|(_, named)| **named == id);
        let names = names.map(|(name, _)| Invalidation::Entry(Ino::ROOT, OsString::from(&**name)));
        for name in names.chain([Invalidation::Entry(Ino::BY_ID, id.as_str().into())]) {
            // Nobody listening is fine: the mount is ending.
            let _ = self.invalidate.send(name);
        }
    }

    /// Opens a directory: its names as they are now. The root first sees to it that the list is not
    /// older than its TTL.
    ///
    /// # Errors
    /// `NotDirectory`.
    pub async fn opendir(&self, ino: Ino) -> Result<HandleId> {
        let node = self.node(ino)?;
        if matches!(node, Node::Root | Node::ById | Node::NovaBase | Node::Records) {
            self.layers.catalog.refresh_if_stale().await;
        }
        let list = self.layers.catalog.snapshot();
        let parent = if node == Node::Records { Node::Control } else { Node::Root };
        let mut entries: Listing = vec![(".".into(), node.clone()), ("..".into(), parent)];
        match node {
            Node::Root => {
                let images = list.names().iter();
                entries.extend(images.map(|(name, id)| (Arc::clone(name), Node::Image(id.clone()))));
                let drafts: Vec<_> =
                    lock(&self.drafts).values().filter(|file| file.is_open()).cloned().collect();
                for file in drafts.iter().filter(|file| list.get(&file.id).is_none()) {
                    let name: Arc<str> = names::encode(&file.name()).into();
                    if list.names().listed(&name).is_none() {
                        entries.push((name, Node::Image(file.id.clone())));
                    }
                }
                if let Some(files) = entries.get_mut(2..) {
                    files.sort_by(|(one, _), (other, _)| one.cmp(other));
                }
                // Two drafts may have one name.
                entries.dedup_by(|(one, _), (other, _)| one == other);
            }
            Node::ById => {
                let entry = |id: &ImageId| (id.as_str().into(), Node::Image(id.clone()));
                entries.extend(list.iter().map(|image| entry(&image.id)));
            }
            Node::NovaBase => entries.extend(self.list_bases().await?),
            Node::Records => {
                let entry = |id: &ImageId| (record_name(id).into(), Node::Record(id.clone()));
                entries.extend(list.iter().map(|image| entry(&image.id)));
            }
            Node::Control => entries.extend([
                ("errors".into(), Node::Errors),
                ("images".into(), Node::Records),
                ("metrics".into(), Node::Metrics),
                ("status".into(), Node::Status),
                ("status.json".into(), Node::StatusJson),
                ("uploads.json".into(), Node::Uploads),
            ]),
            _ => return Err(Error::new(Kind::NotDirectory, "not a directory")),
        }
        Ok(self.handles.insert(Handle::Directory(entries)))
    }

    /// The entry at `position` of an open directory; `None` behind the last.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn dir_entry(&self, handle: HandleId, position: u64) -> Result<Option<DirEntry>> {
        match &*self.handles.get(handle)? {
            Handle::Directory(entries) => {
                let entry = usize::try_from(position).ok().and_then(|position| entries.get(position));
                Ok(entry.map(|(name, node)| DirEntry {
                    name: Arc::clone(name),
                    kind: if node.is_directory() { FileKind::Directory } else { FileKind::Regular },
                    ino: lock(&self.inodes).number(node),
                    node: node.clone(),
                }))
            }
            _ => Err(Error::new(Kind::NotDirectory, "not a directory")),
        }
    }

    /// Counts a look-up of a directory's entry and describes it, as `readdirplus` does.
    ///
    /// # Errors
    /// `NotFound` when it vanished since.
    pub fn enter_listed(&self, entry: &DirEntry) -> Result<Entry> {
        if entry.is_dot() {
            let attr = self.describe(&entry.node, entry.ino)?;
            return Ok(Entry { ttl: attr.ttl, attr });
        }
        self.enter(&entry.node)
    }

    /// Takes back what [`enter_listed`](Self::enter_listed) counted.
    pub fn forget_listed(&self, entry: &DirEntry) {
        if !entry.is_dot() {
            self.forget(entry.ino, 1);
        }
    }

    /// The figures of `df`: the project's quota, where the service tells one. Without it images as listed, and
    /// always room.
    pub async fn statfs(&self) -> Statistics {
        /// All that a limit leaves, and what is free of it.
        fn limited(quota: Option<Quota>) -> Option<(u64, u64)> {
            let Quota { usage, limit } = quota?;
            // -1 stands for no limit (oslo.limit).
            let limit = u64::try_from(limit).ok()?;
            Some((limit, limit.saturating_sub(u64::try_from(usage).unwrap_or(0))))
        }
        /// Keystone counts the sizes of images in MiB.
        const MIB: u64 = 1 << 20;
        let quota = self.quota().await.unwrap_or_default();
        let list = self.layers.catalog.snapshot();
        let (total, free) = match limited(quota.image_size_total) {
            Some((total, free)) => (total.saturating_mul(MIB), free.saturating_mul(MIB)),
            None => (list.bytes().saturating_add(UNLIMITED), UNLIMITED),
        };
        let (files, free_files) = limited(quota.image_count_total).unwrap_or((list.len() as u64, 0));
        Statistics { total, free, files, free_files }
    }
}
