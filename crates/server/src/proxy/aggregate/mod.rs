//! API aggregation: group versions that other servers serve behind this one (upstream: `k8s.io/kube-aggregator`).
//!
//! An APIService with a service means an extension server. Requests for its group version were authenticated, queued,
//! judged and written down like any other when they are passed on; the extension learns the user from the `X-Remote-*`
//! headers, and trusts them because we show the front proxy's certificate. Whatever a client sent under these names is
//! gone before. Its own certificate is checked against the APIService's `caBundle`, for `SERVICE.NAMESPACE.svc`.

mod discovery;
pub(crate) mod keeper;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::OnUpgrade;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::ServiceReference;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use rustls::ClientConfig;
use serde_json::Value;
use skiff_client::{Body, Renewable};
use skiff_meta::world::WorldExt;
use skiff_meta::{GroupResource, Status, WorldRef};

use super::dial::Dialer;
use super::location::{Location, Transport, Wanted};
use super::{relay, service};
use crate::chain::{User, View};
use crate::pki::{Pki, PkiError};
use crate::respond;

/// How long an extension may take to say what it serves.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest document taken from one.
const MAX_DOCUMENT: usize = 16 << 20;
const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";
/// What cannot stand in a header's name travels escaped.
const ESCAPED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One group version of an extension server.
pub(crate) struct Extension {
    group: String,
    version: String,
    reference: ServiceReference,
    tls: Result<Arc<ClientConfig>, String>,
    available: bool,
    /// Of its group, and of its version within the group.
    priority: (i32, i32),
    /// Its part of aggregated discovery.
    resources: Value,
    /// Where its OpenAPI v3 document is.
    v3: Option<String>,
    /// Its OpenAPI v2 document.
    v2: Option<Arc<Value>>,
}

type Extensions = BTreeMap<(String, String), Arc<Extension>>;

/// Passes requests on to extension servers.
pub(crate) struct Aggregator {
    extensions: ArcSwap<Extensions>,
    identity: Arc<Renewable>,
    dialer: Dialer,
    view: Arc<dyn View>,
    world: WorldRef,
}

impl Aggregator {
    /// # Errors
    /// When the front proxy's certificate cannot be made or kept.
    pub(crate) fn new(pki: &Pki, view: Arc<dyn View>, world: WorldRef) -> Result<Arc<Self>, PkiError> {
        let identity = pki.front_proxy_client(world.now())?;
        let dialer = Dialer::new(pki.kubelet_tls(world.now())?, world.clone())?;
        Ok(Arc::new(Self { extensions: ArcSwap::default(), identity, dialer, view, world }))
    }

    /// The extension that a path belongs to.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Extension>> {
        let extensions = self.extensions.load();
        if extensions.is_empty() {
            return None;
        }
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let (group, rest) = path.strip_prefix("/apis/")?.split_once('/')?;
        let version = rest.split('/').next().unwrap_or_default();
        extensions.get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// Passes a request on.
    pub(crate) async fn serve(
        &self,
        extension: &Extension,
        user: &User,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let unavailable = |why: &str| Ok(respond::text(503, format!("{why}\n")));
        if !extension.available {
            return unavailable("service unavailable");
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let upgrading = relay::wants_upgrade(request.headers());
        let client = request.extensions_mut().remove::<OnUpgrade>();
        let answer = match self.send(extension, user, path, request).await {
            Ok(answer) => answer,
            Err(why) => return unavailable(&why),
        };
        if upgrading {
            return Ok(relay::upgrade(answer, client, &self.world)?);
        }
        Ok(relay::inbound(answer))
    }

    async fn send(
        &self,
        extension: &Extension,
        user: &User,
        path: String,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, String> {
        let tls = extension.tls.as_ref().map_err(Clone::clone)?;
        let location = self.location(&extension.reference, path)?;
        let mut request = relay::outbound(&location, request).map_err(|e| e.to_string())?;
        tell(request.headers_mut(), user)?;
        let (namespace, name, _) = plan::place(&extension.reference);
        let name = format!("{name}.{namespace}.svc");
        self.dialer.send_checked(&location, tls, &name, request).await.map_err(|e| e.to_string())
    }

    /// Where a service's server is.
    fn location(&self, reference: &ServiceReference, path: String) -> Result<Location, String> {
        let (namespace, name, port) = plan::place(reference);
        let found = self.view.get(&GroupResource::new("", "services"), namespace, name).ok_or("service unavailable")?;
        let found = found.typed::<Service>().map_err(|e| e.to_string())?;
        let spec = found.spec.as_ref();
        if let Some(host) =
            spec.filter(|s| s.type_.as_deref() == Some("ExternalName")).and_then(|s| s.external_name.clone())
        {
            let port = u16::try_from(port).map_err(|e| e.to_string())?;
            return Ok(Location { transport: Transport::Unchecked, host, port, path });
        }
        let id = format!("https:{name}:{port}");
        let wanted = Wanted::parse("service", &id).map_err(|e| e.message)?;
        service::location(&*self.view, namespace, &wanted, path, self.world.random()).map_err(|e| e.message)
    }

    /// A document of an extension's, as the aggregator itself asks for it.
    async fn ask(&self, extension: &Extension, path: &str, accept: &'static str) -> Result<Value, String> {
        let aggregator = User::new("system:kube-aggregator", &["system:masters"]);
        let mut request = Request::new(relay::empty());
        *request.uri_mut() = path.parse().map_err(|_| format!("{path} is no path"))?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        let (namespace, name, _) = plan::place(&extension.reference);
        let url = format!("https://{name}.{namespace}.svc{path}");
        let asked = async {
            let answer = self.send(extension, &aggregator, path.to_owned(), request).await?;
            if !answer.status().is_success() {
                return Err(format!("bad status from {url}: {}", answer.status().as_u16()));
            }
            let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await.map_err(|e| e.to_string())?;
            serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())
        };
        let answered =
            self.world.timeout(PATIENCE, asked).await.unwrap_or_else(|| Err("it does not answer".to_owned()));
        answered.map_err(|why| format!("failing or missing response from {url}: {why}"))
    }

    /// A document of discovery with what extensions serve.
    pub(crate) fn discovery(&self, path: &str, aggregated: bool, document: Option<Bytes>) -> Option<Bytes> {
        let extensions = self.extensions.load();
        if extensions.is_empty() || !path.starts_with("/apis") {
            return document;
        }
        let all: Vec<&Extension> = extensions.values().map(|e| &**e).collect();
        let document = document.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        discovery::merged(path, aggregated, document, &all).map(|merged| merged.to_string().into())
    }

    /// The index of OpenAPI v3 documents with theirs.
    pub(crate) fn openapi_index(&self, index: &mut Value) {
        for extension in self.extensions.load().values() {
            if let (Some(place), Some(paths)) = (&extension.v3, index.get_mut("paths").and_then(Value::as_object_mut)) {
                let name = format!("apis/{}/{}", extension.group, extension.version);
                paths.insert(name, serde_json::json!({"serverRelativeURL": place}));
            }
        }
    }

    /// What the OpenAPI v2 document has of theirs, as a text that changes with it.
    pub(crate) fn openapi_mark(&self) -> String {
        let extensions = self.extensions.load();
        let marks = extensions.values().filter_map(|e| Some(format!("{:p}", Arc::as_ptr(e.v2.as_ref()?))));
        marks.collect::<Vec<_>>().concat()
    }

    /// The OpenAPI v2 document with their paths and definitions.
    pub(crate) fn openapi_v2(&self, document: &mut Value) {
        for extension in self.extensions.load().values() {
            let Some(theirs) = &extension.v2 else { continue };
            for part in ["paths", "definitions"] {
                let (Some(ours), Some(theirs)) = (
                    document.get_mut(part).and_then(Value::as_object_mut),
                    theirs.get(part).and_then(Value::as_object),
                ) else {
                    continue;
                };
                for (name, value) in theirs {
                    ours.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
    }
}

/// Says who the user is, and forgets what the client said.
fn tell(headers: &mut HeaderMap, user: &User) -> Result<(), String> {
    let remote: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in remote {
        headers.remove(name);
    }
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| format!("{text:?} cannot stand in a header"));
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let key = percent_encoding::utf8_percent_encode(key, &ESCAPED).to_string();
        let name = HeaderName::try_from(format!("{EXTRA}{key}")).map_err(|e| e.to_string())?;
        for said in values {
            headers.append(name.clone(), value(said)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_of_themselves_is_forgotten() {
        let mut headers = HeaderMap::new();
        for name in ["x-remote-user", "x-remote-group", "x-remote-extra-a", "x-remote-uid", "x-remote-new"] {
            headers.insert(name, HeaderValue::from_static("system:masters"));
        }
        let mut user = User::new("alice", &["a", "b"]);
        user.extra.insert("example.com/scope".to_owned(), vec!["x".to_owned()]);
        tell(&mut headers, &user).unwrap();
        assert_eq!(headers[USER], "alice");
        assert_eq!(headers.get_all(GROUP).iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(headers["x-remote-extra-example.com%2fscope"], "x");
        assert_eq!(headers.len(), 4);
    }
}
