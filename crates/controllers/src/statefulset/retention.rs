//! Whose a claim of a StatefulSet is, and with whom it therefore goes: nobody's, the set's, or its pod's. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use skiff_client::Kind;

use super::identity;
use crate::shared::controller_ref;

/// Whether claims go with the set, and with pods that are scaled away.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let when =
        |pick: fn(&k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy) -> Option<&String>| {
            deletes(policy.and_then(pick))
        };
    (when(|policy| policy.when_deleted.as_ref()), when(|policy| policy.when_scaled.as_ref()))
}

fn names(reference: &OwnerReference, kind: &str, name: &str) -> bool {
    reference.kind == kind && reference.name == name
}

/// The owners that a claim of `pod` is to have; `None`: those it has.
pub(crate) fn owners(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Option<Vec<OwnerReference>> {
    let known = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let of_set = |reference: &OwnerReference| names(reference, "StatefulSet", set.name());
    let of_pod = |reference: &OwnerReference| names(reference, "Pod", pod.name());
    // A reference to an earlier set or pod of the same name is about to take the claim along: not ours to undo.
    let stale = known.iter().any(|r| (of_set(r) && r.uid != set.uid()) || (of_pod(r) && r.uid != pod.uid()));
    let (with_set, with_pod) = policy(set);
    if stale {
        return None;
    }
    let mut owners: Vec<OwnerReference> = known.iter().filter(|r| !of_set(r) && !of_pod(r)).cloned().collect();
    let foreign = owners.iter().any(|reference| reference.controller == Some(true));
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let first = identity::start(set);
    let stays = identity::ordinal(set, pod).is_some_and(|ordinal| (first..first + replicas).contains(&ordinal));
    if !foreign && with_pod && !stays {
        owners.push(controller_ref(pod));
    } else if !foreign && with_set {
        owners.push(controller_ref(set));
    }
    (owners != known).then_some(owners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        let policy = json!({"whenDeleted": deleted, "whenScaled": scaled});
        serde_json::from_value(json!({"metadata": {"name": "db", "uid": "s"}, "spec": {"replicas": 2, "selector": {},
            "template": {}, "persistentVolumeClaimRetentionPolicy": policy}}))
        .unwrap()
    }

    fn claim(owners: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data-db-0", "ownerReferences": owners}})).unwrap()
    }

    #[test]
    fn whose_claims_are() {
        let table = [
            ("Retain", "Retain", 0, ""),
            ("Retain", "Retain", 5, ""),
            ("Delete", "Retain", 0, "s"),
            ("Delete", "Retain", 5, "s"),
            ("Retain", "Delete", 0, ""),
            ("Retain", "Delete", 5, "p"),
            ("Delete", "Delete", 0, "s"),
            ("Delete", "Delete", 5, "p"),
        ];
        for (deleted, scaled, ordinal, owner) in table {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": format!("db-{ordinal}"), "uid": "p"}})).unwrap();
            let set = set(deleted, scaled);
            let mut claim = claim(json!([]));
            let found = owners(&set, &pod, &claim);
            let uids: Vec<_> = found.iter().flatten().map(|reference| &*reference.uid).collect();
            assert_eq!(uids.concat(), owner, "{deleted} {scaled} {ordinal}");
            claim.metadata.owner_references = found;
            assert_eq!(owners(&set, &pod, &claim), None, "settled: {deleted} {scaled} {ordinal}");
        }
    }

    #[test]
    fn what_belongs_to_others_stays_theirs() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "db-0", "uid": "p"}})).unwrap();
        let reference = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        let both = set("Delete", "Delete");
        assert_eq!(owners(&both, &pod, &claim(reference("Boat", "ann", "b"))), None);
        assert_eq!(owners(&both, &pod, &claim(reference("StatefulSet", "db", "older"))), None);
        let kept = owners(&set("Retain", "Retain"), &pod, &claim(reference("StatefulSet", "db", "s")));
        assert_eq!(kept, Some(vec![]), "a policy taken back");
    }
}
