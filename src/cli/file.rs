//! The configuration file: what it may say, read and checked. Which of it counts is decided in [`force`].
//!
//! A key is the long name of an option of `glancefs mount`, with `_` or `-`. What stands before any section is for all mounts and
//! commands, `[cloud.NAME]` for those of the cloud NAME.

mod force;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) use force::{Given, InForce, variables_of};

use super::options;
use crate::config::{Environment, file};
use crate::error::{Error, Kind, Result};

/// One key of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The long name of the option.
    pub(super) name: String,
    /// Its values as on a command line; for a switch `true` or `false`.
    pub(super) values: Vec<String>,
    pub(super) place: Place,
}

/// Where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    file: Rc<Path>,
    line: usize,
    section: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)?;
        match &self.section {
            Some(cloud) => write!(f, " [cloud.{cloud}]"),
            None => Ok(()),
        }
    }
}

/// A file as it was read.
#[derive(Debug, Default)]
struct Document {
    common: Vec<Setting>,
    clouds: BTreeMap<String, Vec<Setting>>,
}

/// All files, the strongest last.
#[derive(Debug, Default)]
pub(super) struct Files {
    documents: Vec<Document>,
    /// Where files were looked for, and whether there was one.
    pub(super) looked_for: Vec<(PathBuf, bool)>,
}

impl Files {
    /// Reads those of this user.
    ///
    /// # Errors
    /// `Config`, naming file and line.
    pub(super) fn read(environment: &Environment) -> Result<Self> {
        let mut files = Self::default();
        for path in file::places(environment) {
            let text = file::read(&path, environment)?;
            files.looked_for.push((path.clone(), text.is_some()));
            files.documents.extend(text.map(|text| document(&path, &text)).transpose()?);
        }
        Ok(files)
    }
}

#[cfg(test)]
impl Files {
    /// Files with these paths and texts, the strongest last.
    pub(super) fn of_texts(texts: &[(&str, &str)]) -> Self {
        let documents = texts.iter().map(|(path, text)| document(Path::new(path), text).unwrap());
        Self { documents: documents.collect(), looked_for: Vec::new() }
    }
}

/// Reads and checks the text of one file.
fn document(path: &Path, text: &str) -> Result<Document> {
    let reader = Reader { path: path.into(), text, definition: options::definition() };
    let table = DeTable::parse(text).map_err(|error| {
        reader.wrong(error.span().unwrap_or_default(), format!("no TOML: {}", error.message()))
    })?;
    let mut document = Document::default();
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("cloud", DeValue::Table(clouds)) => {
                for (name, section) in clouds {
                    let DeValue::Table(keys) = section.get_ref() else {
                        return Err(reader
                            .wrong(name.span(), format!("write the section [cloud.{}]", name.get_ref())));
                    };
                    let settings = reader.settings(keys, Some(name.get_ref()))?;
                    document.clouds.insert(name.get_ref().to_string(), settings);
                }
            }
            (name, DeValue::Table(_)) => {
                let cure = "sections are those of clouds: [cloud.NAME]";
                return Err(reader.wrong(key.span(), format!("unknown section {name:?}: {cure}")));
            }
            _ => document.common.push(reader.setting(key, value, None)?),
        }
    }
    Ok(document)
}

struct Reader<'a> {
    path: Rc<Path>,
    text: &'a str,
    definition: Command,
}

impl Reader<'_> {
    fn settings(&self, keys: &DeTable<'_>, section: Option<&str>) -> Result<Vec<Setting>> {
        keys.iter().map(|(key, value)| self.setting(key, value, section)).collect()
    }

    fn setting(
        &self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        section: Option<&str>,
    ) -> Result<Setting> {
        let Some((name, option)) = options::find(&self.definition, key.get_ref()) else {
            let known = options::of(&self.definition).map(|(name, _)| name);
            let advice = options::advice(key.get_ref(), known);
            return Err(self.wrong(key.span(), format!("unknown key {:?}{advice}", key.get_ref())));
        };
        let values = values(option, value.get_ref())
            .and_then(|values| check(name, option, &values).map(|()| values))
            .map_err(|why| self.wrong(value.span(), format!("{}: {why}", key.get_ref())))?;
        let section = section.map(str::to_owned);
        let place = Place { file: Rc::clone(&self.path), line: self.line(key.span()), section };
        Ok(Setting { name: name.to_owned(), values, place })
    }

    fn line(&self, at: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..at.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn wrong(&self, at: Range<usize>, what: String) -> Error {
        Error::new(Kind::Config, format!("{}:{}: {what}", self.path.display(), self.line(at)))
    }
}

/// A value of TOML as the words of a command line.
fn values(option: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let takes_value = option.get_action().takes_values();
    match value {
        DeValue::Boolean(on) if !takes_value => Ok(vec![on.to_string()]),
        _ if !takes_value => Err("write true or false".to_owned()),
        DeValue::Array(several) if is_list(option) => {
            let words = several.iter().map(|value| word(value.get_ref())).collect::<Result<Vec<_>, _>>()?;
            // What adds up is given several times, else it is one value with commas.
            Ok(if matches!(option.get_action(), ArgAction::Append) { words } else { vec![words.join(",")] })
        }
        DeValue::Array(_) => Err("this takes one value".to_owned()),
        one => Ok(vec![word(one)?]),
    }
}

/// Options of one value that take several words with commas, beside those that can be repeated.
fn is_list(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
        || matches!(option.get_id().as_str(), "visibility" | "prefer_store")
}

fn word(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        // Permission bits.
        DeValue::Integer(number) if number.radix() == 8 => {
            Ok(format!("0o{}", number.as_str().trim_start_matches("0o")))
        }
        _ => Err("write a text in quotes, or a number".to_owned()),
    }
}

/// Whether the option takes these values, by the rules of the command line.
fn check(name: &str, option: &Arg, values: &[String]) -> Result<(), String> {
    if !option.get_action().takes_values() {
        return Ok(());
    }
    let alone = Command::new("file").no_binary_name(true).arg(option.clone());
    let line = values.iter().map(|value| format!("--{name}={value}"));
    alone.try_get_matches_from(line).map(drop).map_err(|error| options::in_one_line(&error))
}

#[cfg(test)]
mod tests;
