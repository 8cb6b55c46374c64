//! Shortage on the node: memory, disk and process ids are watched, images that nobody needs are removed, and where that is
//! not enough pods are evicted, one at a time, so that the node itself stays alive.

mod images;
mod plan;
mod thresholds;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use skiff_meta::world::WorldExt;

use crate::node::Node;
use crate::pod::facts;
use crate::pod::manager::Manager;
use crate::pod::status::{Ending, Why};
use crate::stats::{self, disk};
use images::ImageUse;
use plan::Candidate;
pub(crate) use plan::{ContainerOnDisk, OnDisk, Scarce, refusal};
pub(crate) use thresholds::{Amount, Signal, Threshold};
use thresholds::{Observation, Observed, Watch};

/// How often the node is looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// How long an evicted pod is waited for before the node is looked at again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the node is short of, for the node's conditions and for admission.
#[derive(Default)]
pub(crate) struct Pressure {
    watch: Mutex<Watch>,
}

impl Pressure {
    /// What the node counts as short of at `now`.
    pub(crate) fn current(&self, now: Duration, transition: Duration) -> Vec<Scarce> {
        self.watch.lock().pressures(now, transition)
    }
}

/// Watches for ever.
pub(crate) async fn run(node: Arc<Node>, manager: Arc<Manager>) {
    let images = image_store(&node).await;
    let mut keeper = Keeper { node, manager, images, used: ImageUse::default() };
    loop {
        let evicted = keeper.turn().await;
        let pause = if evicted.is_empty() { PERIOD } else { PATIENCE };
        let gone = async {
            for uid in &evicted {
                keeper.manager.until_down(uid).await;
            }
            if evicted.is_empty() {
                std::future::pending::<()>().await;
            }
        };
        let world = keeper.node.world.clone();
        // Whether it has gone or not, the node is looked at again.
        let _ = world.timeout(pause, gone).await;
    }
}

/// Where the runtime keeps its images; where it does not say, on the node's own file system.
async fn image_store(node: &Node) -> PathBuf {
    let told = node.runtime.image_fs_info().await.unwrap_or_default();
    let told = told.into_iter().find_map(|usage| usage.fs_id.map(|id| PathBuf::from(id.mountpoint)));
    let there = told.filter(|path| node.config.os.files.space(path).is_ok());
    there.unwrap_or_else(|| node.config.directory.clone())
}

struct Keeper {
    node: Arc<Node>,
    manager: Arc<Manager>,
    /// A path on the file system of images and containers.
    images: PathBuf,
    used: ImageUse,
}

impl Keeper {
    /// Looks once and does what has to be done; gives the UIDs of pods that have to go for it.
    async fn turn(&mut self) -> Vec<String> {
        let node = self.node.clone();
        if let Err(error) = self.used.follow(&node).await {
            tracing::debug!("images were not looked at: {error}");
        }
        let settings = &node.config.settings.eviction;
        let (observed, now) = (observe(&node, &self.images), node.world.elapsed());
        let before = node.pressure.current(now, settings.transition);
        let due: Vec<Threshold> =
            node.pressure.watch.lock().look(&settings.thresholds, &observed, now).into_iter().cloned().collect();
        if node.pressure.current(now, settings.transition) != before {
            node.heartbeat.notify_one();
        }
        let outgrown = self.end_outgrown().await;
        if !outgrown.is_empty() {
            return outgrown;
        }
        let Some(threshold) = due.first() else { return Vec::new() };
        let message = format!("Attempting to reclaim {}", threshold.signal.resource());
        node.recorder.warning(&node.itself(), "EvictionThresholdMet", message);
        if threshold.signal.scarce() == Scarce::Disk && self.is_enough_without_images().await {
            return Vec::new();
        }
        self.evict(threshold, &observed).await.into_iter().collect()
    }

    /// Removes images that nobody needs, as far as that helps. Whether nothing has to go any more.
    async fn is_enough_without_images(&mut self) -> bool {
        let (node, images) = (&self.node, &self.images);
        let thresholds = &node.config.settings.eviction.thresholds;
        let crossed = |of: fn(Scarce) -> bool| {
            let observed = observe(node, images);
            thresholds.iter().any(|threshold| of(threshold.signal.scarce()) && threshold.is_crossed(&observed, true))
        };
        if let Err(error) = self.used.reclaim(node, || !crossed(|scarce| scarce == Scarce::Disk)).await {
            tracing::warn!("images were not removed: {error}");
        }
        !crossed(|_| true)
    }

    fn shares_a_disk(&self) -> bool {
        let id = |path: &Path| self.node.config.os.files.space(path).ok().map(|space| space.id);
        id(&self.images) == id(&self.node.config.directory)
    }

    /// Evicts the pod that comes first; gives its UID. One that is on its way already is only waited for.
    async fn evict(&self, threshold: &Threshold, observed: &Observed) -> Option<String> {
        let node = &self.node;
        let used = stats::measure(node).pods;
        let on_disk = threshold.signal.scarce() == Scarce::Disk;
        let layers = if on_disk { disk::layers(node).await } else { disk::Layers::new() };
        let candidate = |used: &'_ stats::PodUse| {
            let containers = used.containers.iter();
            let containers = containers.map(|container| (container.name.clone(), container.measured.usage.working_set));
            (containers.collect::<BTreeMap<_, _>>(), used.whole.usage)
        };
        let candidates: Vec<Candidate<'_>> = used
            .iter()
            .map(|used| {
                let (containers, whole) = candidate(used);
                let disk = if on_disk { disk::of(node, &used.pod, &layers) } else { OnDisk::default() };
                Candidate { pod: &used.pod, memory: whole.working_set, processes: whole.processes, disk, containers }
            })
            .collect();
        let order = plan::rank(threshold.signal, self.shares_a_disk(), &candidates);
        let Some(victim) = order.first() else {
            tracing::warn!(signal = threshold.signal.name(), "the node is short, and no pod may be evicted");
            return None;
        };
        let message = plan::story(threshold, observed, victim);
        let grace = plan::grace(threshold, victim.pod, node.config.settings.eviction.max_pod_grace);
        self.send_away(victim.pod, message, Why::Shortage, grace, threshold.signal.name());
        Some(facts::uid(victim.pod).to_owned())
    }

    /// Ends pods that have outgrown what they were allowed on disk; gives their UIDs.
    async fn end_outgrown(&self) -> Vec<String> {
        let node = &self.node;
        let mut pods = node.pods.store().list();
        pods.retain(|pod| {
            let ends = pod.metadata.deletion_timestamp.is_some() || skiff_api::pods::is_finished(pod);
            !ends && !facts::is_critical(pod) && plan::is_limited(pod)
        });
        let layers = if pods.is_empty() { disk::Layers::new() } else { disk::layers(node).await };
        let shared = self.shares_a_disk();
        let told = pods.iter().filter_map(|pod| {
            let (limit, message) = plan::outgrown(pod, &disk::of(node, pod, &layers), shared)?;
            let new = self.send_away(pod, message, Why::Outgrown, 1, limit);
            new.then(|| facts::uid(pod).to_owned())
        });
        told.collect()
    }

    /// Whether it was not on its way already.
    fn send_away(&self, pod: &Pod, message: String, why: Why, grace: i64, signal: &'static str) -> bool {
        tracing::warn!(pod = facts::described(pod), "evicted: {message}");
        let ending = Ending { reason: "Evicted".to_owned(), message: message.clone(), why, grace: Some(grace) };
        let new = self.manager.end(pod, ending);
        if new {
            self.node.warn(pod, "Evicted", message);
            self.node.metrics.count_eviction(signal);
        }
        new
    }
}

fn observe(node: &Node, images: &Path) -> Observed {
    let (os, facts) = (&node.config.os, &node.facts);
    let used = os.machine.usage();
    let mut observed = Observed::new();
    let mut see = |signal, capacity: u64, available: u64| {
        if capacity > 0 {
            observed.insert(signal, Observation { capacity, available });
        }
    };
    see(Signal::Memory, facts.memory, facts.memory.saturating_sub(used.working_set));
    if let Ok(pods) = os.cgroups.usage("") {
        let whole = node.memory_of_pods();
        see(Signal::PodMemory, whole, whole.saturating_sub(pods.working_set));
    }
    see(Signal::Pids, facts.max_processes, facts.max_processes.saturating_sub(used.processes));
    let disks = [
        (node.config.directory.as_path(), Signal::NodeSpace, Signal::NodeInodes),
        (images, Signal::ImageSpace, Signal::ImageInodes),
    ];
    for (path, bytes, files) in disks {
        if let Ok(space) = os.files.space(path) {
            // What nobody may have (a quota's rest, root's reserve) does not count for the whole.
            let whole = space.capacity.saturating_sub(space.free) + space.available;
            see(bytes, whole, space.available);
            see(files, space.inodes, space.inodes_free);
        }
    }
    observed
}
