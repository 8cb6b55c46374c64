use super::*;
use serde_json::{Value, json};
use skiff_meta::patch::merge_patch;

type Sets = Vec<Arc<ReplicaSet>>;

const NOW: &str = "2026-01-01T01:00:00Z";

fn deployment(replicas: i32, image: &str, change: Value) -> Deployment {
    let value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 3},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}},
            "template": template(image, None)},
        "status": {"observedGeneration": 3},
    });
    serde_json::from_value(merge_patch(&value, &change)).expect("a deployment")
}

fn template(image: &str, hash: Option<&str>) -> Value {
    let mut labels = json!({"app": "web"});
    if let Some(hash) = hash {
        labels["pod-template-hash"] = json!(hash);
    }
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// A ReplicaSet named by its image; `size`: spec.replicas, `available`: status.
fn set(image: &str, revision: i64, size: i32, available: i32) -> Arc<ReplicaSet> {
    sized(image, revision, size, available, 10)
}

fn sized(image: &str, revision: i64, size: i32, available: i32, desired: i32) -> Arc<ReplicaSet> {
    let value = json!({
        "metadata": {"name": image, "namespace": "ns", "uid": image, "generation": 1,
            "creationTimestamp": format!("2026-01-01T00:00:{revision:02}Z"),
            "annotations": {"deployment.kubernetes.io/revision": revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                "deployment.kubernetes.io/max-replicas": (desired + 3).to_string()}},
        "spec": {"replicas": size, "selector": {}, "template": template(image, Some(image))},
        "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available,
            "observedGeneration": 1, "terminatingReplicas": 0},
    });
    Arc::new(serde_json::from_value(value).expect("a set"))
}

fn planned(deployment: &Deployment, sets: &[Arc<ReplicaSet>], with_pods: &[&str]) -> Plan {
    let with_pods: Vec<String> = with_pods.iter().map(|&uid| uid.to_owned()).collect();
    plan(&Snapshot { deployment, sets, with_pods: &with_pods, now: NOW.parse().unwrap() })
}

/// Created and updated sizes, in the plan's order.
fn sizes(plan: &Plan) -> Vec<String> {
    let created = plan.create.iter().map(|set| format!("+{}", facts::size(set)));
    created.chain(plan.update.iter().map(|set| format!("{}={}", set.name(), facts::size(set)))).collect()
}

fn progressing(plan: &Plan) -> String {
    let status = plan.status.as_ref().and_then(|d| d.status.clone()).unwrap_or_default();
    status::reason(&status, PROGRESSING).to_owned()
}

#[test]
fn rolling_keeps_both_bounds() {
    let table: [(&str, Sets, &[&str]); 9] = [
        ("the first revision comes at once", vec![], &["+10"]),
        ("surge, and down by what may be missing", vec![set("v1", 1, 10, 10)], &["+3", "v1=8"]),
        ("room after scaling down", vec![set("v1", 1, 8, 8), set("v2", 2, 3, 0)], &["v2=5"]),
        ("nothing may move", vec![set("v1", 1, 8, 8), set("v2", 2, 5, 0)], &[]),
        ("new ones are available", vec![set("v1", 1, 8, 8), set("v2", 2, 5, 5)], &["v1=3"]),
        ("stale counts are not believed", vec![set("v1", 1, 8, 10), set("v2", 2, 5, 3)], &["v1=5"]),
        (
            "broken old ones go first",
            vec![set("v0", 1, 2, 0), set("v1", 1, 8, 8), set("v2", 2, 3, 3)],
            &["v0=0", "v1=5"],
        ),
        ("the last old ones", vec![set("v1", 1, 3, 3), set("v2", 2, 10, 10)], &["v1=0"]),
        ("too many new ones", vec![set("v2", 2, 12, 12)], &["v2=10"]),
    ];
    for (name, sets, expected) in table {
        let plan = planned(&deployment(10, "v2", json!({})), &sets, &[]);
        assert_eq!(sizes(&plan), expected, "{name}");
    }
}

#[test]
fn a_new_revision_is_named_numbered_and_told() {
    let deployment = deployment(
        3,
        "v2",
        json!({"metadata": {"annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "status": {"replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3}}),
    );
    let plan = planned(&deployment, &[sized("v1", 7, 3, 3, 3)], &[]);
    let set = plan.create.as_ref().expect("a new set");
    let hash = set.metadata.labels.as_ref().map(|labels| labels["pod-template-hash"].clone()).expect("a hash");
    assert_eq!(set.name(), format!("web-{hash}"));
    let spec = set.spec.as_ref().expect("a spec");
    assert_eq!(spec.selector.match_labels.as_ref().map(|l| &l["pod-template-hash"]), Some(&hash));
    let annotations = set.metadata.annotations.clone().expect("annotations");
    let expected = [
        ("deployment.kubernetes.io/desired-replicas", "3"),
        ("deployment.kubernetes.io/max-replicas", "6"),
        ("deployment.kubernetes.io/revision", "8"),
        ("note", "x"),
    ];
    assert_eq!(annotations, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!(progressing(&plan), "NewReplicaSetCreated");
    assert!(plan.at_rest, "the beginning is told at once");
    let told = plan.status.as_ref().map(revision::revision);
    assert_eq!(told, Some(8), "the Deployment carries its revision");
    let event = format!("Scaled up replica set {} from 0 to 3", set.name());
    assert_eq!(plan.events.first(), Some(&("ScalingReplicaSet", event)));
}

#[test]
fn going_back_reuses_the_set_and_keeps_its_history() {
    let plan = planned(&deployment(10, "v1", json!({})), &[set("v1", 1, 0, 0), set("v2", 2, 10, 10)], &[]);
    assert_eq!(sizes(&plan), ["v1=3",], "grows first; the old one shrinks once this is seen");
    let annotations = plan.update[0].metadata.annotations.clone().expect("annotations");
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn recreate_stops_all_before_it_starts_any() {
    let recreate = deployment(10, "v2", json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
    let empty = |image: &str, revision| set(image, revision, 0, 0);
    let table: [(&str, Sets, &[&str], &[&str]); 5] = [
        ("first revision", vec![], &[], &["+10"]),
        ("old ones stop", vec![set("v1", 1, 10, 10)], &["v1"], &["v1=0"]),
        ("old pods still run", vec![empty("v1", 1)], &["v1"], &[]),
        ("all have ended", vec![empty("v1", 1)], &[], &["+10"]),
        ("an empty newest grows", vec![empty("v1", 1), empty("v2", 2)], &["v2"], &["v2=10"]),
    ];
    for (name, sets, with_pods, expected) in table {
        assert_eq!(sizes(&planned(&recreate, &sets, with_pods)), expected, "{name}");
    }
}

#[test]
fn scaling_amid_a_rollout_is_shared() {
    let old_and_new = |old, new| vec![set("v1", 1, old, old), set("v2", 2, new, new)];
    let table: [(&str, i32, Sets, &[&str]); 5] = [
        ("one active set takes all", 15, vec![set("v1", 1, 10, 10)], &["v1=15"]),
        ("up", 20, old_and_new(8, 5), &["v2=9", "v1=14"]),
        ("down", 5, old_and_new(8, 5), &["v2=3", "v1=5"]),
        ("to nothing", 0, old_and_new(8, 5), &["v2=0", "v1=0"]),
        ("none active", 5, vec![sized("v1", 1, 0, 0, 10), sized("v0", 2, 0, 0, 10)], &["+5"]),
    ];
    for (name, replicas, sets, expected) in table {
        let plan = planned(&deployment(replicas, "v2", json!({})), &sets, &[]);
        assert_eq!(sizes(&plan), expected, "{name}");
        assert!(plan.update.iter().all(|set| !scale_is_stale(set, replicas)), "{name}");
    }
}

fn scale_is_stale(set: &ReplicaSet, replicas: i32) -> bool {
    revision::annotation(set, revision::DESIRED) != Some(&replicas.to_string())
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let paused = deployment(12, "v3", json!({"spec": {"paused": true}}));
    let plan = planned(&paused, &[set("v1", 1, 0, 0), set("v2", 2, 10, 10), set("v0", 0, 0, 0)], &[]);
    assert_eq!(sizes(&plan), ["v2=12"]);
    assert_eq!(progressing(&plan), "DeploymentPaused");
    assert_eq!(plan.delete.iter().map(|set| set.name()).collect::<Vec<_>>(), ["v0", "v1"]);
    let resumed = deployment(
        10,
        "v2",
        json!({"status": {"conditions": [
        {"type": "Progressing", "status": "Unknown", "reason": "DeploymentPaused"}]}}),
    );
    assert_eq!(progressing(&planned(&resumed, &[set("v2", 2, 10, 0)], &[])), "ReplicaSetUpdated");
}

#[test]
fn history_is_cut_when_a_rollout_is_complete() {
    let complete = deployment(
        10,
        "v3",
        json!({"status": {"replicas": 10, "updatedReplicas": 10,
        "availableReplicas": 10, "observedGeneration": 3}}),
    );
    let sets = [set("v1", 1, 0, 0), set("v2", 2, 0, 0), set("v3", 3, 10, 10)];
    let plan = planned(&complete, &sets, &[]);
    assert_eq!(plan.delete.iter().map(|set| set.name()).collect::<Vec<_>>(), ["v1"]);
}

#[test]
fn progress_is_judged() {
    let conditions = |reason: &str, at: &str| {
        json!({"status": {"conditions": [{"type": "Progressing", "status": "True", "reason": reason,
            "lastUpdateTime": at, "lastTransitionTime": "2026-01-01T00:00:00Z"}], "updatedReplicas": 10, "replicas": 10}})
    };
    let (lately, long_ago) = ("2026-01-01T00:59:00Z", "2026-01-01T00:00:00Z");
    let table = [
        ("complete", "ReplicaSetUpdated", lately, 10, "NewReplicaSetAvailable", None),
        ("some more are available", "NewReplicaSetCreated", lately, 4, "ReplicaSetUpdated", Some(601)),
        ("nothing moves yet", "ReplicaSetUpdated", lately, 0, "ReplicaSetUpdated", Some(541)),
        ("nothing moves any more", "ReplicaSetUpdated", long_ago, 0, "ProgressDeadlineExceeded", None),
        ("was complete before", "NewReplicaSetAvailable", long_ago, 4, "NewReplicaSetAvailable", None),
    ];
    for (name, reason, at, available, expected, look_again) in table {
        let plan = planned(&deployment(10, "v1", conditions(reason, at)), &[set("v1", 1, 10, available)], &[]);
        assert_eq!(progressing(&plan), expected, "{name}");
        assert_eq!(plan.look_again, look_again.map(Duration::from_secs), "{name}");
    }
}

#[test]
fn statuses_sum_up_and_settle() {
    let running = deployment(10, "v2", json!({}));
    let plan = planned(&running, &[set("v1", 1, 8, 8), set("v2", 2, 5, 0)], &[]);
    let status = plan.status.and_then(|d| d.status).expect("a status");
    let sums = [status.replicas, status.updated_replicas, status.available_replicas, status.unavailable_replicas];
    assert_eq!(sums, [Some(13), Some(5), Some(8), Some(5)]);
    assert_eq!(status.terminating_replicas, Some(0));
    assert_eq!(status::reason(&status, "Available"), "MinimumReplicasAvailable");
    assert!(!plan.at_rest);

    let done = planned(&running, &[set("v2", 2, 10, 10)], &[]);
    assert!(done.at_rest);
    let again = planned(&done.status.expect("a status"), &[set("v2", 2, 10, 10)], &[]);
    assert_eq!((again.status, again.update, again.create), (None, vec![], None), "nothing left to write");
}

#[test]
fn rolling_back_by_annotation() {
    let back = |to: &str| deployment(10, "v2", json!({"metadata": {"annotations": {revision::ROLLBACK: to}}}));
    let sets = [set("v1", 1, 0, 0), set("v2", 2, 10, 10)];
    let image = |plan: &Plan| {
        let spec = plan.rollback.as_ref().and_then(|d| d.spec.clone()).expect("a deployment");
        let labels = spec.template.metadata.and_then(|m| m.labels).unwrap_or_default();
        assert!(!labels.contains_key("pod-template-hash"));
        spec.template.spec.and_then(|s| s.containers[0].image.clone()).unwrap_or_default()
    };
    for (to, expected, event) in [
        ("0", "v1", "DeploymentRollback"),
        ("1", "v1", "DeploymentRollback"),
        ("2", "v2", "DeploymentRollbackTemplateUnchanged"),
        ("9", "v2", "DeploymentRollbackRevisionNotFound"),
    ] {
        let plan = planned(&back(to), &sets, &[]);
        assert_eq!((&*image(&plan), plan.events[0].0), (expected, event), "to {to}");
    }
}
