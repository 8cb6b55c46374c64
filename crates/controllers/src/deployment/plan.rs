//! What a Deployment needs, from a snapshot of its ReplicaSets. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use skiff_client::Kind;

use super::draft::{Draft, Told};
use super::status::{self, PROGRESSING, TIMED_OUT, condition};
use super::{facts, revision, scale};

/// What is known of one Deployment.
pub(crate) struct Snapshot<'a> {
    /// The Deployment.
    pub(crate) deployment: &'a Deployment,
    /// Its ReplicaSets, claimed already.
    pub(crate) sets: &'a [Arc<ReplicaSet>],
    /// UIDs of ReplicaSets with pods that have not ended.
    pub(crate) with_pods: &'a [String],
    /// Now.
    pub(crate) now: Timestamp,
}

/// What to write, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// The Deployment itself, to roll it back; nothing else happens then.
    pub(crate) rollback: Option<Deployment>,
    /// The ReplicaSet of a new revision.
    pub(crate) create: Option<ReplicaSet>,
    /// ReplicaSets with another size or other annotations.
    pub(crate) update: Vec<ReplicaSet>,
    /// ReplicaSets beyond the history's limit.
    pub(crate) delete: Vec<Arc<ReplicaSet>>,
    /// The Deployment with its new status and revision annotation, where they differ.
    pub(crate) status: Option<Deployment>,
    /// Whether the status may be written without waiting for more.
    pub(crate) at_rest: bool,
    /// What to tell.
    pub(crate) events: Vec<Told>,
    /// When to look again though nothing changes.
    pub(crate) look_again: Option<Duration>,
}

/// The plan for a Deployment.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let deployment = snapshot.deployment;
    let mut draft = Draft::new(deployment, snapshot.sets);
    let mut conditions = deployment.status.clone().unwrap_or_default();
    if deployment.deleting() {
        return finish(snapshot, &draft, conditions, Rollout::Still);
    }
    note_pause(snapshot, &mut conditions);
    if let Some(revision) = wanted_rollback(deployment).filter(|_| !facts::is_paused(deployment)) {
        return roll_back(&mut draft, revision);
    }
    if facts::is_paused(deployment) || scale::was_scaled(&draft) {
        draft.sync_revision(false);
        scale::scale_in_proportion(&mut draft);
        let delete = if facts::is_paused(deployment) { draft.expired() } else { Vec::new() };
        return Plan { delete, ..finish(snapshot, &draft, conditions, Rollout::Still) };
    }
    if facts::is_rolling(deployment) {
        draft.sync_revision(true);
        scale::roll(&mut draft);
    } else {
        recreate(snapshot, &mut draft);
    }
    let complete = deployment.status.as_ref().is_some_and(|status| facts::is_complete(deployment, status));
    let delete = if complete && draft.changed().is_empty() { draft.expired() } else { Vec::new() };
    note_revision(snapshot, &draft, &mut conditions);
    Plan { delete, ..finish(snapshot, &draft, conditions, Rollout::Judged) }
}

/// Whether a status judges the progress of a rollout.
#[derive(Clone, Copy, PartialEq)]
enum Rollout {
    Judged,
    Still,
}

/// Stops all old pods before it starts any new one.
fn recreate(snapshot: &Snapshot<'_>, draft: &mut Draft<'_>) {
    draft.sync_revision(false);
    if scale::stop_old(draft) {
        return;
    }
    let newest = draft.newest.as_ref().map(|newest| newest.set.uid().to_owned());
    let others_run = snapshot.with_pods.iter().any(|uid| Some(uid) != newest.as_ref());
    if others_run || draft.old.iter().any(|entry| facts::status(&entry.set).replicas > 0) {
        return;
    }
    if draft.newest.is_none() {
        draft.sync_revision(true);
    }
    draft.scale_newest(facts::replicas(snapshot.deployment));
}

fn finish(snapshot: &Snapshot<'_>, draft: &Draft<'_>, conditions: DeploymentStatus, rollout: Rollout) -> Plan {
    let deployment = snapshot.deployment;
    let mut status = status::summarize(draft, conditions.conditions, snapshot.now);
    if rollout == Rollout::Judged {
        status::judge_rollout(draft, &mut status, snapshot.now);
    }
    let mut updated = deployment.clone();
    if let Some(newest) = &draft.newest
        && let Some(revision) = revision::annotation(&newest.set, revision::REVISION)
    {
        let annotations = updated.metadata.annotations.get_or_insert_default();
        annotations.insert(revision::REVISION.to_owned(), revision.to_owned());
    }
    let look_again = match rollout {
        Rollout::Judged => status::next_judgement(deployment, &status, snapshot.now),
        Rollout::Still => None,
    };
    let create = draft.newest.as_ref().filter(|newest| newest.before.is_none());
    // The beginning of a rollout is told at once: it is the point from which progress is judged.
    let at_rest = create.is_some() || status::at_rest(deployment, &status);
    updated.status = Some(status);
    Plan {
        rollback: None,
        create: create.map(|newest| newest.set.clone()),
        update: draft.changed(),
        delete: Vec::new(),
        status: (updated != *deployment).then_some(updated),
        at_rest,
        events: draft.events.clone(),
        look_again,
    }
}

/// A pause suspends the judgement of progress, and so does its end, until something moves.
fn note_pause(snapshot: &Snapshot<'_>, conditions: &mut DeploymentStatus) {
    let deployment = snapshot.deployment;
    let reason = status::reason(conditions, PROGRESSING).to_owned();
    if facts::progress_deadline(deployment).is_none() || reason == TIMED_OUT {
        return;
    }
    let note = |reason, message| condition(PROGRESSING, "Unknown", reason, message, snapshot.now);
    match (facts::is_paused(deployment), reason == "DeploymentPaused") {
        (true, false) => status::set(conditions, note("DeploymentPaused", "Deployment is paused")),
        (false, true) => status::set(conditions, note("DeploymentResumed", "Deployment is resumed")),
        _ => {}
    }
}

/// Notes that a new ReplicaSet was created, or an existing one found: the point from which progress is judged.
fn note_revision(snapshot: &Snapshot<'_>, draft: &Draft<'_>, conditions: &mut DeploymentStatus) {
    let Some(newest) = &draft.newest else { return };
    if facts::progress_deadline(snapshot.deployment).is_none() {
        return;
    }
    let (name, now) = (newest.set.name(), snapshot.now);
    if newest.before.is_none() {
        let message = format!("Created new replica set \"{name}\"");
        status::set(conditions, condition(PROGRESSING, "True", "NewReplicaSetCreated", &message, now));
    } else if status::find(conditions, PROGRESSING).is_none() {
        let message = format!("Found new replica set \"{name}\"");
        status::set(conditions, condition(PROGRESSING, "True", "FoundNewReplicaSet", &message, now));
    }
}

/// The revision to roll back to, 0 for the last one, where that was asked for.
fn wanted_rollback(deployment: &Deployment) -> Option<i64> {
    revision::annotation(deployment, revision::ROLLBACK)?.parse().ok()
}

fn roll_back(draft: &mut Draft<'_>, wanted: i64) -> Plan {
    draft.sync_revision(false);
    let deployment = draft.deployment;
    let mut revisions: Vec<i64> = draft.sets().map(revision::revision).collect();
    revisions.sort_unstable();
    let last = revisions.len().checked_sub(2).and_then(|at| revisions.get(at)).copied().unwrap_or(0);
    let wanted = if wanted == 0 { last } else { wanted };
    let found = draft.sets().find(|set| wanted != 0 && revision::revision(*set) == wanted);
    let (rollback, event) = match found {
        None => {
            let message = "Unable to find the revision to rollback to.".to_owned();
            (revision::without_rollback(deployment), ("DeploymentRollbackRevisionNotFound", message))
        }
        Some(set) if revision::is_newest(deployment, set) => {
            let name = deployment.name();
            let message = format!("The rollback revision contains the same template as current deployment \"{name}\"");
            (revision::without_rollback(deployment), ("DeploymentRollbackTemplateUnchanged", message))
        }
        Some(set) => {
            let message = format!("Rolled back deployment \"{}\" to revision {wanted}", deployment.name());
            (revision::rolled_back(deployment, set), ("DeploymentRollback", message))
        }
    };
    Plan { rollback: Some(rollback), events: vec![event], ..Plan::default() }
}

#[cfg(test)]
mod tests;
