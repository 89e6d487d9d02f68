//! From the command line to its arguments, with what configuration files add to it.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command as Definition, CommandFactory, FromArgMatches};

use super::args::{Arguments, Command, LoginArguments, places};
use super::doctor;
use super::file::{Files, Given, InForce};
use super::options;
use crate::config::Environment;
use crate::error::Error;
use crate::reference::MountSource;

/// Why there are no arguments.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The command line; or help was asked for.
    Line(Box<clap::Error>),
    /// A configuration file.
    File(Error),
}

impl From<clap::Error> for Unreadable {
    fn from(error: clap::Error) -> Self {
        Self::Line(Box::new(error))
    }
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

/// The arguments of `line`, the program's name included.
///
/// # Errors
/// What cannot be read, of the line or of a file.
pub(super) fn arguments(line: &[OsString], environment: &Environment) -> Result<Arguments, Unreadable> {
    let (line, turned_off) = without_switches(line);
    let matches = Arguments::command().try_get_matches_from(&line)?;
    let Some((name, given)) = matches.subcommand() else { return Ok(Arguments::from_arg_matches(&matches)?) };
    // It looks at the line and the files itself, to tell them apart.
    if name == "config" {
        return Ok(Arguments::from_arg_matches(&matches)?);
    }
    let Some(takes) = takes(name, given) else { return Ok(Arguments::from_arg_matches(&matches)?) };
    let said = said(given, turned_off);
    let in_force = Files::read(environment)?.in_force(&said, environment)?;
    let (before, at_the_end) = words(&in_force, &takes, said.os_cloud.is_some());
    let (start, rest) = line.split_at(line.len().min(2));
    // Behind a `--` there are no options.
    let end = rest.iter().position(|word| word == "--").unwrap_or(rest.len());
    let (options, places) = rest.split_at(end);
    let whole = [start, &before, options, &at_the_end, places].concat();
    let mut arguments = Arguments::try_parse_from(whole)?;
    match &mut arguments.command {
        Command::Mount(mount) => mount.own_cloud = in_force.own_cloud,
        Command::Doctor(doctor) => doctor.own_cloud = in_force.own_cloud,
        _ => {}
    }
    Ok(arguments)
}

impl Arguments {
    fn try_parse_from(line: Vec<OsString>) -> Result<Self, clap::Error> {
        <Self as clap::Parser>::try_parse_from(line)
    }
}

/// What a command takes from files: a mount all options, others how to log in and where uploads wait.
#[derive(Debug)]
pub(super) struct Takes {
    names: Vec<String>,
}

fn takes(command: &str, given: &ArgMatches) -> Option<Takes> {
    let definition = Arguments::command();
    let definition = definition.find_subcommand(command)?;
    let has = |id: &str| definition.get_arguments().any(|option| option.get_id() == id);
    let every = options::definition();
    let mut names: Vec<String> = match command {
        _ if has("cache_size") => options::of(&every).map(|(name, _)| name.to_owned()).collect(),
        // Its own commands work through a mount.
        "uploads" if given.subcommand().is_none() => ["cache-dir", "spool-dir"].map(str::to_owned).into(),
        _ if has("os_auth_type") => {
            let login = LoginArguments::augment_args(Definition::new("login"));
            options::of(&login).map(|(name, _)| name.to_owned()).collect()
        }
        _ => return None,
    };
    names.retain(|name| has(&name.replace('-', "_")));
    Some(Takes { names })
}

/// What the command line says that bears on the files.
pub(super) fn said(given: &ArgMatches, turned_off: Vec<String>) -> Given {
    let by_hand = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let options = given.ids().map(clap::Id::as_str).filter(|id| by_hand(id)).map(|id| id.replace('_', "-"));
    let text = |id: &str| given.try_get_one::<String>(id).ok().flatten().cloned();
    let mut said = Given {
        options: options.chain(turned_off).collect(),
        os_cloud: text("os_cloud").filter(|cloud| !cloud.is_empty()),
        ..Given::default()
    };
    let of_config =
        given.try_get_many::<OsString>("source").ok().flatten().and_then(|mut source| source.next());
    let of_config = of_config.and_then(|source| source.to_str()).map(str::to_owned);
    let source = places::source(given).or(of_config).or_else(|| doctor::source(given));
    match source.map(|source| source.parse()) {
        Some(Ok(MountSource::Cloud(cloud))) => said.source_cloud = Some(cloud),
        Some(Ok(MountSource::Endpoint(_))) => said.source_is_endpoint = true,
        Some(Ok(MountSource::Image { cloud, .. })) => {
            said.source_cloud = cloud;
            said.source_is_image = true;
        }
        // What cannot be read is told later.
        Some(Err(_)) | None => {}
    }
    said
}

/// The words that the files add, in front of the command line and behind it.
fn words(in_force: &InForce, takes: &Takes, has_os_cloud: bool) -> (Vec<OsString>, Vec<OsString>) {
    let taken = in_force.settings.values().filter(|setting| takes.names.contains(&setting.name));
    let mut before = Vec::new();
    for setting in taken {
        for value in &setting.values {
            match value.as_str() {
                "true" if is_switch(&setting.name) => before.push(format!("--{}", setting.name).into()),
                "false" if is_switch(&setting.name) => {}
                value => before.push(format!("--{}={value}", setting.name).into()),
            }
        }
    }
    let mut behind = Vec::new();
    if in_force.own_cloud.is_some() && has_os_cloud {
        let other = in_force.settings.get("os-cloud").and_then(|setting| setting.values.last());
        behind.push(format!("--os-cloud={}", other.map_or("", String::as_str)).into());
    }
    (before, behind)
}

fn is_switch(name: &str) -> bool {
    let definition = options::definition();
    options::find(&definition, name).is_some_and(|(_, option)| !option.get_action().takes_values())
}

/// The line with `--SWITCH=true` as `--SWITCH`, and without what `--SWITCH=false` turns off; and the names of the latter.
pub(super) fn without_switches(line: &[OsString]) -> (Vec<OsString>, Vec<String>) {
    let definition = options::definition();
    let switches: Vec<&str> = options::of(&definition)
        .filter(|(_, option)| !option.get_action().takes_values())
        .map(|(name, _)| name)
        .collect();
    let mut kept: Vec<OsString> = Vec::with_capacity(line.len());
    let mut turned_off = Vec::new();
    let mut words = line.iter();
    for word in words.by_ref() {
        if word == "--" {
            kept.push(word.clone());
            break;
        }
        let text = word.to_str().and_then(|text| text.strip_prefix("--")).unwrap_or_default();
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        match (switches.contains(&name), value) {
            (true, "true") => {
                turned_off.retain(|off| off != name);
                kept.push(format!("--{name}").into());
            }
            (true, "false") => {
                let switch = format!("--{name}");
                kept.retain(|word| *word != *switch);
                turned_off.push(name.to_owned());
            }
            _ => kept.push(word.clone()),
        }
    }
    kept.extend(words.cloned());
    (kept, turned_off)
}

#[cfg(test)]
mod tests;
