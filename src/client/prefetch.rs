//! `glancefs prefetch`: brings whole images into the cache, and waits until they are proven.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::file::ImageFile;
use super::progress::Shown;
use super::{Tally, say};
use crate::error::{Error, Kind, Result};
use crate::ioctl::Stage;
use crate::units::human_bytes;

/// Between two looks at the progress: smooth enough for a bar.
const LOOK: Duration = Duration::from_millis(100);

/// Brings each image into the cache: as it was typed, and where it is. A signal ends it between two looks; what came
/// by then stays.
pub fn prefetch<'a>(images: impl IntoIterator<Item = (&'a Path, Result<PathBuf>)>) -> ExitCode {
    let mut tally = Tally::default();
    for (typed, path) in images {
        let outcome = path.and_then(|path| bring(&path).map(|outcome| (path, outcome)));
        tally.count(typed, outcome.map(|(path, outcome)| say(format_args!("{}: {outcome}", path.display()))));
    }
    tally.finish("in the cache")
}

/// Brings one image, and says what came of it.
fn bring(path: &Path) -> Result<String> {
    let image = ImageFile::open(path)?;
    image.prefetch()?;
    let mut shown: Option<Shown> = None;
    let mut pause = Duration::from_millis(1);
    loop {
        let progress = image.progress()?;
        match progress.stage {
            Stage::Filling | Stage::Verifying => {
                shown.get_or_insert_with(|| Shown::begin(path, &progress)).update(&progress);
                thread::sleep(pause);
                // What is here already is told at once.
                pause = (pause * 2).min(LOOK);
            }
            Stage::Done => {
                let size = human_bytes(progress.size);
                return Ok(match progress.text.as_str() {
                    "" => format!("{size}, complete; it has no hash to be verified by"),
                    hash => format!("{size}, verified ({hash})"),
                });
            }
            Stage::Failed => return Err(Error::new(Kind::Io, progress.text)),
            Stage::Idle => return Err(Error::new(Kind::Interrupted, "the mount forgot about it")),
        }
    }
}
