//! `glancefs profile`: boot profiles from and to files, and as a property for other hosts.

use std::path::Path;

use super::args::ProfileCommand;
use super::named;
use crate::client;
use crate::error::Result;
use crate::glance::PROFILE_PROPERTY;
use crate::read::publishable;

pub(super) fn run(command: &ProfileCommand) -> Result<()> {
    let (ProfileCommand::Export { image, on, .. }
    | ProfileCommand::Publish { image, on }
    | ProfileCommand::Import { image, on, .. }) = command;
    let path = named::path_of(image, on).map_err(|error| error.context(image.display()))?;
    match command {
        ProfileCommand::Export { output, .. } => client::export_profile(&path, output.as_deref()),
        ProfileCommand::Import { file, .. } => client::import_profile(&path, file),
        ProfileCommand::Publish { .. } => publish(&path),
    }
}

fn publish(path: &Path) -> Result<()> {
    let text = publishable(&client::profile_of(path)?)?;
    client::set_property(path, PROFILE_PROPERTY, &text)
}
