//! `glancefs evict`: drops images from the cache.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use super::{Tally, file, say};
use crate::error::{Kind, Result};
use crate::ioctl::Eviction;
use crate::units::human_bytes;

/// How long an image that is in use is tried again: another mount of the same cache folder gives a file back up
/// to 10 s after its last close.
const PATIENCE: Duration = Duration::from_secs(12);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// Drops each image: as it was typed, and where it is.
pub fn evict<'a>(images: impl IntoIterator<Item = (&'a Path, Result<PathBuf>)>) -> ExitCode {
    let mut tally = Tally::default();
    for (typed, path) in images {
        let evicted = path.and_then(|path| evict_soon(&path).map(|eviction| say(told(&path, &eviction))));
        tally.count(typed, evicted);
    }
    tally.finish("evicted")
}

fn evict_soon(path: &Path) -> Result<Eviction> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file::evict(path) {
            Err(error) if error.kind() == Kind::Busy && Instant::now() < deadline => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

fn told(path: &Path, eviction: &Eviction) -> String {
    let freed = match eviction.freed {
        0 => "nothing to free".to_owned(),
        bytes => format!("{} freed", human_bytes(bytes)),
    };
    let left = match eviction.left {
        0 => String::new(),
        bytes => format!(
            "; {} are here still: another image has the same content, or it is being read",
            human_bytes(bytes)
        ),
    };
    format!("{}: {freed}{left}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_and_what_stays_is_told() {
        let told = |freed, left| told(Path::new("/m/a"), &Eviction { ino: 300, freed, left });
        assert_eq!(told(1 << 20, 0), "/m/a: 1.0 MiB freed");
        assert_eq!(told(0, 0), "/m/a: nothing to free");
        assert!(told(0, 1024).starts_with("/m/a: nothing to free; 1.0 KiB are here still"));
    }
}
