//! What a ReplicaSet (or ReplicationController) needs, from a snapshot of its pods. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::pods::{available_at, is_active, is_available, is_finished, is_ready, is_terminating};

use super::Replicated;
use crate::shared::{Selector, counter, deletion_order, selects};

/// At most so many creations or deletions in one go.
const BURST: usize = 500;

/// What is known of one set.
pub(crate) struct Snapshot<'a, R> {
    /// The set.
    pub(crate) set: &'a R,
    /// Its pods, also those that ended or go; claimed already.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Pods of all sets with the same owner, to see which are doubled up on a node.
    pub(crate) related: &'a [Arc<Pod>],
    /// Whether everything we did before has been seen.
    pub(crate) caught_up: bool,
    /// Now.
    pub(crate) now: Timestamp,
}

/// What to do about the number of pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing.
    Keep,
    /// Create so many.
    Create(usize),
    /// Delete these.
    Delete(Vec<Arc<Pod>>),
}

/// The step for a set.
pub(crate) fn step<R: Replicated>(snapshot: &Snapshot<'_, R>) -> Step {
    if !snapshot.caught_up || snapshot.set.deleting() {
        return Step::Keep;
    }
    let mut active: Vec<Arc<Pod>> = snapshot.pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    let wanted = snapshot.set.replicas();
    if active.len() < wanted {
        return Step::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Step::Keep;
    }
    if surplus < active.len() {
        deletion_order(&mut active, snapshot.related, snapshot.now);
    }
    active.truncate(surplus);
    Step::Delete(active)
}

/// The status of a set; `failure` is why the last step failed.
pub(crate) fn status<R: Replicated>(snapshot: &Snapshot<'_, R>, failure: Option<(&str, String)>) -> ReplicaSetStatus {
    let set = snapshot.set;
    let active = || snapshot.pods.iter().filter(|pod| is_active(pod));
    let template_labels = set.template().and_then(|t| t.metadata.as_ref()?.labels.as_ref());
    let template_labels = template_labels.map_or_else(Selector::everything, Selector::from_map);
    let count = |fits: &dyn Fn(&Pod) -> bool| active().filter(|pod| fits(pod)).count();
    let old = set.status();
    let terminating = snapshot.pods.iter().filter(|pod| is_terminating(pod) && !is_finished(pod)).count();
    ReplicaSetStatus {
        replicas: counter(active().count()).unwrap_or(0),
        fully_labeled_replicas: counter(count(&|pod| selects(&template_labels, pod.metadata.labels.as_ref()))),
        ready_replicas: counter(count(&is_ready)),
        available_replicas: counter(count(&|pod| is_available(pod, set.min_ready_seconds(), snapshot.now))),
        terminating_replicas: R::COUNTS_TERMINATING.then_some(counter(terminating).unwrap_or(0)),
        observed_generation: set.metadata().generation.filter(|generation| *generation != 0),
        conditions: conditions(old.conditions.unwrap_or_default(), failure, snapshot.now),
    }
}

/// `ReplicaFailure` comes with a failure and goes without one; an existing one with the same reason stays as it is.
fn conditions(
    mut conditions: Vec<ReplicaSetCondition>,
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    match failure {
        None => conditions.retain(|condition| condition.type_ != FAILURE),
        Some(_) if conditions.iter().any(|condition| condition.type_ == FAILURE) => {}
        Some((reason, message)) => conditions.push(ReplicaSetCondition {
            type_: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }),
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// Whether a status is one a set stays in: as many replicas as wanted, all available, none going.
pub(crate) fn at_rest<R: Replicated>(set: &R, status: &ReplicaSetStatus) -> bool {
    let wanted = i32::try_from(set.replicas()).unwrap_or(i32::MAX);
    status.replicas == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.terminating_replicas.unwrap_or(0) == 0
        || status.conditions != set.status().conditions
}

/// When the next ready pod becomes available by the passing of time alone.
pub(crate) fn next_available<R: Replicated>(snapshot: &Snapshot<'_, R>) -> Option<Duration> {
    let seconds = snapshot.set.min_ready_seconds();
    let times = snapshot.pods.iter().filter(|pod| is_active(pod)).filter_map(|pod| available_at(pod, seconds));
    let next = times.filter(|at| *at > snapshot.now).min()?;
    Duration::try_from(next.duration_since(snapshot.now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::{Value, json};

    fn set(replicas: i32, extra: Value) -> ReplicaSet {
        let value = json!({
            "metadata": {"name": "s", "namespace": "ns", "uid": "s", "generation": 2},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}}},
        });
        let value = skiff_meta::patch::merge_patch(&value, &extra);
        serde_json::from_value(value).expect("a set")
    }

    fn pod(name: &str, phase: &str, ready: Option<&str>, deleting: bool) -> Arc<Pod> {
        let conditions: Vec<Value> =
            ready.iter().map(|at| json!({"type": "Ready", "status": "True", "lastTransitionTime": at})).collect();
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        let value = json!({
            "metadata": {"name": name, "uid": name, "labels": {"a": "b"}, "deletionTimestamp": deleted},
            "spec": {"containers": [], "nodeName": "n"},
            "status": {"phase": phase, "conditions": conditions},
        });
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn snapshot<'a>(set: &'a ReplicaSet, pods: &'a [Arc<Pod>]) -> Snapshot<'a, ReplicaSet> {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        Snapshot { set, pods, related: pods, caught_up: true, now }
    }

    #[test]
    fn steps() {
        let pods = vec![
            pod("running", "Running", Some("2026-01-01T00:00:00Z"), false),
            pod("pending", "Pending", None, false),
            pod("failed", "Failed", None, false),
            pod("going", "Running", None, true),
        ];
        let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let table = [
            ("too few; ended and going ones do not count", set(5, json!({})), Step::Create(3)),
            ("enough", set(2, json!({})), Step::Keep),
            ("too many: the pending one goes", set(1, json!({})), Step::Delete(vec![pods[1].clone()])),
            ("none wanted", set(0, json!({})), Step::Delete(vec![pods[0].clone(), pods[1].clone()])),
            ("going itself", set(5, deleting), Step::Keep),
            ("a burst has an end", set(5000, json!({})), Step::Create(500)),
        ];
        for (name, set, expected) in table {
            assert_eq!(step(&snapshot(&set, &pods)), expected, "{name}");
        }
        let set = set(5, json!({}));
        let behind = Snapshot { caught_up: false, ..snapshot(&set, &pods) };
        assert_eq!(step(&behind), Step::Keep, "own writes not seen yet");
    }

    #[test]
    fn counts_and_rest() {
        let set = set(2, json!({"spec": {"minReadySeconds": 90}}));
        let pods = vec![
            pod("new", "Running", Some("2026-01-01T00:00:00Z"), false),
            pod("old", "Running", Some("2025-01-01T00:00:00Z"), false),
            pod("going", "Running", None, true),
        ];
        let snapshot = snapshot(&set, &pods);
        let status = status(&snapshot, None);
        let expected = json!({"replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 1,
            "terminatingReplicas": 1, "observedGeneration": 2});
        assert_eq!(serde_json::to_value(&status).unwrap(), expected);
        assert!(!at_rest(&set, &status));
        assert_eq!(next_available(&snapshot), Some(Duration::from_secs(30)));
    }

    #[test]
    fn failures_come_and_go() {
        let set = set(2, json!({}));
        let failed = status(&snapshot(&set, &[]), Some(("FailedCreate", "quota".into())));
        let condition = failed.conditions.as_ref().and_then(|all| all.first()).expect("a condition");
        assert_eq!((condition.reason.as_deref(), &*condition.status), (Some("FailedCreate"), "True"));
        assert!(at_rest(&set, &failed), "failures are told at once");
        let again = ReplicaSet { status: Some(failed.clone()), ..set.clone() };
        assert_eq!(status(&snapshot(&again, &[]), Some(("FailedCreate", "other words".into()))), failed);
        assert_eq!(status(&snapshot(&again, &[]), None).conditions, None);
    }
}
