//! The cache and the spool folder: whose they are, what they are on, how full, and what lies in them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::live::Live;
use super::{Order, Report};
use crate::cache;
use crate::config::{CacheConfig, SpoolConfig};
use crate::units::human_bytes;
use crate::write;

/// What the numbers of statfs(2) mean (linux/magic.h), of those where a cache or a spool does not belong.
const NETWORK: [(u64, &str); 8] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x00c3_6400, "CephFS"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x5346_414f, "AFS"),
];
const TMPFS: u64 = 0x0102_1994;

/// Of one folder.
struct Place<'a> {
    check: &'static str,
    option: &'static str,
    path: &'a Path,
}

pub(super) fn look(report: &mut Report, order: &Order, live: Option<&Live>) {
    let of_mount = |folder: fn(&Live) -> Option<&PathBuf>| live.and_then(folder).cloned();
    match &order.cache {
        Ok(config) => {
            let config = CacheConfig {
                dir: of_mount(|live| live.cache.as_ref()).unwrap_or_else(|| config.dir.clone()),
                ..config.clone()
            };
            look_at_cache(report, &config);
        }
        Err(error) => report.found("cache", error, "correct the option or the variable"),
    }
    match &order.spool {
        Ok(config) => {
            let dir = of_mount(|live| live.spool.as_ref()).unwrap_or_else(|| config.dir.clone());
            look_at_spool(report, &SpoolConfig { dir, ..config.clone() }, order.mountpoint.as_deref());
        }
        // Said of the cache already, in which it is by default.
        Err(_) if order.cache.is_err() => {}
        Err(error) => report.found("spool", error, "correct the option or the variable"),
    }
}

fn look_at_cache(report: &mut Report, config: &CacheConfig) {
    let place = Place { check: "cache", option: "--cache-dir", path: &config.dir };
    if !usable(report, &place) {
        return;
    }
    room(report, &place, config.free_floor_percent);
    match cache::inspect(&config.dir) {
        Ok(found) if found.damaged.is_empty() => {
            report.well("cache", format!("{} images in {}", found.images, config.dir.display()));
        }
        Ok(found) => {
            let (first, why) = &found.damaged[0];
            let said = match found.damaged.len() {
                1 => format!("the index {} cannot be used: {why}", first.display()),
                many => format!("{many} indexes cannot be used, first {}: {why}", first.display()),
            };
            let cure = format!("remove it, what it was of is fetched anew: rm {}", first.display());
            report.found("cache", said, cure);
        }
        Err(error) => report.found("cache", error, "choose another with --cache-dir"),
    }
}

fn look_at_spool(report: &mut Report, config: &SpoolConfig, mountpoint: Option<&Path>) {
    let place = Place { check: "spool", option: "--spool-dir", path: &config.dir };
    if !usable(report, &place) {
        return;
    }
    // Uploads fill it, and are refused for want of room.
    room(report, &place, 1);
    let left: Vec<_> = match write::reports_in(config) {
        Ok(told) => told.uploads.into_iter().filter(|upload| upload.state.is_left()).collect(),
        Err(error) => {
            report.found("uploads", error, "choose another with --spool-dir");
            return;
        }
    };
    let Some(first) = left.first() else {
        report.well("uploads", format!("none is left in {}", config.dir.display()));
        return;
    };
    let bytes = human_bytes(left.iter().map(|upload| upload.bytes).sum());
    let name = first.name.as_deref().unwrap_or("unknown");
    let why = first.reason.as_deref().unwrap_or("its end is not known");
    let said =
        format!("{} uploads were not finished ({bytes}), first {name:?} ({}): {why}", left.len(), first.id);
    let at = match mountpoint {
        Some(mountpoint) => format!(" {}", mountpoint.display()),
        None => format!(" --spool-dir {}", config.dir.display()),
    };
    let cure = format!(
        "glancefs uploads{at} lists them; with the cloud mounted: glancefs uploads retry {id}, or discard {id}",
        id = first.id
    );
    report.found("uploads", said, cure);
}

/// Whether a mount of this user could use the folder, made or not; it is told when not.
fn usable(report: &mut Report, place: &Place<'_>) -> bool {
    let Place { check, option, path } = *place;
    let shown = path.display();
    let we = rustix::process::geteuid().as_raw();
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return can_be_made(report, place);
        }
        Err(error) => {
            let cure = format!("let user {we} enter the folders above it, or choose another with {option}");
            report.found(check, format!("{shown} cannot be looked at: {error}"), cure);
            return false;
        }
    };
    if !found.is_dir() {
        let what = if found.is_symlink() { "a link" } else { "a file" };
        report.found(
            check,
            format!("{shown} is {what}, not a folder"),
            format!("name a folder with {option}"),
        );
        return false;
    }
    if found.uid() != we {
        let cure = format!("choose one of your own with {option}, or hand it over: chown -R {we} {shown}");
        report.found(check, format!("{shown} belongs to user {}, and this is user {we}", found.uid()), cure);
        return false;
    }
    if let Err(error) = access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        let cure = match error {
            rustix::io::Errno::ROFS => {
                format!("its disk is read-only: dmesg says why; or choose another with {option}")
            }
            _ => format!("chmod 0700 {shown}, or choose another with {option}"),
        };
        report.found(check, format!("{shown} cannot be written: {error}"), cure);
        return false;
    }
    if found.mode() & 0o077 != 0 {
        let said = format!(
            "{shown} has mode {:04o}, and what is in it is nobody else's business",
            found.mode() & 0o7777
        );
        report.found(
            check,
            said,
            format!("chmod 0700 {shown} (a mount does so where nothing else is in it)"),
        );
        return false;
    }
    true
}

fn can_be_made(report: &mut Report, place: &Place<'_>) -> bool {
    let Place { check, option, path } = *place;
    let above = path.ancestors().skip(1).find(|above| above.exists());
    let shown = path.display();
    match above.map(|above| (above, access(above, Access::WRITE_OK | Access::EXEC_OK))) {
        Some((above, Err(error))) => {
            let said = format!("{shown} is not there, and cannot be made in {}: {error}", above.display());
            report.found(
                check,
                said,
                format!("make it as root, and hand it over; or choose another with {option}"),
            );
        }
        _ => report.well(check, format!("{shown} is made by the first mount")),
    }
    false
}

/// What the folder is on, and how much room there is.
fn room(report: &mut Report, place: &Place<'_>, floor_percent: u8) {
    let Place { check, option, path } = *place;
    let shown = path.display();
    let Ok(found) = rustix::fs::statfs(path) else { return };
    // The field types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let (kind, unit) = (found.f_type as u64 & 0xffff_ffff, found.f_bsize as u64);
    let (free, total) = (found.f_bavail.saturating_mul(unit), found.f_blocks.saturating_mul(unit));
    if let Some((_, name)) = NETWORK.iter().find(|(magic, _)| *magic == kind) {
        let said = format!("{shown} is on {name}, where each hit costs the network and locks may not hold");
        report.found(check, said, format!("choose a local disk with {option}"));
    }
    if kind == TMPFS {
        report.well(
            check,
            format!("{shown} is in memory (tmpfs): it takes from it and is gone after a restart"),
        );
    }
    let floor = total / 100 * u64::from(floor_percent);
    let [free_text, total_text, floor_text] = [free, total, floor].map(human_bytes);
    if free < floor || free == 0 {
        let said = format!(
            "the disk of {shown} is full: {free_text} of {total_text} are free, and {floor_text} are to stay free"
        );
        report.found(check, said, format!("make room on it, or choose another with {option}"));
    } else {
        report.well(check, format!("{free_text} of {total_text} are free on the disk of {shown}"));
    }
}
