//! A small API server for tests: objects in a map, a log of writes, watches that tell of both.
//!
//! No admission, defaulting or validation: it shows what a controller does, not what a server would make of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_client::{Backend, Body, Client, ClientError, Event, Informers, ListTarget};
use skiff_meta::patch::merge_patch;
use skiff_meta::world::Task;
use skiff_meta::{FieldSelector, GroupResource, Object, Status, World, WorldRef};
use tokio::sync::{mpsc, oneshot};

use crate::{Context, Options};

#[derive(Default)]
struct State {
    /// By resource, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    watchers: Vec<(ListTarget, mpsc::UnboundedSender<Event>)>,
    written: Vec<String>,
    revision: u64,
    /// What discovery says is served in `v1`.
    served: Vec<String>,
}

/// The fake server; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    clock: Arc<Clock>,
}

/// A world whose clock stands still until everybody waits for it.
#[derive(Default)]
struct Clock {
    elapsed: Mutex<Duration>,
    sleepers: Mutex<BTreeMap<(Duration, u64), oneshot::Sender<()>>>,
    random: AtomicU64,
}

impl Clock {
    /// Moves on to the next moment that somebody sleeps for.
    fn advance(&self) {
        if let Some(((at, _), sleeper)) = self.sleepers.lock().pop_first() {
            let mut elapsed = self.elapsed.lock();
            *elapsed = at.max(*elapsed);
            let _ = sleeper.send(());
        }
    }
}

impl World for Clock {
    fn now(&self) -> Timestamp {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        start + *self.elapsed.lock()
    }
    fn elapsed(&self) -> Duration {
        *self.elapsed.lock()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (wake, woken) = oneshot::channel();
        self.sleepers.lock().insert((self.elapsed() + duration, self.random()), wake);
        Box::pin(async move { drop(woken.await) })
    }
    #[allow(clippy::disallowed_methods, reason = "a world for tests")]
    fn spawn(&self, _: &'static str, task: BoxFuture<'static, ()>) -> Task {
        let handle = tokio::spawn(task);
        let abort = handle.abort_handle();
        Task::new(move || abort.abort(), Box::pin(async move { drop(handle.await) }))
    }
    fn random(&self) -> u64 {
        self.random.fetch_add(1, Ordering::Relaxed)
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn selected(target: &ListTarget, object: &Value) -> bool {
    let fields = FieldSelector::parse(&target.selection.fields).expect("a field selector");
    let value = |field: &str| text(object, &format!("/{}", field.replace('.', "/"))).to_owned();
    let values: BTreeMap<String, String> =
        fields.terms().iter().map(|term| (term.field.clone(), value(&term.field))).collect();
    (target.namespace.is_empty() || target.namespace == text(object, "/metadata/namespace"))
        && fields.matches_with(|field| values.get(field).map_or("", String::as_str))
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()))
    }

    /// Lets the others run until `holds`; the clock moves on when they have nothing left to do now.
    pub(crate) async fn eventually(&self, mut holds: impl FnMut() -> bool) {
        for _ in 0..500 {
            for _ in 0..200 {
                if holds() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            self.clock.advance();
        }
        panic!("it never became true; written so far: {:#?}", self.written());
    }

    /// Lets the others run until they have nothing left to do now.
    pub(crate) async fn settle(&self) {
        for _ in 0..2_000 {
            tokio::task::yield_now().await;
        }
    }

    /// Kinds that discovery tells of, all in `v1`.
    pub(crate) fn serve(&self, kinds: &[&str]) {
        self.state.lock().served = kinds.iter().map(|&kind| kind.to_owned()).collect();
    }

    pub(crate) fn context(&self) -> Context {
        let world: WorldRef = self.clock.clone();
        Context::new(world.clone(), Informers::new(self.client(), world), Options::default())
    }

    /// Puts an object there as somebody else would; not logged.
    pub(crate) fn put(&self, object: Value) {
        let resource = resource_of(text(&object, "/kind"));
        self.state.lock().store(&resource, object);
    }

    /// Removes an object as somebody else would; not logged.
    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        self.state.lock().delete(&(resource.to_owned(), namespace.to_owned(), name.to_owned()));
    }

    /// `namespace/name` of all objects of a resource.
    pub(crate) fn names(&self, resource: &str) -> Vec<String> {
        let state = self.state.lock();
        let keys = state.objects.keys().filter(|(r, ..)| r == resource);
        keys.map(|(_, namespace, name)| format!("{namespace}/{name}").trim_start_matches('/').to_owned()).collect()
    }

    /// All objects of a resource.
    pub(crate) fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.state.lock();
        state.objects.iter().filter(|((r, ..), _)| r == resource).map(|(_, object)| object.clone()).collect()
    }

    /// Writes so far, as `METHOD resource namespace/name`; events are left out.
    pub(crate) fn written(&self) -> Vec<String> {
        self.state.lock().written.clone()
    }
}

/// The plural of a kind, by rule of thumb.
fn resource_of(kind: &str) -> String {
    let lower = kind.to_lowercase();
    if lower.ends_with('s') { lower } else { format!("{lower}s") }
}

impl State {
    fn store(&mut self, resource: &str, mut object: Value) -> Value {
        self.revision += 1;
        let revision = self.revision;
        let meta = object.as_object_mut().and_then(|o| o.entry("metadata").or_insert(json!({})).as_object_mut());
        let meta = meta.expect("metadata is an object");
        if !meta.contains_key("name") {
            let prefix = meta.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
            meta.insert("name".into(), json!(format!("{prefix}{revision}")));
        }
        meta.entry("uid").or_insert(json!(format!("uid-{revision}")));
        meta.entry("creationTimestamp").or_insert(json!("2026-01-01T00:00:00Z"));
        meta.insert("resourceVersion".into(), json!(revision.to_string()));
        let key = (
            resource.to_owned(),
            text(&object, "/metadata/namespace").to_owned(),
            text(&object, "/metadata/name").to_owned(),
        );
        self.objects.insert(key, object.clone());
        self.tell(resource, &object, Event::Apply);
        object
    }

    fn delete(&mut self, key: &(String, String, String)) -> Option<Value> {
        let mut object = self.objects.remove(key)?;
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.tell(&key.0, &object, Event::Delete);
        Some(object)
    }

    fn tell(&mut self, resource: &str, object: &Value, event: fn(Arc<Object>) -> Event) {
        for (target, watcher) in &self.watchers {
            if target.resource.resource == resource && selected(target, object) {
                let shared = Arc::new(Object::from_wire(object.clone()).expect("an object"));
                let _ = watcher.send(event(shared));
            }
        }
    }

    fn discovery(&self, path: &str) -> Value {
        let resource = |kind: &String| {
            json!({"resource": resource_of(kind), "responseKind": {"kind": kind}, "scope": "Namespaced",
                "verbs": ["get", "list", "watch", "delete", "patch"]})
        };
        let resources: Vec<Value> = self.served.iter().map(resource).collect();
        let core = json!({"metadata": {}, "versions": [{"version": "v1", "resources": resources}]});
        json!({"items": if path == "/api" { vec![core] } else { vec![] }})
    }

    fn answer(&mut self, request: &Request<Bytes>) -> Result<Value, Status> {
        if matches!(request.uri().path(), "/api" | "/apis") {
            return Ok(self.discovery(request.uri().path()));
        }
        let path = Path::parse(request.uri().path());
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let resource = GroupResource::new("", &*path.resource);
        let key = (path.resource.clone(), path.namespace.clone(), path.name.clone());
        let known = self.objects.get(&key).cloned();
        let missing = || Status::not_found(&resource, &path.name);
        if request.method() != Method::GET && path.resource != "events" {
            let name = if path.name.is_empty() { text(&body, "/metadata/name") } else { &path.name };
            let place = format!("{}/{name}", path.namespace);
            let place = place.trim_start_matches('/');
            let sub = if path.subresource.is_empty() { String::new() } else { format!("/{}", path.subresource) };
            self.written.push(format!("{} {}{sub} {place}", request.method(), path.resource));
        }
        match *request.method() {
            Method::GET if path.name.is_empty() => {
                let fits = |(r, ns, _): &(String, String, String)| {
                    *r == path.resource && (path.namespace.is_empty() || *ns == path.namespace)
                };
                let items: Vec<_> = self.objects.iter().filter(|(k, _)| fits(k)).map(|(_, o)| o.clone()).collect();
                Ok(json!({"metadata": {}, "items": items}))
            }
            Method::GET => known.ok_or_else(missing),
            Method::POST => {
                let mut object = body;
                if !path.namespace.is_empty() {
                    object["metadata"]["namespace"] = json!(path.namespace);
                }
                let key = (path.resource.clone(), path.namespace.clone(), text(&object, "/metadata/name").to_owned());
                if self.objects.contains_key(&key) {
                    return Err(Status::already_exists(&resource, &key.2));
                }
                Ok(self.store(&path.resource, object))
            }
            Method::PUT => {
                let known = known.ok_or_else(missing)?;
                let version = text(&body, "/metadata/resourceVersion");
                if !version.is_empty() && version != text(&known, "/metadata/resourceVersion") {
                    return Err(Status::stale(&resource, &path.name));
                }
                Ok(self.store(&path.resource, body))
            }
            Method::PATCH => {
                let known = known.ok_or_else(missing)?;
                Ok(self.store(&path.resource, merge_patch(&known, &body)))
            }
            Method::DELETE => {
                known.ok_or_else(missing)?;
                Ok(self.delete(&key).unwrap_or_default())
            }
            _ => Err(Status::no_such_path()),
        }
    }
}

/// A request's path, taken apart.
struct Path {
    namespace: String,
    resource: String,
    name: String,
    subresource: String,
}

impl Path {
    fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && !matches!(rest[0], "status" | "finalize") => {
                (*namespace, rest)
            }
            rest => ("", rest),
        };
        let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        Self { namespace: namespace.to_owned(), resource: part(0), name: part(1), subresource: part(2) }
    }
}

impl Backend for Fake {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let (code, body) = match self.state.lock().answer(&request) {
            Ok(object) => (200, object),
            Err(status) => (status.code, serde_json::to_value(&status).expect("a status")),
        };
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        let response = Response::builder().status(code).body(body).expect("a response");
        Box::pin(async { Ok(response) })
    }

    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        let mut state = self.state.lock();
        let objects =
            state.objects.iter().filter(|((r, ..), o)| *r == target.resource.resource && selected(&target, o));
        let all = objects.map(|(_, o)| Arc::new(Object::from_wire(o.clone()).expect("an object"))).collect();
        let (send, receive) = mpsc::unbounded_channel();
        state.watchers.push((target, send));
        let rest = futures::stream::unfold(receive, |mut r| async move { r.recv().await.map(|event| (event, r)) });
        futures::stream::once(async { Event::Replace(all) }).chain(rest).boxed()
    }

    fn remote(&self) -> Option<Arc<skiff_client::config::Remote>> {
        None
    }
}
