//! The status of a PodDisruptionBudget, from the pods it selects. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_api::pods::is_ready;
use skiff_client::Kind;

use crate::shared::{counter, scaled};

const ALLOWED: &str = "DisruptionAllowed";
/// How long an evicted pod may take until it is seen to go; after that the eviction is held to have failed.
const DELETION_TIME: SignedDuration = SignedDuration::from_secs(120);

/// Whether the budget is counted in parts of what the pods' owners want, rather than in pods.
pub(crate) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// The status of a budget. `scale`: how many pods the owners of its pods want together.
pub(crate) fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: i32,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let (expected, desired) = expectation(budget, pods.len(), scale);
    let old = budget.status.clone().unwrap_or_default();
    let disrupted = disrupted(pods, old.disrupted_pods.unwrap_or_default(), now);
    let healthy =
        pods.iter().filter(|pod| !pod.deleting() && is_ready(pod) && !disrupted.contains_key(pod.name())).count();
    let healthy = counter(healthy).unwrap_or(0);
    // A budget without pods allows nothing, so that the first pods to come are safe before anybody has looked.
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let generation = budget.metadata.generation;
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: generation,
        conditions: Some(conditions(old.conditions.unwrap_or_default(), verdict(allowed), "", generation, now)),
    }
}

/// The status of a budget that could not be counted: it allows nothing.
pub(crate) fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let failed = ("False", "SyncFailed");
    let observed = old.observed_generation;
    let conditions = conditions(old.conditions.clone().unwrap_or_default(), failed, why, observed, now);
    PodDisruptionBudgetStatus { disruptions_allowed: Some(0), conditions: Some(conditions), ..old }
}

/// How many pods there should be, and how many of them must be healthy.
fn expectation(budget: &PodDisruptionBudget, pods: usize, scale: i32) -> (i32, i32) {
    let Some(spec) = &budget.spec else { return (0, 0) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => (scale, (scale - scaled(unavailable, scale, true)).max(0)),
        (None, Some(IntOrString::Int(available))) => (i32::try_from(pods).unwrap_or(i32::MAX), *available),
        (None, Some(available)) => (scale, scaled(available, scale, true)),
        (None, None) => (0, 0),
    }
}

/// Evicted pods that are still expected to go.
fn disrupted(pods: &[Arc<Pod>], known: BTreeMap<String, Time>, now: Timestamp) -> BTreeMap<String, Time> {
    let staying = |name: &str| pods.iter().any(|pod| pod.name() == name && !pod.deleting());
    known.into_iter().filter(|(name, at)| staying(name) && now.duration_since(at.0) <= DELETION_TIME).collect()
}

fn verdict(allowed: i32) -> (&'static str, &'static str) {
    if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") }
}

fn conditions(
    mut conditions: Vec<Condition>,
    (status, reason): (&str, &str),
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let since = conditions.iter().find(|c| c.type_ == ALLOWED && c.status == status);
    let since = since.map_or(Time(now), |c| c.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != ALLOWED);
    conditions.push(Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    });
    conditions
}

/// When an evicted pod that does not go ceases to count as going.
pub(crate) fn look_again(status: &PodDisruptionBudgetStatus, now: Timestamp) -> Option<Duration> {
    let ends = status.disrupted_pods.iter().flatten().filter_map(|(_, at)| at.0.checked_add(DELETION_TIME).ok());
    let left = ends.min()?.duration_since(now);
    Some(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"generation": 2}, "spec": spec, "status": status}))
            .expect("a budget")
    }

    fn pods(ready: usize, all: usize) -> Vec<Arc<Pod>> {
        let pod = |n: usize| {
            let status = if n < ready { "True" } else { "False" };
            let conditions = json!([{"type": "Ready", "status": status}]);
            let value = json!({"metadata": {"name": format!("p{n}")}, "status": {"conditions": conditions}});
            Arc::new(serde_json::from_value(value).expect("a pod"))
        };
        (0..all).map(pod).collect()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    #[test]
    fn table() {
        // Ready of all pods, scale; healthy, desired, expected, allowed.
        let table = [
            (json!({"minAvailable": 2}), 3, 3, 0, (3, 2, 3, 1)),
            (json!({"minAvailable": 4}), 3, 3, 0, (3, 4, 3, 0)),
            (json!({"minAvailable": "50%"}), 4, 5, 5, (4, 3, 5, 1)),
            (json!({"maxUnavailable": 1}), 5, 5, 5, (5, 4, 5, 1)),
            (json!({"maxUnavailable": "30%"}), 4, 5, 5, (4, 3, 5, 1)),
            (json!({"maxUnavailable": 1}), 0, 0, 0, (0, 0, 0, 0)),
        ];
        for (spec, ready, all, scale, expected) in table {
            let text = spec.to_string();
            let status = status(&budget(spec, json!(null)), &pods(ready, all), scale, now());
            let got =
                (status.current_healthy, status.desired_healthy, status.expected_pods, status.disruptions_allowed);
            let (a, b, c, d) = expected;
            assert_eq!(got, (Some(a), Some(b), Some(c), Some(d)), "{text}");
        }
    }

    #[test]
    fn evicted_pods_count_as_gone_until_they_do_not_go() {
        let known = json!({"disruptedPods": {"p0": "2026-01-01T00:00:00Z", "p1": "2025-01-01T00:00:00Z",
            "gone": "2026-01-01T00:00:00Z"}});
        let status = status(&budget(json!({"minAvailable": 1}), known), &pods(3, 3), 0, now());
        assert_eq!(status.current_healthy, Some(2));
        let left: Vec<&str> = status.disrupted_pods.iter().flatten().map(|(name, _)| &**name).collect();
        assert_eq!(left, ["p0"]);
        assert_eq!(look_again(&status, now()), Some(Duration::from_secs(61)));
    }

    #[test]
    fn what_cannot_be_counted_allows_nothing() {
        let counted = status(&budget(json!({"minAvailable": 1}), json!(null)), &pods(3, 3), 0, now());
        let known = PodDisruptionBudget { status: Some(counted), ..budget(json!({"minAvailable": 1}), json!(null)) };
        let status = failed(&known, "who knows", now());
        assert_eq!((status.disruptions_allowed, status.current_healthy), (Some(0), Some(3)));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!((&*condition.reason, &*condition.message), ("SyncFailed", "who knows"));
    }
}
