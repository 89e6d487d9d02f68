//! The background process: how it is started, and how it says that it is ready.
//!
//! It is this program, executed again, rather than a fork: no thread, lock or buffer of the parent
//! is carried over. Its standard output is a pipe to the parent, which
//! takes one word: `ready`, or `failed` and the message.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::io::FdFlags;

use super::logging::Destination;
use crate::error::{Error, Kind, Result};

const READY: &str = "ready\n";
const FAILED: &str = "failed\n";

/// A failure message longer than this is cut: the pipe is read into memory.
const LONGEST_MESSAGE: u64 = 64 * 1024;

/// The background process's side: owes the parent one word.
pub struct Readiness {
    parent: File,
}

impl Readiness {
    /// Takes the pipe from standard output, which becomes `/dev/null` so that nothing else gets into it.
    ///
    /// # Errors
    /// `Io` when `/dev/null` cannot be opened.
    pub fn from_stdout() -> Result<Self> {
        let failed = |error| Error::io("taking over standard output", error);
        let parent = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        rustix::stdio::dup2_stdout(null().map_err(failed)?).map_err(|error| failed(error.into()))?;
        Ok(Self { parent: parent.into() })
    }

    /// Leaves the terminal and the working directory, then tells the parent that all is well.
    ///
    /// Only now: until here an interrupt from the terminal ends both processes, a relative path in
    /// the configuration of a cloud (`./clouds.yaml`) works, and messages of helpers reach the user.
    ///
    /// # Errors
    /// `Interrupted` when the parent is gone: nobody knows of this mount, so it should end.
    pub fn ready(mut self) -> Result<()> {
        let failed = |error| Error::io("leaving the terminal", error);
        rustix::process::setsid().map_err(|error| failed(error.into()))?;
        std::env::set_current_dir("/").map_err(failed)?;
        let null = null().map_err(failed)?;
        rustix::stdio::dup2_stdin(&null).map_err(|error| failed(error.into()))?;
        rustix::stdio::dup2_stderr(&null).map_err(|error| failed(error.into()))?;
        self.parent.write_all(READY.as_bytes()).map_err(|error| {
            Error::new(Kind::Interrupted, "the command that asked for this mount has ended")
                .with_source(error)
        })
    }

    /// Tells the parent what went wrong.
    pub fn failed(mut self, error: &Error) {
        // A parent that is gone needs no answer; the log has the message too.
        let _ = write!(self.parent, "{FAILED}{error}");
    }
}

/// Shows as `glancefs` in `ps` and `pgrep`; started as `/proc/self/exe` it would be `exe`.
pub fn take_usual_name() {
    // For people only: nothing depends on it.
    let _ = rustix::thread::set_name(c"glancefs");
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

/// Starts `command_line` as the background process and waits for its word.
///
/// # Errors
/// What it says; or how it ended when it says nothing, and where its log is.
pub fn launch(command_line: &[OsString], log: &Destination, device: Option<RawFd>) -> Result<()> {
    keep_files_to_ourselves();
    if let Some(device) = device {
        hand_on(device)?;
    }
    let mut words = command_line.iter();
    // The file that runs now, even when a package update has replaced it; `ps` shows the usual name.
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    let child = command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| Error::io("starting the background process", error))?;
    hear(&mut child, log)
}

/// Marks every file that we inherited as not to be handed on. The background process would hold
/// them for ever: a script's lock (`flock 9`), the pipe of a caller that waits for its end.
fn keep_files_to_ourselves() {
    // SAFETY: close_range(2) with CLOEXEC closes nothing now and touches no memory; the files that
    // Rust opened bear the mark already.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // A kernel before 5.11 refuses: then they are handed on, as most daemons do.
}

/// Leaves an inherited descriptor to the background process.
fn hand_on(descriptor: RawFd) -> Result<()> {
    // SAFETY: nothing in this process closes it; a number that is not open is told by the call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    rustix::io::fcntl_setfd(descriptor, FdFlags::empty())
        .map_err(|error| Error::io("handing on the descriptor that is named as mount point", error.into()))
}

/// Waits for the word of `child`. The wait is bounded by the child's own deadlines, and by the user.
fn hear(child: &mut Child, log: &Destination) -> Result<()> {
    let mut word = String::new();
    let mut message = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        let mut pipe = BufReader::new(pipe.take(LONGEST_MESSAGE));
        let heard = pipe.read_line(&mut word);
        if heard.is_ok() && word == READY {
            return Ok(());
        }
        // What cannot be read counts as silence.
        let _ = pipe.read_to_end(&mut message);
    }
    if word == FAILED {
        // Whoever hears of the failure finds nothing left of this try: no process, no lock.
        let _ = child.wait();
        return Err(Error::new(Kind::Io, String::from_utf8_lossy(&message).into_owned()));
    }
    let status = child.wait().map_err(|error| Error::io("waiting for the background process", error))?;
    let message =
        format!("the background process ended before it was ready ({}): {}", ending(status), log.hint());
    Err(Error::new(Kind::Io, message))
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell that runs this script, and what the parent hears of it.
    fn heard(script: &str) -> (Child, Result<()>) {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let result = hear(&mut child, &Destination::File("/var/log/g.log".into()));
        (child, result)
    }

    fn failure(script: &str) -> String {
        heard(script).1.unwrap_err().to_string()
    }

    #[test]
    fn a_ready_child_lets_the_parent_go_while_it_lives_and_keeps_its_output() {
        // Were the parent to wait for the end of the child or of its output, this would take an hour.
        let (mut child, result) = heard("echo ready; exec sleep 3600");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(result.is_ok());
    }

    #[test]
    fn the_childs_message_is_relayed() {
        assert_eq!(failure("printf 'failed\\nno server: start one'; exit 1"), "no server: start one");
    }

    #[test]
    fn a_failed_child_has_ended_when_its_failure_is_told() {
        let (mut child, result) = heard("printf 'failed\\nno server'; exec >&-; sleep 0.3");
        assert!(result.is_err() && child.try_wait().unwrap().is_some());
    }

    #[test]
    fn a_child_that_dies_without_a_word_is_told_with_the_place_of_its_log() {
        let error = failure("exit 3");
        assert!(error.contains("exit code 3") && error.contains("/var/log/g.log"), "{error}");
        assert!(failure("kill -9 $$").contains("signal 9"));
    }

    #[test]
    fn a_half_word_counts_as_silence() {
        assert!(failure("printf rea").contains("before it was ready"));
    }
}
