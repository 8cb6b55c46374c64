//! What the node and its pods use: measured now and then, told as upstream's summary and as metrics.
//!
//! Everything comes from the kernel's own counters (cgroups, /proc, file systems), so that asking costs the container
//! runtime nothing. Rates need two measurements; a background task makes one every ten seconds, which `kubectl top`
//! then shows.

mod cadvisor;
pub(crate) mod disk;
mod resource;
mod summary;
mod volumes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::make::resources;
use crate::node::Node;
use crate::os::{Space, Traffic, Usage};
use crate::pod::facts;
pub(crate) use cadvisor::containers;
pub(crate) use resource::metrics;
pub(crate) use summary::summary;
pub(crate) use volumes::{Disks, Fill, disk_use, of_claims};

/// How often measurements are made.
const PERIOD: Duration = Duration::from_secs(10);
/// Measurements closer together than this say nothing about a rate.
const LEAST: Duration = Duration::from_secs(5);

/// One measurement of a group of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) usage: Usage,
    /// Nanoseconds of processor time per second; `None` before the second measurement.
    pub(crate) rate: Option<u64>,
}

/// One pod's use.
#[derive(Clone, Debug)]
pub(crate) struct PodUse {
    pub(crate) pod: Arc<Pod>,
    pub(crate) whole: Measured,
    pub(crate) traffic: Option<Traffic>,
    /// Its cgroup, below that of all pods.
    pub(crate) group: String,
    pub(crate) containers: Vec<ContainerUse>,
}

/// The use of one container that runs.
#[derive(Clone, Debug)]
pub(crate) struct ContainerUse {
    pub(crate) name: String,
    /// The runtime's id.
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started: Option<Timestamp>,
    pub(crate) measured: Measured,
}

/// What the whole node uses.
#[derive(Clone, Debug)]
pub(crate) struct NodeUse {
    pub(crate) at: Timestamp,
    pub(crate) whole: Measured,
    pub(crate) traffic: Option<Traffic>,
    /// The file system of the agent's directory: images, volumes and logs.
    pub(crate) space: Option<Space>,
    pub(crate) pods: Vec<PodUse>,
}

/// The last measurements, by group.
#[derive(Default)]
pub(crate) struct Rates {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone, Copy)]
struct Known {
    at: Duration,
    cpu: u64,
    rate: Option<u64>,
}

impl Rates {
    /// Takes in a measurement; gives the rate since the one before, or since the one before that.
    fn take(&self, group: &str, now: Duration, cpu: u64) -> Option<u64> {
        let mut known = self.known.lock();
        let Some(last) = known.get_mut(group).filter(|last| last.cpu <= cpu) else {
            known.insert(group.to_owned(), Known { at: now, cpu, rate: None });
            return None;
        };
        let passed = now.saturating_sub(last.at);
        if passed >= LEAST {
            let rate = u128::from(cpu - last.cpu) * 1_000_000_000 / passed.as_nanos().max(1);
            *last = Known { at: now, cpu, rate: u64::try_from(rate).ok() };
        }
        last.rate
    }

    /// Forgets groups that have not been measured for long.
    fn tidy(&self, now: Duration) {
        self.known.lock().retain(|_, known| now.saturating_sub(known.at) < PERIOD * 6);
    }
}

/// Measures for ever.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        measure(&node);
        node.rates.tidy(node.world.elapsed());
        node.world.sleep(PERIOD).await;
    }
}

/// Measures everything once. What cannot be read (a pod that has just ended) is left out.
pub(crate) fn measure(node: &Node) -> NodeUse {
    let os = &node.config.os;
    let now = node.world.elapsed();
    let rated = |group: &str, usage: Usage| Measured { rate: node.rates.take(group, now, usage.cpu), usage };
    let pods = node.pods.store().list();
    let running = pods.into_iter().filter(|pod| !skiff_api::pods::is_finished(pod));
    let pods = running.filter_map(|pod| {
        let group = resources::pod_cgroup(&pod);
        let whole = rated(&group, os.cgroups.usage(&group).ok()?);
        let containers = running_containers(&pod).into_iter().filter_map(|container| {
            let inner = format!("{group}/{}", container.id);
            Some(ContainerUse { measured: rated(&inner, os.cgroups.usage(&inner).ok()?), ..container })
        });
        let traffic = if facts::on_host_network(&pod) { None } else { os.cgroups.traffic(&group) };
        let containers = containers.collect();
        Some(PodUse { containers, whole, traffic, group, pod })
    });
    NodeUse {
        at: node.world.now(),
        pods: pods.collect(),
        whole: rated("", os.machine.usage()),
        traffic: os.machine.traffic(),
        space: os.files.space(&node.config.directory).ok(),
    }
}

/// The containers that run, as the pod's status has them; not measured yet.
fn running_containers(pod: &Pod) -> Vec<ContainerUse> {
    let Some(status) = &pod.status else { return Vec::new() };
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let all = lists.into_iter().flat_map(|list| list.iter().flatten());
    let running = all.filter_map(|status| {
        let state = status.state.as_ref()?.running.as_ref()?;
        let (_, id) = status.container_id.as_deref()?.split_once("://")?;
        Some(ContainerUse {
            name: status.name.clone(),
            id: id.to_owned(),
            image: status.image.clone(),
            started: state.started_at.as_ref().map(|time| time.0),
            measured: Measured::default(),
        })
    });
    running.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_measurements_far_enough_apart() {
        let rates = Rates::default();
        let at = Duration::from_secs;
        assert_eq!(rates.take("a", at(0), 1_000), None, "one says nothing");
        assert_eq!(rates.take("a", at(1), 9_000), None, "too close");
        assert_eq!(rates.take("a", at(10), 5_000_001_000), Some(500_000_000), "half a processor");
        assert_eq!(rates.take("a", at(12), 6_000_001_000), Some(500_000_000), "the last one still holds");
        assert_eq!(rates.take("a", at(20), 0), None, "a new group of the same name");
        rates.tidy(at(100));
        assert_eq!(rates.take("a", at(101), 10), None, "forgotten");
    }
}
