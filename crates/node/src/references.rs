//! The config maps and secrets that pods on this node refer to, each watched by name for as long as a pod needs it.
//!
//! A node may see only what its pods use (the API's authorizer decides by name), so there is one watch per object and
//! not one for all; pods that share an object share its watch.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, VolumeProjection};
use parking_lot::Mutex;
use skiff_client::{Client, Event, Kind, ListTarget, Selection};
use skiff_meta::world::AbortOnDrop;
use skiff_meta::{Object, WorldRef};
use tokio::sync::watch;

use crate::make::Referenced;
use crate::pod::facts;
use crate::pod::mailbox::Mailbox;

/// Which kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Referable {
    ConfigMap,
    Secret,
}

/// What is known of an object.
#[derive(Clone)]
enum Known {
    NotYet,
    Absent,
    Present(Arc<Object>),
}

/// One object that is watched while this exists.
pub(crate) struct Reference {
    kind: Referable,
    name: String,
    known: watch::Sender<Known>,
    listeners: Mutex<Vec<Weak<Mailbox>>>,
    task: Mutex<Option<AbortOnDrop>>,
}

impl Reference {
    async fn object(&self) -> Option<Arc<Object>> {
        let mut receiver = self.known.subscribe();
        // The sender is in `self`, so the channel cannot close.
        let known = receiver.wait_for(|known| !matches!(known, Known::NotYet)).await.ok()?;
        match &*known {
            Known::Present(object) => Some(object.clone()),
            _ => None,
        }
    }

    fn take(&self, event: Event) {
        let next = match event {
            Event::Replace(objects) => objects.into_iter().next().map_or(Known::Absent, Known::Present),
            Event::Apply(object) => Known::Present(object),
            Event::Delete(_) => Known::Absent,
        };
        let first = matches!(*self.known.borrow(), Known::NotYet);
        self.known.send_replace(next);
        if !first {
            let mut listeners = self.listeners.lock();
            listeners.retain(|listener| listener.upgrade().is_some_and(|mailbox| mailbox.refresh()));
        }
    }
}

/// All objects that are watched.
pub(crate) struct References {
    client: Client,
    world: WorldRef,
    known: Mutex<HashMap<(Referable, String, String), Weak<Reference>>>,
}

impl References {
    pub(crate) fn new(client: Client, world: WorldRef) -> Self {
        Self { client, world, known: Mutex::default() }
    }

    /// Watches an object on behalf of `listener`, who is told of its changes.
    fn watch(&self, kind: Referable, namespace: &str, name: &str, listener: &Arc<Mailbox>) -> Arc<Reference> {
        let mut known = self.known.lock();
        known.retain(|_, reference| reference.strong_count() > 0);
        let key = (kind, namespace.to_owned(), name.to_owned());
        let reference = match known.get(&key).and_then(Weak::upgrade) {
            Some(reference) => reference,
            None => {
                let reference = self.begin(kind, namespace, name);
                known.insert(key, Arc::downgrade(&reference));
                reference
            }
        };
        reference.listeners.lock().push(Arc::downgrade(listener));
        reference
    }

    fn begin(&self, kind: Referable, namespace: &str, name: &str) -> Arc<Reference> {
        let resource = match kind {
            Referable::ConfigMap => ConfigMap::gvr(),
            Referable::Secret => Secret::gvr(),
        };
        let fields = format!("metadata.name={name}");
        let selection = Selection { fields, ..Selection::default() };
        let mut events = self.client.list_watch(ListTarget { resource, namespace: namespace.to_owned(), selection });
        let reference = Arc::new(Reference {
            kind,
            name: name.to_owned(),
            known: watch::Sender::new(Known::NotYet),
            listeners: Mutex::default(),
            task: Mutex::default(),
        });
        let weak = Arc::downgrade(&reference);
        let follow = async move {
            while let Some(event) = events.next().await {
                match weak.upgrade() {
                    Some(reference) => reference.take(event),
                    None => return,
                }
            }
        };
        *reference.task.lock() = Some(AbortOnDrop(self.world.spawn("reference", Box::pin(follow))));
        reference
    }

    /// Watches everything that `pod` refers to.
    pub(crate) fn of(&self, pod: &Pod, listener: &Arc<Mailbox>) -> Vec<Arc<Reference>> {
        let namespace = facts::namespace(pod);
        names(pod).iter().map(|(kind, name)| self.watch(*kind, namespace, name, listener)).collect()
    }
}

/// What the references are now; waits until each is known.
pub(crate) async fn resolve(references: &[Arc<Reference>]) -> Referenced {
    let mut referenced = Referenced::default();
    for reference in references {
        let Some(object) = reference.object().await else { continue };
        let name = reference.name.clone();
        let result = match reference.kind {
            Referable::ConfigMap => object.typed().map(|map| drop(referenced.config_maps.insert(name, map))),
            Referable::Secret => object.typed().map(|secret| drop(referenced.secrets.insert(name, secret))),
        };
        if let Err(error) = result {
            tracing::warn!(name = reference.name, "an object of the API cannot be read: {error}");
        }
    }
    referenced
}

/// The names of all objects that a pod refers to, from variables, volumes and credentials for images.
fn names(pod: &Pod) -> BTreeSet<(Referable, String)> {
    let mut names = BTreeSet::new();
    let mut map = |name: &str| names.extend([(Referable::ConfigMap, name.to_owned())]);
    let mut secrets = Vec::new();
    for (_, container) in facts::containers(pod) {
        for from in container.env_from.iter().flatten() {
            from.config_map_ref.iter().for_each(|reference| map(&reference.name));
            secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            source.config_map_key_ref.iter().for_each(|selector| map(&selector.name));
            secrets.extend(source.secret_key_ref.iter().map(|selector| selector.name.clone()));
        }
    }
    let spec = facts::spec(pod);
    for volume in spec.volumes.iter().flatten() {
        volume.config_map.iter().for_each(|source| map(&source.name));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for VolumeProjection { config_map, secret, .. } in sources {
            config_map.iter().for_each(|source| map(&source.name));
            secrets.extend(secret.iter().map(|source| source.name.clone()));
        }
    }
    secrets.extend(spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()));
    names.extend(secrets.into_iter().map(|name| (Referable::Secret, name)));
    names.retain(|(_, name)| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_references_are_found() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c",
                "envFrom": [{"configMapRef": {"name": "m1"}}, {"secretRef": {"name": "s1"}}],
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m2", "key": "k"}}}]}],
            "initContainers": [{"name": "i",
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
            "volumes": [{"name": "a", "configMap": {"name": "m3"}}, {"name": "b", "secret": {"secretName": "s3"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "m4"}}, {"secret": {"name": "s4"}}]}}],
            "imagePullSecrets": [{"name": "s5"}],
        }}))
        .expect("a pod");
        let told: Vec<String> = names(&pod).into_iter().map(|(_, name)| name).collect();
        assert_eq!(told, ["m1", "m2", "m3", "m4", "s1", "s2", "s3", "s4", "s5"]);
    }
}
