//! NodeName: a pod that names its node goes there.

use super::Reasons;
use crate::cluster::{NodeInfo, PodInfo};

pub(super) fn filter(pod: &PodInfo, node: &NodeInfo) -> Reasons {
    let wanted = pod.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    let name = node.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or_default();
    if wanted.is_empty() || wanted == name {
        Vec::new()
    } else {
        vec!["node(s) didn't match the requested node name".to_owned()]
    }
}
