//! What a mount tells of itself in the files of its `.glancefs`.

use std::io;
use std::path::Path;

use super::file::{is_fuse, refused};
use crate::error::{Error, Kind, Result};

/// The content of `.glancefs/<name>` of the mount at `mountpoint`; `failure` is told when it cannot be read.
///
/// # Errors
/// No glancefs is mounted there, or it does not answer.
pub(super) fn told(mountpoint: &Path, name: &str, failure: &'static str) -> Result<Vec<u8>> {
    let shown = mountpoint.display().to_string();
    let not_ours = || {
        let cure = "findmnt -t fuse.glancefs lists the mounts";
        Error::new(Kind::Invalid, format!("no glancefs is mounted at {shown}: {cure}"))
    };
    // What others put into a folder of that name is not ours.
    if !is_fuse(mountpoint).map_err(|error| error.context(&shown))? {
        return Err(not_ours());
    }
    std::fs::read(mountpoint.join(".glancefs").join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => not_ours(),
        _ => refused(failure, error).context(&shown),
    })
}
