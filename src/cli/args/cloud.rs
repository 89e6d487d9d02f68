//! The options about the cloud: who logs in where, how servers are asked, and what is listed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::ApiVersion;
use crate::units;

/// Who logs in where: the same for a mount and for the commands that act on the cloud.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cloud")]
pub struct LoginArguments {
    /// Use this cloud of clouds.yaml and secure.yaml [env: OS_CLOUD]. The file itself can be named by [env: OS_CLIENT_CONFIG_FILE].
    #[arg(long, value_name = "NAME")]
    pub os_cloud: Option<String>,

    /// The address of Glance, instead of the one in the catalogue; several servers of one cloud may be given,
    /// by repeating the option [env: OS_ENDPOINT, separated by commas].
    #[arg(long, value_name = "URL")]
    pub endpoint: Vec<String>,

    /// How to log in: none, admin_token, password, v3password, token, v3token or v3applicationcredential [env: OS_AUTH_TYPE].
    /// A token itself is taken from [env: OS_TOKEN] only.
    #[arg(long, value_name = "TYPE")]
    pub os_auth_type: Option<String>,

    /// Run CMD with sh -c for each token; the first line of its output is the token. Needs --endpoint. CMD should use absolute paths, and exit with 75 when it fails for an outage.
    #[arg(long, value_name = "CMD")]
    pub token_command: Option<String>,

    /// The region whose Glance is used [env: OS_REGION_NAME].
    #[arg(long, value_name = "REGION")]
    pub os_region_name: Option<String>,

    /// Which address of the catalogue is used: public, internal or admin [env: OS_INTERFACE or OS_ENDPOINT_TYPE].
    #[arg(long, value_name = "INTERFACE")]
    pub os_interface: Option<String>,

    /// Trust the certificates of this PEM file as well [env: OS_CACERT].
    #[arg(long, value_name = "FILE")]
    pub os_cacert: Option<PathBuf>,

    /// Show the certificate of this PEM file to servers that demand one of their clients [env: OS_CERT].
    #[arg(long, value_name = "FILE")]
    pub os_cert: Option<PathBuf>,

    /// The PEM file with the key of --os-cert, without a password [default: the same file] [env: OS_KEY].
    #[arg(long, value_name = "FILE")]
    pub os_key: Option<PathBuf>,

    /// Do not check the certificates of servers: whoever is on the network can read and forge everything [env: OS_INSECURE].
    #[arg(long)]
    pub insecure: bool,

    /// How long a request may make no progress.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::parse_duration)]
    pub timeout: Duration,

    /// How often a request that fails (HTTP 500, 429) is sent again, each time to the next server. Servers that are away
    /// (refused and broken connections, timeouts, HTTP 502 to 504) are asked again until --timeout whatever this says.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub retries: u32,

    /// Which version of the Image API is spoken: auto (2 where the servers have it, else 1), 1 or 2.
    #[arg(long, value_name = "VERSION", default_value = "auto", value_parser = api_version())]
    pub api_version: ApiVersion,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cloud")]
pub struct CloudArguments {
    #[command(flatten)]
    pub login: LoginArguments,

    /// List hidden images (os_hidden), too.
    #[arg(long)]
    pub hidden: bool,

    /// List images of these visibilities only: public, private, shared, community or all, separated by commas
    /// [default: what Glance lists: the project's own, public ones, and accepted shared ones]. Others can still be
    /// opened below .by-id.
    #[arg(long, value_name = "WHICH")]
    pub visibility: Option<String>,

    /// How long the list of images is believed before it is fetched again.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::parse_duration)]
    pub metadata_ttl: Duration,

    /// How many transfers of image data may run at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    pub max_connections: usize,

    /// Never give up on servers that are away: programs wait for them as long as it takes, instead of --timeout, or until
    /// they are killed. Lists still fail after --timeout, and the last good one is shown.
    #[arg(long)]
    pub hard: bool,

    /// When Glance or Keystone does not answer, mount with the list of images saved last. A refused login still fails.
    #[arg(long)]
    pub allow_stale: bool,
}

fn api_version() -> impl TypedValueParser<Value = ApiVersion> {
    PossibleValuesParser::new(["auto", "1", "2"]).map(|word| match word.as_str() {
        "1" => ApiVersion::V1,
        "2" => ApiVersion::V2,
        _ => ApiVersion::Auto,
    })
}
