//! Who we are to the cloud: a token and the addresses of Glance, renewed when needed.
//!
//! `clouds` finds out what to log in with, `keystone` with `login` (or `command`) logs in, `renewal` decides
//! when, `last_login` keeps what a mount needs to begin without one, `endpoint` says where Glance is, and `tls` whom
//! to trust. Tokens live in memory only, in a type that cannot be printed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use url::Url;

use crate::blocking::blocking;
use crate::config::{AuthConfig, AuthMethod, HttpConfig};
use crate::error::{Error, Kind, Result};

mod clouds;
mod command;
mod endpoint;
mod keystone;
mod last_login;
mod login;
mod renewal;
mod tls;
mod token;

pub use endpoint::parse_endpoint;
pub use last_login::LastLogins;
pub use tls::{Distrust, distrust};
pub use token::{Credential, Token};

use clouds::Origin;
use endpoint::base_url;
use keystone::Keystone;
use last_login::{Description, Facts, LastLogin, stand_in};
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
    /// Those that the operator gave, else those that the mount began with.
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
    /// Logs in for the first time, and keeps in `logins` what a later mount needs to begin without a login.
    ///
    /// With `allow_stale` this mount itself begins so when nobody answers: then the first [`credential`](Self::credential)
    /// logs in, and until one does there is no token to send anywhere.
    ///
    /// # Errors
    /// `Config` when the description of the cloud is wrong or incomplete, `NotAuthenticated` when it is refused,
    /// `Unreachable` or `TimedOut` when Keystone does not answer. Each message names the cause and the cure.
    pub async fn connect(
        config: &AuthConfig,
        http: &HttpConfig,
        logins: Option<&LastLogins>,
    ) -> Result<Self> {
        let given = config.endpoints.iter().map(base_url).collect::<Result<Vec<_>>>()?;
        match &config.method {
            AuthMethod::None => Self::fixed(None, given, load_tls(http, None).await?),
            AuthMethod::AdminToken(token) => {
                Self::fixed(Some(Token::new(token.clone())), given, load_tls(http, None).await?)
            }
            AuthMethod::TokenCommand(command) => {
                let given = required(given)?;
                let tls = load_tls(http, None).await?;
                Self::renewed(Box::new(TokenCommand(command.clone())), given, tls, http, logins).await
            }
            AuthMethod::Keystone { cloud } => {
                Self::keystone(cloud.clone(), given, config, http, logins).await
            }
        }
    }

    async fn keystone(
        cloud: Option<String>,
        given: Vec<Url>,
        config: &AuthConfig,
        http: &HttpConfig,
        logins: Option<&LastLogins>,
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
        Self::renewed(Box::new(source), given, tls, http, logins).await
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
        logins: Option<&LastLogins>,
    ) -> Result<Self> {
        let login = source.obtain().await;
        // Asked afterwards: the login may have found a newer description in clouds.yaml.
        let last = match (logins, source.description().await) {
            (Some(logins), Some(description)) => Some(LastLogin::new(logins, description, &given)?),
            _ => None,
        };
        let (facts, renewal) = match login {
            Ok(session) => {
                if let Some(last) = &last {
                    last.keep(&session.facts).await;
                }
                (session.facts.clone(), Renewal::new(source, session, http.timeout))
            }
            Err(error) => {
                let facts = stand_in(last.as_ref(), &error).await?;
                (facts.clone(), Renewal::without_login(source, facts, error, http.timeout))
            }
        };
        let endpoints = required(if given.is_empty() { facts.endpoints } else { given })?;
        let project_id = facts.project_id;
        Ok(Self { inner: Arc::new(Inner { tokens: Tokens::Renewed(renewal), endpoints, project_id, tls }) })
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

    /// The token of `generation` was issued just now, so that a server which refuses it may be wrong: a Glance whose
    /// Keystone does not answer refuses every token that it has not seen.
    pub fn is_new(&self, generation: u64) -> bool {
        match &self.inner.tokens {
            Tokens::Fixed(_) => false,
            Tokens::Renewed(renewal) => renewal.is_new(generation),
        }
    }

    /// The image endpoints without their version (`http://host:9292/`, path kept), at least one.
    ///
    /// Ask once there is a credential: of a mount that began without a login, those of the catalogue are known then.
    pub fn endpoints(&self) -> &[Url] {
        match &self.inner.tokens {
            Tokens::Renewed(renewal) => renewal.catalogue().unwrap_or(&self.inner.endpoints),
            Tokens::Fixed(_) => &self.inner.endpoints,
        }
    }

    /// The image endpoints that name this cloud for as long as it is mounted: those of [`endpoints`](Self::endpoints),
    /// or those of an earlier mount when this one began without a login. Nothing is sent to them.
    pub fn known_endpoints(&self) -> &[Url] {
        &self.inner.endpoints
    }

    /// The project the token is scoped to, where that is known.
    pub fn project_id(&self) -> Option<&str> {
        self.inner.project_id.as_deref()
    }

    /// The beginning of an HTTP client that trusts whom this cloud's description says.
    pub(crate) fn client_builder(&self) -> reqwest::ClientBuilder {
        self.inner.tls.client_builder()
    }

    /// The same for servers that are not of this cloud.
    pub(crate) fn stranger_builder(&self) -> reqwest::ClientBuilder {
        self.inner.tls.stranger_builder()
    }
}

/// `--token-command` as a source of tokens whose lifetime nobody tells.
#[derive(Debug)]
struct TokenCommand(String);

impl TokenSource for TokenCommand {
    fn obtain(&self) -> BoxFuture<'_, Result<Session>> {
        Box::pin(async {
            let token = command::run(&self.0).await?;
            Ok(Session { token: Some(token), lifetime: None, facts: Facts::default() })
        })
    }

    fn description(&self) -> BoxFuture<'_, Option<Description>> {
        // The endpoints that go with it say all: whose tokens they are is not known after a login either.
        Box::pin(async { Some(Description::of("token-command")) })
    }
}

fn required(endpoints: Vec<Url>) -> Result<Vec<Url>> {
    if endpoints.is_empty() {
        let cure = "give the address of Glance with --endpoint or OS_ENDPOINT";
        return Err(Error::new(Kind::Config, format!("without Keystone there is no catalogue: {cure}")));
    }
    Ok(endpoints)
}

async fn load_tls(http: &HttpConfig, cloud: Option<openstack_sdk_core::config::CloudConfig>) -> Result<Tls> {
    let http = http.clone();
    blocking(move || Tls::load(&http, cloud.as_ref())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn http() -> HttpConfig {
        HttpConfig {
            timeout: Duration::from_secs(5),
            hard: false,
            retries: 3,
            ca_cert: None,
            client_cert: None,
            insecure: false,
            max_connections: 1,
        }
    }

    fn config(method: AuthMethod, endpoints: &[&str]) -> AuthConfig {
        let endpoints = endpoints.iter().map(|text| Url::parse(text).unwrap()).collect();
        AuthConfig { method, auth_type: None, endpoints, region: None, interface: None }
    }

    #[tokio::test]
    async fn without_keystone_an_endpoint_must_be_given() {
        for method in [AuthMethod::None, AuthMethod::TokenCommand("echo t".into())] {
            let error = Auth::connect(&config(method, &[]), &http(), None).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().contains("--endpoint"), "{error}");
        }
    }

    #[tokio::test]
    async fn no_token_is_a_credential_too() {
        let auth = Auth::connect(&config(AuthMethod::None, &["http://glance:9292/v2"]), &http(), None)
            .await
            .unwrap();
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
        let auth = Auth::connect(&config, &http(), None).await.unwrap();
        let token = |credential: &Credential| {
            credential.token.as_ref().unwrap().header().unwrap().to_str().unwrap().to_owned()
        };
        let first = auth.credential().await.unwrap();
        assert_eq!(token(&first), "1");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(token(&auth.credential().await.unwrap()), "1");
        assert_eq!(token(&auth.renew_after(first.generation).await.unwrap()), "2");
    }

    /// A cloud whose logins fail with `failure`, else give this project and endpoint.
    #[derive(Debug, Clone)]
    struct Scripted {
        failure: Arc<std::sync::Mutex<Option<Kind>>>,
        endpoint: &'static str,
    }

    impl TokenSource for Scripted {
        fn obtain(&self) -> BoxFuture<'_, Result<Session>> {
            let facts = Facts {
                project_id: Some("cafe".into()),
                endpoints: vec![Url::parse(self.endpoint).unwrap()],
            };
            let outcome = match *self.failure.lock().unwrap() {
                Some(kind) => Err(Error::new(kind, "scripted")),
                None => Ok(Session { token: Some(Token::new("t")), lifetime: None, facts }),
            };
            Box::pin(async { outcome })
        }

        fn description(&self) -> BoxFuture<'_, Option<Description>> {
            Box::pin(async { Some(Description::of("scripted")) })
        }
    }

    async fn begin(source: &Scripted, given: &[Url], logins: &LastLogins) -> Result<Auth> {
        let tls = load_tls(&http(), None).await.unwrap();
        Auth::renewed(Box::new(source.clone()), given.to_vec(), tls, &http(), Some(logins)).await
    }

    #[tokio::test]
    async fn a_mount_without_a_login_sends_nothing_to_what_it_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let logins = LastLogins { folder: dir.path().to_owned(), allow_stale: true };
        let before = Scripted { failure: Arc::default(), endpoint: "http://before:9292/" };
        begin(&before, &[], &logins).await.unwrap();

        let now = Scripted {
            failure: Arc::new(std::sync::Mutex::new(Some(Kind::Unreachable))),
            endpoint: "http://now:9292/",
        };
        let auth = begin(&now, &[], &logins).await.unwrap();
        assert_eq!(auth.project_id(), Some("cafe"));
        assert_eq!(auth.known_endpoints()[0].as_str(), "http://before:9292/");
        assert_eq!(auth.credential().await.unwrap_err().kind(), Kind::Unreachable, "no token, no request");

        *now.failure.lock().unwrap() = None;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(auth.credential().await.unwrap().token.is_some());
        assert_eq!(auth.endpoints()[0].as_str(), "http://now:9292/", "the catalogue counts");
        assert_eq!(auth.known_endpoints()[0].as_str(), "http://before:9292/", "the cache keeps its name");

        let strict = LastLogins { allow_stale: false, ..logins.clone() };
        for (kind, logins) in [(Kind::NotAuthenticated, &logins), (Kind::Unreachable, &strict)] {
            *now.failure.lock().unwrap() = Some(kind);
            assert_eq!(begin(&now, &[], logins).await.unwrap_err().kind(), kind);
        }
    }

    #[tokio::test]
    async fn endpoints_that_the_operator_gave_stay_and_are_another_login() {
        let dir = tempfile::tempdir().unwrap();
        let logins = LastLogins { folder: dir.path().to_owned(), allow_stale: true };
        let given = [Url::parse("http://given:9292/").unwrap()];
        let source = Scripted { failure: Arc::default(), endpoint: "http://catalogue:9292/" };
        begin(&source, &[], &logins).await.unwrap();
        *source.failure.lock().unwrap() = Some(Kind::TimedOut);
        let error = begin(&source, &given, &logins).await.unwrap_err();
        assert!(error.to_string().contains("found nothing kept"), "{error}");
    }

    #[tokio::test]
    async fn a_token_command_that_tells_an_outage_may_be_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let down = dir.path().join("down");
        let command = format!("test -e {0} && exit $(cat {0}); echo t", down.display());
        let config = config(AuthMethod::TokenCommand(command), &["http://glance:9292"]);
        let logins = LastLogins { folder: dir.path().to_owned(), allow_stale: true };
        let connect = async || Auth::connect(&config, &http(), Some(&logins)).await;
        std::fs::write(&down, "75").unwrap();
        assert_eq!(connect().await.unwrap_err().kind(), Kind::Unreachable, "nothing is kept yet");
        std::fs::remove_file(&down).unwrap();
        connect().await.unwrap();

        std::fs::write(&down, "1").unwrap();
        assert_eq!(connect().await.unwrap_err().kind(), Kind::NotAuthenticated);
        std::fs::write(&down, "75").unwrap();
        let auth = connect().await.unwrap();
        assert_eq!(auth.credential().await.unwrap_err().kind(), Kind::Unreachable);
        std::fs::remove_file(&down).unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(auth.credential().await.unwrap().token.is_some());
        assert_eq!(auth.endpoints()[0].as_str(), "http://glance:9292/");
    }

    #[tokio::test]
    async fn debug_shows_no_secret() {
        let method = AuthMethod::AdminToken("s3cr3t".into());
        let config = config(method, &["http://glance:9292"]);
        let auth = Auth::connect(&config, &http(), None).await.unwrap();
        let text = format!("{auth:?} {config:?} {:?}", auth.credential().await.unwrap());
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}
