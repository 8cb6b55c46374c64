//! For tests of the whole agent: a small API server in memory, and a clock that stands still until everybody waits.
//!
//! No admission, defaulting or validation: it shows what the agent does, not what a server would make of it.

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
use skiff_client::{Backend, Body, Client, ClientError, Event, ListTarget};
use skiff_meta::patch::merge_patch;
use skiff_meta::world::Task;
use skiff_meta::{FieldSelector, GroupResource, Object, Status, World};
use tokio::sync::{mpsc, oneshot};

/// A world whose clock moves on only when it is told to.
#[derive(Default)]
pub(crate) struct Clock {
    elapsed: Mutex<Duration>,
    sleepers: Mutex<BTreeMap<(Duration, u64), oneshot::Sender<()>>>,
    random: AtomicU64,
}

impl Clock {
    /// Moves on to the next moment that somebody sleeps for, but not past `limit`. Whether there was one.
    fn advance(&self, limit: Duration) -> bool {
        let mut sleepers = self.sleepers.lock();
        let Some(entry) = sleepers.first_entry().filter(|entry| entry.key().0 <= limit) else { return false };
        let ((at, _), sleeper) = entry.remove_entry();
        let mut elapsed = self.elapsed.lock();
        *elapsed = at.max(*elapsed);
        // Whoever slept may have been stopped since.
        let _ = sleeper.send(());
        true
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

type Key = (String, String, String);

#[derive(Default)]
struct State {
    /// By resource, namespace and name.
    objects: BTreeMap<Key, Value>,
    watchers: Vec<(ListTarget, mpsc::UnboundedSender<Event>)>,
    written: Vec<String>,
    revision: u64,
    /// How many tokens were asked for, and whether none is given any more.
    tokens: usize,
    no_tokens: bool,
}

/// The API server; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    pub(crate) clock: Arc<Clock>,
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

impl Api {
    pub(crate) fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()))
    }

    /// Lets everybody run until `holds`; the clock moves on, up to `limit` from now, when they have nothing left to do.
    pub(crate) async fn within(&self, limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
        use skiff_meta::World as _;
        let end = self.clock.elapsed() + limit;
        loop {
            for _ in 0..300 {
                if holds() {
                    return true;
                }
                tokio::task::yield_now().await;
            }
            if !self.clock.advance(end) {
                return false;
            }
        }
    }

    /// Waits until `holds`, five minutes at most.
    pub(crate) async fn eventually(&self, what: &str, holds: impl FnMut() -> bool) {
        if !self.within(Duration::from_secs(300), holds).await {
            panic!("never: {what}; written: {:#?}; pods: {:#?}", self.written(), self.objects("pods"));
        }
    }

    /// Puts an object there as somebody else would; not logged.
    pub(crate) fn put(&self, resource: &str, object: Value) {
        self.state.lock().store(resource, object);
    }

    /// Changes an object as somebody else would; not logged.
    pub(crate) fn change(&self, resource: &str, name: &str, patch: Value) {
        let mut state = self.state.lock();
        let known = state.objects.get(&key(resource, "default", name)).cloned().expect("an object");
        state.store(resource, merge_patch(&known, &patch));
    }

    /// Removes an object as somebody else would; not logged.
    pub(crate) fn remove(&self, resource: &str, name: &str) {
        self.state.lock().delete(&key(resource, "default", name));
    }

    /// Asks for a pod's deletion as `kubectl delete` does.
    pub(crate) fn delete_pod(&self, name: &str, grace: i64) {
        let metadata = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace});
        self.change("pods", name, json!({"metadata": metadata}));
    }

    /// An object, or null.
    pub(crate) fn get(&self, resource: &str, name: &str) -> Value {
        let state = self.state.lock();
        let mut found = state.objects.iter().filter(|((r, _, n), _)| r == resource && n == name);
        found.next().map(|(_, object)| object.clone()).unwrap_or_default()
    }

    /// All objects of a resource.
    pub(crate) fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.state.lock();
        state.objects.iter().filter(|((r, ..), _)| r == resource).map(|(_, object)| object.clone()).collect()
    }

    /// Writes to pods so far, as `METHOD pods/SUBRESOURCE NAME`.
    pub(crate) fn written(&self) -> Vec<String> {
        self.state.lock().written.clone()
    }

    /// How many tokens were asked for.
    pub(crate) fn tokens(&self) -> usize {
        self.state.lock().tokens
    }

    /// Gives no tokens any more.
    pub(crate) fn refuse_tokens(&self) {
        self.state.lock().no_tokens = true;
    }

    /// `REASON: MESSAGE` of all events.
    pub(crate) fn events(&self) -> Vec<String> {
        let line = |event: &Value| format!("{}: {}", text(event, "/reason"), text(event, "/message"));
        self.objects("events").iter().map(line).collect()
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    (resource.to_owned(), namespace.to_owned(), name.to_owned())
}

/// A strategic merge as far as the agent needs it: conditions are merged by type or deleted, other directives are obeyed
/// by leaving them.
fn strategic(known: &Value, mut patch: Value) -> Value {
    let new = patch.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    for list in patch.get_mut("status").and_then(Value::as_object_mut).into_iter().flat_map(|s| s.values_mut()) {
        if let Some(items) = list.as_array_mut() {
            items.retain(|item| item.get("$patch").is_none());
        }
    }
    let mut conditions = known.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    for new in new {
        conditions.retain(|old| text(old, "/type") != text(&new, "/type"));
        conditions.extend(new.get("$patch").is_none().then_some(new));
    }
    if patch.pointer("/status/conditions").is_some() {
        patch["status"]["conditions"] = json!(conditions);
    }
    merge_patch(known, &patch)
}

impl State {
    fn store(&mut self, resource: &str, mut object: Value) -> Value {
        self.revision += 1;
        let revision = self.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{revision}"));
        }
        let key = key(resource, text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
        self.objects.insert(key, object.clone());
        self.tell(resource, &object, Event::Apply);
        object
    }

    fn delete(&mut self, key: &Key) -> Option<Value> {
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

    fn answer(&mut self, request: &Request<Bytes>) -> Result<Value, Status> {
        let (namespace, rest) = split(request.uri().path());
        let part = |at: usize| rest.get(at).map(String::as_str).unwrap_or_default();
        let (resource, name, subresource) = (part(0), part(1), part(2));
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let group = GroupResource::new("", resource);
        let known = self.objects.get(&key(resource, &namespace, name)).cloned();
        let missing = || Status::not_found(&group, name);
        if request.method() != Method::GET && resource == "pods" {
            self.written.push(format!("{} {resource}/{subresource} {name}", request.method()));
        }
        self.tokens += usize::from(subresource == "token");
        match *request.method() {
            Method::POST if subresource == "token" && self.no_tokens => Err(missing()),
            Method::POST if subresource == "token" => Ok(json!({
                "metadata": {}, "spec": {"audiences": []},
                "status": {"token": format!("token of {name}"), "expirationTimestamp": "2026-01-01T01:00:00Z"}})),
            Method::GET => known.ok_or_else(missing),
            Method::POST => {
                let mut object = body;
                if !namespace.is_empty() {
                    object["metadata"]["namespace"] = json!(namespace);
                }
                let name = text(&object, "/metadata/name").to_owned();
                if self.objects.contains_key(&key(resource, &namespace, &name)) {
                    return Err(Status::already_exists(&group, &name));
                }
                Ok(self.store(resource, object))
            }
            Method::PUT => known.map(|_| self.store(resource, body)).ok_or_else(missing),
            Method::PATCH => {
                let known = known.ok_or_else(missing)?;
                Ok(self.store(resource, strategic(&known, body)))
            }
            Method::DELETE => {
                known.ok_or_else(missing)?;
                Ok(self.delete(&key(resource, &namespace, name)).unwrap_or_default())
            }
            _ => Err(Status::no_such_path()),
        }
    }
}

/// Namespace and what follows it.
fn split(path: &str) -> (String, Vec<String>) {
    let parts: Vec<String> = path.trim_matches('/').split('/').map(str::to_owned).collect();
    let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    match rest {
        [word, namespace, rest @ ..] if word == "namespaces" && !rest.is_empty() => (namespace.clone(), rest.to_vec()),
        rest => (String::new(), rest.to_vec()),
    }
}

impl Backend for Api {
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
