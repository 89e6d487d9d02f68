//! What this host has of what a mount needs: the kernel, `/dev/fuse`, `fusermount3`.

use std::fs::OpenOptions;
use std::path::Path;

use super::Report;

/// Places of programs that are not in everybody's PATH.
const USUAL: &str = "/usr/bin:/bin:/usr/local/bin";

/// Linux had FUSE passthrough from here.
const PASSTHROUGH: (u32, u32) = (6, 9);

/// Number of CAP_SYS_ADMIN (linux/capability.h).
const SYS_ADMIN: u32 = 21;

pub(super) fn look(report: &mut Report) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    report.well("version", format!("glancefs {} on Linux {release}", env!("CARGO_PKG_VERSION")));
    device(report);
    helper(report);
    report.well("passthrough", passthrough(&release, is_capable()));
    report.well("request size", request_size());
}

fn device(report: &mut Report) {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match opened {
        Ok(_) => report.well("fuse", "/dev/fuse can be used"),
        Err(error) => {
            let cure = match error.raw_os_error() {
                Some(libc::ENOENT) => {
                    "load the module: modprobe fuse; in a container: start it with --device /dev/fuse"
                }
                Some(libc::ENODEV | libc::ENXIO) => "load the module: modprobe fuse",
                _ => {
                    "its mode is 0666 usually: chmod 0666 /dev/fuse; in a container: start it with --device /dev/fuse"
                }
            };
            report.found("fuse", format!("/dev/fuse cannot be opened: {error}"), cure);
        }
    }
}

/// Root mounts by itself; everybody else by `fusermount3`, which is setuid.
fn helper(report: &mut Report) {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders = path.split(':').chain(USUAL.split(':'));
    let helper = folders.find(|folder| !folder.is_empty() && Path::new(folder).join("fusermount3").is_file());
    match (helper, rustix::process::geteuid().is_root()) {
        (Some(folder), is_root) => {
            report.well("fusermount3", format!("{folder}/fusermount3"));
            if !is_root {
                report.well("allow_other", allow_other());
            }
        }
        (None, true) => report.well("fusermount3", "is not here, and root does not need it"),
        (None, false) => report.found(
            "fusermount3",
            "there is none, and users other than root mount with it",
            "install the package fuse3: apt-get install fuse3",
        ),
    }
}

fn allow_other() -> &'static str {
    let text = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    match text.lines().any(|line| line.trim() == "user_allow_other") {
        true => "users may mount with --allow-other (user_allow_other in /etc/fuse.conf)",
        false => "users may not mount with --allow-other: that needs user_allow_other in /etc/fuse.conf",
    }
}

/// A hint only: what a mount does is in its status.
fn passthrough(release: &str, is_capable: bool) -> String {
    let (major, minor) = PASSTHROUGH;
    match (numbers(release).is_some_and(|found| found >= PASSTHROUGH), is_capable) {
        (true, true) => "the kernel can read complete images past the mount".into(),
        (false, _) => {
            format!("complete images are read through the mount: past it from Linux {major}.{minor} on")
        }
        (true, false) => {
            "complete images are read through the mount: past it for mounts that root makes (CAP_SYS_ADMIN)"
                .into()
        }
    }
}

/// `6.12.1-cloud` is (6, 12).
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn is_capable() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> SYS_ADMIN & 1 == 1)
}

fn request_size() -> String {
    match std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit") {
        Ok(pages) => format!("up to {} pages (fs.fuse.max_pages_limit)", pages.trim()),
        // Fixed before Linux 6.13.
        Err(_) => "up to 256 pages".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_of_the_kernel_tells_what_it_can() {
        assert_eq!(numbers("6.12.1-cloud-amd64"), Some((6, 12)));
        assert_eq!(numbers("5.10"), Some((5, 10)));
        assert_eq!(numbers("linux"), None);
        assert!(passthrough("6.9.0", true).starts_with("the kernel can"));
        assert!(passthrough("6.8.9", true).contains("Linux 6.9"));
        assert!(passthrough("7.0.0", false).contains("CAP_SYS_ADMIN"));
    }
}
