//! TaintToleration: taints keep pods away that do not tolerate them; PreferNoSchedule makes a node less attractive.

use k8s_openapi::api::core::v1::{Taint, Toleration};
use skiff_api::taints;

use super::Reasons;
use crate::cluster::{NodeInfo, PodInfo};

fn taints(node: &NodeInfo) -> &[Taint] {
    node.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

pub(super) fn filter(pod: &PodInfo, node: &NodeInfo) -> Reasons {
    let hard = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let stopped = taints(node).iter().filter(hard).any(|taint| !taints::tolerated(taint, tolerations(pod)));
    if stopped { vec!["node(s) had untolerated taint(s)".to_owned()] } else { Vec::new() }
}

pub(super) fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let soft = |taint: &&Taint| taint.effect == "PreferNoSchedule";
    taints(node).iter().filter(soft).filter(|taint| !taints::tolerated(taint, tolerations(pod))).count() as i64
}
