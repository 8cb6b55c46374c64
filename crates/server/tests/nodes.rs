//! Logs and streams through the whole server: a client over HTTPS on one side, something like a kubelet on the other.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use skiff_meta::world::RealWorld;
use skiff_server::ServerConfig;
use skiff_server::listen::Server;
use skiff_server::pki::{Pki, ServingNames};
use skiff_store::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const TOKEN: &str = "s3cret";
const POD: &str = "/api/v1/namespaces/default/pods/web";

/// What the kubelet was asked: its path, whether the caller showed a certificate, and the subprotocol.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    certified: bool,
    protocol: String,
}

struct Cluster {
    server: Server,
    trust: Arc<ClientConfig>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// Answers logs with a line, and streams by shouting back what it hears.
async fn kubelet(
    mut request: Request<Incoming>,
    certified: bool,
    log: Arc<Mutex<Vec<Asked>>>,
) -> Response<Full<Bytes>> {
    let protocol = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).map(|p| p.to_str().unwrap().to_owned());
    let protocol = protocol.unwrap_or_default();
    let path = request.uri().to_string();
    log.lock().unwrap().push(Asked { path: path.clone(), certified, protocol: protocol.clone() });
    if path.starts_with("/containerLogs/default/web/broken") {
        let mut response = Response::new(Full::from("no such log"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    }
    if path.starts_with("/containerLogs/") {
        return Response::new(Full::from("a line\n"));
    }
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrading.await.unwrap());
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..count].to_ascii_uppercase()).await.unwrap();
        }
    });
    let response = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "websocket");
    response.header("sec-websocket-protocol", protocol).body(Full::default()).unwrap()
}

async fn run_kubelet(tls: Arc<rustls::ServerConfig>, log: Arc<Mutex<Vec<Asked>>>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, log) = (TlsAcceptor::from(tls.clone()), log.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let certified = stream.get_ref().1.peer_certificates().is_some();
                let answer = service_fn(move |request| {
                    let log = log.clone();
                    async move { Ok::<_, std::convert::Infallible>(kubelet(request, certified, log).await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                let _ = connection.with_upgrades().await;
            });
        }
    });
    address
}

impl Cluster {
    /// A server, and a node whose kubelet has a certificate of `authority` (`None`: the cluster's own).
    async fn start(authority: Option<Pki>) -> Self {
        let world = RealWorld::shared();
        let pki = Pki::in_memory(world.now()).unwrap();
        let names = ServingNames::of(["127.0.0.1".to_owned()]);
        let asked = Arc::default();
        let serving = authority.as_ref().unwrap_or(&pki).server_tls(&names, world.now()).unwrap();
        let kubelet = run_kubelet(serving, Arc::clone(&asked)).await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let trust = Arc::new(trust.with_root_certificates(roots).with_no_client_auth());
        let config = ServerConfig { admin_token: Some(TOKEN.to_owned()), ..ServerConfig::default() };
        let store = Arc::new(MemoryStore::new(world.clone()));
        let server = Server::start(Server::bind(config.bind).unwrap(), config, &pki, store, world).await.unwrap();
        let cluster = Self { server, trust, asked };
        cluster.populate(kubelet.port()).await;
        cluster
    }

    async fn populate(&self, port: u16) {
        let status = json!({
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        });
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": status});
        self.create("/api/v1/nodes", &node).await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
        let containers = json!([{"name": "c", "image": "i"}, {"name": "broken", "image": "i"}]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"nodeName": "n1", "containers": containers}});
        self.create("/api/v1/namespaces/default/pods", &pod).await;
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.trust.clone()).connect(name, stream).await.unwrap()
    }

    /// Sends a request as it is, and returns the head of the answer with the connection behind it.
    async fn open(&self, head: &str, body: &str) -> (String, tokio_rustls::client::TlsStream<TcpStream>) {
        let mut stream = self.connect().await;
        let head = format!("{head}host: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        (String::from_utf8(answer).unwrap().to_ascii_lowercase(), stream)
    }

    /// Status line, headers and body of a plain request.
    async fn ask(&self, head: &str, body: &str) -> (String, String) {
        let (answer, mut stream) = self.open(&format!("{head}connection: close\r\n"), body).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        (answer, String::from_utf8(rest).unwrap())
    }

    async fn create(&self, uri: &str, object: &Value) {
        let body = object.to_string();
        let head =
            format!("POST {uri} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
        let (answer, told) = self.ask(&head, &body).await;
        assert!(answer.starts_with("http/1.1 201"), "{answer}{told}");
    }

    fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().cloned().unwrap()
    }
}

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn logs_come_from_the_kubelet() {
    let cluster = Cluster::start(None).await;
    let (head, body) = cluster.ask(&format!("GET {POD}/log?container=c&tailLines=1 HTTP/1.1\r\n"), "").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/plain"), "{head}");
    assert!(body.contains("a line\n"), "{body}");
    let path = "/containerLogs/default/web/c?tailLines=1".to_owned();
    assert_eq!(cluster.last(), Asked { path, certified: true, protocol: String::new() });

    let (head, body) = cluster.ask(&format!("GET {POD}/log HTTP/1.1\r\n"), "").await;
    assert!(head.starts_with("http/1.1 400") && body.contains("choose one of: [c broken]"), "{head}{body}");
    let (head, body) = cluster.ask(&format!("GET {POD}/log?container=broken HTTP/1.1\r\n"), "").await;
    assert!(head.starts_with("http/1.1 400") && body.contains("no such log"), "{head}{body}");
}

#[tokio::test]
async fn streams_pass_through_both_ways() {
    let cluster = Cluster::start(None).await;
    let uses = [
        ("exec?container=c&command=cat&stdin=true", "v5.channel.k8s.io", "/exec/default/web/c?input=1&command=cat"),
        ("attach?container=c&stdout=true", "v4.channel.k8s.io", "/attach/default/web/c?output=1"),
        ("portforward", "SPDY/3.1+portforward.k8s.io", "/portForward/default/web"),
    ];
    for (uri, protocol, path) in uses {
        let head = format!("GET {POD}/{uri} HTTP/1.1\r\n{UPGRADE}sec-websocket-protocol: {protocol}\r\n");
        let (answer, mut stream) = cluster.open(&head, "").await;
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(answer.contains(&format!("sec-websocket-protocol: {}", protocol.to_ascii_lowercase())), "{answer}");
        assert_eq!(cluster.last(), Asked { path: path.to_owned(), certified: true, protocol: protocol.to_owned() });
        for word in ["ping", "pong"] {
            stream.write_all(word.as_bytes()).await.unwrap();
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, word.to_ascii_uppercase().as_bytes());
        }
    }
    let (head, body) = cluster.ask(&format!("GET {POD}/exec?container=c&command=cat HTTP/1.1\r\n"), "").await;
    assert!(head.starts_with("http/1.1 400") && body.contains("Upgrade request required"), "{head}{body}");
}

#[tokio::test]
async fn reading_is_not_running() {
    let cluster = Cluster::start(None).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "looker"}, "rules": rules});
    cluster.create(&format!("{rbac}/clusterroles"), &role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "looker"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "looker"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
    });
    cluster.create(&format!("{rbac}/clusterrolebindings"), &binding).await;
    let head = format!("GET {POD}/exec?container=c&command=cat HTTP/1.1\r\nimpersonate-user: alice\r\n");
    let (answer, body) = cluster.ask(&head, "").await;
    assert!(answer.starts_with("http/1.1 403"), "{answer}");
    assert!(body.contains("cannot create resource \\\"pods/exec\\\""), "{body}");
}

#[tokio::test]
async fn an_impostor_of_a_kubelet_hears_nothing() {
    let foreign = Pki::in_memory(RealWorld::shared().now()).unwrap();
    let cluster = Cluster::start(Some(foreign)).await;
    let (head, body) = cluster.ask(&format!("GET {POD}/log?container=c HTTP/1.1\r\n"), "").await;
    assert!(head.starts_with("http/1.1 500") && body.contains("error dialing backend"), "{head}{body}");
    assert!(cluster.asked.lock().unwrap().is_empty());
}
