//! NodeResourcesBalancedAllocation: nodes whose CPU and memory fill evenly score higher.

use crate::cluster::{NodeInfo, PodInfo};

/// From 0 to 100; the closer the two shares, the higher. Half of it compares with the node as it is, so that a pod
/// that improves the balance is drawn there.
pub(super) fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let (cpu, memory) = (node.allocatable.cpu, node.allocatable.memory);
    if cpu == 0 || memory == 0 || (pod.requests.cpu == 0 && pod.requests.memory == 0) {
        return 0;
    }
    let without = balance(node.used.cpu, cpu, node.used.memory, memory);
    let with = balance(node.used.cpu + pod.requests.cpu, cpu, node.used.memory + pod.requests.memory, memory);
    50 + (50 + with - without) / 2
}

/// 100 minus the deviation of two shares from their mean, in percent.
fn balance(cpu: i64, cpu_of: i64, memory: i64, memory_of: i64) -> i64 {
    let share = |part: i64, of: i64| (part as f64 / of as f64).min(1.0);
    let deviation = (share(cpu, cpu_of) - share(memory, memory_of)).abs() / 2.0;
    ((1.0 - deviation) * 100.0) as i64
}
