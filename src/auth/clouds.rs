//! Which cloud: clouds.yaml and secure.yaml as every OpenStack client finds them, or the `OS_*` variables.
//!
//! `openstack_sdk_core` reads and merges the files. What it leaves out is done here: `OS_CLIENT_CONFIG_FILE` and
//! `OS_CLIENT_SECURE_FILE`, empty variables (openrc files set them), the old `OS_TENANT_*` names, the default
//! domain, and guessing the login method from what was given.

use std::path::{Path, PathBuf};

use openstack_sdk_core::config::{
    CloudConfig, ConfigFile, find_clouds_file, find_config_files_specified_in_env, find_secure_file,
    find_vendor_file,
};

use crate::error::{Error, Kind, Result};

/// Where the description of the cloud comes from; the paths are absolute, so a later change of folder does no harm.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    place: Place,
    /// `--os-auth-type`, which counts more than what the description says.
    auth_type: Option<String>,
}

#[derive(Debug, Clone)]
enum Place {
    /// The named cloud of these files; of two that say different things, the later one counts.
    Files { cloud: String, paths: Vec<PathBuf> },
    /// The `OS_*` variables, which do not change while the program runs.
    Environment,
}

impl Origin {
    /// Looks for the files, in the places and the order of python-openstackclient. Reads the disk: not for the runtime.
    ///
    /// # Errors
    /// `Config` when a file that a variable names does not exist, or no clouds.yaml is found.
    pub(super) fn find(cloud: Option<&str>, auth_type: Option<&str>) -> Result<Self> {
        let place = cloud.map_or(Ok(Place::Environment), Place::of)?;
        Ok(Self { place, auth_type: auth_type.map(str::to_owned) })
    }

    /// Reads the description anew. Reads the disk: not for the runtime.
    ///
    /// # Errors
    /// `Config` when a file is unreadable or has no such cloud; the message names those it has.
    pub(super) fn read(&self) -> Result<CloudConfig> {
        let mut config = match &self.place {
            Place::Environment => CloudConfig::from_env().map_err(|error| {
                Error::new(Kind::Config, "the OS_* variables cannot be read").with_source(error)
            })?,
            Place::Files { cloud, paths } => read_files(cloud, paths)?,
        };
        config.auth_type = self.auth_type.clone().or(config.auth_type);
        tidy(&mut config)?;
        Ok(config)
    }

    /// The name of the cloud in clouds.yaml.
    pub(super) fn cloud(&self) -> Option<&str> {
        match &self.place {
            Place::Environment => None,
            Place::Files { cloud, .. } => Some(cloud),
        }
    }

    /// For messages: what a person should look at.
    pub(super) fn describe(&self) -> String {
        match &self.place {
            Place::Environment => "OS_USERNAME, OS_PASSWORD and the other OS_* variables".to_owned(),
            Place::Files { cloud, paths } => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                format!("cloud {cloud:?} in {}", paths.join(" and "))
            }
        }
    }
}

#[cfg(test)]
impl Origin {
    /// A cloud of this file only.
    pub(super) fn of_file(cloud: &str, path: &Path) -> Self {
        Self { place: Place::Files { cloud: cloud.into(), paths: vec![path.into()] }, auth_type: None }
    }
}

impl Place {
    fn of(cloud: &str) -> Result<Self> {
        let mut paths: Vec<PathBuf> = find_config_files_specified_in_env().into_iter().collect();
        let listed = !paths.is_empty();
        paths.extend(find_vendor_file());
        let clouds = named_by("OS_CLIENT_CONFIG_FILE")?.or_else(find_clouds_file);
        if clouds.is_none() && !listed {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "there is no clouds.yaml that could describe the cloud {cloud:?}: put it into ., \
                     ~/.config/openstack or /etc/openstack, or name it in OS_CLIENT_CONFIG_FILE"
                ),
            ));
        }
        paths.extend(clouds);
        paths.extend(named_by("OS_CLIENT_SECURE_FILE")?.or_else(find_secure_file));
        let paths = paths
            .into_iter()
            .map(|path| {
                std::path::absolute(&path).map_err(|error| Error::io(path.display().to_string(), error))
            })
            .collect::<Result<_>>()?;
        Ok(Self::Files { cloud: cloud.to_owned(), paths })
    }
}

/// The file that the variable `name` names. Python's client falls back to the usual places when it does not exist;
/// that logs in to another cloud than the one asked for, so here it is an error.
fn named_by(name: &str) -> Result<Option<PathBuf>> {
    match std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from) {
        Some(path) if path.is_file() => Ok(Some(path)),
        Some(path) => {
            Err(Error::new(Kind::Config, format!("{name} names {}, which is no file", path.display())))
        }
        None => Ok(None),
    }
}

fn read_files(cloud: &str, paths: &[impl AsRef<Path>]) -> Result<CloudConfig> {
    let mut builder = ConfigFile::builder();
    for path in paths {
        let path = path.as_ref();
        // The error's own text quotes the line at fault, which may be the one with the password.
        builder = builder.add_source(path).map_err(|_| {
            Error::new(
                Kind::Config,
                format!("{} is not a readable clouds.yaml or secure.yaml", path.display()),
            )
        })?;
    }
    let unreadable = || Error::new(Kind::Config, "clouds.yaml and secure.yaml do not fit together");
    let file = builder.build().map_err(|_| unreadable())?;
    match file.get_cloud_config(cloud).map_err(|_| unreadable())? {
        Some(config) => Ok(config),
        None => {
            let mut known = file.get_available_clouds();
            known.sort();
            Err(Error::new(
                Kind::Config,
                format!("there is no cloud {cloud:?} in clouds.yaml; it has: {}", known.join(", ")),
            ))
        }
    }
}

/// Brings a description into the form that `login` expects.
fn tidy(config: &mut CloudConfig) -> Result<()> {
    let option = |name: &str| {
        let value = config.options.get(name)?.clone().into_string().ok()?;
        Some(value).filter(|value| !value.is_empty())
    };
    let (tenant_name, tenant_id) = (option("tenant_name"), option("tenant_id"));
    let default_domain = option("default_domain").or_else(|| option("default_domain_id"));
    let first_region = first_region(config);

    // The SDK's type has 30 fields; through JSON, "empty means not given" is said once for all of them.
    let auth = config.auth.take().unwrap_or_default();
    let failed = |error| Error::new(Kind::Config, "the description of the cloud").with_source(error);
    let mut fields = serde_json::to_value(auth).map_err(failed)?;
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|_, value| value.as_str().is_none_or(|text| !text.is_empty()));
    }
    let mut auth: openstack_sdk_core::config::Auth = serde_json::from_value(fields)
        .map_err(|_| Error::new(Kind::Config, "the description of the cloud"))?;

    auth.project_name = auth.project_name.or(tenant_name);
    auth.project_id = auth.project_id.or(tenant_id);
    // As python-openstackclient does: a name without a domain is one of the default domain.
    let default_domain = default_domain.unwrap_or_else(|| "default".to_owned());
    if auth.username.is_some() && auth.user_domain_id.is_none() && auth.user_domain_name.is_none() {
        auth.user_domain_id = Some(default_domain.clone());
    }
    if auth.project_name.is_some() && auth.project_domain_id.is_none() && auth.project_domain_name.is_none() {
        auth.project_domain_id = Some(default_domain);
    }

    let given = config.auth_type.take().filter(|text| !text.is_empty());
    let guessed = || {
        if auth.application_credential_secret.is_some() {
            "v3applicationcredential"
        } else if auth.token.is_some() && auth.password.is_none() {
            "v3token"
        } else {
            "v3password"
        }
    };
    let auth_type = match given.as_deref() {
        None => guessed().to_owned(),
        Some("application_credential" | "applicationcredential") => "v3applicationcredential".to_owned(),
        Some("password") => "v3password".to_owned(),
        Some("token") => "v3token".to_owned(),
        Some(other) => other.to_owned(),
    };
    if auth_type == "v3applicationcredential" {
        // Keystone refuses a scope here: the credential has its own.
        auth.project_id = None;
        auth.project_name = None;
        auth.domain_id = None;
        auth.domain_name = None;
        auth.system_scope = None;
    }
    config.auth_type = Some(auth_type);
    config.auth = Some(auth);
    config.region_name = config.region_name.take().filter(|text| !text.is_empty()).or(first_region);
    config.interface = config.interface.take().filter(|text| !text.is_empty());
    config.cacert = config.cacert.take().filter(|text| !text.is_empty());
    Ok(())
}

/// The first of clouds.yaml's `regions`, which are names or maps with a name.
fn first_region(config: &CloudConfig) -> Option<String> {
    let first = config.options.get("regions")?.clone().into_array().ok()?.into_iter().next()?;
    match first.clone().into_table() {
        Ok(mut table) => table.remove("name")?.into_string().ok(),
        Err(_) => first.into_string().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    const CLOUDS: &str = r#"
clouds:
  Upper.Case:
    region_name: RegionOne
    interface: internalURL
    image_endpoint_override: http://glance.example.org:9292/v2
    cacert: /etc/ssl/cloud.pem
    verify: false
    auth:
      auth_url: http://keystone.example.org:5000
      username: alice
      project_name: alpha
  credential:
    auth_type: v3applicationcredential
    regions: [first, second]
    auth:
      auth_url: http://keystone.example.org:5000
      application_credential_id: abc
      application_credential_secret: s3cr3t
      project_name: ignored
  other: {}
"#;
    const SECURE: &str = "clouds:\n  Upper.Case:\n    auth:\n      password: s3cr3t\n";

    fn origin(dir: &Path, cloud: &str, files: &[(&str, &str)]) -> Origin {
        let paths = files
            .iter()
            .map(|(name, text)| {
                let path = dir.join(name);
                std::fs::write(&path, text).unwrap();
                path
            })
            .collect();
        Origin { place: Place::Files { cloud: cloud.into(), paths }, auth_type: None }
    }

    #[test]
    fn the_secret_half_of_a_cloud_comes_from_secure_yaml() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("clouds.yaml", CLOUDS), ("secure.yaml", SECURE)];
        let config = origin(dir.path(), "Upper.Case", &files).read().unwrap();
        let auth = config.auth.clone().unwrap();
        assert_eq!(auth.password.unwrap().expose_secret(), "s3cr3t");
        assert_eq!(auth.username.as_deref(), Some("alice"));
        assert_eq!(auth.user_domain_id.as_deref(), Some("default"));
        assert_eq!(auth.project_domain_id.as_deref(), Some("default"));
        assert_eq!(config.auth_type.as_deref(), Some("v3password"));
        assert_eq!(config.region_name.as_deref(), Some("RegionOne"));
        assert_eq!(config.verify, Some(false));
        let endpoint = config.options["image_endpoint_override"].clone().into_string().unwrap();
        assert_eq!(endpoint, "http://glance.example.org:9292/v2");
        assert!(!format!("{config:?}").contains("s3cr3t"));
    }

    #[test]
    fn the_login_type_of_the_command_line_counts_most() {
        let dir = tempfile::tempdir().unwrap();
        let mut origin = origin(dir.path(), "credential", &[("clouds.yaml", CLOUDS)]);
        origin.auth_type = Some("password".to_owned());
        assert_eq!(origin.read().unwrap().auth_type.as_deref(), Some("v3password"));
    }

    #[test]
    fn an_application_credential_asks_for_no_scope() {
        let dir = tempfile::tempdir().unwrap();
        let config = origin(dir.path(), "credential", &[("clouds.yaml", CLOUDS)]).read().unwrap();
        let auth = config.auth.unwrap();
        assert_eq!(auth.project_name, None);
        assert_eq!(auth.application_credential_id.as_deref(), Some("abc"));
        assert_eq!(config.region_name.as_deref(), Some("first"));
    }

    #[test]
    fn an_unknown_cloud_is_answered_with_the_known_ones() {
        let dir = tempfile::tempdir().unwrap();
        let error = origin(dir.path(), "nowhere", &[("clouds.yaml", CLOUDS)]).read().unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("Upper.Case, credential, other"), "{error}");
    }

    #[test]
    fn a_broken_file_is_named_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let broken = "clouds:\n  x:\n    auth: {password: s3cr3t\n";
        let error = origin(dir.path(), "x", &[("clouds.yaml", broken)]).read().unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        let text = format!("{error} {error:?}");
        assert!(text.contains("clouds.yaml") && !text.contains("s3cr3t"), "{text}");
    }
}
