//! TaintToleration: taints keep pods away that do not tolerate them; PreferNoSchedule makes a node less attractive.

use k8s_openapi::api::core::v1::{Taint, Toleration};
use skiff_api::taints;

use super::Reasons;
use crate::cluster::{NodeInfo, PodInfo};

fn taints_of(node: &NodeInfo) -> &[Taint] {
    node.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

pub(super) fn filter(pod: &PodInfo, node: &NodeInfo) -> Reasons {
    let stopped = taints::untolerated(taints_of(node), tolerations(pod), &["NoSchedule", "NoExecute"]).is_some();
    if stopped { vec!["node(s) had untolerated taint(s)".to_owned()] } else { Vec::new() }
}

pub(super) fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let soft = taints_of(node).iter().filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !taints::any_tolerates(tolerations(pod), taint)).count() as i64
}
