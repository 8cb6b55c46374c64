//! Revisions: which ReplicaSet is the Deployment's newest, what it is called, and the annotations that keep the history.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::Kind;

use super::facts;
use crate::shared::{controller_ref, template};

/// The label that tells the pods of one revision from those of another.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// Where the long gone `spec.rollbackTo` still lives on.
pub(crate) const ROLLBACK: &str = "deprecated.deployment.rollback.to";
/// How long the list of earlier revisions may grow, in characters.
const LONGEST_HISTORY: usize = 2000;
/// Longest name of an object.
const LONGEST_NAME: usize = 253;

/// Annotations of a Deployment that are not its ReplicaSets'.
fn stays_with_deployment(key: &str) -> bool {
    const KEPT: [&str; 6] =
        ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAXIMUM, ROLLBACK];
    KEPT.contains(&key)
}

/// 32-bit FNV-1a.
fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The hash of a template, in characters that form no words. `collisions` makes it another one when the name it led to
/// was taken by something else.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // A tree of JSON has its keys sorted, so that equal templates give equal bytes.
    let tree = serde_json::to_value(template).unwrap_or_default().to_string();
    let collisions = collisions.map(|n| i64::from(n).to_le_bytes());
    let hash = fnv1a(tree.into_bytes().into_iter().chain(collisions.into_iter().flatten()));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// Whether the ReplicaSet has the Deployment's present template: it means the same, or it is what the server made of it
/// when it stored a set of this very hash.
pub(crate) fn is_newest(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let theirs = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let ours = deployment.spec.as_ref().map(|spec| &spec.template);
    let Some((theirs, ours)) = theirs.zip(ours) else { return false };
    if template::identical(theirs, ours, HASH_LABEL) {
        return true;
    }
    let (theirs, meant) = (template::meaning(theirs, HASH_LABEL), template::meaning(ours, HASH_LABEL));
    if theirs == meant {
        return true;
    }
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = set.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL));
    template::completes(&theirs, &meant) && hash == Some(&template_hash(ours, collisions))
}

/// The revision in an object's annotations, 0 where it has none.
pub(crate) fn revision<K: Kind>(object: &K) -> i64 {
    annotation(object, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// One annotation.
pub(crate) fn annotation<'a, K: Kind>(object: &'a K, key: &str) -> Option<&'a str> {
    object.metadata().annotations.as_ref()?.get(key).map(String::as_str)
}

/// A ReplicaSet for the Deployment's present template, with no replicas yet.
pub(crate) fn new_set(deployment: &Deployment) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let hashed = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        Some(labels)
    };
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels = hashed(meta.labels.take());
    let mut selector = spec.selector;
    selector.match_labels = hashed(selector.match_labels.take());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name(deployment.name(), &hash)),
            namespace: deployment.metadata.namespace.clone(),
            labels: meta.labels.clone(),
            owner_references: Some(vec![controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

fn set_name(deployment: &str, hash: &str) -> String {
    let room = LONGEST_NAME - 1 - hash.len();
    format!("{}-{hash}", deployment.get(..room).unwrap_or(deployment))
}

/// Brings the annotations of the newest ReplicaSet up to date: the Deployment's own, and its revision where that has
/// grown, which puts the former one into the history.
pub(crate) fn annotate_newest(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !stays_with_deployment(key) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let before = annotations.get(REVISION).cloned();
    let number = before.as_deref().map_or(Ok(0), str::parse::<i64>);
    // A revision that is no number was put there by hand, and is left alone.
    if !number.is_ok_and(|number| number < revision) {
        return;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if let Some(before) = before {
        let history = extend_history(annotations.get(HISTORY).map(String::as_str).unwrap_or_default(), &before);
        annotations.insert(HISTORY.to_owned(), history);
    }
}

/// Appends a revision; the oldest are dropped when the list grows too long.
fn extend_history(history: &str, revision: &str) -> String {
    let mut all: Vec<&str> = history.split(',').filter(|entry| !entry.is_empty()).collect();
    all.push(revision);
    while all.len() > 1 && all.iter().map(|entry| entry.len() + 1).sum::<usize>() > LONGEST_HISTORY + 1 {
        all.remove(0);
    }
    all.join(",")
}

/// Notes on a ReplicaSet how many replicas the Deployment wants and allows.
pub(crate) fn annotate_size(deployment: &Deployment, set: &mut ReplicaSet) {
    let (desired, maximum) = size_annotations(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), desired);
    annotations.insert(MAXIMUM.to_owned(), maximum);
}

fn size_annotations(deployment: &Deployment) -> (String, String) {
    let desired = facts::replicas(deployment);
    (desired.to_string(), facts::most(deployment).to_string())
}

/// A Deployment rolled back to the template (and annotations) of `set`.
pub(crate) fn rolled_back(deployment: &Deployment, set: &ReplicaSet) -> Deployment {
    let mut deployment = without_rollback(deployment);
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| stays_with_deployment(key));
    let theirs = set.metadata.annotations.iter().flatten().filter(|(key, _)| !stays_with_deployment(key));
    annotations.extend(theirs.map(|(key, value)| (key.clone(), value.clone())));
    if let Some((spec, template)) = deployment.spec.as_mut().zip(set.spec.as_ref().and_then(|s| s.template.clone())) {
        spec.template = template;
        let labels = spec.template.metadata.as_mut().and_then(|meta| meta.labels.as_mut());
        labels.map(|labels| labels.remove(HASH_LABEL));
    }
    deployment
}

/// The Deployment with its request to roll back withdrawn.
pub(crate) fn without_rollback(deployment: &Deployment) -> Deployment {
    let mut deployment = deployment.clone();
    deployment.metadata.annotations.as_mut().map(|annotations| annotations.remove(ROLLBACK));
    deployment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_stable_and_safe() {
        let template = PodTemplateSpec::default();
        let hash = template_hash(&template, None);
        assert_eq!(hash, template_hash(&template, None));
        assert_ne!(hash, template_hash(&template, Some(1)));
        assert!(hash.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)), "{hash}");
        // The published test vector of FNV-1a.
        assert_eq!(fnv1a(*b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn a_completed_template_is_known_again() {
        let deployment = |image: &str| -> Deployment {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "web"}, "spec": {"selector": {},
                "template": {"spec": {"containers": [{"name": "c", "image": image}]}}}}))
            .expect("a deployment")
        };
        let mut set = new_set(&deployment("v1"));
        assert!(is_newest(&deployment("v1"), &set) && !is_newest(&deployment("v2"), &set));
        let template = set.spec.as_mut().and_then(|spec| spec.template.as_mut()).expect("a template");
        template.spec.as_mut().expect("a pod").restart_policy = Some("Always".to_owned());
        assert!(is_newest(&deployment("v1"), &set), "defaulted on its way into the store");
        set.metadata.labels = None;
        assert!(!is_newest(&deployment("v1"), &set), "not without its hash");
    }

    #[test]
    fn names_fit() {
        let name = set_name(&"a".repeat(253), "hash");
        assert_eq!((name.len(), &name[247..]), (253, "a-hash"));
        assert_eq!(set_name("web", "x"), "web-x");
    }

    #[test]
    fn history_is_bounded() {
        assert_eq!(extend_history("", "1"), "1");
        assert_eq!(extend_history("1,3", "5"), "1,3,5");
        let long = vec!["1000"; 400].join(",");
        let longer = extend_history(&long, "2000");
        assert!(longer.len() <= LONGEST_HISTORY && longer.ends_with(",1000,2000"), "{}", longer.len());
    }
}
