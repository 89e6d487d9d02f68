//! Images on a mount, as a person names them to the commands that work through it: by a path, or as the commands
//! for the cloud take them, by an id, a name or an address, which are then looked for on one mount.

use std::path::{Path, PathBuf};

use super::args::OnMountArguments;
use crate::catalog::names;
use crate::client::{ImagePath, endpoints_of};
use crate::error::{Error, Kind, Result};
use crate::mount;
use crate::reference::ImageReference;
use crate::units::ImageId;

/// The path of the image that was `typed`. A path is not looked at here.
///
/// # Errors
/// `Invalid` when it is no path and no mount, or none of several, can be meant, and for an address at another Glance
/// than that of the mount; `NotFound` when the mount does not have it.
pub(super) fn path_of(typed: &Path, on: &OnMountArguments) -> Result<PathBuf> {
    // A name of Glance is UTF-8.
    let Some(text) = typed.to_str().filter(|text| !is_path(text, on.mount.is_some())) else {
        return Ok(typed.to_owned());
    };
    let reference = text.parse()?;
    let mountpoint = mount::meant(on.mount.as_deref())?;
    find(&mountpoint, &reference)?.ok_or_else(|| {
        let at = mountpoint.display();
        Error::new(Kind::NotFound, format!("the mount at {at} has no image {reference}"))
    })
}

/// Beside a mount that was named, a word is an image of that mount, whatever is in the working directory.
fn is_path(text: &str, mount_is_named: bool) -> bool {
    if mount_is_named { ImagePath::begins_as_one(text) } else { ImagePath::is_one(text) }
}

fn find(mountpoint: &Path, reference: &ImageReference) -> Result<Option<PathBuf>> {
    match reference {
        ImageReference::Id(id) => match by_id(mountpoint, id)? {
            // A name may look like an id.
            None => by_name(mountpoint, id.as_str()),
            found => Ok(found),
        },
        ImageReference::Name(name) => by_name(mountpoint, name),
        ImageReference::Url(url) => {
            let Some(path) = by_id(mountpoint, &url.id)? else { return Ok(None) };
            let shown = ImagePath::at(&path)?.url;
            // Of several endpoints it shows the first, and any may have been copied from somewhere.
            let also = endpoints_of(mountpoint)?;
            if url.is_at(std::slice::from_ref(&shown.endpoint)) || url.is_at(&also) {
                return Ok(Some(path));
            }
            let at = mountpoint.display();
            let what = format!("the mount at {at} has the images of another Glance: {shown}");
            Err(Error::new(Kind::Invalid, what))
        }
    }
}

fn by_id(mountpoint: &Path, id: &ImageId) -> Result<Option<PathBuf>> {
    existing(mountpoint.join(".by-id").join(id.as_str()))
}

/// A name as `ls` shows it (`twice~1f3c9a2b`), else as Glance has it (`a/b`, which is `a%2Fb` there).
fn by_name(mountpoint: &Path, name: &str) -> Result<Option<PathBuf>> {
    let encoded = names::encode(name);
    let is_file_name = !name.contains('/') && !matches!(name, "." | ".." | ".by-id" | ".glancefs");
    if is_file_name && let Some(path) = existing(mountpoint.join(name))? {
        return Ok(Some(path));
    }
    if is_file_name && encoded == name { Ok(None) } else { existing(mountpoint.join(encoded)) }
}

fn existing(path: PathBuf) -> Result<Option<PathBuf>> {
    match ImagePath::at(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error.context(path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_a_path_and_a_word_beside_a_mount_is_none() {
        for path in ["/mnt/x", "./x", "../x"] {
            assert!(is_path(path, false) && is_path(path, true), "{path}");
        }
        for word in ["x", "a/b", "Cargo.toml", "http://h/v2/images/x"] {
            assert!(!is_path(word, false) && !is_path(word, true), "{word}");
        }
        // What may lie in the working directory is asked of the disk only where no mount is named.
        let on = OnMountArguments { mount: Some("/".into()) };
        let told = path_of(Path::new("Cargo.toml"), &on).unwrap_err();
        assert!(told.to_string().contains("no glancefs is mounted at /"), "{told}");
    }
}
