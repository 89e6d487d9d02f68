//! What the tests are written with: a cloud, a mount on it, command lines, and bytes to compare.

mod cloud;
mod content;
mod detour;
#[path = "../../common/devcloud.rs"]
mod devcloud;
mod disk;
mod gate;
mod machine;
mod mount;
mod proxy;
mod run;
mod shell;
mod systemd;
mod tls;

use std::time::{Duration, Instant};

pub use cloud::Cloud;
pub use content::{Numbers, epoch, json, pattern};
pub use detour::Detour;
pub use disk::{Contents, Disk, Failure, Loss, Moment};
pub use gate::Gate;
pub use machine::{in_a_copy, no_copy};
pub use mount::{Mount, is_glancefs, umount};
pub use proxy::{Fault, Proxy, Rule};
pub use run::{Folder, PROGRAM, free_port};
pub use shell::{Background, Outcome, background, background_handed, background_with, run, run_with};
pub use systemd::{no_systemd, under_systemd};
pub use tls::{Authority, Front};

/// How long anything that happens by itself may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
///
/// # Panics
/// When it still does not after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(PATIENCE, condition), "not within {PATIENCE:?}: {what}");
}

/// Whether `condition` comes to hold within `limit`.
pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether tests that take minutes were asked for (`scripts/test --long`).
pub fn long() -> bool {
    std::env::var_os("GLANCEFS_TEST_LONG").is_some()
}

/// Says, past the capture of the test's output, that a test was left out and why.
pub fn left_out(test: &str, why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {test}: {why}");
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a command line, which must succeed; its standard output without the last newline.
macro_rules! sh {
    ($($line:tt)*) => { $crate::harness::run(&format!($($line)*)).expect_success() };
}

/// Runs a command line, which must fail; all that it said.
macro_rules! fails {
    ($($line:tt)*) => { $crate::harness::run(&format!($($line)*)).expect_failure() };
}

/// Ends the test as left out, with the reason.
macro_rules! leave_out {
    ($($why:tt)*) => {{
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        $crate::harness::left_out(&test, &format!($($why)*));
        return;
    }};
}

pub(crate) use {fails, leave_out, sh};
