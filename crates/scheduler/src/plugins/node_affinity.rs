//! NodeAffinity: node selector and required terms must match; preferred terms add their weight.

use skiff_api::affinity::{self, NodeView};

use super::Reasons;
use crate::cluster::{NodeInfo, PodInfo};

pub(super) fn filter(pod: &PodInfo, node: &NodeInfo) -> Reasons {
    let fits = pod.pod.spec.as_ref().is_some_and(|spec| with_view(node, |view| affinity::pod_fits(spec, view)));
    if fits { Vec::new() } else { vec!["node(s) didn't match Pod's node affinity/selector".to_owned()] }
}

pub(super) fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    pod.pod.spec.as_ref().map_or(0, |spec| with_view(node, |view| affinity::preference(spec, view)))
}

fn with_view<T: Default>(node: &NodeInfo, then: impl FnOnce(NodeView<'_>) -> T) -> T {
    let Some(node) = &node.node else { return T::default() };
    let empty = std::collections::BTreeMap::new();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    then(NodeView { name, labels: node.metadata.labels.as_ref().unwrap_or(&empty) })
}
