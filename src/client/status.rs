//! `glancefs status`: how a mount is, as the mount itself tells it in `.glancefs`.

use std::io::{self, Write};
use std::path::Path;

use super::file::{is_fuse, refused};
use crate::error::{Error, Kind, Result};

/// Prints how the mount at `mountpoint` is, for people or as JSON.
///
/// # Errors
/// No glancefs is mounted there, or it does not answer.
pub fn status(mountpoint: &Path, json: bool) -> Result<()> {
    let shown = mountpoint.display().to_string();
    let not_ours = || {
        let cure = "findmnt -t fuse.glancefs lists the mounts";
        Error::new(Kind::Invalid, format!("no glancefs is mounted at {shown}: {cure}"))
    };
    // What others put into a folder of that name is not ours.
    if !is_fuse(mountpoint).map_err(|error| error.context(&shown))? {
        return Err(not_ours());
    }
    let file = if json { ".glancefs/status.json" } else { ".glancefs/status" };
    let text = std::fs::read(mountpoint.join(file)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => not_ours(),
        _ => refused("cannot read the status", error).context(&shown),
    })?;
    match io::stdout().write_all(&text) {
        // `| head` has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("writing the status", error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_only_looks_like_a_mount_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".glancefs")).unwrap();
        std::fs::write(folder.path().join(".glancefs/status"), "version: 9\n").unwrap();
        let error = status(folder.path(), false).unwrap_err().to_string();
        assert!(error.starts_with("no glancefs is mounted at ") && error.contains("findmnt"), "{error}");
        let error = status(&folder.path().join("gone"), true).unwrap_err().to_string();
        assert!(error.contains("gone") && error.contains("No such file"), "{error}");
    }
}
