//! `glancefs status`: how a mount is, as the mount itself tells it in `.glancefs`.

use std::path::Path;

use super::print;
use super::told::told;
use crate::error::Result;

/// Prints how the mount at `mountpoint` is, for people or as JSON.
///
/// # Errors
/// No glancefs is mounted there, or it does not answer.
pub fn status(mountpoint: &Path, json: bool) -> Result<()> {
    let file = if json { "status.json" } else { "status" };
    print(&told(mountpoint, file, "cannot read the status")?)
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
