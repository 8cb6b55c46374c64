//! A cache for tests of this room.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_meta::object::canonical_bytes;
use skiff_meta::{GroupResource, GroupVersionKind, Object, Status, World};
use skiff_store::Revision;

use crate::chain::{Changed, View};

/// Objects in memory with the history of their changes.
#[derive(Default)]
pub(crate) struct TestView {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    objects: BTreeMap<(String, String, String), Arc<Object>>,
    changes: Vec<(String, Changed)>,
    forgotten: Revision,
}

fn path(resource: &GroupResource) -> String {
    resource.to_string()
}

impl TestView {
    pub(crate) fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// Puts an object of a resource such as `pods` or `roles.rbac.authorization.k8s.io`; a uid is made up from its name
    /// where it has none.
    pub(crate) fn put(&self, resource: &str, mut object: Value) -> Arc<Object> {
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            let uid = format!("uid-{}", metadata["name"].as_str().unwrap_or_default());
            metadata["uid"] = Value::String(uid);
        }
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        let object = Arc::new(Object::from_canonical(canonical_bytes(&object).unwrap(), revision, None).unwrap());
        let key = (resource.to_owned(), object.meta().namespace.clone(), object.meta().name.clone());
        state.objects.insert(key, object.clone());
        state.changes.push((resource.to_owned(), Changed { revision, object: object.clone(), removed: false }));
        object
    }

    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        let object = state.objects.remove(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).unwrap();
        state.changes.push((resource.to_owned(), Changed { revision, object, removed: true }));
    }

    /// Makes everybody start over from lists.
    pub(crate) fn forget_history(&self) {
        let mut state = self.state.lock();
        state.forgotten = state.revision;
    }
}

#[async_trait]
impl View for TestView {
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.lock().objects.get(&(path(resource), namespace.to_owned(), name.to_owned())).cloned()
    }
    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Arc<Object>> {
        let state = self.state.lock();
        let fits =
            |(r, n, _): &(String, String, String)| *r == path(resource) && (namespace.is_empty() || n == namespace);
        state.objects.iter().filter(|(key, _)| fits(key)).map(|(_, object)| object.clone()).collect()
    }
    fn changed(&self, resource: &GroupResource) -> Revision {
        let state = self.state.lock();
        let last = state.changes.iter().rev().find(|(r, _)| *r == path(resource));
        last.map_or(0, |(_, change)| change.revision)
    }
    fn revision(&self, _resource: &GroupResource) -> Revision {
        self.state.lock().revision
    }
    fn changes(&self, resource: &GroupResource, after: Revision) -> Option<Vec<Changed>> {
        let state = self.state.lock();
        let wanted = |(r, c): &&(String, Changed)| *r == path(resource) && c.revision > after;
        (after >= state.forgotten).then(|| state.changes.iter().filter(wanted).map(|(_, c)| c.clone()).collect())
    }
    async fn refresh(&self, _resource: &GroupResource) -> Result<(), Status> {
        Ok(())
    }
    fn key(&self, resource: &GroupResource, namespace: &str, name: &str) -> Bytes {
        format!("/registry/{resource}/{namespace}/{name}").into()
    }
    fn kind_of(&self, _resource: &GroupResource) -> Option<(GroupVersionKind, bool)> {
        None
    }
}

/// Runs a future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A world whose clock moves only when told to.
pub(crate) struct Frozen {
    seconds: std::sync::atomic::AtomicI64,
}

impl Frozen {
    pub(crate) fn at(seconds: i64) -> Arc<Self> {
        Arc::new(Self { seconds: seconds.into() })
    }
    pub(crate) fn advance(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, std::sync::atomic::Ordering::Relaxed);
    }
}

impl World for Frozen {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.seconds.load(std::sync::atomic::Ordering::Relaxed)).unwrap()
    }
    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
    fn sleep(&self, _duration: std::time::Duration) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
    fn spawn(&self, _name: &'static str, _task: futures::future::BoxFuture<'static, ()>) -> skiff_meta::world::Task {
        unreachable!("nothing here starts tasks")
    }
    fn random(&self) -> u64 {
        4
    }
}
