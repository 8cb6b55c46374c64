//! How full pods' volumes are, and what their containers have on disk. Looking at all files takes a while, so that what was
//! seen is good for a minute.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};
use skiff_api::volumes::claim;

use super::disk;
use crate::csi;
use crate::node::Node;
use crate::pod::facts;
use crate::pressure::OnDisk;
use crate::volumes;

/// How long what was seen is told.
const FRESH: Duration = Duration::from_secs(60);

/// How full something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
    pub(crate) inodes_used: u64,
}

/// A volume of a pod.
#[derive(Clone, Debug)]
pub(crate) struct VolumeUse {
    pub(super) name: String,
    /// The claim behind it.
    pub(super) claim: Option<String>,
    pub(super) fill: Fill,
}

/// All of a pod's.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodDisk {
    pub(super) volumes: Vec<VolumeUse>,
    pub(super) on_disk: OnDisk,
}

/// By the pods' UIDs.
pub(crate) type DiskUse = HashMap<String, PodDisk>;

/// What was seen last, and when.
#[derive(Default)]
pub(crate) struct Disks {
    seen: tokio::sync::Mutex<Option<(Duration, Arc<DiskUse>)>>,
}

/// What all pods have, as of the last minute.
pub(crate) async fn disk_use(node: &Node) -> Arc<DiskUse> {
    let mut seen = node.disks.seen.lock().await;
    let now = node.world.elapsed();
    if let Some((at, known)) = &*seen
        && now.saturating_sub(*at) < FRESH
    {
        return known.clone();
    }
    let layers = disk::layers(node).await;
    let mut fresh = DiskUse::new();
    for pod in node.pods.store().list().into_iter().filter(|pod| !skiff_api::pods::is_finished(pod)) {
        let on_disk = disk::of(node, &pod, &layers);
        let mut volumes = Vec::new();
        for volume in facts::spec(&pod).volumes.iter().flatten() {
            if let Some(fill) = fill(node, &pod, volume, &on_disk).await {
                volumes.push(VolumeUse { name: volume.name.clone(), claim: claim(&pod, volume), fill });
            }
        }
        fresh.insert(facts::uid(&pod).to_owned(), PodDisk { volumes, on_disk });
    }
    let fresh = Arc::new(fresh);
    *seen = Some((now, fresh.clone()));
    fresh
}

/// `None` where nobody can tell: the host's own directories, images.
async fn fill(node: &Node, pod: &Pod, volume: &Volume, on_disk: &OnDisk) -> Option<Fill> {
    let uid = facts::uid(pod);
    if let Some(used) = on_disk.volumes.get(&volume.name) {
        let space = room(node, &volumes::own_directory(node, uid, volume)?)?;
        return Some(Fill { used: used.bytes, inodes_used: used.inodes, ..space });
    }
    match csi::fill(node, uid, &volume.name).await {
        Some(told) => told,
        None => room(node, &node.local_disks.get(uid, &volume.name)?),
    }
}

/// What the whole file system of a path has.
fn room(node: &Node, path: &Path) -> Option<Fill> {
    let space = node.config.os.files.space(path).ok()?;
    Some(Fill {
        capacity: space.capacity,
        available: space.available,
        used: space.capacity.saturating_sub(space.free),
        inodes: space.inodes,
        inodes_free: space.inodes_free,
        inodes_used: space.inodes.saturating_sub(space.inodes_free),
    })
}

/// How full claimed volumes are, in Prometheus' text form.
pub(crate) fn of_claims(node: &Node, used: &DiskUse) -> String {
    let mut told = BTreeMap::new();
    for pod in node.pods.store().list() {
        for volume in used.get(facts::uid(&pod)).iter().flat_map(|disk| &disk.volumes) {
            if let Some(claim) = &volume.claim {
                told.insert((facts::namespace(&pod).to_owned(), claim.clone()), volume.fill);
            }
        }
    }
    exposed(&told)
}

fn exposed(told: &BTreeMap<(String, String), Fill>) -> String {
    type Value = fn(&Fill) -> u64;
    let families: [(&str, &str, Value); 6] = [
        ("capacity_bytes", "Capacity in bytes of the volume", |fill| fill.capacity),
        ("available_bytes", "Number of available bytes in the volume", |fill| fill.available),
        ("used_bytes", "Number of used bytes in the volume", |fill| fill.used),
        ("inodes", "Maximum number of inodes in the volume", |fill| fill.inodes),
        ("inodes_free", "Number of free inodes in the volume", |fill| fill.inodes_free),
        ("inodes_used", "Number of used inodes in the volume", |fill| fill.inodes_used),
    ];
    let mut out = String::new();
    for (name, help, value) in families.into_iter().filter(|_| !told.is_empty()) {
        let name = format!("kubelet_volume_stats_{name}");
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} gauge");
        for ((namespace, claim), fill) in told {
            let value = value(fill);
            let _ = writeln!(out, "{name}{{namespace={namespace:?},persistentvolumeclaim={claim:?}}} {value}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_in_prometheus_form() {
        let fill = Fill { capacity: 10, available: 7, used: 3, ..Fill::default() };
        let told = exposed(&[(("n".to_owned(), "c".to_owned()), fill)].into());
        let line = "kubelet_volume_stats_available_bytes{namespace=\"n\",persistentvolumeclaim=\"c\"} 7";
        assert!(told.lines().any(|told| told == line), "{told}");
        assert_eq!((told.matches("# TYPE").count(), exposed(&BTreeMap::new())), (6, String::new()));
    }
}
