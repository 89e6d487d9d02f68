//! What a mount is asked about its spool: the list of uploads, one more try, an end of one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::ioctl::{Setter, Updater};

use super::file::refused;
use super::progress::Shown;
use super::told::told;
use crate::error::{Error, Kind, Result};
use crate::ioctl::{Choice, DISCARD, PROGRESS, Progress, RETRY, Stage};

/// Where a mount tells its uploads, and takes what is asked about them.
const FILE: &str = "uploads.json";

/// Between two looks at the progress: smooth enough for a bar.
const LOOK: Duration = Duration::from_millis(100);

/// The uploads of the mount at `mountpoint`, as JSON.
///
/// # Errors
/// No glancefs is mounted there, or it does not answer.
pub fn uploads_of(mountpoint: &Path) -> Result<Vec<u8>> {
    told(mountpoint, FILE, "cannot read the uploads")
}

/// Has the mount upload `id` again, under the file name `name` if one is given; shows how far it is, and
/// gives the id of the image. A signal ends it, and the bytes stay in the spool.
///
/// # Errors
/// What the mount says.
pub fn retry_upload(mountpoint: &Path, id: &str, name: Option<&str>) -> Result<String> {
    let file = ask::<RETRY>(mountpoint, id, name)?;
    let mut shown: Option<Shown> = None;
    wait(&file, |progress| {
        if progress.size > 0 {
            let label = Path::new(name.unwrap_or(id));
            shown.get_or_insert_with(|| Shown::begin(label, progress)).update(progress);
        }
    })
}

/// Has the mount remove the upload `id`.
///
/// # Errors
/// What the mount says.
pub fn discard_upload(mountpoint: &Path, id: &str) -> Result<()> {
    let file = ask::<DISCARD>(mountpoint, id, None)?;
    wait(&file, |_| {}).map(|_| ())
}

fn path(mountpoint: &Path) -> PathBuf {
    mountpoint.join(".glancefs").join(FILE)
}

/// The open file that what was asked belongs to.
fn ask<const WHAT: rustix::ioctl::Opcode>(mountpoint: &Path, id: &str, name: Option<&str>) -> Result<File> {
    let raw = Choice { id: id.to_owned(), name: name.map(str::to_owned) }.encode()?;
    let file = File::open(path(mountpoint)).map_err(|error| refused("the mount cannot be asked", error))?;
    // SAFETY: `RETRY` and `DISCARD` have the size of this array in them; FUSE reads so many bytes, and writes none.
    let sent = unsafe { rustix::ioctl::ioctl(&file, Setter::<WHAT, _>::new(raw)) };
    sent.map(|()| file).map_err(|errno| match errno {
        Errno::PERM => Error::new(Kind::NotPermitted, "only the user who mounted, and root, may do this"),
        Errno::ROFS => Error::new(Kind::ReadOnly, "the mount is read-only"),
        Errno::NOTTY | Errno::INVAL => {
            Error::new(Kind::NotSupported, "the mount is of another version of glancefs")
        }
        other => refused("the mount did not do it", other.into()),
    })
}

/// Waits for the end, and gives what the mount says of it.
fn wait(file: &File, mut show: impl FnMut(&Progress)) -> Result<String> {
    let mut pause = Duration::from_millis(1);
    loop {
        // SAFETY: `PROGRESS` has the size of this array in it, FUSE writes no more than that, and any bytes make
        // an array of bytes. Written or not, all of it is initialised first.
        let raw = unsafe {
            let mut raw = [0; Progress::LEN];
            rustix::ioctl::ioctl(file, Updater::<PROGRESS, _>::new(&mut raw)).map(|()| raw)
        };
        let raw = raw.map_err(|errno| refused("the mount does not answer", errno.into()))?;
        let progress = Progress::decode(&raw)?;
        match progress.stage {
            Stage::Filling | Stage::Verifying => {
                show(&progress);
                thread::sleep(pause);
                pause = (pause * 2).min(LOOK);
            }
            Stage::Done => return Ok(progress.text),
            Stage::Failed => return Err(Error::new(Kind::Io, progress.text)),
            Stage::Idle => return Err(Error::new(Kind::Interrupted, "the mount forgot about it")),
        }
    }
}
