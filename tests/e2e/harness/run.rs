//! One run of the tests: its folder, and a guard that leaves nothing behind however the run ends.
//!
//! Mounts and clouds of a test are taken down by `Drop`. What is shared by tests lives in statics,
//! which are not dropped, and a test process can be killed. So a guard process waits for the end of
//! a pipe that only the test process holds; then it unmounts, stops and removes everything below the
//! folder. At a normal end the test process waits for it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use std::os::unix::process::CommandExt;

use super::devcloud;

const GUARD: &str = r#"
root=$1 devcloud=$2 program=$3
trap '' INT TERM HUP
read -r _ # ends with the test process
awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r at; do
  umount -l "$at" 2>/dev/null || fusermount3 -uz "$at"
done
# Daemons that lost their mount end by themselves; one that hangs is known by its command line.
for pid in $(grep -lzF -e "$root/" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do
  # Which file it runs is told to root only, its name to everybody.
  runs=$(readlink "/proc/$pid/exe") || runs=$(cat "/proc/$pid/comm" 2>/dev/null)
  if [ "$runs" = "$program" ] || [ "$runs" = glancefs ]; then
    for _ in $(seq 20); do [ -e "/proc/$pid/fd" ] || break; sleep 0.05; done
    kill -KILL "$pid" 2>/dev/null
  fi
done
for settings in "$root"/*/settings; do
  [ ! -e "$settings" ] || "$devcloud" down --wipe --dir "${settings%/settings}" 2>/dev/null
done
# Of each systemd that ran, one named after its folder; empty a moment after its processes have ended.
for cgroups in $(awk '$3 == "cgroup2" { print $2 }' /proc/self/mounts); do
  for _ in $(seq 20); do
    [ -e "$cgroups/${root##*/}" ] || break
    find "$cgroups/${root##*/}" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
  done
done
rm -rf --one-file-system "$root"
"#;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_glancefs");

/// A TCP port that nobody had a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Run {
    root: PathBuf,
    guard: Mutex<Option<Child>>,
}

static RUN: LazyLock<Run> = LazyLock::new(|| {
    tell_failures();
    let root = tempfile::Builder::new().prefix("glancefs-e2e.").tempdir().unwrap().keep();
    let root = root.canonicalize().unwrap();
    let guard = Command::new("bash")
        .args(["-c", GUARD, "glancefs-e2e-guard"])
        .args([root.as_os_str(), devcloud::script().as_os_str(), PROGRAM.as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // Ctrl-C is for the tests.
        .process_group(0)
        .spawn()
        .expect("bash starts");
    // SAFETY: `end` is a plain function that neither unwinds nor touches anything that is gone when
    // exit handlers run: statics of Rust are never dropped.
    assert_eq!(unsafe { libc::atexit(end) }, 0);
    Run { root, guard: Mutex::new(Some(guard)) }
});

extern "C" fn end() {
    let guard = RUN.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut guard) = guard {
        drop(guard.stdin.take());
        let _ = guard.wait();
    }
}

/// Has the reason of each failure told at once, past the capture of the test's output: the list of failures comes at
/// the end only, which a run that is ended early, or a log that is cut, does not have.
fn tell_failures() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let test = std::thread::current().name().unwrap_or("a thread of the harness").to_owned();
        let _ = writeln!(std::io::stderr(), "STOPPED: {test}: {panic}");
        usual(panic);
    }));
}

/// Where everything of this run is, removed at its end.
pub fn run_folder() -> &'static Path {
    &RUN.root
}

/// A folder of a test's own, removed at its end.
pub struct Folder {
    folder: Option<tempfile::TempDir>,
}

impl Folder {
    /// A new one; `label` is for people who look into it.
    pub fn new(label: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("{label}.")).tempdir_in(&RUN.root);
        Self { folder: Some(folder.unwrap()) }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    /// The path of `name` in it, for command lines.
    pub fn path(&self, name: &str) -> String {
        self.root().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Leaves it to the guard, for when something in it cannot be unmounted.
    pub fn leave(&mut self) {
        if let Some(folder) = self.folder.take() {
            let _ = folder.keep();
        }
    }
}

impl std::fmt::Display for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.root().display().fmt(f)
    }
}
