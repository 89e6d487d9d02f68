//! HTTPS in front of a server, as a load balancer of a cloud with a CA of its own gives it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// Bytes of a request up to its body: headers with a token are some 4 KiB.
const LONGEST_HEAD: usize = 64 * 1024;

/// A private CA.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "a private CA");
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// Its certificate, for `OS_CACERT`.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// HTTPS for the server at `url` (`http://host:port...`), with a certificate for `name`.
    pub fn front(&self, url: &str, name: &str) -> Front {
        self.front_for(url, name, None)
    }

    /// The same, which serves only clients that show a certificate of `clients`.
    pub fn front_for_clients_of(&self, url: &str, name: &str, clients: &Authority) -> Front {
        self.front_for(url, name, Some(clients))
    }

    /// A certificate for a client and its key, as PEM.
    pub fn client(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "a client");
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn front_for(&self, url: &str, name: &str, clients: Option<&Authority>) -> Front {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = clients.map_or_else(WebPkiClientVerifier::no_client_auth, |clients| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(clients.certificate.der().clone()).unwrap();
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap()
        });
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let server = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), server));
        Front { _runtime: runtime, address }
    }
}

/// An HTTPS port on this machine that leads to a server.
pub struct Front {
    /// Its tasks end with it.
    _runtime: Runtime,
    address: SocketAddr,
}

impl Front {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, server: String) {
    while let Ok((client, _)) = listener.accept().await {
        let (acceptor, server) = (acceptor.clone(), server.clone());
        // A client that does not trust us, or goes away, is nothing special.
        tokio::spawn(async move { pass(client, &acceptor, &server).await });
    }
}

/// Passes one request on, with the header by which the server knows that its clients speak HTTPS.
async fn pass(client: TcpStream, acceptor: &TlsAcceptor, server: &str) -> io::Result<()> {
    let mut client = match acceptor.accept(client).into_fallible().await {
        Ok(client) => client,
        Err((refusal, mut client)) => {
            // The request of a refused client is under way already (TLS 1.3): closed before it has come, the connection
            // would be reset, and the reset would overtake the alert that says why.
            client.shutdown().await?;
            tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
            return Err(refusal);
        }
    };
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(2).position(|pair| pair == b"\r\n") {
            break at + 2;
        }
        if head.len() > LONGEST_HEAD || client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    };
    let mut server = TcpStream::connect(server).await?;
    server.write_all(&head[..end]).await?;
    server.write_all(b"X-Forwarded-Proto: https\r\nConnection: close\r\n").await?;
    server.write_all(&head[end..]).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
