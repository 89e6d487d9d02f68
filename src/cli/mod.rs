//! The command line: arguments in, exit code and messages out.
//!
//! [`args`] holds them as written, [`merge`] makes one validated `Config` of them. A failure is told
//! in one message, `glancefs: <cause>: <cure>`, with exit code 1; a command line that cannot be read
//! gives 2 (clap's own).

mod args;
mod config;
mod doctor;
mod file;
#[doc(hidden)]
pub mod fuzzing;
mod helper;
mod merge;
mod named;
mod options;
mod orders;
mod profile;
mod settings;
mod trust;
mod uploads;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::client;
use crate::config::Environment;
use crate::error::{Kind, Result};
use crate::mount::{self, Readiness, Unmounted};

/// What the command line is, for manual pages and completions.
#[doc(hidden)]
pub fn definition() -> clap::Command {
    <args::Arguments as clap::CommandFactory>::command()
}

/// Runs the program with these arguments and gives its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    keep_memory_private();
    let line: Vec<OsString> = arguments.into_iter().collect();
    let environment = Environment::of_process();
    if helper::is_meant(&line) {
        return help_mount(&line, &environment);
    }
    let outcome = match settings::arguments(&line, &environment) {
        Ok(args::Arguments { command: args::Command::Mount(arguments) }) if arguments.daemon => {
            return serve_in_background(&arguments, &environment);
        }
        Ok(args::Arguments { command: args::Command::Mount(arguments) }) => {
            run_mount(&arguments, &line, &environment)
        }
        Ok(args::Arguments { command: args::Command::Config(arguments) }) => {
            config::run(&arguments, settings::without_switches(&line).1, &environment)
        }
        Ok(args::Arguments { command: args::Command::Umount(arguments) }) => {
            run_umount(&arguments, &environment)
        }
        Ok(args::Arguments { command: args::Command::Order(order) }) => {
            return orders::run(order, &environment);
        }
        Ok(args::Arguments { command: args::Command::Doctor(given) }) => {
            return doctor::run(*given, &environment);
        }
        Ok(args::Arguments { command: args::Command::Profile(command) }) => profile::run(&command),
        Ok(args::Arguments { command: args::Command::Prefetch(arguments) }) => {
            return client::prefetch(on_mount(&arguments.images, &arguments.on));
        }
        Ok(args::Arguments { command: args::Command::Evict(arguments) }) => {
            return client::evict(on_mount(&arguments.images, &arguments.on));
        }
        Ok(args::Arguments { command: args::Command::Status(arguments) }) => {
            client::status(&arguments.mountpoint, arguments.json)
        }
        Ok(args::Arguments { command: args::Command::Uploads(arguments) }) => {
            uploads::run(&arguments, &environment)
        }
        Err(settings::Unreadable::File(error)) => Err(error),
        Err(settings::Unreadable::Line(error)) => {
            // Help and version come this way too, with code 0; a closed terminal is no failure of ours.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("glancefs: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Passwords and tokens are in our memory and environment: no core file gets them, and no other process of this user
/// reads them by ptrace(2), `/proc/<pid>/mem` or `/proc/<pid>/environ`. Root can still look.
///
/// The process as a whole, since a token has copies that nobody can mark or wipe: in the HTTP client's headers and
/// buffers, and in those of the TLS library.
fn keep_memory_private() {
    // It refuses no value that it knows (prctl(2)).
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Each image as it was typed, and where it is; looked for one after the other.
fn on_mount<'a>(
    images: &'a [PathBuf],
    on: &'a args::OnMountArguments,
) -> impl Iterator<Item = (&'a Path, Result<PathBuf>)> {
    images.iter().map(move |typed| (typed.as_path(), named::path_of(typed, on)))
}

/// The program as mount(8) calls it.
fn help_mount(line: &[OsString], environment: &Environment) -> ExitCode {
    let words = line.get(1..).unwrap_or_default();
    if words.iter().any(|word| word == "-h" || word == "--help") {
        println!(
            "{}\nOptions are those of glancefs mount, with _ for -, and those of mount(8).",
            helper::USAGE
        );
        return ExitCode::SUCCESS;
    }
    let told = |code: u8, message: &dyn std::fmt::Display| {
        eprintln!("glancefs: {message}");
        ExitCode::from(code)
    };
    let request = match helper::read(words) {
        Ok(request) => request,
        Err(message) => return told(helper::MISUSED, &message),
    };
    let arguments = match settings::arguments(&request.line, environment) {
        Ok(args::Arguments { command: args::Command::Mount(arguments) }) => arguments,
        Ok(_) => return told(helper::MISUSED, &helper::USAGE),
        Err(settings::Unreadable::Line(error)) => {
            return told(helper::MISUSED, &options::in_one_line(&error));
        }
        Err(settings::Unreadable::File(error)) => return told(helper::MISUSED, &error),
    };
    let outcome = if request.fake {
        merge::config(&arguments, environment).map(drop)
    } else {
        run_mount(&arguments, &request.line, environment)
    };
    match outcome {
        Ok(()) if request.verbose => {
            println!("glancefs: mounted on {}", arguments.places.mountpoint.display())
        }
        Ok(()) => {}
        Err(error) if error.kind() == Kind::Config => return told(helper::MISUSED, &error),
        Err(error) => return told(helper::FAILED, &error),
    }
    ExitCode::SUCCESS
}

fn run_mount(arguments: &args::MountArguments, line: &[OsString], environment: &Environment) -> Result<()> {
    let config = merge::config(arguments, environment)?;
    if config.foreground {
        return mount::in_foreground(&config, environment);
    }
    mount::in_background(&config, &background_line(line))
}

/// The same command line for the background part: the internal option goes right behind `mount`,
/// since the end may follow a `--`.
fn background_line(line: &[OsString]) -> Vec<OsString> {
    let (before, after) = line.split_at(line.len().min(2));
    [before, &["--daemon".into()], after].concat()
}

fn serve_in_background(arguments: &args::MountArguments, environment: &Environment) -> ExitCode {
    let readiness = match Readiness::from_stdout() {
        Ok(readiness) => readiness,
        Err(error) => {
            eprintln!("glancefs: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = match merge::config(arguments, environment) {
        Ok(config) => mount::as_daemon(&config, environment, readiness),
        Err(error) => {
            readiness.failed(&error);
            Err(error)
        }
    };
    // The failure was told through the readiness, or is in the log.
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_umount(arguments: &args::UmountArguments, environment: &Environment) -> Result<()> {
    match mount::umount(&arguments.mountpoint, arguments.lazy, environment)? {
        Unmounted::Ended => {}
        Unmounted::StillServing(process) => eprintln!(
            "glancefs: {} is detached; {process} ends when the last file on it is closed",
            arguments.mountpoint.display()
        ),
        Unmounted::UnknownDaemon => eprintln!(
            "glancefs: {} is unmounted; its daemon was not found and may still be ending",
            arguments.mountpoint.display()
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_internal_option_goes_before_a_double_dash() {
        let line: Vec<OsString> = ["glancefs", "mount", "--", "-odd"].map(OsString::from).into();
        assert_eq!(background_line(&line), ["glancefs", "mount", "--daemon", "--", "-odd"]);
    }
}
