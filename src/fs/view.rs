//! The directory as it follows from one listing, and what the kernel must forget when that changes.

use std::ffi::OsString;
use std::sync::Arc;

use super::names::FileNames;
use super::{ImageFs, Ino, Node, lock};
use crate::catalog::Snapshot;
use crate::units::ImageId;

/// One listing with the file names it gives.
#[derive(Debug, Default)]
pub struct View {
    pub(super) list: Arc<Snapshot>,
    pub(super) names: FileNames,
}

/// Something the kernel may hold that is no longer so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidation {
    /// A name of a directory.
    Entry(Ino, OsString),
    /// The attributes of an inode.
    Attributes(Ino),
    /// Its attributes and its data.
    Data(Ino),
}

impl ImageFs {
    /// The directory of the newest listing.
    pub fn view(&self) -> Arc<View> {
        let list = self.layers.catalog.snapshot();
        let mut view = lock(&self.view);
        if !Arc::ptr_eq(&view.list, &list) {
            let names = FileNames::of(&list, self.layers.service.project_id());
            *view = Arc::new(View { list, names });
        }
        Arc::clone(&view)
    }

    /// What the kernel must forget to go from the view `old` to `new`.
    pub fn invalidations(&self, old: &View, new: &View) -> Vec<Invalidation> {
        let mut found = Vec::new();
        for (name, id) in old.names.iter() {
            if new.names.find(name) != Some(id) {
                found.push(Invalidation::Entry(Ino::ROOT, OsString::from(&**name)));
            }
        }
        let inodes = lock(&self.inodes);
        for image in old.list.iter() {
            let ino = inodes.number(&Node::Image(image.id.clone()));
            match new.list.get(&image.id) {
                None => {
                    found.push(Invalidation::Entry(Ino::BY_ID, image.id.as_str().into()));
                    found.push(Invalidation::Entry(Ino::RECORDS, record_name(&image.id).into()));
                }
                Some(now) if Arc::ptr_eq(now, image) || now == image => {}
                Some(now) => {
                    let content = |image: &crate::glance::Image| {
                        (image.size, image.created_at, image.hash.clone(), image.checksum.clone())
                    };
                    let same = content(now) == content(image);
                    found.push(if same { Invalidation::Attributes(ino) } else { Invalidation::Data(ino) });
                }
            }
        }
        found
    }

    /// What operations tell the kernel to forget, besides what a new listing changes.
    pub fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Invalidation> {
        self.invalidate.subscribe()
    }
}

/// The name of an image's record under `.glancefs/images`.
pub(super) fn record_name(id: &ImageId) -> String {
    format!("{id}.json")
}
