//! The cache as authentication, authorization and admission see it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use skiff_meta::{GroupResource, GroupVersionKind, Object, Status};
use skiff_store::Revision;

use crate::cache::ResourceCache;
use crate::cache::feed::Feed;
use crate::chain::{Changed, View};
use crate::error;
use crate::resource::catalog::Catalog;

/// The cache of all resources.
pub(crate) struct CacheView {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) feed: Arc<Feed>,
}

impl CacheView {
    fn cache(&self, id: &GroupResource) -> Option<(Arc<ResourceCache>, bool)> {
        let served = self.catalog.registry().preferred(id)?;
        let namespaced = served.resource.namespaced;
        served.resource.cache.clone().map(|c| (c, namespaced))
    }
}

fn tail(namespaced: bool, namespace: &str, name: &str) -> String {
    if namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
}

#[async_trait]
impl View for CacheView {
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let (cache, namespaced) = self.cache(resource)?;
        cache.get(&tail(namespaced, namespace, name))
    }

    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Arc<Object>> {
        let Some((cache, namespaced)) = self.cache(resource) else { return Vec::new() };
        let (items, _) = cache.snapshot();
        let (from, to) = crate::cache::namespace_range(&items, namespaced, namespace);
        items.range(from, to).map(|e| e.object().clone()).collect()
    }

    fn changed(&self, resource: &GroupResource) -> Revision {
        self.cache(resource).map_or(0, |(c, _)| c.changed())
    }

    fn revision(&self, _resource: &GroupResource) -> Revision {
        self.feed.revision()
    }

    fn changes(&self, resource: &GroupResource, after: Revision) -> Option<Vec<Changed>> {
        let (cache, _) = self.cache(resource)?;
        let events = cache.events_after(after).ok()?;
        let changed = |event: &Arc<crate::cache::Event>| {
            let ty = if event.current().is_some() {
                crate::cache::EventType::Modified
            } else {
                crate::cache::EventType::Deleted
            };
            let removed = event.current().is_none();
            event.object(ty).map(|object| Changed { revision: event.revision(), object, removed })
        };
        Some(events.iter().filter_map(changed).collect())
    }

    async fn refresh(&self, _resource: &GroupResource) -> Result<(), Status> {
        self.feed.catch_up().await.map(|_| ()).map_err(|e| error::catch_up(&e))
    }

    fn key(&self, resource: &GroupResource, namespace: &str, name: &str) -> Bytes {
        let Some((cache, namespaced)) = self.cache(resource) else { return Bytes::new() };
        format!("{}{}", cache.prefix(), tail(namespaced, namespace, name)).into()
    }

    fn kind_of(&self, resource: &GroupResource) -> Option<(GroupVersionKind, bool)> {
        let served = self.catalog.registry().preferred(resource)?;
        Some((served.version.gvk.clone(), served.resource.namespaced))
    }
}
