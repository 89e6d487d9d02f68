//! The boot profile of an image on a mount, in an extended attribute of its file: taken out, put in, published.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};

/// The attribute that carries a profile.
const ATTRIBUTE: &str = "user.glancefs.profile";
/// One that every image of a mount has.
const OURS: &str = "user.glancefs.source";
/// What an extended attribute holds at most (`XATTR_SIZE_MAX`).
const MOST_BYTES: usize = 65536;

/// The profile as the mount has it.
///
/// # Errors
/// `Invalid` where there is none.
pub fn profile_of(path: &Path) -> Result<Vec<u8>> {
    let mut text = vec![0; MOST_BYTES];
    let len = getxattr(path, ATTRIBUTE, &mut text).map_err(|error| refused(path, error))?;
    text.truncate(len);
    Ok(text)
}

/// Sets the property `key` of the image at `path`, which is its profile for others.
///
/// # Errors
/// What the mount says.
pub fn set_property(path: &Path, key: &str, text: &str) -> Result<()> {
    let name = format!("user.glance.property.{key}");
    setxattr(path, &*name, text.as_bytes(), XattrFlags::empty()).map_err(|error| {
        Error::io(
            format!("publishing the boot profile of {} (the log of the mount says more)", path.display()),
            error.into(),
        )
    })
}

/// Writes the profile of the image at `path` to a file, or to standard output.
///
/// # Errors
/// `Invalid` where there is none, `Io`.
pub fn export_profile(path: &Path, output: Option<&Path>) -> Result<()> {
    let text = profile_of(path)?;
    match output {
        Some(output) => std::fs::write(output, &text)
            .map_err(|error| Error::io(format!("writing {}", output.display()), error)),
        // Unlike a list, half a profile is no use to whoever reads it.
        None => io::stdout().write_all(&text).map_err(|error| Error::io("writing the profile", error)),
    }
}

/// Gives the image at `path` the profile in `file` ("-": standard input).
///
/// # Errors
/// `Invalid` for what is no profile of its data, `Io`.
pub fn import_profile(path: &Path, file: &Path) -> Result<()> {
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
