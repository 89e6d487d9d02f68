//! `glancefs doctor`: its arguments, and what they make of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Args};

use super::args::{AccessArguments, CacheArguments, CloudArguments, MountArguments, Places, UploadArguments};
use super::merge;
use super::trust::TrustArguments;
use crate::config::{Environment, paths};
use crate::doctor::{Order, doctor};
use crate::error::{Error, Kind, Result};

/// Find out what is wrong with a mount, or would be with one of these options.
///
/// Looks at this host, the cloud, the folders and the mount, changes nothing, and tells each finding with its cure.
/// Exits with 0 when nothing is wrong, with 1 when something is. Takes the options and variables of mount.
#[derive(Debug, Args)]
#[command(next_line_help = true)]
pub struct DoctorArguments {
    /// A mount point, a source as mount takes it, or both.
    #[arg(value_name = "[SOURCE] MOUNTPOINT", num_args = 0..=2)]
    pub places: Vec<String>,

    /// As JSON.
    #[arg(long)]
    pub json: bool,

    /// Show findings only: nothing when there are none.
    #[arg(long, short)]
    pub quiet: bool,

    #[command(flatten)]
    pub cloud: CloudArguments,

    #[command(flatten)]
    pub cache: CacheArguments,

    #[command(flatten)]
    pub upload: UploadArguments,

    #[command(flatten)]
    pub access: AccessArguments,

    #[command(flatten)]
    pub trust: TrustArguments,

    /// As in `MountArguments`.
    #[arg(skip)]
    pub own_cloud: Option<String>,
}

/// The source among the places, for `cli::settings`.
pub(super) fn source(given: &ArgMatches) -> Option<String> {
    let given: Vec<String> = given.try_get_many("places").ok()??.cloned().collect();
    places(&given).ok()?.0
}

pub(super) fn run(given: DoctorArguments, environment: &Environment) -> ExitCode {
    match order(given, environment) {
        Ok(order) => doctor(&order),
        Err(error) => {
            eprintln!("glancefs: {error}");
            ExitCode::from(2)
        }
    }
}

fn order(given: DoctorArguments, environment: &Environment) -> Result<Order> {
    let (source, mountpoint) = places(&given.places)?;
    let mountpoint = mountpoint.map(|path| paths::resolve(&path)).transpose()?;
    let DoctorArguments { cloud, cache, upload, access, trust, own_cloud, json, quiet, .. } = given;
    let arguments = MountArguments {
        places: Places { source, mountpoint: mountpoint.clone().unwrap_or_default() },
        cloud,
        cache,
        upload,
        access,
        trust,
        foreground: false,
        log_file: None,
        metrics_listen: None,
        own_cloud,
        daemon: false,
    };
    let merge::Parts { connection, cache, spool } = merge::parts(&arguments, environment);
    Ok(Order { connection, cache, spool, mountpoint, json, quiet })
}

/// One word alone is a mount point where it looks like a path or is a folder, else a source.
fn places(given: &[String]) -> Result<(Option<String>, Option<PathBuf>)> {
    let is_path = |text: &str| text.starts_with(['/', '.']) || Path::new(text).is_dir();
    Ok(match given {
        [] => (None, None),
        [place] if is_path(place) => (None, Some(place.into())),
        [source] => (Some(source.clone()), None),
        [source, place] => (Some(source.clone()), Some(place.into())),
        _ => return Err(Error::new(Kind::Config, "name a source and a mount point at most")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_mount_point_where_it_looks_like_one() {
        let places = |given: &[&str]| {
            places(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(places(&[]), (None, None));
        assert_eq!(places(&["/mnt/x"]), (None, Some("/mnt/x".into())));
        assert_eq!(places(&["./x"]), (None, Some("./x".into())));
        assert_eq!(places(&["mycloud"]), (Some("mycloud".into()), None));
        assert_eq!(places(&["mycloud:image", "/m"]), (Some("mycloud:image".into()), Some("/m".into())));
    }
}
