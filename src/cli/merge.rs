//! Raw arguments and the environment, merged and checked into one [`Config`].
//!
//! An option goes before its variable, a variable before the default. Each message names the
//! option, its value and a cure. Nothing is created or changed here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::args::{
    AccessArguments, CacheArguments, CloudArguments, LoginArguments, MountArguments, UploadArguments,
};
use super::trust;
use crate::config::auth::{self, AuthOptions};
use crate::config::{
    AccessConfig, AuthConfig, AuthMethod, CacheConfig, CatalogConfig, ClientCertificate, Config, Environment,
    HttpConfig, Shown, SpoolConfig, Verify, Visibility, memory, paths,
};
use crate::error::{Error, Kind, Result};
use crate::manage::Connection;

pub use parts::{Parts, parts};

/// The least disk for the cache: 16 blocks of the largest request, so that a reader still gains from it.
const MINIMUM_CACHE: u64 = 1 << 20;

/// Beyond, a value is a slip of the pen; and clocks must never overflow when it is added to them.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
const LONGEST_KEPT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The configuration that these arguments and this environment ask for.
///
/// # Errors
/// `Config`, with a message for the person at the keyboard.
pub fn config(arguments: &MountArguments, environment: &Environment) -> Result<Config> {
    let device = paths::ready_device(&arguments.places.mountpoint);
    let mountpoint = match device {
        Some(_) => arguments.places.mountpoint.clone(),
        None => paths::mountpoint(&arguments.places.mountpoint)?,
    };
    let source = source::chosen(arguments)?;
    let auth = auth_config(&source.login, source.endpoint.as_ref(), environment)?;
    let http = http_config(&source.login, arguments.cloud.max_connections, environment)?;
    let http = HttpConfig { hard: arguments.cloud.hard, ..http };
    let cache = cache_config(&arguments.cache, environment)?;
    let spool = spool_config(&arguments.upload, &cache.dir)?;
    let log_file = arguments.log_file.as_deref().map(paths::resolve).transpose()?;
    paths::keep_apart("--cache-dir", &cache.dir, &mountpoint)?;
    paths::keep_apart("--spool-dir", &spool.dir, &mountpoint)?;
    if let Some(file) = &log_file {
        paths::keep_apart("--log-file", file, &mountpoint)?;
    }
    let cloud = &arguments.cloud;
    in_bounds("--metadata-ttl", cloud.metadata_ttl, Duration::from_millis(100), LONGEST_TTL)?;
    let catalog =
        CatalogConfig { ttl: cloud.metadata_ttl, timeout: http.timeout, allow_stale: cloud.allow_stale };
    let shown = shown(cloud)?;
    let access = access_config(&arguments.access, environment, http.patience())?;
    let trust = trust::config(&arguments.trust)?;
    let cache = CacheConfig { verify: trust.verify != Verify::None, ..cache };
    if source.image.is_some() && access.allow_overwrite {
        return Err(wrong(
            "--allow-overwrite makes new images, and this mount shows one image only: leave it out, or mount the cloud",
        ));
    }
    Ok(Config {
        mountpoint,
        device,
        source: given(&arguments.places.source),
        image: source.image,
        store: given(&arguments.upload.store),
        prefer_stores: words(&arguments.cache.prefer_store).map(str::to_owned).collect(),
        foreground: arguments.foreground,
        log_file,
        metrics_listen: arguments.metrics_listen,
        auth,
        http,
        shown,
        api_version: source.login.api_version,
        catalog,
        cache,
        spool,
        upload: arguments.upload.upload,
        access,
        passthrough: arguments.cache.passthrough,
        prefetch: arguments.cache.prefetch,
        trust,
    })
}

fn shown(cloud: &CloudArguments) -> Result<Shown> {
    let known =
        [Visibility::Public, Visibility::Private, Visibility::Shared, Visibility::Community, Visibility::All];
    let visibility = |word: &str| {
        let found = known.into_iter().find(|visibility| visibility.as_str() == word);
        found.ok_or_else(|| {
            wrong(format!(
                "--visibility {word:?} is not known: use public, private, shared, community or all"
            ))
        })
    };
    let mut visibilities = Vec::new();
    for found in words(&cloud.visibility).map(visibility) {
        let found = found?;
        if !visibilities.contains(&found) {
            visibilities.push(found);
        }
    }
    if visibilities.contains(&Visibility::All) {
        visibilities = vec![Visibility::All];
    }
    Ok(Shown { visibilities, hidden: cloud.hidden })
}

/// How a command reaches the cloud. `address` is that of the Glance at which an image was named: it is asked when
/// no other is given, and only without a token.
///
/// # Errors
/// `Config`, with a message for the person at the keyboard.
pub fn connection(
    login: &LoginArguments,
    address: Option<&Url>,
    environment: &Environment,
) -> Result<Connection> {
    Ok(Connection {
        auth: auth_config(login, address, environment)?,
        // One image at a time.
        http: http_config(login, 1, environment)?,
        api_version: login.api_version,
    })
}

fn auth_config(
    cloud: &LoginArguments,
    address: Option<&Url>,
    environment: &Environment,
) -> Result<AuthConfig> {
    let mut endpoints = endpoints(&cloud.endpoint, environment)?;
    let wants_no_token = match given(&cloud.os_auth_type) {
        Some(auth_type) => auth_type == "none",
        None => {
            given(&cloud.os_cloud).or(given(&cloud.token_command)).is_none()
                && environment.text("OS_AUTH_TYPE")?.as_deref() == Some("none")
        }
    };
    if endpoints.is_empty() && wants_no_token {
        endpoints.extend(address.cloned());
    }
    let options = AuthOptions {
        cloud: given(&cloud.os_cloud),
        auth_type: given(&cloud.os_auth_type),
        token_command: given(&cloud.token_command),
        has_endpoint: !endpoints.is_empty(),
    };
    let method = auth::choose(&options, environment)?;
    let auth_type = options.auth_type.filter(|_| matches!(method, AuthMethod::Keystone { .. }));
    let region = match given(&cloud.os_region_name) {
        Some(region) => Some(region),
        None => environment.text("OS_REGION_NAME")?,
    };
    let interface = interface(given(&cloud.os_interface), environment)?;
    Ok(AuthConfig { method, endpoints, region, interface, auth_type })
}

/// `--endpoint` as often as given, else `OS_ENDPOINT` with commas.
fn endpoints(given: &[String], environment: &Environment) -> Result<Vec<Url>> {
    let from_option = given.iter().map(|text| ("--endpoint", text.clone()));
    if !given.is_empty() {
        return from_option.map(|(origin, text)| endpoint(origin, &text)).collect();
    }
    let variable = environment.text("OS_ENDPOINT")?.unwrap_or_default();
    let parts = variable.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| endpoint("OS_ENDPOINT", part)).collect()
}

fn endpoint(origin: &str, text: &str) -> Result<Url> {
    let cure = "write it like https://glance.example.org:9292";
    // Before an `@` there may be a password, also in what is no URL.
    let shown = if text.contains('@') { "its value".to_owned() } else { format!("{text:?}") };
    let url = Url::parse(text.trim())
        .map_err(|error| wrong(format!("{origin}: {shown} is not a URL ({error}): {cure}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(format!(
            "{origin} holds a user name or password: leave them out, Glance takes tokens"
        )));
    }
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong(format!("{origin}: {shown} is no http or https address: {cure}")));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(format!("{origin}: {shown} has a query or fragment: leave it out")));
    }
    Ok(url)
}

/// `public`, `internal` or `admin`; the older spelling `publicURL` of `OS_ENDPOINT_TYPE` is understood.
fn interface(given: Option<String>, environment: &Environment) -> Result<Option<String>> {
    let (origin, text) = if let Some(text) = given {
        ("--os-interface", text)
    } else if let Some(text) = environment.text("OS_INTERFACE")? {
        ("OS_INTERFACE", text)
    } else if let Some(text) = environment.text("OS_ENDPOINT_TYPE")? {
        ("OS_ENDPOINT_TYPE", text)
    } else {
        return Ok(None);
    };
    let name = text.strip_suffix("URL").unwrap_or(&text);
    match name {
        "public" | "internal" | "admin" => Ok(Some(name.to_owned())),
        _ => Err(wrong(format!("{origin} {text:?} is not known: use public, internal or admin"))),
    }
}

fn http_config(
    cloud: &LoginArguments,
    max_connections: usize,
    environment: &Environment,
) -> Result<HttpConfig> {
    in_bounds("--timeout", cloud.timeout, Duration::from_secs(1), LONGEST_TIMEOUT)?;
    if !(1..=1024).contains(&max_connections) {
        return Err(wrong(format!("--max-connections {max_connections} is out of bounds: use 1 to 1024")));
    }
    let file = |option: &'static str, given: &Option<PathBuf>, variable: &'static str| {
        let found = match given.clone().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Some((option, path)),
            None => environment.path(variable).map(|path| (variable, path)),
        };
        found.map(|(origin, path)| readable_file(origin, &path)).transpose()
    };
    let ca_cert = file("--os-cacert", &cloud.os_cacert, "OS_CACERT")?;
    let key = file("--os-key", &cloud.os_key, "OS_KEY")?;
    let client_cert = match (file("--os-cert", &cloud.os_cert, "OS_CERT")?, key) {
        (Some(cert), key) => Some(ClientCertificate { cert, key }),
        (None, Some(_)) => {
            return Err(wrong("--os-key (OS_KEY) needs the certificate: name it with --os-cert or OS_CERT"));
        }
        (None, None) => None,
    };
    Ok(HttpConfig {
        timeout: cloud.timeout,
        hard: false,
        retries: cloud.retries,
        ca_cert,
        client_cert,
        insecure: cloud.insecure || environment.switch("OS_INSECURE")?,
        max_connections,
    })
}

fn readable_file(origin: &str, path: &Path) -> Result<PathBuf> {
    let path = paths::resolve(path)?;
    match std::fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(found) if found.is_file() => Ok(path),
        Ok(_) => Err(wrong(format!("{origin} {} is not a file: name a PEM file", path.display()))),
        Err(error) => {
            Err(wrong(format!("{origin} {} cannot be read: name a PEM file", path.display()))
                .with_source(error))
        }
    }
}

/// The spool folder as a mount with these options would find it, for looking into it.
///
/// # Errors
/// `Config` when there is none.
pub(super) fn spool_of(
    cache_dir: Option<&Path>,
    spool_dir: Option<&Path>,
    environment: &Environment,
) -> Result<SpoolConfig> {
    let dir = match spool_dir {
        Some(dir) => paths::resolve(dir)?,
        None => default_spool(&cache_folder(cache_dir, environment)?),
    };
    Ok(SpoolConfig { dir, size: None, keep_failed: LONGEST_KEPT })
}

fn cache_folder(given: Option<&Path>, environment: &Environment) -> Result<PathBuf> {
    match given.map(Path::to_owned).or_else(|| paths::default_cache_dir(environment)) {
        Some(dir) => paths::resolve(&dir),
        None => Err(wrong("neither XDG_CACHE_HOME nor HOME is set: name a folder with --cache-dir")),
    }
}

fn default_spool(cache: &Path) -> PathBuf {
    cache.join("spool")
}

fn cache_config(given: &CacheArguments, environment: &Environment) -> Result<CacheConfig> {
    let memory_limit = given.memory_limit.map_or_else(memory::default_limit, |size| size.0);
    at_least("--memory-limit", memory_limit, memory::MINIMUM)?;
    at_least("--cache-size", given.cache_size.0, MINIMUM_CACHE)?;
    if let Some(wait) = given.verify_wait {
        in_bounds("--verify-wait", wait, Duration::ZERO, LONGEST_TIMEOUT)?;
    }
    Ok(CacheConfig {
        dir: cache_folder(given.cache_dir.as_deref(), environment)?,
        size: given.cache_size.0,
        free_floor_percent: given.cache_free_percent,
        memory_limit,
        verify_wait: given.verify_wait,
        verify: true,
    })
}

fn spool_config(given: &UploadArguments, cache: &Path) -> Result<SpoolConfig> {
    let dir = match &given.spool_dir {
        Some(dir) => paths::resolve(dir)?,
        None => default_spool(cache),
    };
    in_bounds("--keep-failed", given.keep_failed, Duration::ZERO, LONGEST_KEPT)?;
    Ok(SpoolConfig { dir, size: given.spool_size.map(|size| size.0), keep_failed: given.keep_failed })
}

fn access_config(
    access: &AccessArguments,
    environment: &Environment,
    patience: Duration,
) -> Result<AccessConfig> {
    for (flag, name) in
        [(access.allow_delete, "--allow-delete"), (access.allow_overwrite, "--allow-overwrite")]
    {
        if access.read_only && flag {
            return Err(wrong(format!("--read-only excludes {name}: leave out one of them")));
        }
    }
    if access.allow_other && !environment.is_root() {
        fuse_conf_allows_other(Path::new("/etc/fuse.conf"))?;
    }
    Ok(AccessConfig {
        uid: access.uid.unwrap_or(environment.uid()),
        gid: access.gid.unwrap_or(environment.gid()),
        file_mode: access.file_mode,
        dir_mode: access.dir_mode,
        allow_other: access.allow_other,
        read_only: access.read_only,
        noexec: access.noexec,
        allow_delete: access.allow_delete,
        allow_overwrite: access.allow_overwrite,
        show_locations: access.show_locations,
        patience,
        keep_times: access.keep_times,
    })
}

/// fusermount3 grants `allow_other` to users only with `user_allow_other` on a line of its own (fuse(8)).
fn fuse_conf_allows_other(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    if text.lines().any(|line| line.trim() == "user_allow_other") {
        return Ok(());
    }
    let file = file.display();
    Err(wrong(format!(
        "--allow-other is refused to users other than root: let root write the line user_allow_other into {file}"
    )))
}

/// An option that was given and is not empty (`--os-cloud=""` in a script means none).
fn given(option: &Option<String>) -> Option<String> {
    option.clone().filter(|text| !text.is_empty())
}

/// The words of an option that takes several, separated by commas.
fn words(option: &Option<String>) -> impl Iterator<Item = &str> {
    option.iter().flat_map(|words| words.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn in_bounds(option: &str, value: Duration, least: Duration, most: Duration) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(wrong(format!("{option} {value:?} is out of bounds: use {least:?} to {}h", most.as_secs() / 3600)))
}

fn at_least(option: &str, value: u64, least: u64) -> Result<()> {
    if value >= least {
        return Ok(());
    }
    let (value, least) = (crate::units::ByteSize(value), crate::units::ByteSize(least));
    Err(wrong(format!("{option} {value} is too little: use at least {least}")))
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Config, message)
}

mod parts;
mod source;
#[cfg(test)]
mod tests;
