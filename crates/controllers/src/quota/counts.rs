//! How many objects there are in each namespace of the resources that some quota counts, custom ones included.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use parking_lot::Mutex;
use skiff_client::{Client, ClientError, Event, ListTarget, Selection};
use skiff_meta::world::AbortOnDrop;
use skiff_meta::{GroupResource, Object, WorldRef};

/// Namespaces and names of the objects of one resource; `None` before they were listed.
type Names = Option<BTreeMap<String, BTreeSet<String>>>;

struct Watched {
    names: Arc<Mutex<Names>>,
    _task: AbortOnDrop,
}

/// Watches what is counted, from when it is first asked for.
pub(super) struct Counts {
    client: Client,
    world: WorldRef,
    /// Told the namespace in which a number has changed.
    changed: Arc<dyn Fn(&str) + Send + Sync>,
    watched: Mutex<BTreeMap<GroupResource, Watched>>,
}

fn take(names: &Mutex<Names>, event: Event) -> Vec<String> {
    let mut names = names.lock();
    let place = |object: &Object| (object.meta().namespace.to_string(), object.meta().name.to_string());
    match event {
        Event::Replace(all) => {
            let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (namespace, name) in all.iter().map(|object| place(object)) {
                listed.entry(namespace).or_default().insert(name);
            }
            let before = names.replace(listed).unwrap_or_default();
            before.into_keys().chain(names.iter().flatten().map(|(namespace, _)| namespace.clone())).collect()
        }
        Event::Apply(object) => {
            let (namespace, name) = place(&object);
            let new = names.get_or_insert_default().entry(namespace.clone()).or_default().insert(name);
            new.then_some(namespace).into_iter().collect()
        }
        Event::Delete(object) => {
            let (namespace, name) = place(&object);
            let gone = names.iter_mut().filter_map(|names| names.get_mut(&namespace)).any(|names| names.remove(&name));
            gone.then_some(namespace).into_iter().collect()
        }
    }
}

impl Counts {
    pub(super) fn new(client: Client, world: WorldRef, changed: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { client, world, changed: Arc::new(changed), watched: Mutex::default() }
    }

    /// Numbers of these resources in a namespace; one that was never asked for, or is not served, is missing at first.
    ///
    /// # Errors
    /// When the server cannot be asked what it serves.
    pub(super) async fn of(
        &self,
        namespace: &str,
        resources: impl Iterator<Item = GroupResource>,
    ) -> Result<BTreeMap<GroupResource, i64>, ClientError> {
        let mut counts = BTreeMap::new();
        for resource in resources {
            if !self.watched.lock().contains_key(&resource) {
                self.watch(&resource).await?;
            }
            let watched = self.watched.lock();
            let Some(watched) = watched.get(&resource) else { continue };
            if let Some(names) = &*watched.names.lock() {
                let count = names.get(namespace).map_or(0, BTreeSet::len);
                counts.insert(resource, i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        Ok(counts)
    }

    async fn watch(&self, resource: &GroupResource) -> Result<(), ClientError> {
        let served = |discovery: &skiff_client::Discovery| {
            let fits = |known: &&skiff_client::ApiResource| {
                known.group == resource.group && known.resource == resource.resource && known.can("watch")
            };
            discovery.preferred().find(fits).map(skiff_client::ApiResource::gvr)
        };
        let found = match served(&*self.client.discovery().await?) {
            Some(found) => Some(found),
            None => served(&*self.client.rediscover().await?),
        };
        let Some(found) = found else { return Ok(()) };
        let target = ListTarget { resource: found, namespace: String::new(), selection: Selection::default() };
        let mut events = self.client.list_watch(target);
        let names: Arc<Mutex<Names>> = Arc::default();
        let (feed, changed) = (names.clone(), self.changed.clone());
        let task = async move {
            while let Some(event) = events.next().await {
                take(&feed, event).iter().for_each(|namespace| changed(namespace));
            }
        };
        let task = AbortOnDrop(self.world.spawn("quota-counts", Box::pin(task)));
        self.watched.lock().insert(resource.clone(), Watched { names, _task: task });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_counted_by_namespace() {
        let object = |namespace: &str, name: &str| {
            let value = json!({"apiVersion": "v1", "kind": "Secret", "metadata":
                {"namespace": namespace, "name": name, "uid": name, "resourceVersion": "1"}});
            Arc::new(Object::from_wire(value).unwrap())
        };
        let names: Mutex<Names> = Mutex::new(None);
        let count = |namespace: &str| names.lock().as_ref().map(|all| all.get(namespace).map_or(0, BTreeSet::len));
        assert_eq!(count("a"), None);
        take(&names, Event::Replace(vec![object("a", "x"), object("a", "y"), object("b", "x")]));
        assert_eq!((count("a"), count("b"), count("c")), (Some(2), Some(1), Some(0)));
        assert_eq!(take(&names, Event::Apply(object("a", "x"))), Vec::<String>::new(), "known already");
        assert_eq!(take(&names, Event::Apply(object("c", "x"))), ["c"]);
        assert_eq!(take(&names, Event::Delete(object("a", "x"))), ["a"]);
        assert_eq!(take(&names, Event::Replace(vec![])), ["a", "b", "c"]);
        assert_eq!(count("a"), Some(0));
    }
}
