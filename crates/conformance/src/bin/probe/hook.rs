//! A webhook of admission in a pod: HTTPS on port 8443, with `tls.crt` and `tls.key` of a folder.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use skiff_conformance::judge;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) async fn run(folder: &Path) -> Result<(), String> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(folder)?));
    let listener = TcpListener::bind(("::", 8443)).await.map_err(|e| e.to_string())?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Probes of its port say nothing.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

fn tls(folder: &Path) -> Result<rustls::ServerConfig, String> {
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let certificate = CertificateDer::from_pem_file(certificate).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| e.to_string())?;
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(|e| e.to_string())
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let Ok(review) = serde_json::from_slice::<Value>(&body) else {
        return Ok(Response::builder().status(400).body(Full::from("no review")).unwrap_or_default());
    };
    let response = judge(&review["request"]);
    let answer = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
    Ok(Response::new(Full::from(answer.to_string())))
}
