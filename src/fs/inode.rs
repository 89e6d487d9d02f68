//! Inode numbers: derived from ids, so that they are the same after a remount, and what each stands for.

use std::collections::HashMap;

use crate::units::ImageId;

/// An inode number, as `stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory (the number FUSE gives it).
    pub const ROOT: Self = Self(1);
    /// `.by-id`
    pub const BY_ID: Self = Self(2);
    /// `.glancefs`
    pub const CONTROL: Self = Self(3);
    /// `.glancefs/images`
    pub const RECORDS: Self = Self(4);
    /// `.glancefs/status`
    pub const STATUS: Self = Self(5);
    /// `.glancefs/errors`
    pub const ERRORS: Self = Self(6);
    /// `.glancefs/metrics`
    pub const METRICS: Self = Self(7);
    /// `.glancefs/status.json`
    pub const STATUS_JSON: Self = Self(8);
    /// `.glancefs/uploads.json`
    pub const UPLOADS: Self = Self(9);
    /// `.nova-base`
    pub const NOVA_BASE: Self = Self(10);

    /// Numbers below are for fixed files.
    const FIRST_DERIVED: u64 = 256;

    /// The number of an image: 64-bit FNV-1a of its id, which spreads UUIDs evenly and never changes.
    fn derived(kind: u8, id: &ImageId) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in std::iter::once(kind).chain(id.as_str().bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self(hash.max(Self::FIRST_DERIVED))
    }
}

/// What an inode stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// The root directory: every image by name.
    Root,
    /// `.by-id`: every image by id.
    ById,
    /// `.nova-base`: images by the SHA-1 of their ids.
    NovaBase,
    /// `.glancefs`
    Control,
    /// `.glancefs/images`
    Records,
    /// `.glancefs/status`
    Status,
    /// `.glancefs/errors`
    Errors,
    /// `.glancefs/metrics`
    Metrics,
    /// `.glancefs/status.json`
    StatusJson,
    /// `.glancefs/uploads.json`
    Uploads,
    /// `.glancefs/images/<id>.json`
    Record(ImageId),
    /// An image, or one that is being written.
    Image(ImageId),
    /// An image as Nova sees it, `.nova-base/<sha1>`: another file, with times of its own.
    Base(ImageId),
}

impl Node {
    /// It has entries.
    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Self::Root | Self::ById | Self::NovaBase | Self::Control | Self::Records)
    }

    /// The image that is read there.
    pub(super) fn image(&self) -> Option<&ImageId> {
        match self {
            Self::Image(id) | Self::Base(id) => Some(id),
            _ => None,
        }
    }

    fn preferred(&self) -> Ino {
        match self {
            Self::Root => Ino::ROOT,
            Self::ById => Ino::BY_ID,
            Self::Control => Ino::CONTROL,
            Self::Records => Ino::RECORDS,
            Self::Status => Ino::STATUS,
            Self::Errors => Ino::ERRORS,
            Self::Metrics => Ino::METRICS,
            Self::StatusJson => Ino::STATUS_JSON,
            Self::Uploads => Ino::UPLOADS,
            Self::NovaBase => Ino::NOVA_BASE,
            Self::Base(id) => Ino::derived(b'b', id),
            Self::Image(id) => Ino::derived(b'i', id),
            Self::Record(id) => Ino::derived(b'r', id),
        }
    }

    fn fixed(ino: Ino) -> Option<Self> {
        Some(match ino {
            Ino::ROOT => Self::Root,
            Ino::BY_ID => Self::ById,
            Ino::CONTROL => Self::Control,
            Ino::RECORDS => Self::Records,
            Ino::STATUS => Self::Status,
            Ino::ERRORS => Self::Errors,
            Ino::METRICS => Self::Metrics,
            Ino::STATUS_JSON => Self::StatusJson,
            Ino::UPLOADS => Self::Uploads,
            Ino::NOVA_BASE => Self::NovaBase,
            _ => return None,
        })
    }
}

/// The inodes the kernel holds, counted as it looked them up.
///
/// Its size follows the kernel's cache (each `forget` takes away), not the number of images.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    known: HashMap<Ino, Known>,
    /// Nodes whose number is not the derived one: two ids of one hash, or an upload that went on
    /// under a fresh id.
    moved: HashMap<Node, Ino>,
}

#[derive(Debug)]
struct Known {
    node: Node,
    lookups: u64,
}

impl Inodes {
    /// The number of `node`, without counting a look-up.
    pub(super) fn number(&self, node: &Node) -> Ino {
        if let Some(ino) = self.moved.get(node) {
            return *ino;
        }
        let mut ino = node.preferred();
        while self.known.get(&ino).is_some_and(|known| known.node != *node) {
            ino = Ino(ino.0.wrapping_add(1).max(Ino::FIRST_DERIVED));
        }
        ino
    }

    /// Counts a look-up of `node` and gives its number.
    pub(super) fn look_up(&mut self, node: &Node) -> Ino {
        let ino = self.number(node);
        if Node::fixed(ino).is_some() {
            return ino;
        }
        if ino != node.preferred() {
            self.moved.insert(node.clone(), ino);
        }
        self.known.entry(ino).or_insert_with(|| Known { node: node.clone(), lookups: 0 }).lookups += 1;
        ino
    }

    /// What `ino` stands for.
    pub(super) fn node(&self, ino: Ino) -> Option<Node> {
        Node::fixed(ino).or_else(|| self.known.get(&ino).map(|known| known.node.clone()))
    }

    /// The kernel may hold `ino`.
    pub(super) fn is_known(&self, ino: Ino) -> bool {
        Node::fixed(ino).is_some() || self.known.contains_key(&ino)
    }

    /// The kernel dropped `count` of its look-ups.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.lookups = known.lookups.saturating_sub(count);
            if known.lookups == 0
                && let Some(gone) = self.known.remove(&ino)
            {
                self.moved.remove(&gone.node);
            }
        }
    }

    /// The file of `old` is from now on the image `new`: the kernel's number stays with it.
    pub(super) fn rebind(&mut self, old: &ImageId, new: &ImageId) {
        let ino = self.number(&Node::Image(old.clone()));
        self.moved.remove(&Node::Image(old.clone()));
        if let Some(known) = self.known.get_mut(&ino) {
            known.node = Node::Image(new.clone());
            self.moved.insert(known.node.clone(), ino);
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: u32) -> Node {
        Node::Image(format!("{number:08x}-0000-4000-8000-000000000000").parse().unwrap())
    }

    #[test]
    fn the_number_of_an_image_never_changes() {
        let ino = Inodes::default().look_up(&image(0x1f3c_9a2b));
        assert_eq!(ino, Ino(0x649e_1445_3393_eaab), "scripts and backups may hold it");
    }

    #[test]
    fn forgetting_every_look_up_frees_the_inode() {
        let mut inodes = Inodes::default();
        let ino = inodes.look_up(&image(1));
        assert_eq!(inodes.look_up(&image(1)), ino);
        inodes.forget(ino, 1);
        assert_eq!(inodes.node(ino), Some(image(1)));
        inodes.forget(ino, 1);
        assert_eq!(inodes.node(ino), None);
        assert_eq!(inodes.held(), 0);
    }

    #[test]
    fn an_upload_that_ends_under_a_fresh_id_keeps_its_inode() {
        let mut inodes = Inodes::default();
        let ino = inodes.look_up(&image(1));
        let (Node::Image(old), Node::Image(new)) = (image(1), image(2)) else { unreachable!() };
        inodes.rebind(&old, &new);
        assert_eq!(inodes.node(ino), Some(image(2)));
        assert_eq!(inodes.number(&image(2)), ino);
        inodes.forget(ino, 1);
        assert_ne!(inodes.number(&image(2)), ino, "nobody holds the old number any more");
    }
}
