//! `glancefs profile`: boot profiles from and to files, through the mount that keeps them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::glance::PROFILE_PROPERTY;
use crate::read::publishable;

use super::args::ProfileCommand;
use super::named;

/// The attribute that carries a profile.
const ATTRIBUTE: &str = "user.glancefs.profile";
/// One that every image of a mount has.
const OURS: &str = "user.glancefs.source";
/// What an extended attribute holds at most (`XATTR_SIZE_MAX`).
const MOST_BYTES: usize = 65536;

pub(super) fn run(command: &ProfileCommand) -> Result<()> {
    let (ProfileCommand::Export { image, on, .. }
    | ProfileCommand::Publish { image, on }
    | ProfileCommand::Import { image, on, .. }) = command;
    let path = named::path_of(image, on).map_err(|error| error.context(image.display()))?;
    match command {
        ProfileCommand::Export { output, .. } => export(&path, output.as_deref()),
        ProfileCommand::Import { file, .. } => import(&path, file),
        ProfileCommand::Publish { .. } => publish(&path),
    }
}

/// The profile as the mount has it.
fn profile_of(path: &Path) -> Result<Vec<u8>> {
    let mut text = vec![0; MOST_BYTES];
    let len = getxattr(path, ATTRIBUTE, &mut text).map_err(|error| refused(path, error))?;
    text.truncate(len);
    Ok(text)
}

fn publish(path: &Path) -> Result<()> {
    let text = publishable(&profile_of(path)?)?;
    let name = format!("user.glance.property.{PROFILE_PROPERTY}");
    setxattr(path, &*name, text.as_bytes(), XattrFlags::empty()).map_err(|error| {
        Error::io(
            format!("publishing the boot profile of {} (the log of the mount says more)", path.display()),
            error.into(),
        )
    })
}

fn export(path: &Path, output: Option<&Path>) -> Result<()> {
    let text = profile_of(path)?;
    match output {
        Some(output) => std::fs::write(output, &text)
            .map_err(|error| Error::io(format!("writing {}", output.display()), error)),
        None => io::stdout().write_all(&text).map_err(|error| Error::io("writing the profile", error)),
    }
}

fn import(path: &Path, file: &Path) -> Result<()> {
    let shown = file.display();
    let failed = |error| Error::io(format!("reading {shown}"), error);
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(failed)?)
    };
    let mut text = Vec::new();
    from.take(MOST_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    // On another file system this would leave an attribute behind.
    getxattr(path, OURS, &mut [0; 64]).map_err(|_| refused(path, Errno::OPNOTSUPP))?;
    setxattr(path, ATTRIBUTE, &text, XattrFlags::empty()).map_err(|error| match error {
        Errno::INVAL | Errno::TOOBIG => Error::new(
            Kind::Invalid,
            format!(
                "{shown} is no boot profile of the data of {}: the log of the mount says why",
                path.display()
            ),
        ),
        _ => refused(path, error),
    })
}

/// What the kernel's answer means here.
fn refused(path: &Path, error: Errno) -> Error {
    let path = path.display();
    let message = match error {
        Errno::NODATA => format!(
            "{path} has no boot profile here: it is recorded while the first guest starts from it; is this an image of a glancefs mount?"
        ),
        Errno::OPNOTSUPP => format!("{path} is not an image of a glancefs mount"),
        Errno::PERM => format!("{path}: only the owner of the mount and root may import a boot profile"),
        _ => return Error::io(format!("the boot profile of {path}"), error.into()),
    };
    Error::new(Kind::Invalid, message)
}
