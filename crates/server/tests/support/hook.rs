//! A webhook: a TLS server inside the test that judges as it is told to.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use skiff_meta::world::RealWorld;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// From the request of a review to the response, without its uid; `None`: 500.
pub type Judge = Arc<dyn Fn(Value) -> BoxFuture<'static, Option<Value>> + Send + Sync>;

pub struct Hook {
    pub url: String,
    /// Base64 of PEM.
    pub bundle: String,
    pub connections: Arc<AtomicUsize>,
    /// Requests of reviews, in order.
    pub seen: Arc<Mutex<Vec<Value>>>,
    /// The `Authorization` headers that came with them.
    pub shown: Arc<Mutex<Vec<String>>>,
}

/// A judge that needs no time.
pub fn at_once(judge: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Judge {
    Arc::new(move |request| {
        let response = judge(&request);
        Box::pin(async move { Some(response) })
    })
}

pub fn allow() -> Value {
    json!({"allowed": true})
}

pub fn patch(operations: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

impl Hook {
    pub async fn start(judge: Judge) -> Self {
        Self::start_for(judge, None).await
    }

    /// One that talks only to the holder of this certificate.
    pub async fn start_for(judge: Judge, client: Option<&rcgen::Certificate>) -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = match client {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(client) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(client.der().clone()).unwrap();
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap()
            }
        };
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/judge", listener.local_addr().unwrap());
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, notes, world) = (connections.clone(), seen.clone(), RealWorld::shared());
        let shown = Arc::new(Mutex::new(Vec::new()));
        let headers = shown.clone();
        let serving = world.clone();
        let accepting = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, judge, notes, count) = (acceptor.clone(), judge.clone(), notes.clone(), count.clone());
                let headers = headers.clone();
                let one = async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    let service = service_fn(|request: Request<Incoming>| {
                        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
                        headers.lock().extend(header.map(str::to_owned));
                        answer(request, judge.clone(), notes.clone())
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                };
                serving.spawn("hook-connection", Box::pin(one));
            }
        };
        world.spawn("hook", Box::pin(accepting));
        Self { url, bundle: STANDARD.encode(made.cert.pem()), connections, seen, shown }
    }

    /// A hook of a configuration that asks this server about config maps, with some things otherwise.
    pub fn entry(&self, name: &str, other: Value) -> Value {
        let mut entry = json!({
            "name": name, "admissionReviewVersions": ["v1", "v1beta1"], "sideEffects": "None", "timeoutSeconds": 5,
            "clientConfig": {"url": self.url, "caBundle": self.bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        });
        for (field, value) in other.as_object().into_iter().flatten() {
            entry[field] = value.clone();
        }
        entry
    }
}

async fn answer(
    request: Request<Incoming>,
    judge: Judge,
    notes: Arc<Mutex<Vec<Value>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut review: Value = serde_json::from_slice(&body).unwrap();
    let asked = review["request"].take();
    notes.lock().push(asked.clone());
    let uid = asked["uid"].clone();
    let Some(mut response) = judge(asked).await else {
        return Ok(Response::builder().status(500).body(Full::from("out of order")).unwrap());
    };
    if response["uid"].is_null() {
        response["uid"] = uid;
    }
    let answer = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
    Ok(Response::new(Full::from(answer.to_string())))
}
