//! A mount's life: daemon with readiness, lock, stale-mount repair, signals, unmount.
//!
//! In the background two processes share the work. The one that the user started ([`in_background`])
//! starts the other and waits for its word; the other ([`as_daemon`]) does everything, and says
//! "ready" once the kernel has finished INIT and the first listing succeeded, or why it failed:
//!
//! ```text
//! glancefs mount ──spawn──▶ glancefs mount --daemon
//!       │                      log, lock, repair, Session::start
//!       │◀────── pipe ──────── "ready", or the failure
//!     exit                     own session, /, null stdio; serves until unmounted
//! ```

mod daemon;
mod instance;
mod limiter;
mod logging;
mod meant;
mod metrics_server;
mod mountinfo;
mod place;
mod repair;
mod signals;
mod supervisor;
mod umount;

use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info};

use crate::allocator;
use crate::config::{Config, Environment};
use crate::error::{Error, Result};
use crate::fuse::session::Session;
use instance::Instance;
use metrics_server::MetricsServer;
use place::{Claim, Place};
use signals::Signals;
use supervisor::Supervisor;

pub use daemon::Readiness;
pub use instance::spool_of;
pub use meant::meant;
pub use mountinfo::{mountpoints, topmost};
pub use repair::{Pulse, pulse};
pub use umount::{Unmounted, umount};

/// How long a thread that waits for disks stays without work. They take turns, so a task every few seconds keeps as many of them
/// as come to their turn within this time: with tokio's 10 s the peak of a busy hour stayed for good.
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// What is left of running tasks at the end is given up after this time; all that must survive has
/// been written by `Session::finish` before.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(5);

/// Mounts, serves and returns once the mount has ended.
///
/// # Errors
/// What kept it from mounting.
pub fn in_foreground(config: &Config, environment: &Environment) -> Result<()> {
    logging::start(&logging::Destination::foreground(config))?;
    let supervisor = Supervisor::of(environment);
    let ready = || {
        supervisor.ready(&config.mountpoint);
        Ok(())
    };
    let outcome = serve(config, environment, ready, || supervisor.stopping());
    outcome.inspect_err(|error| supervisor.failed(error))
}

/// Starts `command_line` (with the internal option for the background part) and returns once that
/// process is ready to serve.
///
/// # Errors
/// What kept it from mounting, as the background part tells it.
pub fn in_background(config: &Config, command_line: &[OsString]) -> Result<()> {
    let log = logging::Destination::background(config);
    if matches!(log, logging::Destination::Nowhere) {
        eprintln!("glancefs: neither journal nor syslog is here, so nothing is logged: add --log-file FILE");
    }
    daemon::launch(command_line, &log, config.device)
}

/// The background part: mounts, tells `readiness`, serves, and returns once the mount has ended.
///
/// # Errors
/// What kept it from mounting, after telling it.
pub fn as_daemon(config: &Config, environment: &Environment, readiness: Readiness) -> Result<()> {
    daemon::take_usual_name();
    // Cache, spool, lock and log are nobody else's business.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let mut readiness = Some(readiness);
    let log = logging::Destination::background(config);
    // While that is the caller's, who prints what it hears of a failure.
    let is_read_by_the_journal = logging::stderr_is_the_journal();
    let outcome = logging::start(&log).and_then(|()| {
        serve(config, environment, || readiness.take().map_or(Ok(()), Readiness::ready), || {})
    });
    if let Err(error) = &outcome {
        // Under a mount unit both would be in the journal.
        let is_printed_there = is_read_by_the_journal && log == logging::Destination::Journal;
        if readiness.is_none() || !is_printed_there {
            error!("{error}");
        }
        if let Some(readiness) = readiness {
            readiness.failed(error);
        }
    }
    outcome
}

/// Mounts, calls `ready`, serves until the mount has ended, and calls `ended` before what has to survive is written out.
fn serve(
    config: &Config,
    environment: &Environment,
    ready: impl FnOnce() -> Result<()>,
    ended: impl FnOnce(),
) -> Result<()> {
    allocator::bound_reserves();
    // Held until everything is written, unless the mount is detached before: whoever waits for our end waits for this. Of a device that
    // is ready nobody knows here where it is mounted.
    let instance = match config.device {
        None => {
            let instance = Instance::acquire(&config.mountpoint, &config.spool.dir, environment)?;
            repair::stale_mounts(&config.mountpoint)?;
            Some(instance)
        }
        Some(_) => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("glancefs-io")
        .thread_keep_alive(IDLE_THREAD)
        .build()
        .map_err(|error| Error::io("starting threads", error))?;
    let signals = Signals::install(&runtime, config)?;
    let metrics = config.metrics_listen.map(MetricsServer::bind).transpose()?;
    let session = Session::start(config, &runtime)?;
    let metrics = metrics.map(|metrics| metrics.serve(session.files(), &runtime));
    let place = instance.as_ref().and_then(|_| Place::of(&config.mountpoint));
    let claim = Arc::new(Mutex::new(Some(Claim { instance, metrics })));
    info!("mounted at {} (glancefs {})", config.mountpoint.display(), env!("CARGO_PKG_VERSION"));
    signals.serving(place.clone());
    let outcome = ready();
    if outcome.is_err() {
        session.stop();
    }
    let watch = place.clone().map(|place| {
        let claim = Arc::clone(&claim);
        let free =
            place.free_when_detached(move || claim.lock().unwrap_or_else(PoisonError::into_inner).take());
        AbortOnDropHandle::new(runtime.spawn(free))
    });
    wait_for_end(config, &session, &signals, place.as_ref(), &runtime);
    drop(watch);
    ended();
    session.finish();
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    info!("unmounted {}", config.mountpoint.display());
    outcome
}

/// Returns when the mount has ended, from outside or through a signal.
fn wait_for_end(
    config: &Config,
    session: &Session,
    signals: &Signals,
    place: Option<&Place>,
    runtime: &tokio::runtime::Runtime,
) {
    let ended = CancellationToken::new();
    thread::scope(|scope| {
        // A thread, since `stop` may block. It ends with the mount, whichever comes first.
        scope.spawn(|| {
            let asked = runtime.block_on(async {
                tokio::select! {
                    () = signals.stop_asked() => true,
                    () = ended.cancelled() => false,
                }
            });
            match place {
                _ if !asked => {}
                // What is mounted there by now, such as the trigger of an automount, is not ours to unmount.
                Some(place) if !place.is_ours() => info!(
                    "{} is detached already: serving what is open until it is closed; a second signal ends at once",
                    config.mountpoint.display()
                ),
                _ => session.stop(),
            }
        });
        session.wait();
        ended.cancel();
    });
}
