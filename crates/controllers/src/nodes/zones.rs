//! How fast pods are sent away from lost nodes, zone by zone. Pure.
//!
//! One lost node is a lost node; many at once are more likely a network that is cut, and sending all their pods away
//! would make it worse. So nodes of a zone are given up one after the other, a zone of which most nodes are lost more
//! slowly or not at all, and when no node is left anywhere, the fault is held to be ours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use skiff_api::nodes::is_ready;
use skiff_client::Kind;

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
/// Between two nodes of a zone (upstream's `--node-eviction-rate` of 0.1), and in a large zone that is mostly lost.
const PACE: Duration = Duration::from_secs(10);
const SLOW_PACE: Duration = Duration::from_secs(100);
/// From how many nodes on a zone is large, in per cent of lost ones mostly lost.
const LARGE: usize = 50;
const MOSTLY: usize = 55;

/// Region and zone of a node.
pub(super) type Zone = (String, String);

/// What may become of the pods of a lost node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Giving {
    /// They must leave, when their tolerance ends.
    Up,
    /// Whoever must leave already leaves; nobody else does for now.
    NotNow,
    /// Nobody must leave.
    Nobody,
}

/// The zone of a node.
pub(super) fn zone(node: &Node) -> Zone {
    let label =
        |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key).cloned()).unwrap_or_default();
    (label(REGION), label(ZONE))
}

/// How long to wait between two nodes of a zone; `None`: none is given up.
fn pace(nodes: &[Arc<Node>], of: &Zone) -> Option<Duration> {
    let in_zone = || nodes.iter().filter(|node| zone(node) == *of);
    let (all, lost) = (in_zone().count(), in_zone().filter(|node| !is_ready(node)).count());
    let mostly = lost > 2 && lost < all && lost * 100 >= all * MOSTLY;
    match mostly {
        false => Some(PACE),
        true if all > LARGE => Some(SLOW_PACE),
        true => None,
    }
}

/// When nodes were given up last, by zone.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<Zone, (String, Duration)>);

impl Paces {
    /// Whether this lost node may be given up at `now`; if not, when to ask again.
    pub(super) fn ask(&mut self, node: &Node, nodes: &[Arc<Node>], now: Duration) -> (Giving, Option<Duration>) {
        if !is_ready(node) && !nodes.iter().any(|node| is_ready(node)) {
            return (Giving::Nobody, None);
        }
        let zone = zone(node);
        let Some(pace) = pace(nodes, &zone) else { return (Giving::NotNow, Some(PACE)) };
        match self.0.get(&zone) {
            Some((last, at)) if last != node.name() && *at + pace > now => {
                (Giving::NotNow, Some((*at + pace).saturating_sub(now)))
            }
            _ => (Giving::Up, None),
        }
    }

    /// The node is given up.
    pub(super) fn gave_up(&mut self, node: &Node, now: Duration) {
        self.0.insert(zone(node), (node.name().to_owned(), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, zone: &str, ready: bool) -> Arc<Node> {
        let status = if ready { "True" } else { "Unknown" };
        let value = json!({"metadata": {"name": name, "labels": {ZONE: zone}},
            "status": {"conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn nodes(zone: &str, lost: usize, ready: usize) -> Vec<Arc<Node>> {
        (0..lost + ready).map(|number| node(&format!("{zone}{number}"), zone, number >= lost)).collect()
    }

    #[test]
    fn one_after_the_other() {
        let nodes = nodes("a", 2, 3);
        let mut paces = Paces::default();
        let second = Duration::from_secs;
        assert_eq!(paces.ask(&nodes[0], &nodes, second(100)), (Giving::Up, None));
        paces.gave_up(&nodes[0], second(100));
        assert_eq!(paces.ask(&nodes[0], &nodes, second(101)), (Giving::Up, None), "the same again");
        assert_eq!(paces.ask(&nodes[1], &nodes, second(104)), (Giving::NotNow, Some(second(6))));
        assert_eq!(paces.ask(&nodes[1], &nodes, second(110)), (Giving::Up, None));
    }

    #[test]
    fn zones_that_are_mostly_lost_are_spared() {
        let table = [
            ("a few", nodes("a", 2, 1), Giving::Up),
            ("most of a small zone", nodes("a", 6, 4), Giving::NotNow),
            ("most of a large zone, slowly", nodes("a", 40, 20), Giving::Up),
            ("nobody is left", nodes("a", 3, 0), Giving::Nobody),
            ("a zone is gone, others are not", [nodes("a", 3, 0), nodes("b", 0, 1)].concat(), Giving::Up),
        ];
        for (name, nodes, expected) in table {
            assert_eq!(Paces::default().ask(&nodes[0], &nodes, Duration::ZERO).0, expected, "{name}");
        }
        let large = nodes("a", 40, 20);
        assert_eq!(pace(&large, &zone(&large[0])), Some(SLOW_PACE));
    }
}
