//! The two servers: a real Glance, and nginx with the same records and the same files.

mod glance;
mod log;
mod nginx;

use std::path::PathBuf;

pub use glance::{Glance, GlanceCatalogue};
pub use log::{AccessLog, Traffic};
pub use nginx::{Catalogue, Nginx};

use crate::content::Content;
use crate::process::Processes;

/// An image that both servers have.
#[derive(Debug, Clone)]
pub struct Image {
    /// `big`, `boot`, `part-1`, ...
    pub name: String,
    /// Given by Glance.
    pub id: String,
    /// What it consists of.
    pub content: Content,
    /// The file that the servers send, in memory where there is room.
    pub served: PathBuf,
    /// A copy on the disk of the caches.
    pub plain: PathBuf,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum ServerKind {
    /// nginx with static files, which is never the limit.
    Nginx,
    /// `scripts/devcloud` without authentication.
    Glance,
}

impl std::fmt::Display for ServerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Nginx => "nginx",
            Self::Glance => "Glance",
        })
    }
}

/// What the bench needs to know of a running server.
#[derive(Debug, Clone)]
pub struct Server {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// Its master process; workers are its children.
    pub process: u32,
    /// Where it notes requests.
    pub access_log: PathBuf,
}

impl Server {
    /// Its processes.
    pub fn processes(&self) -> Processes {
        Processes(vec![self.process])
    }
}
