//! `glancefs config`: what is in force for a mount with these options, and where each value comes from.

use std::fmt::Write;
use std::io::Write as _;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};

use super::args::ConfigArguments;
use super::file::{Files, InForce, variables_of};
use super::{options, settings};
use crate::config::{Environment, memory, paths};
use crate::error::{Error, Result};
use crate::units::ByteSize;

/// Variables that bear on a mount and are no options; the values of most are secrets.
const OTHER_VARIABLES: &[&str] = &[
    "OS_AUTH_URL",
    "OS_USERNAME",
    "OS_USER_ID",
    "OS_PASSWORD",
    "OS_TOKEN",
    "OS_APPLICATION_CREDENTIAL_ID",
    "OS_APPLICATION_CREDENTIAL_NAME",
    "OS_APPLICATION_CREDENTIAL_SECRET",
    "OS_PROJECT_NAME",
    "OS_PROJECT_ID",
    "OS_CLIENT_CONFIG_FILE",
    "GLANCEFS_LOG",
    "GLANCEFS_CONFIG",
];

/// A command for tokens may have a password among its words.
const SECRET: &[&str] = &["token-command"];

pub(super) fn run(
    arguments: &ConfigArguments,
    turned_off: Vec<String>,
    environment: &Environment,
) -> Result<()> {
    let files = Files::read(environment)?;
    let said = settings::said(&arguments.matches, turned_off);
    let in_force = files.in_force(&said, environment)?;
    let shown = Shown { given: &arguments.matches, said: &said, in_force: &in_force, environment };
    let mut text = String::new();
    for (path, there) in &files.looked_for {
        let _ = writeln!(text, "# {}: {}", path.display(), if *there { "read" } else { "not there" });
    }
    let set: Vec<&str> = OTHER_VARIABLES.iter().copied().filter(|name| environment.has(name)).collect();
    if !set.is_empty() {
        let _ = writeln!(text, "# variables that are set, too: {}", set.join(", "));
    }
    text.push_str(&shown.options()?);
    // A closed pipe (`| head`) is the reader's wish.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("writing the settings", error))
        }
        _ => Ok(()),
    }
}

struct Shown<'a> {
    given: &'a ArgMatches,
    said: &'a super::file::Given,
    in_force: &'a InForce,
    environment: &'a Environment,
}

impl Shown<'_> {
    fn options(&self) -> Result<String> {
        let definition = options::definition();
        let mut text = String::new();
        let mut heading = None;
        for (name, option) in options::of(&definition) {
            if heading != option.get_help_heading() {
                heading = option.get_help_heading();
                let _ = writeln!(text, "\n# {}", heading.unwrap_or("Other"));
            }
            let (values, origin) = self.value(name, option)?;
            let key = name.replace('-', "_");
            let line = match values {
                None => format!("# {key} ="),
                Some(_) if SECRET.contains(&name) => format!("# {key} = (not shown)"),
                Some(values) => format!("{key} = {}", toml(option, &values)),
            };
            let _ = writeln!(text, "{line:<44}  # {origin}");
        }
        Ok(text)
    }

    /// The words of an option, and who gave them.
    fn value(&self, name: &str, option: &Arg) -> Result<(Option<Vec<String>>, String)> {
        let id = option.get_id().as_str();
        let raw = || {
            let words = self.given.get_raw(id).into_iter().flatten();
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        if self.given.value_source(id) == Some(ValueSource::CommandLine) {
            return Ok((Some(raw()), format!("option --{name}")));
        }
        if self.said.options.contains(name) {
            return Ok((Some(vec!["false".to_owned()]), format!("option --{name}=false")));
        }
        // What is in force of a file is so whatever the variables say.
        if let Some(setting) = self.in_force.settings.get(name) {
            return Ok((Some(setting.values.clone()), setting.place.to_string()));
        }
        for variable in variables_of(name) {
            if let Some(value) = self.environment.text(variable)? {
                let is_list = name == "endpoint";
                let words = if is_list {
                    value.split(',').map(str::trim).map(str::to_owned).collect()
                } else {
                    vec![value]
                };
                return Ok((Some(words), format!("variable {variable}")));
            }
        }
        let usual = Some(raw()).filter(|words| !words.is_empty()).or_else(|| self.computed(name));
        let origin = if usual.is_some() { "default" } else { "not set" };
        Ok((usual, origin.to_owned()))
    }

    /// Defaults that depend on the user and the machine.
    fn computed(&self, name: &str) -> Option<Vec<String>> {
        let one = |text: String| Some(vec![text]);
        match name {
            "cache-dir" => one(paths::default_cache_dir(self.environment)?.display().to_string()),
            "memory-limit" => one(ByteSize(memory::default_limit()).to_string()),
            "uid" => one(self.environment.uid().to_string()),
            "gid" => one(self.environment.gid().to_string()),
            _ => None,
        }
    }
}

/// Words as a value of TOML: a switch bare, what adds up as a list.
fn toml(option: &Arg, words: &[String]) -> String {
    // The strings of JSON are strings of TOML.
    let quoted = |word: &String| match word.parse::<u64>() {
        // `0644` is no number of TOML.
        Ok(number) if number.to_string() == *word => word.clone(),
        _ => serde_json::Value::from(without_password(word)).to_string(),
    };
    match (option.get_action(), words) {
        (clap::ArgAction::Append, words) => {
            format!("[{}]", words.iter().map(quoted).collect::<Vec<_>>().join(", "))
        }
        (action, _) if !action.takes_values() => {
            // A variable may say it in other words.
            let on = words.last().is_some_and(|word| {
                matches!(word.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "t" | "y" | "on")
            });
            on.to_string()
        }
        (_, words) => words.last().map(quoted).unwrap_or_default(),
    }
}

/// An address with a user name is refused by a mount; its password is not shown here either.
fn without_password(word: &str) -> String {
    if word.contains("://") && word.contains('@') {
        "(an address with a user name)".to_owned()
    } else {
        word.to_owned()
    }
}
