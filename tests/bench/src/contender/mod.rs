//! What is compared: glancefs, what a user would pick instead of it, and the limits that nobody can beat.

mod curl;
mod files;
mod mounts;

use std::path::{Path, PathBuf};

pub use curl::download;
pub use files::Files;
pub use mounts::glancefs;

use crate::Result;
use crate::process::find;
use crate::server::{Image, ServerKind};

/// Something that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Contender {
    /// The program of this package.
    Glancefs,
    /// Another build of it (`--against`).
    Other,
    /// `curl -o /dev/null`: the limit of one transfer.
    Curl,
    /// The same requests bare, one after another on one connection: the limit of a client that does not look ahead.
    Bare,
    /// A file on the disk of the caches: the limit of a local copy.
    Plain,
    /// `rclone mount`, http backend, `--vfs-cache-mode full`.
    Rclone,
    /// `nbdkit curl` shown as a file by `nbdfuse`.
    Nbdkit,
}

impl std::fmt::Display for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Glancefs => "glancefs",
            Self::Other => "other glancefs",
            Self::Curl => "curl",
            Self::Bare => "bare requests",
            Self::Plain => "plain file",
            Self::Rclone => "rclone",
            Self::Nbdkit => "nbdkit",
        })
    }
}

impl Contender {
    /// All, in the order of tables.
    pub const ALL: [Self; 7] =
        [Self::Glancefs, Self::Other, Self::Curl, Self::Bare, Self::Plain, Self::Rclone, Self::Nbdkit];

    /// The packages that are missing for it to take part.
    pub fn missing(self) -> Vec<&'static str> {
        let tools: &[(&str, &str)] = match self {
            Self::Rclone => &[("rclone", "rclone")],
            Self::Nbdkit => &[("nbdkit", "nbdkit"), ("nbdfuse", "libnbd-bin")],
            _ => &[],
        };
        tools.iter().filter(|(tool, _)| find(tool).is_none()).map(|(_, package)| *package).collect()
    }

    /// Whether it can read from this server: the peers want a HEAD of the data, which Glance refuses, or a listing of
    /// files, which it does not have.
    pub fn reads_from(self, server: ServerKind) -> bool {
        server == ServerKind::Nginx || !matches!(self, Self::Rclone | Self::Nbdkit)
    }

    /// Whether it has processes of its own, which outlast a read.
    pub fn has_daemon(self) -> bool {
        !matches!(self, Self::Curl | Self::Bare | Self::Plain)
    }

    /// Whether it is a process of ours whose disk cache serves a later mount.
    pub fn has_disk_cache(self) -> bool {
        matches!(self, Self::Glancefs | Self::Other | Self::Rclone)
    }

    /// Shows images of the server at `port` as files. What it keeps on disk goes into `folder`, and serves a later
    /// mount with the same folder.
    pub fn mount(self, programs: &Programs, port: u16, folder: &Path, images: &[&Image]) -> Result<Files> {
        std::fs::create_dir_all(folder)?;
        let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
        match self {
            Self::Glancefs => mounts::glancefs(&programs.glancefs, &programs.wrapper, port, folder, &ids),
            Self::Other => {
                let program = programs.other.as_ref().ok_or("--against names no program")?;
                mounts::glancefs(program, &programs.wrapper, port, folder, &ids)
            }
            Self::Rclone => mounts::rclone(port, folder, images),
            Self::Nbdkit => mounts::nbdkit(port, folder, images),
            Self::Plain => Ok(Files::plain(images)),
            Self::Curl | Self::Bare => Err(format!("{self} shows no files").into()),
        }
    }
}

impl Programs {
    /// The build that this contender is; `None`: it is none of glancefs.
    pub fn of(&self, contender: Contender) -> Option<&Path> {
        match contender {
            Contender::Glancefs => Some(&self.glancefs),
            Contender::Other => self.other.as_deref(),
            _ => None,
        }
    }
}

/// The builds of glancefs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The one that is measured.
    pub glancefs: PathBuf,
    /// The one that it is compared with.
    pub other: Option<PathBuf>,
    /// Put in front of the daemon's command line: to start it in a cgroup.
    pub wrapper: Vec<String>,
}
