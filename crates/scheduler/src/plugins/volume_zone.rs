//! VolumeZone: a volume with the label of a zone or region is used there.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;

use super::volumes::class_of;
use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// Labels of zones and regions: old ones, and what they are called today.
const LABELS: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// The plugin.
pub struct VolumeZone;

/// A label, its name today, and the values that will do.
struct Place {
    label: &'static str,
    today: &'static str,
    values: Vec<String>,
}

struct Places(Vec<Place>);

fn places(volume: &PersistentVolume) -> impl Iterator<Item = Place> {
    LABELS.iter().filter_map(|(label, today)| {
        let value = volume.metadata.labels.as_ref()?.get(*label)?;
        // Volumes replicated over several zones name them all.
        Some(Place { label, today, values: value.split("__").map(str::to_owned).collect() })
    })
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let mut found = Vec::new();
        let volumes = pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref()) {
            let name = &volume.claim_name;
            let Some(claim) = cluster.objects.claim(pod.namespace(), name) else {
                return Begin::Refuse(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            if bound.is_empty() {
                let class = class_of(claim);
                if class.is_empty() {
                    return Begin::Refuse("PersistentVolumeClaim had no pv name and storageClass name".to_owned());
                }
                match cluster.objects.class(class).map(|class| class.volume_binding_mode.as_deref()) {
                    None => return Begin::Refuse(format!("storageclass.storage.k8s.io \"{class}\" not found")),
                    Some(Some("WaitForFirstConsumer")) => continue,
                    Some(_) => return Begin::Refuse("PersistentVolume had no name".to_owned()),
                }
            }
            let Some(volume) = cluster.objects.volume(bound) else {
                return Begin::Refuse(format!("persistentvolume \"{bound}\" not found"));
            };
            found.extend(places(volume));
        }
        if found.is_empty() { Begin::Skip } else { Begin::Go(Box::new(Places(found))) }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::Claim, Kind::Volume, Kind::Class, Kind::NodeAdded, Kind::NodeChanged]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::Claim(Change { new: Some(new), .. }) => {
                new.metadata.namespace.as_deref() == Some(pod.namespace())
                    && new.metadata.name.as_ref().is_some_and(|name| pod.claims.contains(name))
            }
            Event::Volume(Change { old, new: Some(new) }) => {
                old.is_none_or(|old| old.metadata.labels != new.metadata.labels)
            }
            Event::Class(Change { old: None, .. }) => true,
            Event::Node(Change { old, new: Some(new) }) => {
                old.is_none_or(|old| old.metadata.labels != new.metadata.labels)
            }
            _ => false,
        }
    }
}

impl Cycle for Places {
    fn filter(&self, _cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        let labels = node.labels();
        // A cluster without zones has one, so to speak.
        if !LABELS.iter().any(|(label, _)| labels.contains_key(*label)) {
            return Verdict::Fits;
        }
        let there = |place: &Place| {
            labels
                .get(place.label)
                .or_else(|| labels.get(place.today))
                .is_some_and(|value| place.values.contains(value))
        };
        if self.0.iter().all(there) {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("node(s) had no available volume zone"));
        Verdict::Unresolvable
    }
    fn explain(&self, _cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        let place =
            self.0.iter().find(|place| !place.values.iter().any(|v| node.labels().get(place.today) == Some(v)))?;
        Some(format!("a volume is in {}={}", place.label, place.values.join(" or ")))
    }
}
