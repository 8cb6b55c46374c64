//! HTTP and gRPC requests to containers. Whom a container's certificate names is not checked: it is asked by address.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{GRPCAction, HTTPGetAction};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::action::Answer;

/// How much of an answer is read.
const KEPT: usize = 10 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A GET request; any answer from 200 to 399 is a good one.
pub(super) async fn get(action: &HTTPGetAction, port: u16, address: &str) -> Answer {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(address);
    let tls = action.scheme.as_deref() == Some("HTTPS");
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    match exchange(action, host, port, tls, &path).await {
        Ok(status) if status.as_u16() < 400 => Answer::Success,
        Ok(status) => Answer::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
        Err(error) => {
            let scheme = if tls { "https" } else { "http" };
            Answer::Failure(format!("Get \"{scheme}://{}:{port}{path}\": {error}", bracketed(host)))
        }
    }
}

async fn exchange(action: &HTTPGetAction, host: &str, port: u16, tls: bool, path: &str) -> Result<StatusCode, Failure> {
    let mut request = Request::get(path)
        .header(header::USER_AGENT, "kube-probe/1.36")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Full::<Bytes>::default())?;
    for given in action.http_headers.iter().flatten() {
        request.headers_mut().insert(HeaderName::try_from(&*given.name)?, HeaderValue::try_from(&*given.value)?);
    }
    let authority = HeaderValue::try_from(format!("{}:{port}", bracketed(host)))?;
    request.headers_mut().entry(header::HOST).or_insert(authority);
    let stream = TcpStream::connect((host, port)).await?;
    if !tls {
        return send(stream, request).await;
    }
    let connector = tokio_rustls::TlsConnector::from(trusting_anybody()?);
    send(connector.connect(ServerName::try_from(host.to_owned())?, stream).await?, request).await
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let ask = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        // The rest of the answer does not matter, but a server may mind not being listened to.
        let _ = Limited::new(response.into_body(), KEPT).collect().await;
        Ok(status)
    };
    // The connection moves only while it is polled; when it ends first, the answer is in.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = ask => status,
        () = drive => Err("the connection was closed".into()),
    }
}

/// The standard health check of gRPC: `grpc.health.v1.Health/Check`. Its two messages are so small that they are
/// written and read by hand.
pub(super) async fn grpc(action: &GRPCAction, address: &str) -> Answer {
    let service = action.service.as_deref().unwrap_or_default();
    let Ok(port) = u16::try_from(action.port) else { return Answer::Error("invalid port number".to_owned()) };
    match check(service, address, port).await {
        Ok(1) => Answer::Success,
        Ok(_) => Answer::Failure(format!("service unhealthy (responded with \"NOT_SERVING\") for service {service:?}")),
        Err(error) => Answer::Failure(format!("failed to connect service {address}:{port}: {error}")),
    }
}

/// The `status` field of the answer: 1 is SERVING.
async fn check(service: &str, address: &str, port: u16) -> Result<u8, Failure> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, u8::try_from(service.len())?]);
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len())?];
    frame.extend(message);
    let uri = format!("http://{}:{port}/grpc.health.v1.Health/Check", bracketed(address));
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(Bytes::from(frame)))?;
    let stream = TcpStream::connect((address, port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let ask = async move {
        let response = sender.send_request(request).await?;
        let body = Limited::new(response.into_body(), KEPT).collect().await?.to_bytes();
        // Frame header, then field 1 as a number; an absent field means "unknown".
        match &body[..] {
            [0, _, _, _, _, 0x08, status, ..] => Ok(*status),
            [0, ..] => Ok(0),
            _ => Err("the server has no health service".into()),
        }
    };
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = ask => status,
        () = drive => Err("the connection was closed".into()),
    }
}

/// Probes ask containers by address, whose certificates cannot name it.
fn trusting_anybody() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Anybody(provider));
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
