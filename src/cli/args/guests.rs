//! The options about virtual machines: what is done so that guests run from images of the mount.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::{Hold, NovaBase};

#[derive(Debug, Args)]
#[command(next_help_heading = "Virtual machines")]
pub struct GuestsArguments {
    /// Keep images although they are deleted in the cloud: open (each image that is open for more than 2 s is fetched whole
    /// and stays in the cache for as long as it is open), or off.
    #[arg(long, value_name = "WHEN", default_value = "off", value_parser = hold())]
    pub hold: Hold,

    /// What .nova-base shows, the view for the image cache of Nova (see docs/hypervisors.md): raw (images that Nova uses as they
    /// are, raw and iso), qcow2 (these and qcow2, where nova.conf says force_raw_images = False), or off.
    #[arg(long, value_name = "FORMAT", default_value = "raw", value_parser = nova_base())]
    pub nova_base: NovaBase,
}

fn hold() -> impl TypedValueParser<Value = Hold> {
    PossibleValuesParser::new(["off", "open"]).map(|word| match word.as_str() {
        "open" => Hold::Open,
        _ => Hold::Off,
    })
}

fn nova_base() -> impl TypedValueParser<Value = NovaBase> {
    PossibleValuesParser::new(["off", "raw", "qcow2"]).map(|word| match word.as_str() {
        "off" => NovaBase::Off,
        "qcow2" => NovaBase::Qcow2,
        _ => NovaBase::Raw,
    })
}
