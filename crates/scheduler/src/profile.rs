//! A profile: the plugins that decide about the pods of one scheduler name, with their weights.

use crate::events::Kind;
use crate::framework::Plugin;
use crate::plugins::{
    BalancedAllocation, DynamicResources, ImageLocality, InterPodAffinity, NodeAffinity, NodeDeclaredFeatures,
    NodeName, NodePorts, NodeResourcesFit, NodeUnschedulable, NodeVolumeLimits, PodTopologySpread, TaintToleration,
    VolumeBinding, VolumeRestrictions, VolumeZone,
};

/// A set of a profile's plugins, by their place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plugins(u64);

impl Plugins {
    /// With one more.
    pub fn insert(&mut self, place: usize) {
        self.0 |= 1 << place;
    }
    /// Whether it is in it.
    pub fn has(self, place: usize) -> bool {
        self.0 & (1 << place) != 0
    }
    /// Whether none is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |place| self.has(*place))
    }
}

/// A plugin in a profile.
pub struct Slot {
    /// The plugin.
    pub plugin: Box<dyn Plugin>,
    /// Its filter counts.
    pub filter: bool,
    /// Its score counts this much; 0: it does not.
    pub weight: i64,
}

/// How preemption looks for nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// At least this share of the nodes is looked at, in percent.
    pub percentage: usize,
    /// At least as many nodes are looked at.
    pub absolute: usize,
}

impl Default for Preemption {
    fn default() -> Self {
        Self { percentage: 10, absolute: 100 }
    }
}

/// A profile.
pub struct Profile {
    /// Pods with this `schedulerName` are decided by it.
    pub name: String,
    /// Its plugins, in the order in which they filter.
    pub slots: Vec<Slot>,
    /// Whether, and how, pods that fit nowhere preempt others.
    pub preemption: Option<Preemption>,
    /// The share of the nodes of which, once found to fit, no more are looked for; `None`: as many as upstream thinks
    /// enough for a cluster of this size.
    pub percentage_of_nodes_to_score: Option<usize>,
}

/// Upstream's default plugins with their weights.
pub fn default_slots() -> Vec<Slot> {
    let slot = |plugin: Box<dyn Plugin>, weight| Slot { plugin, filter: true, weight };
    vec![
        slot(Box::new(NodeUnschedulable), 0),
        slot(Box::new(NodeName), 0),
        slot(Box::new(TaintToleration), 3),
        slot(Box::<NodeAffinity>::default(), 2),
        slot(Box::new(NodePorts), 0),
        slot(Box::<NodeResourcesFit>::default(), 1),
        slot(Box::new(VolumeRestrictions), 0),
        slot(Box::new(NodeVolumeLimits), 0),
        slot(Box::new(VolumeBinding), 0),
        slot(Box::new(VolumeZone), 0),
        slot(Box::<PodTopologySpread>::default(), 2),
        slot(Box::<InterPodAffinity>::default(), 2),
        slot(Box::new(DynamicResources), 2),
        slot(Box::<BalancedAllocation>::default(), 1),
        slot(Box::new(ImageLocality), 1),
        slot(Box::new(NodeDeclaredFeatures), 0),
    ]
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: crate::NAME.to_owned(),
            slots: default_slots(),
            preemption: Some(Preemption::default()),
            percentage_of_nodes_to_score: None,
        }
    }
}

impl Profile {
    /// The name of a plugin by its place.
    pub fn plugin_name(&self, place: usize) -> &'static str {
        self.slots[place].plugin.name()
    }

    /// Whether a plugin filters.
    pub fn filters_with(&self, name: &str) -> bool {
        self.slots.iter().any(|slot| slot.filter && slot.plugin.name() == name)
    }

    /// The plugins that want to hear of events of a kind.
    pub fn hearing(&self, kind: Kind) -> Plugins {
        let mut hearing = Plugins::default();
        for (place, slot) in self.slots.iter().enumerate() {
            if slot.plugin.events().contains(&kind) {
                hearing.insert(place);
            }
        }
        hearing
    }

    /// After how many fitting nodes the search ends: all in a small cluster, half in a larger one, and down to a
    /// twentieth in the largest.
    pub fn enough(&self, nodes: usize) -> usize {
        const LEAST: usize = 100;
        if nodes < LEAST {
            return nodes;
        }
        let percentage =
            self.percentage_of_nodes_to_score.unwrap_or_else(|| 50_usize.saturating_sub(nodes / 125).max(5));
        (nodes * percentage / 100).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_clusters_are_searched_less() {
        let profile = Profile::default();
        for (nodes, expected) in [(50, 50), (100, 100), (1000, 420), (5000, 500), (6000, 300), (100_000, 5000)] {
            assert_eq!(profile.enough(nodes), expected, "{nodes}");
        }
        let all = Profile { percentage_of_nodes_to_score: Some(100), ..Profile::default() };
        assert_eq!(all.enough(5000), 5000);
    }
}
