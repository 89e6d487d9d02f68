//! The arguments as they are written: one field per option, nothing merged and nothing checked
//! against another. [`super::merge`] turns them into a `Config`.
//!
//! `OS_*` variables are named in the help but not read here: merging them is a rule of its own (an
//! empty one counts as unset, some have fall-backs) that tests drive without touching the process.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use super::orders::OrderCommand;
use super::trust::TrustArguments;
use crate::config::{ApiVersion, Passthrough, Prefetch, Upload};
use crate::units::{self, ByteSize};

const EXAMPLES: &str = "\
Examples:
  glancefs mount --os-cloud mycloud /mnt/images     a cloud of clouds.yaml
  . ./openrc.sh; glancefs mount /mnt/images         OS_* variables
  glancefs mount --os-auth-type none --endpoint http://glance:9292 /mnt/images
  glancefs mount mycloud:debian-12.qcow2 /mnt/one   one image only
  glancefs prefetch /mnt/images/debian-12.qcow2
  glancefs import --os-cloud mycloud debian-13 https://cloud.debian.org/debian-13.qcow2
  glancefs members /mnt/images/debian-12.qcow2 add 0d8ce8cbd9b84b6c8bb0f0d0a8a2a1a1
  glancefs status /mnt/images
  glancefs uploads /mnt/images; glancefs uploads retry 1f3c9a2b
  glancefs umount /mnt/images
  glancefs profile export /mnt/images/debian.qcow2 | ssh host2 glancefs profile import /mnt/images/debian.qcow2";

const ON_MOUNT: &str = "\
An image is named by its path on a mount, or by its id, its name or its full address
(https://glance:9292/v2/images/ID), which are looked for on one mount. With --mount, only what begins with /, ./ or ../
is a path. Of several images of one name the one whose file has that name is meant.";

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
    Umount(UmountArguments),
    Prefetch(PrefetchArguments),
    Evict(EvictArguments),
    Status(StatusArguments),
    Uploads(UploadsArguments),
    #[command(subcommand)]
    Profile(ProfileCommand),
    #[command(flatten)]
    Order(OrderCommand),
}

/// Copy boot profiles between hosts.
///
/// What a guest reads while it starts from an image is recorded once, and fetched ahead of it at later starts. The
/// record is small and belongs to the data: it works on every mount of every host that has it.
#[derive(Debug, Subcommand)]
#[command(after_help = ON_MOUNT)]
pub enum ProfileCommand {
    /// Write the boot profile of an image to standard output or a file.
    Export {
        /// The image.
        image: PathBuf,
        #[command(flatten)]
        on: OnMountArguments,
        /// The file to write.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Store the boot profile of an image in the property glancefs_profile of the image.
    ///
    /// Mounts that have none of their own use it. Whoever may change the image may publish; to take it back:
    /// setfattr -x user.glance.property.glancefs_profile PATH.
    Publish {
        /// The image.
        image: PathBuf,
        #[command(flatten)]
        on: OnMountArguments,
    },
    /// Take over the boot profile of an image from a file ("-": standard input).
    Import {
        /// The image.
        image: PathBuf,
        #[command(flatten)]
        on: OnMountArguments,
        /// What `glancefs profile export` wrote.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

/// Show the images of a cloud as files below MOUNTPOINT.
///
/// Returns once the images can be listed, and goes on in the background. Sizes are bytes or take
/// K, M, G, T, KiB, MiB, GiB, TiB (all powers of 1024); durations are seconds or take ms, s, m, h, d.
/// Of an option given twice the last counts; only --endpoint adds up.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, next_line_help = true, allow_missing_positional = true)]
pub struct MountArguments {
    /// What is shown: a cloud of clouds.yaml, the address of a Glance, or one image, as CLOUD:IMAGE (:IMAGE in the cloud
    /// of the options and variables) or by its full address, which is then the only file [default: the cloud of
    /// the options and variables].
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,

    /// An existing directory where the images shall appear.
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,

    #[command(flatten)]
    pub cloud: CloudArguments,

    #[command(flatten)]
    pub local: LocalArguments,

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

    /// Internal: this process is the background part; its standard output takes the readiness.
    #[arg(long, hide = true)]
    pub daemon: bool,
}

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

    /// When Glance or Keystone does not answer, mount with the list of images saved last. A refused login still fails.
    #[arg(long)]
    pub allow_stale: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache and spool")]
pub struct LocalArguments {
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

    /// Where uploads wait until they are complete [default: the folder "spool" of the cache].
    #[arg(long, value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,

    /// How much disk waiting uploads may occupy; beyond, writes fail with ENOSPC [default: what the disk holds].
    #[arg(long, value_name = "SIZE")]
    pub spool_size: Option<ByteSize>,

    /// How uploads are made: spool (when a file is closed, from the spool), or stream (while it is written, for programs
    /// that write in order, without local space; other writes fail with ESPIPE, and nothing is kept of what fails).
    #[arg(long, value_name = "WAY", default_value = "spool", value_parser = upload())]
    pub upload: Upload,

    /// The store that uploads go to; `getfattr -n user.glance.stores MOUNTPOINT` tells which there are [default: the
    /// default store of the cloud].
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,

    /// Read from these stores, separated by commas, where they have the data. Glance can do so since 2026.1; when the
    /// one that is asked cannot, the log says so at the first read [default: Glance chooses].
    #[arg(long, value_name = "STORES")]
    pub prefer_store: Option<String>,

    /// How long the bytes of an upload that failed or was killed are kept in the spool. The oldest go sooner (none
    /// within an hour) when a new upload finds no room. What is removed is logged.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = units::parse_duration)]
    pub keep_failed: Duration,

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
}

fn api_version() -> impl TypedValueParser<Value = ApiVersion> {
    PossibleValuesParser::new(["auto", "1", "2"]).map(|word| match word.as_str() {
        "1" => ApiVersion::V1,
        "2" => ApiVersion::V2,
        _ => ApiVersion::Auto,
    })
}

fn passthrough() -> impl TypedValueParser<Value = Passthrough> {
    PossibleValuesParser::new(["auto", "off"]).map(|word| match word.as_str() {
        "off" => Passthrough::Off,
        _ => Passthrough::Auto,
    })
}

fn upload() -> impl TypedValueParser<Value = Upload> {
    PossibleValuesParser::new(["spool", "stream"]).map(|word| match word.as_str() {
        "stream" => Upload::Stream,
        _ => Upload::Spool,
    })
}

fn prefetch() -> impl TypedValueParser<Value = Prefetch> {
    PossibleValuesParser::new(["off", "open"]).map(|word| match word.as_str() {
        "open" => Prefetch::Open,
        _ => Prefetch::Off,
    })
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArguments {
    /// Refuse every change with EROFS.
    #[arg(long)]
    pub read_only: bool,

    /// Let rm delete images of the cloud.
    #[arg(long)]
    pub allow_delete: bool,

    /// Let a write over an image upload a new image and remove the old one.
    #[arg(long)]
    pub allow_overwrite: bool,

    /// Show where the data of images are as user.glance.locations and user.glance.direct_url, as far as the cloud tells.
    /// They may hold the credentials of its store (OSSN-0065).
    #[arg(long)]
    pub show_locations: bool,

    /// Keep modification times that are set, in the property glancefs_mtime, and show them instead of the time of
    /// creation: a second rsync -a then sends nothing.
    #[arg(long)]
    pub keep_times: bool,

    /// Let other users in; the kernel then checks owner and permission bits.
    #[arg(long)]
    pub allow_other: bool,

    /// The owner shown for files and directories [default: the user who mounts].
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,

    /// The group shown for files and directories [default: the group of the user who mounts].
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,

    /// The permission bits of files, in octal.
    #[arg(long, value_name = "MODE", default_value = "0644", value_parser = parse_mode)]
    pub file_mode: u16,

    /// The permission bits of directories, in octal.
    #[arg(long, value_name = "MODE", default_value = "0755", value_parser = parse_mode)]
    pub dir_mode: u16,
}

/// End the mount at MOUNTPOINT and wait until its daemon has ended.
///
/// A mount whose daemon has died ("Transport endpoint is not connected") is cleaned up.
#[derive(Debug, Args)]
pub struct UmountArguments {
    /// Where the images are mounted.
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,

    /// Detach the mount even while files on it are open; the daemon serves those until they are closed.
    #[arg(long, short = 'l')]
    pub lazy: bool,
}

/// The mount that images are on which are not named by a path.
#[derive(Debug, Args)]
pub struct OnMountArguments {
    /// The mount that has the images which are not named by a path [default: the only one that this user mounted].
    #[arg(long, value_name = "MOUNTPOINT")]
    pub mount: Option<PathBuf>,
}

/// Bring whole images into the cache, and wait until they are verified.
///
/// Readers go first. Ctrl-C stops it and leaves what came. Exits with 1 when an image could not be brought or
/// does not match its hash.
#[derive(Debug, Args)]
#[command(after_help = ON_MOUNT)]
pub struct PrefetchArguments {
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,

    #[command(flatten)]
    pub on: OnMountArguments,
}

/// Drop images from the cache of their mount.
///
/// Only root and the user who mounted may. Who reads them goes on, from the server. An image that programs
/// read straight from the cache (FUSE passthrough) must be closed first.
#[derive(Debug, Args)]
#[command(after_help = ON_MOUNT)]
pub struct EvictArguments {
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,

    #[command(flatten)]
    pub on: OnMountArguments,
}

/// Show how a mount is: the cloud, the cache and the images in it, hits and transfers.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Where the images are mounted.
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,

    /// As JSON, with sizes in bytes.
    #[arg(long)]
    pub json: bool,
}

/// List the uploads of a mount, or of the spool folder: those that run, and what failed, was killed or crashed.
///
/// Without MOUNTPOINT the folder is looked at as a mount of this user would find it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct UploadsArguments {
    #[command(subcommand)]
    pub command: Option<UploadsCommand>,

    /// Where the images are mounted.
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: Option<PathBuf>,

    /// As JSON, with sizes in bytes.
    #[arg(long)]
    pub json: bool,

    /// The cache folder that was given to the mount; its folder "spool" is looked at.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// The spool folder that was given to the mount.
    #[arg(long, value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum UploadsCommand {
    /// Upload from the spool again, and wait until the image is active.
    ///
    /// Ctrl-C ends it: nothing is published, and the bytes stay in the spool.
    Retry {
        /// The upload, as `glancefs uploads` shows it; its first digits will do.
        id: String,
        /// Make a new image of this name, instead of the one that was meant.
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// Where its cloud is mounted [default: the mount that has its spool].
        #[arg(long, value_name = "MOUNTPOINT")]
        mountpoint: Option<PathBuf>,
    },
    /// Remove it from the spool, and its unfinished record from the cloud.
    Discard {
        /// The upload, as `glancefs uploads` shows it; its first digits will do.
        id: String,
        /// Where its cloud is mounted [default: the mount that has its spool].
        #[arg(long, value_name = "MOUNTPOINT")]
        mountpoint: Option<PathBuf>,
    },
}

/// Permission bits in octal, without set-user-id and the like.
fn parse_mode(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = !digits.is_empty() && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    match u16::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err("write octal permission bits from 0 to 777, such as 0644".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

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
        let given = mount(&["c:image", "/m", "--read-only"]).unwrap();
        assert_eq!((given.source.as_deref(), given.mountpoint.to_str()), (Some("c:image"), Some("/m")));
        let given = mount(&["--read-only", "/m"]).unwrap();
        assert_eq!((given.source, given.mountpoint.to_str()), (None, Some("/m")));
    }

    #[test]
    fn sizes_durations_and_modes_are_read_in_their_own_ways() {
        let given =
            mount(&["--cache-size=3G", "--metadata-ttl=2m", "--file-mode=640", "--dir-mode=0o750", "/m"]);
        let given = given.unwrap();
        assert_eq!(given.local.cache_size, ByteSize(3 << 30));
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
