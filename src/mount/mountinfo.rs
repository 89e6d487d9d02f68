//! The mount table of this process: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The file system type of our mounts, as the mount table shows it.
pub const GLANCEFS: &str = "fuse.glancefs";

/// One line of the mount table: what glancefs needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique while mounted.
    pub id: u64,
    /// The mount it lies on.
    pub parent: u64,
    pub mount_point: PathBuf,
    /// The type, such as `fuse.glancefs`.
    pub fstype: String,
    /// The user who mounted it, where a FUSE mount says so (`user_id=`).
    pub user_id: Option<u32>,
}

impl Mount {
    /// It is one of ours.
    pub fn is_glancefs(&self) -> bool {
        self.fstype == GLANCEFS
    }
}

/// The mount that a path look-up ends in at `mount_point` (absolute, without symbolic links), if
/// something is mounted exactly there.
///
/// # Errors
/// `Io` when the table cannot be read.
pub fn topmost(mount_point: &Path) -> Result<Option<Mount>> {
    Ok(topmost_in(&read()?, mount_point))
}

/// Whether a path look-up ends at a glancefs that is mounted at `mount_point`.
///
/// # Errors
/// `Io` when the table cannot be read.
pub fn is_glancefs(mount_point: &Path) -> Result<bool> {
    Ok(topmost(mount_point)?.is_some_and(|top| top.is_glancefs()))
}

/// Where this user has mounted a glancefs, as far as a path look-up can end there.
///
/// # Errors
/// `Io` when the table cannot be read.
pub fn mountpoints() -> Result<Vec<PathBuf>> {
    Ok(mountpoints_in(&read()?, rustix::process::geteuid().as_raw()))
}

fn mountpoints_in(table: &[Mount], user: u32) -> Vec<PathBuf> {
    let ours = table.iter().filter(|mount| mount.is_glancefs() && mount.user_id == Some(user));
    let seen = |mount: &&Mount| topmost_in(table, &mount.mount_point).is_some_and(|top| top.id == mount.id);
    ours.filter(seen).map(|mount| mount.mount_point.clone()).collect()
}

fn read() -> Result<Vec<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| Error::io("reading /proc/self/mountinfo (is /proc mounted?)", error))?;
    Ok(parse(&table))
}

/// Of several mounts stacked on one path, the one that no other of them lies on.
fn topmost_in(table: &[Mount], mount_point: &Path) -> Option<Mount> {
    let stacked: Vec<&Mount> = table.iter().filter(|mount| mount.mount_point == mount_point).collect();
    let covered =
        |mount: &Mount| stacked.iter().any(|other| other.parent == mount.id && other.id != mount.id);
    stacked.iter().rev().find(|mount| !covered(mount)).map(|mount| (*mount).clone())
}

/// Every line that can be understood; the kernel may add fields and types that we do not know.
fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - type source super,options`.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mount_point = PathBuf::from(unescape(fields.nth(2)?));
    // Any number of optional fields comes before the dash.
    fields.find(|field| *field == b"-")?;
    let fstype = unescape(fields.next()?).into_string().ok()?;
    let options = fields.nth(1).unwrap_or_default();
    let user_id = options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(b"user_id="));
    let user_id = user_id.and_then(number).and_then(|id| u32::try_from(id).ok());
    Some(Mount { id, parent, mount_point, fstype, user_id })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's escapes: space, tab, newline and backslash come as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        if let (b'\\', Some(byte)) = (first, after.get(..3).and_then(octal)) {
            bytes.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    /// `path` as the kernel writes it into the table.
    fn escape(path: &Path) -> Vec<u8> {
        let escaped = |byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        };
        path.as_os_str().as_bytes().iter().flat_map(escaped).collect()
    }

    const TABLE: &str = "\
22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n\
23 22 0:21 / /proc rw,nosuid shared:5 master:1 - proc proc rw\n\
90 22 0:40 / /mnt/with\\040space rw,nosuid,nodev - fuse.glancefs glancefs rw,user_id=1000,group_id=1000,allow_other\n\
91 22 0:41 / /mnt/tab\\011back\\134slash rw - fuse.glancefs a\\040b rw\n\
92 22 0:42 / /mnt/a rw - autofs systemd-1 rw,fd=40\n\
93 92 0:43 / /mnt/a rw shared:7 - fuse.glancefs glancefs rw,user_id=0\n\
garbage\n";

    fn find(path: &str) -> Option<Mount> {
        topmost_in(&parse(TABLE.as_bytes()), Path::new(path))
    }

    #[test]
    fn a_line_gives_path_type_and_user() {
        let mount = find("/mnt/with space").unwrap();
        assert_eq!((mount.id, mount.parent, mount.user_id), (90, 22, Some(1000)));
        assert!(mount.is_glancefs());
        assert_eq!(find("/proc").unwrap().fstype, "proc");
        assert_eq!(find("/proc").unwrap().user_id, None);
    }

    #[test]
    fn octal_escapes_are_undone() {
        assert!(find("/mnt/tab\tback\\slash").is_some());
        assert_eq!(unescape(b"a\\04"), "a\\04");
        assert_eq!(unescape(b"a\\999\\"), "a\\999\\");
    }

    #[test]
    fn every_path_survives_escaping() {
        let path = PathBuf::from(OsString::from_vec((1..=255).collect()));
        assert_eq!(PathBuf::from(unescape(&escape(&path))), path);
    }

    #[test]
    fn the_topmost_of_stacked_mounts_is_found_in_any_order() {
        assert_eq!(find("/mnt/a").unwrap().id, 93);
        let mut reversed = parse(TABLE.as_bytes());
        reversed.reverse();
        assert_eq!(topmost_in(&reversed, Path::new("/mnt/a")).unwrap().id, 93);
        assert_eq!(find("/mnt"), None);
    }

    #[test]
    fn the_mounts_of_a_user_are_those_that_can_be_seen() {
        let of = |user| mountpoints_in(&parse(TABLE.as_bytes()), user);
        assert_eq!(of(1000), [Path::new("/mnt/with space")]);
        assert_eq!(of(0), [Path::new("/mnt/a")]);
        let covered = format!("{TABLE}94 93 0:44 / /mnt/a rw - tmpfs tmpfs rw\n");
        assert!(mountpoints_in(&parse(covered.as_bytes()), 0).is_empty());
    }

    #[test]
    fn the_real_table_has_a_root() {
        assert!(topmost(Path::new("/")).unwrap().is_some());
    }
}
