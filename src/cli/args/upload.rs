//! The options about uploads: how they are made, where they wait, and what is kept of those that fail.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::Upload;
use crate::units::{self, ByteSize};

#[derive(Debug, Args)]
#[command(next_help_heading = "Uploads")]
pub struct UploadArguments {
    /// Where uploads wait until they are complete [default: the folder "spool" of the cache].
    #[arg(long, value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,

    /// How much disk waiting uploads may occupy; beyond, writes fail with ENOSPC [default: what the disk holds].
    #[arg(long, value_name = "SIZE")]
    pub spool_size: Option<ByteSize>,

    /// How uploads are made: spool (when a file is closed, from the spool), or stream (while it is written, for programs
    /// that write in order, without local space; other writes fail with ESPIPE, and nothing is kept of what fails).
    #[arg(long, value_name = "WAY", default_value = "spool", value_parser = way())]
    pub upload: Upload,

    /// The store that uploads go to; `getfattr -n user.glance.stores MOUNTPOINT` tells which there are [default: the
    /// default store of the cloud].
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,

    /// How long the bytes of an upload that failed or was killed are kept in the spool. The oldest go sooner (none
    /// within an hour) when a new upload finds no room. What is removed is logged.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = units::parse_duration)]
    pub keep_failed: Duration,
}

fn way() -> impl TypedValueParser<Value = Upload> {
    PossibleValuesParser::new(["spool", "stream"]).map(|word| match word.as_str() {
        "stream" => Upload::Stream,
        _ => Upload::Spool,
    })
}
