//! The command line: raw arguments, turned into one validated [`Config`](crate::config::Config).

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program with these arguments and gives its exit code.
pub fn run(_args: impl IntoIterator<Item = OsString>) -> ExitCode {
    unimplemented!()
}
