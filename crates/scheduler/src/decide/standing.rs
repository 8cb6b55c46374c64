//! What all nodes together say to a kind of pods that fits on none of them: kept up as nodes change, so that the next such
//! pod asks only those that have.

use super::diagnosis::{Diagnosis, Histogram};
use super::memo::Refused;
use crate::cluster::{Cluster, NodeIx};
use crate::framework::{Reason, Verdict};
use crate::profile::Plugins;

/// What all nodes say.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// How many take the pod.
    pub(super) fits: usize,
    /// The numbers of the next changes of nodes, and of who waits for them, that it does not know of.
    pub(super) knows: (u64, u64),
    reasons: Histogram,
    /// How many nodes each plugin refuses, by its place in the profile.
    refusals: Vec<usize>,
    /// Of each node, whether the pod might fit there if others went.
    resolvable: Vec<bool>,
}

impl Standing {
    /// Counts what a node says.
    pub(super) fn add(&mut self, node: NodeIx, refused: Refused, why: &[Reason]) {
        let Some((place, verdict)) = refused else {
            self.fits += 1;
            return;
        };
        why.iter().for_each(|reason| self.reasons.add(reason.clone(), 1));
        if self.refusals.len() <= place {
            self.refusals.resize(place + 1, 0);
        }
        self.refusals[place] += 1;
        if self.resolvable.len() <= node {
            self.resolvable.resize(node + 1, false);
        }
        self.resolvable[node] = verdict == Verdict::Unschedulable;
    }

    /// Counts no longer what a node has said.
    pub(super) fn remove(&mut self, node: NodeIx, refused: Refused, why: &[Reason]) {
        let Some((place, _)) = refused else {
            self.fits -= 1;
            return;
        };
        why.iter().for_each(|reason| self.reasons.remove(reason));
        self.refusals[place] -= 1;
        self.resolvable[node] = false;
    }

    /// Whether the pod cannot have this node, whichever pods go.
    pub(super) fn is_hopeless(&self, node: NodeIx) -> bool {
        !self.resolvable.get(node).is_some_and(|resolvable| *resolvable)
    }

    /// Why no node takes the pod; nodes are listed from place `start` in the order on.
    pub(super) fn diagnosis(&self, cluster: &Cluster, start: usize) -> Diagnosis {
        let (before, from) = cluster.order().split_at(start);
        let resolvable = from.iter().chain(before).copied().filter(|node| !self.is_hopeless(*node));
        let mut rejected_by = Plugins::default();
        let refused = self.refusals.iter().enumerate().filter(|(_, nodes)| **nodes > 0);
        refused.for_each(|(place, _)| rejected_by.insert(place));
        Diagnosis {
            nodes: cluster.len(),
            reasons: self.reasons.clone(),
            rejected_by,
            resolvable: resolvable.collect(),
            ..Diagnosis::default()
        }
    }
}
