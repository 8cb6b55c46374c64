//! Quotas: what a namespace uses, counted afresh from what there is. Who lets objects in adds to it at once; what goes,
//! ends or shrinks is found here.

mod counts;
mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use skiff_client::{After, Change, Client, ClientError, Informer, Key, Kind, Store, WorkQueue, Workers};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{Expectations, Settling, revision_of};
use counts::Counts;
use plan::Snapshot;

const WORKERS: usize = 2;

struct Controller {
    client: Client,
    world: WorldRef,
    quotas: Store<ResourceQuota>,
    pods: Store<Pod>,
    services: Store<Service>,
    claims: Store<PersistentVolumeClaim>,
    counts: Counts,
    expectations: Expectations,
    settling: Settling,
}

/// Starts the quota controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let quotas = context.informers.all::<ResourceQuota>();
    let (pods, services) = (context.informers.all::<Pod>(), context.informers.all::<Service>());
    let claims = context.informers.all::<PersistentVolumeClaim>();
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    quotas.on(move |change: &Change<'_, ResourceQuota>| to_queue.add(change.key(), change.trace));
    enqueue_on_change(&pods, &quotas, &queue, |pod| {
        (pod.status.as_ref().and_then(|status| status.phase.clone()), pod.deleting(), pod.spec.clone())
    });
    enqueue_on_change(&services, &quotas, &queue, |service| service.spec.clone());
    enqueue_on_change(&claims, &quotas, &queue, |claim| {
        (claim.spec.clone(), claim.status.as_ref().and_then(|status| status.allocated_resources.clone()))
    });
    let (to_queue, known) = (queue.clone(), quotas.store());
    let changed = move |namespace: &str| {
        known.in_namespace(namespace).iter().for_each(|quota| to_queue.add(Key::of(&**quota), None));
    };
    let synced = vec![quotas.synced(), pods.synced(), services.synced(), claims.synced()];
    let workers = Workers { world: context.world.clone(), name: "resourcequota-controller", count: WORKERS, synced };
    let controller = Arc::new(Controller {
        counts: Counts::new(client.clone(), context.world.clone(), changed),
        client,
        world: context.world.clone(),
        quotas: quotas.store(),
        pods: pods.store(),
        services: services.store(),
        claims: claims.store(),
        expectations: Expectations::default(),
        settling: Settling::default(),
    });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

/// Enqueues the quotas of a namespace when an object comes, goes, or changes in what `looks` shows.
fn enqueue_on_change<K: Kind, L: PartialEq + 'static>(
    objects: &Informer<K>,
    quotas: &Informer<ResourceQuota>,
    queue: &WorkQueue<Key>,
    looks: fn(&K) -> L,
) {
    let (quotas, queue) = (quotas.store(), queue.clone());
    objects.on(move |change: &Change<'_, K>| {
        let known = quotas.in_namespace(&change.key().namespace);
        let look = |object: Option<&Arc<K>>| object.map(|object| looks(object));
        if !known.is_empty() && look(change.old) != look(change.new) {
            known.iter().for_each(|quota| queue.add(Key::of(&**quota), change.trace));
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(quota) = self.quotas.get_key(key) else {
            self.expectations.forget(key);
            self.settling.forget(key);
            return Ok(After::Change);
        };
        if !self.expectations.met(key, &self.quotas, self.world.elapsed()) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let counts = self.counts.of(&key.namespace, plan::counted(&quota)).await?;
        let status = plan::status(&Snapshot {
            quota: &quota,
            pods: &self.pods.in_namespace(&key.namespace),
            services: &self.services.in_namespace(&key.namespace),
            claims: &self.claims.in_namespace(&key.namespace),
            counts: &counts,
            now: self.world.now(),
        });
        // Who lets an object in writes the quota with it. What we know of objects may be older than what we know of the
        // quota: then the newest are missing in the count, and are about to be heard of.
        let seen = self.pods.revision().min(self.services.revision()).min(self.claims.revision());
        let behind = seen < revision_of(&*quota) && plan::shrinks(&status, quota.status.as_ref());
        if let Some(wait) = self.settling.wait(key, !behind, self.world.elapsed()) {
            return Ok(After::Delay(wait));
        }
        if quota.status.as_ref() != Some(&status) {
            let updated = ResourceQuota { status: Some(status), ..(*quota).clone() };
            let written = self.client.namespaced::<ResourceQuota>(&key.namespace).update_status(&updated).await?;
            self.expectations.wrote(key, revision_of(&written), self.world.elapsed());
        }
        Ok(After::Change)
    }
}
