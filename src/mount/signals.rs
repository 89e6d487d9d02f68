//! Signals: SIGTERM and SIGINT unmount cleanly; a second one ends the process at once.
//!
//! SIGHUP in the foreground means that the terminal is gone and unmounts too; in the background it
//! has no meaning yet and is only kept from killing the daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::mountinfo;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fuse::unmount::{Manner, unmount};

/// The handlers, from installation to the end of the process.
pub struct Signals {
    serving: Arc<AtomicBool>,
    stop: CancellationToken,
}

struct Listener {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    foreground: bool,
    mountpoint: PathBuf,
    serving: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Signals {
    /// Installs the handlers. Until [`Signals::serving`] a signal ends the process at once: there is
    /// nothing to save yet, and starting may wait long for a server.
    ///
    /// # Errors
    /// `Io` when the system refuses handlers.
    pub fn install(runtime: &Runtime, config: &Config) -> Result<Self> {
        let _context = runtime.enter();
        let handler = |kind| signal(kind).map_err(|error| Error::io("installing signal handlers", error));
        let signals = Self { serving: Arc::default(), stop: CancellationToken::new() };
        let listener = Listener {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
            hang_up: handler(SignalKind::hangup())?,
            foreground: config.foreground,
            mountpoint: config.mountpoint.clone(),
            serving: Arc::clone(&signals.serving),
            stop: signals.stop.clone(),
        };
        runtime.spawn(listener.run());
        Ok(signals)
    }

    /// From now on the first signal asks for a clean end.
    pub fn serving(&self) {
        self.serving.store(true, Ordering::Release);
    }

    /// Completes when a signal has asked for a clean end.
    pub async fn stop_asked(&self) {
        self.stop.cancelled().await;
    }
}

impl Listener {
    async fn run(mut self) {
        loop {
            let (name, number) = tokio::select! {
                Some(()) = self.terminate.recv() => ("SIGTERM", libc::SIGTERM),
                Some(()) = self.interrupt.recv() => ("SIGINT", libc::SIGINT),
                Some(()) = self.hang_up.recv() => ("SIGHUP", libc::SIGHUP),
                else => return,
            };
            if number == libc::SIGHUP && !self.foreground {
                info!("SIGHUP has no effect");
            } else if !self.serving.load(Ordering::Acquire) {
                warn!("{name} while starting: ending");
                self.end_at_once(number).await;
            } else if self.stop.is_cancelled() {
                warn!("{name} again: ending at once");
                self.end_at_once(number).await;
            } else {
                info!("{name}: unmounting {}", self.mountpoint.display());
                self.stop.cancel();
            }
        }
    }

    /// Leaves no dead mount behind, and ends with the exit code of a process killed by the signal.
    async fn end_at_once(&self, number: i32) {
        let mountpoint = self.mountpoint.clone();
        let detached = tokio::task::spawn_blocking(move || {
            // The lock is ours, so a glancefs mounted there is ours too.
            let ours = mountinfo::is_glancefs(&mountpoint).unwrap_or(false);
            if ours && let Err(error) = unmount(&mountpoint, Manner::Lazy) {
                warn!("{error}");
            }
        });
        // A panic in there must not keep the process alive.
        let _ = detached.await;
        std::process::exit(128 + number);
    }
}
