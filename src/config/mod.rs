//! The validated configuration of one mount: what every layer is given, already checked.

pub mod auth;
mod environment;
pub mod file;
mod guests;
pub mod memory;
pub mod paths;
mod trust;

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::reference::ImageReference;

pub use environment::Environment;
pub use guests::{GuestsConfig, Hold, NovaBase};
pub use trust::{DirectConfig, DirectRoot, Inspect, TrustConfig, Verify};

/// Everything a mount needs to know, after arguments, environment and files were merged and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the images appear; `/dev/fd/N` when that is another's affair.
    pub mountpoint: PathBuf,
    /// The descriptor `N` of `/dev/fd/N`: an opened /dev/fuse that whoever started us has mounted.
    pub device: Option<RawFd>,
    /// What is mounted, as it was typed (`SOURCE`): the mount table shows it, since mount(8) finds a line of fstab by it.
    pub source: Option<String>,
    /// Stay in the foreground and log to standard error.
    pub foreground: bool,
    /// Log here instead of to the journal or syslog.
    pub log_file: Option<PathBuf>,
    /// Where `GET /metrics` is answered; `None`: nowhere.
    pub metrics_listen: Option<std::net::SocketAddr>,
    /// How to prove who we are, and where Glance is.
    pub auth: AuthConfig,
    /// The one image that is shown; all of the cloud when there is none.
    pub image: Option<ImageReference>,
    /// The store that uploads go to; `None`: the default one of the service.
    pub store: Option<String>,
    /// The stores that downloads come from where they have the data and Glance lets us choose; none: Glance chooses.
    pub prefer_stores: Vec<String>,
    /// How requests are made.
    pub http: HttpConfig,
    /// Which images are listed.
    pub shown: Shown,
    /// By which version of the Image API.
    pub api_version: ApiVersion,
    /// How the list of images is kept.
    pub catalog: CatalogConfig,
    /// Where and how much is cached.
    pub cache: CacheConfig,
    /// Where uploads wait.
    pub spool: SpoolConfig,
    /// How written data go to Glance.
    pub upload: Upload,
    /// Who may do what.
    pub access: AccessConfig,
    /// Whether the kernel may read complete images past this process.
    pub passthrough: Passthrough,
    /// When whole images are fetched that nobody asked for.
    pub prefetch: Prefetch,
    /// What is done for virtual machines.
    pub guests: GuestsConfig,
    /// How far image data are believed, and where they may come from besides Glance.
    pub trust: TrustConfig,
}

/// Which version of the Image API is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApiVersion {
    /// v2 where the servers have it, else v1.
    #[default]
    Auto,
    /// v1, which has no ranges.
    V1,
    /// v2.
    V2,
}

/// Whether the kernel may read complete, verified images from the cache itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passthrough {
    /// Where the kernel and our privileges allow it.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// How what is written to a file goes to Glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Upload {
    /// When the file is closed, from the spool.
    #[default]
    Spool,
    /// While it is written, in order.
    Stream,
}

/// When whole images are fetched that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// Never.
    #[default]
    Off,
    /// While they are open, behind those who read.
    Open,
}

/// How to get a token and the address of Glance.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// The way to a token.
    pub method: AuthMethod,
    /// Glance servers given by the operator (`--endpoint`, repeatable); override the catalogue.
    pub endpoints: Vec<Url>,
    /// `OS_REGION_NAME`: which region of the catalogue.
    pub region: Option<String>,
    /// `OS_INTERFACE`: public (default), internal or admin.
    pub interface: Option<String>,
    /// `--os-auth-type` where it was given as an option and Keystone is used: goes before
    /// `OS_AUTH_TYPE` and before the `auth_type` of clouds.yaml. `None`: those decide.
    pub auth_type: Option<String>,
}

/// The ways to a token.
#[derive(Debug, Clone)]
pub enum AuthMethod {
    /// `OS_AUTH_TYPE=none`: no token at all.
    None,
    /// `OS_AUTH_TYPE=admin_token`: a fixed token, never renewed.
    AdminToken(SecretString),
    /// `--token-command CMD`: run by `sh -c`; its first line of output is the token. Status 75 (`EX_TEMPFAIL`) tells an
    /// outage from a refusal.
    TokenCommand(String),
    /// Keystone v3, described by clouds.yaml (`Some(cloud name)`) or by `OS_*` variables (`None`).
    Keystone {
        /// The cloud's name in clouds.yaml.
        cloud: Option<String>,
    },
}

/// How HTTP requests are made, to Keystone and to Glance.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The deadline of a request (for uploads and streams: on progress). Default 60 s.
    pub timeout: Duration,
    /// Servers that are away are waited for as long as it takes (`--hard`), but for lists: the last good one serves.
    pub hard: bool,
    /// Tries after the first of a request that fails although servers answer (HTTP 500, 429). Refused and broken
    /// connections, timeouts and 502 to 504 are tried again until `timeout` whatever this says. Default 3, as Nova's
    /// and Cinder's `num_retries`.
    pub retries: u32,
    /// `OS_CACERT`: trust this certificate file as well.
    pub ca_cert: Option<PathBuf>,
    /// `OS_CERT` and `OS_KEY`: show this certificate to servers that demand one.
    pub client_cert: Option<ClientCertificate>,
    /// `OS_INSECURE`: do not check certificates.
    pub insecure: bool,
    /// Downloads of image data open at once (`source`), and as many uploads: they are counted apart, since
    /// an upload may take hours and must not keep readers waiting. Default 8.
    pub max_connections: usize,
}

impl HttpConfig {
    /// How long servers that are away are waited for.
    pub fn patience(&self) -> Duration {
        // Longer than any mount; timers take it.
        const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
        if self.hard { FOREVER } else { self.timeout }
    }
}

/// How we prove who we are to servers that demand a certificate of their clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// A PEM file with our certificate, and those between it and the authority's.
    pub cert: PathBuf,
    /// The PEM file with its key; `None`: the key is in the same file.
    pub key: Option<PathBuf>,
}

/// Which images are listed, besides being visible to the project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Only images of these visibilities; none given: what Glance lists by itself, which is our own, the public
    /// ones, and those that were shared with us and accepted.
    pub visibilities: Vec<Visibility>,
    /// Hidden images (`os_hidden`) as well.
    pub hidden: bool,
}

/// Who sees an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody.
    Public,
    /// Its project.
    Private,
    /// Its project and members.
    Shared,
    /// Everybody who asks for it.
    Community,
    /// Whatever it is.
    All,
}

impl Visibility {
    /// As Glance writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Community => "community",
            Self::All => "all",
        }
    }
}

/// How the list of images is kept.
#[derive(Debug, Clone)]
pub struct CatalogConfig {
    /// How long a listing is believed before it is fetched again. Default 60 s.
    pub ttl: Duration,
    /// The deadline of every reply (`--timeout`): the old list is shown before it passes.
    pub timeout: Duration,
    /// Mount with the last saved list when no server answers, and with what the last login told when Keystone does not
    /// answer either.
    pub allow_stale: bool,
}

/// Where and how much is cached.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The cache folder, shared by the mounts of a host.
    pub dir: PathBuf,
    /// Bytes that data files in it may occupy. Default 10 GiB.
    pub size: u64,
    /// Share of the disk that stays free, in percent. Default 5.
    pub free_floor_percent: u8,
    /// Bytes of memory for cached blocks and transfers together. Default 256 MiB, less under a cgroup.
    pub memory_limit: u64,
    /// How long the read that completes an image waits for the comparison of the whole with its hash.
    /// `None`, the default: a twentieth of the time that fetching took. Zero: not at all.
    pub verify_wait: Option<Duration>,
    /// Whole images are compared with their hash. Default true.
    pub verify: bool,
}

/// Where uploads wait until they are committed.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The spool folder.
    pub dir: PathBuf,
    /// Bytes that spooled files may occupy together; writing beyond gives ENOSPC. `None`: the disk decides.
    pub size: Option<u64>,
    /// How long what failed uploads left is kept. Default 7 days.
    pub keep_failed: Duration,
}

/// Who may do what, and how files look.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// Owner shown for every file.
    pub uid: u32,
    /// Group shown for every file.
    pub gid: u32,
    /// Permission bits of files. Default 0644.
    pub file_mode: u16,
    /// Permission bits of directories. Default 0755.
    pub dir_mode: u16,
    /// Other users may enter (the kernel then checks permissions).
    pub allow_other: bool,
    /// Nothing can be changed: EROFS.
    pub read_only: bool,
    /// No program can be started from the mount.
    pub noexec: bool,
    /// `rm` deletes images.
    pub allow_delete: bool,
    /// Writing over an image uploads a new one and removes the old.
    pub allow_overwrite: bool,
    /// Where the data of an image are can be read as an attribute; it may hold credentials.
    pub show_locations: bool,
    /// How long a change of metadata may wait for its turn ([`HttpConfig::patience`]).
    pub patience: Duration,
    /// A modification time that is set is kept in a property of the image and shown.
    pub keep_times: bool,
}
