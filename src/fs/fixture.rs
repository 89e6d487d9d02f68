//! The files of a service in memory, for tests: the real layers, no kernel, no network.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, BoxFuture, FutureExt};

use super::*;
use crate::config::{CacheConfig, CatalogConfig, HttpConfig, SpoolConfig};
use crate::glance::fake::FakeService;

/// The process that writes in the tests.
pub(super) const WRITER: ThreadGroup = ThreadGroup(42);

/// A process that is never killed and never ends.
pub(super) struct Nobody;

impl Watch for Nobody {
    fn killed(&self) -> BoxFuture<'static, ()> {
        future::pending().boxed()
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        future::pending().boxed()
    }
}

/// The files, what they are made of, and the folder that holds cache and spool.
pub(super) struct Fixture {
    pub(super) fs: Arc<ImageFs>,
    pub(super) service: Arc<FakeService>,
    pub(super) folder: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn new(allow_delete: bool, allow_overwrite: bool, read_only: bool) -> Self {
        Self::trusting(allow_delete, allow_overwrite, read_only, TrustConfig::default()).await
    }

    /// The same with something asked of images.
    pub(super) async fn trusting(
        allow_delete: bool,
        allow_overwrite: bool,
        read_only: bool,
        trust: TrustConfig,
    ) -> Self {
        Self::for_guests(allow_delete, allow_overwrite, read_only, trust, GuestsConfig::default()).await
    }

    /// The same with something done for virtual machines.
    pub(super) async fn for_guests(
        allow_delete: bool,
        allow_overwrite: bool,
        read_only: bool,
        trust: TrustConfig,
        guests: GuestsConfig,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = Arc::new(FakeService::default());
        let dynamic: Arc<dyn ImageService> = service.clone();
        let http = HttpConfig {
            timeout: Duration::from_secs(10),
            hard: false,
            retries: 3,
            ca_cert: None,
            client_cert: None,
            insecure: false,
            max_connections: 2,
        };
        let cache = CacheConfig {
            dir: folder.path().join("cache"),
            size: 1 << 20,
            free_floor_percent: 0,
            memory_limit: 8 << 20,
            verify_wait: Some(Duration::from_secs(20)),
            verify: true,
        };
        let spool = SpoolConfig {
            dir: folder.path().join("spool"),
            size: None,
            keep_failed: Duration::from_secs(3600),
        };
        let access = AccessConfig {
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
            allow_other: false,
            read_only,
            noexec: false,
            allow_delete,
            allow_overwrite,
            show_locations: false,
            patience: Duration::from_millis(1200),
            keep_times: false,
        };
        // The list is fetched when the test says so, not when it is old.
        let catalog = CatalogConfig {
            ttl: Duration::from_secs(3600),
            timeout: Duration::from_secs(60),
            allow_stale: false,
        };
        let catalog = Arc::new(Catalog::new(Arc::clone(&dynamic), catalog, None));
        catalog.start().await.unwrap();
        let cache = Cache::open(&cache, tokio::runtime::Handle::current()).unwrap();
        let uploads = Uploads::open(&spool, &http, dynamic.clone(), cache.clone()).unwrap();
        let sources = Sources::new(dynamic.clone(), &http);
        let readers =
            Readers::new(cache.profiles_folder(), cache.disk_watch(), tokio::runtime::Handle::current());
        let layers = Layers { service: dynamic, catalog, cache, sources, readers, uploads };
        let fs = ImageFs::new(layers, access, Prefetch::Off, guests, trust);
        Self { fs, service, folder }
    }
}
