//! What the kernel must forget when the list of images changes.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::Arc;

use super::nova::base_entry;
use super::{ImageFs, Ino, lock};
use crate::catalog::Snapshot;
use crate::glance::Image;
use crate::units::ImageId;

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
    /// The images as listed now.
    pub fn list(&self) -> Arc<Snapshot> {
        self.layers.catalog.snapshot()
    }

    /// What the kernel must forget to go from the list `old` to `new`; as much work as they differ. What we remember of images that
    /// are gone is forgotten: over months they are many, and each small thing that stays keeps a page of memory.
    pub fn invalidations(&self, old: &Snapshot, new: &Snapshot) -> Vec<Invalidation> {
        let (mut found, mut gone) = (Vec::new(), HashSet::new());
        for (name, id) in old.names().lost_in(new.names()) {
            // It may go on leading there by another spelling.
            if new.names().find(name) != Some(id) {
                found.push(Invalidation::Entry(Ino::ROOT, OsString::from(&**name)));
            }
        }
        for (image, now) in old.changed_in(new) {
            let Some(now) = now else {
                found.push(Invalidation::Entry(Ino::BY_ID, image.id.as_str().into()));
                found.push(Invalidation::Entry(Ino::RECORDS, record_name(&image.id).into()));
                if self.bases.is_on() {
                    found.push(base_entry(&image.id));
                }
                let key = self.identity(image).key();
                self.vetting.forget(key);
                gone.insert(key);
                lock(&self.unlisted).pop(&image.id);
                continue;
            };
            let content =
                |image: &Image| (image.size, image.created_at, image.hash.clone(), image.checksum.clone());
            // For a moment each: operations wait for this lock.
            let same = content(now) == content(image);
            for ino in self.inos_of(&image.id) {
                found.push(if same { Invalidation::Attributes(ino) } else { Invalidation::Data(ino) });
            }
        }
        if !gone.is_empty() {
            self.layers.cache.forget_gone(&gone);
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
