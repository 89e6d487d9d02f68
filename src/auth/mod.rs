//! Who we are to the cloud: a token and the addresses of Glance, renewed when needed.
//!
//! `clouds` finds out what to log in with, `keystone` (and `app_credential`, `command`) logs in, `renewal` decides
//! when, `endpoint` says where Glance is, and `tls` whom to trust. Tokens live in memory only, in a type that
//! cannot be printed.

use std::sync::Arc;

use url::Url;

use crate::blocking::blocking;
use crate::config::{AuthConfig, AuthMethod, HttpConfig};
use crate::error::{Error, Kind, Result};

mod app_credential;
mod clouds;
mod command;
mod endpoint;
mod keystone;
mod renewal;
mod tls;
mod token;

pub use endpoint::parse_endpoint;
pub use tls::distrust;
pub use token::{Credential, Token};

use clouds::Origin;
use endpoint::base_url;
use keystone::Keystone;
use renewal::{Renewal, Session, TokenSource};
use tls::Tls;

/// The one source of tokens and endpoints; cheap to clone.
#[derive(Debug, Clone)]
pub struct Auth {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tokens: Tokens,
    endpoints: Vec<Url>,
    project_id: Option<String>,
    tls: Tls,
}

#[derive(Debug)]
enum Tokens {
    /// The same for ever: none, or the operator's own.
    Fixed(Option<Token>),
    Renewed(Arc<Renewal>),
}

impl Auth {
    /// Logs in for the first time.
    ///
    /// # Errors
    /// `Config` when the description of the cloud is wrong or incomplete, `NotAuthenticated` when it is refused,
    /// `Unreachable` or `TimedOut` when Keystone does not answer. Each message names the cause and the cure.
    pub async fn connect(config: &AuthConfig, http: &HttpConfig) -> Result<Self> {
        let given = config.endpoints.iter().map(base_url).collect::<Result<Vec<_>>>()?;
        match &config.method {
            AuthMethod::None => Self::fixed(None, given, load_tls(http, None).await?),
            AuthMethod::AdminToken(token) => {
                Self::fixed(Some(Token::new(token.clone())), given, load_tls(http, None).await?)
            }
            AuthMethod::TokenCommand(command) => {
                let given = required(given)?;
                let tls = load_tls(http, None).await?;
                Self::renewed(Box::new(TokenCommand(command.clone())), given, tls, http).await
            }
            AuthMethod::Keystone { cloud } => Self::keystone(cloud.clone(), given, config, http).await,
        }
    }

    async fn keystone(
        cloud: Option<String>,
        given: Vec<Url>,
        config: &AuthConfig,
        http: &HttpConfig,
    ) -> Result<Self> {
        let auth_type = config.auth_type.clone();
        let (origin, description) = blocking(move || {
            let origin = Origin::find(cloud.as_deref(), auth_type.as_deref())?;
            let description = origin.read()?;
            Ok((origin, description))
        })
        .await?;
        let tls = load_tls(http, Some(description.clone())).await?;
        if let Some(kind @ ("none" | "admin_token")) = description.auth_type.as_deref() {
            // A cloud without Keystone, described in clouds.yaml: `auth` holds its endpoint and perhaps a token.
            let auth = description.auth.clone().unwrap_or_default();
            let token = auth.token.filter(|_| kind == "admin_token").map(Token::new);
            let endpoints = match auth.endpoint {
                Some(text) if given.is_empty() => vec![parse_endpoint(&text)?],
                _ => given,
            };
            return Self::fixed(token, endpoints, tls);
        }
        let choice = (config.region.clone(), config.interface.clone());
        let source =
            Keystone::new(origin, description, choice, !given.is_empty(), tls.clone(), http.timeout)?;
        Self::renewed(Box::new(source), given, tls, http).await
    }

    fn fixed(token: Option<Token>, endpoints: Vec<Url>, tls: Tls) -> Result<Self> {
        let endpoints = required(endpoints)?;
        let inner = Inner { tokens: Tokens::Fixed(token), endpoints, project_id: None, tls };
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn renewed(
        source: Box<dyn TokenSource>,
        given: Vec<Url>,
        tls: Tls,
        http: &HttpConfig,
    ) -> Result<Self> {
        let first = source.obtain().await?;
        let endpoints = required(if given.is_empty() { first.endpoints.clone() } else { given })?;
        let project_id = first.project_id.clone();
        let tokens = Tokens::Renewed(Renewal::new(source, first, http.timeout));
        Ok(Self { inner: Arc::new(Inner { tokens, endpoints, project_id, tls }) })
    }

    /// A token good for a request that starts now; renewed first when it has expired, and in the background when it
    /// is about to.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), when the old token has expired and there is no new one.
    pub async fn credential(&self) -> Result<Credential> {
        match &self.inner.tokens {
            Tokens::Fixed(token) => Ok(Credential { token: token.clone(), generation: 0 }),
            Tokens::Renewed(renewal) => renewal.credential().await,
        }
    }

    /// The server answered 401 to the token of `generation`: one renewal for all who wait.
    ///
    /// # Errors
    /// `NotAuthenticated` when there is no way to another token; else those of [`connect`](Self::connect).
    pub async fn renew_after(&self, generation: u64) -> Result<Credential> {
        match &self.inner.tokens {
            Tokens::Fixed(None) => Err(Error::new(
                Kind::NotAuthenticated,
                "this Glance wants a token: OS_AUTH_TYPE=none does not fit, set OS_CLOUD or the OS_* variables",
            )),
            Tokens::Fixed(Some(_)) => Err(Error::new(
                Kind::NotAuthenticated,
                "Glance refuses the token of OS_TOKEN, which cannot be renewed: mount again with a new one",
            )),
            Tokens::Renewed(renewal) => renewal.renew_after(generation).await,
        }
    }

    /// The image endpoints without their version (`http://host:9292/`, path kept), at least one.
    pub fn endpoints(&self) -> &[Url] {
        &self.inner.endpoints
    }

    /// The project the token is scoped to, where that is known.
    pub fn project_id(&self) -> Option<&str> {
        self.inner.project_id.as_deref()
    }

    /// The beginning of an HTTP client that trusts whom this cloud's description says.
    pub(crate) fn client_builder(&self) -> Result<reqwest::ClientBuilder> {
        self.inner.tls.client_builder()
    }
}

/// `--token-command` as a source of tokens whose lifetime nobody tells.
#[derive(Debug)]
struct TokenCommand(String);

impl TokenSource for TokenCommand {
    fn obtain(&self) -> futures_util::future::BoxFuture<'_, Result<Session>> {
        Box::pin(async {
            let token = command::run(&self.0).await?;
            Ok(Session { token: Some(token), lifetime: None, project_id: None, endpoints: Vec::new() })
        })
    }
}

fn required(endpoints: Vec<Url>) -> Result<Vec<Url>> {
    if endpoints.is_empty() {
        let cure = "give the address of Glance with --endpoint or OS_ENDPOINT";
        return Err(Error::new(Kind::Config, format!("without Keystone there is no catalogue: {cure}")));
    }
    Ok(endpoints)
}

async fn load_tls(http: &HttpConfig, cloud: Option<openstack_sdk::config::CloudConfig>) -> Result<Tls> {
    let http = http.clone();
    blocking(move || Tls::load(&http, cloud.as_ref())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn http() -> HttpConfig {
        HttpConfig { timeout: Duration::from_secs(5), ca_cert: None, insecure: false, max_connections: 1 }
    }

    fn config(method: AuthMethod, endpoints: &[&str]) -> AuthConfig {
        let endpoints = endpoints.iter().map(|text| Url::parse(text).unwrap()).collect();
        AuthConfig { method, auth_type: None, endpoints, region: None, interface: None }
    }

    #[tokio::test]
    async fn without_keystone_an_endpoint_must_be_given() {
        for method in [AuthMethod::None, AuthMethod::TokenCommand("echo t".into())] {
            let error = Auth::connect(&config(method, &[]), &http()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().contains("--endpoint"), "{error}");
        }
    }

    #[tokio::test]
    async fn no_token_is_a_credential_too() {
        let auth =
            Auth::connect(&config(AuthMethod::None, &["http://glance:9292/v2"]), &http()).await.unwrap();
        assert!(auth.credential().await.unwrap().token.is_none());
        assert_eq!(auth.endpoints()[0].as_str(), "http://glance:9292/");
        assert_eq!(auth.renew_after(0).await.unwrap_err().kind(), Kind::NotAuthenticated);
    }

    #[tokio::test]
    async fn a_token_command_runs_again_only_after_a_401() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let command = format!("echo >> {0}; wc -l < {0}", count.display());
        let config = config(AuthMethod::TokenCommand(command), &["http://glance:9292"]);
        let auth = Auth::connect(&config, &http()).await.unwrap();
        let token = |credential: &Credential| {
            credential.token.as_ref().unwrap().header().unwrap().to_str().unwrap().to_owned()
        };
        let first = auth.credential().await.unwrap();
        assert_eq!(token(&first), "1");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(token(&auth.credential().await.unwrap()), "1");
        assert_eq!(token(&auth.renew_after(first.generation).await.unwrap()), "2");
    }

    #[tokio::test]
    async fn debug_shows_no_secret() {
        let method = AuthMethod::AdminToken("s3cr3t".into());
        let config = config(method, &["http://glance:9292"]);
        let auth = Auth::connect(&config, &http()).await.unwrap();
        let text = format!("{auth:?} {config:?} {:?}", auth.credential().await.unwrap());
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}
