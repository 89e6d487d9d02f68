//! A Keystone token in a type that cannot be printed.

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Kind, Result};

/// A Keystone token. It cannot be printed: `Debug` shows nothing of it.
#[derive(Debug, Clone)]
pub struct Token(SecretString);

impl Token {
    /// Wraps the text of a token.
    pub fn new(text: impl Into<SecretString>) -> Self {
        Self(text.into())
    }

    /// The value of `X-Auth-Token`, marked sensitive so that no HTTP log shows it.
    ///
    /// # Errors
    /// `NotAuthenticated` when the token holds bytes that no header can.
    pub fn header(&self) -> Result<HeaderValue> {
        let mut value = HeaderValue::from_str(self.0.expose_secret()).map_err(|_| {
            Error::new(Kind::NotAuthenticated, "the token holds characters that no HTTP header can carry")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// A token as it was at one time; `generation` names it without showing it.
#[derive(Debug, Clone)]
pub struct Credential {
    /// `None`: this cloud wants no token.
    pub token: Option<Token>,
    /// Counts renewals: hand it to [`Auth::renew_after`](super::Auth::renew_after) when the server answered 401.
    pub generation: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_in_no_debug_output() {
        let token = Token::new("gAAAA-secret");
        let credential = Credential { token: Some(token.clone()), generation: 3 };
        let header = token.header().unwrap();
        for text in [format!("{token:?}"), format!("{credential:#?}"), format!("{header:?}")] {
            assert!(!text.contains("secret"), "{text}");
        }
        assert_eq!(header.to_str().unwrap(), "gAAAA-secret");
    }

    #[test]
    fn a_token_with_a_line_break_is_refused_without_showing_it() {
        let error = Token::new("gAAAA\r\nX-Other: 1").header().unwrap_err();
        assert_eq!(error.kind(), Kind::NotAuthenticated);
        assert!(!error.to_string().contains("gAAAA"));
    }
}
