//! The options about the cache: where it is, how much it may take, and how images are read from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::{Passthrough, Prefetch};
use crate::units::{self, ByteSize};

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArguments {
    /// Where image data are cached; mounts of one user share it [default: /var/cache/glancefs for root, else
    /// $XDG_CACHE_HOME/glancefs or ~/.cache/glancefs].
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// How much disk the cache may occupy.
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    pub cache_size: ByteSize,

    /// How much of the cache's disk stays free in any case, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=99))]
    pub cache_free_percent: u8,

    /// How long the read that completes an image waits until the whole was compared with its hash, so that an image
    /// whose bytes are wrong is not read whole without an error; 0 to compare behind the readers only. Beyond,
    /// the read is answered and a mismatch makes later reads fail [default: 5 % of the time that fetching took, which is
    /// enough up to some 2 Gb/s].
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    pub verify_wait: Option<Duration>,

    /// How much memory cached blocks and transfers may take [default: 256MiB, less in a small cgroup].
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,

    /// Whether the kernel reads complete, verified images straight from the cache (FUSE passthrough); auto: where the kernel
    /// and the privileges of this process allow it.
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = passthrough())]
    pub passthrough: Passthrough,

    /// Fetch whole images behind those who read: off, or open (each image that is open for more than 2 s, for
    /// as long as it is).
    #[arg(long, value_name = "WHEN", default_value = "off", value_parser = prefetch())]
    pub prefetch: Prefetch,

    /// Read from these stores, separated by commas, where they have the data. Glance can do so since 2026.1; when the
    /// one that is asked cannot, the log says so at the first read [default: Glance chooses].
    #[arg(long, value_name = "STORES")]
    pub prefer_store: Option<String>,
}

fn passthrough() -> impl TypedValueParser<Value = Passthrough> {
    PossibleValuesParser::new(["auto", "off"]).map(|word| match word.as_str() {
        "off" => Passthrough::Off,
        _ => Passthrough::Auto,
    })
}

fn prefetch() -> impl TypedValueParser<Value = Prefetch> {
    PossibleValuesParser::new(["off", "open"]).map(|word| match word.as_str() {
        "open" => Prefetch::Open,
        _ => Prefetch::Off,
    })
}
