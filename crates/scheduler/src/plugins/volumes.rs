//! Claims and volumes: what several plugins ask of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_api::affinity::{self, NodeView};
use skiff_api::labels;
use skiff_meta::Quantity;

/// The annotation that asks a provisioner for a volume on a node.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class a claim asks for.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let beta = claim.metadata.annotations.as_ref().and_then(|all| all.get(BETA_CLASS));
    let class = || claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    beta.or_else(class).map(String::as_str).unwrap_or_default()
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let beta = volume.metadata.annotations.as_ref().and_then(|all| all.get(BETA_CLASS));
    let class = || volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    beta.or_else(class).map(String::as_str).unwrap_or_default()
}

/// The volume a claim is bound to, as far as either side has said so.
pub fn volume_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// Whether both sides have said so.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let completed = claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BIND_COMPLETED));
    !volume_of(claim).is_empty() && completed
}

/// The node a claim's volume is asked for on.
pub fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.metadata.annotations.as_ref()?.get(SELECTED_NODE).map(String::as_str)
}

/// What a claim asks for, in bytes.
pub fn wanted(claim: &PersistentVolumeClaim) -> Option<i64> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    Some(requests.get("storage")?.0.parse::<Quantity>().unwrap_or_default().value())
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage").cloned());
    capacity.map_or(0, |text| text.0.parse::<Quantity>().unwrap_or_default().value())
}

/// Whether a volume can be used on a node.
pub fn reaches(volume: &PersistentVolume, node: NodeView<'_>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    affinity.and_then(|a| a.required.as_ref()).is_none_or(|selector| affinity::selects(selector, node))
}

/// Whether a class provisions volumes for nodes with these labels.
pub fn provisions(class: &StorageClass, labels: &BTreeMap<String, String>) -> bool {
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let fulfilled = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
        let mut all = term.match_label_expressions.iter().flatten();
        all.all(|e| labels.get(&e.key).is_some_and(|value| e.values.contains(value)))
    };
    topologies.is_empty() || topologies.iter().any(fulfilled)
}

/// Whether a volume could be bound to a claim: promised to it, or free and fit for it.
pub fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(asks)) = (&volume.spec, &claim.spec) else { return false };
    let filesystem = || "Filesystem".to_owned();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(filesystem);
    let modes = asks.access_modes.iter().flatten();
    let has_modes = has.access_modes.as_deref().unwrap_or_default();
    if volume.metadata.deletion_timestamp.is_some()
        || mode(&has.volume_mode) != mode(&asks.volume_mode)
        || capacity(volume) < wanted(claim).unwrap_or(0)
        || !modes.into_iter().all(|wanted| has_modes.contains(wanted))
    {
        return false;
    }
    match &has.claim_ref {
        Some(promised) => {
            promised.namespace == claim.metadata.namespace
                && promised.name == claim.metadata.name
                && promised
                    .uid
                    .as_deref()
                    .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
        }
        None => {
            let empty = BTreeMap::new();
            let own = volume.metadata.labels.as_ref().unwrap_or(&empty);
            volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available")
                && class_of_volume(volume) == class_of(claim)
                && has.volume_attributes_class_name.as_deref().unwrap_or_default()
                    == asks.volume_attributes_class_name.as_deref().unwrap_or_default()
                && asks.selector.as_ref().is_none_or(|selector| labels::matches(Some(selector), own))
        }
    }
}

/// How good a match a volume is: promised ones first, then the smallest.
pub fn preference(volume: &PersistentVolume) -> (bool, i64) {
    (volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none()), capacity(volume))
}
