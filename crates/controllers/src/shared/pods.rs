//! Facts about pods, and which of them to delete first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::pods::{condition, is_active, is_ready, phase};
use skiff_client::Kind;

use super::controller_ref;

/// The node it runs on; empty before it is assigned.
pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// A pod from a template, managed by `owner`, with a generated name.
pub(crate) fn pod_from_template<O: Kind>(template: &PodTemplateSpec, owner: &O) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(owner.name())),
            namespace: owner.metadata().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The owner's name and a dash, or without it where that is no valid name prefix (as upstream: names that end badly).
fn name_prefix(owner: &str) -> String {
    let valid = owner.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
    if valid { format!("{owner}-") } else { owner.to_owned() }
}

/// Sorts pods so that those to delete first come first: unassigned, pending, not ready, cheap
/// (`controller.kubernetes.io/pod-deletion-cost`), doubled up on their node among `related`, ready for a short time,
/// often restarted, young. Times are compared by order of magnitude, and ties go by UID, so that among equals not always
/// the same are hit.
pub(crate) fn deletion_order<P: AsRef<Pod>>(pods: &mut [P], related: &[P], now: Timestamp) {
    let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in related.iter().map(AsRef::as_ref).filter(|pod| is_active(pod)) {
        *per_node.entry(node_of(pod)).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| {
        let pod = pod.as_ref();
        let doubled_up = per_node.get(node_of(pod)).copied().unwrap_or(0);
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (
            (!node_of(pod).is_empty(), phase_order(pod), is_ready(pod), deletion_cost(pod), Reverse(doubled_up)),
            magnitude(now, ready_since(pod)),
            Reverse(restarts(pod)),
            magnitude(now, created),
            pod.uid().to_owned(),
        )
    });
}

/// Since when it is ready.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

fn phase_order(pod: &Pod) -> u8 {
    match phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Binary logarithm of an age in nanoseconds; an unknown time counts as the youngest.
fn magnitude(now: Timestamp, at: Option<Timestamp>) -> i64 {
    let Some(at) = at else { return -2 };
    let age = now.duration_since(at).as_nanos();
    if age > 0 { i64::from(age.ilog2()) } else { -1 }
}

/// The most restarts of a container, and of a sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let containers = status.container_statuses.iter().flatten().map(|c| c.restart_count).max();
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> =
        init.filter(|c| c.restart_policy.as_deref() == Some("Always")).map(|c| &*c.name).collect();
    let init_statuses = status.init_container_statuses.iter().flatten();
    let sidecar = init_statuses.filter(|c| sidecars.contains(&&*c.name)).map(|c| c.restart_count).max();
    (containers.unwrap_or(0), sidecar.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn pod(name: &str, change: Value) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions":
                [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        let value = skiff_meta::patch::merge_patch(&value, &change);
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    #[test]
    fn which_pod_goes_first() {
        let cost = |n: &str| json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": n}}});
        let ready = |at: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]}});
        let table = [
            ("unassigned", json!({"spec": {"nodeName": null}}), json!({})),
            ("pending", json!({"status": {"phase": "Pending"}}), json!({})),
            ("unknown", json!({"status": {"phase": "Unknown"}}), json!({})),
            ("not ready", json!({"status": {"conditions": null}}), json!({})),
            ("cheap", cost("-1"), cost("1")),
            ("ready later", ready("2026-01-01T23:00:00Z"), json!({})),
            (
                "restarted",
                json!({"status": {"containerStatuses":
                [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 2}]}}),
                json!({}),
            ),
            ("younger", json!({"metadata": {"creationTimestamp": "2026-01-01T23:59:00Z"}}), json!({})),
        ];
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for (name, first, second) in table {
            // The UIDs would put them the other way round.
            let mut pods = vec![pod("a-second", second), pod("z-first", first)];
            deletion_order(&mut pods, &[], now);
            assert_eq!(pods[0].name(), "z-first", "{name}");
        }
    }

    #[test]
    fn doubled_up_pods_go_first() {
        let elsewhere = pod("a", json!({"spec": {"nodeName": "m"}}));
        let mut pods = vec![elsewhere.clone(), pod("b", json!({}))];
        let related = vec![elsewhere, pods[1].clone(), pod("c", json!({}))];
        deletion_order(&mut pods, &related, Timestamp::UNIX_EPOCH);
        assert_eq!(pods[0].name(), "b");
    }
}
