//! Small questions about Deployments and their ReplicaSets.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus, RollingUpdateDeployment};

use crate::shared::scaled;

/// Deadlines and limits of this value mean none.
const UNLIMITED: i32 = i32::MAX;

/// `spec.replicas`.
pub(crate) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether old and new pods run side by side during a rollout.
pub(crate) fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate")
}

/// `spec.paused`.
pub(crate) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

/// `spec.minReadySeconds`.
pub(crate) fn min_ready_seconds(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds)
}

/// `spec.progressDeadlineSeconds`, where there is a deadline.
pub(crate) fn progress_deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).filter(|seconds| *seconds != UNLIMITED)
}

/// `spec.revisionHistoryLimit`, where there is a limit.
pub(crate) fn history_limit(deployment: &Deployment) -> Option<usize> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    limit.filter(|limit| *limit != UNLIMITED).and_then(|limit| usize::try_from(limit).ok())
}

/// Both bounds of a rolling update, resolved together: both zero would stand still, so that one may then be missing.
fn bounds(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let desired = replicas(deployment);
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let default = RollingUpdateDeployment::default();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref()).unwrap_or(&default);
    let resolve = |value: &Option<_>, up| value.as_ref().map_or(0, |value| scaled(value, desired, up));
    match (resolve(&rolling.max_surge, true), resolve(&rolling.max_unavailable, false)) {
        (0, 0) => (0, 1),
        found => found,
    }
}

/// How many pods more than wanted there may be.
pub(crate) fn max_surge(deployment: &Deployment) -> i32 {
    bounds(deployment).0
}

/// How many pods there may be; counts have no bound but that of their type.
pub(crate) fn most(deployment: &Deployment) -> i32 {
    replicas(deployment).saturating_add(max_surge(deployment))
}

/// How many of the wanted pods may be missing.
pub(crate) fn max_unavailable(deployment: &Deployment) -> i32 {
    match replicas(deployment) {
        0 => 0,
        desired => bounds(deployment).1.min(desired),
    }
}

/// `spec.replicas` of a ReplicaSet.
pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// A ReplicaSet's status, all zero where it has none.
pub(crate) fn status(set: &ReplicaSet) -> ReplicaSetStatus {
    set.status.clone().unwrap_or_default()
}

/// `status.availableReplicas` of a ReplicaSet.
pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Whether all wanted replicas are of the newest revision and available, and no others are left.
pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = replicas(deployment);
    status.updated_replicas.unwrap_or(0) == desired
        && status.replicas.unwrap_or(0) == desired
        && status.available_replicas.unwrap_or(0) == desired
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bounds_of_a_rollout() {
        let table = [
            (2, json!({"maxSurge": "0%", "maxUnavailable": "1%"}), (0, 1)),
            (1, json!({"maxSurge": "1%", "maxUnavailable": "25%"}), (1, 0)),
            (10, json!({"maxSurge": 3, "maxUnavailable": 2}), (3, 2)),
            (4, json!({"maxSurge": "25%", "maxUnavailable": "25%"}), (1, 1)),
            (3, json!({"maxSurge": 0, "maxUnavailable": 9}), (0, 3)),
            (0, json!({"maxSurge": 1, "maxUnavailable": 1}), (1, 0)),
        ];
        for (replicas, rolling, expected) in table {
            let spec = json!({"replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
            let deployment: Deployment = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            assert_eq!((max_surge(&deployment), max_unavailable(&deployment)), expected, "{replicas} {rolling}");
        }
    }
}
