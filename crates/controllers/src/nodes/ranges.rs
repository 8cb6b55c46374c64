//! Which parts of the cluster's pod addresses a node has and gets. Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::PodRange;

/// The ranges a node has.
pub(super) fn of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|text| text.parse().ok()).collect::<BTreeSet<IpNet>>().into_iter().collect()
}

/// The first part that nothing of what is taken lies in; `None` when there is no such. A range too small to be divided
/// goes to one node as a whole.
pub(super) fn free(from: PodRange, taken: &[IpNet]) -> Option<IpNet> {
    let prefix = from.node_prefix.max(from.range.prefix_len());
    let part = |range: &IpNet| IpNet::new(range.addr(), prefix).map(|part| part.trunc()).ok();
    let (small, large): (Vec<&IpNet>, Vec<&IpNet>) = taken.iter().partition(|range| range.prefix_len() >= prefix);
    let small: BTreeSet<IpNet> = small.into_iter().filter_map(part).collect();
    let is_free = |range: &IpNet| !small.contains(range) && !large.iter().any(|large| large.contains(range));
    from.range.subnets(prefix).ok()?.find(is_free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_free() {
        for (range, node_prefix, taken, expected) in [
            ("10.42.0.0/16", 24, &[][..], Some("10.42.0.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.0/24"], Some("10.42.1.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.0/25", "10.42.1.7/32"], Some("10.42.2.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.0/17", "fd00::/64"], Some("10.42.128.0/24")),
            ("10.42.0.0/24", 24, &["10.42.0.0/24"], None),
            ("10.42.0.0/28", 24, &[], Some("10.42.0.0/28")),
            ("fd42::/48", 64, &["fd42::/64"], Some("fd42:0:0:1::/64")),
        ] {
            let taken: Vec<IpNet> = taken.iter().map(|text| text.parse().unwrap()).collect();
            let from = PodRange { range: range.parse().unwrap(), node_prefix };
            assert_eq!(free(from, &taken).map(|range| range.to_string()).as_deref(), expected, "{range} {taken:?}");
        }
    }
}
