//! Which volume a claim gets, and which volumes are to go. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::Kind;

/// The name of this provisioner, and of its class.
pub(super) const PROVISIONER: &str = "skiff.io/local-path";
pub(super) const CLASS: &str = "local-path";
/// What a node says of where its volumes lie.
const DIRECTORY: &str = "skiff.io/local-path-directory";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What to do for a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ForClaim {
    /// It is not ours, has what it wants, or waits for a node.
    Nothing,
    /// It cannot get what it wants; why.
    Refuse(String),
    Provision(Box<PersistentVolume>),
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The node that the scheduler has chosen for a claim.
pub(super) fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, SELECTED_NODE).filter(|name| !name.is_empty())
}

/// The class that a claim names.
pub(super) fn class_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

/// What to do for a claim of this class, on the node it is to be on.
pub(super) fn for_claim(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, node: Option<&Node>) -> ForClaim {
    let Some(class) = class.filter(|class| class.provisioner == PROVISIONER) else { return ForClaim::Nothing };
    let Some(spec) = claim.spec.as_ref() else { return ForClaim::Nothing };
    if claim.deleting() || spec.volume_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return ForClaim::Nothing;
    }
    if class.volume_binding_mode.as_deref() != Some("WaitForFirstConsumer") {
        return ForClaim::Refuse(
            "configuration error, no node was specified: the class must bind its claims with \
                                 WaitForFirstConsumer, since a directory is on one node"
                .to_owned(),
        );
    }
    let modes = spec.access_modes.clone().unwrap_or_default();
    if let Some(mode) = modes.iter().find(|mode| !matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod")) {
        return ForClaim::Refuse(format!("{mode} is not supported: a directory is on one node"));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return ForClaim::Refuse("block devices are not supported: volumes are directories".to_owned());
    }
    if spec.selector.is_some() {
        return ForClaim::Refuse("claim.Spec.Selector is not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return ForClaim::Refuse("volumes cannot be made from others or from snapshots".to_owned());
    }
    let (Some(_), Some(node)) = (selected_node(claim), node) else { return ForClaim::Nothing };
    let Some(directory) = annotation(&node.metadata, DIRECTORY) else {
        return ForClaim::Refuse(format!("node {} does not say where it keeps volumes", node.name()));
    };
    ForClaim::Provision(Box::new(volume(claim, class, node, directory)))
}

fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node, directory: &str) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let name = format!("pvc-{}", claim.uid());
    let hostname = node.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME)).cloned();
    let here = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![hostname.unwrap_or_else(|| node.name().to_owned())]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), match_fields: None };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|resources| resources.requests),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: claim.metadata.namespace.clone(),
                name: claim.metadata.name.clone(),
                uid: claim.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
            local: Some(LocalVolumeSource { fs_type: None, path: format!("{directory}/{name}") }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone().or(Some("Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// The host name label of the node whose directory is to go with this volume; `None`: the volume stays.
pub(super) fn to_remove(volume: &PersistentVolume) -> Option<&str> {
    let spec = volume.spec.as_ref()?;
    let ours = annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER);
    let released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    let delete = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    if !ours || !released || !delete || volume.deleting() {
        return None;
    }
    let terms = &spec.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let requirements = terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    requirements.filter(|r| r.key == HOSTNAME).find_map(|r| r.values.as_ref()?.first()).map(String::as_str)
}

/// The class that claims get which name none.
pub(super) fn class() -> StorageClass {
    let yes: BTreeMap<String, String> = [(DEFAULT_CLASS.to_owned(), "true".to_owned())].into();
    StorageClass {
        metadata: ObjectMeta { name: Some(CLASS.to_owned()), annotations: Some(yes), ..ObjectMeta::default() },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        ..StorageClass::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(directory: bool) -> Node {
        let annotations = if directory { json!({DIRECTORY: "/d/storage"}) } else { json!({}) };
        let metadata = json!({"name": "n", "labels": {HOSTNAME: "host"}, "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata})).expect("a node")
    }

    fn claim(spec: Value, selected: bool) -> PersistentVolumeClaim {
        let annotations = if selected { json!({SELECTED_NODE: "n"}) } else { json!({}) };
        let mut all = json!({"storageClassName": CLASS, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in spec.as_object().expect("a map") {
            all[key] = value.clone();
        }
        let metadata = json!({"name": "c", "namespace": "ns", "uid": "u1", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "spec": all})).expect("a claim")
    }

    #[test]
    fn claims_get_a_directory_on_their_node() {
        let planned = for_claim(&claim(json!({}), true), Some(&class()), Some(&node(true)));
        let ForClaim::Provision(volume) = planned else { panic!("{planned:?}") };
        let volume = serde_json::to_value(&volume).expect("JSON");
        assert_eq!(volume["metadata"]["name"], "pvc-u1");
        for (pointer, expected) in [
            ("/spec/local/path", json!("/d/storage/pvc-u1")),
            ("/spec/claimRef/uid", json!("u1")),
            ("/spec/capacity/storage", json!("1Gi")),
            ("/spec/persistentVolumeReclaimPolicy", json!("Delete")),
            ("/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values", json!(["host"])),
        ] {
            assert_eq!(volume.pointer(pointer), Some(&expected), "{pointer}");
        }
    }

    #[test]
    fn what_is_not_ours_waits_or_is_refused() {
        let other = StorageClass { provisioner: "x".into(), ..class() };
        let immediate = StorageClass { volume_binding_mode: Some("Immediate".into()), ..class() };
        let nothing = |claim: &PersistentVolumeClaim, class: &StorageClass| {
            for_claim(claim, Some(class), Some(&node(true))) == ForClaim::Nothing
        };
        assert!(nothing(&claim(json!({}), true), &other));
        assert!(nothing(&claim(json!({}), false), &class()), "no node is chosen yet");
        assert!(nothing(&claim(json!({"volumeName": "v"}), true), &class()));
        for (what, spec, class, directory) in [
            ("shared", json!({"accessModes": ["ReadWriteMany"]}), class(), true),
            ("block", json!({"volumeMode": "Block"}), class(), true),
            ("selector", json!({"selector": {}}), class(), true),
            ("a snapshot", json!({"dataSource": {"kind": "VolumeSnapshot", "name": "s"}}), class(), true),
            ("immediate", json!({}), immediate, true),
            ("a foreign node", json!({}), class(), false),
        ] {
            let planned = for_claim(&claim(spec, true), Some(&class), Some(&node(directory)));
            assert!(matches!(planned, ForClaim::Refuse(_)), "{what}: {planned:?}");
        }
    }

    #[test]
    fn released_volumes_go_where_the_policy_says_so() {
        let planned = for_claim(&claim(json!({}), true), Some(&class()), Some(&node(true)));
        let ForClaim::Provision(made) = planned else { panic!("{planned:?}") };
        let with = |phase: &str, policy: &str| {
            let mut volume = serde_json::to_value(&made).expect("JSON");
            volume["status"] = json!({"phase": phase});
            volume["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
            serde_json::from_value::<PersistentVolume>(volume).expect("a volume")
        };
        assert_eq!(to_remove(&with("Released", "Delete")), Some("host"));
        assert_eq!(to_remove(&with("Bound", "Delete")), None);
        assert_eq!(to_remove(&with("Released", "Retain")), None);
        let mut foreign = with("Released", "Delete");
        foreign.metadata.annotations = None;
        assert_eq!(to_remove(&foreign), None);
    }
}
