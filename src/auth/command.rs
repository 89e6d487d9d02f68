//! `--token-command`: a token from any program a site has.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::token::Token;
use crate::error::{Error, Kind, Result};

/// How long the command may run. A login through a browserless single sign-on takes seconds; a command that
/// waits for a terminal it does not have must not hold up a mount for longer.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of output that are read: tokens of Keystone's largest format (PKI) have some 10 KB.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// `EX_TEMPFAIL` of sysexits.h, "try again later": by this status the command tells an outage from a refusal.
const TEMPORARY_FAILURE: i32 = 75;

/// Runs `sh -c command` and takes the first line of its output.
///
/// # Errors
/// `NotAuthenticated` when it fails or gives no token, `Unreachable` when it fails with status 75 (`EX_TEMPFAIL`),
/// `TimedOut` after 30 s (then it and its children are killed), `Config` when there is no shell. What it wrote to standard error is quoted; its output never is.
pub(super) async fn run(command: &str) -> Result<Token> {
    run_within(command, TIME_LIMIT).await
}

async fn run_within(command: &str, limit: Duration) -> Result<Token> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        // A group of its own, so that what the shell started can be ended with it.
        .process_group(0)
        .spawn()
        .map_err(|error| Error::new(Kind::Config, "cannot run sh for --token-command").with_source(error))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let finished = tokio::time::timeout(limit, async {
        let (output, complaint) = tokio::join!(read_bounded(stdout), read_bounded(stderr));
        (child.wait().await, output, complaint)
    })
    .await;
    let Ok((status, output, complaint)) = finished else {
        let seconds = limit.as_secs();
        return Err(Error::new(Kind::TimedOut, format!("--token-command did not end within {seconds} s")));
    };
    // Reaped: from here on its number may belong to another process.
    group.0 = None;
    let status =
        status.map_err(|error| Error::new(Kind::NotAuthenticated, "--token-command").with_source(error))?;
    if !status.success() {
        let temporary = status.code() == Some(TEMPORARY_FAILURE);
        let kind = if temporary { Kind::Unreachable } else { Kind::NotAuthenticated };
        return Err(Error::new(kind, format!("--token-command failed ({status}){}", quote(&complaint))));
    }
    // Nothing of the output may reach a message, not even when it is no token.
    let text = String::from_utf8(output)
        .map_err(|_| Error::new(Kind::NotAuthenticated, "--token-command wrote something that is no text"))?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(Token::new(line)),
        _ => Err(Error::new(
            Kind::NotAuthenticated,
            "the first line that --token-command wrote is empty: it must be the token",
        )),
    }
}

/// Kills the whole group when dropped before it has ended: at the deadline, or when the renewal was given up.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // The only possible failure is that it ended just now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn read_bounded(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What a broken pipe gave so far is what there is; the exit status tells the rest.
        let _ = pipe.take(OUTPUT_LIMIT).read_to_end(&mut bytes).await;
    }
    bytes
}

/// The last line of standard error, where programs say why they failed, cut to what fits a log line.
fn quote(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => {
            let line: String = line.trim().chars().filter(|c| !c.is_control()).take(200).collect();
            format!(": {line}")
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn the_first_line_is_the_token() {
        let token = run("printf 'abc  \\nsecond line\\n'").await.unwrap();
        assert_eq!(token.header().unwrap().to_str().unwrap(), "abc");
    }

    #[tokio::test]
    async fn a_failing_command_tells_why_but_never_what_it_printed() {
        let error = run("echo s3cr3t; echo cause >&2; exit 3").await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotAuthenticated);
        let text = error.to_string();
        assert!(text.contains("cause") && text.contains('3') && !text.contains("s3cr3t"), "{text}");
    }

    #[tokio::test]
    async fn status_75_is_an_outage_and_no_refusal() {
        let error = run("echo 'no route' >&2; exit 75").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(error.to_string().contains("no route"), "{error}");
    }

    #[tokio::test]
    async fn no_output_is_no_token() {
        for command in ["true", "echo; echo later", "printf '\\377'"] {
            assert_eq!(run(command).await.unwrap_err().kind(), Kind::NotAuthenticated, "{command}");
        }
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let alive = dir.path().join("alive");
        let command = format!("(sleep 2; touch {}) & sleep 60", alive.display());
        let begin = Instant::now();
        let error = run_within(&command, Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!alive.exists(), "a child of the shell outlived it");
    }

    #[tokio::test]
    async fn endless_output_ends() {
        let result = run_within("yes s3cr3t", Duration::from_secs(5)).await;
        // `yes` dies of the closed pipe or is killed at the deadline: either way this returns.
        assert!(result.is_err());
    }
}
