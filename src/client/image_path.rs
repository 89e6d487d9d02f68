//! An image named by its path on a mount: which one it is, and whose.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::Setter;
use url::Url;

use super::file::{is_fuse, not_taken, refused};
use crate::error::{Error, Kind, Result};
use crate::ioctl::{LOOK, LOOK_LEN, look};
use crate::reference::ImageUrl;

/// The attribute that tells both.
const ADDRESS: &str = "user.glance.url";

/// The attribute of a mount point with the addresses of its Glance.
const ENDPOINTS: &str = "user.glancefs.endpoints";

/// Bytes of an address that are taken: far more than any endpoint has.
const LONGEST: usize = 8192;

/// An image on a mount.
#[derive(Debug)]
pub struct ImagePath {
    /// Its address, by which the mount knows it.
    pub url: ImageUrl,
    folder: PathBuf,
}

impl ImagePath {
    /// What was typed is a path whatever is there: it begins with `/`, `./` or `../`.
    pub fn begins_as_one(text: &str) -> bool {
        ["/", "./", "../"].iter().any(|start| text.starts_with(start))
    }

    /// What was typed is a path: it begins as one, or is any other name of a file on a FUSE mount.
    pub fn is_one(text: &str) -> bool {
        let on_fuse = |path: &Path| path.symlink_metadata().is_ok() && is_fuse(path).unwrap_or(false);
        Self::begins_as_one(text) || !text.contains("://") && on_fuse(Path::new(text))
    }

    /// The image at `text` when that is a path; `None` when it is none.
    ///
    /// # Errors
    /// Those of [`at`](Self::at).
    pub fn find(text: &str) -> Result<Option<Self>> {
        if Self::is_one(text) { Self::at(Path::new(text)).map(Some) } else { Ok(None) }
    }

    /// The image at `path`.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` for a path that leads to no image of a glancefs mount.
    pub fn at(path: &Path) -> Result<Self> {
        let path = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidFilename => {
                Error::new(Kind::NotFound, "there is no such file")
            }
            _ => refused("cannot be found", error),
        })?;
        let not_ours = || Error::new(Kind::Invalid, "is no image on a glancefs mount");
        let url = attribute(&path, ADDRESS)?.ok_or_else(not_ours)?;
        let folder = path.parent().ok_or_else(not_ours)?.to_owned();
        Ok(Self { url: ImageUrl::parse(&url)?, folder })
    }

    /// Has the mount ask the server about the image, which was changed.
    ///
    /// # Errors
    /// The mount has ended, or the server does not answer it.
    pub fn look_again(&self) -> Result<()> {
        let folder =
            File::open(&self.folder).map_err(|error| refused("its directory cannot be opened", error))?;
        // SAFETY: `LOOK` has the size of this array in it, and FUSE reads no more than that.
        let sent = unsafe {
            let question = Setter::<LOOK, [u8; LOOK_LEN]>::new(look(&self.url.id));
            rustix::ioctl::ioctl(&folder, question)
        };
        sent.map_err(not_taken)
    }
}

/// The endpoints of the Glance whose images are mounted at `mountpoint`; none when the mount does not tell.
///
/// # Errors
/// The mount has ended.
pub fn endpoints_of(mountpoint: &Path) -> Result<Vec<Url>> {
    let told = attribute(mountpoint, ENDPOINTS)?.unwrap_or_default();
    Ok(told.split(' ').filter_map(|text| Url::parse(text).ok()).collect())
}

/// The extended attribute `name` of `path` as text; `None` when there is none of this name.
fn attribute(path: &Path, name: &str) -> Result<Option<String>> {
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(Kind::Invalid, "a path holds no NUL"))?;
    let mut value = vec![0; LONGEST];
    let len = match rustix::fs::getxattr(path, name, value.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(error) => return Err(refused("cannot be looked at", error.into())),
    };
    value.truncate(len);
    Ok(String::from_utf8(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths_and_files_elsewhere_no_images() {
        for name in ["debian-12", "a/b", "http://glance/v2/images/x", "Cargo.toml"] {
            assert!(ImagePath::find(name).unwrap().is_none(), "{name}");
        }
        let missing = ImagePath::find("/no/such/file").unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
        let elsewhere = ImagePath::find("./Cargo.toml").unwrap_err();
        assert!(elsewhere.to_string().contains("no image on a glancefs mount"), "{elsewhere}");
    }
}
