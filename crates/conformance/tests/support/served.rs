//! Servers of a suite's own, whom the API under test or its scheduler asks.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// From what was asked, and its body (null where it is no JSON), to a code and a body.
type Answer = dyn Fn(&Parts, Value) -> (u16, Value) + Send + Sync;

/// A server that ends with this value.
pub(crate) struct Served {
    pub(crate) port: u16,
    serving: tokio::task::JoinHandle<()>,
}

impl Served {
    /// Over TLS where that is given.
    pub(crate) async fn start(
        tls: Option<ServerConfig>,
        answer: impl Fn(&Parts, Value) -> (u16, Value) + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        Ok(Self { port, serving: tokio::spawn(serve(listener, acceptor, Arc::new(answer))) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, answer: Arc<Answer>) {
    // Connections end with whoever accepts them.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        connections.spawn(async move {
            match acceptor {
                None => talk(stream, answer).await,
                // Who is not let in is the test's business.
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => talk(stream, answer).await,
                    Err(_) => {}
                },
            }
        });
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, answer: Arc<Answer>) {
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let (code, body) = answer(&parts, serde_json::from_slice(&body).unwrap_or_default());
            let response = Response::builder().status(code).header("content-type", "application/json");
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body.to_string()))).unwrap_or_default())
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An authority for certificates of servers and clients.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// PEM of a certificate for this name, and of its key.
    pub(crate) fn issue(&self, name: &str) -> Result<(String, String), Failure> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// A server of this name, which lets in those who have a certificate of `clients`, PEM of authorities; empty: anyone.
    pub(crate) fn server(&self, name: &str, clients: &str) -> Result<ServerConfig, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = if clients.is_empty() {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(clients.as_bytes()) {
                roots.add(certificate?)?;
            }
            let known = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(known)
        };
        let (certificate, key) = self.issue(name)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
        Ok(builder.with_single_cert(vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes())?)?)
    }
}
