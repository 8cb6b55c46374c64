//! What the node serves to the API server, over HTTPS: logs, commands, attachment, port forwarding.
//!
//! Only clients with a certificate of the cluster and one of the names in the configuration are let in. Streams are
//! those of the runtime's own streaming server; see [`stream`].

mod logs;
mod query;
mod spdy;
mod stream;
mod websocket;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use skiff_meta::world::WorldExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{NodeError, ServerConfig};
use crate::node::Node;
use crate::pod::manager::Manager;
use crate::stats;
use query::Query;

/// A pause after the system had no connection to give, which is mostly for lack of file descriptors.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// How long a client may take to introduce itself.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// An answer's body.
type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The port, taken, and who may come in.
pub(crate) struct Listener {
    listener: std::net::TcpListener,
    port: u16,
    tls: TlsAcceptor,
    clients: Arc<[String]>,
}

/// What every request needs.
struct Context {
    node: Arc<Node>,
    manager: Arc<Manager>,
}

impl Listener {
    /// Takes the port.
    ///
    /// # Errors
    /// When the port is taken or the certificates cannot be used.
    pub(crate) fn bind(config: &ServerConfig) -> Result<Self, NodeError> {
        let tls = tls(config)?;
        let failed = |source| NodeError::Listen { address: config.bind, source };
        let listener = std::net::TcpListener::bind(config.bind).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok(Self { listener, port, tls, clients: config.clients.clone().into() })
    }

    /// Which port it is.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Serves for ever.
    pub(crate) async fn serve(self, node: Arc<Node>, manager: Arc<Manager>) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("the node's server does not run: {error}"),
        };
        let context = Arc::new(Context { node: node.clone(), manager });
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (tls, clients, context) = (self.tls.clone(), self.clients.clone(), context.clone());
                    let connection = async move {
                        if let Err(error) = serve_one(stream, tls, clients, context).await {
                            tracing::debug!("a connection broke off: {error}");
                        }
                    };
                    drop(node.world.spawn("node connection", Box::pin(connection)));
                }
                Err(error) => {
                    tracing::warn!("no connection could be accepted: {error}");
                    node.world.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn tls(config: &ServerConfig) -> Result<TlsAcceptor, NodeError> {
    let bad = |what: &dyn std::fmt::Display| NodeError::Certificate(what.to_string());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&config.client_ca) {
        roots.add(authority.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Without a certificate there is still /healthz.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| bad(&error))?;
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(config.identity.clone());
    Ok(TlsAcceptor::from(Arc::new(server)))
}

async fn serve_one(
    stream: TcpStream,
    tls: TlsAcceptor,
    clients: Arc<[String]>,
    context: Arc<Context>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = context.node.world.timeout(PATIENCE, tls.accept(stream)).await.ok_or("no TLS handshake in time")??;
    let name = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?));
    let service = service_fn(move |request: Request<Incoming>| {
        let (context, clients, name) = (context.clone(), clients.clone(), name.clone());
        async move {
            let answer = match admit(&clients, name.as_deref(), request.uri().path()) {
                Ok(()) => answer(&context, request).await,
                Err(refusal) => Err(refusal),
            };
            Ok::<_, std::convert::Infallible>(answer.unwrap_or_else(Refusal::into_response))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    Ok(connection.with_upgrades().await?)
}

/// Whether the holder of a certificate with this name is let in.
fn admit(clients: &[String], name: Option<&str>, path: &str) -> Result<(), Refusal> {
    match name {
        _ if path == "/healthz" => Ok(()),
        None => Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized")),
        Some(name) if clients.iter().any(|client| client == name) => Ok(()),
        Some(name) => Err(Refusal::new(StatusCode::FORBIDDEN, format!("Forbidden (user={name}, path={path})"))),
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    parsed.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

/// A request that is not served.
#[derive(Debug)]
struct Refusal {
    code: StatusCode,
    words: String,
}

impl Refusal {
    fn new(code: StatusCode, words: impl Into<String>) -> Self {
        Self { code, words: words.into() }
    }
    fn bad(words: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, words)
    }
    fn not_found(words: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, words)
    }
    fn internal(words: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, words)
    }
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(text(self.words));
        *response.status_mut() = self.code;
        response
    }
}

fn text(words: impl Into<Bytes>) -> Body {
    Full::new(words.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Metrics in Prometheus' text form.
fn exposition(metrics: String) -> Response<Body> {
    let mut response = Response::new(text(metrics));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn answer(context: &Arc<Context>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match (request.method(), &parts[..]) {
        (&Method::GET, ["healthz"]) => Ok(Response::new(text("ok"))),
        (&Method::GET, ["pods"]) => Ok(pods(context)),
        (&Method::GET, ["configz"]) => Ok(json(&configz(&context.node))),
        (&Method::GET, ["stats", "summary"]) => {
            let disks = stats::disk_use(&context.node).await;
            Ok(json(&stats::summary(&context.node, &stats::measure(&context.node), &disks)))
        }
        (&Method::GET, ["metrics"]) => {
            let volumes = stats::of_claims(&context.node, &*stats::disk_use(&context.node).await);
            Ok(exposition(context.node.metrics.text() + &volumes))
        }
        (&Method::GET, ["metrics", "cadvisor"]) => Ok(exposition(stats::containers(&stats::measure(&context.node)))),
        (&Method::GET, ["metrics", "resource"]) => Ok(exposition(stats::metrics(&stats::measure(&context.node)))),
        (&Method::DELETE, ["localVolumes", name]) => remove_local_volume(context, name),
        (&Method::GET, ["containerLogs", namespace, pod, container]) => {
            logs::answer(context, namespace, pod, container, &query).await
        }
        // An optional UID stands between pod and container.
        (&Method::GET | &Method::POST, ["exec", namespace, pod, rest @ ..]) if matches!(rest.len(), 1 | 2) => {
            stream::exec(context, namespace, pod, rest[rest.len() - 1], &query, request).await
        }
        (&Method::GET | &Method::POST, ["attach", namespace, pod, rest @ ..]) if matches!(rest.len(), 1 | 2) => {
            stream::attach(context, namespace, pod, rest[rest.len() - 1], &query, request).await
        }
        (&Method::GET | &Method::POST, ["portForward", namespace, pod, ..]) => {
            stream::port_forward(context, namespace, pod, &query, request).await
        }
        _ => Err(Refusal::not_found("404 page not found")),
    }
}

/// Removes the directory of a volume that was provisioned on this node. Its name is that of an object of the API.
fn remove_local_volume(context: &Context, name: &str) -> Result<Response<Body>, Refusal> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if name.starts_with('.') || !name.bytes().all(plain) {
        return Err(Refusal::bad(format!("{name:?} is no name of a volume")));
    }
    let config = &context.node.config;
    let removed = config.os.files.remove(&config.storage_directory.join(name));
    removed.map(|()| Response::new(text("ok"))).map_err(|error| Refusal::internal(error.to_string()))
}

/// The pods of this node.
fn pods(context: &Context) -> Response<Body> {
    let items = context.manager.pods();
    let items: Vec<&k8s_openapi::api::core::v1::Pod> = items.iter().map(|pod| &**pod).collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    json(&list)
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(text(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What of upstream's configuration has a counterpart here, in its words.
fn configz(node: &Node) -> serde_json::Value {
    let config = &node.config;
    serde_json::json!({"kubeletconfig": {
        "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDNS": config.cluster_dns.iter().collect::<Vec<_>>(),
        "clusterDomain": config.cluster_domain,
        "maxPods": config.settings.max_pods,
        "podLogsDir": config.log_directory,
        "cgroupsPerQOS": true,
        "cgroupDriver": "cgroupfs",
    }})
}
