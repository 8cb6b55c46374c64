//! What a claim, and what a volume needs next. Pure.
//!
//! Binding takes four writes: the volume names the claim, says that it is bound, the claim names the volume, says that
//! it is bound. Each look yields the next of them, so that a controller that ends in between goes on where it was, and a
//! volume that two claims want goes to the one whose write the server takes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_client::Kind;

use super::facts::{self, BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, is_bound_to};
use super::pick;

/// The one next write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    Volume(PersistentVolume),
    VolumeStatus(PersistentVolume),
    Claim(PersistentVolumeClaim),
    ClaimStatus(PersistentVolumeClaim),
}

/// A happening worth an event: reason, message, and whether it is a warning.
pub(crate) type Told = (&'static str, String, bool);

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) write: Option<Write>,
    pub(crate) event: Option<Told>,
}

impl Plan {
    fn write(write: Option<Write>) -> Self {
        Self { write, event: None }
    }
    fn and_tell(self, reason: &'static str, message: impl Into<String>, warning: bool) -> Self {
        Self { event: Some((reason, message.into(), warning)), ..self }
    }
}

/// What is known of one claim.
pub(crate) struct ClaimSnapshot<'a> {
    pub(crate) claim: &'a PersistentVolumeClaim,
    /// All volumes.
    pub(crate) volumes: &'a [Arc<PersistentVolume>],
    /// The class it names.
    pub(crate) class: Option<&'a StorageClass>,
    /// The class for claims that name none.
    pub(crate) default_class: Option<&'a str>,
}

/// The plan for a claim.
pub(crate) fn claim(snapshot: &ClaimSnapshot<'_>) -> Plan {
    let claim = snapshot.claim;
    let named = facts::volume_name(claim).map(|name| snapshot.volumes.iter().find(|volume| volume.name() == name));
    if facts::annotation(claim, BIND_COMPLETED).is_some() {
        return bound(claim, named.flatten());
    }
    match named {
        None => unbound(snapshot),
        Some(None) => Plan::write(set_phase(claim, "Pending", None)),
        Some(Some(volume)) => wanted(claim, volume),
    }
}

/// A claim that was bound must have its volume still.
fn bound(claim: &PersistentVolumeClaim, volume: Option<&Arc<PersistentVolume>>) -> Plan {
    let lost = |reason, message: &str| {
        let plan = Plan::write(set_phase(claim, "Lost", None));
        if plan.write.is_some() { plan.and_tell(reason, message, true) } else { plan }
    };
    let Some(volume) = volume else {
        let what =
            if facts::volume_name(claim).is_none() { "reference to PersistentVolume" } else { "PersistentVolume" };
        let message = format!("Bound claim has lost its {what}. Data on the volume is lost!");
        return lost("ClaimLost", &message);
    };
    match facts::claim_ref(volume) {
        Some(reference) if reference.uid.as_deref() != Some(claim.uid()) => {
            lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
        }
        _ => Plan::write(bind(claim, volume)),
    }
}

/// A claim that names the volume it wants.
fn wanted(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let name = volume.name();
    let pending = || Plan::write(set_phase(claim, "Pending", None));
    match facts::claim_ref(volume) {
        None => match pick::mismatch(volume, claim) {
            None => Plan::write(bind(claim, volume)),
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{name}\": {why}");
                pending().and_tell("VolumeMismatch", message, true)
            }
        },
        Some(_) if is_bound_to(volume, claim) => Plan::write(bind(claim, volume)),
        Some(_) => {
            let message = format!("volume \"{name}\" already bound to a different claim.");
            pending().and_tell("FailedBinding", message, true)
        }
    }
}

/// A claim that takes any volume that fits: one that is there, or one to be made.
fn unbound(snapshot: &ClaimSnapshot<'_>) -> Plan {
    let claim = snapshot.claim;
    let waits = snapshot.class.is_some_and(facts::waits_for_consumer);
    if let Some(volume) = pick::best(claim, snapshot.volumes, waits) {
        return Plan::write(bind(claim, volume));
    }
    if let Some(default) = snapshot.default_class.filter(|_| facts::class_of(claim).is_none()) {
        let mut updated = claim.clone();
        updated.spec.get_or_insert_default().storage_class_name = Some(default.to_owned());
        return Plan::write(Some(Write::Claim(updated)));
    }
    let pending = Plan::write(set_phase(claim, "Pending", None));
    if waits && facts::annotation(claim, SELECTED_NODE).is_none() {
        let message = "waiting for first consumer to be created before binding";
        return pending.and_tell("WaitForFirstConsumer", message, false);
    }
    match (facts::class_of(claim).unwrap_or_default(), snapshot.class) {
        ("", _) => {
            let message = "no persistent volumes available for this claim and no storage class is set";
            pending.and_tell("FailedBinding", message, false)
        }
        (name, None) => {
            let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
            pending.and_tell("ProvisioningFailed", message, true)
        }
        (_, Some(class)) => provision(claim, class, pending),
    }
}

/// Asks the class' provisioner for a volume.
fn provision(claim: &PersistentVolumeClaim, class: &StorageClass, pending: Plan) -> Plan {
    let provisioner = &class.provisioner;
    if provisioner.starts_with("kubernetes.io/") {
        let message = format!("no volume plugin matched name: {provisioner}");
        return pending.and_tell("ProvisioningFailed", message, true);
    }
    let mut updated = claim.clone();
    let annotations = updated.metadata.annotations.get_or_insert_default();
    for key in facts::PROVISIONER {
        annotations.insert(key.to_owned(), provisioner.clone());
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    let plan = if updated == *claim { pending } else { Plan::write(Some(Write::Claim(updated))) };
    plan.and_tell("ExternalProvisioning", message, false)
}

/// The next write that binds the two; `None`: they are bound.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Write> {
    let wanted = volume_for(claim, volume);
    if wanted != *volume {
        return Some(Write::Volume(wanted));
    }
    if let Some(write) = set_volume_phase(volume, "Bound") {
        return Some(write);
    }
    let mut updated = claim.clone();
    let annotations = updated.metadata.annotations.get_or_insert_default();
    if facts::volume_name(claim) != Some(volume.name()) {
        annotations.entry(BOUND_BY_CONTROLLER.to_owned()).or_insert_with(|| "yes".to_owned());
    }
    annotations.entry(BIND_COMPLETED.to_owned()).or_insert_with(|| "yes".to_owned());
    updated.spec.get_or_insert_default().volume_name = volume.metadata.name.clone();
    if updated != *claim {
        return Some(Write::Claim(updated));
    }
    set_phase(claim, "Bound", Some(volume))
}

/// The volume as it names the claim.
fn volume_for(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolume {
    let mut updated = volume.clone();
    if facts::claim_ref(volume).and_then(|reference| reference.uid.as_deref()) == Some(claim.uid()) {
        return updated;
    }
    if !is_bound_to(volume, claim) {
        let annotations = updated.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    updated.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    });
    updated
}

fn set_volume_phase(volume: &PersistentVolume, phase: &str) -> Option<Write> {
    if facts::phase(volume) == phase {
        return None;
    }
    let mut updated = volume.clone();
    let status = updated.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    (status.message, status.reason) = (None, None);
    Some(Write::VolumeStatus(updated))
}

fn set_phase(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> Option<Write> {
    let mut updated = claim.clone();
    let status: &mut PersistentVolumeClaimStatus = updated.status.get_or_insert_default();
    let changes = status.phase.as_deref() != Some(phase);
    status.phase = Some(phase.to_owned());
    match volume.and_then(|volume| volume.spec.as_ref()) {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some(spec) => {
            status.access_modes.clone_from(&spec.access_modes);
            // Later on a resizer decides about it.
            if changes {
                status.capacity.clone_from(&spec.capacity);
                status.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
            }
        }
    }
    (claim.status.clone().unwrap_or_default() != *status).then_some(())?;
    Some(Write::ClaimStatus(updated))
}

/// The plan for a volume; `claim` is the one that its reference names, where it is there and the same.
pub(crate) fn volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let Some(reference) = facts::claim_ref(volume) else { return Plan::write(set_volume_phase(volume, "Available")) };
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return Plan::write(set_volume_phase(volume, "Available"));
    }
    let Some(claim) = claim else { return released(volume) };
    match facts::volume_name(claim) {
        // The claim has the next word.
        None => Plan::default(),
        Some(name) if name == volume.name() => Plan::write(set_volume_phase(volume, "Bound")),
        // The claim took another one: this one is free again, or was made for nothing.
        Some(_) if facts::annotation(volume, facts::PROVISIONED_BY).is_some() && facts::reclaim(volume) == "Delete" => {
            released(volume)
        }
        Some(_) => Plan::write(Some(Write::Volume(freed(volume)))),
    }
}

fn freed(volume: &PersistentVolume) -> PersistentVolume {
    let mut updated = volume.clone();
    let by_us = updated.metadata.annotations.as_mut().and_then(|all| all.remove(BOUND_BY_CONTROLLER)).is_some();
    updated.metadata.annotations = updated.metadata.annotations.take().filter(|all| !all.is_empty());
    if let Some(spec) = &mut updated.spec {
        match &mut spec.claim_ref {
            Some(reference) if !by_us => reference.uid = None,
            reference => *reference = None,
        }
    }
    updated
}

/// The claim of this volume is gone. What becomes of its data is up to whoever made it.
fn released(volume: &PersistentVolume) -> Plan {
    if !matches!(facts::phase(volume), "Released" | "Failed") {
        return Plan::write(set_volume_phase(volume, "Released"));
    }
    let made_elsewhere = facts::annotation(volume, facts::PROVISIONED_BY).is_some()
        || volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some());
    let nobody = match facts::reclaim(volume) {
        "Delete" if !made_elsewhere => ("VolumeFailedDelete", "no deletable volume plugin matched"),
        "Recycle" => ("VolumeFailedRecycle", "no recyclable volume plugin matched"),
        _ => return Plan::default(),
    };
    if facts::phase(volume) == "Failed" {
        return Plan::default();
    }
    let mut updated = volume.clone();
    let status = updated.status.get_or_insert_default();
    status.phase = Some("Failed".to_owned());
    status.message = Some(nobody.1.to_owned());
    Plan::write(Some(Write::VolumeStatus(updated))).and_tell(nobody.0, nobody.1, true)
}

#[cfg(test)]
mod tests;
