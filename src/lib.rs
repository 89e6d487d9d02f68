//! glancefs: the images of an OpenStack cloud (Glance) as files.
//!
//! Each module is one layer of `docs/design.md`; a layer uses only those below it:
//! `cli → client` for the commands that work on a mount from outside, `cli → manage → glance` for those that
//! work on the cloud, and
//! `cli → mount → fuse → fs → { read → cache → source, write, catalog } → glance → auth`,
//! with `config`, `units`, `budget`, `allocator`, `metrics`, `blocking`, `private_folder`, `ioctl`, `reference`, `format`,
//! `signature` and `error` as leaves that all may use.

pub mod allocator;
pub mod auth;
pub mod blocking;
pub mod budget;
pub mod cache;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod config;
pub mod doctor;
pub mod error;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod glance;
pub mod ioctl;
pub mod manage;
pub mod metrics;
pub mod mount;
pub mod private_folder;
pub mod read;
pub mod reference;
pub mod signature;
pub mod source;
pub mod units;
pub mod write;
