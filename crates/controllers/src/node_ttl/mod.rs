//! How long nodes may keep Secrets and ConfigMaps before they ask again, by the size of the cluster: an annotation that
//! kubelets without watches go by.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use skiff_client::{After, Change, Client, ClientError, Key, Kind, Patch, Store, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
const NAME: &str = "ttl-controller";

/// The fewest and the most nodes, and the seconds then. Steps overlap, so that a node more or less does not change all.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step for a number of nodes, coming from another step.
fn step(nodes: usize, from: usize) -> usize {
    let mut at = from.min(STEPS.len() - 1);
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

/// Starts the controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let nodes = context.informers.all::<Node>();
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let at = Arc::new(Mutex::new(0));
    let (to_queue, known, now_at) = (queue.clone(), nodes.store(), at.clone());
    nodes.on(move |change: &Change<'_, Node>| {
        let mut at = now_at.lock();
        let next = step(known.len(), *at);
        if next != *at {
            *at = next;
            known.list().iter().for_each(|node| to_queue.add(Key::of(&**node), change.trace));
        }
        if change.new.is_some_and(|node| said(node) != Some(STEPS[next].2)) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let workers = Workers { world: context.world.clone(), name: NAME, count: 1, synced: vec![nodes.synced()] };
    let known = nodes.store();
    workers.start(queue, move |key: Key| {
        let (client, known, seconds) = (client.clone(), known.clone(), STEPS[*at.lock()].2);
        async move { reconcile(&client, &known, &key, seconds).await }
    })
}

fn said(node: &Node) -> Option<u32> {
    node.metadata.annotations.as_ref()?.get(ANNOTATION)?.parse().ok()
}

async fn reconcile(client: &Client, nodes: &Store<Node>, key: &Key, seconds: u32) -> Result<After, ClientError> {
    let Some(node) = nodes.get_key(key).filter(|node| said(node) != Some(seconds)) else { return Ok(After::Change) };
    let annotations = json!({ ANNOTATION: seconds.to_string() });
    let patch = Patch::Strategic(json!({"metadata": {"uid": node.uid(), "annotations": annotations}}));
    match client.all::<Node>().patch(node.name(), &patch).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(After::Change),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        for (nodes, from, expected) in [
            (1, 0, 0),
            (100, 0, 0),
            (101, 0, 1),
            (95, 1, 1),
            (89, 1, 0),
            (500, 1, 1),
            (501, 1, 2),
            (5000, 0, 4),
            (10, 4, 0),
        ] {
            assert_eq!(step(nodes, from), expected, "{nodes} from {from}");
        }
    }
}
