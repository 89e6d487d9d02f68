//! Which mount is meant by a command: the one that is named, or the only one that this user has.

use std::path::{Path, PathBuf};

use super::mountinfo;
use crate::config::paths;
use crate::error::{Error, Kind, Result};

/// The mount point of the glancefs that is `named`, or of the only one that this user mounted.
///
/// # Errors
/// `Invalid` when none is there, and when there are several to choose from.
pub fn meant(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(named) => {
            let mountpoint = paths::resolve(named)?;
            if mountinfo::topmost(&mountpoint)?.is_some_and(|mount| mount.is_glancefs()) {
                return Ok(mountpoint);
            }
            let cure = "findmnt -t fuse.glancefs lists the mounts";
            Err(Error::new(Kind::Invalid, format!("no glancefs is mounted at {}: {cure}", named.display())))
        }
        None => only(mountinfo::mountpoints()?),
    }
}

fn only(mut mounts: Vec<PathBuf>) -> Result<PathBuf> {
    match mounts.pop() {
        Some(only) if mounts.is_empty() => Ok(only),
        Some(last) => {
            mounts.push(last);
            let shown: Vec<_> = mounts.iter().map(|mount| mount.display().to_string()).collect();
            let cure = "choose one with --mount, or name the image by its path";
            Err(Error::new(
                Kind::Invalid,
                format!("several mounts may be meant ({}): {cure}", shown.join(", ")),
            ))
        }
        None => Err(Error::new(
            Kind::Invalid,
            "this user has no glancefs mount here: name one with --mount, or the image by its path",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_mounts_none_is_taken() {
        assert_eq!(only(vec!["/a".into()]).unwrap(), Path::new("/a"));
        let told = only(vec!["/a".into(), "/b".into()]).unwrap_err().to_string();
        assert!(told.contains("(/a, /b)") && told.contains("--mount"), "{told}");
        assert!(only(vec![]).unwrap_err().to_string().contains("--mount"));
    }

    #[test]
    fn what_is_named_must_be_a_mount_of_ours() {
        for named in ["/", "/no/such/place"] {
            let told = meant(Some(Path::new(named))).unwrap_err().to_string();
            assert!(told.contains(named) && told.contains("findmnt"), "{told}");
        }
    }
}
