//! The ReplicaSets of a Deployment as they are to be: copies that the plan edits, and in the end compares with what is.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use skiff_client::Kind;

use super::{facts, revision};

/// A happening worth an event: reason and message. All are `Normal` but those whose reason says otherwise.
pub(crate) type Told = (&'static str, String);

/// One ReplicaSet: as it is (`None`: to be created), and as it is to be.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) before: Option<Arc<ReplicaSet>>,
    pub(crate) set: ReplicaSet,
}

/// All ReplicaSets of a Deployment.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) deployment: &'a Deployment,
    /// The one with the present template.
    pub(crate) newest: Option<Entry>,
    /// The others, the oldest first.
    pub(crate) old: Vec<Entry>,
    pub(crate) events: Vec<Told>,
}

/// Order of age: creation time, then name.
fn age(set: &ReplicaSet) -> (Option<jiff::Timestamp>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.name())
}

impl<'a> Draft<'a> {
    /// From the ReplicaSets there are.
    pub(crate) fn new(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>]) -> Self {
        let mut sets = sets.to_vec();
        sets.sort_by(|a, b| age(a).cmp(&age(b)));
        // Of several with the same template, which upgrades leave behind at times, the oldest is the newest revision.
        let newest = sets.iter().position(|set| revision::is_newest(deployment, set)).map(|at| sets.remove(at));
        let entry = |set: Arc<ReplicaSet>| Entry { set: (*set).clone(), before: Some(set) };
        Self { deployment, newest: newest.map(entry), old: sets.into_iter().map(entry).collect(), events: Vec::new() }
    }

    /// All sets, the old ones first.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &ReplicaSet> + Clone {
        self.old.iter().chain(&self.newest).map(|entry| &entry.set)
    }

    /// How many pods all sets together are to have.
    pub(crate) fn total(&self) -> i32 {
        self.sets().map(facts::size).fold(0, i32::saturating_add)
    }

    /// Brings revision and annotations of the newest set up to date; creates it where `create` says so.
    pub(crate) fn sync_revision(&mut self, create: bool) {
        let next = self.old.iter().map(|entry| revision::revision(&entry.set)).max().unwrap_or(0) + 1;
        if let Some(newest) = &mut self.newest {
            revision::annotate_newest(self.deployment, &mut newest.set, next);
            if let Some(spec) = &mut newest.set.spec {
                let seconds = |seconds: Option<i32>| seconds.unwrap_or(0);
                if seconds(spec.min_ready_seconds) != seconds(facts::min_ready_seconds(self.deployment)) {
                    spec.min_ready_seconds = facts::min_ready_seconds(self.deployment);
                }
            }
            return;
        }
        if !create {
            return;
        }
        let mut set = revision::new_set(self.deployment);
        revision::annotate_newest(self.deployment, &mut set, next);
        revision::annotate_size(self.deployment, &mut set);
        self.newest = Some(Entry { before: None, set });
        let size = self.room_for_newest();
        self.scale_newest(size);
    }

    /// The size the newest set may grow to now.
    pub(crate) fn room_for_newest(&self) -> i32 {
        let desired = facts::replicas(self.deployment);
        if !facts::is_rolling(self.deployment) {
            return desired;
        }
        let now = self.newest.as_ref().map_or(0, |newest| facts::size(&newest.set));
        let room = facts::most(self.deployment) - self.total();
        if room <= 0 { now } else { now + room.min(desired - now) }
    }

    /// Sets the size of the newest set; answers with whether it changed.
    pub(crate) fn scale_newest(&mut self, size: i32) -> bool {
        let Some(entry) = &mut self.newest else { return false };
        scale(self.deployment, entry, size, &mut self.events)
    }

    /// Sets the size of an old set; answers with whether it changed.
    pub(crate) fn scale_old(&mut self, index: usize, size: i32) -> bool {
        let Some(entry) = self.old.get_mut(index) else { return false };
        scale(self.deployment, entry, size, &mut self.events)
    }

    /// Notes the Deployment's size on all sets that have or are to have pods, as proportional scaling does.
    pub(crate) fn annotate_active(&mut self) {
        for entry in self.old.iter_mut().chain(&mut self.newest) {
            let before = entry.before.as_deref().map_or(0, facts::size);
            if before > 0 {
                revision::annotate_size(self.deployment, &mut entry.set);
            }
        }
    }

    /// Old sets that the history has no room for: the oldest, without pods and settled.
    pub(crate) fn expired(&self) -> Vec<Arc<ReplicaSet>> {
        let Some(limit) = facts::history_limit(self.deployment) else { return Vec::new() };
        let mut alive: Vec<&Entry> = self.old.iter().filter(|entry| !entry.set.deleting()).collect();
        alive.sort_by_key(|entry| revision::revision(&entry.set));
        let surplus = alive.len().saturating_sub(limit);
        let idle = |set: &ReplicaSet| {
            let status = facts::status(set);
            let observed = status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0);
            status.replicas == 0 && facts::size(set) == 0 && observed
        };
        alive.into_iter().take(surplus).filter(|entry| idle(&entry.set)).filter_map(|e| e.before.clone()).collect()
    }

    /// The sets to update: those that are not as they were.
    pub(crate) fn changed(&self) -> Vec<ReplicaSet> {
        let all = self.newest.iter().chain(&self.old);
        let changed = all.filter(|entry| entry.before.as_deref().is_some_and(|before| *before != entry.set));
        changed.map(|entry| entry.set.clone()).collect()
    }
}

fn scale(deployment: &Deployment, entry: &mut Entry, size: i32, events: &mut Vec<Told>) -> bool {
    let before = facts::size(&entry.set);
    if before == size {
        return false;
    }
    if let Some(spec) = &mut entry.set.spec {
        spec.replicas = Some(size);
    }
    revision::annotate_size(deployment, &mut entry.set);
    let direction = if before < size { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {} from {before} to {size}", entry.set.name());
    events.push(("ScalingReplicaSet", message));
    true
}
