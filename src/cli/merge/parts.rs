//! The parts of a configuration by themselves, for `glancefs doctor`: one that is wrong does not hide the others.

use super::{auth_config, cache_config, http_config, source, spool_config};
use crate::cli::args::MountArguments;
use crate::config::{CacheConfig, Environment, SpoolConfig};
use crate::error::Result;
use crate::manage::Connection;

/// What options and variables say, as far as each part of it can be used.
pub struct Parts {
    /// How the cloud is reached.
    pub connection: Result<Connection>,
    /// The cache folder.
    pub cache: Result<CacheConfig>,
    /// The spool folder.
    pub spool: Result<SpoolConfig>,
}

/// The parts of what these arguments and this environment ask for. The mount point is not looked at.
pub fn parts(arguments: &MountArguments, environment: &Environment) -> Parts {
    let cache = cache_config(&arguments.cache, environment);
    let spool = match &cache {
        Ok(cache) => spool_config(&arguments.upload, &cache.dir),
        Err(error) => Err(error.duplicate()),
    };
    Parts { connection: connection(arguments, environment), cache, spool }
}

fn connection(arguments: &MountArguments, environment: &Environment) -> Result<Connection> {
    let source = source::chosen(arguments)?;
    Ok(Connection {
        auth: auth_config(&source.login, source.endpoint.as_ref(), environment)?,
        http: http_config(&source.login, arguments.cloud.max_connections, environment)?,
        api_version: source.login.api_version,
    })
}
