//! Which of several nodes suits a pod best.

use super::attempt::Attempt;
use crate::cluster::{Cluster, NodeIx};

/// Nodes with their scores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scored {
    /// The nodes.
    pub nodes: Vec<NodeIx>,
    /// The sums of their weighted scores.
    pub totals: Vec<i64>,
    /// What each plugin, by its place in the profile, gave to each node, weighted.
    pub parts: Vec<(usize, Vec<i64>)>,
}

/// Scores nodes that can take the pod.
pub fn score(attempt: &mut Attempt<'_>, cluster: &Cluster, nodes: &[NodeIx]) -> Scored {
    let mut scored = Scored { nodes: nodes.to_vec(), totals: vec![0; nodes.len()], parts: Vec::new() };
    for part in &mut attempt.parts {
        let weight = attempt.profile.slots[part.place].weight;
        if weight == 0 || !part.cycle.pre_score(cluster, nodes) {
            continue;
        }
        let mut scores: Vec<i64> = nodes.iter().map(|node| part.cycle.score(cluster, cluster.at(*node))).collect();
        part.cycle.normalize(&mut scores);
        for (score, total) in scores.iter_mut().zip(&mut scored.totals) {
            *score *= weight;
            *total += *score;
        }
        scored.parts.push((part.place, scores));
    }
    scored
}

impl Scored {
    /// One of the best nodes, chosen by chance.
    pub fn best(&self, random: u64) -> NodeIx {
        let highest = self.totals.iter().copied().max().unwrap_or(0);
        let equals =
            || self.nodes.iter().zip(&self.totals).filter(|(_, total)| **total == highest).map(|(node, _)| *node);
        let count = equals().count().max(1) as u64;
        equals().nth((random % count) as usize).unwrap_or_default()
    }
}
