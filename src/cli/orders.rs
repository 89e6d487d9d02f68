//! The commands that act on the cloud: their arguments as written, and the orders that they become.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::args::LoginArguments;
use super::merge;
use crate::config::Environment;
use crate::error::{Error, Kind, Result};
use crate::glance::ImportStores;
use crate::manage::{self, Connection, Copy, MemberAct, NewImageOrder, Source};
use crate::reference::{ImageReference, ImageUrl};
use crate::units;

const REFERENCES: &str = "\
An image is named by a path on a mount, by its id, by its name, or by its full address
(https://glance:9292/v2/images/ID). These commands log in by themselves, with the same options and variables as mount.";

#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    Import(Box<ImportArguments>),
    Register(Box<RegisterArguments>),
    Copy(Box<CopyArguments>),
    Uncopy(Box<UncopyArguments>),
    Members(Box<MembersArguments>),
    Tasks(Box<TasksArguments>),
    Deactivate(Box<StateArguments>),
    /// Let the data of images be read again.
    Reactivate(Box<StateArguments>),
}

/// Make an image whose data the cloud fetches by itself, or from a file through its staging area.
///
/// Waits until the image is active, and tells why it is not. What failed is deleted again. After Ctrl-C the cloud
/// goes on with what it has begun.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// The name of the new image.
    #[arg(required_unless_present = "stage")]
    pub name: Option<String>,

    /// From where the cloud fetches the data (web-download).
    #[arg(required_unless_present = "stage", conflicts_with = "stage")]
    pub url: Option<String>,

    /// Bring this file into the staging area of the cloud and import it from there (glance-direct). Without NAME the
    /// image is named as the file.
    #[arg(long, value_name = "FILE")]
    pub stage: Option<PathBuf>,

    #[command(flatten)]
    pub stores: StoreArguments,

    #[command(flatten)]
    pub image: NewImageArguments,

    #[command(flatten)]
    pub waiting: WaitArguments,

    #[command(flatten)]
    pub login: LoginArguments,
}

/// Make an image whose data stay where they are, at URL.
///
/// The cloud keeps the address and reads the data from there; users may register http and https addresses where
/// it has an http store.
#[derive(Debug, Args)]
pub struct RegisterArguments {
    /// The name of the new image.
    pub name: String,

    /// Where the data are.
    pub url: String,

    #[command(flatten)]
    pub image: NewImageArguments,

    #[command(flatten)]
    pub waiting: WaitArguments,

    #[command(flatten)]
    pub login: LoginArguments,
}

/// Copy the data of an image to further stores of its cloud, and wait until they are there.
#[derive(Debug, Args)]
#[command(after_help = REFERENCES)]
pub struct CopyArguments {
    /// The image.
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// Where to; may be repeated.
    #[arg(long, value_name = "STORE", required_unless_present = "all_stores")]
    pub to_store: Vec<String>,

    /// To every store of the cloud.
    #[arg(long, conflicts_with = "to_store")]
    pub all_stores: bool,

    /// Keep what could be copied when one of several stores fails.
    #[arg(long)]
    pub allow_partial: bool,

    #[command(flatten)]
    pub waiting: WaitArguments,

    #[command(flatten)]
    pub login: LoginArguments,
}

/// Remove the data of an image from one of its stores.
#[derive(Debug, Args)]
#[command(after_help = REFERENCES)]
pub struct UncopyArguments {
    /// The image.
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// The store; not the last one that has the data.
    #[arg(long, value_name = "STORE")]
    pub from_store: String,

    #[command(flatten)]
    pub login: LoginArguments,
}

/// Show with which projects an image is shared, or change that.
///
/// Projects are named by their ids, which Glance does not check. Only images whose visibility is "shared" have members.
#[derive(Debug, Args)]
#[command(after_help = REFERENCES)]
pub struct MembersArguments {
    /// The image.
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// What to do; without it the members are shown.
    pub action: Option<MemberAction>,

    /// The project; for accept and reject it is our own unless it is given.
    pub project: Option<String>,

    /// Show them as JSON.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub login: LoginArguments,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum MemberAction {
    /// Share the image with a project.
    Add,
    /// End that.
    Remove,
    /// Take an image that was shared with us into our list.
    Accept,
    /// Leave it out of our list.
    Reject,
}

/// Show what the cloud does and did about an image in the background.
#[derive(Debug, Args)]
#[command(after_help = REFERENCES)]
pub struct TasksArguments {
    /// The image.
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// As JSON.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub login: LoginArguments,
}

/// Keep the data of images from being read by anybody but administrators.
#[derive(Debug, Args)]
#[command(after_help = REFERENCES)]
pub struct StateArguments {
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,

    #[command(flatten)]
    pub login: LoginArguments,
}

#[derive(Debug, Args)]
pub struct StoreArguments {
    /// The store to put the data into; may be repeated [default: the default store of the cloud].
    #[arg(long, value_name = "STORE")]
    pub store: Vec<String>,

    /// Put the data into every store of the cloud.
    #[arg(long, conflicts_with = "store")]
    pub all_stores: bool,

    /// Keep the image when one of several stores fails.
    #[arg(long)]
    pub allow_partial: bool,
}

#[derive(Debug, Args)]
pub struct NewImageArguments {
    /// The format of the data, such as qcow2 or raw [default: told by the file or the end of the address].
    #[arg(long, value_name = "FORMAT")]
    pub disk_format: Option<String>,

    /// What the data are packed in.
    #[arg(long, value_name = "FORMAT", default_value = "bare")]
    pub container_format: String,

    /// Who may see the image: private, shared, community or public [default: that of the cloud].
    #[arg(long, value_name = "VISIBILITY")]
    pub visibility: Option<String>,

    /// A property of the image; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_property)]
    pub property: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct WaitArguments {
    /// Do not wait for the end.
    #[arg(long)]
    pub no_wait: bool,

    /// Give up waiting when nothing has changed for so long. (After an hour Glance itself takes an import for dead.)
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = units::parse_duration)]
    pub patience: Duration,
}

fn parse_property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as os_distro=debian".to_owned()),
    }
}

impl From<StoreArguments> for ImportStores {
    fn from(given: StoreArguments) -> Self {
        Self { named: given.store, all: given.all_stores, may_be_partial: given.allow_partial }
    }
}

impl WaitArguments {
    fn patience(&self) -> Option<Duration> {
        (!self.no_wait).then_some(self.patience)
    }
}

impl NewImageArguments {
    fn order(
        self,
        name: String,
        source: Source,
        stores: ImportStores,
        waiting: &WaitArguments,
    ) -> NewImageOrder {
        NewImageOrder {
            name,
            source,
            disk_format: self.disk_format,
            container_format: self.container_format,
            visibility: self.visibility,
            properties: self.property,
            stores,
            patience: waiting.patience(),
        }
    }
}

/// Carries an order out and gives the exit code.
pub fn run(command: OrderCommand, environment: &Environment) -> ExitCode {
    try_run(command, environment).unwrap_or_else(|error| {
        eprintln!("glancefs: {error}");
        ExitCode::FAILURE
    })
}

fn try_run(command: OrderCommand, environment: &Environment) -> Result<ExitCode> {
    let reach = |login: &LoginArguments, images: &[&str]| connection(login, images, environment);
    Ok(match command {
        OrderCommand::Import(given) => {
            let (name, source) = named_source(given.name, given.url, given.stage)?;
            let order = given.image.order(name, source, given.stores.into(), &given.waiting);
            manage::create(&reach(&given.login, &[])?, &order)
        }
        OrderCommand::Register(given) => {
            let source = Source::Location(given.url);
            let order = given.image.order(given.name, source, ImportStores::default(), &given.waiting);
            manage::create(&reach(&given.login, &[])?, &order)
        }
        OrderCommand::Copy(given) => {
            let stores = ImportStores {
                named: given.to_store,
                all: given.all_stores,
                may_be_partial: given.allow_partial,
            };
            let connection = reach(&given.login, &[&given.image])?;
            manage::copy(
                &connection,
                &Copy { image: given.image, stores, patience: given.waiting.patience() },
            )
        }
        OrderCommand::Uncopy(given) => {
            manage::uncopy(&reach(&given.login, &[&given.image])?, &given.image, &given.from_store)
        }
        OrderCommand::Members(given) => {
            let act = member_act(given.action, given.project, given.json)?;
            manage::members(&reach(&given.login, &[&given.image])?, &given.image, &act)
        }
        OrderCommand::Tasks(given) => {
            manage::tasks(&reach(&given.login, &[&given.image])?, &given.image, given.json)
        }
        OrderCommand::Deactivate(given) => set_active(&given, false, reach)?,
        OrderCommand::Reactivate(given) => set_active(&given, true, reach)?,
    })
}

fn set_active(
    given: &StateArguments,
    active: bool,
    reach: impl FnOnce(&LoginArguments, &[&str]) -> Result<Connection>,
) -> Result<ExitCode> {
    let images: Vec<&str> = given.images.iter().map(String::as_str).collect();
    Ok(manage::set_active(&reach(&given.login, &images)?, &given.images, active))
}

/// How to reach the cloud; a Glance that wants no token may be named by the address of an image.
fn connection(login: &LoginArguments, images: &[&str], environment: &Environment) -> Result<Connection> {
    let address = images.iter().find_map(|image| match image.parse() {
        Ok(ImageReference::Url(ImageUrl { endpoint, .. })) => Some(endpoint),
        _ => None,
    });
    merge::connection(login, address.as_ref(), environment)
}

fn named_source(
    name: Option<String>,
    url: Option<String>,
    stage: Option<PathBuf>,
) -> Result<(String, Source)> {
    let incomplete = || Error::new(Kind::Config, "name the image and where its data are");
    match stage {
        Some(file) => {
            let own_name = file.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let name = name.or(own_name).ok_or_else(incomplete)?;
            Ok((name, Source::Stage(file)))
        }
        None => {
            let (Some(name), Some(url)) = (name, url) else { return Err(incomplete()) };
            Ok((name, Source::Download(url)))
        }
    }
}

fn member_act(action: Option<MemberAction>, project: Option<String>, json: bool) -> Result<MemberAct> {
    let needed = |project: Option<String>| {
        project.ok_or_else(|| {
            Error::new(Kind::Config, "name the project by its id: glancefs members IMAGE add PROJECT")
        })
    };
    Ok(match action {
        None => MemberAct::List { json },
        Some(MemberAction::Add) => MemberAct::Add(needed(project)?),
        Some(MemberAction::Remove) => MemberAct::Remove(needed(project)?),
        Some(MemberAction::Accept) => MemberAct::Accept(project),
        Some(MemberAction::Reject) => MemberAct::Reject(project),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    fn order(line: &[&str]) -> Result<OrderCommand, clap::Error> {
        match Arguments::try_parse_from(["glancefs"].iter().chain(line))?.command {
            Command::Order(order) => Ok(order),
            _ => unreachable!("no order"),
        }
    }

    #[test]
    fn an_import_has_an_address_or_a_file() {
        let source = |line: &[&str]| match order(line) {
            Ok(OrderCommand::Import(given)) => {
                named_source(given.name, given.url, given.stage).map_err(|error| error.to_string())
            }
            Ok(_) => unreachable!("an import"),
            Err(error) => Err(error.to_string()),
        };
        let (name, from) = source(&["import", "x", "http://h/x"]).unwrap();
        assert!(name == "x" && matches!(from, Source::Download(url) if url == "http://h/x"));
        let (name, from) = source(&["import", "--stage", "/a/b.raw"]).unwrap();
        assert!(name == "b.raw" && matches!(from, Source::Stage(_)));
        assert_eq!(source(&["import", "--stage", "/a/b.raw", "c"]).unwrap().0, "c");
        for wrong in [&["import", "x"][..], &["import"], &["import", "x", "http://h/x", "--stage", "f"]] {
            assert!(source(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn members_are_changed_by_project_and_taken_for_ones_own() {
        let act = |line: &[&str]| match order(line).unwrap() {
            OrderCommand::Members(given) => member_act(given.action, given.project, given.json),
            _ => unreachable!("members"),
        };
        assert_eq!(act(&["members", "i"]).unwrap(), MemberAct::List { json: false });
        assert_eq!(act(&["members", "i", "add", "p"]).unwrap(), MemberAct::Add("p".into()));
        assert_eq!(act(&["members", "i", "accept"]).unwrap(), MemberAct::Accept(None));
        assert!(act(&["members", "i", "remove"]).is_err());
        assert!(order(&["members", "i", "grant", "p"]).is_err());
        assert!(order(&["copy", "i"]).is_err());
        assert!(order(&["import", "x", "u", "--property", "odd"]).is_err());
    }

    #[test]
    fn the_address_of_an_image_is_a_glance_that_wants_no_token() {
        let url = "http://h:9292/v2/images/1f3c9a2b-0000-4000-8000-000000000001";
        let reach = |line: &[&str], variables: &[(&str, &str)]| {
            let OrderCommand::Tasks(given) = order(line).unwrap() else { unreachable!("tasks") };
            let environment = Environment::new(variables.iter().copied(), 1000, 1000);
            connection(&given.login, &[&given.image], &environment)
        };
        let found = reach(&["tasks", url, "--os-auth-type=none"], &[]).unwrap();
        assert_eq!(found.auth.endpoints[0].as_str(), "http://h:9292/");
        let found = reach(&["tasks", url], &[("OS_AUTH_TYPE", "none")]).unwrap();
        assert_eq!(found.auth.endpoints[0].as_str(), "http://h:9292/");
        let error = reach(&["tasks", url], &[("OS_TOKEN", "t")]).unwrap_err().to_string();
        assert!(error.contains("--endpoint"), "a token goes to no address of an image: {error}");
        let found = reach(&["tasks", url, "--os-cloud=c"], &[("OS_AUTH_TYPE", "none")]).unwrap();
        assert!(found.auth.endpoints.is_empty());
    }
}
