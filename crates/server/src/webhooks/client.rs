//! One HTTPS client for all webhooks. Connections are kept and used again.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use sha2::{Digest, Sha256};
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::hooks::ClientConfig as HookConfig;
use super::identity::{Identities, Identity};
use super::verify;
use crate::chain::View;
use crate::proxy::endpoint;

/// The largest answer.
const MAX_ANSWER: usize = 16 << 20;
/// Connections that are kept of one webhook.
const KEPT: usize = 16;
/// Webhooks of which connections and trust are kept; when there are more, all start over.
const KNOWN: usize = 256;

/// Why there is no answer; the words are client-go's, where it has any.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// It cannot be called at all as it is configured.
    #[error("could not get REST client: {0}")]
    Config(String),
    /// No connection, or it broke.
    #[error("failed to call webhook: Post \"{url}\": {why}")]
    Call { url: String, why: String },
    /// Something else than 200; its code.
    #[error("failed to call webhook: {1}")]
    Code(u16, String),
}

impl HookError {
    /// The code it is counted under.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Config(_) => 500,
            Self::Call { .. } => 503,
            Self::Code(code, _) => *code,
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// Where to go, and what to say there.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// For people, and the server's own name in it.
    url: Uri,
    host: String,
    port: u16,
    /// The name on the certificate.
    name: String,
}

/// The client.
pub(crate) struct HookClient {
    world: WorldRef,
    /// What it calls itself.
    agent: &'static str,
    identities: Identities,
    trust: Mutex<HashMap<[u8; 32], Arc<ClientConfig>>>,
    idle: Mutex<HashMap<String, Vec<Sender>>>,
}

impl HookClient {
    pub(crate) fn new(world: WorldRef, agent: &'static str, identities: Identities) -> Self {
        Self { world, agent, identities, trust: Mutex::default(), idle: Mutex::default() }
    }

    /// Posts `body`, JSON, and gives the answer's body.
    pub(crate) async fn post(
        &self,
        view: &dyn View,
        config: &HookConfig,
        body: Bytes,
        patience: Duration,
    ) -> Result<Bytes, HookError> {
        let place = place(view, config, patience, self.world.random())?;
        let call = |why: String| HookError::Call { url: place.url.to_string(), why };
        match self.world.timeout(patience, self.ask(config, &place, body)).await {
            None => Err(call("context deadline exceeded".to_owned())),
            Some(Err(Trouble::Config(why))) => Err(HookError::Config(why)),
            Some(Err(Trouble::Broken(why))) => Err(call(why)),
            Some(Ok((200..=299, body))) => Ok(body),
            Some(Ok((code, body))) => Err(HookError::Code(code, words(code, &body))),
        }
    }

    async fn ask(&self, config: &HookConfig, place: &Place, body: Bytes) -> Result<(u16, Bytes), Trouble> {
        let bundle = STANDARD.decode(config.ca_bundle.as_deref().unwrap_or_default());
        let bundle = bundle.map_err(|error| Trouble::Config(format!("caBundle: {error}")))?;
        let (shown, identity) = self.identities.of(&place.name, place.url.port_u16().unwrap_or(443)).unzip();
        let print = Sha256::new().chain_update(shown.unwrap_or_default()).chain_update([0]).chain_update(&bundle);
        let print: [u8; 32] = print.finalize().into();
        let token = identity.and_then(|identity| identity.token.as_deref());
        let key = format!("{} {}:{} {print:x?}", place.name, place.host, place.port);
        while let Some(mut sender) = self.kept(&key) {
            // A server may have closed it just now: then nothing was heard.
            match exchange(&mut sender, place, (self.agent, token), body.clone()).await {
                Ok(answer) => {
                    self.keep(key, sender);
                    return Ok(answer);
                }
                Err(error) if error.is_canceled() || error.is_incomplete_message() || error.is_closed() => {}
                Err(error) => return Err(Trouble::Broken(error.to_string())),
            }
        }
        let mut sender = self.dial(self.trust(&bundle, print, identity)?, place).await?;
        let answer = exchange(&mut sender, place, (self.agent, token), body).await;
        let answer = answer.map_err(|error| Trouble::Broken(error.to_string()))?;
        self.keep(key, sender);
        Ok(answer)
    }

    fn kept(&self, key: &str) -> Option<Sender> {
        self.idle.lock().get_mut(key)?.pop()
    }

    fn keep(&self, key: String, sender: Sender) {
        let mut idle = self.idle.lock();
        if idle.len() >= KNOWN && !idle.contains_key(&key) {
            idle.clear();
        }
        let kept = idle.entry(key).or_default();
        kept.retain(|sender| !sender.is_closed());
        if kept.len() < KEPT && !sender.is_closed() {
            kept.push(sender);
        }
    }

    fn trust(&self, bundle: &[u8], print: [u8; 32], identity: Option<&Identity>) -> Result<Arc<ClientConfig>, Trouble> {
        if let Some(found) = self.trust.lock().get(&print) {
            return Ok(found.clone());
        }
        let own = identity.filter(|identity| !identity.certificate.is_empty());
        let made = verify::config(bundle, own.map(|own| (&*own.certificate, &*own.key)))
            .map_err(|error| Trouble::Config(format!("unable to load root certificates: {error}")))?;
        let mut trust = self.trust.lock();
        if trust.len() >= KNOWN {
            trust.clear();
        }
        trust.insert(print, made.clone());
        Ok(made)
    }

    async fn dial(&self, trust: Arc<ClientConfig>, place: &Place) -> Result<Sender, Trouble> {
        let (host, port) = (place.host.as_str(), place.port);
        let dialed = |error: io::Error| {
            let why = match error.kind() {
                io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                _ => error.to_string(),
            };
            Trouble::Broken(format!("dial tcp {host}:{port}: {why}"))
        };
        let stream = TcpStream::connect((host, port)).await.map_err(dialed)?;
        stream.set_nodelay(true).map_err(dialed)?;
        let name = ServerName::try_from(place.name.clone());
        let name = name.map_err(|_| Trouble::Config(format!("{} is no name for TLS", place.name)))?;
        let secured = TlsConnector::from(trust).connect(name, stream).await.map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            Trouble::Broken(inner.map_or_else(|| error.to_string(), verify::words))
        })?;
        let spoken = http1::handshake(TokioIo::new(secured)).await;
        let (sender, connection) = spoken.map_err(|error| Trouble::Broken(error.to_string()))?;
        let driving = async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection to a webhook broke off: {error}");
            }
        };
        self.world.spawn("webhook-connection", Box::pin(driving));
        Ok(sender)
    }
}

enum Trouble {
    Config(String),
    Broken(String),
}

async fn exchange(
    sender: &mut Sender,
    place: &Place,
    (agent, token): (&'static str, Option<&str>),
    body: Bytes,
) -> hyper::Result<(u16, Bytes)> {
    sender.ready().await?;
    let path = place.url.path_and_query().map_or("/", |path| path.as_str());
    let authority = place.url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let mut request = Request::builder();
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, agent)
        .body(Full::new(body));
    let Ok(request) = request else { return Ok((400, Bytes::new())) };
    let answer = sender.send_request(request).await?;
    let code = answer.status().as_u16();
    match Limited::new(answer.into_body(), MAX_ANSWER).collect().await {
        Ok(body) => Ok((code, body.to_bytes())),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(*error),
            Err(_) => Ok((413, Bytes::from_static(b"the answer is too large"))),
        },
    }
}

/// What client-go makes of codes other than 200.
fn words(code: u16, body: &[u8]) -> String {
    let known = match code {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        409 => "the server reported a conflict",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
        }
        500.. => {
            let body: String = String::from_utf8_lossy(body).trim().chars().take(2_048).collect();
            let said = if body.is_empty() { "unknown".to_owned() } else { body };
            return format!("an error on the server ({said:?}) has prevented the request from succeeding");
        }
        _ => "unknown",
    };
    known.to_owned()
}

/// Where a webhook is right now.
fn place(view: &dyn View, config: &HookConfig, patience: Duration, random: u64) -> Result<Place, HookError> {
    let bad = |why: &dyn std::fmt::Display| HookError::Config(why.to_string());
    let timeout = format!("timeout={}s", patience.as_secs());
    let with_timeout = |url: &str| {
        let join = if url.contains('?') { '&' } else { '?' };
        format!("{url}{join}{timeout}").parse::<Uri>()
    };
    if let Some(url) = &config.url {
        let url = with_timeout(url).map_err(|error| bad(&error))?;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if url.scheme_str() != Some("https") || host.is_empty() {
            return Err(HookError::Config(format!("{url} is no https URL")));
        }
        let port = url.port_u16().unwrap_or(443);
        return Ok(Place { name: host.clone(), host, port, url });
    }
    let service = config.service.as_ref().ok_or_else(|| HookError::Config("neither url nor service".to_owned()))?;
    let name = format!("{}.{}.svc", service.name, service.namespace);
    let wanted = service.port.unwrap_or(443);
    let path = service.path.as_deref().unwrap_or("/").trim_start_matches('/');
    let url = with_timeout(&format!("https://{name}:{wanted}/{path}")).map_err(|error| bad(&error))?;
    let found = endpoint(view, &service.namespace, &service.name, wanted, random);
    let (host, port) = found.map_err(|status| HookError::Call { url: url.to_string(), why: status.message })?;
    Ok(Place { url, host, port, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::TestView;
    use serde_json::{Value, json};

    fn at(view: &TestView, config: Value) -> Result<(String, String, u16, String), String> {
        let config: HookConfig = serde_json::from_value(config).unwrap();
        let found = place(view, &config, Duration::from_secs(5), 0).map_err(|error| error.to_string())?;
        Ok((found.url.to_string(), found.host, found.port, found.name))
    }

    #[test]
    fn webhooks_are_found_by_url_or_service() {
        let view = TestView::shared();
        view.put(
            "services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "ns"},
            "spec": {"ports": [{"name": "web", "port": 443}]}}),
        );
        view.put(
            "services",
            json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "named", "namespace": "ns"},
            "spec": {"type": "ExternalName", "externalName": "hooks.example.com", "ports": [{"port": 443}]}}),
        );
        let found =
            |url: &str, host: &str, port: u16, name: &str| Ok((url.to_owned(), host.to_owned(), port, name.to_owned()));
        let url = at(&view, json!({"url": "https://hook.example.com:8443/a?b=c"}));
        let expected = "https://hook.example.com:8443/a?b=c&timeout=5s";
        assert_eq!(url, found(expected, "hook.example.com", 8443, "hook.example.com"));
        let service = json!({"service": {"namespace": "ns", "name": "s", "path": "/p"}});
        let nobody = "failed to call webhook: Post \"https://s.ns.svc:443/p?timeout=5s\": no endpoints available for \
            service \"s\"";
        assert_eq!(at(&view, service.clone()), Err(nobody.to_owned()));
        view.put("endpointslices.discovery.k8s.io", json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "s-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 9443}], "endpoints": [{"addresses": ["10.1.2.3"]}]}));
        assert_eq!(at(&view, service), found("https://s.ns.svc:443/p?timeout=5s", "10.1.2.3", 9443, "s.ns.svc"));
        let named = at(&view, json!({"service": {"namespace": "ns", "name": "named"}}));
        assert_eq!(named, found("https://named.ns.svc:443/?timeout=5s", "hooks.example.com", 443, "named.ns.svc"));
        let missing = at(&view, json!({"service": {"namespace": "ns", "name": "no"}})).unwrap_err();
        assert!(missing.ends_with("service \"no\" not found"), "{missing}");
        assert!(at(&view, json!({"url": "http://plain.example.com"})).is_err());
    }

    #[test]
    fn codes_have_words() {
        assert_eq!(words(404, b""), "the server could not find the requested resource");
        assert_eq!(words(500, b"x\n"), "an error on the server (\"x\") has prevented the request from succeeding");
        assert_eq!(words(500, b""), "an error on the server (\"unknown\") has prevented the request from succeeding");
    }
}
