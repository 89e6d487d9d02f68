//! One list of images with the file names it gives, as it was at one time.
//!
//! Lists are persistent maps: a copy costs nothing, a change of it costs as much as what is changed,
//! and what differs between two is found without looking at what they share. So a list of 100,000
//! images is replaced while others read the old one, and nobody waits.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::names::{self, FileNames};
use super::records::Kept;
use crate::glance::Image;
use crate::units::ImageId;

/// The images of one listing, by id and by file name.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    images: OrdMap<ImageId, Listed>,
    names: FileNames,
    /// The sizes of all images: 2^64 of them would have to be as large as can be to exceed it.
    bytes: u128,
}

/// An image of a list.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) image: Arc<Image>,
    /// Where its record is.
    pub(super) kept: Option<Kept>,
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.image, &other.image) || self.image == other.image
    }
}

/// What becomes of the image of an id.
#[derive(Debug)]
pub(super) enum Edit {
    Put(Listed),
    Remove(ImageId),
}

impl Edit {
    pub(super) fn id(&self) -> &ImageId {
        match self {
            Self::Put(listed) => &listed.image.id,
            Self::Remove(id) => id,
        }
    }
}

impl Snapshot {
    /// An empty list; `project` is our own, whose images come first where names are alike.
    pub(super) fn of_project(project: Option<&str>) -> Self {
        Self { names: FileNames::of_project(project), ..Self::default() }
    }

    /// The list of these images; of two with one id the later wins.
    #[cfg(test)]
    pub(super) fn of(images: impl IntoIterator<Item = Image>, project: Option<&str>) -> Self {
        let mut list = Self::of_project(project);
        let put = |image| Edit::Put(Listed { image: Arc::new(image), kept: None });
        list.apply(images.into_iter().map(put));
        list
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The image of this id.
    pub fn get(&self, id: &ImageId) -> Option<&Arc<Image>> {
        self.images.get(id).map(|listed| &listed.image)
    }

    /// Every image, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values().map(|listed| &listed.image)
    }

    /// The file names of the images.
    pub fn names(&self) -> &FileNames {
        &self.names
    }

    /// What all images have together, in bytes.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(u64::MAX)
    }

    /// The images of this list that are gone or different in `new`, and what they are there.
    pub fn changed_in<'a>(
        &'a self,
        new: &'a Self,
    ) -> impl Iterator<Item = (&'a Arc<Image>, Option<&'a Arc<Image>>)> {
        self.images.diff(&new.images).filter_map(|change| match change {
            DiffItem::Add(..) => None,
            DiffItem::Update { old, new } => Some((&old.1.image, Some(&new.1.image))),
            DiffItem::Remove(_, old) => Some((&old.image, None)),
        })
    }

    /// What turns this list into `new`.
    pub(super) fn edits_to(&self, new: &Self) -> Vec<Edit> {
        let edit = |change| match change {
            DiffItem::Add(_, listed) | DiffItem::Update { new: (_, listed), .. } => {
                Edit::Put(Listed::clone(listed))
            }
            DiffItem::Remove(id, _) => Edit::Remove(ImageId::clone(id)),
        };
        self.images.diff(&new.images).map(edit).collect()
    }

    /// The entry of this id, with the id as this list holds it.
    pub(super) fn listed(&self, id: &ImageId) -> Option<(&ImageId, &Listed)> {
        self.images.get_key_value(id)
    }

    /// Every entry, in the order of ids.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&ImageId, &Listed)> {
        self.images.iter()
    }

    /// Changes the list; of two edits of one id the later wins.
    pub(super) fn apply(&mut self, edits: impl IntoIterator<Item = Edit>) {
        let mut touched = Vec::new();
        for edit in edits {
            let (old, new) = match edit {
                Edit::Put(listed) => {
                    let image = Arc::clone(&listed.image);
                    (self.images.insert(image.id.clone(), listed), Some(image))
                }
                Edit::Remove(id) => (self.images.remove(&id), None),
            };
            let old = old.map(|old| old.image);
            let size =
                |image: Option<&Arc<Image>>| u128::from(image.and_then(|image| image.size).unwrap_or(0));
            self.bytes = self.bytes + size(new.as_ref()) - size(old.as_ref());
            if names::matters(old.as_deref(), new.as_deref()) {
                touched.extend(old.into_iter().chain(new));
            }
        }
        let images = &self.images;
        self.names.assign(touched, |id| images.get(id).map(|listed| &*listed.image));
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.images == other.images
    }
}
