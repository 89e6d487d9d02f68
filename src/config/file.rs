//! The configuration files: where they are, and whether they can be believed. What is in them is read by `cli`.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Environment;
use crate::error::{Error, Kind, Result};

/// The variable that names one file in the place of both; `/dev/null` for none.
pub const VARIABLE: &str = "GLANCEFS_CONFIG";

/// The file of the machine.
const SYSTEM: &str = "/etc/glancefs/glancefs.toml";

/// A longer one is none of ours.
const LONGEST: u64 = 1 << 20;

/// Where files are looked for, the stronger one last: that of the machine, and `glancefs/glancefs.toml` in `$XDG_CONFIG_HOME` or
/// `~/.config` (XDG Base Directory Specification).
pub fn places(environment: &Environment) -> Vec<PathBuf> {
    if let Some(named) = environment.path(VARIABLE) {
        return if named == Path::new("/dev/null") { Vec::new() } else { vec![named] };
    }
    let xdg = environment.path("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let base = xdg.or_else(|| Some(environment.path("HOME")?.join(".config")));
    let own = base.map(|base| base.join("glancefs/glancefs.toml"));
    [Some(PathBuf::from(SYSTEM)), own].into_iter().flatten().collect()
}

/// What is in the file; `None` where there is none, unless it was named by [`VARIABLE`].
///
/// # Errors
/// `Config` when it cannot be read, or when it says to root what others can write: a file may name a command.
pub fn read(path: &Path, environment: &Environment) -> Result<Option<String>> {
    let wrong = |what: &str| Error::new(Kind::Config, format!("{} {what}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) && !environment.has(VARIABLE) => return Ok(None),
        Err(error) => return Err(wrong("cannot be read").with_source(error)),
    };
    let found = file.metadata().map_err(|error| wrong("cannot be read").with_source(error))?;
    if !found.is_file() {
        return Err(wrong("is not a file"));
    }
    if environment.is_root() {
        let folder = path.parent().map(std::fs::metadata).transpose();
        let folder = folder.map_err(|error| wrong("cannot be trusted").with_source(error))?;
        // A folder with the sticky bit lets nobody replace what is root's.
        let replaceable = folder.is_some_and(|folder| others_write(&folder) && folder.mode() & 0o1000 == 0);
        if others_write(&found) || replaceable {
            let cure = "let it and its folder be root's and writable for nobody else";
            return Err(wrong(&format!("can be written by others than root: {cure}")));
        }
    }
    let mut text = String::new();
    let read = file.take(LONGEST + 1).read_to_string(&mut text);
    read.map_err(|error| wrong("cannot be read").with_source(error))?;
    if text.len() as u64 > LONGEST {
        return Err(wrong("is larger than 1 MiB"));
    }
    Ok(Some(text))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn others_write(found: &Metadata) -> bool {
    found.uid() != 0 || found.mode() & 0o022 != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_users_file_is_the_stronger_one_and_a_named_one_the_only() {
        let of = |variables: &[(&str, &str)]| places(&Environment::new(variables.iter().copied(), 7, 7));
        let system = Path::new(SYSTEM);
        assert_eq!(of(&[]), [system]);
        assert_eq!(of(&[("HOME", "/h")]), [system, Path::new("/h/.config/glancefs/glancefs.toml")]);
        let xdg = [("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")];
        assert_eq!(of(&xdg), [system, Path::new("/x/glancefs/glancefs.toml")]);
        assert_eq!(of(&[("HOME", "/h"), (VARIABLE, "/c.toml")]), [Path::new("/c.toml")]);
        assert!(of(&[("HOME", "/h"), (VARIABLE, "/dev/null")]).is_empty());
    }

    #[test]
    fn a_missing_file_is_none_unless_it_was_named() {
        let user = Environment::new([], 7, 7);
        assert_eq!(read(Path::new("/no/such/file"), &user).unwrap(), None);
        let named = Environment::new([(VARIABLE, "/no/such/file")], 7, 7);
        assert!(read(Path::new("/no/such/file"), &named).unwrap_err().to_string().contains("/no/such/file"));
        assert!(read(Path::new("/tmp"), &user).unwrap_err().to_string().contains("is not a file"));
    }

    #[test]
    fn root_believes_no_file_that_others_can_write_or_replace() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("glancefs.toml");
        std::fs::write(&file, "hard = true").unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let (root, user) = (Environment::new([], 0, 0), Environment::new([], 7, 7));
        let refused = |environment| {
            read(&file, environment).is_err_and(|error| error.to_string().contains("others than root"))
        };
        if std::fs::metadata(&file).unwrap().uid() == 0 {
            for (of_folder, of_file, expected) in [
                (0o700, 0o600, false),
                (0o755, 0o644, false),
                (0o755, 0o664, true),
                (0o755, 0o646, true),
                (0o777, 0o644, true),
                (0o1777, 0o644, false),
            ] {
                mode(folder.path(), of_folder);
                mode(&file, of_file);
                assert_eq!(refused(&root), expected, "{of_folder:o} {of_file:o}");
            }
        } else {
            assert!(refused(&root), "a file of another user");
        }
        mode(&file, 0o666);
        assert!(!refused(&user));
    }
}
