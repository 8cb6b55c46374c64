//! The cache behind an informer, and its indexes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use skiff_meta::{Meta, Object};

use crate::api::Kind;

/// Namespace and name; the namespace is empty for cluster-scoped kinds. Prints as `namespace/name` or `name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
    /// The key of a typed object.
    pub fn of<K: Kind>(object: &K) -> Self {
        Self::new(object.namespace(), object.name())
    }
    /// The key of any object.
    pub fn of_meta(meta: &Meta) -> Self {
        Self::new(&*meta.namespace, &*meta.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

struct Entry<K> {
    object: Arc<Object>,
    typed: Arc<K>,
}

type IndexFunction<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct IndexData<K> {
    of: IndexFunction<K>,
    found: BTreeMap<String, BTreeMap<Key, Arc<K>>>,
}

struct State<K> {
    objects: BTreeMap<Key, Entry<K>>,
    indexes: Vec<IndexData<K>>,
    revision: u64,
}

/// A read handle on an informer's cache; clones share it. What it returns is in the order of keys.
pub struct Store<K> {
    state: Arc<RwLock<State<K>>>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone() }
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { state: Arc::new(RwLock::new(State { objects: BTreeMap::new(), indexes: Vec::new(), revision: 0 })) }
    }
}

/// Finds the objects of a cache by something other than their name; clones share it.
pub struct Index<K> {
    store: Store<K>,
    number: usize,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), number: self.number }
    }
}

impl<K: Kind> Store<K> {
    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&Key::new(namespace, name))
    }

    /// One object.
    pub fn get_key(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).map(|entry| entry.typed.clone())
    }

    /// The shared form of one object, with revision and trace.
    pub fn object(&self, key: &Key) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).map(|entry| entry.object.clone())
    }

    /// All objects.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().map(|entry| entry.typed.clone()).collect()
    }

    /// The objects of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let range = state.objects.range(Key::new(namespace, "")..);
        range.take_while(|(key, _)| key.namespace == namespace).map(|(_, entry)| entry.typed.clone()).collect()
    }

    /// The newest revision seen. Whoever wrote an object of this kind at revision R will find the write (and all before
    /// it) here once this is at least R.
    pub fn revision(&self) -> u64 {
        self.state.read().revision
    }

    pub(super) fn saw(&self, revision: u64) {
        let mut state = self.state.write();
        state.revision = state.revision.max(revision);
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn keys(&self) -> BTreeSet<Key> {
        self.state.read().objects.keys().cloned().collect()
    }

    pub(super) fn entries(&self) -> Vec<(Arc<Object>, Arc<K>)> {
        self.state.read().objects.values().map(|entry| (entry.object.clone(), entry.typed.clone())).collect()
    }

    pub(super) fn index(&self, of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        let mut state = self.state.write();
        let mut index = IndexData { of: Box::new(of), found: BTreeMap::new() };
        for (key, entry) in &state.objects {
            index.add(key, &entry.typed);
        }
        state.indexes.push(index);
        Index { store: self.clone(), number: state.indexes.len() - 1 }
    }

    pub(super) fn insert(&self, key: Key, object: Arc<Object>, typed: Arc<K>) -> Option<Arc<K>> {
        let mut state = self.state.write();
        state.revision = state.revision.max(object.revision());
        let old = state.objects.get(&key).map(|entry| entry.typed.clone());
        for index in &mut state.indexes {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.add(&key, &typed);
        }
        state.objects.insert(key, Entry { object, typed });
        old
    }

    pub(super) fn remove(&self, key: &Key) -> Option<Arc<K>> {
        let mut state = self.state.write();
        let old = state.objects.remove(key)?.typed;
        for index in &mut state.indexes {
            index.remove(key, &old);
        }
        Some(old)
    }
}

impl<K> IndexData<K> {
    fn add(&mut self, key: &Key, object: &Arc<K>) {
        for value in (self.of)(object) {
            self.found.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for value in (self.of)(object) {
            if let Some(found) = self.found.get_mut(&value) {
                found.remove(key);
                if found.is_empty() {
                    self.found.remove(&value);
                }
            }
        }
    }
}

impl<K: Kind> Index<K> {
    /// The objects with this value, in the order of their keys.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        self.with(value, |found| found.map(|found| found.values().cloned().collect()).unwrap_or_default())
    }

    /// Number of objects with this value.
    pub fn count(&self, value: &str) -> usize {
        self.with(value, |found| found.map_or(0, BTreeMap::len))
    }

    /// All values there are.
    pub fn values(&self) -> Vec<String> {
        let state = self.store.state.read();
        state.indexes.get(self.number).map(|index| index.found.keys().cloned().collect()).unwrap_or_default()
    }

    fn with<R>(&self, value: &str, read: impl FnOnce(Option<&BTreeMap<Key, Arc<K>>>) -> R) -> R {
        let state = self.store.state.read();
        read(state.indexes.get(self.number).and_then(|index| index.found.get(value)))
    }
}
