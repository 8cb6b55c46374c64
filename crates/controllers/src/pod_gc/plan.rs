//! Whether a pod is waste. Pure.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

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

/// Decides.
pub(super) fn verdict(pod: &Pod, node_exists: bool) -> Verdict {
    match (node_of(pod), pod.metadata.deletion_timestamp.is_some()) {
        ("", true) => Verdict::Remove,
        ("", false) => Verdict::Keep,
        _ if !node_exists => Verdict::RemoveFromLostNode,
        _ => Verdict::Keep,
    }
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
        for (node, leaving, exists, expected) in [
            ("", false, false, Verdict::Keep),
            ("", true, false, Verdict::Remove),
            ("n", false, true, Verdict::Keep),
            ("n", true, true, Verdict::Keep),
            ("n", false, false, Verdict::RemoveFromLostNode),
        ] {
            assert_eq!(verdict(&pod(node, leaving), exists), expected, "{node} {leaving} {exists}");
        }
    }
}
