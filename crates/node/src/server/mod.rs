//! The agent's own HTTPS server: logs, exec, attach and port-forward, for the API server alone.
//!
//! Whoever connects shows a certificate of the cluster's authority with one of the names we serve. Streams end at the
//! runtime, which speaks SPDY: clients that speak it too are passed through byte by byte, WebSocket clients are
//! translated ([`bridge`]).

mod bridge;
mod log_line;
mod logs;
mod spdy;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_cri::Runtime;
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::config::{NodeError, ServerConfig};
use crate::node::Node;
use crate::pod::facts;
use crate::pod::manager::Manager;
use crate::pod::state::{Life, Observer, RuntimeState};

const PATIENCE: Duration = Duration::from_secs(30);

/// An answer's body.
pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Result<Response<Body>, Refusal>;

/// A request that cannot be served: the code and why.
pub(crate) struct Refusal(StatusCode, String);

fn refuse(code: StatusCode, why: impl Into<String>) -> Refusal {
    Refusal(code, why.into())
}

/// A pod as requests see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// The runtime's id of its sandbox.
    pub(crate) sandbox: String,
    /// Its containers.
    pub(crate) containers: Vec<FoundContainer>,
}

/// A container as requests see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FoundContainer {
    /// Its name in the pod.
    pub(crate) name: String,
    /// The runtime's id; empty while there is none.
    pub(crate) id: String,
    /// Its log file.
    pub(crate) log_path: String,
    /// Whether it runs.
    pub(crate) running: bool,
    /// The log file of the one before it.
    pub(crate) previous_log: Option<String>,
}

/// What runs here, as the runtime has it now.
#[derive(Clone)]
pub(crate) struct Lookup {
    node: Arc<Node>,
    manager: Arc<Manager>,
}

impl Lookup {
    /// A pod of this node; `None`: there is no such pod here.
    pub(crate) async fn pod(&self, namespace: &str, name: &str) -> Option<Found> {
        let pod = self.manager.find(namespace, name)?;
        let state = Observer::default().look(&*self.node.runtime, facts::uid(&pod)).await;
        let state = state.inspect_err(|error| tracing::warn!("the runtime does not tell of a pod: {error}")).ok()?;
        let spec = pod.spec.as_ref();
        let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
        let main = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
        let names = init.iter().chain(main).map(|c| c.name.as_str());
        let containers = names.map(|name| container(name, &state)).collect();
        Some(Found { sandbox: state.sandbox().map(|s| s.id.clone()).unwrap_or_default(), containers })
    }
}

fn container(name: &str, state: &RuntimeState) -> FoundContainer {
    let mut all = state.containers.iter().filter(|c| c.name == name);
    let (Some(latest), before) = (all.next(), all.next()) else {
        return FoundContainer { name: name.to_owned(), ..FoundContainer::default() };
    };
    FoundContainer {
        name: name.to_owned(),
        id: latest.id.clone(),
        log_path: latest.log_path.clone(),
        running: latest.life == Life::Running,
        previous_log: before.map(|c| c.log_path.clone()),
    }
}

struct Server {
    runtime: Arc<dyn Runtime>,
    pods: Lookup,
    world: WorldRef,
    clients: Vec<String>,
}

/// The port, taken before anything else begins, so that an occupied one leaves nothing half-done.
pub(crate) struct Listener {
    socket: std::net::TcpListener,
    tls: TlsAcceptor,
    clients: Vec<String>,
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// When the port is taken or the certificate is no good.
    pub(crate) fn bind(config: &ServerConfig) -> Result<Self, NodeError> {
        let failed = |source| NodeError::Listen { address: config.bind, source };
        let socket = std::net::TcpListener::bind(config.bind).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let tls = TlsAcceptor::from(Arc::new(tls(config)?));
        Ok(Self { socket, tls, clients: config.clients.clone() })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self, node: Arc<Node>, manager: Arc<Manager>) {
        let (runtime, world) = (node.runtime.clone(), node.world.clone());
        let pods = Lookup { node, manager };
        let server = Arc::new(Server { runtime, pods, world, clients: self.clients });
        match TcpListener::from_std(self.socket) {
            Ok(socket) => server.accept(socket, self.tls).await,
            Err(error) => tracing::error!("the node cannot serve logs and exec: {error}"),
        }
    }
}

fn tls(config: &ServerConfig) -> Result<rustls::ServerConfig, NodeError> {
    let wrong = |error: &dyn std::fmt::Display| NodeError::Certificate(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&config.client_ca) {
        roots.add(certificate.map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.allow_unauthenticated().build().map_err(|e| wrong(&e))?;
    let chain = CertificateDer::pem_slice_iter(&config.certificate).collect::<Result<_, _>>().map_err(|e| wrong(&e))?;
    let key = PrivateKeyDer::from_pem_slice(&config.key).map_err(|e| wrong(&e))?;
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| wrong(&e))?.with_client_cert_verifier(verifier);
    builder.with_single_cert(chain, key).map_err(|e| wrong(&e))
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener, tls: TlsAcceptor) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (server, tls) = (self.clone(), tls.clone());
                    self.world.spawn("node connection", async move { server.serve(stream, tls).await }.boxed());
                }
                Err(error) => {
                    tracing::warn!("a connection was not accepted: {error}");
                    self.world.sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, tls: TlsAcceptor) {
        let _ = stream.set_nodelay(true);
        let Some(Ok(stream)) = self.world.timeout(PATIENCE, tls.accept(stream)).await else { return };
        let client = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?));
        let server = self.clone();
        let service = service_fn(move |request| {
            let (server, client) = (server.clone(), client.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(request, client.as_deref()).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!("a connection of the node server ended: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>, client: Option<&str>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let answer = match client {
            _ if path == "/healthz" => Ok(text(StatusCode::OK, "ok")),
            None => Err(refuse(StatusCode::UNAUTHORIZED, "Unauthorized")),
            Some(name) if !self.clients.iter().any(|c| c == name) => {
                Err(refuse(StatusCode::FORBIDDEN, format!("Forbidden (user={name}, path={path})")))
            }
            Some(_) => self.route(&path, request).await,
        };
        answer.unwrap_or_else(|Refusal(code, why)| text(code, why))
    }

    async fn route(&self, path: &str, request: Request<Incoming>) -> Answer {
        let query = Query::of(request.uri());
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let is_stream = matches!(*request.method(), Method::GET | Method::POST);
        match parts[..] {
            ["containerLogs", namespace, pod, container] if request.method() == Method::GET => {
                let container = self.container(namespace, pod, container).await?;
                logs::serve(container, &query, &self.pods, (namespace, pod), &self.world).await
            }
            ["exec", namespace, pod, container] if is_stream => {
                let id = self.running(namespace, pod, container).await?;
                let (stdin, stdout, stderr, tty) = query.streams();
                let wanted = skiff_cri::v1::ExecRequest {
                    container_id: id,
                    cmd: query.all("command"),
                    tty,
                    stdin,
                    stdout,
                    stderr,
                };
                let url = self.runtime.exec(wanted).await.map_err(|e| runtime(&e))?;
                self.stream(request, &url, (stdin, stdout, stderr, tty)).await
            }
            ["attach", namespace, pod, container] if is_stream => {
                let id = self.running(namespace, pod, container).await?;
                let (stdin, stdout, stderr, tty) = query.streams();
                let wanted = skiff_cri::v1::AttachRequest { container_id: id, stdin, tty, stdout, stderr };
                let url = self.runtime.attach(wanted).await.map_err(|e| runtime(&e))?;
                self.stream(request, &url, (stdin, stdout, stderr, tty)).await
            }
            ["portForward", namespace, pod] if is_stream => {
                let found = self.pods.pod(namespace, pod).await.ok_or_else(|| no_pod(namespace, pod))?;
                let ports =
                    query.all("port").iter().flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
                let url = self.runtime.port_forward(&found.sandbox, ports).await.map_err(|e| runtime(&e))?;
                self.stream(request, &url, (true, true, false, false)).await
            }
            _ => Err(refuse(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }

    /// Connects the request with the runtime's stream, in the language that the client speaks.
    async fn stream(&self, request: Request<Incoming>, url: &str, streams: (bool, bool, bool, bool)) -> Answer {
        match bridge::Language::of(request.headers()) {
            bridge::Language::Channels(protocol) => {
                bridge::channels(request, url, protocol, streams, &self.world).await
            }
            bridge::Language::Tunnel(protocol) => bridge::tunnel(request, url, protocol, &self.world).await,
            bridge::Language::Other => upstream::pass_through(request, url, &self.world).await,
        }
    }

    async fn container(&self, namespace: &str, pod: &str, name: &str) -> Result<FoundContainer, Refusal> {
        let found = self.pods.pod(namespace, pod).await.ok_or_else(|| no_pod(namespace, pod))?;
        let container = found.containers.into_iter().find(|c| c.name == name);
        container.ok_or_else(|| {
            refuse(StatusCode::NOT_FOUND, format!("container \"{name}\" not found in pod \"{pod}_{namespace}\""))
        })
    }

    async fn running(&self, namespace: &str, pod: &str, name: &str) -> Result<String, Refusal> {
        let container = self.container(namespace, pod, name).await?;
        if container.running {
            return Ok(container.id);
        }
        Err(refuse(StatusCode::BAD_REQUEST, format!("container \"{name}\" in pod \"{pod}\" is not running")))
    }
}

fn no_pod(namespace: &str, pod: &str) -> Refusal {
    refuse(StatusCode::NOT_FOUND, format!("pod \"{pod}_{namespace}\" not found"))
}

fn runtime(error: &skiff_cri::RuntimeError) -> Refusal {
    refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(text.into())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}

/// A query string, taken apart.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn of(uri: &http::Uri) -> Self {
        let decode =
            |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty());
        Self(
            pairs.map(|part| part.split_once('=').unwrap_or((part, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).unwrap_or_default()
    }
    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }
    pub(crate) fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), "1" | "true")
    }
    fn streams(&self) -> (bool, bool, bool, bool) {
        let tty = self.is_set("tty");
        // A terminal has one output only.
        (self.is_set("input"), self.is_set("output"), self.is_set("error") && !tty, tty)
    }
}
