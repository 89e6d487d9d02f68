//! `glancefs uploads`: what is in a spool, by the mount that has it or by looking into the folder, and what
//! shall become of it.

use std::path::{Path, PathBuf};

use super::args::{UploadsArguments, UploadsCommand};
use super::merge;
use crate::client;
use crate::config::Environment;
use crate::error::{Error, Kind, Result};
use crate::mount;
use crate::write::{self, Report, Uploading};

pub(super) fn run(arguments: &UploadsArguments, environment: &Environment) -> Result<()> {
    match &arguments.command {
        None => {
            let found = match &arguments.mountpoint {
                Some(mountpoint) => of_mount(mountpoint)?,
                None => of_folder(arguments, environment)?,
            };
            show(&found, arguments.json)
        }
        Some(UploadsCommand::Retry { id, name, mountpoint }) => {
            let (mountpoint, upload) = find(id, mountpoint.as_deref(), arguments, environment)?;
            let image = client::retry_upload(&mountpoint, &upload.id, name.as_deref());
            let shown = name.as_deref().or(upload.name.as_deref()).unwrap_or(&upload.id);
            let image = image.map_err(|error| error.context(format!("{} ({shown})", upload.id)))?;
            say(&format!("{shown}: uploaded as image {image}\n"))
        }
        Some(UploadsCommand::Discard { id, mountpoint }) => {
            let (mountpoint, upload) = find(id, mountpoint.as_deref(), arguments, environment)?;
            let discarded = client::discard_upload(&mountpoint, &upload.id);
            discarded.map_err(|error| error.context(&upload.id))?;
            let name = upload.name.as_deref().unwrap_or("unknown name");
            say(&format!("{}: discarded ({name}, {} bytes)\n", upload.id, upload.bytes))
        }
    }
}

fn of_mount(mountpoint: &Path) -> Result<Uploading> {
    serde_json::from_slice(&client::uploads_of(mountpoint)?).map_err(|error| {
        let message = format!("the mount at {} is of another version of glancefs", mountpoint.display());
        Error::new(Kind::NotSupported, message).with_source(error)
    })
}

fn of_folder(arguments: &UploadsArguments, environment: &Environment) -> Result<Uploading> {
    write::reports_in(&merge::spool_of(
        arguments.cache_dir.as_deref(),
        arguments.spool_dir.as_deref(),
        environment,
    )?)
}

fn show(found: &Uploading, json: bool) -> Result<()> {
    if json {
        let failed = |error| Error::new(Kind::Io, "writing the list").with_source(error);
        return say(&(serde_json::to_string_pretty(found).map_err(failed)? + "\n"));
    }
    if found.uploads.is_empty() {
        eprintln!("no uploads in {}", found.folder);
        return Ok(());
    }
    say(&found.to_string())
}

/// The upload whose id begins with `id`, and the mount that can work on it: the named one, or the first of
/// this host that has its spool and is of its cloud and project.
fn find(
    id: &str,
    named: Option<&Path>,
    arguments: &UploadsArguments,
    environment: &Environment,
) -> Result<(PathBuf, Report)> {
    if let Some(mountpoint) = named {
        return Ok((mountpoint.to_owned(), pick(&of_mount(mountpoint)?, id)?));
    }
    let mut elsewhere = None;
    for mountpoint in mount::mountpoints()? {
        // Who opens a file on a mount keeps it from being unmounted meanwhile: those with another spool are left
        // alone.
        if mount::spool_of(&mountpoint, environment).is_some_and(|spool| !write::may_hold(&spool, id)) {
            continue;
        }
        // One that does not answer, or belongs to somebody else, is not the one.
        let Ok(found) = of_mount(&mountpoint) else { continue };
        let Ok(upload) = pick(&found, id) else { continue };
        if is_for(&found, &upload) {
            return Ok((mountpoint, upload));
        }
        elsewhere = Some((upload, found.folder));
    }
    if elsewhere.is_none() {
        let found = of_folder(arguments, environment)?;
        elsewhere = Some((pick(&found, id)?, found.folder));
    }
    let Some((Report { id, cloud, project, .. }, folder)) = elsewhere else { return Err(unknown(id)) };
    let (cloud, project) = (cloud.as_deref().unwrap_or("unknown"), project.as_deref().unwrap_or("none"));
    let cure = format!("mount it with --spool-dir {folder} and try again");
    let message =
        format!("upload {id} is for the cloud {cloud}, project {project}, which is not mounted: {cure}");
    Err(Error::new(Kind::Config, message))
}

/// The mount can work on it. What has no journal is anybody's.
fn is_for(mount: &Uploading, upload: &Report) -> bool {
    upload.cloud.is_none() || (upload.cloud == mount.cloud && upload.project == mount.project)
}

/// The one upload whose id begins so.
fn pick(found: &Uploading, id: &str) -> Result<Report> {
    let mut fitting = found.uploads.iter().filter(|upload| !id.is_empty() && upload.id.starts_with(id));
    match (fitting.next(), fitting.next()) {
        (Some(upload), None) => Ok(upload.clone()),
        (Some(_), Some(_)) => {
            Err(Error::new(Kind::Config, format!("several uploads begin with {id}: give more of the id")))
        }
        (None, _) => Err(unknown(id)),
    }
}

fn unknown(id: &str) -> Error {
    Error::new(Kind::Config, format!("there is no upload {id}: glancefs uploads lists them"))
}

fn say(text: &str) -> Result<()> {
    client::print(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::Condition;

    fn upload(id: &str, cloud: Option<&str>) -> Report {
        Report {
            id: id.to_owned(),
            name: None,
            image: None,
            state: Condition::Failed,
            bytes: 1,
            sent: None,
            started: None,
            cloud: cloud.map(str::to_owned),
            project: Some("p".to_owned()),
            reason: None,
            file: String::new(),
        }
    }

    #[test]
    fn an_upload_is_named_by_the_beginning_of_its_id() {
        let uploads = vec![upload("1f3c", Some("a")), upload("1f4d", Some("a"))];
        let found =
            Uploading { cloud: Some("a".into()), project: Some("p".into()), folder: "/s".into(), uploads };
        assert_eq!(pick(&found, "1f4").unwrap().id, "1f4d");
        assert!(pick(&found, "1f").unwrap_err().to_string().contains("several"));
        for unknown in ["2", ""] {
            assert!(pick(&found, unknown).unwrap_err().to_string().contains("glancefs uploads lists them"));
        }
        assert!(is_for(&found, &upload("x", Some("a"))) && is_for(&found, &upload("x", None)));
        assert!(!is_for(&found, &upload("x", Some("b"))));
    }
}
