//! Whom to trust: the one place where HTTP clients get their certificates and their cryptography from.

use std::path::{Path, PathBuf};
use std::sync::Once;

use openstack_sdk_core::config::CloudConfig;
use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::{AlertDescription, CertificateError};

use crate::config::{ClientCertificate, HttpConfig};
use crate::error::{Error, Kind, Result};

/// How servers prove who they are, to Keystone's client and to Glance's.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    roots: Vec<Certificate>,
    insecure: bool,
    /// Our own certificate and its key, for servers that demand one.
    identity: Option<Identity>,
    /// The system has CA certificates. Without any, a client that looks for them cannot be made, not even for plain HTTP.
    system_roots: bool,
}

impl Tls {
    /// `OS_CACERT`, `OS_CERT` and `OS_INSECURE` where given, else what clouds.yaml says. Reads the disk: not for the runtime.
    ///
    /// # Errors
    /// `Config` when a file cannot be read or holds no certificate, or no key where one is needed.
    pub(super) fn load(http: &HttpConfig, cloud: Option<&CloudConfig>) -> Result<Self> {
        install_provider();
        let from_cloud = cloud.and_then(|cloud| cloud.cacert.as_deref()).map(expand_home);
        let ca_file = http.ca_cert.clone().or(from_cloud);
        let insecure = http.insecure || cloud.is_some_and(|cloud| cloud.verify == Some(false));
        let roots = match &ca_file {
            Some(path) => read_roots(path)?,
            None => Vec::new(),
        };
        let own = http.client_cert.clone().or_else(|| own_certificate(cloud?));
        let identity = own.as_ref().map(read_identity).transpose()?;
        let system_roots = reqwest::Client::builder().build().is_ok();
        if !system_roots {
            tracing::warn!(
                "no CA certificates on this system (package ca-certificates): only those given are trusted"
            );
        }
        Ok(Self { roots, insecure, identity, system_roots })
    }

    /// A client that trusts the system's certificates and those given, that shows our own where there is one, and that
    /// never compresses.
    ///
    /// Compression stays off whatever crate switches it on for every client of the program (Cargo unites the features of a
    /// crate): asking for it would break ranged downloads.
    pub(super) fn client_builder(&self) -> ClientBuilder {
        let builder = self.stranger_builder();
        match &self.identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        }
    }

    /// The same without our certificate, for servers that are not of this cloud.
    pub(super) fn stranger_builder(&self) -> ClientBuilder {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("glancefs/", env!("CARGO_PKG_VERSION")))
            .no_gzip()
            .no_deflate()
            // Neither Keystone nor Glance redirects, and one would carry a token or a password to another place.
            .redirect(reqwest::redirect::Policy::none())
            .tls_danger_accept_invalid_certs(self.insecure);
        let roots = self.roots.iter().cloned();
        if self.system_roots { builder.tls_certs_merge(roots) } else { builder.tls_certs_only(roots) }
    }
}

/// Who does not trust whom, and the cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// We the server.
    Ours(&'static str),
    /// The server us.
    Theirs(&'static str),
}

/// What is wrong with a certificate, the server's or our own; `None`: the request failed for another reason.
pub fn distrust(error: &reqwest::Error) -> Option<Distrust> {
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        // An I/O error hides what it was made of from the chain of causes.
        let inner = below.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| below.downcast_ref());
        match found {
            Some(rustls::Error::InvalidCertificate(why)) => return Some(Distrust::Ours(told(why))),
            Some(rustls::Error::AlertReceived(alert)) => return refused(*alert).map(Distrust::Theirs),
            _ => {}
        }
        cause = inner.map_or_else(|| below.source(), |inner| Some(inner as &dyn std::error::Error));
    }
    None
}

/// What a server finds wrong with our certificate. TLS 1.2 has no word for one that is missing.
fn refused(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => Some(
            "it wants a certificate of the client: name it in OS_CERT or --os-cert, and its key in OS_KEY or --os-key",
        ),
        Alert::CertificateExpired => Some("the certificate of the client (OS_CERT) has expired: renew it"),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        // An authority of that name is known, but not this one.
        | Alert::DecryptError => Some(
            "it does not accept the certificate of the client: is there one in OS_CERT or --os-cert, and of the authority \
             that it trusts?",
        ),
        _ => None,
    }
}

fn told(why: &CertificateError) -> &'static str {
    match why {
        // An authority that was made anew under its old name gives the second.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by an authority unknown here: name the file with the authority's \
             certificate in OS_CACERT or --os-cacert"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another host name: use an address that the certificate names"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid at this time: look at its dates, and at the clock here"
        }
        _ => "its certificate is not accepted: have it replaced",
    }
}

/// Explicitly: with a second provider, which any crate in the tree may bring, rustls refuses to guess.
fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that someone installed one before: then that one is used.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

fn read_roots(path: &Path) -> Result<Vec<Certificate>> {
    let wrong = |why: &str| Error::new(Kind::Config, format!("the CA file {} {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong("cannot be read").with_source(error))?;
    let roots = Certificate::from_pem_bundle(&pem).map_err(|error| wrong("is not PEM").with_source(error))?;
    if roots.is_empty() {
        return Err(wrong("holds no certificate"));
    }
    Ok(roots)
}

/// `cert` and `key` of clouds.yaml.
fn own_certificate(cloud: &CloudConfig) -> Option<ClientCertificate> {
    let path = |name: &str| {
        let text = cloud.options.get(name)?.clone().into_string().ok()?;
        (!text.is_empty()).then(|| expand_home(&text))
    };
    Some(ClientCertificate { cert: path("cert")?, key: path("key") })
}

fn read_identity(own: &ClientCertificate) -> Result<Identity> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| {
            let message = format!("the file {} of the client's certificate cannot be read", path.display());
            Error::new(Kind::Config, message).with_source(error)
        })
    };
    let mut pem = read(&own.cert)?;
    if let Some(key) = &own.key {
        pem.push(b'\n');
        pem.extend(read(key)?);
    }
    Identity::from_pem(&pem).map_err(|error| {
        let files = match &own.key {
            Some(key) => format!("{} and {} hold", own.cert.display(), key.display()),
            None => format!("{} holds", own.cert.display()),
        };
        let message = format!(
            "{files} no certificate of the client with its key: name PEM files in OS_CERT and OS_KEY (--os-cert, --os-key), \
             the key without a password"
        );
        Error::new(Kind::Config, message).with_source(error)
    })
}

fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn http(ca_cert: Option<PathBuf>) -> HttpConfig {
        HttpConfig {
            timeout: Duration::from_secs(5),
            hard: false,
            retries: 3,
            ca_cert,
            client_cert: None,
            insecure: false,
            max_connections: 1,
        }
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        for text in [None, Some("no certificate\n")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = Tls::load(&http(Some(path.clone())), None).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
    }

    #[test]
    fn the_command_line_counts_more_than_clouds_yaml() {
        let cloud =
            CloudConfig { cacert: Some("/does/not/exist".into()), verify: Some(false), ..Default::default() };
        assert!(
            Tls::load(&http(None), Some(&cloud)).is_err(),
            "clouds.yaml's file is used when no other is given"
        );
        let cloud = CloudConfig { verify: Some(false), ..Default::default() };
        assert!(Tls::load(&http(None), Some(&cloud)).unwrap().insecure);
    }
}
