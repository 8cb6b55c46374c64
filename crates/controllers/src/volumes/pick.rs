//! Which volume a claim gets: the smallest that is large enough, of those with the fewest ways of access. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource;
use skiff_client::Kind;
use skiff_meta::quantity::Quantity;

use super::facts::{claim_ref, class_of, class_of_volume, is_bound_to, phase};
use crate::shared::{selector, selects};

fn storage(quantities: Option<&BTreeMap<String, resource::Quantity>>) -> Option<Quantity> {
    quantities?.get("storage")?.0.parse().ok()
}

fn size(volume: &PersistentVolume) -> Option<Quantity> {
    storage(volume.spec.as_ref()?.capacity.as_ref())
}

fn modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

/// Whether the volume can be had as the claim wants it: large enough, of the right kind, in all ways of access.
fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), &'static str> {
    let wanted = claim.spec.clone().unwrap_or_default();
    let offered = volume.spec.clone().unwrap_or_default();
    let requested = storage(wanted.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    let filesystem = || "Filesystem".to_owned();
    if volume.deleting() {
        return Err("the volume is marked for deletion");
    }
    if requested.is_some_and(|requested| size(volume).is_none_or(|size| size < requested)) {
        return Err("requested PV is too small");
    }
    let attributes = |class: Option<String>| class.unwrap_or_default();
    if attributes(wanted.volume_attributes_class_name) != attributes(offered.volume_attributes_class_name) {
        return Err("volumeAttributesClassName does not match");
    }
    if wanted.volume_mode.unwrap_or_else(filesystem) != offered.volume_mode.unwrap_or_else(filesystem) {
        return Err("incompatible volumeMode");
    }
    if wanted.access_modes.iter().flatten().any(|mode| !modes(volume).contains(mode)) {
        return Err("incompatible accessMode");
    }
    Ok(())
}

/// Why the volume that a claim names cannot be bound to it.
pub(crate) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if let Err(why) = suits(volume, claim) {
        return Some(why);
    }
    (class_of_volume(volume) != class_of(claim).unwrap_or_default()).then_some("storageClassName does not match")
}

/// The volume for a claim that names none: one that names the claim, or else the best that is free, unless the class
/// `waits` for a consumer, when the scheduler chooses.
pub(crate) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    waits: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let fitting = || volumes.iter().filter(|volume| suits(volume, claim).is_ok());
    if let Some(bound) = fitting().find(|volume| is_bound_to(volume, claim)) {
        return Some(bound);
    }
    let wanted = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labelled = |volume: &PersistentVolume| {
        wanted.is_none_or(|wanted| selects(&selector(Some(wanted)), volume.metadata.labels.as_ref()))
    };
    let free = fitting().filter(|volume| {
        claim_ref(volume).is_none()
            && phase(volume) == "Available"
            && class_of_volume(volume) == class_of(claim).unwrap_or_default()
            && labelled(volume)
    });
    free.filter(|_| !waits).min_by(|a, b| (modes(a).len(), size(a)).cmp(&(modes(b).len(), size(b))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use skiff_meta::patch::merge_patch;

    fn volume(name: &str, size: &str, change: Value) -> Arc<PersistentVolume> {
        let value = json!({"metadata": {"name": name, "labels": {"tier": name}},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(merge_patch(&value, &change)).expect("a volume"))
    }

    fn claim(change: Value) -> PersistentVolumeClaim {
        let value = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}});
        serde_json::from_value(merge_patch(&value, &change)).expect("a claim")
    }

    #[test]
    fn the_smallest_that_fits() {
        let both = json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}});
        let named = json!({"spec": {"claimRef": {"name": "c", "namespace": "ns"}}});
        let volumes = [
            volume("small", "1Gi", json!({})),
            volume("huge", "100Gi", json!({})),
            volume("right", "6Gi", json!({})),
            volume("taken", "5Gi", json!({"spec": {"claimRef": {"name": "other", "namespace": "ns"}}})),
            volume("shared", "5Gi", both),
            volume("fast", "5Gi", json!({"spec": {"storageClassName": "fast"}})),
            volume("block", "5Gi", json!({"spec": {"volumeMode": "Block"}})),
            volume("used", "5Gi", json!({"status": {"phase": "Released"}})),
        ];
        let many = json!({"spec": {"accessModes": ["ReadWriteMany"]}});
        let table = [
            ("large enough", json!({}), Some("right")),
            ("by access", many, Some("shared")),
            ("by class", json!({"spec": {"storageClassName": "fast"}}), Some("fast")),
            ("by mode", json!({"spec": {"volumeMode": "Block"}}), Some("block")),
            ("by label", json!({"spec": {"selector": {"matchLabels": {"tier": "huge"}}}}), Some("huge")),
            ("too large", json!({"spec": {"resources": {"requests": {"storage": "1Ti"}}}}), None),
        ];
        for (name, change, expected) in table {
            let found = best(&claim(change), &volumes, false).map(|volume| volume.name());
            assert_eq!(found, expected, "{name}");
        }
        assert!(best(&claim(json!({})), &volumes, true).is_none(), "the scheduler chooses");
        let bound = [volumes.to_vec(), vec![volume("named", "50Gi", named)]].concat();
        let found = best(&claim(json!({})), &bound, true).map(|volume| volume.name());
        assert_eq!(found, Some("named"), "somebody has chosen");
    }
}
