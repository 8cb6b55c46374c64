//! The status of a Deployment: sums over its ReplicaSets, and the conditions `Available`, `Progressing` and
//! `ReplicaFailure`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_client::Kind;

use super::draft::Draft;
use super::facts;

pub(crate) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Reasons of `Progressing`.
pub(crate) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const COMPLETE: &str = "NewReplicaSetAvailable";
const UPDATED: &str = "ReplicaSetUpdated";

/// A condition as of now.
pub(crate) fn condition(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The condition of this type.
pub(crate) fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// The reason of the condition of this type, empty where there is none.
pub(crate) fn reason<'a>(status: &'a DeploymentStatus, type_: &str) -> &'a str {
    find(status, type_).and_then(|condition| condition.reason.as_deref()).unwrap_or_default()
}

/// Sets a condition; one with the same status and reason stays as it is, and one with the same status keeps the time of
/// its last transition.
pub(crate) fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(old) = find(status, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
    remove(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

/// Removes the condition of this type.
pub(crate) fn remove(status: &mut DeploymentStatus, type_: &str) {
    let conditions = status.conditions.take().unwrap_or_default();
    let left: Vec<_> = conditions.into_iter().filter(|condition| condition.type_ != type_).collect();
    status.conditions = (!left.is_empty()).then_some(left);
}

/// Sums, and `Available`; the other conditions as in `conditions`.
pub(crate) fn summarize(
    draft: &Draft<'_>,
    conditions: Option<Vec<DeploymentCondition>>,
    now: Timestamp,
) -> DeploymentStatus {
    let deployment = draft.deployment;
    let sum = |count: &dyn Fn(&ReplicaSetStatus) -> i32| -> i32 {
        draft.sets().filter_map(|set| set.status.as_ref()).map(count).sum()
    };
    let counted = |number: i32| (number != 0).then_some(number);
    let available = sum(&|status| status.available_replicas.unwrap_or(0));
    let updated = draft.newest.as_ref().map_or(0, |newest| facts::status(&newest.set).replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation.filter(|generation| *generation != 0),
        replicas: counted(sum(&|status| status.replicas)),
        updated_replicas: counted(updated),
        ready_replicas: counted(sum(&|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: counted(available),
        unavailable_replicas: counted((draft.total() - available).max(0)),
        terminating_replicas: terminating(draft),
        collision_count: deployment.status.as_ref().and_then(|status| status.collision_count),
        conditions,
    };
    let enough = available >= facts::replicas(deployment) - facts::max_unavailable(deployment);
    set(
        &mut status,
        if enough {
            condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
        } else {
            let message = "Deployment does not have minimum availability.";
            condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
        },
    );
    status
}

/// Terminating pods of all sets; unknown where a set that was looked at does not say.
fn terminating(draft: &Draft<'_>) -> Option<i32> {
    let said = draft
        .sets()
        .map(facts::status)
        .filter(|status| status.observed_generation.unwrap_or(0) != 0 || status.terminating_replicas.is_some());
    said.map(|status| status.terminating_replicas).sum()
}

/// Estimates the progress of a rollout, and takes over failures of the sets.
pub(crate) fn judge_rollout(draft: &Draft<'_>, status: &mut DeploymentStatus, now: Timestamp) {
    let deployment = draft.deployment;
    let stored = deployment.status.clone().unwrap_or_default();
    if facts::progress_deadline(deployment).is_none() {
        remove(status, PROGRESSING);
    }
    let was_complete = status.replicas == status.updated_replicas && reason(status, PROGRESSING) == COMPLETE;
    if facts::progress_deadline(deployment).is_some() && !was_complete {
        judge_progress(draft, status, &stored, now);
    }
    match failure(draft) {
        Some(failure) => set(status, failure),
        None => remove(status, REPLICA_FAILURE),
    }
}

fn judge_progress(draft: &Draft<'_>, status: &mut DeploymentStatus, stored: &DeploymentStatus, now: Timestamp) {
    let deployment = draft.deployment;
    let what = match &draft.newest {
        Some(newest) => format!("ReplicaSet \"{}\"", newest.set.name()),
        None => format!("Deployment \"{}\"", deployment.name()),
    };
    if facts::is_complete(deployment, status) {
        let message = format!("{what} has successfully progressed.");
        set(status, condition(PROGRESSING, "True", COMPLETE, &message, now));
    } else if has_progressed(stored, status) {
        let mut new = condition(PROGRESSING, "True", UPDATED, &format!("{what} is progressing."), now);
        if let Some(old) = find(status, PROGRESSING).filter(|old| old.status == "True") {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
        // Also with an unchanged reason: the time of the last progress is the point here.
        remove(status, PROGRESSING);
        set(status, new);
    } else if has_timed_out(deployment, status, now) {
        let message = format!("{what} has timed out progressing.");
        set(status, condition(PROGRESSING, "False", TIMED_OUT, &message, now));
    }
}

/// More new pods, fewer old ones, or more ready or available ones than were stored.
fn has_progressed(stored: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(status.updated_replicas) > n(stored.updated_replicas)
        || old(status) < old(stored)
        || n(status.ready_replicas) > n(stored.ready_replicas)
        || n(status.available_replicas) > n(stored.available_replicas)
}

/// When the deadline of a rollout in progress ends.
fn deadline(deployment: &Deployment, status: &DeploymentStatus) -> Option<Timestamp> {
    let seconds = facts::progress_deadline(deployment)?;
    let since = find(status, PROGRESSING)?.last_update_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(i64::from(seconds))).ok()
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    match reason(status, PROGRESSING) {
        COMPLETE => false,
        TIMED_OUT => true,
        _ => deadline(deployment, status).is_some_and(|deadline| deadline < now),
    }
}

/// How long until the progress must be judged again though nothing changes.
pub(crate) fn next_judgement(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    if facts::is_complete(deployment, status) || matches!(reason(status, PROGRESSING), TIMED_OUT | COMPLETE) {
        return None;
    }
    let left = deadline(deployment, status)?.duration_since(now);
    Some(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
}

/// A failure of the newest set, else of any.
fn failure(draft: &Draft<'_>) -> Option<DeploymentCondition> {
    let sets = draft.newest.iter().chain(&draft.old).filter_map(|entry| entry.set.status.as_ref());
    let mut failures = sets.flat_map(|s| s.conditions.iter().flatten()).filter(|c| c.type_ == REPLICA_FAILURE);
    failures.next().map(|failure| DeploymentCondition {
        type_: failure.type_.clone(),
        status: failure.status.clone(),
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        last_update_time: failure.last_transition_time.clone(),
        last_transition_time: failure.last_transition_time.clone(),
    })
}

/// Whether a status may be told at once: the rollout is at its end, good or bad, or stands still on purpose.
pub(crate) fn at_rest(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    facts::is_complete(deployment, status)
        || facts::is_paused(deployment)
        || deployment.deleting()
        || reason(status, PROGRESSING) == TIMED_OUT
        || find(status, REPLICA_FAILURE).is_some()
}
