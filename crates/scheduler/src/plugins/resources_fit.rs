//! NodeResourcesFit: what the pod asks for must be left; the emptier node scores higher (LeastAllocated).

use super::Reasons;
use crate::cluster::{NodeInfo, PodInfo};

pub(super) fn filter(pod: &PodInfo, node: &NodeInfo) -> Reasons {
    let mut reasons = Vec::new();
    if node.pods.len() as i64 + 1 > node.max_pods {
        reasons.push("Too many pods".to_owned());
    }
    let (wanted, has, used) = (&pod.requests, &node.allocatable, &node.used);
    let mut lacks = |name: &str, wanted: i64, has: i64, used: i64| {
        if wanted > 0 && wanted > has - used {
            reasons.push(format!("Insufficient {name}"));
        }
    };
    lacks("cpu", wanted.cpu, has.cpu, used.cpu);
    lacks("memory", wanted.memory, has.memory, used.memory);
    lacks("ephemeral-storage", wanted.ephemeral, has.ephemeral, used.ephemeral);
    for (name, amount) in &wanted.extended {
        let of = |amounts: &crate::amounts::Amounts| amounts.extended.get(name).copied().unwrap_or(0);
        lacks(name, *amount, of(has), of(used));
    }
    reasons
}

pub(super) fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let left = |wanted: i64, has: i64| if has == 0 { None } else { Some(((has - wanted).max(0)) * 100 / has) };
    let cpu = left(node.scored.0 + pod.scored.0, node.allocatable.cpu);
    let memory = left(node.scored.1 + pod.scored.1, node.allocatable.memory);
    let scores: Vec<i64> = [cpu, memory].into_iter().flatten().collect();
    if scores.is_empty() { 0 } else { scores.iter().sum::<i64>() / scores.len() as i64 }
}
