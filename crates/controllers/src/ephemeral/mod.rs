//! Ephemeral volumes: a pod that brings the template of a claim gets the claim, which lives as long as the pod.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use skiff_client::{After, Change, Client, ClientError, Key, Kind, Recorder, Store, WorkQueue, Workers, involved};
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{is_controlled_by, namespace_terminating};

struct Controller {
    client: Client,
    recorder: Recorder,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
}

/// Starts the controller of ephemeral volumes.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (pods, claims) = (context.informers.all::<Pod>(), context.informers.all::<PersistentVolumeClaim>());
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    pods.on(move |change: &Change<'_, Pod>| {
        if change.new.is_some_and(|pod| !pod.deleting() && plan::claims(pod).next().is_some()) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let to_queue = queue.clone();
    claims.on(move |change: &Change<'_, PersistentVolumeClaim>| {
        let Some(gone) = change.old.filter(|_| change.new.is_none()) else { return };
        if let Some(owner) = crate::shared::controller_of(&**gone).filter(|owner| owner.kind == "Pod") {
            to_queue.add(Key::new(gone.namespace(), &*owner.name), change.trace);
        }
    });
    let synced = vec![pods.synced(), claims.synced()];
    let workers = Workers { world: context.world.clone(), name: "ephemeral-volume-controller", count: 2, synced };
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "ephemeral_volume", ""),
        client,
        pods: pods.store(),
        claims: claims.store(),
    });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(pod) = self.pods.get_key(key).filter(|pod| !pod.deleting()) else { return Ok(After::Change) };
        let api = self.client.namespaced::<PersistentVolumeClaim>(&key.namespace);
        for claim in plan::claims(&pod) {
            let taken = match self.claims.get(&key.namespace, claim.name()) {
                Some(known) => Some(known),
                None => match api.create(&claim).await {
                    Ok(_) => None,
                    Err(error) if error.is_already_exists() => api.get_opt(claim.name()).await?.map(Arc::new),
                    Err(error) if namespace_terminating(&error) => return Ok(After::Change),
                    Err(error) => {
                        let message = format!("ephemeral volume claim {}: {error}", claim.name());
                        self.recorder.warning(&involved(&*pod), "ProvisioningFailed", message);
                        return Err(error);
                    }
                },
            };
            // Somebody else's claim of that name stands in the way until it goes.
            if let Some(other) = taken.filter(|taken| !is_controlled_by(&**taken, &*pod)) {
                let message = format!("PVC \"{}\" was not created for this pod (pod is not owner)", other.name());
                self.recorder.warning(&involved(&*pod), "EphemeralVolumeConflict", message);
            }
        }
        Ok(After::Change)
    }
}
