//! A cloud with Keystone v3: whom to log in as, and where its Glance is.
//!
//! Every renewal is a whole new login: exchanging the old token for a new one would keep the old one's expiry.

use std::time::Duration;

use futures_util::future::BoxFuture;
use openstack_sdk_core::config::CloudConfig;

use super::clouds::Origin;
use super::endpoint::{choose_image_endpoint, interface_name, parse_endpoint};
use super::last_login::{Description, Facts};
use super::login::{Login, login};
use super::renewal::{Session, TokenSource};
use super::tls::Tls;
use crate::error::{Error, Kind, Result};

/// A cloud described by clouds.yaml or by `OS_*`.
pub(super) struct Keystone {
    origin: Origin,
    /// As last read; read again when Keystone refuses it.
    config: tokio::sync::Mutex<CloudConfig>,
    /// What the command line says about the catalogue; it counts more than clouds.yaml.
    region: Option<String>,
    interface: Option<String>,
    /// The operator gave endpoints: the catalogue need not have one.
    endpoint_given: bool,
    tls: Tls,
    timeout: Duration,
}

impl Keystone {
    pub(super) fn new(
        origin: Origin,
        config: CloudConfig,
        (region, interface): (Option<String>, Option<String>),
        endpoint_given: bool,
        tls: Tls,
        timeout: Duration,
    ) -> Result<Self> {
        check(&config)?;
        let config = tokio::sync::Mutex::new(config);
        Ok(Self { origin, config, region, interface, endpoint_given, tls, timeout })
    }

    /// Logs in; when Keystone refuses credentials that have changed in clouds.yaml since, once more with the new ones.
    async fn login(&self) -> Result<Session> {
        let mut config = self.config.lock().await;
        let error = match self.login_with(&config).await {
            Err(error) if error.kind() == Kind::NotAuthenticated => error,
            other => return other,
        };
        let origin = self.origin.clone();
        let reread = tokio::task::spawn_blocking(move || origin.read()).await;
        match reread {
            Ok(Ok(new)) if !same_credentials(&new, &config) && check(&new).is_ok() => {
                tracing::info!(
                    "the credentials of {} have changed: logging in with them",
                    self.origin.describe()
                );
                let session = self.login_with(&new).await?;
                *config = new;
                Ok(session)
            }
            _ => Err(error),
        }
    }

    async fn login_with(&self, config: &CloudConfig) -> Result<Session> {
        let auth = config.auth.as_ref();
        let url = auth.and_then(|auth| auth.auth_url.clone()).unwrap_or_default();
        let login = login(config, &self.tls, self.timeout).await;
        let login = login.map_err(|error| self.explain(error, config, &url))?;
        let endpoint = if self.endpoint_given { None } else { Some(self.image_endpoint(config, &login)?) };
        Ok(Session {
            token: Some(login.token),
            lifetime: login.lifetime,
            facts: Facts { project_id: login.project_id, endpoints: endpoint.into_iter().collect() },
        })
    }

    fn image_endpoint(&self, config: &CloudConfig, login: &Login) -> Result<url::Url> {
        if let Some(given) = endpoint_override(config) {
            return parse_endpoint(&given).map_err(|error| error.context("image_endpoint_override"));
        }
        choose_image_endpoint(&login.catalogue, self.region(config), self.interface(config))
    }

    fn region<'a>(&'a self, config: &'a CloudConfig) -> Option<&'a str> {
        self.region.as_deref().or(config.region_name.as_deref())
    }

    fn interface<'a>(&'a self, config: &'a CloudConfig) -> &'a str {
        interface_name(self.interface.as_deref().or(config.interface.as_deref()))
    }

    /// Everything of `config` that decides who we are and which cloud we talk to.
    fn describe(&self, config: &CloudConfig) -> Option<Description> {
        let auth = config.auth.as_ref()?;
        let names_project = auth.project_id.is_some() || auth.project_name.is_some();
        let method = match config.auth_type.as_deref()? {
            method @ ("v3password" | "v3applicationcredential") => method,
            // A token has a project of its own, which nothing but the token tells.
            method @ "v3token" if names_project => method,
            _ => return None,
        };
        let text = Option::<String>::as_deref;
        Some(
            Description::of(method)
                .with("cloud", self.origin.cloud())
                .with("auth_url", text(&auth.auth_url))
                .with("user_id", text(&auth.user_id))
                .with("username", text(&auth.username))
                .with("user_domain_id", text(&auth.user_domain_id))
                .with("user_domain_name", text(&auth.user_domain_name))
                .with("project_id", text(&auth.project_id))
                .with("project_name", text(&auth.project_name))
                .with("project_domain_id", text(&auth.project_domain_id))
                .with("project_domain_name", text(&auth.project_domain_name))
                .with("domain_id", text(&auth.domain_id))
                .with("domain_name", text(&auth.domain_name))
                .with("system_scope", text(&auth.system_scope))
                .with("application_credential_id", text(&auth.application_credential_id))
                .with("application_credential_name", text(&auth.application_credential_name))
                .with("region", self.region(config))
                .with("interface", Some(self.interface(config)))
                .with("endpoint_override", endpoint_override(config).as_deref()),
        )
    }

    /// Names the server, and the cure where a person has one.
    fn explain(&self, error: Error, config: &CloudConfig, url: &str) -> Error {
        let cure = match error.kind() {
            Kind::NotAuthenticated => match config.auth_type.as_deref() {
                Some("v3applicationcredential") => {
                    format!(": check {} (was the application credential revoked?)", self.origin.describe())
                }
                Some("v3token") => {
                    ": the token given is no longer valid; give a new one, or a password or an application \
                     credential, which can be renewed"
                        .to_owned()
                }
                _ => format!(": check {}", self.origin.describe()),
            },
            _ => String::new(),
        };
        Error::new(error.kind(), format!("Keystone at {url}: {error}{cure}"))
    }
}

impl TokenSource for Keystone {
    fn obtain(&self) -> BoxFuture<'_, Result<Session>> {
        Box::pin(self.login())
    }

    fn description(&self) -> BoxFuture<'_, Option<Description>> {
        Box::pin(async { self.describe(&*self.config.lock().await) })
    }
}

/// `image_endpoint_override` of clouds.yaml.
fn endpoint_override(config: &CloudConfig) -> Option<String> {
    let given = config.options.get("image_endpoint_override")?.clone().into_string().ok()?;
    Some(given).filter(|text| !text.is_empty())
}

/// Everything a login needs is there.
///
/// # Errors
/// `Config`, naming what is missing and the ways there are.
fn check(config: &CloudConfig) -> Result<()> {
    let missing = |what: &str| {
        Err(Error::new(
            Kind::Config,
            format!(
                "{what} is missing: set OS_CLOUD (a cloud of clouds.yaml), or OS_AUTH_URL with OS_USERNAME, OS_PASSWORD and \
                 OS_PROJECT_NAME, or OS_AUTH_URL with OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET; \
                 without Keystone: OS_AUTH_TYPE=none with OS_ENDPOINT, or --token-command with --endpoint"
            ),
        ))
    };
    let Some(auth) = &config.auth else { return missing("OS_AUTH_URL") };
    if auth.auth_url.is_none() {
        return missing("OS_AUTH_URL");
    }
    match config.auth_type.as_deref() {
        Some("v3password") => {
            if auth.username.is_none() && auth.user_id.is_none() {
                return missing("OS_USERNAME");
            }
            if auth.password.is_none() {
                return missing("OS_PASSWORD");
            }
        }
        Some("v3token") if auth.token.is_none() => return missing("OS_TOKEN"),
        Some("v3applicationcredential") => {
            if auth.application_credential_secret.is_none() {
                return missing("OS_APPLICATION_CREDENTIAL_SECRET");
            }
            if auth.application_credential_id.is_none() && auth.application_credential_name.is_none() {
                return missing("OS_APPLICATION_CREDENTIAL_ID");
            }
        }
        _ => {}
    }
    Ok(())
}

fn same_credentials(a: &CloudConfig, b: &CloudConfig) -> bool {
    // Compared as JSON since the SDK's type has no equality; nothing of it is kept.
    a.auth_type == b.auth_type && serde_json::to_value(&a.auth).ok() == serde_json::to_value(&b.auth).ok()
}

impl std::fmt::Debug for Keystone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keystone").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpConfig;

    const CLOUDS: &str = "
clouds:
  north:
    region_name: one
    auth:
      auth_url: http://keystone.example.org:5000
      username: alice
      password: s3cr3t
      project_name: alpha
  south:
    region_name: one
    auth:
      auth_url: http://keystone.example.org:5000
      username: alice
      password: s3cr3t
      project_name: alpha
  robot:
    auth:
      auth_url: http://keystone.example.org:5000
      application_credential_id: id-of-robot
      application_credential_secret: s3cr3t
  token:
    auth:
      auth_url: http://keystone.example.org:5000
      token: s3cr3t
";

    /// The description of `cloud` in these clouds.yaml, as text.
    async fn described(cloud: &str, clouds: &str, region: Option<&str>) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clouds.yaml");
        std::fs::write(&path, clouds).unwrap();
        let origin = Origin::of_file(cloud, &path);
        let config = origin.read().unwrap();
        let http = HttpConfig {
            timeout: Duration::from_secs(1),
            hard: false,
            retries: 3,
            ca_cert: None,
            client_cert: None,
            insecure: false,
            max_connections: 1,
        };
        let tls = Tls::load(&http, Some(&config)).unwrap();
        let choice = (region.map(str::to_owned), None);
        let keystone = Keystone::new(origin, config, choice, false, tls, http.timeout).unwrap();
        let description = keystone.description().await?;
        Some(format!("{description:?}"))
    }

    #[tokio::test]
    async fn a_description_tells_one_login_from_another_without_a_secret() {
        let alice = described("north", CLOUDS, None).await.unwrap();
        assert_eq!(described("north", &CLOUDS.replace("s3cr3t", "changed"), None).await.unwrap(), alice);
        let mut all = vec![alice, described("south", CLOUDS, None).await.unwrap()];
        all.push(described("robot", CLOUDS, None).await.unwrap());
        for (from, to) in [
            ("region_name: one", "interface: internal"),
            ("region_name: one", "region_name: one\n    image_endpoint_override: http://glance.example.org"),
            ("keystone.example.org", "other.example.org"),
            ("username: alice", "username: bob"),
            ("username: alice", "user_id: alice"),
            ("username: alice", "username: alice\n      user_domain_name: users"),
            ("project_name: alpha", "project_name: beta"),
            ("project_name: alpha", "project_id: alpha"),
            ("project_name: alpha", "project_name: alpha\n      project_domain_id: projects"),
            ("project_name: alpha", "domain_id: alpha"),
            ("project_name: alpha", "system_scope: all"),
        ] {
            all.push(described("north", &CLOUDS.replace(from, to), None).await.unwrap());
        }
        let by_option = described("north", CLOUDS, Some("two")).await.unwrap();
        let by_file = described("north", &CLOUDS.replace("region_name: one", "region_name: two"), None).await;
        assert_eq!(by_file.as_ref(), Some(&by_option));
        all.push(by_option);
        let robot = CLOUDS.replace("id-of-robot", "id-of-another");
        all.push(described("robot", &robot, None).await.unwrap());
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:#?}");
        assert!(!all.iter().any(|text| text.contains("s3cr3t")), "{all:#?}");
    }

    #[tokio::test]
    async fn a_token_that_alone_tells_its_project_has_no_description() {
        assert_eq!(described("token", CLOUDS, None).await, None);
        let scoped = CLOUDS.replace("token: s3cr3t", "token: s3cr3t\n      project_id: alpha");
        let description = described("token", &scoped, None).await.unwrap();
        assert!(description.contains("alpha") && !description.contains("s3cr3t"), "{description}");
    }
}
