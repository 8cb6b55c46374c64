//! The registry of the moment, and how it follows the definitions of custom kinds.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_meta::GroupResource;
use skiff_store::Revision;

use super::registry::Registry;
use super::{Resource, builtin};
use crate::cache::ResourceCache;
use crate::cache::feed::Registrar;
use crate::definitions::names::judge;
use crate::tree;

/// The registry of the moment.
pub(crate) struct Catalog {
    builtin: Vec<Arc<Resource>>,
    definitions: Option<Arc<ResourceCache>>,
    current: ArcSwap<Registry>,
    next: Mutex<Next>,
}

#[derive(Default)]
struct Next {
    registry: Option<Arc<Registry>>,
    /// Made from which revision of which definition, so that what did not change is not made again.
    made: HashMap<String, (Revision, Option<Arc<Resource>>)>,
}

impl Catalog {
    /// The built-in kinds; custom ones come with the feed.
    pub(crate) fn new() -> Arc<Self> {
        let mut builtin = builtin::resources();
        builtin.extend(crate::verbs::metrics::resources());
        let id = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
        let definitions = builtin.iter().find(|r| r.id == id).and_then(|r| r.cache.clone());
        let current = ArcSwap::from_pointee(Registry::new(builtin.clone()));
        Arc::new(Self { builtin, definitions, current, next: Mutex::default() })
    }

    /// What is served right now; hold on to it for one request.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.current.load_full()
    }

    /// Resources of the definitions that are there, made anew where the definition changed.
    fn custom(&self, next: &mut Next) -> Vec<Arc<Resource>> {
        let Some(definitions) = &self.definitions else { return Vec::new() };
        let (definitions, _) = definitions.snapshot();
        let all: Vec<Value> = definitions.iter().filter_map(|e| e.object().to_value().ok()).collect();
        let unfit: Vec<&str> =
            all.iter().filter(|d| !is_fit(d, &all)).map(|d| tree::text(d, &["metadata", "name"])).collect();
        let mut made = HashMap::new();
        let mut found = Vec::new();
        for entry in definitions.iter() {
            let object = entry.object();
            let old = next.made.remove(&object.meta().name);
            let resource = match old {
                Some((revision, resource)) if revision == object.revision() => resource,
                old => super::custom::resource(object, old.and_then(|(_, r)| r)).map(Arc::new),
            };
            if !unfit.contains(&object.meta().name.as_str()) {
                found.extend(resource.clone());
            }
            made.insert(object.meta().name.clone(), (object.revision(), resource));
        }
        next.made = made;
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }
}

/// Whether a definition is served: its names are its own, or were once. Its status says the same a moment later.
fn is_fit(definition: &Value, all: &[Value]) -> bool {
    let conditions = tree::at(definition, &["status", "conditions"]).and_then(Value::as_array);
    let established = conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True");
    established || judge(definition, all).fault.is_none()
}

impl Registrar for Catalog {
    fn depends_on(&self, prefix: &str) -> bool {
        self.definitions.as_ref().is_some_and(|d| d.prefix() == prefix)
    }

    fn plan(&self) -> Vec<Arc<ResourceCache>> {
        let mut next = self.next.lock();
        let mut resources = self.builtin.clone();
        resources.extend(self.custom(&mut next));
        let mut caches: Vec<Arc<ResourceCache>> = resources.iter().filter_map(|r| r.cache.clone()).collect();
        caches.sort_by(|a, b| a.prefix().cmp(b.prefix()));
        caches.dedup_by(|a, b| a.prefix() == b.prefix());
        next.registry = Some(Arc::new(Registry::new(resources)));
        caches
    }

    fn publish(&self) {
        if let Some(registry) = self.next.lock().registry.take() {
            self.current.store(registry);
        }
    }
}
