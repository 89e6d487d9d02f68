//! Open files and directories, by the number the kernel holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::draft::DraftHandle;
use super::replace::NewRecord;
use super::uploads::Request;
use super::vet::Vetted;
use super::whole::Wanted;
use super::{FileKind, Ino, Node};
use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::read::Reader;
use crate::units::ImageId;

/// The number of an open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// As `ls` shows it.
    pub name: Arc<str>,
    /// File or directory.
    pub kind: FileKind,
    /// Its inode number.
    pub ino: Ino,
    pub(super) node: Node,
}

impl DirEntry {
    /// `.` or `..`: the kernel counts no look-up of these.
    pub(super) fn is_dot(&self) -> bool {
        &*self.name == "." || &*self.name == ".."
    }
}

/// What a handle is open on.
pub(super) enum Handle {
    /// An image, for reading.
    Image { reader: Box<Reader>, image: Arc<Image>, wanted: Wanted, vetted: Vetted },
    /// A file that is being written.
    Draft(DraftHandle),
    /// The record of an image that is being written.
    Record(Arc<NewRecord>),
    /// A text of ours, as it was when it was opened.
    Text(Bytes),
    /// `.glancefs/uploads.json`, as it was when it was opened.
    Uploads { text: Bytes, request: Request },
    /// A directory, as it was when it was opened.
    Directory(Listing),
}

/// The names of a directory and what each stands for.
pub(super) type Listing = Vec<(Arc<str>, Node)>;

/// Every open handle.
#[derive(Default)]
pub(super) struct Handles {
    open: RwLock<HashMap<HandleId, Arc<Handle>>>,
    last: AtomicU64,
}

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> HandleId {
        let id = HandleId(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(handle));
        id
    }

    pub(super) fn get(&self, id: HandleId) -> Result<Arc<Handle>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&id).cloned().ok_or_else(|| Error::new(Kind::BadHandle, "no such open file"))
    }

    pub(super) fn remove(&self, id: HandleId) -> Option<Arc<Handle>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The images that are open, also those that are gone.
    pub(super) fn images(&self) -> HashMap<ImageId, Arc<Image>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let image = |handle: &Arc<Handle>| match &**handle {
            Handle::Image { image, .. } => Some((image.id.clone(), Arc::clone(image))),
            _ => None,
        };
        open.values().filter_map(image).collect()
    }

    /// An open handle on this image, for what must be told of it after it was deleted.
    pub(super) fn on_image(&self, id: &ImageId) -> Option<Arc<Handle>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.values()
            .find(|handle| matches!(&***handle, Handle::Image { image, .. } if image.id == *id))
            .cloned()
    }
}
