//! What `fuzz/` gives hostile bytes to in this layer; not part of the API.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::Parser;

use super::args::{Arguments, Command};
use super::merge;
use crate::config::Environment;

/// The options of a mount, a line each, as an entry of fstab or a unit file gives them.
pub fn mount_options(bytes: &[u8]) {
    // No argument of a process has a NUL; 20 are enough to meet each other.
    let options = bytes.split(|byte| *byte == b'\n').filter(|option| !option.contains(&0)).take(20);
    let line = [&b"glancefs"[..], b"mount"].into_iter().chain(options).chain([&b"/"[..]]);
    let Ok(Arguments { command: Command::Mount(arguments) }) =
        Arguments::try_parse_from(line.map(OsStr::from_bytes))
    else {
        return;
    };
    let environment = Environment::new([("HOME", "/nowhere")], 1000, 100);
    let _ = merge::config(&arguments, &environment);
}
