//! One mount in the kernel: builds the layers, mounts, and ends cleanly.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use fuser::{BackgroundSession, MountOption, SessionACL};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use tracing::{debug, info, warn};

use super::adapter::Adapter;
use super::device;
use super::invalidate;
use super::passthrough::{self, Passthrough};
use super::unmount::{Manner, unmount};
use crate::auth::{Auth, LastLogins};
use crate::cache::Cache;
use crate::catalog::{Catalog, STAND_IN};
use crate::config::{CatalogConfig, Config, Upload};
use crate::error::{Error, Kind, Result};
use crate::fs::{ImageFs, Layers};
use crate::glance::{Glance, ImageService, Negotiated, OnlyImage};
use crate::read::Readers;
use crate::reference::ImageReference;
use crate::source::Sources;
use crate::units::ImageId;
use crate::write::{Settlement, Uploads};

/// Threads that read requests from the kernel, each with a descriptor of its own: two had the best
/// throughput on 2 and on 4 cores (`docs/design.md`, "Concurrency").
const REQUEST_THREADS: usize = 2;

/// What root makes the kernel read ahead on this mount, in KiB. With its default of 128 KiB a stream costs
/// a third more time; with 4 MiB it has a starting guest fetch half as much again (recorded boot: 14 %
/// of the image against 22 %). Distance is covered by our own read-ahead.
const KERNEL_READ_AHEAD_KIB: u32 = 512;

/// How long `finish` lets the cache write out what has to survive.
const FINISH: Duration = Duration::from_secs(10);

/// A mount that the kernel has accepted.
pub struct Session {
    mountpoint: PathBuf,
    /// Never dropped: fuser would unmount the path once more, which may be another mount by then.
    _background: ManuallyDrop<BackgroundSession>,
    ended: Mutex<Receiver<()>>,
    /// Where another has mounted the device, he unmounts it: we only end.
    leave: Option<Sender<()>>,
    has_ended: AtomicBool,
    files: Weak<ImageFs>,
    uploads: Uploads,
    cache: Cache,
    runtime: tokio::runtime::Handle,
}

impl Session {
    /// Builds every layer, does the first listing and mounts; returns when the kernel has finished
    /// INIT.
    ///
    /// # Errors
    /// Those of the login, the cache and spool folders, the first listing and mount(2).
    pub fn start(config: &Config, runtime: &tokio::runtime::Runtime) -> Result<Self> {
        let cache = Cache::open(&config.cache, runtime.handle().clone())?;
        let (fs, catalog, uploads) = runtime.block_on(layers(config, cache.clone()))?;
        let list = Arc::clone(&catalog);
        runtime.spawn(uploads.clone().keep_house(config.access.read_only, move |change| match change {
            Settlement::Gone(id) => list.forget(&id),
            Settlement::Finished(image) => drop(list.learn(*image)),
        }));
        let (ended_sender, ended) = channel();
        let listings = catalog.subscribe();
        let operations = fs.subscribe();
        let (mismatches, proofs) = (cache.mismatches(), cache.proofs());
        let passthrough = Arc::new(Passthrough::new(Arc::clone(&fs), config.passthrough));
        let adapter = Adapter::new(
            Arc::clone(&fs),
            runtime.handle().clone(),
            config.http.patience(),
            Arc::clone(&passthrough),
            ended_sender.clone(),
        );
        let mut options = mount_options(config, &catalog);
        let session = match config.device {
            None => fuser::Session::new(adapter, &config.mountpoint, &options),
            Some(number) => {
                let ready = device::take(number)?;
                options.clone_fd = device::can_be_cloned();
                fuser::Session::from_fd(adapter, ready, options.acl, options)
            }
        };
        let cannot = |error| match config.device {
            None => cannot_mount(&config.mountpoint, error),
            Some(_) => cannot_serve(&config.mountpoint, error),
        };
        let background = session.map_err(cannot)?.spawn().map_err(cannot)?;
        let notifier = background.notifier();
        let files = Arc::downgrade(&fs);
        let telling =
            invalidate::run(fs, notifier, listings, operations, mismatches, proofs, Arc::clone(&passthrough));
        runtime.spawn(telling);
        runtime.spawn(passthrough::sweep_now_and_then(passthrough));
        if config.device.is_none() {
            raise_read_ahead(&config.mountpoint);
        }
        Ok(Self {
            mountpoint: config.mountpoint.clone(),
            _background: ManuallyDrop::new(background),
            ended: Mutex::new(ended),
            leave: config.device.map(|_| ended_sender),
            has_ended: AtomicBool::new(false),
            files,
            uploads,
            cache,
            runtime: runtime.handle().clone(),
        })
    }

    /// The files that the kernel is shown, for as long as there are any.
    pub fn files(&self) -> Weak<ImageFs> {
        Weak::clone(&self.files)
    }

    /// Blocks until the kernel has ended the mount, by `stop` or from outside.
    pub fn wait(&self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // A sender that is gone has ended as well.
        let _ = ended.recv();
        self.has_ended.store(true, Ordering::SeqCst);
    }

    /// Unmounts lazily: programs that have files open keep them, new ones find nothing. A device that another has mounted
    /// is served no longer.
    pub fn stop(&self) {
        if self.has_ended.load(Ordering::SeqCst) {
            return;
        }
        if let Some(leave) = &self.leave {
            // Without a receiver it has ended already.
            let _ = leave.send(());
            return;
        }
        if let Err(error) = unmount(&self.mountpoint, Manner::Lazy) {
            warn!(%error, "cannot unmount");
        }
    }

    /// After `wait`: ends uploads that nobody waits for any more, then writes out what has to survive,
    /// within bounds.
    pub fn finish(self) {
        let done = self.runtime.block_on(async {
            // First: an image that is done by then goes to the cache.
            self.uploads.shut_down().await;
            tokio::time::timeout(FINISH, self.cache.shut_down()).await
        });
        if done.is_err() {
            warn!("the cache took too long to write out its state: some blocks will be fetched again");
        }
    }
}

async fn layers(config: &Config, cache: Cache) -> Result<(Arc<ImageFs>, Arc<Catalog>, Uploads)> {
    let logins = LastLogins { folder: cache.logins_folder(), allow_stale: config.catalog.allow_stale };
    let auth = Auth::connect(&config.auth, &config.http, Some(&logins)).await?;
    let glance = Glance::new(auth, &config.http)?
        .storing_in(config.store.clone())
        .preferring(&config.prefer_stores)
        .showing(&config.shown);
    let view = glance.view_key();
    let glance = Negotiated::new(glance, config.api_version);
    let only = match &config.image {
        Some(reference) => Some(only_image(&glance, reference, &config.catalog).await?),
        None => None,
    };
    let mut service: Arc<dyn ImageService> = Arc::new(glance);
    // Mounts that list other images save other lists.
    let mut list = format!("{}{view}", service.cloud_key());
    if let Some(id) = only {
        list = format!("{list} image {id}");
        service = Arc::new(OnlyImage::new(service, id));
    }
    let saved_at = cache.catalog_file(&list, service.project_id());
    let catalog = Arc::new(Catalog::new(Arc::clone(&service), config.catalog.clone(), Some(saved_at)));
    let sources = Sources::with_direct(service.clone(), &config.http, &config.trust.direct);
    let uploads = Uploads::open(&config.spool, &config.http, service.clone(), cache.clone())?
        .streaming(config.upload == Upload::Stream);
    catalog.start().await.map_err(|error| with_cure(error, &config.catalog))?;
    let readers =
        Readers::new(cache.profiles_folder(), cache.disk_watch(), tokio::runtime::Handle::current());
    let layers =
        Layers { service, catalog: Arc::clone(&catalog), cache, sources, readers, uploads: uploads.clone() };
    Ok((
        ImageFs::new(layers, config.access.clone(), config.prefetch, config.guests, config.trust.clone()),
        catalog,
        uploads,
    ))
}

/// The one image that is to be mounted. Where no server answers, an id is believed, after no longer a wait than the
/// list has for its saved one.
async fn only_image(
    glance: &Negotiated,
    reference: &ImageReference,
    config: &CatalogConfig,
) -> Result<ImageId> {
    let resolving = glance.resolve(reference);
    let resolved = match reference {
        ImageReference::Id(id) if config.allow_stale => {
            match tokio::time::timeout(STAND_IN, resolving).await {
                Ok(resolved) => resolved,
                Err(_) => return Ok(id.clone()),
            }
        }
        _ => resolving.await,
    };
    match (resolved, reference) {
        (Ok(image), _) => Ok(image.id),
        (Err(error), ImageReference::Id(id)) if config.allow_stale && error.kind().is_transient() => {
            Ok(id.clone())
        }
        (Err(error), _) => Err(with_cure(error, config)),
    }
}

/// Adds what to do to the failure of the first listing.
fn with_cure(error: Error, config: &CatalogConfig) -> Error {
    if !error.kind().is_transient() {
        return error;
    }
    let stale = if config.allow_stale { "" } else { ", or mount with the list saved last: --allow-stale" };
    let cure = "is Glance running there? check --endpoint, OS_ENDPOINT or the catalogue";
    Error::new(error.kind(), format!("{error}: {cure}{stale}"))
}

fn mount_options(config: &Config, catalog: &Catalog) -> fuser::Config {
    let mut options = fuser::Config::default();
    let source = config.source.as_deref().unwrap_or(catalog.cloud_key());
    options.mount_options = vec![
        // Shown by `mount` and `df`. A comma would begin another mount option.
        MountOption::FSName(source.replace([',', '\\'], "_")),
        // The direct mount(2) of fuser drops `Subtype`; with this /proc/mounts says fuse.glancefs.
        MountOption::CUSTOM("subtype=glancefs".to_owned()),
        MountOption::NoAtime,
    ];
    if config.access.read_only {
        options.mount_options.push(MountOption::RO);
    }
    if config.access.noexec {
        options.mount_options.push(MountOption::NoExec);
    }
    if config.access.allow_other {
        // Everybody gets in, so the kernel has to check modes and owners.
        options.mount_options.push(MountOption::DefaultPermissions);
        options.acl = SessionACL::All;
    }
    options.n_threads = Some(REQUEST_THREADS);
    options.clone_fd = true;
    options
}

fn cannot_mount(mountpoint: &Path, error: std::io::Error) -> Error {
    let cure = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV) => "is /dev/fuse there? try: modprobe fuse",
        Some(libc::EPERM | libc::EACCES) => {
            "are /dev/fuse and fusermount3 (package fuse3) usable by this user?"
        }
        _ => "is the mount point a directory that this user may mount on?",
    };
    Error::new(Kind::Io, format!("cannot mount on {}; {cure}", mountpoint.display())).with_source(error)
}

fn cannot_serve(device: &Path, error: std::io::Error) -> Error {
    let message = format!("cannot serve {}: whoever opened it has to mount it first", device.display());
    Error::new(Kind::Io, message).with_source(error)
}

/// Lets the kernel read ahead further on this mount; only root may, and it works without.
fn raise_read_ahead(mountpoint: &Path) {
    // Answered from what INIT left in the kernel, not by a request to ourselves.
    let known = statx(CWD, mountpoint, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE);
    let Ok(known) = known.inspect_err(|error| debug!(%error, "which device is the mount?")) else { return };
    let knob = format!("/sys/class/bdi/{}:{}/read_ahead_kb", known.stx_dev_major, known.stx_dev_minor);
    match std::fs::write(&knob, KERNEL_READ_AHEAD_KIB.to_string()) {
        Ok(()) => info!(kib = KERNEL_READ_AHEAD_KIB, "the kernel reads ahead"),
        Err(error) => info!(%error, "the kernel's read-ahead stays at 128 KiB: only root can raise it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ApiVersion, AuthConfig, AuthMethod, HttpConfig};

    #[tokio::test(start_paused = true)]
    async fn in_an_outage_an_id_is_believed_as_soon_as_a_saved_list_would_be() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoints = vec![format!("http://{}/", gone.local_addr().unwrap()).parse().unwrap()];
        drop(gone);
        let http = HttpConfig {
            timeout: Duration::from_secs(600),
            hard: false,
            retries: 3,
            ca_cert: None,
            client_cert: None,
            insecure: false,
            max_connections: 1,
        };
        let auth = AuthConfig {
            method: AuthMethod::None,
            auth_type: None,
            endpoints,
            region: None,
            interface: None,
        };
        let auth = Auth::connect(&auth, &http, None).await.unwrap();
        let glance = Negotiated::new(Glance::new(auth, &http).unwrap(), ApiVersion::V2);
        let id = ImageId::generate();
        let reference = ImageReference::Id(id.clone());
        let config =
            |allow_stale| CatalogConfig { ttl: Duration::from_secs(60), timeout: http.timeout, allow_stale };
        let begun = tokio::time::Instant::now();
        assert_eq!(only_image(&glance, &reference, &config(true)).await.unwrap(), id);
        assert!(begun.elapsed() < 2 * STAND_IN, "{:?}", begun.elapsed());
        let strict = only_image(&glance, &reference, &config(false)).await.unwrap_err();
        assert_eq!(strict.kind(), Kind::Unreachable);
        assert!(begun.elapsed() > Duration::from_secs(500), "all of --timeout: {:?}", begun.elapsed());
    }
}
