//! End-to-end tests: the built program on real kernel mounts, against a real Glance and a real
//! Keystone, by the commands that people type.
//!
//! They need `/dev/fuse`, the tools that `scripts/setup` installs, and Python packages that
//! `scripts/devcloud prepare` installs; `scripts/test` sees to all of that. Tests that take minutes run
//! with `GLANCEFS_TEST_LONG=1` only (`scripts/test --long`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at what should not be"
)]

mod auth;
mod automounts;
mod cache_disk;
mod crashes;
mod direct;
mod doctor;
mod examples;
mod faults;
mod features;
mod fio;
mod folders;
mod fsx;
mod guests;
mod harness;
mod import;
mod inspect;
mod killed_writers;
mod life_cycle;
mod lifecycle;
mod listing;
mod logs;
mod members;
mod metadata;
mod metrics;
mod mount8;
mod names;
mod nova;
mod outage;
mod package;
mod passthrough;
mod posix;
mod profiles;
mod reading;
mod references;
mod scale;
mod secrets;
mod settings;
mod soak;
mod status;
mod stores;
mod stream_upload;
mod stress;
mod supervised;
mod tls;
mod tools;
mod uploading;
mod uploads;
mod v1;
mod verify;
mod whole;
mod xattrs;
