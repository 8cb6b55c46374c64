//! Whether a pod is waste. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skiff_api::nodes::is_ready;
use skiff_client::Kind;

/// Put on a node by people who know that it is off: its pods can be given up.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// So many pods that have ended are kept for people to look at.
pub(super) const ENDED_LIMIT: usize = 12_500;

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Others care for it.
    Keep,
    /// Nobody will.
    Remove,
    /// Its node is gone, and with it whoever would have removed it.
    RemoveFromLostNode,
}

/// The pod's node, empty while it has none.
pub(super) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Decides; `node` is the pod's, where it exists.
pub(super) fn verdict(pod: &Pod, node: Option<&Node>) -> Verdict {
    match (node_of(pod), node, pod.deleting()) {
        ("", _, true) => Verdict::Remove,
        ("", _, false) => Verdict::Keep,
        (_, None, _) => Verdict::RemoveFromLostNode,
        (_, Some(node), true) if is_out_of_service(node) => Verdict::Remove,
        _ => Verdict::Keep,
    }
}

/// Whether people say that the node is off, and it does not say otherwise.
pub(super) fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    !is_ready(node) && taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

/// The oldest of the ended pods, beyond those that are kept.
pub(super) fn too_many(mut ended: Vec<Arc<Pod>>, limit: usize) -> Vec<Arc<Pod>> {
    let surplus = ended.len().saturating_sub(limit);
    if surplus > 0 {
        ended.sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name().to_owned()));
    }
    ended.truncate(surplus);
    ended
}

/// The condition that tells why.
pub(super) fn disrupted() -> Value {
    json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let pod = |node: &str, leaving: bool| -> Pod {
            let mut pod: Pod =
                serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "nodeName": node}})).unwrap();
            pod.metadata.deletion_timestamp =
                leaving.then(|| serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
            pod
        };
        let node = |tainted: bool| -> Node {
            let taints = if tainted { json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]) } else { json!([]) };
            serde_json::from_value(json!({"metadata": {}, "spec": {"taints": taints}})).unwrap()
        };
        let (there, off) = (node(false), node(true));
        for (name, leaving, node, expected) in [
            ("", false, None, Verdict::Keep),
            ("", true, None, Verdict::Remove),
            ("n", false, Some(&there), Verdict::Keep),
            ("n", true, Some(&there), Verdict::Keep),
            ("n", false, None, Verdict::RemoveFromLostNode),
            ("n", false, Some(&off), Verdict::Keep),
            ("n", true, Some(&off), Verdict::Remove),
        ] {
            assert_eq!(verdict(&pod(name, leaving), node), expected, "{name} {leaving} {node:?}");
        }
    }

    #[test]
    fn the_oldest_ended_pods_go() {
        let pod = |second: u32| -> Arc<Pod> {
            let at = format!("2026-01-01T00:00:{second:02}Z");
            Arc::new(serde_json::from_value(json!({"metadata": {"name": at, "creationTimestamp": at}})).unwrap())
        };
        let ended = vec![pod(3), pod(1), pod(2)];
        assert_eq!(too_many(ended.clone(), 2), [pod(1)]);
        assert!(too_many(ended, 3).is_empty());
    }
}
