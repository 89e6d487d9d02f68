//! The commands that act on the cloud: `import`, `register`, `copy`, `uncopy`, `members`, `tasks`, `deactivate` and
//! `reactivate`.
//!
//! They log in by themselves, as `mount` does. Images are named as a person likes to (see [`target`]); where that
//! was a path on a mount, the mount is told that the image changed.

mod copy;
mod create;
mod members;
mod shown;
mod state;
mod target;
mod tasks;
mod wait;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::auth::Auth;
use crate::config::{ApiVersion, AuthConfig, HttpConfig};
use crate::error::{Error, Kind, Result};
use crate::glance::{Glance, Negotiated};

pub use copy::{Copy, copy, uncopy};
pub use create::{NewImageOrder, Source, create};
pub use members::{MemberAct, members};
pub use state::set_active;
pub use tasks::tasks;

/// How to reach the cloud.
#[derive(Debug, Clone)]
pub struct Connection {
    /// How to prove who we are, and where Glance is.
    pub auth: AuthConfig,
    /// How requests are made.
    pub http: HttpConfig,
    /// By which version of the Image API.
    pub api_version: ApiVersion,
}

/// How a command that was interrupted ends (128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// Logs in and does `work`; its error is told, and becomes the exit code.
fn run(connection: &Connection, work: impl AsyncFnOnce(Negotiated) -> Result<()>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|error| Error::io("starting threads", error)).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            let auth = Auth::connect(&connection.auth, &connection.http, None).await?;
            let glance = Glance::new(auth, &connection.http)?;
            work(Negotiated::new(glance, connection.api_version)).await
        });
        // A file that is being read must not keep us.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("glancefs: {error}");
            if error.kind() == Kind::Interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::FAILURE }
        }
    }
}

/// What `work` gives, or `None` when Ctrl-C or SIGTERM comes first.
async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<Option<T>> {
    let handler = |kind| signal(kind).map_err(|error| Error::io("installing signal handlers", error));
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    tokio::select! {
        outcome = work => Ok(Some(outcome)),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    }
}

/// A line on standard output. Nobody reading it is no failure of ours.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
