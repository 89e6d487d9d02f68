//! What the starts need: a real Glance with the image, the link to it, and a disk.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Advice, fadvise, getxattr};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tempfile::TempDir;

use super::arguments::{Arguments, ImageKind};
use super::guest::Guest;
use crate::Result;
use crate::contender::{Files, glancefs};
use crate::link;
use crate::process::{Processes, run};
use crate::server::{AccessLog, Glance, Server};

/// An image that is in Glance and beside it.
pub struct Scene<'a> {
    /// Which image.
    pub kind: ImageKind,
    /// Its copy on the disk.
    pub local: PathBuf,
    /// What it consists of, in bytes.
    pub size: u64,
    arguments: &'a Arguments,
    id: String,
    port: u16,
    glance: Glance,
    disk: PathBuf,
}

impl<'a> Scene<'a> {
    /// Starts Glance and copies the image into a mount of it. `memory` is where Glance keeps its data, `disk` is for caches.
    pub fn set_up(arguments: &'a Arguments, kind: ImageKind, disk: &Path, memory: &Path) -> Result<Self> {
        let local = fs::canonicalize(arguments.images.join(format!("{kind}.qcow2")))?;
        let size = fs::metadata(&local)?.len();
        let glance = Glance::start(memory)?;
        let folder = tempfile::Builder::new().prefix("upload-").tempdir_in(disk)?;
        let mount = glancefs(&arguments.glancefs, &[], glance.server.port, folder.path(), &[])?;
        let file = mount.root()?.join(format!("bootdemo-{kind}.qcow2"));
        run(Command::new("cp").arg(&local).arg(&file))?;
        let mut id = vec![0; 64];
        let length = getxattr(&file, "user.glance.id", &mut id)?;
        id.truncate(length);
        let id = String::from_utf8(id)?;
        mount.unmount()?;
        let port = link::open(arguments.link(), glance.server.port)?;
        Ok(Self { kind, local, size, arguments, id, port, glance, disk: disk.to_owned() })
    }

    /// Has the program QEMU and its firmware in the page cache, which would else count for the first start only.
    pub fn warm_up(&self) -> Result<()> {
        let folder = self.folder()?;
        let _guest = Guest::without_disk(self.arguments, folder.path())?;
        // The firmware looks for a disk by then.
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    }

    /// A new folder on the disk, removed when dropped.
    pub fn folder(&self) -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("run-").tempdir_in(&self.disk)?)
    }

    /// Mounts Glance behind the link, with what `folder` has from an earlier mount.
    pub fn mount(&self, folder: &Path) -> Result<Files> {
        glancefs(&self.arguments.glancefs, &[], self.port, folder, &[&self.id])
    }

    /// The image's file on a mount.
    pub fn path<'f>(&self, files: &'f Files) -> Result<&'f Path> {
        files.path_of(&self.id)
    }

    /// Downloads the image behind the link to a file.
    pub fn download(&self, to: &Path) -> Result<()> {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--noproxy", "*", "-o"]).arg(to);
        run(curl.arg(format!("http://127.0.0.1:{}/v2/images/{}/file", self.port, self.id)))?;
        match fs::metadata(to)?.len() == self.size {
            true => Ok(()),
            false => Err("the download is incomplete".into()),
        }
    }

    /// What Glance sends from now on.
    pub fn traffic(&self) -> Result<AccessLog> {
        AccessLog::from_now(&self.glance.server.access_log)
    }

    /// Waits until Glance and these are idle.
    pub fn settle(&self, daemon: Processes) {
        let mut all = Server::processes(&self.glance.server);
        all.0.extend(daemon.0);
        all.settle();
    }
}

/// Has all of a file in the page cache.
pub fn warm(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Takes a file out of the page cache.
///
/// # Errors
/// Where it is still there: somebody has it mapped, or its file system cannot.
pub fn cool(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    // What was not written yet stays.
    file.sync_all()?;
    let size = file.metadata()?.len();
    for _ in 0..50 {
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let cached = (0..16).any(|part| is_cached(&file, size / 16 * part));
        if !cached {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("{} stays in the page cache", path.display()).into())
}

fn is_cached(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    !matches!(read, Err(Errno::AGAIN))
}
