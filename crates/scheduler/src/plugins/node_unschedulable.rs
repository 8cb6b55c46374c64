//! NodeUnschedulable: a cordoned node takes only pods that tolerate the taint a cordon stands for.

use k8s_openapi::api::core::v1::Taint;
use skiff_api::taints;

use super::Reasons;
use crate::cluster::{NodeInfo, PodInfo};

pub(super) fn filter(pod: &PodInfo, node: &NodeInfo) -> Reasons {
    let cordoned = node.node.as_ref().and_then(|n| n.spec.as_ref()?.unschedulable).unwrap_or(false);
    if !cordoned {
        return Vec::new();
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let tolerations = pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    if taints::any_tolerates(tolerations, &taint) { Vec::new() } else { vec!["node(s) were unschedulable".to_owned()] }
}
