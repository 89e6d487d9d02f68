//! What a process inherits: environment variables and its user.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};

type Lookup = Box<dyn Fn(&str) -> Option<OsString>>;

/// The environment variables and the user of a process, so that rules about them can be tested.
///
/// A variable that is set but empty counts as unset: openrc files and unit files leave such ones
/// behind (`export OS_REGION_NAME=""`).
pub struct Environment {
    lookup: Lookup,
    uid: u32,
    gid: u32,
}

impl Environment {
    /// That of this process. Without `HOME`, which mount(8) takes away from users, their folder is what the system says.
    pub fn of_process() -> Self {
        let home = |name: &str| (name == "HOME").then(std::env::home_dir).flatten().map(OsString::from);
        Self {
            lookup: Box::new(move |name| std::env::var_os(name).or_else(|| home(name))),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// These variables, as seen by user `uid` of group `gid`.
    pub fn new<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>, uid: u32, gid: u32) -> Self {
        let variables: std::collections::HashMap<String, OsString> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        Self { lookup: Box::new(move |name| variables.get(name).cloned()), uid, gid }
    }

    /// The variable as text, unless it is unset or empty.
    ///
    /// # Errors
    /// `Config` when it is not UTF-8. The value is not told: it may be a secret.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = (self.lookup)(name).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let not_text = |_| Error::new(Kind::Config, format!("{name} is not UTF-8: set it again or unset it"));
        value.into_string().map(Some).map_err(not_text)
    }

    /// The variable as a path, unless it is unset or empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        (self.lookup)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The variable is set and not empty.
    pub fn has(&self, name: &str) -> bool {
        (self.lookup)(name).is_some_and(|value| !value.is_empty())
    }

    /// The variable as a switch: 1, true, yes, on, or 0, false, no, off; unset means no.
    ///
    /// # Errors
    /// `Config` for any other word: a misread `OS_INSECURE` would be a hole.
    pub fn switch(&self, name: &str) -> Result<bool> {
        let Some(value) = self.text(name)? else { return Ok(false) };
        match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
            "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
            _ => Err(Error::new(Kind::Config, format!("{name} is {value:?}: set it to true or false"))),
        }
    }

    /// The effective user id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The effective group id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The user is root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let environment = Environment::new([("OS_CLOUD", ""), ("OS_REGION_NAME", "north")], 0, 0);
        assert_eq!(environment.text("OS_CLOUD").unwrap(), None);
        assert!(!environment.has("OS_CLOUD"));
        assert_eq!(environment.path("OS_CLOUD"), None);
        assert_eq!(environment.text("OS_REGION_NAME").unwrap().as_deref(), Some("north"));
    }

    #[test]
    fn a_switch_takes_the_usual_words_and_refuses_others() {
        for (value, meaning) in
            [("1", true), ("Yes", true), ("TRUE", true), ("0", false), ("no", false), ("", false)]
        {
            assert_eq!(Environment::new([("S", value)], 0, 0).switch("S").unwrap(), meaning, "{value}");
        }
        let error = Environment::new([("OS_INSECURE", "ture")], 0, 0).switch("OS_INSECURE").unwrap_err();
        assert_eq!(error.to_string(), "OS_INSECURE is \"ture\": set it to true or false");
    }
}
