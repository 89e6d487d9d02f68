//! A real Glance, and where asked a real Keystone, for as long as a test needs them (`scripts/devcloud`).

// Each integration test is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a request that goes on is waited for by who looks at the log: a download that nobody reads, or one that a
/// server was killed in, never gets there.
const UNENDED: Duration = Duration::from_secs(2);

/// A running cloud in a folder of its own, on free ports; taken down and removed when dropped.
///
/// Users, where there are any: `alice` (member of project alpha), `bob` (member of beta), `rita` (reader in alpha) and
/// `admin`; the password is the name followed by `pw`.
pub struct Devcloud {
    dir: TempDir,
    endpoint: String,
    /// Of the HTTP server behind the `http` store, where there is one.
    files: Option<String>,
}

impl Devcloud {
    /// Starts one: `auth` is `none`, `fake` or `keystone`, `options` are further ones of `scripts/devcloud up`.
    pub fn up(auth: &str, options: &[&str]) -> Self {
        Self::up_below(&std::env::temp_dir(), auth, options)
    }

    /// The same, with its folder in `parent`.
    pub fn up_below(parent: &Path, auth: &str, options: &[&str]) -> Self {
        // Not in `parent` itself: a killed test leaves it behind, and then its name should say what it was.
        let dir = tempfile::Builder::new().prefix("glancefs-devcloud-").tempdir_in(parent).unwrap();
        let mut cloud = Self { dir, endpoint: String::new(), files: None };
        let mut arguments = vec!["--auth", auth, "--port", "auto"];
        arguments.extend(options);
        // From here on a panic runs `drop`, which takes down what was started.
        cloud.run("up", &arguments);
        let status = cloud.output("status", &[]);
        let url = |service: &str| {
            let line = status.lines().find(|line| line.starts_with(service))?;
            line.split_whitespace().find_map(|word| word.strip_prefix("url=")).map(str::to_owned)
        };
        cloud.endpoint = url("glance").expect("the address of glance");
        cloud.files = url("files");
        cloud
    }

    /// Glance's address, without a version.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The address of the HTTP server behind the `http` store: it shows what is in `files/data` of the folder.
    pub fn files(&self) -> &str {
        self.files.as_deref().expect("--stores with http")
    }

    /// The folder with logs, settings and data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The variables that point an OpenStack client at it as `user`.
    pub fn env(&self, user: &str) -> Vec<(String, String)> {
        self.output("env", &["--plain", "--user", user])
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// A fresh token of `user`; empty with `--auth none`.
    pub fn token(&self, user: &str) -> String {
        self.output("token", &["--user", user]).trim().to_owned()
    }

    /// An active image whose data are in the http store, which serves no ranges; its id. Needs `--stores file,http`.
    pub fn http_image(&self, user: &str, name: &str, file: &Path) -> String {
        self.http_image_with(user, name, file, &[])
    }

    /// The same with further options of `devcloud http-image`.
    pub fn http_image_with(&self, user: &str, name: &str, file: &Path, options: &[&str]) -> String {
        let words = [&["--user", user, name, file.to_str().unwrap()], options].concat();
        self.output("http-image", &words).trim().to_owned()
    }

    /// Stops `glance`, `keystone` or `files`; `up_again` starts it.
    pub fn stop(&self, service: &str) {
        self.run("down", &[service]);
    }

    /// Starts what was stopped, on the same ports with the same data.
    pub fn up_again(&self) {
        self.run("up", &[]);
    }

    /// Stops and starts with other options, which are then remembered.
    pub fn restart(&self, options: &[&str]) {
        self.run("restart", options);
    }

    /// Lines of the access log of `glance` or `keystone` that contain `text`. The log has a request some time after the
    /// client has the answer, so those that have begun are waited for, [`UNENDED`] at most.
    pub fn requests(&self, service: &str, text: &str) -> Vec<String> {
        let lines = |log: &str| -> Vec<String> {
            let log = std::fs::read_to_string(self.dir().join(service).join(log)).unwrap_or_default();
            log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
        };
        let limit = Instant::now() + UNENDED;
        loop {
            // In this order: what begins in between is not waited for.
            let begun = lines("begun.log");
            let ended = lines("access.log");
            if ended.len() >= begun.len() || Instant::now() > limit {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn run(&self, verb: &str, arguments: &[&str]) {
        self.output(verb, arguments);
    }

    fn output(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.command(verb, arguments).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", script().display()));
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "devcloud {verb} {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn command(&self, verb: &str, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(script());
        command.arg(verb).arg("--dir").arg(self.dir.path()).args(arguments);
        command
    }
}

impl Drop for Devcloud {
    fn drop(&mut self) {
        let none: [&str; 0] = [];
        // In a failing test its own message counts, not this one.
        let _ = self.command("down", &none).output();
    }
}

/// The project's script, or the one that `GLANCEFS_DEVCLOUD` names.
pub fn script() -> PathBuf {
    std::env::var_os("GLANCEFS_DEVCLOUD")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/devcloud"))
}
