//! One login at Keystone v3: `POST /v3/auth/tokens` with a password, a token or an application credential.
//!
//! Sent by ourselves and not by `openstack_sdk` (0.22.8): its client follows redirects, and one with 307 or 308 takes the
//! password or the token to wherever it points; what a discovery document names as Keystone's address gets them, too. Nor
//! does it show a certificate of the client (`OS_CERT`), or know application credentials by name. Here they go to the
//! address that the operator gave, and to no other.

use std::time::{Duration, Instant};

use openstack_sdk_core::config::{Auth, CloudConfig};
use reqwest::{Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::endpoint::CatalogueEntry;
use super::tls::{Distrust, Tls, distrust};
use super::token::Token;
use crate::error::{Error, Kind, Result};
use crate::metrics::{Call, PROCESS};

/// Bytes of an answer that are read. A catalogue of 100 services has some 50 KB.
const ANSWER_LIMIT: usize = 4 << 20;

/// Tries at a connection that ends without an answer. A server that wants another certificate of ours says so once the
/// connection is made for us (TLS 1.3); when that comes before the request is on its way, the error does not hold it, and
/// the next connection tells. It was seen on a machine under load.
const TRIES: u32 = 4;

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
    let body = json!({ "auth": request(config.auth_type.as_deref(), auth)? });
    // It follows no redirect.
    let client = tls
        .client_builder()
        .timeout(timeout)
        .build()
        .map_err(|error| Error::new(Kind::Config, "cannot set up TLS").with_source(error))?;
    let send = || counted(client.post(url.clone()).json(&body), &url);
    let mut answer = send().await;
    for _ in 1..TRIES {
        match &answer {
            Err(error) if is_cut(error) => answer = send().await,
            _ => break,
        }
    }
    let mut answer = answer.map_err(transport_error)?;
    let status = answer.status();
    let to = answer.headers().get(header::LOCATION).and_then(|to| url.join(to.to_str().ok()?).ok());
    if let Some(to) = to.filter(|_| status.is_redirection()) {
        return Err(redirected(status, &to));
    }
    let token = answer.headers().get("x-subject-token").and_then(|value| value.to_str().ok()).map(Token::new);
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(transport_error)? {
        if text.len() + chunk.len() > ANSWER_LIMIT {
            return Err(Error::new(Kind::ServerError, "an answer without end"));
        }
        text.extend_from_slice(&chunk);
    }
    if status != StatusCode::CREATED {
        return Err(refused(status, &text));
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

/// Sends a login once, counted and logged. Nothing of what it holds is shown.
async fn counted(request: reqwest::RequestBuilder, to: &Url) -> Result<Response, reqwest::Error> {
    let begun = Instant::now();
    let answer = request.send().await;
    let port = to.port_or_known_default().unwrap_or_default();
    let peer = format!("{}:{port}", to.host_str().unwrap_or_default());
    let latency = begun.elapsed();
    let latency_ms = latency.as_millis() as u64;
    match &answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            PROCESS.request(Call::Login, Some(status), latency);
            let id = answer.headers().get("x-openstack-request-id").and_then(|id| id.to_str().ok());
            tracing::debug!(operation = "login", %peer, status, latency_ms, server_request_id = id, "request");
        }
        Err(error) => {
            PROCESS.request(Call::Login, None, latency);
            tracing::debug!(operation = "login", %peer, latency_ms, %error, "request without an answer");
        }
    }
    answer
}

fn missing(what: &str) -> Error {
    Error::new(Kind::Config, format!("{what} is missing"))
}

/// Who logs in, and for what, as Keystone v3 wants it (`POST /v3/auth/tokens`).
fn request(auth_type: Option<&str>, auth: &Auth) -> Result<Value> {
    let user = || {
        let by_name = |name: &String| json!({ "name": name, "domain": named(&auth.user_domain_id, &auth.user_domain_name) });
        match (&auth.user_id, &auth.username) {
            (Some(id), _) => Ok(json!({ "id": id })),
            (None, Some(name)) => Ok(by_name(name)),
            (None, None) => Err(missing("OS_USERNAME or OS_USER_ID")),
        }
    };
    let (method, of_method) = match auth_type {
        Some("v3password") => {
            let mut user = user()?;
            user["password"] = exposed(&auth.password).into();
            ("password", json!({ "user": user }))
        }
        Some("v3token") => ("token", json!({ "id": exposed(&auth.token) })),
        Some("v3applicationcredential") => {
            let secret = exposed(&auth.application_credential_secret);
            let credential = match &auth.application_credential_id {
                Some(id) => json!({ "id": id, "secret": secret }),
                None => {
                    let user = user().map_err(|error| {
                        error.context("an application credential given by name needs its user")
                    })?;
                    json!({ "name": auth.application_credential_name, "secret": secret, "user": user })
                }
            };
            ("application_credential", credential)
        }
        other => {
            let other = other.unwrap_or_default();
            let why = format!(
                "auth_type {other} is not known: use a password, a token or an application credential"
            );
            return Err(Error::new(Kind::Config, why));
        }
    };
    let mut request = json!({ "identity": { "methods": [method], method: of_method } });
    if let Some(scope) = scope(auth) {
        request["scope"] = scope;
    }
    Ok(request)
}

/// Of an application credential `clouds` leaves none.
fn scope(auth: &Auth) -> Option<Value> {
    Some(match (&auth.project_id, &auth.project_name) {
        (Some(id), _) => json!({ "project": { "id": id } }),
        (None, Some(name)) => {
            let domain = named(&auth.project_domain_id, &auth.project_domain_name);
            json!({ "project": { "name": name, "domain": domain } })
        }
        (None, None) if auth.domain_id.is_some() || auth.domain_name.is_some() => {
            json!({ "domain": named(&auth.domain_id, &auth.domain_name) })
        }
        (None, None) if auth.system_scope.is_some() => json!({ "system": { "all": true } }),
        (None, None) => return None,
    })
}

/// For the one place that must put it into a request.
fn exposed(secret: &Option<SecretString>) -> &str {
    secret.as_ref().map(|secret| secret.expose_secret()).unwrap_or_default()
}

fn named(id: &Option<String>, name: &Option<String>) -> Value {
    match (id, name) {
        (Some(id), _) => json!({ "id": id }),
        (None, name) => json!({ "name": name }),
    }
}

/// Keystone does not redirect, and what does would get what we log in with.
fn redirected(status: StatusCode, to: &Url) -> Error {
    let to = to.origin().ascii_serialization();
    Error::new(
        Kind::Config,
        format!(
            "it sends us to {to} (HTTP {}), where credentials are not taken: if that is Keystone, name it in OS_AUTH_URL",
            status.as_u16()
        ),
    )
}

/// What another status than 201 means. Keystone gives its reason as JSON; what does not is no Keystone.
fn refused(status: StatusCode, text: &[u8]) -> Error {
    let said: Value = serde_json::from_slice(text).unwrap_or_default();
    let reason = said["error"]["message"].as_str();
    let code = status.as_u16();
    // Proxies give these, too.
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Error::new(Kind::ServerError, format!("it answers HTTP {code}"));
    }
    if reason.is_none() && status != StatusCode::UNAUTHORIZED {
        return Error::new(
            Kind::Config,
            format!("what answers there (HTTP {code}) is no Keystone v3: check OS_AUTH_URL"),
        );
    }
    let kind = match code {
        // A revoked application credential is a 404.
        401 | 403 | 404 => Kind::NotAuthenticated,
        400 => Kind::Config,
        _ => Kind::ServerError,
    };
    let said: String = reason.unwrap_or("no message").chars().filter(|c| !c.is_control()).take(200).collect();
    Error::new(kind, format!("the credentials were refused (HTTP {code}: {said})"))
}

/// The connection was made, and ended for a reason that nobody told.
fn is_cut(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout() && distrust(error).is_none()
}

/// A request to Keystone that got no answer.
fn transport_error(error: reqwest::Error) -> Error {
    let (kind, what) = match distrust(&error) {
        Some(Distrust::Ours(why) | Distrust::Theirs(why)) => (Kind::Untrusted, why),
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
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::HttpConfig;

    #[test]
    fn each_way_to_log_in_is_asked_as_keystone_wants_it() {
        let secret = || Some("s3cr3t".into());
        let text = |text: &str| Some(text.to_owned());
        let alice = Auth {
            username: text("alice"),
            user_domain_id: text("default"),
            password: secret(),
            project_name: text("alpha"),
            project_domain_name: text("Users"),
            ..Auth::default()
        };
        let expected = json!({
            "identity": { "methods": ["password"], "password": { "user": {
                "name": "alice", "domain": { "id": "default" }, "password": "s3cr3t"
            } } },
            "scope": { "project": { "name": "alpha", "domain": { "name": "Users" } } },
        });
        assert_eq!(request(Some("v3password"), &alice).unwrap(), expected);
        let token = Auth { token: secret(), project_id: text("1f"), ..Auth::default() };
        let expected = json!({
            "identity": { "methods": ["token"], "token": { "id": "s3cr3t" } },
            "scope": { "project": { "id": "1f" } },
        });
        assert_eq!(request(Some("v3token"), &token).unwrap(), expected);
        let credential = Auth {
            application_credential_id: text("2f"),
            application_credential_secret: secret(),
            ..Auth::default()
        };
        let expected = json!({ "identity": {
            "methods": ["application_credential"],
            "application_credential": { "id": "2f", "secret": "s3cr3t" },
        } });
        assert_eq!(request(Some("v3applicationcredential"), &credential).unwrap(), expected);
        assert_eq!(request(Some("v3totp"), &alice).unwrap_err().kind(), Kind::Config);
    }

    #[test]
    fn what_is_no_keystone_is_told_from_a_refusal() {
        let keystone = br#"{"error":{"code":404,"message":"Could not find\nit","title":"Not Found"}}"#;
        let kind = |status: u16, text: &[u8]| refused(StatusCode::from_u16(status).unwrap(), text).kind();
        assert_eq!(kind(404, keystone), Kind::NotAuthenticated);
        assert_eq!(kind(404, b"<html>"), Kind::Config);
        assert_eq!(kind(401, b""), Kind::NotAuthenticated);
        assert_eq!(kind(200, b"<html>hello"), Kind::Config);
        assert_eq!(
            kind(300, br#"{"versions":[]}"#),
            Kind::Config,
            "Glance says so to all that it does not know"
        );
        assert_eq!(kind(503, b"<html>"), Kind::ServerError);
    }

    /// A server that answers everything with this head, and the requests that it got.
    async fn server(head: String) -> (Url, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let requests = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                // The body of each login here ends so.
                while !request.ends_with(b"}}")
                    && stream.read_buf(&mut request).await.is_ok_and(|len| len > 0)
                {}
                requests.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (url, seen)
    }

    fn patient() -> (Tls, Duration) {
        let timeout = Duration::from_secs(30);
        let http = HttpConfig {
            timeout,
            hard: false,
            retries: 0,
            ca_cert: None,
            client_cert: None,
            insecure: false,
            max_connections: 1,
        };
        (Tls::load(&http, None).unwrap(), timeout)
    }

    #[tokio::test]
    async fn no_redirect_takes_what_we_log_in_with_elsewhere() {
        let (tls, timeout) = patient();
        for code in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
            let (elsewhere, there) = server("401 Unauthorized".into()).await;
            let (url, here) = server(format!("{code}\r\nLocation: {elsewhere}v3/auth/tokens")).await;
            for (auth_type, fields) in [
                ("v3password", json!({ "user_id": "u", "password": "the-secret" })),
                ("v3token", json!({ "token": "the-secret" })),
                (
                    "v3applicationcredential",
                    json!({ "application_credential_id": "i", "application_credential_secret": "the-secret" }),
                ),
                (
                    "v3applicationcredential",
                    json!({ "application_credential_name": "n", "application_credential_secret": "the-secret",
                        "user_id": "u" }),
                ),
            ] {
                let mut auth: Auth = serde_json::from_value(fields).unwrap();
                auth.auth_url = Some(url.to_string());
                let (auth, auth_type) = (Some(auth), Some(auth_type.to_owned()));
                let config = CloudConfig { auth, auth_type, ..CloudConfig::default() };
                let error = login(&config, &tls, timeout).await.err().unwrap();
                assert_eq!(error.kind(), Kind::Config, "{code}: {error}");
                let to = elsewhere.as_str().trim_end_matches('/');
                assert!(error.to_string().contains(to), "the operator is told where: {error}");
            }
            let here = here.lock().unwrap();
            assert_eq!(here.iter().filter(|request| request.contains("the-secret")).count(), 4, "{here:?}");
            assert!(there.lock().unwrap().is_empty(), "{code}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_without_a_word_is_followed_by_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let auth_url = Some(format!("http://{}/", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            for _ in 1..TRIES {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 100]).await;
            }
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.read(&mut [0; 4096]).await;
        });
        let auth =
            Auth { auth_url, user_id: Some("u".into()), password: Some("p".into()), ..Auth::default() };
        let (auth, auth_type) = (Some(auth), Some("v3password".to_owned()));
        let config = CloudConfig { auth, auth_type, ..CloudConfig::default() };
        let (tls, timeout) = patient();
        let error = login(&config, &tls, timeout).await.err().unwrap();
        assert_eq!(error.kind(), Kind::NotAuthenticated, "{error}");
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
