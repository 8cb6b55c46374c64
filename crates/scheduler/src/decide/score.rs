//! Which of several nodes suits a pod best.

use super::attempt::Attempt;
use super::memo::Worth;
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
    score_knowing(attempt, cluster, nodes, &mut Worth::default())
}

/// Scores nodes that can take the pod; what is known of them need not be found out.
pub(super) fn score_knowing(
    attempt: &mut Attempt<'_>,
    cluster: &Cluster,
    nodes: &[NodeIx],
    worth: &mut Worth,
) -> Scored {
    let mut scored = Scored { nodes: nodes.to_vec(), totals: vec![0; nodes.len()], parts: Vec::new() };
    let weigh = |place: usize| attempt.profile.slots[place].weight;
    let asked = attempt.parts.iter_mut().filter(|part| weigh(part.place) != 0);
    let asked = asked.filter_map(|part| part.cycle.pre_score(cluster, nodes).then_some(part.place));
    let asked: Vec<usize> = asked.collect();
    let parts = || attempt.parts.iter().filter(|part| asked.contains(&part.place));
    let local: Vec<usize> = parts().filter(|part| part.cycle.scores_locally()).map(|part| part.place).collect();
    let mut columns: Vec<Vec<i64>> = vec![Vec::with_capacity(nodes.len()); local.len()];
    for node in nodes {
        let scores = worth.of(cluster, *node, &attempt.parts, &local);
        columns.iter_mut().zip(scores).for_each(|(column, score)| column.push(*score));
    }
    let mut columns = columns.into_iter();
    for part in parts() {
        let mut scores = match part.cycle.scores_locally() {
            true => columns.next().unwrap_or_default(),
            false => nodes.iter().map(|node| part.cycle.score(cluster, cluster.at(*node))).collect(),
        };
        part.cycle.normalize(&mut scores);
        let weight = weigh(part.place);
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
