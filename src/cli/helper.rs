//! `mount.glancefs`: the program as mount(8) calls it, for `mount -t glancefs SOURCE MOUNTPOINT` and for lines of fstab.
//!
//! What mount(8) says is put into the words of `glancefs mount`, which then does all else. Its exit codes are those of
//! mount(8): 1 for options that cannot be read, 32 for a mount that failed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::options;

/// The names that mount(8) looks for: of the type `glancefs`, and of the type that the mount table shows.
const NAMES: &[&str] = &["mount.glancefs", "mount.fuse.glancefs"];

pub(super) const USAGE: &str = "usage: mount.glancefs SOURCE MOUNTPOINT [-sfnv] [-o OPTION,...]";

/// mount(8): incorrect invocation.
pub(super) const MISUSED: u8 = 1;
/// mount(8): mount failure.
pub(super) const FAILED: u8 = 32;

/// What concerns mount(8), the machine's start and tools around them, or says what holds in any case: images are
/// neither devices nor set-user-id, times of access are not kept, an upload is done when its file is closed, and
/// `default_permissions` comes with `allow_other`.
const WITHOUT_EFFECT: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "comment",
    "uhelper",
    "helper",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "sync",
    "async",
    "dirsync",
    "mand",
    "nomand",
    "silent",
    "loud",
    "symfollow",
    "default_permissions",
];

/// What mount(8) asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The same as a command line of glancefs.
    pub(super) line: Vec<OsString>,
    /// `-f`: do everything but the mount itself.
    pub(super) fake: bool,
    /// `-v`: say what was done.
    pub(super) verbose: bool,
}

/// Whether the program was called by a name of the mount helper.
pub(super) fn is_meant(line: &[OsString]) -> bool {
    let name = line.first().and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| NAMES.iter().any(|known| name == *known))
}

/// Reads the words behind the name of the program.
///
/// # Errors
/// One message that names what cannot be understood.
pub(super) fn read(words: &[OsString]) -> Result<Request, String> {
    let mut places = Vec::new();
    let mut texts: Vec<&OsStr> = Vec::new();
    let mut flags = Flags::default();
    let mut words = words.iter().map(OsString::as_os_str);
    while let Some(word) = words.next() {
        match word.as_bytes() {
            [b'-', letters @ ..] if !letters.is_empty() => {
                flags.read(word, &mut words, &mut texts)?;
            }
            _ => places.push(word),
        }
    }
    let [source, mountpoint] = places[..] else { return Err(USAGE.to_owned()) };
    // No `--` in front of the two: behind it, clap takes the last place only.
    let mut line: Vec<OsString> = ["glancefs", "mount"].map(OsString::from).into();
    line.extend(translate(&texts, flags.sloppy)?);
    // As elsewhere in fstab, `none` is no source: what is mounted is said by options, variables or the configuration file.
    line.extend((source != "none").then(|| source.to_owned()));
    line.push(mountpoint.to_owned());
    Ok(Request { line, fake: flags.fake, verbose: flags.verbose })
}

#[derive(Default)]
struct Flags {
    sloppy: bool,
    fake: bool,
    verbose: bool,
}

impl Flags {
    /// One word of letters, the last of which may take a value: `-sfn`, `-o ro`, `-oro`.
    fn read<'a>(
        &mut self,
        word: &'a OsStr,
        rest: &mut impl Iterator<Item = &'a OsStr>,
        options: &mut Vec<&'a OsStr>,
    ) -> Result<(), String> {
        let letters = word.as_bytes();
        for (at, letter) in letters.iter().enumerate().skip(1) {
            let mut value = || {
                let here = letters.get(at + 1..).filter(|here| !here.is_empty()).map(OsStr::from_bytes);
                here.or_else(|| rest.next()).ok_or_else(|| format!("-{} wants a value", char::from(*letter)))
            };
            match letter {
                b's' => self.sloppy = true,
                b'f' => self.fake = true,
                b'v' => self.verbose = true,
                // There is no /etc/mtab of our own to be written.
                b'n' => {}
                b'o' => return value().map(|value| options.push(value)),
                // The type, which is ours whatever mount(8) calls it.
                b't' => return value().map(drop),
                b'N' => {
                    return Err(
                        "mounting in another namespace (-N) is not possible here: use nsenter(1)".into()
                    );
                }
                _ => return Err(format!("{} is not known; {USAGE}", word.display())),
            }
        }
        Ok(())
    }
}

/// The options of `-o` as those of `glancefs mount`.
fn translate(texts: &[&OsStr], sloppy: bool) -> Result<Vec<OsString>, String> {
    let definition = options::definition();
    let mut line = Vec::new();
    let (mut read_only, mut no_exec) = (false, false);
    for option in texts.iter().flat_map(|text| split(text.as_bytes())) {
        let (name, value) = match option.iter().position(|byte| *byte == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (&option[..], None),
        };
        let name = String::from_utf8_lossy(name);
        match name.as_ref() {
            "" => {}
            // Of each pair the last counts.
            "ro" => read_only = true,
            "rw" => read_only = false,
            "noexec" => no_exec = true,
            "exec" => no_exec = false,
            "remount" => {
                return Err("a glancefs cannot be remounted: umount it and mount it anew".to_owned());
            }
            "foreground" => {
                return Err("foreground is no mount option, since mount(8) waits for the end: \
                            leave it out, or use glancefs mount --foreground"
                    .to_owned());
            }
            name if WITHOUT_EFFECT.contains(&name) || is_a_remark(name) => {}
            name => match (options::find(&definition, name), value) {
                (Some((name, _)), None) => line.push(format!("--{name}").into()),
                (Some((name, _)), Some(value)) => {
                    line.push(OsString::from_vec([b"--", name.as_bytes(), b"=", value].concat()));
                }
                (None, _) if sloppy => {}
                (None, _) => return Err(unknown(name, &definition)),
            },
        }
    }
    line.extend(read_only.then(|| "--read-only".into()));
    line.extend(no_exec.then(|| "--noexec".into()));
    Ok(line)
}

/// `x-systemd.automount`, `x-gvfs-show`, `X-mount.mkdir`: for others.
fn is_a_remark(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with("X-")
}

fn unknown(name: &str, definition: &clap::Command) -> String {
    let known = options::of(definition).map(|(name, _)| name).chain(WITHOUT_EFFECT.iter().copied());
    format!("unknown mount option {name:?}{}", options::advice(name, known))
}

/// Takes a list apart at its commas; one within double quotes, or behind a backslash, belongs to the value
/// (`-o 'prefer_store="fast,slow"'`, as mount(8) has it, or `prefer_store=fast\,slow`, as libfuse has it).
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut options = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => options.push(Vec::new()),
            _ => {
                let kept = bytes
                    .next_if(|next| byte == b'\\' && matches!(next, b',' | b'\\' | b'"'))
                    .unwrap_or(byte);
                if let Some(last) = options.last_mut() {
                    last.push(kept);
                }
            }
        }
    }
    options
}

#[cfg(test)]
mod tests;
