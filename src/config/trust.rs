//! How far image data are believed, and where they may come from besides Glance.

use std::path::PathBuf;

/// How far image data are believed, and where they may come from besides Glance.
#[derive(Debug, Clone, Default)]
pub struct TrustConfig {
    /// What has to be proven of an image.
    pub verify: Verify,
    /// The certificates that signatures are checked with, one a file: `<uuid>.pem`. Given with [`Verify::Signature`].
    pub trusted_certs: PathBuf,
    /// What becomes of images that are unsafe to use.
    pub inspect: Inspect,
    /// What may be read past Glance.
    pub direct: DirectConfig,
}

/// What has to be proven of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verify {
    /// Nothing: the whole is not compared with its hash.
    None,
    /// Its hash, once the whole of it is here; reads go on meanwhile.
    #[default]
    Hash,
    /// Its hash, before the first byte is read.
    Strict,
    /// Its hash and its signature, before the first byte is read.
    Signature,
}

/// What becomes of images that are unsafe to use, such as a qcow2 that names files of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inspect {
    /// Nobody looks.
    Off,
    /// They are told of once.
    #[default]
    Warn,
    /// They cannot be opened.
    Deny,
}

/// What may be read past Glance, where it shows the locations of an image.
#[derive(Debug, Clone, Default)]
pub struct DirectConfig {
    /// `file:` locations below these folders.
    pub roots: Vec<DirectRoot>,
    /// `http:` and `https:` locations.
    pub http: bool,
}

impl DirectConfig {
    /// Nothing may.
    pub fn is_off(&self) -> bool {
        self.roots.is_empty() && !self.http
    }
}

/// A folder of Glance's file store that this host has, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectRoot {
    /// What Glance calls it.
    pub theirs: PathBuf,
    /// What it is here.
    pub ours: PathBuf,
}
