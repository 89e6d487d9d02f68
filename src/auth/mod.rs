//! Who we are to the cloud: a token and the addresses of Glance, renewed when needed.

use reqwest::header::HeaderValue;
use secrecy::SecretString;
use url::Url;

use crate::config::{AuthConfig, HttpConfig};
use crate::error::Result;

/// A Keystone token. It cannot be printed: `Debug` shows nothing of it.
#[derive(Debug, Clone)]
pub struct Token(SecretString);

impl Token {
    /// The value of `X-Auth-Token`, marked sensitive so that no HTTP log shows it.
    ///
    /// # Errors
    /// `NotAuthenticated` when the token holds bytes that no header can.
    pub fn header(&self) -> Result<HeaderValue> {
        unimplemented!()
    }
}

/// A token as it was at one time; `generation` names it without showing it.
#[derive(Debug, Clone)]
pub struct Credential {
    /// `None`: this cloud wants no token.
    pub token: Option<Token>,
    /// Counts renewals: hand it to [`Auth::renew_after`] when the server answered 401.
    pub generation: u64,
}

/// The one source of tokens and endpoints; cheap to clone.
#[derive(Debug, Clone)]
pub struct Auth {}

impl Auth {
    /// Logs in for the first time.
    pub async fn connect(_config: &AuthConfig, _http: &HttpConfig) -> Result<Self> {
        unimplemented!()
    }

    /// A token good for a request that starts now; renewed first when it is about to expire.
    pub async fn credential(&self) -> Result<Credential> {
        unimplemented!()
    }

    /// The server answered 401 to the token of `generation`: one renewal for all who wait.
    pub async fn renew_after(&self, _generation: u64) -> Result<Credential> {
        unimplemented!()
    }

    /// The image endpoints without their version (`http://host:9292/`, path kept), at least one.
    pub fn endpoints(&self) -> &[Url] {
        unimplemented!()
    }

    /// The project the token is scoped to, where that is known.
    pub fn project_id(&self) -> Option<&str> {
        unimplemented!()
    }
}
