//! Sizes: rolling, recreating, and scaling in proportion. Each function edits the draft by one step that keeps both
//! bounds (never more pods than surge allows, never fewer available ones than promised).

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::draft::Draft;
use super::facts;
use super::revision::{DESIRED, MAXIMUM, annotation};

/// One step of a rolling update: up with the new, or else down with the old.
pub(crate) fn roll(draft: &mut Draft<'_>) {
    if !grow_newest(draft) {
        shrink_old(draft);
    }
}

fn grow_newest(draft: &mut Draft<'_>) -> bool {
    let desired = facts::replicas(draft.deployment);
    let Some(newest) = &draft.newest else { return false };
    let size = if facts::size(&newest.set) > desired { desired } else { draft.room_for_newest() };
    // A set about to be created has its size already.
    newest.before.is_some() && draft.scale_newest(size)
}

/// Takes pods from old sets: first those that are not available anyway, then as many as are available beyond what was
/// promised.
fn shrink_old(draft: &mut Draft<'_>) {
    let Some(newest) = draft.newest.as_ref().map(|newest| &newest.set) else { return };
    let promised = facts::replicas(draft.deployment) - facts::max_unavailable(draft.deployment);
    let unavailable = facts::size(newest) - facts::available(newest);
    let mut removable = draft.total().saturating_sub(promised).saturating_sub(unavailable);
    for index in 0..draft.old.len() {
        let set = &draft.old[index].set;
        let (size, idle) = (facts::size(set), facts::size(set) - facts::available(set));
        if removable <= 0 {
            break;
        }
        if size > 0 && idle > 0 {
            let taken = idle.min(removable);
            draft.scale_old(index, size - taken);
            removable -= taken;
        }
    }
    // Statuses lag behind sizes: what was just taken may still be counted as available, but not in `removable`.
    let available: i32 = draft.sets().map(facts::available).sum();
    let mut surplus = (available - promised).min(removable);
    for index in 0..draft.old.len() {
        let size = facts::size(&draft.old[index].set);
        if surplus > 0 && size > 0 {
            let taken = size.min(surplus);
            draft.scale_old(index, size - taken);
            surplus -= taken;
        }
    }
}

/// Takes all pods from old sets; answers with whether there were any.
pub(crate) fn stop_old(draft: &mut Draft<'_>) -> bool {
    (0..draft.old.len()).fold(false, |scaled, index| draft.scale_old(index, 0) | scaled)
}

/// Whether the Deployment was scaled since its sets last noted its size.
pub(crate) fn was_scaled(draft: &Draft<'_>) -> bool {
    let desired = facts::replicas(draft.deployment);
    let noted = |set: &ReplicaSet| annotation(set, DESIRED).and_then(|text| text.parse::<i32>().ok());
    draft.sets().filter(|set| facts::size(set) > 0).filter_map(noted).any(|noted| noted != desired)
}

/// Brings the sets to the Deployment's size without going on with the rollout: one active set takes all of it, several
/// share the difference in proportion.
pub(crate) fn scale_in_proportion(draft: &mut Draft<'_>) {
    let desired = facts::replicas(draft.deployment);
    let active = |set: &ReplicaSet| facts::size(set) > 0;
    let newest_active = draft.newest.as_ref().is_some_and(|newest| active(&newest.set));
    let old_active: Vec<usize> = (0..draft.old.len()).filter(|index| active(&draft.old[*index].set)).collect();
    match (newest_active, &*old_active) {
        (false, []) if draft.newest.is_none() => {
            if let Some(last) = draft.old.len().checked_sub(1) {
                draft.scale_old(last, desired);
            }
        }
        (_, []) => {
            draft.scale_newest(desired);
        }
        (false, [only]) => {
            draft.scale_old(*only, desired);
        }
        _ if is_saturated(draft) => {
            stop_old(draft);
        }
        _ if facts::is_rolling(draft.deployment) => share(draft),
        _ => {}
    }
}

/// Whether the newest set has all pods of the Deployment, available, and knows it.
fn is_saturated(draft: &Draft<'_>) -> bool {
    let desired = facts::replicas(draft.deployment);
    draft.newest.as_ref().is_some_and(|newest| {
        let noted = annotation(&newest.set, DESIRED).and_then(|text| text.parse().ok());
        facts::size(&newest.set) == desired && noted == Some(desired) && facts::available(&newest.set) == desired
    })
}

/// Shares what is to be added or removed among the active sets by their size, the largest first, and of equals the
/// newer ones when growing, the older ones when shrinking. What rounding leaves over goes to the first.
fn share(draft: &mut Draft<'_>) {
    let deployment = draft.deployment;
    let desired = facts::replicas(deployment);
    let allowed = if desired > 0 { facts::most(deployment) } else { 0 };
    let difference = allowed - draft.total();
    // Old sets by their index, the newest as `None`; old ones are sorted by age, the newest set is the youngest.
    let mut active: Vec<(i32, usize, Option<usize>)> = draft
        .old
        .iter()
        .enumerate()
        .map(|(index, entry)| (facts::size(&entry.set), index, Some(index)))
        .chain(draft.newest.iter().map(|newest| (facts::size(&newest.set), draft.old.len(), None)))
        .filter(|(size, ..)| *size > 0)
        .collect();
    active.sort_by_key(|(size, age, _)| {
        let age = i64::try_from(*age).unwrap_or(i64::MAX);
        (-size, if difference > 0 { -age } else { age })
    });
    let mut left = difference;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for (size, _, which) in &active {
        let set = match which {
            Some(index) => draft.old.get(*index),
            None => draft.newest.as_ref(),
        };
        let part = set.map_or(0, |entry| fraction(deployment, &entry.set));
        let part = if difference > 0 { part.min(left) } else { part.max(left) };
        let part = if left == 0 { 0 } else { part };
        sizes.push(size + part);
        left -= part;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    for ((_, _, which), size) in active.iter().zip(sizes) {
        match which {
            Some(index) => draft.scale_old(*index, size),
            None => draft.scale_newest(size),
        };
    }
    draft.annotate_active();
}

/// By how much a set would change if it kept its part of the whole.
fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let desired = facts::replicas(deployment);
    let size = facts::size(set);
    if desired == 0 {
        return -size;
    }
    let noted = annotation(set, MAXIMUM).and_then(|text| text.parse::<i32>().ok()).filter(|noted| *noted > 0);
    // Where somebody removed the note, the present size must do.
    let present = || deployment.status.as_ref().and_then(|status| status.replicas).filter(|now| *now > 0);
    let Some(before) = noted.or_else(present) else { return 0 };
    let whole = f64::from(facts::most(deployment));
    (f64::from(size) * whole / f64::from(before)).round() as i32 - size
}
