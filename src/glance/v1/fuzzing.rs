//! What [`super::super::fuzzing`] needs of this version.

pub(in crate::glance) use super::headers::{image_of_headers, image_of_json};
