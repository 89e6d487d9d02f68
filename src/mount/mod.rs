//! A mount's life: daemon with readiness, signals, stale-mount repair.

use crate::config::Config;
use crate::error::Result;

/// Mounts and returns once it is ready (in the parent) or ended (in the foreground).
pub fn mount(_config: Config) -> Result<()> {
    unimplemented!()
}
