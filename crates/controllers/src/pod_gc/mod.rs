//! Pods that nobody else removes: asked to go before they had a node, left on a node that is gone or out of service, or
//! ended so long ago that many others have ended since.

mod plan;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use skiff_api::pods::is_finished;
use skiff_client::{After, Client, ClientError, DeleteOptions, Index, Key, Kind, Patch, Store, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;
use plan::Verdict;

/// A node that disappears may come back at once; its pods are given this long.
const QUARANTINE: Duration = Duration::from_secs(40);

struct Controller {
    client: Client,
    pods: Store<Pod>,
    nodes: Store<Node>,
    ended: Index<Pod>,
}

/// The value under which [`Controller::ended`] lists pods.
const ENDED: &str = "ended";

/// Starts the pod garbage collector.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (pods, nodes) = (context.informers.all::<Pod>(), context.informers.all::<Node>());
    let ended = pods.index(|pod| is_finished(pod).then(|| ENDED.to_owned()).into_iter().collect());
    let controller = Arc::new(Controller { client, pods: pods.store(), nodes: nodes.store(), ended });
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let (to_queue, known) = (queue.clone(), nodes.store());
    let count = AtomicUsize::new(0);
    pods.on(move |change| {
        let ended = |pod: Option<&Arc<Pod>>| pod.is_some_and(|pod| is_finished(pod));
        let ends = match (ended(change.old), ended(change.new)) {
            (false, true) => count.fetch_add(1, Ordering::Relaxed) >= plan::ENDED_LIMIT,
            (true, false) => {
                count.fetch_sub(1, Ordering::Relaxed);
                false
            }
            _ => false,
        };
        let Some(pod) = change.new else { return };
        match plan::verdict(pod, known.get("", plan::node_of(pod)).as_deref()) {
            // One too many has ended.
            Verdict::Keep if ends => to_queue.add(change.key(), change.trace),
            Verdict::Keep => {}
            Verdict::Remove => to_queue.add(change.key(), change.trace),
            Verdict::RemoveFromLostNode => to_queue.add_after(change.key(), QUARANTINE, change.trace),
        }
    });
    let (to_queue, on_node) = (queue.clone(), context.pods_by_node.clone());
    nodes.on(move |change| {
        let delay = match change.new {
            None => QUARANTINE,
            Some(node) if plan::is_out_of_service(node) => Duration::ZERO,
            Some(_) => return,
        };
        for pod in on_node.get(&change.key().name) {
            to_queue.add_after(Key::of(&*pod), delay, change.trace);
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
        let verdict = plan::verdict(&pod, self.nodes.get("", plan::node_of(&pod)).as_deref());
        let api = self.client.namespaced::<Pod>(&key.namespace);
        if verdict == Verdict::Keep {
            return self.remove_oldest().await;
        }
        if verdict == Verdict::RemoveFromLostNode && !is_finished(&pod) {
            // Owners must not count it as running while it goes.
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed", "conditions": [plan::disrupted()]}});
            api.patch_status(pod.name(), &Patch::Strategic(patch)).await?;
        }
        match api.delete(pod.name(), &DeleteOptions::uid(pod.uid()).grace(0)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(After::Change),
        }
    }

    async fn remove_oldest(&self) -> Result<After, ClientError> {
        for pod in plan::too_many(self.ended.get(ENDED), plan::ENDED_LIMIT) {
            let api = self.client.namespaced::<Pod>(pod.namespace());
            match api.delete(pod.name(), &DeleteOptions::uid(pod.uid()).grace(0)).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(After::Change)
    }
}
