//! [`Client`]: one backend, and the calls that every typed and untyped API builds on.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use skiff_meta::{GroupVersionResource, Status};

use crate::api::{Api, Kind};
use crate::backend::{Backend, Body, ClientError, Event, ListTarget};
use crate::discovery::Discovery;

/// What may stand unescaped in a path segment or query value.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// Escapes one path segment or query value.
pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// The API, as one user. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    backend: Arc<dyn Backend>,
    manager: Arc<str>,
    discovery: Arc<Mutex<Option<Arc<Discovery>>>>,
}

/// One request: method, path, query and body, ready to be sent by [`Client::call`].
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// HTTP method.
    pub method: Method,
    /// Path, beginning with a slash, already escaped.
    pub path: String,
    /// Query parameters, not yet escaped.
    pub query: Vec<(&'static str, String)>,
    /// `Content-Type` of the body; empty: JSON.
    pub content_type: &'static str,
    /// `Accept`; empty: JSON.
    pub accept: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// A request without query and body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), ..Self::default() }
    }
    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }
    /// Adds a query parameter, unless its value is empty.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            self.query.push((name, value));
        }
        self
    }
    /// Sets a JSON body.
    ///
    /// # Errors
    /// When `body` cannot be written as JSON.
    pub fn json(mut self, body: &impl serde::Serialize) -> Result<Self, ClientError> {
        let written = skiff_meta::scratch::json(body);
        self.body = written.map_err(|e| ClientError::Config(format!("unwritable body: {e}")))?;
        Ok(self)
    }
    /// Path and query, escaped.
    pub fn target(&self) -> String {
        let mut target = self.path.clone();
        for (index, (name, value)) in self.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(&escape(value));
        }
        target
    }
}

impl Client {
    /// A client that speaks through `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, manager: "".into(), discovery: Arc::default() }
    }

    /// The same client, owning the fields it writes under `manager` (`fieldManager`).
    #[must_use]
    pub fn with_manager(&self, manager: &str) -> Self {
        Self { manager: manager.into(), ..self.clone() }
    }

    /// The field manager of writes; empty: the server derives one from the user agent.
    pub fn manager(&self) -> &str {
        &self.manager
    }

    /// What this client stands on.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Objects of kind `K`: all namespaces, or a cluster-scoped kind.
    pub fn all<K: Kind>(&self) -> Api<K> {
        Api::new(self.clone(), K::gvr(), "")
    }

    /// Objects of kind `K` in `namespace`.
    pub fn namespaced<K: Kind>(&self, namespace: &str) -> Api<K> {
        Api::new(self.clone(), K::gvr(), namespace)
    }

    /// Objects of any resource as JSON trees; an empty namespace means all, or a cluster-scoped resource.
    pub fn dynamic(&self, resource: &GroupVersionResource, namespace: &str) -> Api<serde_json::Value> {
        Api::new(self.clone(), resource.clone(), namespace)
    }

    /// Lists and watches for ever; see [`Backend::list_watch`].
    pub fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        self.backend.list_watch(target)
    }

    /// Sends a request as it is, with the cause of what is being done as `traceparent`.
    ///
    /// # Errors
    /// When the server is not reached; its refusals are answers here.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        if let Some(cause) = crate::trace::current()
            && let Ok(value) = HeaderValue::try_from(cause.to_string())
        {
            request.headers_mut().entry("traceparent").or_insert(value);
        }
        self.backend.send(request).await
    }

    /// Sends a call and returns its answer, still streaming.
    ///
    /// # Errors
    /// The server's refusal as [`ClientError::Api`], or why it was not reached.
    pub async fn stream(&self, call: Call) -> Result<Response<Body>, ClientError> {
        let json = "application/json";
        let mut request = Request::builder()
            .method(&call.method)
            .uri(call.target())
            .header(header::ACCEPT, if call.accept.is_empty() { json } else { call.accept });
        if !call.body.is_empty() {
            let content_type = if call.content_type.is_empty() { json } else { call.content_type };
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(call.body).map_err(|e| ClientError::Config(format!("bad request: {e}")))?;
        let response = self.send(request).await?;
        if response.status().as_u16() < 400 {
            return Ok(response);
        }
        let code = response.status();
        Err(refusal(code, &collect(response).await?).into())
    }

    /// Sends a call and returns the bytes of its answer.
    ///
    /// # Errors
    /// As [`Client::stream`], and when the answer breaks off.
    pub async fn bytes(&self, call: Call) -> Result<Bytes, ClientError> {
        collect(self.stream(call).await?).await
    }

    /// Sends a call and reads its JSON answer.
    ///
    /// # Errors
    /// As [`Client::bytes`], and when the answer is not a `T`.
    pub async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let bytes = self.bytes(call).await?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::BadAnswer(e.to_string()))
    }

    /// A JSON request by path; `body` is left out where `None`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value, ClientError> {
        let call = Call::new(method, path);
        self.call(if let Some(body) = body { call.json(body)? } else { call }).await
    }

    /// What the server serves, asked once and kept; see [`Client::rediscover`].
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn discovery(&self) -> Result<Arc<Discovery>, ClientError> {
        let known = self.discovery.lock().clone();
        match known {
            Some(known) => Ok(known),
            None => self.rediscover().await,
        }
    }

    /// Asks anew what the server serves, and keeps the answer.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn rediscover(&self) -> Result<Arc<Discovery>, ClientError> {
        let found = Arc::new(Discovery::fetch(self).await?);
        *self.discovery.lock() = Some(found.clone());
        Ok(found)
    }
}

/// The whole body.
///
/// # Errors
/// When it breaks off.
pub(crate) async fn collect(response: Response<Body>) -> Result<Bytes, ClientError> {
    let collected = response.into_body().collect().await;
    Ok(collected.map_err(|e| ClientError::Transport(format!("the answer broke off: {e}")))?.to_bytes())
}

/// The `Status` in a refusal's body, or one made from its code where a proxy or an old server sent something else.
fn refusal(code: StatusCode, body: &[u8]) -> Status {
    match serde_json::from_slice::<Status>(body) {
        Ok(mut status) if status.kind == "Status" => {
            if status.code == 0 {
                status.code = code.as_u16();
            }
            status
        }
        _ => {
            let reason = code.canonical_reason().unwrap_or("Unknown").replace(' ', "");
            let text = String::from_utf8_lossy(body);
            let text = text.trim();
            let message = if text.is_empty() { code.to_string() } else { text.to_owned() };
            Status::failure(code.as_u16(), &reason, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_escaped() {
        let call = Call::get("/api/v1/pods").with("labelSelector", "app in (a,b)").with("limit", "");
        assert_eq!(call.target(), "/api/v1/pods?labelSelector=app%20in%20%28a%2Cb%29");
    }

    #[test]
    fn refusals_without_status_get_one() {
        let status = refusal(StatusCode::BAD_GATEWAY, b"nginx says no\n");
        assert_eq!((status.code, &*status.reason, &*status.message), (502, "BadGateway", "nginx says no"));
        let body = serde_json::to_vec(&Status::unauthorized()).unwrap();
        assert_eq!(refusal(StatusCode::UNAUTHORIZED, &body), Status::unauthorized());
    }
}
