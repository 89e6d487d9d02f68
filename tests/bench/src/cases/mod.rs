//! The cases: what a user does with images, each run by each contender.

mod boot;
mod many;
mod random;
mod sequential;

use crate::Result;
use crate::contender::Contender;
use crate::meter::Sample;
use crate::site::{ImageKind, Place, Site};

/// What is measured on its own; a row of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// All of an image, nothing of it cached.
    SequentialCold,
    /// The same again.
    SequentialHot,
    /// The same after a remount, page cache dropped.
    SequentialFromDisk,
    /// 4 KiB reads at random places, nothing cached, so many at a time.
    RandomCold(usize),
    /// The same with all of the image cached.
    RandomHot(usize),
    /// A virtual machine's boot, nothing cached.
    BootCold,
    /// The same again.
    BootWarm,
    /// 16 readers of one image, nothing cached.
    Readers,
    /// Four images at once, nothing cached.
    Images,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SequentialCold => f.pad("sequential, cold"),
            Self::SequentialHot => f.pad("sequential, hot"),
            Self::SequentialFromDisk => f.pad("sequential, from disk after remount"),
            Self::RandomCold(depth) => f.pad(&format!("random 4 KiB, cold, depth {depth}")),
            Self::RandomHot(depth) => f.pad(&format!("random 4 KiB, hot, depth {depth}")),
            Self::BootCold => f.pad("boot trace, cold"),
            Self::BootWarm => f.pad("boot trace, warm"),
            Self::Readers => f.pad("16 readers of one image, cold"),
            Self::Images => f.pad("4 images at once, cold"),
        }
    }
}

/// What one run gave.
pub type Samples = Vec<(Phase, Sample)>;

/// Something that users do.
pub trait Case: Sync {
    /// As `--case` names it.
    fn name(&self) -> &'static str;

    /// The images that it reads at a place.
    fn images(&self, place: Place) -> Vec<ImageKind>;

    /// Who takes part.
    fn contenders(&self) -> &'static [Contender];

    /// Whether it makes sense there.
    fn applies_to(&self, _place: Place) -> bool {
        true
    }

    /// Runs it once, from a fresh mount on.
    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples>;
}

/// All, in the order of tables.
pub const ALL: &[&dyn Case] = &[
    &sequential::Sequential,
    &random::Random { depth: 1 },
    &random::Random { depth: 32 },
    &boot::Boot,
    &many::Readers,
    &many::Images,
];
