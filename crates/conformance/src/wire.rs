//! Requests as bytes, answers as they come.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use skiff_client::config::{Kubeconfig, Remote};
use skiff_client::http::HttpBackend;
use skiff_client::{Backend, Body, Client};
use skiff_meta::WorldRef;
use skiff_meta::world::RealWorld;

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The kubeconfig's.
    Own,
    /// A bearer token nobody gave out.
    Wrong,
    /// Nobody's.
    None,
}

/// An API and the ways to show oneself there.
pub struct Wire {
    remote: Arc<Remote>,
    own: HttpBackend,
    wrong: HttpBackend,
    none: HttpBackend,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP code.
    pub code: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub bytes: Bytes,
}

impl Answer {
    /// The body as a tree; null when it is no JSON.
    pub fn tree(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
    /// A text member of the body, empty where there is none.
    pub fn text(&self, name: &str) -> String {
        self.tree()[name].as_str().unwrap_or_default().to_owned()
    }
    /// The texts of `Warning` headers.
    pub fn warnings(&self) -> Vec<String> {
        let headers = self.headers.get_all("warning").iter().filter_map(|v| v.to_str().ok());
        let text = |h: &str| h.strip_prefix("299 - \"")?.strip_suffix('"').map(|text| text.replace("\\\"", "\""));
        headers.filter_map(text).collect()
    }
    /// Pairs of reason and field of a `Status`' causes, sorted.
    pub fn causes(&self) -> Vec<(String, String)> {
        let tree = self.tree();
        let causes = tree.pointer("/details/causes").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
        let mut pairs: Vec<_> = causes.iter().map(|c| (text(c, "reason"), text(c, "field"))).collect();
        pairs.sort();
        pairs
    }
}

impl Wire {
    /// The API that the current context of a kubeconfig means.
    ///
    /// # Errors
    /// When the file cannot be read or is not good.
    pub fn new(kubeconfig: &Path) -> Result<Self, String> {
        let words = |e: skiff_client::ClientError| e.to_string();
        let own = Kubeconfig::load(kubeconfig).and_then(|k| k.remote(None)).map_err(words)?;
        let mut none = own.clone();
        (none.client_certificate, none.client_key) = (Vec::new(), Vec::new());
        (none.token, none.token_file) = (None, None);
        let wrong = Remote { token: Some("nobody-gave-this-out".to_owned()), ..none.clone() };
        let world = RealWorld::shared();
        let backend =
            |remote, world: &WorldRef| HttpBackend::new(remote, world.clone(), "conformance/1").map_err(words);
        let remote = Arc::new(own.clone());
        Ok(Self { remote, own: backend(own, &world)?, wrong: backend(wrong, &world)?, none: backend(none, &world)? })
    }

    /// Address and credentials, for connections of another kind.
    pub fn remote(&self) -> Arc<Remote> {
        self.remote.clone()
    }

    /// A client with the kubeconfig's credentials, to watch by.
    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.own.clone()))
    }

    /// Sends a request; empty `media` and `accept` send no such header.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(
        &self,
        who: Credentials,
        method: &Method,
        path: &str,
        (media, accept): (&str, &str),
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let types = [("content-type", media), ("accept", accept)];
        let headers: Vec<_> = types.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        self.send_with(who, method, path, &headers, body).await
    }

    /// Sends a request with headers of one's own.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send_with(
        &self,
        who: Credentials,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let response = self.open(who, method, path, headers, body).await?;
        let (parts, body) = response.into_parts();
        let server = &self.remote.server;
        let bytes = body.collect().await.map_err(|e| format!("{method} {server}{path}: {e}"))?.to_bytes();
        Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, bytes })
    }

    /// Sends a request whose answer goes on, as that to a watch does.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn open(
        &self,
        who: Credentials,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Body>, String> {
        let mut request = Request::builder().method(method.clone()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).map_err(|e| format!("{path}: {e}"))?;
        let backend = match who {
            Credentials::Own => &self.own,
            Credentials::Wrong => &self.wrong,
            Credentials::None => &self.none,
        };
        backend.send(request).await.map_err(|e| format!("{method} {}{path}: {e}", self.remote.server))
    }

    /// A request with JSON and the kubeconfig's credentials.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn json(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        let bytes = if body.is_null() { String::new() } else { body.to_string() };
        self.send(Credentials::Own, &method, path, ("application/json", "application/json"), bytes).await
    }
}
