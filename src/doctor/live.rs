//! A mount as it is now: whether it lives, and what it tells of itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::Report;
use crate::mount::{Pulse, pulse, topmost};

/// A status looks at the cache folder; a mount that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a mount told.
pub(super) struct Live {
    /// Its cache folder.
    pub(super) cache: Option<PathBuf>,
    /// Its spool folder.
    pub(super) spool: Option<PathBuf>,
}

/// Looks at what is at `mountpoint`; what it tells, when a glancefs lives there.
pub(super) fn look(report: &mut Report, mountpoint: &Path) -> Option<Live> {
    const CHECK: &str = "mount";
    let at = mountpoint.display();
    let mount = match topmost(mountpoint) {
        Ok(mount) => mount,
        Err(error) => {
            report.found(CHECK, error, "mount /proc: mount -t proc proc /proc");
            return None;
        }
    };
    let Some(mount) = mount else {
        match std::fs::metadata(mountpoint) {
            Ok(found) if found.is_dir() => report.well(CHECK, format!("nothing is mounted at {at} yet")),
            Ok(_) => report.found(CHECK, format!("{at} is not a directory"), "name a directory"),
            Err(error) => report.found(CHECK, format!("{at}: {error}"), format!("create it: mkdir -p {at}")),
        }
        return None;
    };
    if !mount.is_glancefs() {
        let said = format!("what is mounted at {at} is no glancefs but {}", mount.fstype);
        report.found(CHECK, said, "findmnt -t fuse.glancefs lists the mounts of glancefs");
        return None;
    }
    match pulse(mountpoint) {
        Pulse::Alive => {}
        Pulse::Dead => {
            dead(report, mountpoint);
            return None;
        }
        Pulse::Silent => {
            let cure = format!("end it: glancefs umount --lazy {at}; its log says what it waits for");
            report.found(CHECK, format!("the mount at {at} does not answer"), cure);
            return None;
        }
    }
    let status = match read(mountpoint.join(".glancefs/status.json")) {
        Some(Ok(status)) => status,
        // The kernel had the attributes of the root still.
        Some(Err(error)) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            dead(report, mountpoint);
            return None;
        }
        unread => {
            let why =
                unread.and_then(Result::err).map_or_else(|| "it hangs".to_owned(), |error| error.to_string());
            let cure = format!(
                "is it another user's? Else its log says why; end it with: glancefs umount --lazy {at}"
            );
            report.found(CHECK, format!("the mount at {at} does not tell its status: {why}"), cure);
            return None;
        }
    };
    let status: Value = serde_json::from_str(&status).unwrap_or_default();
    tell(report, mountpoint, &status);
    let path = |value: &Value| value.as_str().map(PathBuf::from);
    Some(Live { cache: path(&status["cache"]["folder"]), spool: path(&status["uploads"]["folder"]) })
}

fn dead(report: &mut Report, mountpoint: &Path) {
    let at = mountpoint.display();
    let cure =
        format!("remove it: glancefs umount {at}; or mount again, which does so. The log says why it ended");
    report.found("mount", format!("the daemon of the mount at {at} has died"), cure);
}

fn tell(report: &mut Report, mountpoint: &Path, status: &Value) {
    let at = mountpoint.display();
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let (version, images) = (text(&status["version"]), &status["images"]);
    report.well("mount", format!("glancefs {version} serves {images} images at {at}"));
    if version != env!("CARGO_PKG_VERSION") {
        let cure = format!("when it suits: glancefs umount {at}, and mount again");
        report.found("mount", format!("it is of another version than this program ({version})"), cure);
    }
    let list = text(&status["list"]);
    if list.starts_with("the last good one") {
        let cure = "see what is found of the cloud below, and .glancefs/errors of the mount";
        report.found("list", format!("the list of images is {list}"), cure);
    } else {
        report.well("list", format!("the list of images is {list}"));
    }
    report.well("complete images", text(&status["complete_images"]));
    for store in status["stores"].as_array().into_iter().flatten() {
        report.well(
            "source",
            format!("images of the store {} are read {}", text(&store["name"]), text(&store["source"])),
        );
    }
    let Some(Ok(metrics)) = read(mountpoint.join(".glancefs/metrics")) else { return };
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse::<f64>().ok()
    };
    if value("glancefs_cache_disk_usable") == Some(0.0) {
        let cure = "see what is found of the cache below; the mount tries again each minute";
        report.found("cache", "the mount leaves its cache disk alone, after a failure", cure);
    }
    if let Some(damaged) = value("glancefs_cache_damaged_blocks_total").filter(|damaged| *damaged > 0.0) {
        let cure =
            "they were fetched again; where no power cut explains it, look at the disk: smartctl -a, dmesg";
        report.found(
            "cache",
            format!("{damaged} blocks on the cache disk did not match their checksum"),
            cure,
        );
    }
}

/// The content of a file of the mount; `None` when that takes too long.
fn read(path: PathBuf) -> Option<io::Result<String>> {
    let (sender, answer) = mpsc::sync_channel(1);
    // A thread of its own: what hangs in the kernel ends with the process only.
    let asked = std::thread::Builder::new().spawn(move || {
        // The asker may have lost patience.
        let _ = sender.send(std::fs::read_to_string(path));
    });
    asked.ok()?;
    answer.recv_timeout(PATIENCE).ok()
}
