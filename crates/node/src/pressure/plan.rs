//! When the node runs short, and which pod has to go (`pkg/kubelet/eviction` upstream). Pure.

use k8s_openapi::api::core::v1::Pod;
use skiff_api::pods::priority;
use skiff_api::qos::{QosClass, qos_class};
use skiff_api::{resources, taints};
use skiff_meta::Quantity;

use crate::os::{Space, Usage};
use crate::pod::facts;

/// Pods of this priority and above are what the cluster lives on; they stay.
const CRITICAL: i32 = 2_000_000_000;
/// Memory that must be left, in bytes.
const MEMORY: u64 = 100 << 20;
/// Of the file system, which carries images too, that much of a hundred must be left, and so many files: upstream asks for
/// 10 and 15, which on today's disks is tens of gigabytes that a small machine shares with everything else.
const SPACE: u64 = 5;
const INODES: u64 = 5;

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scarce {
    Memory,
    Disk,
}

impl Scarce {
    /// The node's condition.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
        }
    }
    /// The resource, as pods ask for it.
    fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
        }
    }
}

/// A shortage: of what, what must be left, and what is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) of: Scarce,
    threshold: u64,
    available: u64,
}

/// What the node is short of. A machine that does not say how much it has is short of nothing.
pub(crate) fn shortages(capacity: u64, used: &Usage, space: Option<&Space>) -> Vec<Shortage> {
    let mut found = Vec::new();
    let mut below = |of, available: u64, threshold: u64| {
        if available < threshold {
            found.push(Shortage { of, threshold, available });
        }
    };
    below(Scarce::Memory, capacity.saturating_sub(used.working_set), MEMORY.min(capacity));
    if let Some(space) = space {
        // What nobody may have (a quota's rest, root's reserve) does not count for the whole.
        let whole = space.capacity.saturating_sub(space.free) + space.available;
        below(Scarce::Disk, space.available, whole * SPACE / 100);
        below(Scarce::Disk, space.inodes_free, space.inodes / 100 * INODES);
    }
    found
}

/// A pod that might go, with what it uses of what is scarce, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) used: u64,
}

/// The pod that goes first: one that uses more than it asked for, of the lowest priority, and of those the one that is
/// furthest beyond.
pub(crate) fn victim<'a>(of: Scarce, candidates: &[Candidate<'a>]) -> Option<Candidate<'a>> {
    let may_go = candidates.iter().filter(|candidate| priority(candidate.pod) < CRITICAL);
    may_go.copied().max_by_key(|candidate| {
        let asked = requested(candidate.pod, of);
        let beyond = i128::from(candidate.used) - i128::from(asked);
        (beyond > 0, std::cmp::Reverse(priority(candidate.pod)), beyond)
    })
}

fn requested(pod: &Pod, of: Scarce) -> i64 {
    let asked = resources::requests(facts::spec(pod), pod.status.as_ref());
    asked.get(of.resource()).map_or(0, |amount| amount.value())
}

/// What an evicted pod is told.
pub(crate) fn story(shortage: &Shortage, victim: &Candidate<'_>) -> String {
    let resource = shortage.of.resource();
    let kibibytes = |bytes: u64| format!("{}Ki", bytes / 1024);
    format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. Pod {} was using {}, request is {}, \
         has larger consumption of {resource}. ",
        shortage.threshold,
        kibibytes(shortage.available),
        facts::name(victim.pod),
        kibibytes(victim.used),
        requested(victim.pod, shortage.of),
    )
}

/// Why a pod is not let in while the node is short of `pressures`.
pub(crate) fn refusal(pod: &Pod, pressures: &[Scarce]) -> Option<String> {
    let spec = facts::spec(pod);
    if pressures.is_empty() || priority(pod) >= CRITICAL {
        return None;
    }
    let only_memory = pressures.iter().all(|scarce| *scarce == Scarce::Memory);
    let pressure = k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/memory-pressure".to_owned(),
        effect: taints::NO_SCHEDULE.to_owned(),
        ..Default::default()
    };
    let bears_it = taints::any_tolerates(spec.tolerations.as_deref().unwrap_or_default(), &pressure);
    if only_memory && (qos_class(spec) != QosClass::BestEffort || bears_it) {
        return None;
    }
    let names: Vec<&str> = pressures.iter().map(|scarce| scarce.condition()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

/// The `emptyDir` volumes of a pod that lie on disk and may not grow beyond a size, in bytes.
pub(crate) fn limited_volumes(pod: &Pod) -> Vec<(&str, u64)> {
    let volumes = facts::spec(pod).volumes.iter().flatten();
    let limited = volumes.filter_map(|volume| {
        let empty = volume.empty_dir.as_ref().filter(|empty| empty.medium.as_deref().unwrap_or_default().is_empty())?;
        let limit: Quantity = empty.size_limit.as_ref()?.0.parse().ok()?;
        Some((volume.name.as_str(), u64::try_from(limit.value()).ok().filter(|limit| *limit > 0)?))
    });
    limited.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, priority: i64, memory: Value) -> Pod {
        let requests = if memory.is_null() { json!({}) } else { json!({"memory": memory}) };
        let container = json!({"name": "c", "resources": {"requests": requests}});
        let spec = json!({"priority": priority, "containers": [container]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn shortages_by_threshold() {
        let used = |working_set| Usage { working_set, ..Usage::default() };
        // 950 are used; 10 of the 1000 are reserved for root.
        let space = |available, inodes_free| Space { capacity: 1010, free: 60, available, inodes: 100, inodes_free };
        let short = |used: Usage, space: Space| -> Vec<Scarce> {
            shortages(1 << 30, &used, Some(&space)).into_iter().map(|shortage| shortage.of).collect()
        };
        assert_eq!(short(used(0), space(50, 5)), []);
        assert_eq!(short(used((1 << 30) - MEMORY + 1), space(50, 5)), [Scarce::Memory]);
        assert_eq!(short(used(0), space(48, 5)), [Scarce::Disk]);
        assert_eq!(short(used(0), space(50, 4)), [Scarce::Disk]);
        assert_eq!(shortages(0, &used(0), Some(&Space::default())), [], "nothing is known");
    }

    #[test]
    fn the_greediest_of_the_least_important_goes() {
        let pods = [
            pod("critical", i64::from(CRITICAL), json!("0")),
            pod("modest", 0, json!("1Gi")),
            pod("important", 100, json!("0")),
            pod("greedy", 0, json!("10Mi")),
            pod("greedier", 0, json!("0")),
        ];
        let mib = [900_u64, 500, 800, 200, 300];
        let mut left: Vec<Candidate<'_>> =
            pods.iter().zip(mib).map(|(pod, used)| Candidate { pod, used: used << 20 }).collect();
        let mut order = Vec::new();
        while let Some(next) = victim(Scarce::Memory, &left) {
            order.push(facts::name(next.pod));
            left.retain(|candidate| facts::name(candidate.pod) != facts::name(next.pod));
        }
        assert_eq!(order, ["greedier", "greedy", "important", "modest"]);
    }

    #[test]
    fn who_is_let_in_under_pressure() {
        let (best_effort, burstable) = (pod("b", 0, json!(null)), pod("a", 0, json!("1Mi")));
        assert!(refusal(&best_effort, &[]).is_none());
        assert!(refusal(&best_effort, &[Scarce::Memory]).is_some_and(|why| why.contains("[MemoryPressure]")));
        assert!(refusal(&burstable, &[Scarce::Memory]).is_none());
        assert!(refusal(&burstable, &[Scarce::Disk]).is_some());
        assert!(refusal(&pod("c", i64::from(CRITICAL), json!(null)), &[Scarce::Disk]).is_none());
    }

    #[test]
    fn volumes_with_a_limit() {
        let volumes = json!([{"name": "a", "emptyDir": {"sizeLimit": "1Ki"}}, {"name": "b", "emptyDir": {}},
            {"name": "c", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}}]);
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": volumes}})).expect("a pod");
        assert_eq!(limited_volumes(&pod), [("a", 1024)]);
    }
}
