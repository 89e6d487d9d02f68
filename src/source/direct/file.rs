//! A file of a shared store, opened without leaving the folder that the operator named.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use url::Url;

use crate::config::DirectRoot;
use crate::error::{Error, Kind, Result};

/// A folder of this host, and a path below it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    root: PathBuf,
    below: PathBuf,
}

/// Where these locations may be on this host, in their order.
pub(super) fn places(roots: &[DirectRoot], locations: &[Url]) -> Vec<Place> {
    let files =
        locations.iter().filter(|url| url.scheme() == "file").filter_map(|url| url.to_file_path().ok());
    let below = |path: PathBuf| {
        roots.iter().filter_map(move |root| {
            let below = path.strip_prefix(&root.theirs).ok()?;
            (!below.as_os_str().is_empty())
                .then(|| Place { root: root.ours.clone(), below: below.to_owned() })
        })
    };
    files.flat_map(below).collect()
}

/// Opens the first of these that is a file of `size` bytes. Waits for the file system.
///
/// # Errors
/// Why the last one is none.
pub(super) fn open_first(places: &[Place], size: u64) -> Result<File> {
    let mut last = None;
    for place in places {
        match open(place, size) {
            Ok(file) => return Ok(file),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::NotFound, "it is in no folder of --direct-root")))
}

fn open(place: &Place, size: u64) -> Result<File> {
    let Place { root, below } = place;
    let shown = root.join(below);
    let failed = |error: rustix::io::Errno| Error::io(format!("opening {}", shown.display()), error.into());
    let folder = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let folder = folder.map_err(failed)?;
    // No link leads out of the folder, and what is no file (a FIFO) is not waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(&folder, below, flags, Mode::empty(), confined).map_err(failed)?;
    let file = File::from(file);
    let found =
        file.metadata().map_err(|error| Error::io(format!("looking at {}", shown.display()), error))?;
    if !found.is_file() || found.len() != size {
        let what = format!("{} is no file of {size} bytes, as the image has", shown.display());
        return Err(Error::new(Kind::Integrity, what));
    }
    nonblocking_off(&file, &shown)?;
    Ok(file)
}

/// The kernel may read it in its own way.
fn nonblocking_off(file: &File, shown: &Path) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(file);
    let set = flags.and_then(|flags| rustix::fs::fcntl_setfl(file, flags - OFlags::NONBLOCK));
    set.map_err(|error| Error::io(format!("opening {}", shown.display()), error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(theirs: &str, ours: &Path) -> DirectRoot {
        DirectRoot { theirs: theirs.into(), ours: ours.to_owned() }
    }

    fn opened(roots: &[DirectRoot], location: &str, size: u64) -> Result<File> {
        open_first(&places(roots, &[Url::parse(location).unwrap()]), size)
    }

    #[test]
    fn a_file_below_a_root_is_opened_by_the_path_it_has_here() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a b")).unwrap();
        std::fs::write(dir.path().join("a b/image"), "12345").unwrap();
        let roots = [root("/elsewhere", Path::new("/no/such")), root("/srv/glance", dir.path())];
        opened(&roots, "file:///srv/glance/a%20b/image", 5).unwrap();
        opened(&roots, "file:///srv/glance/x/../a%20b/image", 5).unwrap();
    }

    #[test]
    fn nothing_outside_and_nothing_else_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(inside.join("folder")).unwrap();
        std::fs::write(&outside, "12345").unwrap();
        std::fs::write(inside.join("image"), "12345").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink("image", inside.join("inner-link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), inside.join("up")).unwrap();
        rustix::fs::mknodat(CWD, inside.join("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let roots = [root("/srv/glance", &inside)];
        opened(&roots, "file:///srv/glance/image", 5).unwrap();
        for location in [
            "file:///srv/glance/../outside",
            "file:///srv/glance/%2e%2e/outside",
            "file:///srv/glance/..%2foutside",
            "file:///srv/glance-other/image",
            "file:///srv/glance/link",
            "file:///srv/glance/inner-link",
            "file:///srv/glance/up/outside",
            "file:///srv/glance/folder",
            "file:///srv/glance/fifo",
            "file:///srv/glance/",
            "file:///srv/glance/none",
            "file://host/srv/glance/image",
            "http:///srv/glance/image",
        ] {
            assert!(opened(&roots, location, 5).is_err(), "{location}");
        }
        assert!(opened(&roots, "file:///srv/glance/image", 6).is_err(), "another size");
    }
}
