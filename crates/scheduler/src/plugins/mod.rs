//! The plugins of the default profile: filters say whether a node can take a pod, scores which of those is best.
//!
//! A filter is a pure function of pod and node. Cheap ones come first, and the first refusal of a node ends its turn;
//! the order is upstream's, so that the reasons people read are the same.

mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod resources_balanced;
mod resources_fit;
mod taint_toleration;

use crate::cluster::{NodeInfo, PodInfo};

/// Why a node cannot take a pod: upstream's words, several for resources.
pub type Reasons = Vec<String>;

/// A filter with its name.
pub struct Filter {
    /// Upstream's name of the plugin.
    pub name: &'static str,
    /// Empty reasons: the node can take the pod.
    pub run: fn(&PodInfo, &NodeInfo) -> Reasons,
}

/// A score with its name and weight.
pub struct Score {
    /// Upstream's name of the plugin.
    pub name: &'static str,
    /// Weight in the default profile.
    pub weight: i64,
    /// Higher is better, before normalization.
    pub run: fn(&PodInfo, &NodeInfo) -> i64,
    /// How raw scores become 0..=100.
    pub normalize: Normalize,
}

/// How raw scores become 0..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// They are already.
    Never,
    /// In proportion to the highest.
    Highest,
    /// In proportion to the highest, and the highest is worst.
    Reverse,
}

/// Filters in their order.
pub const FILTERS: &[Filter] = &[
    Filter { name: "NodeUnschedulable", run: node_unschedulable::filter },
    Filter { name: "NodeName", run: node_name::filter },
    Filter { name: "TaintToleration", run: taint_toleration::filter },
    Filter { name: "NodeAffinity", run: node_affinity::filter },
    Filter { name: "NodePorts", run: node_ports::filter },
    Filter { name: "NodeResourcesFit", run: resources_fit::filter },
];

/// Scores with their weights.
pub const SCORES: &[Score] = &[
    Score { name: "TaintToleration", weight: 3, run: taint_toleration::score, normalize: Normalize::Reverse },
    Score { name: "NodeAffinity", weight: 2, run: node_affinity::score, normalize: Normalize::Highest },
    Score { name: "NodeResourcesFit", weight: 1, run: resources_fit::score, normalize: Normalize::Never },
    Score {
        name: "NodeResourcesBalancedAllocation",
        weight: 1,
        run: resources_balanced::score,
        normalize: Normalize::Never,
    },
];
