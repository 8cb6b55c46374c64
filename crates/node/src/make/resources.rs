//! Requests and limits as the kernel knows them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_api::qos::{QosClass, qos_class};
use skiff_api::resources::{self, ResourceList};
use skiff_cri::v1::LinuxContainerResources;

use crate::pod::facts;

/// Microseconds; the kernel's own default.
pub(crate) const PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// Priorities from here on are the system's own.
const SYSTEM_PRIORITY: i32 = 2_000_000_000;

/// What a cgroup is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Weight, as cgroup v1 counts it: 1024 for a whole processor.
    pub cpu_shares: i64,
    /// Microseconds in each 100 ms; 0: no limit.
    pub cpu_quota: i64,
    /// In bytes; 0: no limit.
    pub memory: i64,
}

impl Limits {
    /// What leaves room for both.
    pub(crate) fn widest(self, other: Self) -> Self {
        let wider = |a: i64, b: i64| if a == 0 || b == 0 { 0 } else { a.max(b) };
        Self {
            cpu_shares: self.cpu_shares.max(other.cpu_shares),
            cpu_quota: wider(self.cpu_quota, other.cpu_quota),
            memory: wider(self.memory, other.memory),
        }
    }
}

pub(crate) fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

fn quota(milli: i64) -> i64 {
    if milli <= 0 { 0 } else { (milli * PERIOD / 1000).max(MIN_QUOTA) }
}

fn milli_cpu(list: &ResourceList) -> i64 {
    list.get("cpu").map_or(0, |amount| amount.milli())
}

fn memory(list: &ResourceList) -> i64 {
    list.get("memory").map_or(0, |amount| amount.value())
}

/// One container's resources. `capacity` is the node's memory in bytes.
pub(crate) fn container(pod: &Pod, container: &Container, capacity: u64) -> LinuxContainerResources {
    let own = container.resources.clone().unwrap_or_default();
    let (limits, requests) = (resources::parse(&own.limits), resources::parse(&own.requests));
    // A request left out is what the limit says.
    let weight = if requests.contains_key("cpu") { milli_cpu(&requests) } else { milli_cpu(&limits) };
    let cpu_quota = quota(milli_cpu(&limits));
    LinuxContainerResources {
        cpu_shares: shares(weight),
        cpu_period: PERIOD,
        cpu_quota,
        memory_limit_in_bytes: memory(&limits),
        oom_score_adj: oom_score(pod, &requests, capacity),
        unified: BTreeMap::new(),
        ..LinuxContainerResources::default()
    }
}

/// How readily the kernel kills a container's processes when memory runs out: the more a burstable pod asked for, the
/// later.
fn oom_score(pod: &Pod, requests: &ResourceList, capacity: u64) -> i64 {
    let spec = facts::spec(pod);
    if spec.priority.is_some_and(|priority| priority > SYSTEM_PRIORITY) {
        return -997;
    }
    match qos_class(spec) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let share = i128::from(memory(requests)) * 1000 / i128::from(capacity.max(1));
            i64::try_from(1000 - share).unwrap_or(3).clamp(3, 999)
        }
    }
}

/// A whole pod's limits; a limit counts only if every container has one.
pub(crate) fn pod(pod: &Pod) -> Limits {
    let spec = facts::spec(pod);
    let requests = resources::requests(spec, None);
    let limits = resources::limits(spec, None);
    let all_limit = |name: &str| {
        let limited = |c: &Container| c.resources.as_ref().and_then(|r| r.limits.as_ref()?.get(name)).is_some();
        let whole = spec.resources.as_ref().and_then(|r| r.limits.as_ref()?.get(name)).is_some();
        whole || (facts::main_containers(pod).iter().all(limited) && facts::init_containers(pod).iter().all(limited))
    };
    let weight = milli_cpu(&requests);
    Limits {
        cpu_shares: shares(if weight == 0 && all_limit("cpu") { milli_cpu(&limits) } else { weight }),
        cpu_quota: if all_limit("cpu") { quota(milli_cpu(&limits)) } else { 0 },
        memory: if all_limit("memory") { memory(&limits) } else { 0 },
    }
}

/// The weight of all burstable pods together.
pub(crate) fn burstable_shares<'a>(pods: impl Iterator<Item = &'a Pod>) -> i64 {
    let burstable = pods.map(facts::spec).filter(|spec| qos_class(spec) == QosClass::Burstable);
    shares(burstable.map(|spec| milli_cpu(&resources::requests(spec, None))).sum())
}

/// The pod's cgroup below the root of all pods, such as `burstable/podUID`.
pub(crate) fn pod_cgroup(pod: &Pod) -> String {
    let parent = match qos_class(facts::spec(pod)) {
        QosClass::Guaranteed => "",
        QosClass::Burstable => "burstable/",
        QosClass::BestEffort => "besteffort/",
    };
    format!("{parent}pod{}", facts::uid(pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Shares, quota, memory and score of a container.
    type Made = (i64, i64, i64, i64);

    fn made(resources: &[Value]) -> (Limits, Vec<Made>, String) {
        let containers: Vec<Value> = resources.iter().map(|r| json!({"name": "c", "resources": r})).collect();
        let value = json!({"metadata": {"uid": "u"}, "spec": {"containers": containers}});
        let pod: Pod = serde_json::from_value(value).expect("a pod");
        let each = facts::main_containers(&pod).iter().map(|c| {
            let r = container(&pod, c, 1 << 30);
            (r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes, r.oom_score_adj)
        });
        (super::pod(&pod), each.collect(), pod_cgroup(&pod))
    }

    #[test]
    fn classes() {
        let (limits, containers, cgroup) = made(&[json!({})]);
        assert_eq!((limits, containers[0]), (Limits { cpu_shares: 2, ..Limits::default() }, (2, 0, 0, 1000)));
        assert_eq!(cgroup, "besteffort/podu");

        let full = json!({"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}});
        let (limits, containers, cgroup) = made(&[full.clone(), full]);
        assert_eq!(limits, Limits { cpu_shares: 1024, cpu_quota: 100_000, memory: 128 << 20 });
        assert_eq!((containers[0], cgroup.as_str()), ((512, 50_000, 64 << 20, -997), "podu"));

        let some = json!({"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}});
        let (limits, containers, cgroup) = made(&[some, json!({})]);
        assert_eq!(limits, Limits { cpu_shares: 102, cpu_quota: 0, memory: 0 });
        assert_eq!(containers, [(102, 0, 1 << 30, 500), (2, 0, 0, 999)]);
        assert_eq!(cgroup, "burstable/podu");
    }
}
