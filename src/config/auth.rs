//! Which way to a token: the rules that choose an [`AuthMethod`] from options and `OS_*` variables.
//!
//! The command line goes before the environment, and within each an explicit type goes before what
//! can be guessed:
//!
//! | what is given | method |
//! | --- | --- |
//! | `--os-auth-type T` | as `T` says, in the cloud of `--os-cloud` or `OS_CLOUD` where there is one |
//! | `--token-command CMD` | [`AuthMethod::TokenCommand`] |
//! | `--os-cloud NAME` | [`AuthMethod::Keystone`] of clouds.yaml |
//! | `OS_AUTH_TYPE` | as it says, in the cloud of `OS_CLOUD` where there is one |
//! | `OS_CLOUD` | [`AuthMethod::Keystone`] of clouds.yaml |
//! | `OS_AUTH_URL` | [`AuthMethod::Keystone`] of the `OS_*` variables |
//! | `OS_TOKEN` with an endpoint | [`AuthMethod::AdminToken`], as python-openstackclient does |
//!
//! What Keystone itself must judge (user, project, domain) is left to it; only what is plainly
//! missing is told here, before anything is mounted.

use secrecy::SecretString;

use super::{AuthMethod, Environment};
use crate::error::{Error, Kind, Result};

/// The options of the command line that bear on the choice.
#[derive(Debug, Default, Clone)]
pub struct AuthOptions {
    /// `--os-cloud`.
    pub cloud: Option<String>,
    /// `--os-auth-type`.
    pub auth_type: Option<String>,
    /// `--token-command`.
    pub token_command: Option<String>,
    /// An endpoint is known, from `--endpoint` or `OS_ENDPOINT`.
    pub has_endpoint: bool,
}

/// The types that `--os-auth-type` and `OS_AUTH_TYPE` may name.
const AUTH_TYPES: &str = "none, admin_token, password, v3password, token, v3token or v3applicationcredential";

/// Chooses the way to a token.
///
/// # Errors
/// `Config`, with what is missing and how to give it. No message holds a token or a password.
pub fn choose(options: &AuthOptions, environment: &Environment) -> Result<AuthMethod> {
    let rules = Rules { options, environment };
    if options.token_command.is_some() && (options.auth_type.is_some() || options.cloud.is_some()) {
        return wrong("--token-command excludes --os-cloud and --os-auth-type: leave out one of them");
    }
    if let Some(auth_type) = &options.auth_type {
        return rules.by_type(auth_type, "--os-auth-type");
    }
    if let Some(command) = &options.token_command {
        rules.need_endpoint("--token-command")?;
        return Ok(AuthMethod::TokenCommand(command.clone()));
    }
    if let Some(cloud) = &options.cloud {
        return Ok(AuthMethod::Keystone { cloud: Some(cloud.clone()) });
    }
    if let Some(auth_type) = environment.text("OS_AUTH_TYPE")? {
        return rules.by_type(&auth_type, "OS_AUTH_TYPE");
    }
    if let Some(cloud) = environment.text("OS_CLOUD")? {
        return Ok(AuthMethod::Keystone { cloud: Some(cloud) });
    }
    if environment.has("OS_AUTH_URL") {
        return rules.keystone_of_variables(None);
    }
    if environment.has("OS_TOKEN") {
        return rules.admin_token("OS_TOKEN without OS_AUTH_URL");
    }
    rules.nothing_given()
}

struct Rules<'a> {
    options: &'a AuthOptions,
    environment: &'a Environment,
}

impl Rules<'_> {
    /// The method that `auth_type` names; `origin` is the option or variable that gave it.
    fn by_type(&self, auth_type: &str, origin: &str) -> Result<AuthMethod> {
        let needs_no_cloud = || match self.options.cloud {
            Some(_) => wrong(format!("{origin}={auth_type} does not use clouds.yaml: leave out --os-cloud")),
            None => Ok(()),
        };
        match auth_type {
            "none" => {
                needs_no_cloud()?;
                self.need_endpoint(&format!("{origin}=none"))?;
                Ok(AuthMethod::None)
            }
            "admin_token" => {
                needs_no_cloud()?;
                self.admin_token(&format!("{origin}=admin_token"))
            }
            "password" | "v3password" | "token" | "v3token" | "v3applicationcredential" => {
                let cloud = self.options.cloud.clone();
                match cloud.map_or_else(|| self.environment.text("OS_CLOUD"), |cloud| Ok(Some(cloud)))? {
                    Some(cloud) => Ok(AuthMethod::Keystone { cloud: Some(cloud) }),
                    None => self.keystone_of_variables(Some(auth_type)),
                }
            }
            _ => wrong(format!("{origin} {auth_type:?} is not known: use {AUTH_TYPES}")),
        }
    }

    fn admin_token(&self, asked_by: &str) -> Result<AuthMethod> {
        self.need_endpoint(asked_by)?;
        match self.environment.text("OS_TOKEN")? {
            Some(token) => Ok(AuthMethod::AdminToken(SecretString::from(token))),
            None => wrong(format!(
                "{asked_by} needs a token: set OS_TOKEN (never on the command line, which ps shows)"
            )),
        }
    }

    /// Keystone as `OS_*` variables describe it. `auth_type` is known, or guessed by Keystone's client.
    fn keystone_of_variables(&self, auth_type: Option<&str>) -> Result<AuthMethod> {
        let missing = |what: &str| wrong(format!("{what}, or name a cloud of clouds.yaml with --os-cloud"));
        if !self.environment.has("OS_AUTH_URL") {
            return missing("OS_AUTH_URL is not set: set it to the address of Keystone");
        }
        let has = |name| self.environment.has(name);
        let has_password = has("OS_PASSWORD") && (has("OS_USERNAME") || has("OS_USER_ID"));
        let has_application_credential = has("OS_APPLICATION_CREDENTIAL_SECRET")
            && (has("OS_APPLICATION_CREDENTIAL_ID") || has("OS_APPLICATION_CREDENTIAL_NAME"));
        let has_token = has("OS_TOKEN");
        let (complete, needed) = match auth_type {
            Some("password" | "v3password") => (has_password, "OS_USERNAME and OS_PASSWORD"),
            Some("token" | "v3token") => (has_token, "OS_TOKEN"),
            Some(_) => (
                has_application_credential,
                "OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET",
            ),
            None => (
                has_password || has_application_credential || has_token,
                "OS_USERNAME and OS_PASSWORD, or an application credential, or OS_TOKEN",
            ),
        };
        if !complete {
            return missing(&format!("OS_AUTH_URL is set but no credentials: set {needed}"));
        }
        Ok(AuthMethod::Keystone { cloud: None })
    }

    /// Without Keystone there is no catalogue to find Glance in.
    fn need_endpoint(&self, asked_by: &str) -> Result<()> {
        if self.options.has_endpoint {
            return Ok(());
        }
        wrong(format!(
            "{asked_by} needs the address of Glance: give --endpoint or OS_ENDPOINT, \
             for example --endpoint http://glance.example.org:9292"
        ))
    }

    fn nothing_given(&self) -> Result<AuthMethod> {
        if self.options.has_endpoint {
            return wrong(
                "an endpoint is given, but no way to log in: set OS_AUTH_TYPE=none if that Glance wants no token, \
                 OS_TOKEN if you have one, or name a cloud of clouds.yaml with --os-cloud",
            );
        }
        wrong(
            "no cloud is given: choose one of these ways\n  \
             clouds.yaml             glancefs mount --os-cloud NAME MOUNTPOINT   (or OS_CLOUD=NAME)\n  \
             openrc (OS_* variables) . ./openrc.sh; glancefs mount MOUNTPOINT\n  \
             a command for tokens    glancefs mount --token-command CMD --endpoint URL MOUNTPOINT\n  \
             a fixed token           OS_TOKEN=... glancefs mount --endpoint URL MOUNTPOINT\n  \
             no Keystone at all      glancefs mount --os-auth-type none --endpoint URL MOUNTPOINT",
        )
    }
}

fn wrong<T>(message: impl Into<std::borrow::Cow<'static, str>>) -> Result<T> {
    Err(Error::new(Kind::Config, message))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    /// The method in words, so that a table of cases reads as one.
    fn told(options: &AuthOptions, variables: &[(&str, &str)]) -> String {
        match choose(options, &Environment::new(variables.iter().copied(), 1000, 1000)) {
            Ok(AuthMethod::None) => "none".into(),
            Ok(AuthMethod::AdminToken(token)) => format!("token {}", token.expose_secret()),
            Ok(AuthMethod::TokenCommand(command)) => format!("command {command}"),
            Ok(AuthMethod::Keystone { cloud: Some(cloud) }) => format!("cloud {cloud}"),
            Ok(AuthMethod::Keystone { cloud: None }) => "variables".into(),
            Err(error) => format!("error: {error}"),
        }
    }

    fn options(cloud: &str, auth_type: &str, token_command: &str, has_endpoint: bool) -> AuthOptions {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        AuthOptions {
            cloud: given(cloud),
            auth_type: given(auth_type),
            token_command: given(token_command),
            has_endpoint,
        }
    }

    const PASSWORD: [(&str, &str); 3] =
        [("OS_AUTH_URL", "http://k/v3"), ("OS_USERNAME", "u"), ("OS_PASSWORD", "secret")];

    #[test]
    fn each_way_in_is_chosen_by_what_is_given() {
        let no = || options("", "", "", false);
        let endpoint = || options("", "", "", true);
        for (given, variables, expected) in [
            (no(), &PASSWORD[..], "variables"),
            (no(), &[("OS_CLOUD", "c")], "cloud c"),
            (no(), &[("OS_CLOUD", "c"), ("OS_AUTH_TYPE", "v3password")], "cloud c"),
            (endpoint(), &[("OS_CLOUD", "c"), ("OS_AUTH_TYPE", "none")], "none"),
            (endpoint(), &[("OS_TOKEN", "t")], "token t"),
            (endpoint(), &[("OS_TOKEN", "t"), ("OS_AUTH_URL", "http://k")], "variables"),
            (endpoint(), &[("OS_TOKEN", "t"), ("OS_AUTH_TYPE", "admin_token")], "token t"),
            (options("c", "", "", false), &PASSWORD, "cloud c"),
            (options("c", "v3token", "", false), &[], "cloud c"),
            (options("", "none", "", true), &[("OS_CLOUD", "c")], "none"),
            (options("", "", "cmd", true), &PASSWORD, "command cmd"),
            (
                options("", "v3applicationcredential", "", false),
                &[
                    ("OS_AUTH_URL", "http://k"),
                    ("OS_APPLICATION_CREDENTIAL_ID", "i"),
                    ("OS_APPLICATION_CREDENTIAL_SECRET", "s"),
                ],
                "variables",
            ),
        ] {
            assert_eq!(told(&given, variables), expected, "{given:?} {variables:?}");
        }
    }

    #[test]
    fn the_command_line_goes_before_the_environment() {
        let from_env = [("OS_AUTH_TYPE", "none"), ("OS_CLOUD", "env")];
        assert_eq!(told(&options("cli", "", "", true), &from_env), "cloud cli");
        assert_eq!(told(&options("", "", "cmd", true), &from_env), "command cmd");
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let no = || options("", "", "", false);
        for (given, variables, words) in [
            (no(), &[][..], &["--os-cloud NAME", "OS_*", "--os-auth-type none"][..]),
            (options("", "", "", true), &[], &["OS_AUTH_TYPE=none", "--os-cloud"]),
            (options("", "none", "", false), &[], &["--os-auth-type=none", "--endpoint", "http://"]),
            (options("", "", "cmd", false), &[], &["--token-command", "--endpoint"]),
            (no(), &[("OS_TOKEN", "hush")], &["OS_TOKEN", "--endpoint"]),
            (options("", "admin_token", "", true), &[], &["set OS_TOKEN"]),
            (no(), &[("OS_AUTH_URL", "http://k")], &["no credentials", "OS_PASSWORD"]),
            (no(), &[("OS_AUTH_TYPE", "password")], &["OS_AUTH_URL is not set"]),
            (options("", "v3token", "", false), &PASSWORD, &["OS_TOKEN"]),
            (options("", "kerberos", "", false), &[], &["--os-auth-type \"kerberos\"", "v3password"]),
            (options("c", "none", "", true), &[], &["leave out --os-cloud"]),
            (options("c", "", "cmd", true), &[], &["--token-command excludes"]),
        ] {
            let error = told(&given, variables);
            assert!(error.starts_with("error: "), "{given:?} {variables:?}: {error}");
            assert!(!error.contains("hush") && !error.contains("secret"), "a secret in {error}");
            for word in words {
                assert!(error.contains(word), "{word:?} is not in {error:?}");
            }
        }
    }
}
