//! Logs, exec, attach, port-forward and proxies: the API server dials the node and passes bytes on.
//!
//! It understands nothing of what goes through. A request is authorized and admitted like any other, its query is put
//! into the kubelet's words, and from there on both sides speak with each other, over an upgraded connection where they
//! agree on one (WebSocket, SPDY). The server never talks to a container engine, also not in one process with the node.

pub(crate) mod aggregate;
mod dial;
mod location;
mod options;
mod pages;
mod relay;
mod service;
mod unchecked;
pub(crate) mod websocket;

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::de::DeserializeOwned;
use skiff_client::Body;
use skiff_meta::{GroupResource, Status, WorldRef};

use dial::Dialer;
use location::{Location, Stream, Wanted};
use options::Query;
use pages::Links;
pub(crate) use service::endpoint;
pub(crate) use unchecked::anybody;

use crate::auth::forbidden;
use crate::chain::{Attributes, Authorizer, ConnectTarget, Connector, Decision, View};
use crate::pki::{Pki, PkiError};

/// The largest error text taken from a node.
const ERROR_TEXT: usize = 64 * 1024;

/// Why the other side could not be asked.
#[derive(Debug, thiserror::Error)]
enum ProxyError {
    /// No connection.
    #[error("error dialing backend: dial tcp {host}:{port}: {source}")]
    Dial { host: String, port: u16, source: std::io::Error },
    /// A host name that TLS cannot check.
    #[error("error dialing backend: {host} is no name for TLS")]
    Name { host: String },
    /// No connection in time.
    #[error("error dialing backend: dial tcp {0}: i/o timeout")]
    Patience(String),
    /// The connection broke.
    #[error("error talking to backend: {0}")]
    Request(#[source] hyper::Error),
    /// The request cannot be passed on.
    #[error("{0}")]
    Bad(String),
}

impl From<ProxyError> for Status {
    fn from(error: ProxyError) -> Self {
        match error {
            ProxyError::Bad(words) => Self::bad_request(words),
            other => Self::internal(other),
        }
    }
}

/// Passes requests on.
pub(crate) struct NodeConnector {
    dialer: Dialer,
    view: Arc<dyn View>,
    authorizer: Arc<dyn Authorizer>,
    world: WorldRef,
}

impl NodeConnector {
    /// # Errors
    /// When our certificate towards kubelets cannot be made or kept.
    pub(crate) fn new(
        pki: &Pki,
        view: Arc<dyn View>,
        authorizer: Arc<dyn Authorizer>,
        world: WorldRef,
    ) -> Result<Self, PkiError> {
        let dialer = Dialer::new(pki.kubelet_tls(world.now())?, world.clone())?;
        Ok(Self { dialer, view, authorizer, world })
    }

    /// An object as it is now.
    async fn find<K: DeserializeOwned + Clone + Send + Sync + 'static>(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<K>, Status> {
        let resource = GroupResource::new("", resource);
        self.view.refresh(&resource).await?;
        let found = self.view.get(&resource, namespace, name).ok_or_else(|| Status::not_found(&resource, name))?;
        found.typed().map_err(Status::internal)
    }

    async fn log(&self, target: &ConnectTarget, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let pod: Arc<Pod> = self.find("pods", &target.namespace, &target.name).await?;
        let path = location::log_path(&pod, &Query::parse(request.uri().query().unwrap_or_default()))?;
        let Some(node) = location::node_of(&pod) else {
            let mut nothing = Response::new(relay::empty());
            *nothing.status_mut() = StatusCode::NO_CONTENT;
            return Ok(nothing);
        };
        let node: Arc<Node> = self.find("nodes", "", node).await?;
        let location = location::kubelet(&node, path)?;
        let client = request.extensions_mut().remove::<OnUpgrade>();
        let asked = request.headers().clone();
        request.headers_mut().remove(header::UPGRADE);
        let answer = self.dialer.send(&location, relay::outbound(&location, request)?).await?;
        if !answer.status().is_success() {
            return Err(log_refusal(&target.name, answer).await);
        }
        let mut response = relay::inbound(answer);
        if websocket::is_wanted(&asked) {
            return websocket::log(&asked, response.into_body(), client, &self.world);
        }
        let text = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        Ok(response)
    }

    async fn stream(
        &self,
        target: &ConnectTarget,
        stream: Stream,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        self.check_create(target).await?;
        let pod: Arc<Pod> = self.find("pods", &target.namespace, &target.name).await?;
        let path = location::stream_path(&pod, stream, &Query::parse(request.uri().query().unwrap_or_default()))?;
        let node = location::node_of(&pod)
            .ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", target.name)))?;
        let node: Arc<Node> = self.find("nodes", "", node).await?;
        if !relay::wants_upgrade(request.headers()) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let location = location::kubelet(&node, path)?;
        let client = request.extensions_mut().remove::<OnUpgrade>();
        let answer = self.dialer.send(&location, relay::outbound(&location, request)?).await?;
        Ok(relay::upgrade(answer, client, &self.world)?)
    }

    /// WebSockets begin with a GET, which those have who may only read; running something takes `create`.
    async fn check_create(&self, target: &ConnectTarget) -> Result<(), Status> {
        let attributes = Attributes {
            user: &target.user,
            verb: "create",
            group: &target.resource.group,
            version: &target.resource.version,
            resource: &target.resource.resource,
            subresource: &target.subresource,
            namespace: &target.namespace,
            name: &target.name,
            fields: "",
            labels: "",
            path: "",
        };
        match self.authorizer.authorize(&attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(&attributes, &why)),
        }
    }

    async fn proxy(&self, target: &ConnectTarget, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let (prefix, rest) = relay::split_path(request.uri().path(), !target.namespace.is_empty());
        if let Some(redirect) = relay::slash_redirect(request.method(), request.uri(), rest) {
            return Ok(redirect);
        }
        let path = request.uri().query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
        let location = self.proxy_location(target, if rest.is_empty() { format!("/{path}") } else { path }).await?;
        let links = Links::new(prefix, request.uri(), request.headers(), &location);
        let upgrading = relay::wants_upgrade(request.headers());
        let client = request.extensions_mut().remove::<OnUpgrade>();
        let asked = HeaderValue::from_str(request.uri().path()).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut outbound = relay::outbound(&location, request)?;
        outbound.headers_mut().insert("x-forwarded-uri", asked);
        let answer = self.dialer.send(&location, outbound).await.map_err(|error| match error {
            ProxyError::Bad(words) => Status::bad_request(words),
            other => Status::unavailable(format!("error trying to reach service: {other}")),
        })?;
        if upgrading {
            return Ok(relay::upgrade(answer, client, &self.world)?);
        }
        Ok(links.keep_behind(relay::inbound(answer)))
    }

    async fn proxy_location(&self, target: &ConnectTarget, path: String) -> Result<Location, Status> {
        let kind = target.resource.resource.trim_end_matches('s');
        let wanted = Wanted::parse(kind, &target.name)?;
        match target.resource.resource.as_str() {
            "pods" => location::pod(&*self.find::<Pod>("pods", &target.namespace, wanted.name).await?, &wanted, path),
            "nodes" => location::node(&*self.find::<Node>("nodes", "", wanted.name).await?, &wanted, path),
            _ => {
                self.view.refresh(&GroupResource::new("discovery.k8s.io", "endpointslices")).await?;
                service::location(&*self.view, &target.namespace, &wanted, path, self.world.random())
            }
        }
    }
}

/// What a kubelet that could not give a log said instead.
async fn log_refusal(pod: &str, answer: Response<Incoming>) -> Status {
    let code = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), ERROR_TEXT).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    match code {
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            let words = format!("the server could not find the requested resource ( pods/log {pod})");
            Status::failure(404, "NotFound", words)
        }
        other => {
            let words = format!(
                "the server responded with the status code {} but did not return more information",
                other.as_u16()
            );
            Status::failure(other.as_u16(), "", format!("{words} ( pods/log {pod})"))
        }
    }
}

#[async_trait]
impl Connector for NodeConnector {
    async fn connect(&self, target: ConnectTarget, request: Request<Body>) -> Result<Response<Body>, Status> {
        match (target.resource.resource.as_str(), target.subresource.as_str()) {
            ("pods", "log") if *request.method() == Method::GET => self.log(&target, request).await,
            ("pods", "exec") => self.stream(&target, Stream::Exec, request).await,
            ("pods", "attach") => self.stream(&target, Stream::Attach, request).await,
            ("pods", "portforward") => self.stream(&target, Stream::PortForward, request).await,
            ("pods" | "nodes" | "services", "proxy") => self.proxy(&target, request).await,
            _ => Err(Status::no_such_path()),
        }
    }
}

#[cfg(test)]
mod tests;
