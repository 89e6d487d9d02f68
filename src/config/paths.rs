//! Where things are: the mount point, the default folders, and which path lies inside which.

use std::io;
use std::os::fd::RawFd;
use std::path::{Component, Path, PathBuf};

use super::Environment;
use crate::error::{Error, Kind, Result};

/// The mount point as the kernel will write it: absolute, without symbolic links.
///
/// A mount whose daemon died (`ENOTCONN`), or one that only its owner may enter (`EACCES`), passes:
/// what is mounted there is judged later, from the mount table.
///
/// # Errors
/// `Config` when it does not exist or is no directory, with the cure.
pub fn mountpoint(path: &Path) -> Result<PathBuf> {
    let wrong = |message: String| Error::new(Kind::Config, message);
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            return Err(wrong(format!("the mount point {shown} is not a directory: name a directory")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(wrong(format!(
                "the mount point {shown} does not exist: create it: mkdir -p {shown}"
            )));
        }
        Err(error) if is_mounted_but_closed(&error) => {}
        Err(error) => return Err(wrong(format!("the mount point {shown} cannot be used")).with_source(error)),
    }
    resolve(path)
}

/// The descriptor of `/dev/fd/N`, as libfuse has it: a supervisor (a CSI driver, a privileged helper) has opened
/// /dev/fuse, mounted it where it wants, and hands the descriptor on.
pub fn ready_device(mountpoint: &Path) -> Option<RawFd> {
    let number = mountpoint.to_str()?.strip_prefix("/dev/fd/")?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| digits)
}

/// A FUSE mount is there, but it is dead or belongs to someone else.
fn is_mounted_but_closed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EACCES))
}

/// `path` made absolute, with the symbolic links of the part that exists resolved. The daemon
/// works in `/`, so a relative path would lose its meaning.
///
/// # Errors
/// `Config` when it is empty or the working directory is gone.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|error| {
        Error::new(Kind::Config, format!("{path:?} is not a usable path")).with_source(error)
    })?;
    for existing in absolute.ancestors() {
        let Ok(real) = existing.canonicalize() else { continue };
        let rest = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
        return Ok(join_lexically(real, rest));
    }
    Ok(absolute)
}

/// Appends components that do not exist yet: `..` can only be taken by its letters.
fn join_lexically(mut path: PathBuf, rest: &Path) -> PathBuf {
    for component in rest.components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// The cache folder when none is named: `/var/cache/glancefs` for root, else `glancefs` in
/// `$XDG_CACHE_HOME` or `~/.cache` (XDG Base Directory Specification).
pub fn default_cache_dir(environment: &Environment) -> Option<PathBuf> {
    if environment.is_root() {
        return Some("/var/cache/glancefs".into());
    }
    // The specification: a relative path there is invalid and to be ignored.
    let xdg = environment.path("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let base = xdg.or_else(|| Some(environment.path("HOME")?.join(".cache")))?;
    Some(base.join("glancefs"))
}

/// Refuses a file or folder of ours inside the mount (reading it would wait for ourselves), and a
/// mount point inside a folder of ours.
///
/// # Errors
/// `Config`, naming `option` and both paths.
pub fn keep_apart(option: &str, path: &Path, mountpoint: &Path) -> Result<()> {
    let (path_shown, mount_shown) = (path.display(), mountpoint.display());
    if path.starts_with(mountpoint) {
        let cure = "choose a place outside of the mount";
        let message = format!("{option} {path_shown} lies inside the mount point {mount_shown}: {cure}");
        return Err(Error::new(Kind::Config, message));
    }
    if mountpoint.starts_with(path) {
        let message = format!(
            "the mount point {mount_shown} lies inside {option} {path_shown}: choose another mount point"
        );
        return Err(Error::new(Kind::Config, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_mount_point_is_told_with_mkdir() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("m");
        let error = mountpoint(&missing).unwrap_err().to_string();
        assert!(error.contains(&format!("mkdir -p {}", missing.display())), "{error}");
    }

    #[test]
    fn a_file_is_no_mount_point() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(mountpoint(file.path()).unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn a_ready_device_is_named_by_its_descriptor() {
        let of = |path: &str| ready_device(Path::new(path));
        assert_eq!(of("/dev/fd/7"), Some(7));
        let others = ["/dev/fd/", "/dev/fd/x", "/dev/fd/-1", "/dev/fd/+1", "/dev/fd/7/x", "/dev/fuse"];
        for path in others.into_iter().chain(["/dev/fd/99999999999"]) {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn symbolic_links_and_missing_parts_are_resolved() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("dir")).unwrap();
        std::os::unix::fs::symlink(real.join("dir"), real.join("link")).unwrap();
        assert_eq!(mountpoint(&real.join("link")).unwrap(), real.join("dir"));
        assert_eq!(resolve(&real.join("link/not/../yet")).unwrap(), real.join("dir/yet"));
    }

    #[test]
    fn the_default_cache_dir_follows_the_user() {
        let of = |variables: &[(&str, &str)], uid| {
            default_cache_dir(&Environment::new(variables.iter().copied(), uid, uid))
        };
        assert_eq!(of(&[("HOME", "/root")], 0), Some("/var/cache/glancefs".into()));
        assert_eq!(of(&[("HOME", "/home/u")], 7), Some("/home/u/.cache/glancefs".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], 7), Some("/x/glancefs".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")], 7), Some("/h/.cache/glancefs".into()));
        assert_eq!(of(&[], 7), None);
    }

    #[test]
    fn cache_and_mount_may_not_contain_each_other() {
        let check = |path: &str, mount: &str| keep_apart("--cache-dir", Path::new(path), Path::new(mount));
        assert!(check("/c", "/m").is_ok());
        assert!(check("/m2", "/m").is_ok());
        assert!(check("/m/c", "/m").unwrap_err().to_string().contains("inside the mount point /m"));
        assert!(check("/c", "/c/m").unwrap_err().to_string().contains("lies inside --cache-dir /c"));
        assert!(check("/c", "/c").is_err());
    }
}
