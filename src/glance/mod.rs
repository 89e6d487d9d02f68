//! The Image API, v2 and v1: requests, JSON, error kinds, retry with a deadline, server fail-over.
//!
//! `client` makes one exchange out of tries at several servers; `list`, `record`, `patch`, `schema`, `download`, `prefer`,
//! `location`, `upload`, `import`, `sharing` and `facts` are what can be asked, `resolve` finds what a person names,
//! `only` makes a service of one image; `error` says what answers mean, `retry` when to try again,
//! `servers` whom to ask. `v1` asks the same of old clouds, `negotiated` finds out which of the two there is.
//! The layers above know all this by the traits of `service`.

mod client;
mod download;
mod error;
mod facts;
#[cfg(test)]
pub(crate) mod fake;
mod filter;
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod import;
mod list;
mod location;
mod negotiated;
mod only;
mod patch;
mod prefer;
mod readable;
mod record;
mod resolve;
mod retry;
mod schema;
mod servers;
mod service;
mod sharing;
#[cfg(test)]
mod tests;
mod trace;
mod upload;
mod v1;

pub use client::Glance;
pub use download::Download;
pub use facts::{Quota, Store, Usage};
pub use filter::Filter;
pub use image::{Image, KEPT_MTIME, MultiHash, PROFILE_PROPERTY, RecordText, SECRET_KEYS, Status, time_text};
pub use import::{ImportMethod, ImportStores, Task};
pub use list::{NextPage, Page};
pub use negotiated::{Negotiated, Versioned, v1_lacks};
pub use only::OnlyImage;
pub use patch::Change;
pub use record::NewImage;
pub use schema::Schema;
pub use service::{BodyStream, Cloud, Downloads, Facts, ImageService, Listing, OpenBody, Records};
pub use sharing::{Member, Verdict};
pub use upload::{Destination, Placement};
pub use v1::{GlanceV1, V1Member};
