//! VolumeBinding: bound volumes must reach the node; claims that wait for their first consumer get a volume there, one
//! that exists or one that will be provisioned.
//!
//! What is found for the chosen node is promised at once (see [`plan`] and `Objects::assumed`), written before the pod
//! is bound, and waited for.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use skiff_api::labels;
use skiff_meta::Quantity;

use super::volumes::{class_of, is_bound, preference, provisions, reaches, selected_node, suits, volume_of, wanted};
use crate::cluster::{Cluster, NodeInfo, Objects, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const NODE_CONFLICT: Reason = Reason::Text("node(s) didn't match PersistentVolume's node affinity");
const BIND_CONFLICT: Reason = Reason::Text("node(s) didn't find available persistent volumes to bind");
const NO_SPACE: Reason = Reason::Text("node(s) did not have enough free storage");
const NO_VOLUME: Reason = Reason::Text("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");

/// The plugin.
pub struct VolumeBinding;

type Claim = Arc<PersistentVolumeClaim>;

/// A pod's claims.
struct Claims {
    bound: Vec<Claim>,
    /// To be bound once a node is chosen, the smallest first.
    delayed: Vec<Claim>,
}

/// What has to be written for a pod's volumes on its node.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Volumes to promise, with the claims they are for.
    pub promises: Vec<(String, Claim)>,
    /// Claims to have provisioned.
    pub provisions: Vec<Claim>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.promises.is_empty() && self.provisions.is_empty()
    }

    /// All claims that must be bound before the pod can be.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.promises.iter().map(|(_, claim)| claim).chain(&self.provisions)
    }
}

fn key(claim: &PersistentVolumeClaim) -> (String, String) {
    (claim.metadata.namespace.clone().unwrap_or_default(), claim.metadata.name.clone().unwrap_or_default())
}

fn claims(pod: &PodInfo, objects: &Objects) -> Result<Claims, String> {
    let (mut bound, mut delayed, mut immediate) = (Vec::new(), Vec::new(), false);
    for volume in pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => claim.claim_name.clone(),
            (None, Some(_)) => format!("{}-{}", pod.name(), volume.name),
            (None, None) => continue,
        };
        let ephemeral = volume.ephemeral.is_some();
        let Some(claim) = objects.claim(pod.namespace(), &name) else {
            return Err(match ephemeral {
                true => {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                }
                false => format!("persistentvolumeclaim \"{name}\" not found"),
            });
        };
        let (volume, phase) = (volume_of(claim), claim.status.as_ref().and_then(|status| status.phase.as_deref()));
        if phase == Some("Lost") {
            return Err(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
            ));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        let mut owners = claim.metadata.owner_references.iter().flatten();
        if ephemeral && !owners.any(|owner| owner.controller == Some(true) && owner.uid == pod.uid) {
            let (namespace, pod) = (pod.namespace(), &pod.key);
            return Err(format!("PVC {namespace}/{name} was not created for pod {pod} (pod is not owner)"));
        }
        let class = objects.class(class_of(claim)).and_then(|class| class.volume_binding_mode.as_deref());
        if is_bound(claim) {
            bound.push(claim.clone());
        } else if class == Some("WaitForFirstConsumer") && volume.is_empty() {
            delayed.push(claim.clone());
        } else {
            immediate = true;
        }
    }
    if immediate {
        return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
    }
    delayed.sort_by_key(|claim| wanted(claim));
    Ok(Claims { bound, delayed })
}

/// What has to be written for the pod's volumes on this node.
///
/// # Errors
/// What does not fit, when something has changed since the node was found to fit.
pub fn plan(pod: &PodInfo, objects: &Objects, node: &NodeInfo) -> Result<Plan, String> {
    if pod.claims.is_empty() {
        return Ok(Plan::default());
    }
    let mut reasons = Vec::new();
    let plan = claims(pod, objects)?.on(objects, node, &mut reasons);
    plan.ok_or_else(|| reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

impl Claims {
    fn on(&self, objects: &Objects, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Option<Plan> {
        for claim in &self.bound {
            match objects.volume(volume_of(claim)) {
                None => reasons.push(NO_VOLUME),
                Some(volume) if !reaches(volume, node.view()) => reasons.push(NODE_CONFLICT),
                Some(_) => continue,
            }
            break;
        }
        let plan = self.delayed_on(objects, node, reasons);
        reasons.is_empty().then_some(plan)
    }

    fn delayed_on(&self, objects: &Objects, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Plan {
        let mut plan = Plan::default();
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        for claim in &self.delayed {
            let assumed = objects.assumed.claims.get(&key(claim)).map(String::as_str);
            if let Some(selected) = selected_node(claim).or(assumed) {
                if selected != node.name {
                    reasons.push(BIND_CONFLICT);
                    return plan;
                }
                plan.provisions.push(claim.clone());
                continue;
            }
            let free = objects.volumes.iter().filter(|((_, name), volume)| {
                let promised = objects.assumed.volumes.get(name);
                !taken.contains(name.as_str())
                    && promised.is_none_or(|to| *to == key(claim))
                    && suits(volume, claim)
                    && reaches(volume, node.view())
            });
            match free.min_by_key(|(_, volume)| preference(volume)) {
                Some(((_, name), _)) => {
                    taken.insert(name);
                    plan.promises.push((name.clone(), claim.clone()));
                }
                None => plan.provisions.push(claim.clone()),
            }
        }
        for claim in &plan.provisions {
            let Some(class) = objects.class(class_of(claim)) else {
                reasons.push(BIND_CONFLICT);
                break;
            };
            if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !provisions(class, node.labels())
            {
                reasons.push(BIND_CONFLICT);
                break;
            }
            if !has_room(objects, &class.provisioner, claim, node) {
                reasons.push(NO_SPACE);
                break;
            }
        }
        plan
    }
}

/// Whether the driver has said that there is room, where it says such things.
fn has_room(objects: &Objects, driver: &str, claim: &PersistentVolumeClaim, node: &NodeInfo) -> bool {
    let tells = objects.csi_driver(driver).is_some_and(|driver| driver.spec.storage_capacity == Some(true));
    let Some(size) = wanted(claim).filter(|_| tells) else { return true };
    objects.capacities.values().any(|capacity| {
        let limit = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
        let limit = limit.map(|text| text.0.parse::<Quantity>().unwrap_or_default().value());
        capacity.storage_class_name == class_of(claim)
            && limit.is_some_and(|limit| limit >= size)
            && labels::matches(capacity.node_topology.as_ref(), node.labels())
    })
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        if pod.claims.is_empty() {
            return Begin::Skip;
        }
        match claims(pod, &cluster.objects) {
            Ok(claims) => Begin::Go(Box::new(claims)),
            Err(why) => Begin::Refuse(why),
        }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::Claim, Kind::Volume, Kind::Class, Kind::NodeAdded, Kind::NodeChanged, Kind::Capacity, Kind::CsiDriver]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::Claim(Change { new: Some(new), .. }) => {
                new.metadata.namespace.as_deref() == Some(pod.namespace())
                    && new.metadata.name.as_ref().is_some_and(|name| pod.claims.contains(name))
            }
            Event::Volume(Change { new: Some(_), .. }) => true,
            Event::Class(Change { old, new: Some(new) }) => {
                old.is_none_or(|old| old.allowed_topologies != new.allowed_topologies)
            }
            Event::Node(Change { old, new: Some(new) }) => {
                old.is_none_or(|old| old.metadata.labels != new.metadata.labels)
            }
            Event::Capacity(Change { new: Some(_), .. }) => true,
            Event::CsiDriver(Change { old: Some(old), new: Some(new) }) => {
                old.spec.storage_capacity == Some(true) && new.spec.storage_capacity != Some(true)
            }
            _ => false,
        }
    }
}

impl Cycle for Claims {
    fn filter(&self, cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        match self.on(&cluster.objects, node, reasons) {
            Some(_) => Verdict::Fits,
            None => Verdict::Unresolvable,
        }
    }
}
