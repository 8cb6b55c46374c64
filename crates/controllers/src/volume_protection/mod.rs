//! Protection of storage in use: a claim that a pod uses, a volume that a claim is bound to, and a class of attributes that
//! either has, do not go before that is over, however often they are deleted.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use skiff_client::{After, Api, Change, Client, ClientError, Index, Key, Kind, Selection, Store, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;
use plan::{Finalizer, finalizer};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

struct Claims {
    client: Client,
    claims: Store<PersistentVolumeClaim>,
    /// By `namespace/name` of the claims they use.
    users: Index<Pod>,
}

/// Starts the protection of claims.
pub(crate) fn start_claims(context: &Context, client: Client) -> Vec<Task> {
    let (claims, pods) = (context.informers.all::<PersistentVolumeClaim>(), context.informers.all::<Pod>());
    let users = pods.index(|pod| plan::claims_of(pod).map(|key| key.to_string()).collect());
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    claims.on(move |change: &Change<'_, PersistentVolumeClaim>| to_queue.add(change.key(), change.trace));
    let (to_queue, known) = (queue.clone(), claims.store());
    pods.on(move |change: &Change<'_, Pod>| {
        for key in change.states().flat_map(|pod| plan::claims_of(pod)) {
            if known.get_key(&key).is_some_and(|claim| claim.deleting()) {
                to_queue.add(key, change.trace);
            }
        }
    });
    let synced = vec![claims.synced(), pods.synced()];
    let workers = Workers { world: context.world.clone(), name: "pvc-protection-controller", count: 1, synced };
    let controller = Arc::new(Claims { client, claims: claims.store(), users });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Claims {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(After::Change) };
        let used = claim.deleting() && self.is_used(key).await?;
        let api = self.client.namespaced::<PersistentVolumeClaim>(&key.namespace);
        write(&api, &*claim, CLAIM, finalizer(&*claim, CLAIM, used)).await
    }

    /// Whether a pod may still use it. The cache is behind, and what goes here does not come back: that nobody does is
    /// asked of the server.
    async fn is_used(&self, key: &Key) -> Result<bool, ClientError> {
        if self.users.get(&key.to_string()).iter().any(|pod| plan::uses(pod)) {
            return Ok(true);
        }
        let pods = self.client.namespaced::<Pod>(&key.namespace).list(&Selection::default()).await?.items;
        Ok(pods.iter().any(|pod| plan::uses(pod) && plan::claims_of(pod).any(|used| used == *key)))
    }
}

/// Starts the protection of volumes.
pub(crate) fn start_volumes(context: &Context, client: Client) -> Vec<Task> {
    let volumes = context.informers.all::<PersistentVolume>();
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    volumes.on(move |change: &Change<'_, PersistentVolume>| to_queue.add(change.key(), change.trace));
    let synced = vec![volumes.synced()];
    let workers = Workers { world: context.world.clone(), name: "pv-protection-controller", count: 1, synced };
    let known = volumes.store();
    workers.start(queue, move |key: Key| {
        let (client, known) = (client.clone(), known.clone());
        async move {
            let Some(volume) = known.get_key(&key) else { return Ok(After::Change) };
            let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
            write(&client.all::<PersistentVolume>(), &*volume, VOLUME, finalizer(&*volume, VOLUME, bound)).await
        }
    })
}

/// Starts the protection of classes of volume attributes.
pub(crate) fn start_classes(context: &Context, client: Client) -> Vec<Task> {
    let (classes, volumes) =
        (context.informers.all::<VolumeAttributesClass>(), context.informers.all::<PersistentVolume>());
    let claims = context.informers.all::<PersistentVolumeClaim>();
    let (having, asking) = (volumes.index(plan::classes_of_volume), claims.index(plan::classes_of_claim));
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    classes.on(move |change: &Change<'_, VolumeAttributesClass>| to_queue.add(change.key(), change.trace));
    let to_queue = queue.clone();
    volumes.on(move |change: &Change<'_, PersistentVolume>| {
        let named = change.states().flat_map(|volume| plan::classes_of_volume(volume));
        named.for_each(|name| to_queue.add(Key::new("", name), change.trace));
    });
    let to_queue = queue.clone();
    claims.on(move |change: &Change<'_, PersistentVolumeClaim>| {
        let named = change.states().flat_map(|claim| plan::classes_of_claim(claim));
        named.for_each(|name| to_queue.add(Key::new("", name), change.trace));
    });
    let synced = vec![classes.synced(), volumes.synced(), claims.synced()];
    let name = "volumeattributesclass-protection-controller";
    let workers = Workers { world: context.world.clone(), name, count: 1, synced };
    let known = classes.store();
    workers.start(queue, move |key: Key| {
        let (client, known) = (client.clone(), known.clone());
        let used = !having.get(&key.name).is_empty() || !asking.get(&key.name).is_empty();
        async move {
            let Some(class) = known.get_key(&key) else { return Ok(After::Change) };
            write(&client.all::<VolumeAttributesClass>(), &*class, CLASS, finalizer(&*class, CLASS, used)).await
        }
    })
}

/// Upstream gives these controllers the right to update, not to patch.
async fn write<K: Kind>(api: &Api<K>, object: &K, name: &str, change: Option<Finalizer>) -> Result<After, ClientError> {
    let mut updated = object.clone();
    let finalizers = updated.metadata_mut().finalizers.get_or_insert_default();
    match change {
        None => return Ok(After::Change),
        Some(Finalizer::Add) => finalizers.push(name.to_owned()),
        Some(Finalizer::Remove) => finalizers.retain(|known| known != name),
    }
    match api.update(&updated).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(After::Change),
    }
}
