//! An API server on the memory store, and requests to it without sockets.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_client::{Backend, Body};
use skiff_meta::world::RealWorld;
use skiff_server::chain::User;
use skiff_server::pki::Pki;
use skiff_server::{Api, ServerConfig};
use skiff_store::MemoryStore;

pub struct Server {
    pub api: Arc<Api>,
    pub store: Arc<MemoryStore>,
    backend: Arc<dyn Backend>,
}

pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("not JSON: {:?}", self.bytes))
    }
    /// The tree of an answer that must be a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(self.code < 300, "{}: {}", self.code, String::from_utf8_lossy(&self.bytes));
        self.json()
    }
    /// (code, reason, message) of an answer that must be a refusal.
    #[track_caller]
    pub fn refusal(&self) -> (u16, String, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        assert_eq!(status["status"], "Failure", "{status}");
        let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(status["code"], self.code);
        (self.code, text("reason"), text("message"))
    }
    pub fn warnings(&self) -> Vec<String> {
        self.headers.get_all("warning").iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }
}

pub async fn start() -> Server {
    start_with(ServerConfig::default()).await
}

pub async fn start_with(config: ServerConfig) -> Server {
    let world = RealWorld::shared();
    let store = Arc::new(MemoryStore::new(world.clone()));
    let pki = Pki::in_memory(world.now()).unwrap();
    let api = Api::new(config, &pki, store.clone(), world).await.unwrap();
    Server::of(api, store)
}

/// Another server on the same store.
pub async fn restart(old: &Server) -> Server {
    let world = RealWorld::shared();
    let pki = Pki::in_memory(world.now()).unwrap();
    let api = Api::new(ServerConfig::default(), &pki, old.store.clone(), world).await.unwrap();
    Server::of(api, old.store.clone())
}

pub fn admin() -> User {
    User::new("admin", &["system:masters", "system:authenticated"])
}

impl Server {
    pub fn of(api: Arc<Api>, store: Arc<MemoryStore>) -> Self {
        let backend = api.backend(admin());
        Self { api, store, backend }
    }
    pub async fn send(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.backend.send(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }
    pub async fn get(&self, uri: &str) -> Answer {
        self.send(Method::GET, uri, &[], "").await
    }
    pub async fn get_as(&self, uri: &str, accept: &str) -> Answer {
        self.send(Method::GET, uri, &[(header::ACCEPT.as_str(), accept)], "").await
    }
    pub async fn post(&self, uri: &str, body: &Value) -> Answer {
        self.send(Method::POST, uri, &[("content-type", "application/json")], body.to_string()).await
    }
    pub async fn put(&self, uri: &str, body: &Value) -> Answer {
        self.send(Method::PUT, uri, &[("content-type", "application/json")], body.to_string()).await
    }
    pub async fn patch(&self, uri: &str, media: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, uri, &[("content-type", media)], body.to_string()).await
    }
    pub async fn merge(&self, uri: &str, body: &Value) -> Answer {
        self.patch(uri, "application/merge-patch+json", body).await
    }
    pub async fn apply(&self, uri: &str, manager: &str, body: &Value) -> Answer {
        let uri = format!("{uri}?fieldManager={manager}");
        self.patch(&uri, "application/apply-patch+yaml", body).await
    }
    pub async fn delete(&self, uri: &str) -> Answer {
        self.send(Method::DELETE, uri, &[], "").await
    }
    /// The body of an endless answer, line by line.
    pub async fn watch(&self, uri: &str, accept: &str) -> Lines {
        let request = Request::builder().uri(uri).header(header::ACCEPT, accept).body(Bytes::new()).unwrap();
        let response = self.backend.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Lines { body: response.into_body(), buffer: Vec::new() }
    }
    /// As somebody else.
    pub fn as_user(&self, user: User) -> Server {
        Server { api: self.api.clone(), store: self.store.clone(), backend: self.api.backend(user) }
    }
}

pub struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            let data = frame.data_ref().unwrap();
            assert!(!data.is_empty(), "a frame without data");
            self.buffer.extend_from_slice(data);
        }
    }
    /// Type and name of the next event.
    pub async fn told(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

pub fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": value}}, "data": {"k": value}})
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Collects a stream's first items.
pub async fn first<T>(stream: &mut (impl futures::Stream<Item = T> + Unpin)) -> T {
    stream.next().await.expect("the stream goes on")
}
