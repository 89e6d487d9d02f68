//! The cases: what a user does with images, each run by each contender.

mod boot;
mod first_byte;
mod limited;
mod listing;
mod many;
mod random;
mod sequential;
mod upload;

use std::time::Instant;

use crate::Result;
use crate::contender::Contender;
use crate::http::Connection;
use crate::meter::Sample;
use crate::reader::{Access, Reading};
use crate::server::Image;
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
    /// The same past the page cache (O_DIRECT), as QEMU reads with `cache=none`.
    RandomDirect(usize),
    /// A virtual machine's boot, nothing cached.
    BootCold,
    /// The same again.
    BootWarm,
    /// Nothing cached, but another host has given what the boot reads.
    BootProfiled,
    /// 16 readers of one image, nothing cached.
    Readers,
    /// Four images at once, nothing cached.
    Images,
    /// The first read of an image.
    FirstByte,
    /// Mount, and `ls -l` of a large catalogue.
    Listing,
    /// All of an image cold, the daemon in a small cgroup.
    LimitedSequential,
    /// Then random reads of it past the page cache.
    LimitedRandom,
    /// Then the boot of another image.
    LimitedBoot,
    /// A new image.
    Upload,
}

/// How a phase's speed is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes per second.
    Bytes,
    /// Reads per second.
    Reads,
    /// Time for one act.
    Latency,
}

impl Phase {
    /// What counts in it.
    pub fn unit(self) -> Unit {
        match self {
            Self::RandomCold(_) | Self::RandomHot(_) | Self::RandomDirect(_) | Self::LimitedRandom => {
                Unit::Reads
            }
            Self::BootCold | Self::BootWarm | Self::BootProfiled | Self::LimitedBoot => Unit::Reads,
            Self::FirstByte | Self::Listing => Unit::Latency,
            _ => Unit::Bytes,
        }
    }
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
            Self::BootProfiled => f.pad("boot trace, cold, profile known"),
            Self::Readers => f.pad("16 readers of one image, cold"),
            Self::RandomDirect(depth) => f.pad(&format!("random 4 KiB, O_DIRECT, depth {depth}")),
            Self::Images => f.pad("4 images at once, cold"),
            Self::FirstByte => f.pad("first 4 KiB of an image"),
            Self::Listing => f.pad("mount and ls -l"),
            Self::LimitedSequential => f.pad("128 MiB cgroup: sequential, cold"),
            Self::LimitedRandom => f.pad("128 MiB cgroup: random 4 KiB, O_DIRECT"),
            Self::LimitedBoot => f.pad("128 MiB cgroup: boot trace, cold"),
            Self::Upload => f.pad("upload"),
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

    /// Why it cannot be run on this machine.
    fn unavailable(&self) -> Option<String> {
        None
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
    &first_byte::FirstByte,
    &listing::Listing,
    &limited::Limited,
    &upload::Upload,
];

/// Makes the accesses as exact ranges, one after another on one connection.
pub fn bare(port: u16, image: &Image, accesses: &[Access]) -> Result<Reading> {
    let began = Instant::now();
    let path = format!("/v2/images/{}/file", image.id);
    let mut connection = Connection::open(port)?;
    let mut buffer = vec![0; accesses.iter().map(|access| access.length).max().unwrap_or_default()];
    let mut reading = Reading::default();
    for access in accesses {
        let bytes = &mut buffer[..access.length];
        connection.read_range(&path, access.offset, bytes)?;
        image.content.check(access.offset, bytes)?;
        reading.bytes += access.length as u64;
        reading.reads += 1;
    }
    reading.wall = began.elapsed();
    Ok(reading)
}
