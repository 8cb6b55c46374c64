//! Shortage on the node: memory and disk are watched, images that nobody needs are removed, and where that is not enough
//! pods are evicted, one at a time, so that the node itself stays alive.

mod images;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use skiff_cri::v1::ContainerStatsFilter;

use crate::make::sandbox;
use crate::node::Node;
use crate::pod::facts::{self, key};
use crate::pod::manager::Manager;
use crate::pod::status::Ending;
use crate::stats;
use images::ImageUse;
use plan::{Candidate, Shortage};
pub(crate) use plan::{Scarce, refusal};

/// How often the node is looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// A pressure counts until nothing has been seen of it for this long.
const CALM: Duration = Duration::from_secs(300);

/// What the node is short of, for the node's conditions and for admission.
#[derive(Default)]
pub(crate) struct Pressure {
    /// When each was last seen.
    seen: Mutex<BTreeMap<Scarce, Duration>>,
}

impl Pressure {
    /// What the node is short of at `now`.
    pub(crate) fn current(&self, now: Duration) -> Vec<Scarce> {
        let seen = self.seen.lock();
        seen.iter().filter(|(_, at)| now.saturating_sub(**at) < CALM).map(|(scarce, _)| *scarce).collect()
    }
}

/// Watches for ever.
pub(crate) async fn run(node: Arc<Node>, manager: Arc<Manager>) {
    let mut images = ImageUse::default();
    loop {
        for (pod, message) in overgrown(&node) {
            manager.evict(&pod, evicted(message));
        }
        let shortages = look(&node);
        let short_of_disk = shortages.iter().any(|shortage| shortage.of == Scarce::Disk);
        let is_short = || look(&node).iter().any(|shortage| shortage.of == Scarce::Disk);
        let reclaimed = images.reclaim(&node, || !(short_of_disk && is_short())).await;
        if let Err(error) = &reclaimed {
            tracing::debug!("images were not looked at: {error}");
        }
        let left = if reclaimed.unwrap_or(false) { look(&node) } else { shortages };
        for shortage in &left {
            node.pressure.seen.lock().insert(shortage.of, node.world.elapsed());
        }
        // Memory first: a node without it dies sooner.
        if let Some(shortage) = left.first() {
            evict(&node, &manager, shortage).await;
        }
        node.world.sleep(PERIOD).await;
    }
}

fn look(node: &Node) -> Vec<Shortage> {
    let os = &node.config.os;
    let space = os.files.space(&node.config.directory).ok();
    plan::shortages(node.facts.memory, &os.machine.usage(), space.as_ref())
}

fn evicted(message: String) -> Ending {
    Ending { reason: "Evicted".to_owned(), message, refused: false }
}

async fn evict(node: &Arc<Node>, manager: &Manager, shortage: &Shortage) {
    let pods = stats::measure(node).pods;
    let layers = if shortage.of == Scarce::Disk { layers(node).await } else { BTreeMap::new() };
    let used = |pod: &stats::PodUse| match shortage.of {
        Scarce::Memory => pod.whole.usage.working_set,
        Scarce::Disk => on_disk(node, &pod.pod) + layers.get(facts::uid(&pod.pod)).copied().unwrap_or(0),
    };
    let candidates: Vec<Candidate<'_>> = pods
        .iter()
        .filter(|pod| pod.pod.metadata.deletion_timestamp.is_none())
        .map(|pod| Candidate { pod: &pod.pod, used: used(pod) })
        .collect();
    let Some(victim) = plan::victim(shortage.of, &candidates) else {
        return tracing::warn!(?shortage, "the node is short, and no pod may be evicted");
    };
    let message = plan::story(shortage, &victim);
    tracing::warn!(pod = facts::described(victim.pod), "evicted: {message}");
    manager.evict(victim.pod, evicted(message));
}

/// What pods' containers have written into their root file systems, by the pods' UIDs.
async fn layers(node: &Node) -> BTreeMap<String, u64> {
    let stats = node.runtime.list_container_stats(ContainerStatsFilter::default()).await.unwrap_or_default();
    let mut sums = BTreeMap::new();
    for container in stats {
        let labels = container.attributes.map(|attributes| attributes.labels).unwrap_or_default();
        let bytes = container.writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
        if let Some(uid) = labels.get(key::POD_UID) {
            *sums.entry(uid.clone()).or_default() += bytes;
        }
    }
    sums
}

/// A pod's volumes and logs.
fn on_disk(node: &Node, pod: &Pod) -> u64 {
    let files = &*node.config.os.files;
    let logs = sandbox::log_directory(&node.config.log_directory, pod);
    [node.pod_directory(facts::uid(pod)), logs].iter().map(|path| files.size(path).unwrap_or(0)).sum()
}

/// Pods with an `emptyDir` that has grown beyond its limit, and what they are told.
fn overgrown(node: &Node) -> Vec<(Arc<Pod>, String)> {
    let files = &*node.config.os.files;
    let mut found = Vec::new();
    for pod in node.pods.store().list().into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        for (volume, limit) in plan::limited_volumes(&pod) {
            let path = node.pod_directory(facts::uid(&pod)).join("volumes").join(volume);
            if files.size(&path).is_ok_and(|size| size > limit) {
                found.push((pod.clone(), format!("Usage of EmptyDir volume {volume:?} exceeds the limit {limit:?}. ")));
                break;
            }
        }
    }
    found
}
