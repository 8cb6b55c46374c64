//! Informers: one list-watch per target, shared by everybody in the process who wants it; a cache, and handlers.
//!
//! Handlers run in the informer's own task, in order, right after the cache took the change; they enqueue keys and
//! return. A handler registered late sees everything that is there already as added. An object replaced by another of
//! the same name (its UID differs) is told as a deletion and an addition, so that handlers need not compare UIDs.

mod store;

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use parking_lot::Mutex;
use skiff_meta::world::AbortOnDrop;
use skiff_meta::{Object, TraceContext, WorldRef};
use tokio::sync::watch;

use crate::api::Kind;
use crate::backend::{Event, ListTarget, Selection};
use crate::client::Client;
pub use store::{Index, Key, Store};

/// One change, as handlers see it: `old` is missing for additions, `new` for deletions.
pub struct Change<'a, K> {
    /// As it was.
    pub old: Option<&'a Arc<K>>,
    /// As it is.
    pub new: Option<&'a Arc<K>>,
    /// The cause of the change, where known.
    pub trace: Option<TraceContext>,
}

impl<'a, K: Kind> Change<'a, K> {
    /// As it is, or for deletions, as it was.
    pub fn object(&self) -> Option<&'a Arc<K>> {
        self.new.or(self.old)
    }
    /// The object's key.
    pub fn key(&self) -> Key {
        self.object().map(|object| Key::of(&**object)).unwrap_or_default()
    }
    /// Both states there are.
    pub fn states(&self) -> impl Iterator<Item = &'a Arc<K>> {
        self.old.into_iter().chain(self.new)
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

struct Shared<K> {
    store: Store<K>,
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// A shared cache of all objects of one target; clones share it. Its watch ends when the last clone, and the last
/// [`Synced`] of it, goes; a [`Store`] or [`Index`] alone does not keep it alive.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    _task: Arc<Mutex<AbortOnDrop>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _task: self._task.clone() }
    }
}

/// Tells when a cache has seen everything that was there when it began, and keeps its watch alive.
#[derive(Clone)]
pub struct Synced {
    receiver: watch::Receiver<bool>,
    _task: Arc<Mutex<AbortOnDrop>>,
}

impl Synced {
    /// Waits until it has.
    pub async fn wait(&self) {
        let mut receiver = self.receiver.clone();
        // A closed channel means that the process is going down: whoever waits goes down with it.
        if receiver.wait_for(|synced| *synced).await.is_err() {
            futures::future::pending::<()>().await;
        }
    }
    /// Whether it has.
    pub fn is(&self) -> bool {
        *self.receiver.borrow()
    }
}

impl<K: Kind> Informer<K> {
    fn start(client: &Client, world: &WorldRef, target: ListTarget) -> Self {
        let shared =
            Arc::new(Shared { store: Store::default(), handlers: Mutex::default(), synced: watch::Sender::new(false) });
        let mut events = client.list_watch(target);
        let feed = shared.clone();
        let task = async move {
            while let Some(event) = events.next().await {
                feed.take(event);
            }
        };
        Self { shared, _task: Arc::new(Mutex::new(AbortOnDrop(world.spawn("informer", Box::pin(task))))) }
    }

    /// The cache, to read from.
    pub fn store(&self) -> Store<K> {
        self.shared.store.clone()
    }

    /// An index over the cache, kept from now on.
    pub fn index(&self, of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        self.shared.store.index(of)
    }

    /// An index by the UIDs of owners.
    pub fn by_owner(&self) -> Index<K> {
        self.index(|object| {
            let owners = object.metadata().owner_references.iter().flatten();
            owners.map(|owner| owner.uid.clone()).collect()
        })
    }

    /// Calls `handler` for everything that is there and for every change from now on.
    pub fn on(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        for (object, typed) in self.shared.store.entries() {
            handler(&Change { old: None, new: Some(&typed), trace: object.trace() });
        }
        handlers.push(Box::new(handler));
    }

    /// When the cache is complete.
    pub fn synced(&self) -> Synced {
        Synced { receiver: self.shared.synced.subscribe(), _task: self._task.clone() }
    }
}

impl<K: Kind> Shared<K> {
    fn take(&self, event: Event) {
        let handlers = self.handlers.lock();
        match event {
            Event::Apply(object) => self.apply(&handlers, object),
            Event::Delete(object) => {
                self.store.saw(object.revision());
                self.remove(&handlers, &Key::of_meta(object.meta()), object.trace());
            }
            Event::Replace(objects) => {
                let mut gone = self.store.keys();
                for object in objects {
                    gone.remove(&Key::of_meta(object.meta()));
                    self.apply(&handlers, object);
                }
                for key in gone {
                    self.remove(&handlers, &key, None);
                }
                self.synced.send_replace(true);
            }
        }
    }

    fn apply(&self, handlers: &[Handler<K>], object: Arc<Object>) {
        let key = Key::of_meta(object.meta());
        let known = self.store.object(&key);
        if let Some(known) = &known {
            if known.meta().uid != object.meta().uid {
                self.remove(handlers, &key, object.trace());
            } else if known.revision() == object.revision() {
                return;
            }
        }
        let typed = match object.typed_by(skiff_api::read::fitting::<K>) {
            Ok(typed) => typed,
            Err(error) => return tracing::error!(kind = K::KIND, %key, "object is left out of the cache: {error}"),
        };
        let trace = object.trace();
        let old = self.store.insert(key, object, typed.clone());
        tell(handlers, &Change { old: old.as_ref(), new: Some(&typed), trace });
    }

    fn remove(&self, handlers: &[Handler<K>], key: &Key, trace: Option<TraceContext>) {
        if let Some(old) = self.store.remove(key) {
            tell(handlers, &Change { old: Some(&old), new: None, trace });
        }
    }
}

fn tell<K>(handlers: &[Handler<K>], change: &Change<'_, K>) {
    for handler in handlers {
        handler(change);
    }
}

/// By kind and selection; the values are `Informer<K>`.
type Known = BTreeMap<(TypeId, String), Arc<dyn Any + Send + Sync>>;

/// The informers of one client: asking twice for the same target gives the same one. Clones share them.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    world: WorldRef,
    known: Arc<Mutex<Known>>,
}

impl Informers {
    /// Informers that list and watch as `client`.
    pub fn new(client: Client, world: WorldRef) -> Self {
        Self { client, world, known: Arc::default() }
    }

    /// All objects of a kind.
    pub fn all<K: Kind>(&self) -> Informer<K> {
        self.select("", Selection::default())
    }

    /// Objects of a kind in one namespace (empty: all) that fit `selection`.
    pub fn select<K: Kind>(&self, namespace: &str, selection: Selection) -> Informer<K> {
        let target = ListTarget { resource: K::gvr(), namespace: namespace.to_owned(), selection };
        let name = format!("{namespace}\n{}\n{}", target.selection.labels, target.selection.fields);
        let mut known = self.known.lock();
        let id = (TypeId::of::<K>(), name);
        if let Some(informer) = known.get(&id).and_then(|any| any.downcast_ref::<Informer<K>>()) {
            return informer.clone();
        }
        let informer = Informer::start(&self.client, &self.world, target);
        known.insert(id, Arc::new(informer.clone()));
        informer
    }
}

#[cfg(test)]
mod tests;
