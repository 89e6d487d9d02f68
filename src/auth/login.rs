//! One login at Keystone v3: `POST /v3/auth/tokens` with a password, a token or an application credential.
//!
//! Sent by ourselves and not by `openstack_sdk` (0.22.8): its client follows redirects, and one with 307 or 308 takes the
//! password or the token to wherever it points; what a discovery document names as Keystone's address gets them, too; it
//! knows application credentials by id only. Here they go to the address that the operator gave, and to no other.

use std::time::Duration;

use openstack_sdk_core::config::{Auth, CloudConfig};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;

use super::endpoint::CatalogueEntry;
use super::tls::{Tls, distrust};
use super::token::Token;
use crate::error::{Error, Kind, Result};

/// Bytes of an answer that are read. A catalogue of 100 services has some 50 KB.
const ANSWER_LIMIT: usize = 4 << 20;

/// What a login gives, before an endpoint is chosen.
pub(super) struct Login {
    pub token: Token,
    pub project_id: Option<String>,
    /// From the moment it was issued; both times are Keystone's, so a wrong clock here does no harm.
    pub lifetime: Option<Duration>,
    pub catalogue: Vec<CatalogueEntry>,
}

/// Logs in as `config` says, within `timeout`.
///
/// # Errors
/// `NotAuthenticated` when Keystone refuses, `Config` for what is missing and for an address where no Keystone answers,
/// `ServerError`, `Unreachable`, `TimedOut`, `Untrusted`.
pub(super) async fn login(config: &CloudConfig, tls: &Tls, timeout: Duration) -> Result<Login> {
    let auth = config.auth.as_ref().ok_or_else(|| missing("OS_AUTH_URL"))?;
    let url = tokens_url(auth.auth_url.as_deref().unwrap_or_default())?;
    let body = body(config.auth_type.as_deref().unwrap_or_default(), auth)?;
    let client = tls
        .client_builder()?
        .timeout(timeout)
        .build()
        .map_err(|error| Error::new(Kind::Config, "cannot set up TLS").with_source(error))?;
    let mut answer = client.post(url).json(&body).send().await.map_err(transport_error)?;
    let status = answer.status();
    let token = answer.headers().get("x-subject-token").and_then(|value| value.to_str().ok()).map(Token::new);
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(transport_error)? {
        if text.len() + chunk.len() > ANSWER_LIMIT {
            return Err(Error::new(Kind::ServerError, "an answer without end"));
        }
        text.extend_from_slice(&chunk);
    }
    if status != StatusCode::CREATED {
        return Err(refusal(status, &text));
    }
    let answer: Answer = serde_json::from_slice(&text).map_err(|error| {
        Error::new(Kind::ServerError, "an answer that Keystone v3 does not give").with_source(error)
    })?;
    let token = token.ok_or_else(|| Error::new(Kind::ServerError, "the login gave no token"))?;
    Ok(Login {
        token,
        project_id: answer.token.project.map(|project| project.id),
        lifetime: lifetime(&answer.token.issued_at, &answer.token.expires_at),
        catalogue: answer.token.catalog.into_iter().flat_map(Service::entries).collect(),
    })
}

fn missing(what: &str) -> Error {
    Error::new(Kind::Config, format!("{what} is missing"))
}

/// The body of the request: who, and for which project, domain or system.
fn body(auth_type: &str, auth: &Auth) -> Result<Value> {
    let secret = |secret: &Option<SecretString>| {
        secret.as_ref().map(|secret| secret.expose_secret().to_owned()).unwrap_or_default()
    };
    let (method, data) = match auth_type {
        "v3applicationcredential" => {
            let mut credential = Map::new();
            credential.insert("secret".into(), secret(&auth.application_credential_secret).into());
            match (&auth.application_credential_id, &auth.application_credential_name) {
                (Some(id), _) => credential.insert("id".into(), id.as_str().into()),
                (None, name) => {
                    credential.insert("name".into(), json!(name));
                    credential.insert("user".into(), user(auth)?.into())
                }
            };
            ("application_credential", credential)
        }
        "v3token" => ("token", Map::from_iter([("id".to_owned(), secret(&auth.token).into())])),
        "v3password" => {
            let mut user = user(auth)?;
            user.insert("password".into(), secret(&auth.password).into());
            ("password", Map::from_iter([("user".to_owned(), user.into())]))
        }
        other => return Err(Error::new(Kind::Config, format!("no way to log in is called {other:?}"))),
    };
    let mut request = Map::new();
    request.insert("identity".into(), json!({ "methods": [method], method: data }));
    request.extend(scope(auth).map(|scope| ("scope".to_owned(), scope)));
    Ok(json!({ "auth": request }))
}

fn user(auth: &Auth) -> Result<Map<String, Value>> {
    match (&auth.user_id, &auth.username) {
        (Some(id), _) => Ok(named(Some(id), None, None)),
        (None, Some(name)) => {
            Ok(named(None, Some(name), domain(auth.user_domain_id.as_ref(), auth.user_domain_name.as_ref())))
        }
        (None, None) => Err(missing("OS_USERNAME or OS_USER_ID")),
    }
}

/// A project before a domain, a domain before the system, as all clients of Keystone have it; `None`: whatever Keystone
/// gives by itself.
fn scope(auth: &Auth) -> Option<Value> {
    if auth.project_id.is_some() || auth.project_name.is_some() {
        let (id, name) = (auth.project_id.as_ref(), auth.project_name.as_ref());
        let domain = domain(auth.project_domain_id.as_ref(), auth.project_domain_name.as_ref());
        return Some(
            json!({ "project": named(id, name.filter(|_| id.is_none()), domain.filter(|_| id.is_none())) }),
        );
    }
    if let Some(domain) = domain(auth.domain_id.as_ref(), auth.domain_name.as_ref()) {
        return Some(json!({ "domain": domain }));
    }
    auth.system_scope.as_ref().map(|_| json!({ "system": { "all": true } }))
}

fn domain(id: Option<&String>, name: Option<&String>) -> Option<Value> {
    (id.is_some() || name.is_some()).then(|| named(id, name.filter(|_| id.is_none()), None).into())
}

fn named(id: Option<&String>, name: Option<&String>, domain: Option<Value>) -> Map<String, Value> {
    let text = |(key, text): (&str, Option<&String>)| Some((key.to_owned(), text?.as_str().into()));
    let texts = [("id", id), ("name", name)].into_iter().filter_map(text);
    texts.chain(domain.map(|domain| ("domain".to_owned(), domain))).collect()
}

/// What another status than 201 means. Keystone gives its reason as JSON; what does not is no Keystone.
fn refusal(status: StatusCode, text: &[u8]) -> Error {
    let said: Value = serde_json::from_slice(text).unwrap_or_default();
    let reason = said["error"]["message"].as_str();
    let code = status.as_u16();
    match (status, reason) {
        // The second comes from proxies as well.
        (status, _) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Error::new(Kind::ServerError, format!("it answers HTTP {code}"))
        }
        (status, _) if status.is_redirection() => Error::new(
            Kind::Config,
            format!(
                "what answers there (HTTP {code}) is no Keystone v3 or sends us elsewhere, where credentials are not \
                 taken: check OS_AUTH_URL"
            ),
        ),
        (_, Some(reason)) => login_error(code, reason),
        (StatusCode::UNAUTHORIZED, None) => login_error(code, "no message"),
        (_, None) => Error::new(
            Kind::Config,
            format!("what answers there (HTTP {code}) is no Keystone v3: check OS_AUTH_URL"),
        ),
    }
}

/// What an HTTP status of Keystone's login means. A revoked application credential is a 404.
fn login_error(status: u16, message: &str) -> Error {
    let kind = match status {
        401 | 403 | 404 => Kind::NotAuthenticated,
        400 => Kind::Config,
        _ => Kind::ServerError,
    };
    let said: String = message.chars().filter(|c| !c.is_control()).take(200).collect();
    Error::new(kind, format!("the credentials were refused (HTTP {status}: {said})"))
}

/// A request to Keystone that got no answer.
fn transport_error(error: reqwest::Error) -> Error {
    let (kind, what) = match distrust(&error) {
        Some(why) => (Kind::Untrusted, why),
        None if error.is_timeout() => (Kind::TimedOut, "no answer"),
        None => (Kind::Unreachable, "no answer"),
    };
    Error::new(kind, what).with_source(error.without_url())
}

/// `…/v3/auth/tokens`, whatever form of address `OS_AUTH_URL` has.
fn tokens_url(auth_url: &str) -> Result<Url> {
    let base = auth_url.trim_end_matches('/');
    let base = base.strip_suffix("/v3").or_else(|| base.strip_suffix("/v2.0")).unwrap_or(base);
    Url::parse(&format!("{base}/v3/auth/tokens"))
        .map_err(|error| Error::new(Kind::Config, "OS_AUTH_URL is no URL").with_source(error))
}

fn lifetime(issued_at: &str, expires_at: &str) -> Option<Duration> {
    let issued: jiff::Timestamp = issued_at.parse().ok()?;
    let expires: jiff::Timestamp = expires_at.parse().ok()?;
    Duration::try_from(expires.duration_since(issued)).ok()
}

#[derive(Deserialize)]
struct Answer {
    token: Info,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    issued_at: String,
    #[serde(default)]
    expires_at: String,
    project: Option<Project>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Project {
    id: String,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    service_type: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    region: Option<String>,
    interface: String,
    url: String,
}

impl Service {
    fn entries(self) -> impl Iterator<Item = CatalogueEntry> {
        let service_type = self.service_type;
        self.endpoints.into_iter().map(move |endpoint| CatalogueEntry {
            service_type: service_type.clone(),
            region: endpoint.region,
            interface: endpoint.interface,
            url: endpoint.url,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(auth_type: &str, fields: Value) -> Value {
        body(auth_type, &serde_json::from_value(fields).unwrap()).unwrap()["auth"].take()
    }

    #[test]
    fn requests_are_those_of_the_identity_api() {
        let alice = json!({
            "username": "alice", "user_domain_id": "default", "password": "pw",
            "project_name": "alpha", "project_domain_name": "Default",
        });
        assert_eq!(
            asked("v3password", alice),
            json!({
                "identity": { "methods": ["password"], "password": { "user": {
                    "name": "alice", "domain": { "id": "default" }, "password": "pw",
                } } },
                "scope": { "project": { "name": "alpha", "domain": { "name": "Default" } } },
            })
        );
        let by_ids = json!({ "user_id": "u", "username": "alice", "password": "pw", "project_id": "p",
            "project_name": "alpha", "project_domain_id": "default" });
        assert_eq!(
            asked("v3password", by_ids),
            json!({
                "identity": { "methods": ["password"], "password": { "user": { "id": "u", "password": "pw" } } },
                "scope": { "project": { "id": "p" } },
            })
        );
        assert_eq!(
            asked("v3token", json!({ "token": "t", "domain_name": "d" })),
            json!({
                "identity": { "methods": ["token"], "token": { "id": "t" } },
                "scope": { "domain": { "name": "d" } },
            })
        );
        assert_eq!(
            asked("v3token", json!({ "token": "t", "system_scope": "all" }))["scope"]["system"]["all"],
            true
        );
        assert_eq!(asked("v3token", json!({ "token": "t" })).get("scope"), None);
        let by_id = json!({ "application_credential_id": "i", "application_credential_secret": "s" });
        assert_eq!(
            asked("v3applicationcredential", by_id)["identity"]["application_credential"],
            json!({ "id": "i", "secret": "s" })
        );
        let by_name = json!({ "application_credential_name": "n", "application_credential_secret": "s",
            "username": "alice", "user_domain_id": "default" });
        assert_eq!(
            asked("v3applicationcredential", by_name)["identity"]["application_credential"],
            json!({ "name": "n", "secret": "s", "user": { "name": "alice", "domain": { "id": "default" } } })
        );
    }

    #[test]
    fn what_is_no_keystone_is_told_from_a_refusal() {
        let keystone = br#"{"error":{"code":404,"message":"Could not find\nit","title":"Not Found"}}"#;
        let kind = |status: u16, text: &[u8]| refusal(StatusCode::from_u16(status).unwrap(), text).kind();
        assert_eq!(kind(404, keystone), Kind::NotAuthenticated);
        assert_eq!(kind(404, b"<html>"), Kind::Config);
        assert_eq!(kind(401, b""), Kind::NotAuthenticated);
        assert_eq!(kind(200, b"<html>hello"), Kind::Config);
        assert_eq!(kind(503, b"<html>"), Kind::ServerError);
        assert_eq!(kind(300, br#"{"versions":[]}"#), Kind::Config);
    }

    /// A server that answers everything with these lines; the requests that it got.
    async fn server(head: String) -> (Url, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let seen: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
        let requests = std::sync::Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 1 << 16];
                // The login is one packet.
                let len = stream.read(&mut request).await.unwrap_or(0);
                requests.lock().unwrap().push(String::from_utf8_lossy(&request[..len]).into_owned());
                let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (url, seen)
    }

    #[tokio::test]
    async fn no_redirect_takes_a_password_elsewhere() {
        let http = crate::config::HttpConfig {
            timeout: Duration::from_secs(10),
            retries: 0,
            ca_cert: None,
            insecure: false,
            max_connections: 1,
        };
        let tls = Tls::load(&http, None).unwrap();
        for code in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
            let (elsewhere, there) = server("401 Unauthorized".into()).await;
            let (url, here) = server(format!("{code}\r\nLocation: {elsewhere}v3/auth/tokens")).await;
            let auth = json!({ "auth_url": url.as_str(), "user_id": "u", "password": "pw-of-u" });
            let config = CloudConfig {
                auth: Some(serde_json::from_value(auth).unwrap()),
                auth_type: Some("v3password".into()),
                ..CloudConfig::default()
            };
            let error = login(&config, &tls, http.timeout).await.err().unwrap();
            assert_eq!(error.kind(), Kind::Config, "{code}: {error}");
            assert_eq!(here.lock().unwrap().len(), 1);
            assert!(there.lock().unwrap().is_empty(), "{code}");
        }
    }

    #[test]
    fn every_form_of_auth_url_leads_to_the_tokens() {
        for url in
            ["http://k:5000", "http://k:5000/", "http://k:5000/v3", "http://k:5000/v3/", "http://k:5000/v2.0"]
        {
            assert_eq!(tokens_url(url).unwrap().as_str(), "http://k:5000/v3/auth/tokens");
        }
        assert_eq!(
            tokens_url("https://k/identity/v3").unwrap().as_str(),
            "https://k/identity/v3/auth/tokens"
        );
    }

    #[test]
    fn the_lifetime_is_between_the_two_times_of_keystone() {
        let lifetime = lifetime("2026-11-20T10:00:00.000000Z", "2026-11-20T11:00:00.000000Z");
        assert_eq!(lifetime, Some(Duration::from_secs(3600)));
    }
}
