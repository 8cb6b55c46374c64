//! Which pod has to go when the node runs short, and who is let in (`pkg/kubelet/eviction` upstream). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Taint, Volume};
use skiff_api::pods::priority;
use skiff_api::qos::{QosClass, qos_class};
use skiff_api::{resources, taints};
use skiff_meta::Quantity;
use skiff_meta::quantity::Format;

use super::thresholds::{Observed, Signal, Threshold};
use crate::os::Size;
use crate::pod::facts;

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scarce {
    Memory,
    Disk,
    Pids,
}

impl Scarce {
    /// The node's condition.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pids => "PIDPressure",
        }
    }
}

/// What a pod has on the node's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OnDisk {
    /// By the volumes' names: those whose contents are the pod's alone.
    pub(crate) volumes: BTreeMap<String, Size>,
    pub(crate) containers: BTreeMap<String, ContainerOnDisk>,
}

/// What a container has there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerOnDisk {
    pub(crate) logs: Size,
    /// What it has written into its own root.
    pub(crate) layer: Size,
}

impl OnDisk {
    fn logs(&self) -> Size {
        self.containers.values().map(|container| container.logs).sum()
    }
    fn layers(&self) -> Size {
        self.containers.values().map(|container| container.layer).sum()
    }
    /// Volumes that go with the pod and are no memory.
    fn local(&self, pod: &Pod) -> Size {
        let local = facts::spec(pod).volumes.iter().flatten().filter(|volume| is_local(volume));
        local.filter_map(|volume| self.volumes.get(&volume.name)).copied().sum()
    }
    /// All that goes with the pod.
    pub(crate) fn total(&self, pod: &Pod) -> Size {
        self.logs() + self.layers() + self.local(pod)
    }
    /// What of it counts where a signal tells of shortage; `shared`: images and volumes are on one file system.
    fn counted(&self, pod: &Pod, signal: Signal, shared: bool) -> Size {
        let on_images = matches!(signal, Signal::ImageSpace | Signal::ImageInodes);
        let with = |counts: bool, size: Size| if counts { size } else { Size::default() };
        [with(shared || on_images, self.layers()), with(shared || !on_images, self.logs() + self.local(pod))]
            .into_iter()
            .sum()
    }
}

fn is_local(volume: &Volume) -> bool {
    let on_disk = |medium: Option<&str>| medium.unwrap_or_default().is_empty();
    volume.config_map.is_some() || volume.empty_dir.as_ref().is_some_and(|empty| on_disk(empty.medium.as_deref()))
}

/// A pod that might go.
pub(crate) struct Candidate<'a> {
    pub(crate) pod: &'a Pod,
    /// Memory in use, in bytes.
    pub(crate) memory: u64,
    pub(crate) processes: u64,
    pub(crate) disk: OnDisk,
    /// Memory in use by container.
    pub(crate) containers: BTreeMap<String, u64>,
}

impl Candidate<'_> {
    /// How much it has of what a signal is about.
    fn used(&self, signal: Signal, shared: bool) -> u64 {
        match signal {
            Signal::Memory | Signal::PodMemory => self.memory,
            Signal::Pids => self.processes,
            Signal::NodeSpace | Signal::ImageSpace => self.disk.counted(self.pod, signal, shared).bytes,
            Signal::NodeInodes | Signal::ImageInodes => self.disk.counted(self.pod, signal, shared).inodes,
        }
    }
}

/// Pods in the order in which they have to go: those that use more than they asked for, of them those of the lowest
/// priority, and of those the ones furthest beyond. Processes cannot be asked for. The most important pods stay.
pub(crate) fn rank<'a, 'b>(signal: Signal, shared: bool, pods: &'b [Candidate<'a>]) -> Vec<&'b Candidate<'a>> {
    let mut order: Vec<&Candidate<'_>> = pods.iter().filter(|candidate| !facts::is_critical(candidate.pod)).collect();
    order.sort_by_cached_key(|candidate| {
        let beyond = i128::from(candidate.used(signal, shared)) - i128::from(requested(candidate.pod, signal));
        let within = signal != Signal::Pids && beyond <= 0;
        (within, priority(candidate.pod), std::cmp::Reverse(beyond))
    });
    order
}

fn requested(pod: &Pod, signal: Signal) -> i64 {
    let asked = resources::requests(facts::spec(pod), pod.status.as_ref());
    asked.get(signal.resource()).map_or(0, |amount| amount.value())
}

/// Seconds that a pod has to end for the sake of a threshold.
pub(crate) fn grace(threshold: &Threshold, pod: &Pod, most: i64) -> i64 {
    let own = facts::spec(pod).termination_grace_period_seconds.unwrap_or(most);
    if threshold.is_hard() { 1 } else { own.min(most) }
}

/// What an evicted pod is told.
pub(crate) fn story(threshold: &Threshold, observed: &Observed, victim: &Candidate<'_>) -> String {
    let (resource, pod) = (threshold.signal.resource(), victim.pod);
    let binary = matches!(resource, "memory" | "ephemeral-storage");
    let format = if binary { Format::BinarySi } else { Format::DecimalSi };
    let shown = |amount: u64| Quantity::new(i64::try_from(amount).unwrap_or(i64::MAX), format).to_string();
    let mut story = format!("The node was low on resource: {resource}. ");
    if let Some(seen) = observed.get(&threshold.signal) {
        let (least, left) = (shown(threshold.least.of(seen.capacity)), shown(seen.available));
        story += &format!("Threshold quantity: {least}, available: {left}. ");
    }
    let mut blame = |kind: &str, name: &str, used: u64, asked: &str| {
        let used = shown(used);
        story += &format!("{kind} {name} was using {used}, request is {asked}, has larger consumption of {resource}. ");
    };
    let whole = facts::spec(pod).resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get(resource));
    if let Some(asked) = whole.filter(|_| resource == "memory") {
        blame("Pod", facts::name(pod), victim.memory, &asked.0);
    }
    for container in facts::main_containers(pod).iter().chain(facts::init_containers(pod)) {
        let used = match resource {
            "memory" => victim.containers.get(&container.name).copied(),
            "ephemeral-storage" => {
                victim.disk.containers.get(&container.name).map(|disk| (disk.layer + disk.logs).bytes)
            }
            _ => None,
        };
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let asked = requests.and_then(|requests| requests.get(resource)).map_or("0", |asked| asked.0.as_str());
        let amount = asked.parse::<Quantity>().map_or(0, |amount| amount.value());
        if let Some(used) = used.filter(|used| i128::from(*used) > i128::from(amount)) {
            blame("Container", &container.name, used, asked);
        }
    }
    story
}

/// Why a pod is not let in while the node is short of `pressures`.
pub(crate) fn refusal(pod: &Pod, pressures: &[Scarce]) -> Option<String> {
    let spec = facts::spec(pod);
    if pressures.is_empty() || facts::is_critical(pod) {
        return None;
    }
    let only_memory = pressures.iter().all(|scarce| *scarce == Scarce::Memory);
    let pressure = Taint {
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

/// What a container may have on disk: in bytes, and as it is written.
fn storage_limit(container: &Container) -> Option<(u64, &str)> {
    let text = container.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?.0.as_str();
    Some((u64::try_from(text.parse::<Quantity>().ok()?.value()).ok().filter(|limit| *limit > 0)?, text))
}

/// The volumes of a pod that may not outgrow a size: name, bytes, and as it is written.
fn limited_volumes(pod: &Pod) -> impl Iterator<Item = (&str, u64, &str)> {
    facts::spec(pod).volumes.iter().flatten().filter_map(|volume| {
        let text = volume.empty_dir.as_ref()?.size_limit.as_ref()?.0.as_str();
        let limit = u64::try_from(text.parse::<Quantity>().ok()?.value()).ok().filter(|limit| *limit > 0)?;
        Some((volume.name.as_str(), limit, text))
    })
}

/// Whether anything of a pod may not outgrow a size on disk.
pub(crate) fn is_limited(pod: &Pod) -> bool {
    let whole = resources::limits(facts::spec(pod), None);
    limited_volumes(pod).next().is_some()
        || whole.contains_key("ephemeral-storage")
        || facts::main_containers(pod).iter().any(|container| storage_limit(container).is_some())
}

/// Why a pod has to go that has outgrown what it was allowed on disk: upstream's name for the limit, and the story.
/// `shared`: containers' roots are on the node's disk.
pub(crate) fn outgrown(pod: &Pod, disk: &OnDisk, shared: bool) -> Option<(&'static str, String)> {
    let beyond = |(name, limit, _): &(&str, u64, &str)| disk.volumes.get(*name).is_some_and(|size| size.bytes > *limit);
    if let Some((name, _, limit)) = limited_volumes(pod).find(beyond) {
        return Some(("emptydirfs.limit", format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ")));
    }
    let whole = resources::limits(facts::spec(pod), None).get("ephemeral-storage").copied();
    let used = disk.total(pod).bytes;
    if let Some(limit) = whole.filter(|limit| i128::from(used) > i128::from(limit.value())) {
        let story = format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        return Some(("ephemeralpodfs.limit", story));
    }
    facts::main_containers(pod).iter().find_map(|container| {
        let (limit, text) = storage_limit(container)?;
        let used = disk.containers.get(&container.name)?;
        let used = if shared { used.logs + used.layer } else { used.logs };
        let story = format!("Container {} exceeded its local ephemeral storage limit {text:?}. ", container.name);
        (used.bytes > limit).then_some(("ephemeralcontainerfs.limit", story))
    })
}

#[cfg(test)]
mod tests {
    use super::super::thresholds::{Amount, Observation};
    use super::*;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn pod(name: &str, priority: i64, memory: Value) -> Pod {
        let requests = if memory.is_null() { json!({}) } else { json!({"memory": memory}) };
        let container = json!({"name": "c", "resources": {"requests": requests}});
        let spec = json!({"priority": priority, "containers": [container], "terminationGracePeriodSeconds": 30});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a pod")
    }

    fn candidate(pod: &Pod, memory: u64, processes: u64) -> Candidate<'_> {
        let containers = [("c".to_owned(), memory)].into();
        Candidate { pod, memory, processes, disk: OnDisk::default(), containers }
    }

    fn size(bytes: u64) -> Size {
        Size { bytes, inodes: 1 }
    }

    #[test]
    fn the_greediest_of_the_least_important_goes() {
        let pods = [
            (pod("critical", 2_000_000_000, json!("0")), 900, 99),
            (pod("modest", 0, json!("1Gi")), 500, 7),
            (pod("important", 100, json!("0")), 800, 98),
            (pod("greedy", 0, json!("10Mi")), 200, 5),
            (pod("greedier", 0, json!("0")), 300, 6),
        ];
        let all: Vec<_> = pods.iter().map(|(pod, mib, count)| candidate(pod, mib << 20, *count)).collect();
        let order = |signal| -> Vec<&str> {
            rank(signal, true, &all).into_iter().map(|candidate| facts::name(candidate.pod)).collect()
        };
        assert_eq!(order(Signal::Memory), ["greedier", "greedy", "important", "modest"]);
        assert_eq!(order(Signal::Pids), ["modest", "greedier", "greedy", "important"]);
    }

    #[test]
    fn what_counts_on_which_disk() {
        let volumes = json!([{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}]);
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": volumes}})).expect("a pod");
        let disk = OnDisk {
            volumes: [("v".to_owned(), size(1)), ("m".to_owned(), size(1000))].into(),
            containers: [("c".to_owned(), ContainerOnDisk { logs: size(10), layer: size(100) })].into(),
        };
        for (signal, shared, expected) in
            [(Signal::NodeSpace, true, 111), (Signal::NodeSpace, false, 11), (Signal::ImageSpace, false, 100)]
        {
            assert_eq!(disk.counted(&pod, signal, shared).bytes, expected);
        }
        assert_eq!(disk.counted(&pod, Signal::NodeInodes, true).inodes, 3);
    }

    #[test]
    fn what_an_evicted_pod_is_told_and_given() {
        let greedy = pod("greedy", 0, json!("10Mi"));
        let threshold = |grace| Threshold {
            signal: Signal::Memory,
            least: Amount::Of(100 << 20),
            grace: Duration::from_secs(grace),
            reclaim: None,
        };
        let observed = [(Signal::Memory, Observation { capacity: 1 << 30, available: 50 << 20 })].into();
        assert_eq!(
            story(&threshold(0), &observed, &candidate(&greedy, 20 << 20, 1)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using \
             20Mi, request is 10Mi, has larger consumption of memory. "
        );
        assert_eq!([0, 1].map(|soft| grace(&threshold(soft), &greedy, 20)), [1, 20]);
        assert_eq!(grace(&threshold(1), &greedy, 40), 30);
    }

    #[test]
    fn who_is_let_in_under_pressure() {
        let (best_effort, burstable) = (pod("b", 0, json!(null)), pod("a", 0, json!("1Mi")));
        assert!(refusal(&best_effort, &[]).is_none());
        assert!(refusal(&best_effort, &[Scarce::Memory]).is_some_and(|why| why.contains("[MemoryPressure]")));
        assert!(refusal(&burstable, &[Scarce::Memory]).is_none());
        assert!(refusal(&burstable, &[Scarce::Memory, Scarce::Pids]).is_some());
        assert!(refusal(&pod("c", 2_000_000_000, json!(null)), &[Scarce::Disk]).is_none());
    }

    #[test]
    fn pods_that_outgrow_their_limits() {
        let volume = |limit: &str| json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": limit}}]});
        let container =
            |limit: &str| json!({"containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": limit}}}]});
        let disk = OnDisk {
            volumes: [("v".to_owned(), size(2048))].into(),
            containers: [("c".to_owned(), ContainerOnDisk { logs: size(1000), layer: size(1048) })].into(),
        };
        let two = json!({"containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "1Ki"}}},
            {"name": "d", "resources": {"limits": {"ephemeral-storage": "9Ki"}}}]});
        for (mut spec, limited, told) in [
            (json!({}), false, ""),
            (volume("2Ki"), true, ""),
            (volume("1Ki"), true, "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". "),
            (container("2Ki"), true, ""),
            (container("1Ki"), true, "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. "),
            (two, true, "Container c exceeded its local ephemeral storage limit \"1Ki\". "),
        ] {
            if spec["containers"].is_null() {
                spec["containers"] = json!([{"name": "c"}]);
            }
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
            assert_eq!(
                (is_limited(&pod), outgrown(&pod, &disk, true).map(|(_, told)| told).unwrap_or_default()),
                (limited, told.to_owned())
            );
        }
    }
}
