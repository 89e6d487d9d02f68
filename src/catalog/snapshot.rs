//! One list of images, as it was at one time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::glance::Image;
use crate::units::ImageId;

/// The images of one listing, by id. Cloning copies pointers, not records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    images: BTreeMap<ImageId, Arc<Image>>,
}

impl Snapshot {
    /// The list of these images; of two with one id the later wins.
    pub fn new(images: impl IntoIterator<Item = Image>) -> Self {
        Self { images: images.into_iter().map(|image| (image.id.clone(), Arc::new(image))).collect() }
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
        self.images.get(id)
    }

    /// Every image, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values()
    }

    pub(super) fn insert(&mut self, image: Arc<Image>) {
        self.images.insert(image.id.clone(), image);
    }

    pub(super) fn remove(&mut self, id: &ImageId) {
        self.images.remove(id);
    }
}
