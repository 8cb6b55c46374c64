//! NodeVolumeLimits: how many volumes of a CSI driver can be attached to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::volumes::{class_of, volume_of};
use crate::cluster::{Cluster, NodeInfo, Objects, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// The plugin.
pub struct NodeVolumeLimits;

/// Volumes by what makes them unique: driver and handle.
type Volumes = BTreeSet<(String, String)>;

struct Wanted(Volumes);

/// The CSI volumes of a pod; a claim without volume yet stands for one of its class's driver.
fn volumes(pod: &PodInfo, objects: &Objects) -> Volumes {
    let volume = |name: &String| {
        let claim = objects.claim(pod.namespace(), name)?;
        if let Some(volume) = objects.volume(volume_of(claim)) {
            let csi = volume.spec.as_ref()?.csi.as_ref()?;
            return Some((csi.driver.clone(), csi.volume_handle.clone()));
        }
        let class = objects.class(class_of(claim))?;
        Some((class.provisioner.clone(), format!("claim {}/{name}", pod.namespace())))
    };
    pod.claims.iter().filter_map(volume).collect()
}

fn limits(objects: &Objects, node: &str) -> BTreeMap<String, i64> {
    let drivers = objects.csi_node(node).into_iter().flat_map(|csi| &csi.spec.drivers);
    drivers.filter_map(|d| Some((d.name.clone(), i64::from(d.allocatable.as_ref()?.count?)))).collect()
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let wanted = volumes(pod, &cluster.objects);
        if wanted.is_empty() { Begin::Skip } else { Begin::Go(Box::new(Wanted(wanted))) }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::PodGone, Kind::Claim, Kind::NodeAdded, Kind::CsiNode, Kind::Attachment]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::Pod(Change { old: Some(gone), new: None }, _) => !gone.claims.is_empty(),
            Event::Claim(Change { old: None, new: Some(new) }) => {
                new.metadata.name.as_ref().is_some_and(|name| pod.claims.contains(name))
            }
            Event::Node(Change { old: None, new: Some(_) }) | Event::CsiNode(_) => true,
            Event::Attachment(Change { new: None, .. }) => true,
            _ => false,
        }
    }
}

impl Wanted {
    /// The driver that would have too many, with (attached, new, limit).
    fn over(&self, objects: &Objects, node: &NodeInfo) -> Option<(String, usize, usize, i64)> {
        let limits = limits(objects, &node.name);
        if limits.is_empty() {
            return None;
        }
        let mut attached: Volumes = node.pods.iter().flat_map(|pod| volumes(pod, objects)).collect();
        let there = objects.attachments.values().filter(|a| a.spec.node_name == node.name);
        attached.extend(there.filter_map(|attachment| {
            let volume = objects.volume(attachment.spec.source.persistent_volume_name.as_deref()?)?;
            let csi = volume.spec.as_ref()?.csi.as_ref()?;
            Some((attachment.spec.attacher.clone(), csi.volume_handle.clone()))
        }));
        limits.into_iter().find_map(|(driver, limit)| {
            let of =
                |volumes: &mut dyn Iterator<Item = &(String, String)>| volumes.filter(|(d, _)| *d == driver).count();
            let (had, more) = (of(&mut attached.iter()), of(&mut self.0.difference(&attached)));
            (more > 0 && (had + more) as i64 > limit).then_some((driver, had, more, limit))
        })
    }
}

impl Cycle for Wanted {
    fn filter(&self, cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if self.over(&cluster.objects, node).is_none() {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("node(s) exceed max volume count"));
        Verdict::Unschedulable
    }
    fn explain(&self, cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        let (driver, had, more, limit) = self.over(&cluster.objects, node)?;
        Some(format!("{driver}: {had} of {limit} volumes attached, {more} more wanted"))
    }
}
