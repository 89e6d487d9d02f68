//! What is in force: an option goes before its variable, a variable before the user's file, that before the machine's, and
//! within a file the section of the cloud before what is for all.
//!
//! Who logs in where is one decision ([`LOGIN`]): what a file says for all of it counts only where neither command line nor
//! variables decide it, or else the token of one cloud could go to the endpoint of another.

use std::collections::{BTreeMap, BTreeSet};

use super::{Files, Setting};
use crate::config::Environment;
use crate::error::Result;

/// The options that say together who logs in where.
const LOGIN: &[&str] =
    &["os-cloud", "os-auth-type", "token-command", "endpoint", "os-region-name", "os-interface"];

/// The variables that decide it, besides `OS_CLOUD`.
const LOGIN_VARIABLES: &[&str] = &["OS_AUTH_TYPE", "OS_AUTH_URL", "OS_TOKEN"];

/// The variables of an option.
const VARIABLES: &[(&str, &[&str])] = &[
    ("os-cloud", &["OS_CLOUD"]),
    ("endpoint", &["OS_ENDPOINT"]),
    ("os-auth-type", &["OS_AUTH_TYPE"]),
    ("os-region-name", &["OS_REGION_NAME"]),
    ("os-interface", &["OS_INTERFACE", "OS_ENDPOINT_TYPE"]),
    ("os-cacert", &["OS_CACERT"]),
    ("os-cert", &["OS_CERT"]),
    ("os-key", &["OS_KEY"]),
    ("insecure", &["OS_INSECURE"]),
];

/// An option that is given keeps these of a file from counting: they would contradict it, or belong to another value of it.
const KEPT_OUT_BY: &[(&str, &[&str])] = &[
    ("read-only", &["allow-delete", "allow-overwrite"]),
    ("allow-delete", &["read-only"]),
    ("allow-overwrite", &["read-only"]),
    ("verify", &["trusted-certs"]),
    ("direct", &["direct-root"]),
    ("os-cert", &["os-key"]),
];

/// The variable that gives the option its value.
pub(in crate::cli) fn variables_of(option: &str) -> &'static [&'static str] {
    VARIABLES.iter().find(|(name, _)| *name == option).map_or(&[], |(_, variables)| variables)
}

/// What the command line says.
#[derive(Debug, Default)]
pub(in crate::cli) struct Given {
    /// The long names of the options on it.
    pub(in crate::cli) options: BTreeSet<String>,
    /// The value of `--os-cloud`.
    pub(in crate::cli) os_cloud: Option<String>,
    /// The cloud in front of the mount point.
    pub(in crate::cli) source_cloud: Option<String>,
    /// The address of a Glance in front of the mount point.
    pub(in crate::cli) source_is_endpoint: bool,
    /// One image in front of the mount point.
    pub(in crate::cli) source_is_image: bool,
}

impl Given {
    /// Which is refused later on.
    fn names_two_clouds(&self) -> bool {
        self.source_cloud.is_some() && self.os_cloud.is_some() && self.source_cloud != self.os_cloud
    }
}

/// What of the files counts.
#[derive(Debug, Default)]
pub(in crate::cli) struct InForce {
    pub(in crate::cli) settings: BTreeMap<String, Setting>,
    /// The cloud that was named is one of the file, whose section says how to log in.
    pub(in crate::cli) own_cloud: Option<String>,
}

/// Who named the cloud.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    CommandLine,
    Environment,
    File,
}

impl Files {
    /// What of them counts beside this command line and these variables.
    ///
    /// # Errors
    /// `Config` for a variable that is not text.
    pub(in crate::cli) fn in_force(&self, given: &Given, environment: &Environment) -> Result<InForce> {
        let common = |name: &str| {
            let mut all = self.documents.iter().flat_map(|document| &document.common);
            all.rfind(|setting| setting.name == name).and_then(|setting| setting.values.last().cloned())
        };
        let from_line = given.source_cloud.clone().or_else(|| given.os_cloud.clone());
        let decided_by_line =
            ["os-auth-type", "token-command"].iter().any(|name| given.options.contains(*name));
        let (named, by) = match (from_line, environment.text("OS_CLOUD")?) {
            (Some(cloud), _) => (Some(cloud), By::CommandLine),
            (None, Some(cloud)) => (Some(cloud), By::Environment),
            (None, None) if decided_by_line => (None, By::CommandLine),
            (None, None) if LOGIN_VARIABLES.iter().any(|name| environment.has(name)) => {
                (None, By::Environment)
            }
            (None, None) => (common("os-cloud"), By::File),
        };
        let mut in_force = InForce::default();
        for document in &self.documents {
            let section = named.as_ref().and_then(|cloud| document.clouds.get(cloud));
            let of_section = section.into_iter().flatten().map(|setting| (setting, true));
            for (setting, is_of_section) in
                document.common.iter().map(|setting| (setting, false)).chain(of_section)
            {
                let is_login = LOGIN.contains(&setting.name.as_str());
                // Whoever names a cloud on the command line means all that its section says of the login.
                let before_variables = is_login && is_of_section && by == By::CommandLine;
                let has_variable = variables_of(&setting.name).iter().any(|name| environment.has(name));
                // The name of a section stands for the cloud that the section names.
                let replaces = is_of_section && setting.name == "os-cloud" && !given.names_two_clouds();
                let decided_elsewhere = is_login && !is_of_section && by != By::File;
                let overruled = given.options.contains(&setting.name)
                    || (has_variable && !before_variables)
                    || decided_elsewhere;
                if replaces || !overruled {
                    in_force.settings.insert(setting.name.clone(), setting.clone());
                }
            }
        }
        let can_be_replaced = by == By::CommandLine && !given.names_two_clouds();
        in_force.take_the_cloud_of_the_file(named.filter(|_| can_be_replaced));
        in_force.leave_out_what_contradicts(given, environment);
        Ok(in_force)
    }
}

impl InForce {
    /// A section that says by itself how to log in stands in for a cloud of clouds.yaml, or names another one of it.
    fn take_the_cloud_of_the_file(&mut self, named: Option<String>) {
        let of_section = |setting: &&Setting| setting.place.section.is_some();
        let value =
            |name: &str| self.settings.get(name).filter(of_section).and_then(|found| found.values.last());
        let needs_no_clouds_yaml = value("token-command").is_some()
            || value("os-auth-type")
                .is_some_and(|auth_type| matches!(auth_type.as_str(), "none" | "admin_token"));
        let other_name = value("os-cloud").is_some();
        if !needs_no_clouds_yaml && !other_name {
            return;
        }
        if !other_name {
            self.settings.remove("os-cloud");
        }
        self.own_cloud = named;
    }

    fn leave_out_what_contradicts(&mut self, given: &Given, environment: &Environment) {
        for (option, others) in KEPT_OUT_BY {
            let by_variable = variables_of(option).iter().any(|name| environment.has(name));
            if given.options.contains(*option) || by_variable {
                others.iter().for_each(|other| drop(self.settings.remove(*other)));
            }
        }
        if given.source_is_endpoint {
            self.settings.remove("endpoint");
        }
        if given.source_is_image {
            self.settings.remove("allow-overwrite");
        }
    }
}
