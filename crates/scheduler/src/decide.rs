//! One decision: which node takes a pod, and when none does, why not. Pure.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::plugins::{FILTERS, Normalize, SCORES};

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This node takes it.
    Place(String),
    /// No node takes it; the message tells how many said what.
    Nowhere(String),
}

/// Chooses the node with the highest weighted score among those that pass every filter. Among equals, `random` picks,
/// so that pods spread.
pub fn decide(pod: &PodInfo, cluster: &Cluster, random: u64) -> Decision {
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting: Vec<(&str, &NodeInfo)> = Vec::new();
    let mut total = 0;
    for (name, node) in cluster.nodes() {
        total += 1;
        let reasons = FILTERS.iter().map(|filter| (filter.run)(pod, node)).find(|reasons| !reasons.is_empty());
        match reasons {
            None => fitting.push((name, node)),
            Some(reasons) => reasons.into_iter().for_each(|reason| *refused.entry(reason).or_default() += 1),
        }
    }
    match fitting[..] {
        [] => Decision::Nowhere(message(total, &refused)),
        [(only, _)] => Decision::Place(only.to_owned()),
        _ => Decision::Place(best(pod, &fitting, random).to_owned()),
    }
}

fn best<'a>(pod: &PodInfo, fitting: &[(&'a str, &NodeInfo)], random: u64) -> &'a str {
    let mut totals = vec![0; fitting.len()];
    for score in SCORES {
        let raw: Vec<i64> = fitting.iter().map(|(_, node)| (score.run)(pod, node)).collect();
        let highest = raw.iter().copied().max().unwrap_or(0);
        for (total, raw) in totals.iter_mut().zip(raw) {
            let share = |value: i64| if highest == 0 { 0 } else { value * 100 / highest };
            *total += score.weight
                * match score.normalize {
                    Normalize::Never => raw,
                    Normalize::Highest => share(raw),
                    Normalize::Reverse => 100 - share(raw),
                };
        }
    }
    let highest = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<&str> =
        fitting.iter().zip(&totals).filter(|(_, total)| **total == highest).map(|((name, _), _)| *name).collect();
    winners[(random % winners.len().max(1) as u64) as usize]
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn message(total: usize, refused: &BTreeMap<String, usize>) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut reasons: Vec<String> = refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("0/{total} nodes are available: {}.", reasons.join(", "))
}
