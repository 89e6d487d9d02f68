//! A mount as a person makes it, with a cache, a spool and a log of its own.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use super::run::{Folder, PROGRAM};
use super::shell::{Outcome, run, run_with};
use super::{sh, within};

/// A mount point with what belongs to it; shown as its path in command lines.
pub struct Mount {
    folder: Folder,
    at: String,
    variables: Vec<(String, String)>,
    options: String,
}

impl Mount {
    /// A mount to be made with these variables and options. Options given here win over those that
    /// keep mounts of tests apart.
    pub fn new(variables: Vec<(String, String)>, options: &str) -> Self {
        let folder = Folder::new("mount");
        let at = folder.path("mnt");
        std::fs::create_dir(&at).unwrap();
        let options = format!(
            "--cache-dir {folder}/cache --spool-dir {folder}/spool --log-file {folder}/log {options}"
        );
        Self { folder, at, variables, options }
    }

    /// Runs `glancefs mount`, which must succeed.
    #[track_caller]
    pub fn up(&self) {
        let outcome = self.try_up();
        assert!(outcome.succeeded(), "{outcome}\n{}", self.log());
    }

    /// Runs `glancefs mount`.
    #[track_caller]
    pub fn try_up(&self) -> Outcome {
        self.try_up_with("")
    }

    /// Runs `glancefs mount` with more options.
    #[track_caller]
    pub fn try_up_with(&self, options: &str) -> Outcome {
        let Self { at, options: usual, variables, .. } = self;
        run_with(&format!("{PROGRAM} mount {usual} {options} {at}"), variables)
    }

    /// Runs `glancefs umount`, which must succeed.
    #[track_caller]
    pub fn down(&self) {
        umount(&self.to_string());
    }

    /// Ends it and mounts again.
    #[track_caller]
    pub fn remount(&self) {
        self.down();
        self.up();
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.at)
    }

    /// The options of `glancefs mount`.
    pub fn options(&self) -> &str {
        &self.options
    }

    /// The folder beside the mount point: `cache`, `spool`, `log` and what a test adds.
    pub fn beside(&self) -> &Folder {
        &self.folder
    }

    /// All of a file.
    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("reading {name:?}: {error}"))
    }

    /// The names in the root directory.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.at).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The value of an extended attribute.
    #[track_caller]
    pub fn xattr(&self, file: &str, name: &str) -> String {
        run(&format!("getfattr --absolute-names --only-values -n '{name}' '{self}/{file}'")).expect_success()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path("log")).unwrap_or_default()
    }

    /// What `.glancefs/errors` says.
    #[track_caller]
    pub fn errors(&self) -> String {
        String::from_utf8(self.read(".glancefs/errors")).unwrap()
    }

    /// The daemon's process id, while there is one.
    pub fn daemon(&self) -> Option<u32> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut ids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
        ids.find(|&id| {
            // First, since a look at the command line of a program that waits for a mount can wait with it.
            is_glancefs(id) && {
                let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
                line.split(|byte| *byte == 0).any(|word| word == self.at.as_bytes())
            }
        })
    }

    /// Bytes of memory that the daemon has in use.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        let daemon = self.daemon().expect("a daemon");
        let status = std::fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Whether the kernel lists it.
    pub fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(&self.at))
    }
}

/// Whether the process `id` is there and runs the program under test.
pub fn is_glancefs(id: u32) -> bool {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| Path::new(PROGRAM).canonicalize().unwrap());
    match std::fs::read_link(format!("/proc/{id}/exe")) {
        Ok(found) => found == *PATH,
        // What a process that keeps its memory private runs is told to root only.
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

impl std::fmt::Display for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of {self}:\n{}---", self.log());
        } else {
            // For `cargo test -- --show-output`.
            let notable = |line: &&str| !line.contains(" INFO ") && !line.is_empty();
            self.log().lines().filter(notable).for_each(|line| eprintln!("{line}"));
        }
        if self.is_mounted() {
            run(&format!("timeout 20 {PROGRAM} umount {self} || umount -l {self} || fusermount3 -uz {self}"));
        }
        let daemon_ended = || within(Duration::from_secs(5), || self.daemon().is_none());
        if !daemon_ended()
            && let Some(daemon) = self.daemon()
        {
            run(&format!("kill -KILL {daemon}"));
        }
        if self.is_mounted() {
            // Nothing below a mount must be removed as if it were a folder.
            self.folder.leave();
        }
    }
}

/// `glancefs umount`, which must succeed.
#[track_caller]
pub fn umount(at: &str) {
    sh!("{PROGRAM} umount {at}");
}
