//! Which objects need their finalizer, and which pods use which claims. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use skiff_api::pods::is_finished;
use skiff_client::{Key, Kind};

use crate::shared::node_of;

/// What to do about a finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finalizer {
    Add,
    Remove,
}

/// What to do about finalizer `name` of an object, by whether it is in use.
pub(super) fn finalizer<K: Kind>(object: &K, name: &str, used: bool) -> Option<Finalizer> {
    let has = object.metadata().finalizers.iter().flatten().any(|known| known == name);
    match (object.deleting(), has) {
        (true, true) if !used => Some(Finalizer::Remove),
        (false, false) => Some(Finalizer::Add),
        _ => None,
    }
}

/// The claims that a pod names, those of its ephemeral volumes among them.
pub(super) fn claims_of(pod: &Pod) -> impl Iterator<Item = Key> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => claim.claim_name.clone(),
            (None, Some(_)) => format!("{}-{}", pod.name(), volume.name),
            (None, None) => return None,
        };
        Some(Key::new(pod.namespace(), name))
    })
}

/// The class of attributes that a volume has.
pub(super) fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    volume.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.clone()).collect()
}

/// The classes that a claim asks for, has, or is being changed to.
pub(super) fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let asked = claim.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let changing = status.and_then(|status| status.modify_volume_status.as_ref());
    let mut names: Vec<String> =
        asked.chain(has).chain(changing.and_then(|to| to.target_volume_attributes_class_name.clone())).collect();
    names.sort();
    names.dedup();
    names
}

/// Whether a pod's volumes may be in use: it was placed, and has not ended.
pub(super) fn uses(pod: &Pod) -> bool {
    !node_of(pod).is_empty() && !is_finished(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::{Value, json};

    #[test]
    fn finalizers_come_and_go() {
        let claim = |deleting: bool, finalizers: &[&str]| -> PersistentVolumeClaim {
            let at = deleting.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({"metadata": {"deletionTimestamp": at, "finalizers": finalizers}})).unwrap()
        };
        for (deleting, finalizers, used, expected) in [
            (false, vec!["other"], false, Some(Finalizer::Add)),
            (false, vec!["f"], false, None),
            (true, vec!["f"], true, None),
            (true, vec!["f"], false, Some(Finalizer::Remove)),
            (true, vec!["other"], false, None),
        ] {
            let found = finalizer(&claim(deleting, &finalizers), "f", used);
            assert_eq!(found, expected, "{deleting} {finalizers:?} {used}");
        }
    }

    #[test]
    fn classes_that_claims_name() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {},
            "spec": {"volumeAttributesClassName": "new"},
            "status": {"currentVolumeAttributesClassName": "old",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "new"}}}))
        .unwrap();
        assert_eq!(classes_of_claim(&claim), ["new", "old"]);
        assert!(classes_of_claim(&PersistentVolumeClaim::default()).is_empty());
    }

    #[test]
    fn who_uses_what() {
        let pod = |node: &str, phase: &str| -> Pod {
            let volumes: Value = json!([{"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "b", "ephemeral": {}}, {"name": "c", "emptyDir": {}}]);
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"},
                "spec": {"containers": [], "nodeName": node, "volumes": volumes}, "status": {"phase": phase}}))
            .unwrap()
        };
        let names: Vec<String> = claims_of(&pod("n", "Running")).map(|key| key.to_string()).collect();
        assert_eq!(names, ["ns/data", "ns/p-b"]);
        for (node, phase, expected) in [("n", "Running", true), ("", "Pending", false), ("n", "Failed", false)] {
            assert_eq!(uses(&pod(node, phase)), expected, "{node} {phase}");
        }
    }
}
