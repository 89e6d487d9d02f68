//! The commands that work on a mount from outside: `prefetch`, `evict`, `status`, `uploads` and `profile`.
//!
//! They are ordinary programs to the daemon: they open files, read them and send the ioctls of
//! [`crate::ioctl`]. Several paths are done one after another; a failure is told with its path and does not
//! keep the others from being done.

mod evict;
mod file;
mod image_path;
mod prefetch;
mod profile;
mod progress;
mod status;
mod told;
mod uploads;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::error::{Error, Result};

pub use evict::evict;
pub use image_path::{ImagePath, endpoints_of};
pub use prefetch::prefetch;
pub use profile::{export_profile, import_profile, profile_of, set_property};
pub use status::status;
pub use uploads::{discard_upload, retry_upload, uploads_of};

/// What became of the paths of one command.
#[derive(Debug, Default)]
struct Tally {
    done: usize,
    failed: usize,
}

impl Tally {
    fn count(&mut self, path: &Path, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.done += 1,
            Err(error) => {
                self.failed += 1;
                eprintln!("glancefs: {}: {error}", path.display());
            }
        }
    }

    /// Sums several paths up, and gives the exit code.
    fn finish(self, done: &str) -> ExitCode {
        let Self { done: count, failed } = self;
        if count + failed > 1 {
            match failed {
                0 => say(format_args!("{count} images {done}")),
                _ => say(format_args!("{count} of {} images {done}, {failed} failed", count + failed)),
            }
        }
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Writes a result to standard output.
///
/// # Errors
/// Those of writing, but for a pipe that nobody reads any more: `| head` has seen enough.
pub fn print(text: &[u8]) -> Result<()> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("writing to standard output", error))
        }
        _ => Ok(()),
    }
}

/// A line on standard output. Nobody reading it is no failure of ours.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
