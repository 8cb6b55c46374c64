use super::*;
use serde_json::{Value, json};
use skiff_meta::patch::merge_patch;

fn volume_of(change: Value) -> PersistentVolume {
    let value = json!({"metadata": {"name": "v", "uid": "v"}, "spec": {"capacity": {"storage": "5Gi"},
        "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain"}, "status": {"phase": "Available"}});
    serde_json::from_value(merge_patch(&value, &change)).expect("a volume")
}

fn claim_of(change: Value) -> PersistentVolumeClaim {
    let value = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}},
        "status": {"phase": "Pending"}});
    serde_json::from_value(merge_patch(&value, &change)).expect("a claim")
}

fn planned(claim: &PersistentVolumeClaim, volumes: &[PersistentVolume], class: Option<&StorageClass>) -> Plan {
    let volumes: Vec<_> = volumes.iter().cloned().map(Arc::new).collect();
    super::claim(&ClaimSnapshot { claim, volumes: &volumes, class, default_class: None })
}

fn class(change: Value) -> StorageClass {
    let value = json!({"metadata": {"name": "fast"}, "provisioner": "disks.example.com"});
    serde_json::from_value(merge_patch(&value, &change)).expect("a class")
}

/// `KIND.phase` of the write, with the reason of the event.
fn told(plan: &Plan) -> (String, &'static str) {
    let claim_phase = |claim: &PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()
    };
    let write = match &plan.write {
        None => String::new(),
        Some(Write::Volume(_)) => "volume".to_owned(),
        Some(Write::VolumeStatus(volume)) => format!("volume.{}", facts::phase(volume)),
        Some(Write::Claim(_)) => "claim".to_owned(),
        Some(Write::ClaimStatus(claim)) => format!("claim.{}", claim_phase(claim)),
    };
    (write, plan.event.as_ref().map_or("", |(reason, ..)| reason))
}

#[test]
fn four_writes_bind_and_then_none() {
    let (mut volume, mut claim) = (volume_of(json!({})), claim_of(json!({})));
    let mut writes = Vec::new();
    loop {
        let plan = planned(&claim, std::slice::from_ref(&volume), None);
        writes.push(told(&plan).0);
        match plan.write {
            None => break,
            Some(Write::Volume(new) | Write::VolumeStatus(new)) => volume = new,
            Some(Write::Claim(new) | Write::ClaimStatus(new)) => claim = new,
        }
    }
    assert_eq!(writes, ["volume", "volume.Bound", "claim", "claim.Bound", ""]);
    assert_eq!((facts::volume_name(&claim), is_bound_to(&volume, &claim)), (Some("v"), true));
    assert_eq!(facts::annotation(&volume, BOUND_BY_CONTROLLER), Some("yes"));
    let status = claim.status.clone().unwrap_or_default();
    assert_eq!(status.capacity.map(|capacity| capacity["storage"].0.clone()).as_deref(), Some("5Gi"));
    assert_eq!(super::volume(&volume, Some(&claim)), Plan::default());
    // Afterwards the loss of the volume is a loss of data.
    assert_eq!(told(&planned(&claim, &[], None)), ("claim.Lost".to_owned(), "ClaimLost"));
    let other = volume_of(json!({"spec": {"claimRef": {"name": "c", "namespace": "ns", "uid": "another"}}}));
    assert_eq!(told(&planned(&claim, &[other], None)), ("claim.Lost".to_owned(), "ClaimMisbound"));
}

#[test]
fn claims_wait_for_what_they_need() {
    let fast = json!({"spec": {"storageClassName": "fast"}});
    let late = class(json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    let placed = merge_patch(&fast, &json!({"metadata": {"annotations": {SELECTED_NODE: "n"}}}));
    let named = json!({"spec": {"volumeName": "v"}});
    let elsewhere = json!({"spec": {"claimRef": {"name": "other", "namespace": "ns", "uid": "other"}}});
    let small = json!({"spec": {"capacity": {"storage": "1Gi"}}});
    let none = class(json!({"provisioner": "kubernetes.io/no-provisioner"}));
    let now = class(json!({}));
    let table = [
        ("nothing there", json!({}), vec![], None, "", "FailedBinding"),
        ("class unknown", fast.clone(), vec![], None, "", "ProvisioningFailed"),
        ("to be made", fast.clone(), vec![], Some(&now), "claim", "ExternalProvisioning"),
        ("made by hand", fast.clone(), vec![], Some(&none), "", "ProvisioningFailed"),
        ("later", fast, vec![volume_of(json!({}))], Some(&late), "", "WaitForFirstConsumer"),
        ("now", placed, vec![], Some(&late), "claim", "ExternalProvisioning"),
        ("named, not there", named.clone(), vec![], None, "", ""),
        ("named, taken", named.clone(), vec![volume_of(elsewhere)], None, "", "FailedBinding"),
        ("named, too small", named, vec![volume_of(small)], None, "", "VolumeMismatch"),
    ];
    for (name, change, volumes, class, write, reason) in table {
        assert_eq!(told(&planned(&claim_of(change), &volumes, class)), (write.to_owned(), reason), "{name}");
    }
    let asked = planned(&claim_of(json!({"spec": {"storageClassName": "fast"}})), &[], Some(&now));
    let Some(Write::Claim(asked)) = asked.write else { panic!("{asked:?}") };
    assert_eq!(facts::annotation(&asked, facts::PROVISIONER[1]), Some("disks.example.com"));
    assert_eq!(told(&planned(&asked, &[], Some(&now))).0, "", "asked once");
}

#[test]
fn the_default_class_comes_late_too() {
    let claim = claim_of(json!({}));
    let snapshot = ClaimSnapshot { claim: &claim, volumes: &[], class: None, default_class: Some("fast") };
    let Some(Write::Claim(updated)) = super::claim(&snapshot).write else { panic!("a claim") };
    assert_eq!(facts::class_of(&updated), Some("fast"));
    let none = claim_of(json!({"spec": {"storageClassName": ""}}));
    assert_eq!(told(&super::claim(&ClaimSnapshot { claim: &none, ..snapshot })).1, "FailedBinding");
}

#[test]
fn volumes_outlive_their_claims_as_told() {
    let reference = json!({"name": "c", "namespace": "ns", "uid": "c"});
    let bound = |change: Value| {
        volume_of(merge_patch(&json!({"spec": {"claimRef": reference}, "status": {"phase": "Bound"}}), &change))
    };
    let ours = json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}});
    let released = |policy: &str| {
        bound(json!({"spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": "Released"}}))
    };
    let made = json!({"metadata": {"annotations": {facts::PROVISIONED_BY: "disks.example.com"}}});
    let other = claim_of(json!({"spec": {"volumeName": "w"}}));
    let table = [
        ("new", volume_of(json!({"status": {"phase": "Pending"}})), None, "volume.Available", ""),
        (
            "named before",
            volume_of(json!({"spec": {"claimRef": {"name": "c"}}, "status": null})),
            None,
            "volume.Available",
            "",
        ),
        ("claim gone", bound(json!({})), None, "volume.Released", ""),
        ("kept", released("Retain"), None, "", ""),
        ("nobody deletes it", released("Delete"), None, "volume.Failed", "VolumeFailedDelete"),
        ("claim took another", bound(ours), Some(&other), "volume", ""),
        (
            "made for nothing",
            bound(merge_patch(&made, &json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}))),
            Some(&other),
            "volume.Released",
            "",
        ),
    ];
    for (name, volume, claim, write, reason) in table {
        assert_eq!(told(&super::volume(&volume, claim)), (write.to_owned(), reason), "{name}");
    }
}
