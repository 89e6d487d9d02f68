//! The command line of `scripts/bootdemo`.

use std::path::PathBuf;

use clap::Parser;

use super::ways::Way;
use crate::link::LinkKind;

/// Starts virtual machines from images of a cloud: through the mount, from a local copy, and after a download.
#[derive(Debug, Parser)]
#[command(name = "scripts/bootdemo", next_line_help = true)]
pub struct Arguments {
    /// One cold start through the mount, nothing in the server's way: whether it works, no figures to be quoted.
    #[arg(long)]
    pub quick: bool,

    /// Only these images.
    #[arg(long = "image", value_name = "NAME", num_args = 1..)]
    kinds: Vec<ImageKind>,

    /// Only these ways, and what they need: warm and profiled need cold.
    #[arg(long = "way", value_name = "NAME", num_args = 1..)]
    ways: Vec<Way>,

    /// How often each way is gone [default: 3].
    #[arg(long, value_name = "NUMBER")]
    rounds: Option<usize>,

    /// The distance to Glance.
    #[arg(long, value_name = "NAME", default_value = "10ms")]
    link: LinkKind,

    /// What runs the guest's code: tcg, or kvm where the machine has it.
    #[arg(long, value_name = "NAME", default_value = "tcg")]
    pub accel: String,

    /// How QEMU reads the image: writeback (its default, through the page cache) or none (O_DIRECT, as Nova does).
    #[arg(long, value_name = "NAME", default_value = "writeback")]
    pub drive_cache: String,

    /// Add what is measured to this file, and report on all that is in it: so a long run can be made in pieces.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,

    /// Write the tables into docs/benchmarks.md.
    #[arg(long)]
    pub record: bool,

    /// The folder with the images.
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub images: PathBuf,

    /// The build of glancefs.
    #[arg(long, value_name = "PROGRAM", hide = true)]
    pub glancefs: PathBuf,
}

/// The images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum ImageKind {
    /// A Debian 12 server.
    Plain,
    /// The same with 4 GiB of other files.
    Padded,
}

impl std::fmt::Display for ImageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Plain => "plain",
            Self::Padded => "padded",
        })
    }
}

impl Arguments {
    /// Which images.
    pub fn kinds(&self) -> Vec<ImageKind> {
        match (self.kinds.is_empty(), self.quick) {
            (false, _) => self.kinds.clone(),
            (true, true) => vec![ImageKind::Plain],
            (true, false) => vec![ImageKind::Plain, ImageKind::Padded],
        }
    }

    /// Whether a way is to be gone.
    pub fn wants(&self, way: Way) -> bool {
        if self.quick { way == Way::Cold } else { self.ways.is_empty() || self.ways.contains(&way) }
    }

    /// How often; with 0 only what is in the file of samples is reported.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// How far away Glance is.
    pub fn link(&self) -> LinkKind {
        if self.quick { LinkKind::Direct } else { self.link }
    }
}
