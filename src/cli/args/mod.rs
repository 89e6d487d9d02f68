//! The arguments as they are written: one field per option, nothing merged and nothing checked
//! against another. [`super::merge`] turns them into a `Config`.
//!
//! `OS_*` variables are named in the help but not read here: merging them is a rule of its own (an
//! empty one counts as unset, some have fall-backs) that tests drive without touching the process.

//!
//! The options of a mount by what they are about: `cloud`, `cache`, `upload`, `access` and [`super::trust`]; the
//! commands that work on a mount from outside: `on_mount`, and those on the cloud: [`super::orders`].

mod access;
mod cache;
mod cloud;
mod on_mount;
pub mod places;
mod upload;

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use super::doctor::DoctorArguments;
use super::orders::OrderCommand;
use super::trust::TrustArguments;
use crate::units;
pub use access::AccessArguments;
pub use cache::CacheArguments;
pub use cloud::{CloudArguments, LoginArguments};
pub use on_mount::{
    EvictArguments, OnMountArguments, PrefetchArguments, ProfileCommand, StatusArguments, UmountArguments,
    UploadsArguments, UploadsCommand,
};
pub use places::Places;
pub use upload::UploadArguments;

const EXAMPLES: &str = "\
Examples:
  glancefs mount mycloud /mnt/images                a cloud of clouds.yaml
  . ./openrc.sh; glancefs mount /mnt/images         OS_* variables
  glancefs mount --os-auth-type none --endpoint http://glance:9292 /mnt/images
  glancefs mount mycloud:debian-12.qcow2 /mnt/one   one image only
  glancefs prefetch /mnt/images/debian-12.qcow2
  glancefs import --os-cloud mycloud debian-13 https://cloud.debian.org/debian-13.qcow2
  glancefs members /mnt/images/debian-12.qcow2 add 0d8ce8cbd9b84b6c8bb0f0d0a8a2a1a1
  glancefs status /mnt/images
  glancefs uploads /mnt/images; glancefs uploads retry 1f3c9a2b
  glancefs doctor /mnt/images
  glancefs umount /mnt/images
  glancefs profile export /mnt/images/debian.qcow2 | ssh host2 glancefs profile import /mnt/images/debian.qcow2";

/// The images of an OpenStack cloud (Glance) as files.
#[derive(Debug, Parser)]
#[command(name = "glancefs", version, args_override_self = true, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Mount(Box<MountArguments>),
    Config(ConfigArguments),
    Umount(UmountArguments),
    Prefetch(PrefetchArguments),
    Evict(EvictArguments),
    Status(StatusArguments),
    Uploads(UploadsArguments),
    Doctor(Box<DoctorArguments>),
    #[command(subcommand)]
    Profile(ProfileCommand),
    #[command(flatten)]
    Order(OrderCommand),
}

const CONFIG: &str = "Show what is in force for a mount with these options, and where each value comes from";

const CONFIG_MORE: &str = "\
It is TOML, as the configuration files take it. Options go before variables, these before the user's file \
($XDG_CONFIG_HOME/glancefs/glancefs.toml or ~/.config/glancefs/glancefs.toml), that before /etc/glancefs/glancefs.toml; a file \
that [env: GLANCEFS_CONFIG] names takes the place of both. No secret is shown.";

/// What `glancefs config` takes: all that a mount takes, the mount point if one likes.
#[derive(Debug, Clone)]
pub struct ConfigArguments {
    /// Those of a mount, as they were given.
    pub matches: ArgMatches,
}

impl Args for ConfigArguments {
    fn augment_args(command: clap::Command) -> clap::Command {
        // One word alone is the source.
        let places = |places: Arg| {
            places.id("source").value_names(["SOURCE [MOUNTPOINT]"]).num_args(0..=2).required(false)
        };
        let command = MountArguments::augment_args(command).mut_arg(places::PLACES, places);
        command
            .about(CONFIG)
            .long_about(format!("{CONFIG}.\n\n{CONFIG_MORE}"))
            .override_usage("glancefs config [OPTIONS] [SOURCE [MOUNTPOINT]]")
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { matches: matches.clone() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.matches = matches.clone();
        Ok(())
    }
}

/// Show the images of a cloud as files below MOUNTPOINT.
///
/// Returns once the images can be listed, and goes on in the background. Sizes are bytes or take
/// K, M, G, T, KiB, MiB, GiB, TiB (all powers of 1024); durations are seconds or take ms, s, m, h, d.
/// Of an option given twice the last counts; only --endpoint adds up. A switch that a configuration file turns on is turned off
/// by --SWITCH=false.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, next_line_help = true, override_usage = "glancefs mount [OPTIONS] [SOURCE] <MOUNTPOINT>")]
pub struct MountArguments {
    #[command(flatten)]
    pub places: Places,

    #[command(flatten)]
    pub cloud: CloudArguments,

    #[command(flatten)]
    pub cache: CacheArguments,

    #[command(flatten)]
    pub upload: UploadArguments,

    #[command(flatten)]
    pub access: AccessArguments,

    #[command(flatten)]
    pub trust: TrustArguments,

    /// Stay in the foreground and log to standard error.
    #[arg(long, help_heading = "Running")]
    pub foreground: bool,

    /// Append the log to this file instead of the journal or syslog. What is logged: [env: GLANCEFS_LOG],
    /// such as "debug" or "glancefs::cache=trace" (default: info).
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub log_file: Option<PathBuf>,

    /// Answer `GET /metrics` by HTTP at this address, for Prometheus (see docs/metrics.md); a port alone is one of
    /// 127.0.0.1.
    #[arg(long, value_name = "ADDR", value_parser = units::parse_listen_address, help_heading = "Running")]
    pub metrics_listen: Option<std::net::SocketAddr>,

    /// Set by `cli::settings`: SOURCE is the name of a section of a configuration file, which says how to log in.
    #[arg(skip)]
    pub own_cloud: Option<String>,

    /// Internal: this process is the background part; its standard output takes the readiness.
    #[arg(long, hide = true)]
    pub daemon: bool,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;
    use crate::config::ApiVersion;
    use crate::units::ByteSize;

    fn mount(arguments: &[&str]) -> Result<MountArguments, clap::Error> {
        let line = ["glancefs", "mount"].iter().chain(arguments);
        match Arguments::try_parse_from(line)?.command {
            Command::Mount(mount) => Ok(*mount),
            _ => unreachable!("the line begins with mount"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn of_a_repeated_option_the_last_counts() {
        let given =
            mount(&["--timeout", "5s", "--os-cloud=a", "/m", "--os-cloud", "b", "--timeout=9s"]).unwrap();
        assert_eq!(given.cloud.login.os_cloud.as_deref(), Some("b"));
        assert_eq!(given.cloud.login.timeout, Duration::from_secs(9));
        assert!(mount(&["--read-only", "--read-only", "/m"]).unwrap().access.read_only);
    }

    #[test]
    fn the_version_of_the_api_is_found_out_unless_it_is_given() {
        assert_eq!(mount(&["/m"]).unwrap().cloud.login.api_version, ApiVersion::Auto);
        assert_eq!(mount(&["--api-version", "1", "/m"]).unwrap().cloud.login.api_version, ApiVersion::V1);
        assert_eq!(mount(&["--api-version=2", "/m"]).unwrap().cloud.login.api_version, ApiVersion::V2);
    }

    #[test]
    fn endpoints_add_up() {
        let given = mount(&["--endpoint", "http://a", "--endpoint=http://b", "/m"]).unwrap();
        assert_eq!(given.cloud.login.endpoint, ["http://a", "http://b"]);
    }

    #[test]
    fn a_source_goes_before_the_mount_point() {
        for line in [["c:image", "/m", "--hard"], ["c:image", "--hard", "/m"], ["--hard", "c:image", "/m"]] {
            let Places { source, mountpoint } = mount(&line).unwrap().places;
            assert_eq!((source.as_deref(), mountpoint.to_str()), (Some("c:image"), Some("/m")), "{line:?}");
        }
        let Places { source, mountpoint } = mount(&["--read-only", "/m"]).unwrap().places;
        assert_eq!((source, mountpoint.to_str()), (None, Some("/m")));
        assert!(mount(&["--read-only"]).is_err() && mount(&["a", "b", "--hard", "c"]).is_err());
    }

    #[test]
    fn sizes_durations_and_modes_are_read_in_their_own_ways() {
        let given =
            mount(&["--cache-size=3G", "--metadata-ttl=2m", "--file-mode=640", "--dir-mode=0o750", "/m"]);
        let given = given.unwrap();
        assert_eq!(given.cache.cache_size, ByteSize(3 << 30));
        assert_eq!(given.cloud.metadata_ttl, Duration::from_secs(120));
        assert_eq!((given.access.file_mode, given.access.dir_mode), (0o640, 0o750));
    }

    #[test]
    fn a_wrong_value_is_told_with_its_option_and_a_cure() {
        for (arguments, words) in [
            (["--cache-size=10GB", "/m"], ["--cache-size", "10GB", "GiB"]),
            (["--timeout=1w", "/m"], ["--timeout", "1w", "ms, s, m, h or d"]),
            (["--api-version=3", "/m"], ["--api-version", "auto, 1, 2", "'3'"]),
            (["--retries=1000", "/m"], ["--retries", "1000", "0..=100"]),
            (["--file-mode=888", "/m"], ["--file-mode", "888", "octal"]),
            (["--dir-mode=4755", "/m"], ["--dir-mode", "4755", "777"]),
            (["--file-mode=+644", "/m"], ["--file-mode", "+644", "octal"]),
            (["--cache-free-percent=100", "/m"], ["--cache-free-percent", "100", "0..=99"]),
        ] {
            let error = mount(&arguments).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{word:?} is not in {error}");
            }
        }
    }

    #[test]
    fn help_never_shows_the_internal_option() {
        let mut command = Arguments::command();
        let help = command.find_subcommand_mut("mount").unwrap().render_long_help().to_string();
        assert!(!help.contains("--daemon"));
        assert!(help.contains("[env: OS_CLOUD]"));
    }
}
