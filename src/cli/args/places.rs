//! What is mounted and where: `[SOURCE] MOUNTPOINT`, with options in front, between and behind.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// One argument of two words. Of two arguments, the first of which can be left out, clap takes the first word for the second
/// one as soon as an option stands between them.
#[derive(Debug, Clone)]
pub struct Places {
    /// What is shown; none: the cloud of the options and variables.
    pub source: Option<String>,
    /// Where.
    pub mountpoint: PathBuf,
}

/// The name of the argument.
pub const PLACES: &str = "places";

const HELP: &str = "What is shown (if not the cloud of the options and variables), and the existing directory where it shall appear";

const LONG_HELP: &str = "\
SOURCE is what is shown: a cloud of clouds.yaml, the address of a Glance, or one image, as CLOUD:IMAGE (:IMAGE in the cloud of the \
options and variables) or by its full address, which is then the only file [default: the cloud of the options and variables]. \
MOUNTPOINT is an existing directory where the images shall appear";

impl Args for Places {
    fn augment_args(command: Command) -> Command {
        let places = Arg::new(PLACES)
            .value_names(["[SOURCE] MOUNTPOINT"])
            .value_parser(ValueParser::os_string())
            .num_args(1..=2)
            .action(ArgAction::Append)
            .required(true);
        command.arg(places.help(HELP).long_help(LONG_HELP))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Places {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let wrong = |kind, what: &str| Err(clap::Error::raw(kind, format!("{what}\n")));
        let given: Vec<OsString> = matches.get_many(PLACES).into_iter().flatten().cloned().collect();
        let (source, mountpoint) = match &given[..] {
            [mountpoint] => (None, mountpoint),
            [source, mountpoint] => match source.to_str() {
                Some(source) => (Some(source.to_owned()), mountpoint),
                None => return wrong(ErrorKind::InvalidUtf8, "SOURCE is not UTF-8"),
            },
            _ => return wrong(ErrorKind::TooManyValues, "name a source and a mount point at most"),
        };
        Ok(Self { source, mountpoint: mountpoint.into() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The source among the places of a mount.
pub fn source(given: &ArgMatches) -> Option<String> {
    let given = given.try_get_many::<OsString>(PLACES).ok()??;
    (given.len() == 2).then(|| given.clone().next()?.to_str().map(str::to_owned))?
}
