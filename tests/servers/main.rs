//! The layers that talk to servers, against a real Glance and a real Keystone: what those store, answer and refuse.
//!
//! They need the Python packages that `scripts/devcloud prepare` installs; `scripts/test` sees to that. With
//! `GLANCEFS_TEST_LONG=1` (`scripts/test --long`) those that watch something over time watch it longer.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/devcloud.rs"]
mod devcloud;
mod given;
mod glance;
mod keystone;
// The folder of the run, and the guard that leaves nothing behind.
#[allow(dead_code)]
#[path = "../e2e/harness/run.rs"]
mod run;
mod uploads;
mod v1;

use std::sync::LazyLock;
use std::time::Duration;

use devcloud::Devcloud;
use glancefs::auth::{Auth, parse_endpoint};
use glancefs::config::{AuthConfig, AuthMethod, HttpConfig};
use glancefs::glance::Glance;

/// No image of the shared cloud may be larger.
const IMAGE_SIZE_CAP: u64 = 512 << 20;

/// The cloud that tests share when they need no other. It tells users apart as Keystone would; it has a `file` store,
/// which serves ranges, and an `http` store, which does not.
fn cloud() -> &'static Devcloud {
    static CLOUD: LazyLock<Devcloud> = LazyLock::new(|| {
        start("fake", &["--stores", "file,http", "--set", "DEFAULT.image_size_cap=536870912"])
    });
    &CLOUD
}

/// A cloud for one test, or for a static: it is taken down however the run ends.
fn start(auth: &str, options: &[&str]) -> Devcloud {
    Devcloud::up_below(run::run_folder(), auth, options)
}

fn http() -> HttpConfig {
    HttpConfig {
        timeout: Duration::from_secs(30),
        hard: false,
        retries: 3,
        ca_cert: None,
        client_cert: None,
        insecure: false,
        max_connections: 8,
    }
}

/// A client of a cloud without Keystone: `user`'s, or one without a token.
async fn client(cloud: &Devcloud, user: Option<&str>) -> Glance {
    client_of(cloud.endpoint(), user.map(|user| cloud.token(user))).await
}

async fn client_of(endpoint: &str, token: Option<String>) -> Glance {
    let method = token.map_or(AuthMethod::None, |token| AuthMethod::AdminToken(token.into()));
    let endpoints = vec![parse_endpoint(endpoint).unwrap()];
    let config = AuthConfig { method, endpoints, auth_type: None, region: None, interface: None };
    Glance::new(Auth::connect(&config, &http(), None).await.unwrap(), &http()).unwrap()
}
