//! The request of a login where the SDK cannot make it; drop this file when it can.
//!
//! - It (0.22.8) shows no certificate of the client (`OS_CERT`).
//! - Its plugin for application credentials (0.22.7) handles the id form only: its list of wanted fields leaves out the
//!   name, and it puts the user's domain where Keystone does not look.

use std::time::Duration;

use openstack_sdk::config::{Auth, CloudConfig};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::endpoint::CatalogueEntry;
use super::keystone::{Login, exposed, login_error, transport_error};
use super::tls::Tls;
use super::token::Token;
use crate::error::{Error, Kind, Result};

/// Bytes of an answer that are read. A catalogue of 100 services has some 50 KB.
const ANSWER_LIMIT: usize = 4 << 20;

pub(super) async fn login(config: &CloudConfig, tls: &Tls, timeout: Duration) -> Result<Login> {
    let auth = config.auth.as_ref().ok_or_else(|| missing("OS_AUTH_URL"))?;
    let url = tokens_url(auth.auth_url.as_deref().unwrap_or_default())?;
    let body = json!({ "auth": request(config.auth_type.as_deref(), auth)? });
    let client = tls
        .client_builder()
        .timeout(timeout)
        // The request holds the secret.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| Error::new(Kind::Config, "cannot set up TLS").with_source(error))?;
    let mut answer = client.post(url).json(&body).send().await.map_err(transport_error)?;
    let status = u32::from(answer.status().as_u16());
    let token = answer.headers().get("x-subject-token").and_then(|value| value.to_str().ok()).map(Token::new);
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(transport_error)? {
        if text.len() + chunk.len() > ANSWER_LIMIT {
            return Err(Error::new(Kind::ServerError, "an answer without end"));
        }
        text.extend_from_slice(&chunk);
    }
    if status != 201 {
        let said: Value = serde_json::from_slice(&text).unwrap_or_default();
        return Err(login_error(status, said["error"]["message"].as_str().unwrap_or("no message")));
    }
    let answer: Answer = serde_json::from_slice(&text)
        .map_err(|error| Error::new(Kind::ServerError, "the answer to a login").with_source(error))?;
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
            user["password"] = exposed(auth.password.as_ref()).into();
            ("password", json!({ "user": user }))
        }
        Some("v3token") => ("token", json!({ "id": exposed(auth.token.as_ref()) })),
        Some("v3applicationcredential") => {
            let secret = exposed(auth.application_credential_secret.as_ref());
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
                "auth_type {other} does not go with OS_CERT: use a password, a token or an application credential"
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

fn named(id: &Option<String>, name: &Option<String>) -> Value {
    match (id, name) {
        (Some(id), _) => json!({ "id": id }),
        (None, name) => json!({ "name": name }),
    }
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
