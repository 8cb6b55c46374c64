//! VolumeRestrictions: disks that one node at a time can mount, and claims that one pod at a time can use.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Volume;

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// The plugin.
pub struct VolumeRestrictions;

struct Wanted {
    pod: Arc<PodInfo>,
    /// Claims for one pod at a time, and how many other pods use them.
    exclusive: Vec<String>,
    users: i64,
    disks: bool,
}

fn volumes(pod: &PodInfo) -> impl Iterator<Item = &Volume> {
    pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

fn is_disk(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.rbd.is_some()
        || volume.iscsi.is_some()
}

/// Whether both cannot be mounted on one node.
fn collide(a: &Volume, b: &Volume) -> bool {
    let shared = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk) {
        return a.pd_name == b.pd_name && !shared(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi) {
        return a.iqn == b.iqn && !shared(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        let pool = |pool: &Option<String>| pool.clone().unwrap_or_else(|| "rbd".to_owned());
        return a.monitors.iter().any(|monitor| b.monitors.contains(monitor))
            && (pool(&a.pool), &a.image) == (pool(&b.pool), &b.image)
            && !shared(a.read_only, b.read_only);
    }
    false
}

fn disks_collide(pod: &PodInfo, other: &PodInfo) -> bool {
    volumes(pod).filter(|v| is_disk(v)).any(|volume| volumes(other).any(|taken| collide(volume, taken)))
}

fn claim_names(pod: &PodInfo) -> impl Iterator<Item = &str> {
    volumes(pod).filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let mut exclusive = Vec::new();
        for name in claim_names(pod) {
            let Some(claim) = cluster.objects.claim(pod.namespace(), name) else {
                return Begin::Refuse(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                exclusive.push(name.to_owned());
            }
        }
        let disks = volumes(pod).any(is_disk);
        let users = exclusive.iter().filter(|name| cluster.objects.users_of(pod.namespace(), name) > 0).count() as i64;
        if !disks && users == 0 {
            return Begin::Skip;
        }
        Begin::Go(Box::new(Wanted { pod: pod.clone(), exclusive, users, disks }))
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::PodGone, Kind::Claim, Kind::NodeAdded]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::Pod(Change { old: Some(gone), new: None }, _) => {
                gone.namespace() == pod.namespace()
                    && (disks_collide(pod, gone)
                        || claim_names(gone).any(|name| claim_names(pod).any(|own| own == name)))
            }
            Event::Claim(Change { old: None, new: Some(new) }) => {
                new.metadata.namespace.as_deref() == Some(pod.namespace())
                    && claim_names(pod).any(|name| new.metadata.name.as_deref() == Some(name))
            }
            Event::Node(Change { old: None, new: Some(_) }) => true,
            _ => false,
        }
    }
}

impl Cycle for Wanted {
    fn filter(&self, _cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if self.disks && node.pods.iter().any(|other| disks_collide(&self.pod, other)) {
            reasons.push(Reason::Text("node(s) had no available disk"));
            return Verdict::Unschedulable;
        }
        if self.users > 0 {
            reasons.push(Reason::Text(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                 another pod",
            ));
            return Verdict::Unschedulable;
        }
        Verdict::Fits
    }
    fn update(&mut self, _cluster: &Cluster, pod: &PodInfo, _node: &NodeInfo, sign: i64) {
        if pod.namespace() == self.pod.namespace() {
            self.users +=
                sign * claim_names(pod).filter(|name| self.exclusive.iter().any(|own| own == name)).count() as i64;
        }
    }
}
