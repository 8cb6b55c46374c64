//! NodePorts: a host port is held by one pod at a time.

use super::Reasons;
use crate::cluster::{NodeInfo, PodInfo};

pub(super) fn filter(pod: &PodInfo, node: &NodeInfo) -> Reasons {
    if node.ports_taken(pod) {
        vec!["node(s) didn't have free ports for the requested pod ports".to_owned()]
    } else {
        Vec::new()
    }
}
