//! One daemon per mount point: a lock file, held until the process has ended.
//!
//! The lock is a POSIX record lock: the kernel names its holder to whoever asks (`F_GETLK`) and
//! drops it when the process ends, however it ends; a child never inherits it. The file is named by
//! the SHA-256 of the mount point and holds that path and the spool folder, each with a zero byte after it:
//! whose spool is wanted can be told without opening a file on the mount, which would keep it from being
//! unmounted meanwhile.
//!
//! Places, the first that can be used: `/run/glancefs` for root; for users `$XDG_RUNTIME_DIR/glancefs`,
//! then `/run/user/<uid>/glancefs`; else `run` in the default cache folder. Whoever looks for a
//! holder looks in all of them, since a cron job has other variables than a login.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType, Pid};
use tracing::info;

use super::mountinfo;
use crate::config::{Environment, paths};
use crate::error::{Error, Kind, Result};
use crate::units::hexadecimal;

/// How long to wait for a predecessor that has unmounted and is writing out its state.
const PREDECESSOR: Duration = Duration::from_secs(20);

/// Between two looks at a lock: short for a person, long for a processor.
pub const POLL: Duration = Duration::from_millis(50);

/// Of a lock file: two paths (PATH_MAX, 4096 bytes with the end, each).
const LONGEST_ENTRY: u64 = 2 * 4096;

/// How often the lock file may be removed under our hands by a daemon that ends.
const REMOVED: usize = 100;

/// This process's claim on a mount point. The file must be opened once only: closing any other
/// handle of it in this process would drop the lock.
pub struct Instance {
    _file: File,
    path: PathBuf,
}

impl Instance {
    /// Claims `mountpoint` for a daemon with this `spool` folder, waiting a while for a predecessor that has
    /// unmounted already.
    ///
    /// # Errors
    /// `Busy` when another daemon serves it, naming its process; `Io` when no place can be written.
    pub fn acquire(mountpoint: &Path, spool: &Path, environment: &Environment) -> Result<Self> {
        let path = place(environment)?.join(file_name(mountpoint));
        let deadline = Instant::now() + PREDECESSOR;
        let mut told = false;
        loop {
            match Self::try_acquire(&path, mountpoint, spool)? {
                Ok(instance) => return Ok(instance),
                Err(holder) => {
                    let mounted = mountinfo::topmost(mountpoint)?.is_some_and(|mount| mount.is_glancefs());
                    if mounted || Instant::now() >= deadline {
                        return Err(taken(mountpoint, &holder, mounted));
                    }
                    if !told {
                        info!(
                            "waiting for {holder}, which is starting or ending at {}",
                            mountpoint.display()
                        );
                        told = true;
                    }
                    thread::sleep(POLL);
                }
            }
        }
    }

    /// The claim, or who has it.
    fn try_acquire(path: &Path, mountpoint: &Path, spool: &Path) -> Result<Result<Self, Holder>> {
        let failed = |error| Error::io(format!("locking {}", path.display()), error);
        for _ in 0..REMOVED {
            // Not truncated before it is ours: another's entry stays readable.
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let mut file = options.custom_flags(libc::O_NOFOLLOW).open(path).map_err(failed)?;
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // Which of the two is left open by POSIX.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                    match holder_of(&file).map_err(failed)? {
                        Some(holder) => return Ok(Err(holder)),
                        None => continue,
                    }
                }
                Err(error) => return Err(failed(error.into())),
            }
            // A daemon that ends removes its file: a lock on a removed file protects nothing.
            let ours = file.metadata().map_err(failed)?;
            if !fs::symlink_metadata(path).is_ok_and(|named| named.ino() == ours.ino()) {
                continue;
            }
            file.set_len(0).map_err(failed)?;
            file.write_all(&entry(mountpoint, spool)).map_err(failed)?;
            return Ok(Ok(Self { _file: file, path: path.to_owned() }));
        }
        Err(failed(io::Error::other("it is removed again and again")))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // While the lock is still held: a successor notices (see above). A leftover would do no harm.
        let _ = fs::remove_file(&self.path);
    }
}

fn taken(mountpoint: &Path, holder: &Holder, mounted: bool) -> Error {
    let shown = mountpoint.display();
    Error::new(
        Kind::Busy,
        if mounted {
            format!(
                "a glancefs is already mounted at {shown} ({holder}): end it with: glancefs umount {shown}"
            )
        } else {
            format!("another glancefs is starting or ending at {shown} ({holder}): try again later")
        },
    )
}

/// Who holds a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// `None`: it lives in another PID namespace.
    pub pid: Option<Pid>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {}", pid.as_raw_nonzero()),
            None => f.write_str("a process of another container"),
        }
    }
}

/// Who holds `mountpoint`, if anyone. `mounted_by` is the user who mounted it: root looks into that
/// user's places too.
pub fn holder(mountpoint: &Path, mounted_by: Option<u32>, environment: &Environment) -> Option<Holder> {
    held(mountpoint, mounted_by, environment).map(|(holder, _)| holder)
}

/// The spool folder of the daemon of this user that serves `mountpoint`, if there is one and it says so.
pub fn spool_of(mountpoint: &Path, environment: &Environment) -> Option<PathBuf> {
    let (_, file) = held(mountpoint, None, environment)?;
    let mut entry = Vec::new();
    file.take(LONGEST_ENTRY).read_to_end(&mut entry).ok()?;
    spool_in(&entry)
}

/// The lock file of `mountpoint` and who holds it, if anyone.
fn held(mountpoint: &Path, mounted_by: Option<u32>, environment: &Environment) -> Option<(Holder, File)> {
    let mut places = places(environment);
    if let Some(uid) = mounted_by.filter(|uid| *uid != environment.uid()) {
        places.push(user_place(uid));
    }
    let name = file_name(mountpoint);
    places.iter().find_map(|place| {
        let mut options = OpenOptions::new();
        // The folder may be another user's: no link is followed, no FIFO waited for.
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(place.join(&name)).ok()?;
        Some((holder_of(&file).ok()??, file))
    })
}

/// What a lock file holds.
fn entry(mountpoint: &Path, spool: &Path) -> Vec<u8> {
    [mountpoint.as_os_str().as_bytes(), b"\0", spool.as_os_str().as_bytes(), b"\0"].concat()
}

/// The spool folder of an entry; none while it is being written.
fn spool_in(entry: &[u8]) -> Option<PathBuf> {
    let mut parts = entry.split(|byte| *byte == 0);
    let (_, spool, end) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = end.is_empty() && !spool.is_empty();
    whole.then(|| PathBuf::from(OsStr::from_bytes(spool)))
}

/// The process that keeps us from locking `file`.
fn holder_of(file: &File) -> io::Result<Option<Holder>> {
    let wanted = Flock::from(FlockType::WriteLock);
    let found = rustix::process::fcntl_getlk(file, &wanted)?;
    Ok(found.filter(|lock| lock.typ != FlockType::Unlocked).map(|lock| Holder { pid: lock.pid }))
}

fn file_name(mountpoint: &Path) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, mountpoint.as_os_str().as_bytes());
    // 64 bits: two mount points of one host will not meet.
    format!("{}.lock", hexadecimal(&digest.as_ref()[..8]))
}

/// The first place that exists or can be made, with our own folder in it.
fn place(environment: &Environment) -> Result<PathBuf> {
    let mut last = None;
    for place in places(environment) {
        match make_private(&place, environment.uid()) {
            Ok(()) => return Ok(place),
            Err(error) => last = Some(error),
        }
    }
    let cure = "set XDG_RUNTIME_DIR to a folder of your own";
    let error = Error::new(Kind::Io, format!("no folder for the lock of the mount can be made: {cure}"));
    Err(match last {
        Some(last) => error.with_source(last),
        None => error,
    })
}

fn make_private(place: &Path, uid: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    // In a shared parent the name could have been taken by someone else.
    let found = fs::symlink_metadata(place)?;
    if !found.is_dir() || found.uid() != uid {
        return Err(io::Error::other(format!("{} belongs to another user", place.display())));
    }
    Ok(())
}

fn places(environment: &Environment) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if environment.is_root() {
        places.push("/run/glancefs".into());
    } else {
        let named = environment.path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
        places.extend(named.map(|path| path.join("glancefs")));
        places.push(user_place(environment.uid()));
    }
    places.extend(paths::default_cache_dir(environment).map(|path| path.join("run")));
    places
}

fn user_place(uid: u32) -> PathBuf {
    format!("/run/user/{uid}/glancefs").into()
}

#[cfg(test)]
mod tests;
