//! Whom to trust: the one place where HTTP clients get their certificates and their cryptography from.

use std::path::{Path, PathBuf};
use std::sync::Once;

use openstack_sdk::config::CloudConfig;
use reqwest::{Certificate, ClientBuilder};
use rustls::CertificateError;

use crate::config::HttpConfig;
use crate::error::{Error, Kind, Result};

/// How servers prove who they are, to Keystone's client and to Glance's.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    ca_file: Option<PathBuf>,
    roots: Vec<Certificate>,
    insecure: bool,
    /// The system has CA certificates. Without any, a client that looks for them cannot be made, not even for plain HTTP.
    system_roots: bool,
}

impl Tls {
    /// `OS_CACERT` and `OS_INSECURE` where given, else what clouds.yaml says. Reads the disk: not for the runtime.
    ///
    /// # Errors
    /// `Config` when the certificate file cannot be read or holds no certificate.
    pub(super) fn load(http: &HttpConfig, cloud: Option<&CloudConfig>) -> Result<Self> {
        install_provider();
        let from_cloud = cloud.and_then(|cloud| cloud.cacert.as_deref()).map(expand_home);
        let ca_file = http.ca_cert.clone().or(from_cloud);
        let insecure = http.insecure || cloud.is_some_and(|cloud| cloud.verify == Some(false));
        let roots = match &ca_file {
            Some(path) => read_roots(path)?,
            None => Vec::new(),
        };
        let system_roots = reqwest::Client::builder().build().is_ok();
        if !system_roots {
            tracing::warn!(
                "no CA certificates on this system (package ca-certificates): only those given are trusted"
            );
        }
        Ok(Self { ca_file, roots, insecure, system_roots })
    }

    /// A client that trusts the system's certificates and those given, and that never compresses.
    ///
    /// The SDK switches gzip and deflate on for every client of the program (Cargo unites the features of a crate);
    /// asking for them would break ranged downloads.
    pub(super) fn client_builder(&self) -> Result<ClientBuilder> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("glancefs/", env!("CARGO_PKG_VERSION")))
            .no_gzip()
            .no_deflate()
            .tls_danger_accept_invalid_certs(self.insecure);
        let roots = self.roots.iter().cloned();
        Ok(if self.system_roots { builder.tls_certs_merge(roots) } else { builder.tls_certs_only(roots) })
    }

    /// The SDK's client, which cannot do without the system's certificates, can be made.
    ///
    /// # Errors
    /// `Config`, with the cure.
    pub(super) fn check_for_sdk(&self) -> Result<()> {
        if self.system_roots {
            return Ok(());
        }
        let cure = "install the package ca-certificates, or name a file of certificates in SSL_CERT_FILE";
        Err(Error::new(
            Kind::Config,
            format!("this system has no CA certificates, which Keystone's client needs: {cure}"),
        ))
    }

    /// The same for the SDK's client.
    pub(super) fn apply(&self, config: &mut CloudConfig) {
        config.cacert = self.ca_file.as_ref().map(|path| path.display().to_string());
        config.verify = Some(!self.insecure);
    }
}

/// What is wrong with the certificate that a server showed, and the cure; `None`: the request failed for
/// another reason.
pub fn distrust(error: &reqwest::Error) -> Option<&'static str> {
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        // An I/O error hides what it was made of from the chain of causes.
        let inner = below.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| below.downcast_ref());
        if let Some(rustls::Error::InvalidCertificate(why)) = found {
            return Some(told(why));
        }
        cause = inner.map_or_else(|| below.source(), |inner| Some(inner as &dyn std::error::Error));
    }
    None
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

/// rustls is built with two providers (the SDK brings `ring`) and refuses to guess between them.
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
