//! Command lines as a person types them, each with a deadline.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// After this a command hangs: its process group is killed and the test fails.
const LIMIT: Duration = Duration::from_secs(90);

/// What became of a command line.
#[derive(Debug)]
pub struct Outcome {
    line: String,
    status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// It ended with code 0.
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; none when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its standard output without the last newline.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.succeeded(), "this failed: {self}");
        self.stdout.strip_suffix('\n').map(str::to_owned).unwrap_or(self.stdout)
    }

    /// All that it said while failing.
    #[track_caller]
    pub fn expect_failure(self) -> String {
        assert!(!self.succeeded(), "this should have failed: {self}");
        self.stdout + &self.stderr
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, status, stdout, stderr, took } = self;
        let end = stdout.char_indices().nth(2000).map_or(stdout.len(), |(at, _)| at);
        write!(f, "{line}\n--- {status} after {took:?}\n{}{stderr}---", &stdout[..end])
    }
}

/// Runs a command line in bash.
#[track_caller]
pub fn run(line: &str) -> Outcome {
    run_with(line, &[])
}

/// The same with variables of its own.
#[track_caller]
pub fn run_with(line: &str, variables: &[(String, String)]) -> Outcome {
    background_with(line, variables).finish()
}

/// Starts a command line that goes on meanwhile.
pub fn background(line: &str) -> Background {
    background_with(line, &[])
}

/// The same with variables of its own.
pub fn background_with(line: &str, variables: &[(String, String)]) -> Background {
    started(line, variables, |_| ())
}

/// The same with an open file, which the command line finds as descriptor `number`.
pub fn background_handed(line: &str, file: &File, number: i32) -> Background {
    let file = file.as_raw_fd();
    started(line, &[], |command| {
        // SAFETY: dup2(2) may be called between fork and exec, and both numbers are valid there.
        unsafe {
            command.pre_exec(move || match libc::dup2(file, number) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
    })
}

fn started(line: &str, variables: &[(String, String)], prepare: impl FnOnce(&mut Command)) -> Background {
    // Files and not pipes: a daemon that keeps one open must not keep us waiting.
    let [stdout, stderr] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", line]).env("LC_ALL", "C.UTF-8").process_group(0);
    // A cloud of the caller's own must not get into the tests.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OS_") {
            command.env_remove(name);
        }
    }
    command.env("GLANCEFS_CONFIG", "/dev/null");
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    prepare(&mut command);
    let child = command.spawn().expect("bash starts");
    Background { line: line.to_owned(), child: Some(child), stdout, stderr, began: Instant::now() }
}

/// A command line that runs; killed with all of its process group when dropped.
pub struct Background {
    line: String,
    child: Option<Child>,
    stdout: File,
    stderr: File,
    began: Instant,
}

impl Background {
    /// Sends a signal to the command and all that it started.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            let _ = kill_process_group(group, signal);
        }
    }

    /// Its process id: that of the shell, or of what that has become by `exec`.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().unwrap().try_wait(), Ok(None))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(self) -> Outcome {
        self.finish_within(LIMIT)
    }

    /// The same, for what may take longer than other commands.
    #[track_caller]
    pub fn finish_within(mut self, limit: Duration) -> Outcome {
        let status = self.wait(limit);
        if status.is_none() {
            self.signal(Signal::KILL);
        }
        let killed = status.or_else(|| self.wait(Duration::from_secs(5)));
        let outcome = Outcome {
            line: self.line.clone(),
            status: killed.unwrap_or_default(),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            took: self.began.elapsed(),
        };
        assert!(status.is_some(), "this did not end within {limit:?}: {outcome}");
        outcome
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            let status = self.child.as_mut().unwrap().try_wait().expect("it can be waited for");
            if status.is_some() || Instant::now() > end {
                return status;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            self.signal(Signal::KILL);
            let _ = self.wait(Duration::from_secs(5));
        }
    }
}

fn text(mut file: &File) -> String {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
