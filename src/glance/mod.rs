//! The Image API v2: requests, JSON, error kinds, retry with a deadline, server fail-over.
//!
//! `client` makes one exchange out of tries at several servers; `list`, `record`, `patch`, `schema`, `download`
//! and `upload` are what can be asked; `error` says what answers mean, `retry` when to try again,
//! `servers` whom to ask. The layers above know all this by the traits of `service`.

mod client;
mod download;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod image;
mod list;
mod patch;
mod record;
mod retry;
mod schema;
mod servers;
mod service;
#[cfg(test)]
mod tests;
mod upload;

pub use client::Glance;
pub use download::Download;
pub use image::{Image, KEPT_MTIME, MultiHash, PROFILE_PROPERTY, RecordText, SECRET_KEYS, Status, time_text};
pub use list::{NextPage, Page};
pub use patch::Change;
pub use record::NewImage;
pub use schema::Schema;
pub use service::{Cloud, Downloads, ImageService, Listing, OpenBody, Records};
pub use upload::Placement;
