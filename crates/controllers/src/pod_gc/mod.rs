//! Pods that nobody else removes: asked to go before they had a node, or left on a node that is gone.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use skiff_client::{After, Client, ClientError, DeleteOptions, Key, Kind, Patch, Store, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;
use plan::Verdict;

/// A node that disappears may come back at once; its pods are given this long.
const QUARANTINE: Duration = Duration::from_secs(40);

struct Controller {
    client: Client,
    pods: Store<Pod>,
    nodes: Store<Node>,
}

/// Starts the pod garbage collector.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (pods, nodes) = (context.informers.all::<Pod>(), context.informers.all::<Node>());
    let controller = Arc::new(Controller { client, pods: pods.store(), nodes: nodes.store() });
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let (to_queue, known) = (queue.clone(), nodes.store());
    pods.on(move |change| {
        let Some(pod) = change.new else { return };
        match plan::verdict(pod, known.get("", plan::node_of(pod)).is_some()) {
            Verdict::Keep => {}
            Verdict::Remove => to_queue.add(change.key(), change.trace),
            Verdict::RemoveFromLostNode => to_queue.add_after(change.key(), QUARANTINE, change.trace),
        }
    });
    let (to_queue, all) = (queue.clone(), pods.store());
    nodes.on(move |change| {
        let Some(gone) = change.old.filter(|_| change.new.is_none()) else { return };
        for pod in all.list().iter().filter(|pod| plan::node_of(pod) == gone.name()) {
            to_queue.add_after(Key::of(&**pod), QUARANTINE, change.trace);
        }
    });
    let synced = vec![pods.synced(), nodes.synced()];
    let workers = Workers { world: context.world.clone(), name: "pod-garbage-collector", count: 2, synced };
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(pod) = self.pods.get_key(key) else { return Ok(After::Change) };
        let verdict = plan::verdict(&pod, self.nodes.get("", plan::node_of(&pod)).is_some());
        let api = self.client.namespaced::<Pod>(&key.namespace);
        if verdict == Verdict::Keep {
            return Ok(After::Change);
        }
        if verdict == Verdict::RemoveFromLostNode && !skiff_api::pods::is_finished(&pod) {
            // Owners must not count it as running while it goes.
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed", "conditions": [plan::disrupted()]}});
            api.patch_status(pod.name(), &Patch::Strategic(patch)).await?;
        }
        match api.delete(pod.name(), &DeleteOptions::uid(pod.uid()).grace(0)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(After::Change),
        }
    }
}
