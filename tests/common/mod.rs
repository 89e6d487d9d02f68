//! What several integration tests share.

// Each of them is a program of its own and uses a part of this.
#![allow(dead_code)]

pub mod devcloud;
pub mod run;
