//! What is known of one request.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::Audit;
use super::policy::{Decided, Level, Stage};
use crate::chain::{Identity, User};
use crate::flow::Digest;
use crate::request::Target;
use crate::tree;

/// Longest part of a user agent that is kept.
const AGENT: usize = 1024;

/// A request as it came.
pub(crate) struct Asks<'a> {
    pub(crate) id: &'a str,
    pub(crate) received: Timestamp,
    pub(crate) digest: Digest<'a>,
    pub(crate) uri: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) identity: &'a Identity,
}

/// One request in the audit log.
pub(crate) struct Record {
    audit: Arc<Audit>,
    decided: Decided,
    event: Mutex<Map<String, Value>>,
}

impl Record {
    pub(super) fn new(audit: Arc<Audit>, decided: Decided, asks: Asks<'_>) -> Self {
        let digest = asks.digest;
        let mut event = Map::new();
        let mut put = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
        put("kind", json!("Event"));
        put("apiVersion", json!("audit.k8s.io/v1"));
        put("level", json!(decided.level.as_str()));
        put("auditID", json!(asks.id));
        put("requestURI", json!(asks.uri));
        put("verb", json!(digest.verb));
        put("user", user(digest.user));
        put("sourceIPs", json!(sources(asks.headers, asks.identity)));
        if let Some(agent) = asks.headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()))
        {
            let cut: String = agent.chars().take(AGENT).collect();
            let shortened = cut.len() < agent.len();
            put("userAgent", json!(if shortened { format!("{cut}...TRUNCATED") } else { cut }));
        }
        if let Some(target) = digest.target {
            put("objectRef", reference(target));
        }
        put("requestReceivedTimestamp", json!(micros(asks.received)));
        Self { audit, decided, event: Mutex::new(event) }
    }

    /// How much is written of it.
    pub(crate) fn level(&self) -> Level {
        self.decided.level
    }

    /// Somebody acts as somebody else.
    pub(crate) fn impersonated(&self, as_user: &User) {
        self.event.lock().insert("impersonatedUser".to_owned(), user(as_user));
    }

    /// Something was found out on the way.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        let mut event = self.event.lock();
        let all = tree::map(event.entry("annotations").or_insert(Value::Null));
        all.entry(key.to_owned()).or_insert_with(|| json!(value));
    }

    /// The same for all that admission said.
    pub(crate) fn annotate_all(&self, annotations: &BTreeMap<String, String>) {
        annotations.iter().for_each(|(key, value)| self.annotate(key, value));
    }

    /// The object in the request's body, or the patch.
    pub(crate) fn request(&self, mut object: Value, is_patch: bool) {
        let mut event = self.event.lock();
        if !is_patch && let Some(reference) = event.get_mut("objectRef") {
            for name in ["namespace", "name", "uid", "resourceVersion"] {
                let said = tree::text(&object, &["metadata", name]);
                if !said.is_empty() && tree::text(reference, &[name]).is_empty() {
                    tree::map(reference).insert(name.to_owned(), json!(said));
                }
            }
        }
        if self.decided.level >= Level::Request {
            if !is_patch {
                self.trim(&mut object);
            }
            event.insert("requestObject".to_owned(), object);
        }
    }

    /// The object in the answer's body.
    pub(crate) fn response(&self, mut object: Value) {
        if self.decided.level == Level::RequestResponse {
            self.trim(&mut object);
            self.event.lock().insert("responseObject".to_owned(), object);
        }
    }

    fn trim(&self, object: &mut Value) {
        if !self.decided.omit_managed_fields {
            return;
        }
        let forget = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        forget(object);
        for (list, inner) in [("items", ""), ("rows", "/object")] {
            let items = object.get_mut(list).and_then(Value::as_array_mut);
            items.into_iter().flatten().filter_map(|item| item.pointer_mut(inner)).for_each(forget);
        }
    }

    /// What came of it; a failure's own words where there are some.
    pub(crate) fn outcome(&self, code: u16, status: Option<&Value>) {
        let mut outcome = json!({"metadata": {}, "code": code});
        for name in ["status", "message", "reason", "details"] {
            if let Some(said) = status.and_then(|status| status.get(name)).filter(|said| !said.is_null()) {
                outcome[name] = said.clone();
            }
        }
        self.event.lock().insert("responseStatus".to_owned(), outcome);
    }

    /// Writes it as it is at a stage; false when the request must not go on.
    pub(crate) async fn write(&self, stage: Stage) -> bool {
        if self.decided.omit_stages.contains(&stage) {
            return true;
        }
        let mut event = self.event.lock().clone();
        event.insert("stage".to_owned(), json!(stage.as_str()));
        event.insert("stageTimestamp".to_owned(), json!(micros(self.audit.world.now())));
        self.audit.write(&Value::Object(event)).await
    }
}

/// By what a client tried to say who it is.
pub(super) fn attempts(asks: &Asks<'_>) -> String {
    let given = asks.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let scheme = given.split(' ').next().unwrap_or_default().to_ascii_lowercase();
    let mut methods: Vec<&str> = ["basic", "bearer"].into_iter().filter(|known| *known == scheme).collect();
    if matches!(asks.identity, Identity::Peer(peer) if !peer.certificates.is_empty()) {
        methods.push("x509");
    }
    if methods.is_empty() {
        return "Authentication failed, no credentials provided".to_owned();
    }
    format!("Authentication failed, attempted: {}", methods.join(", "))
}

fn user(user: &User) -> Value {
    let mut value = json!({"username": user.name});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        value["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

fn reference(target: &Target) -> Value {
    let resource = &target.resource;
    let parts = [
        ("resource", &resource.resource),
        ("namespace", &target.namespace),
        ("name", &target.name),
        ("apiGroup", &resource.group),
        ("apiVersion", &resource.version),
        ("subresource", &target.subresource),
    ];
    let said = parts.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(said.map(|(name, value)| (name.to_owned(), json!(value))).collect())
}

/// Where the request comes from: what proxies say, and the other end of the connection.
fn sources(headers: &HeaderMap, identity: &Identity) -> Vec<String> {
    let address = |text: &str| text.trim().parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string());
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut all: Vec<String> = text("x-forwarded-for").split(',').filter_map(address).collect();
    all.extend(address(text("x-real-ip")));
    all.push(match identity {
        Identity::Peer(peer) => peer.address.map_or("127.0.0.1".to_owned(), |a| a.ip().to_canonical().to_string()),
        Identity::Bound(_) => "127.0.0.1".to_owned(),
    });
    all.dedup();
    all
}

fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
