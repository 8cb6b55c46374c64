//! NodeAffinity: node selector and required terms must match; preferred terms add their weight.

use skiff_api::nodes;

use super::Reasons;
use crate::cluster::{NodeInfo, PodInfo};

pub(super) fn filter(pod: &PodInfo, node: &NodeInfo) -> Reasons {
    let fits = node.node.as_ref().zip(pod.pod.spec.as_ref()).is_some_and(|(node, spec)| nodes::selected(spec, node));
    if fits { Vec::new() } else { vec!["node(s) didn't match Pod's node affinity/selector".to_owned()] }
}

pub(super) fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let preferred = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref());
    let (Some(terms), Some(node)) = (preferred, &node.node) else { return 0 };
    terms.iter().filter(|term| nodes::term_matches(&term.preference, node)).map(|term| i64::from(term.weight)).sum()
}
