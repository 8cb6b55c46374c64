//! What a StatefulSet needs, from a snapshot of its pods. Pure.
//!
//! In order (`OrderedReady`), one thing happens at a time: a pod is started when all before it are available, and stopped
//! when all others are. In parallel (`Parallel`), pods do not wait for one another, but updates still go one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use skiff_api::pods::{available_at, is_available, is_finished, is_ready, phase};
use skiff_client::Kind;

use super::identity;
use crate::shared::{counter, scaled};

/// What is known of one StatefulSet.
pub(crate) struct Snapshot<'a> {
    pub(crate) set: &'a StatefulSet,
    /// Its pods, claimed already.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Name and template of the revision it comes from.
    pub(crate) current: (&'a str, &'a PodTemplateSpec),
    /// Name and template of the revision it goes to.
    pub(crate) update: (&'a str, &'a PodTemplateSpec),
    pub(crate) now: Timestamp,
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Pods to create, with their ordinals; their volume claims go before them.
    pub(crate) create: Vec<(i32, Pod)>,
    /// Pods to delete.
    pub(crate) delete: Vec<Arc<Pod>>,
}

/// Missing pods that one plan makes, at most.
const BURST: usize = 500;

/// A pod that is to be.
enum Slot {
    Here(Arc<Pod>),
    Missing(i32),
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn min_ready_seconds(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

fn is_ordered(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref()) != Some("Parallel")
}

impl Snapshot<'_> {
    fn is_up(&self, pod: &Pod) -> bool {
        phase(pod) == "Running" && !pod.deleting() && is_available(pod, min_ready_seconds(self.set), self.now)
    }

    /// The pods that are to be, in order, and those that are not, the highest ordinal first.
    fn slots(&self) -> (Vec<Slot>, Vec<Arc<Pod>>) {
        let pods = self.pods.iter().filter_map(|pod| Some((identity::ordinal(self.set, pod)?, pod.clone())));
        let mut pods: BTreeMap<i32, Arc<Pod>> = pods.collect();
        let start = identity::start(self.set);
        let end = start.saturating_add(replicas(self.set));
        let mut condemned = pods.split_off(&end);
        let mut here = pods.split_off(&start);
        condemned.append(&mut pods);
        let (mut slots, mut missing) = (Vec::new(), 0);
        for ordinal in start..end {
            match here.remove(&ordinal) {
                Some(pod) => slots.push(Slot::Here(pod)),
                None if missing < BURST => {
                    slots.push(Slot::Missing(ordinal));
                    missing += 1;
                }
                // The others come when these are there.
                None => break,
            }
        }
        slots.extend(here.into_values().map(Slot::Here));
        (slots, condemned.into_values().rev().collect())
    }

    /// The pod to create with this ordinal: below the partition with the template the set comes from.
    fn pod(&self, ordinal: i32) -> Pod {
        let rolling = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let on_delete = rolling.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
        let kept = match rolling.and_then(|strategy| strategy.rolling_update.as_ref()) {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None => self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0),
        };
        let from_current = !on_delete && ordinal < identity::start(self.set).saturating_add(kept);
        let (revision, template) = if from_current { self.current } else { self.update };
        identity::pod(self.set, template, revision, ordinal)
    }
}

/// The plan for a StatefulSet.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    if snapshot.set.deleting() {
        return Plan::default();
    }
    let ordered = is_ordered(snapshot.set);
    let (slots, condemned) = snapshot.slots();
    let mut plan = Plan::default();
    for slot in &slots {
        let settled = match slot {
            Slot::Missing(ordinal) => {
                plan.create.push((*ordinal, snapshot.pod(*ordinal)));
                false
            }
            Slot::Here(pod) if is_finished(pod) => {
                if !pod.deleting() {
                    plan.delete.push(pod.clone());
                }
                false
            }
            Slot::Here(pod) => snapshot.is_up(pod),
        };
        if ordered && !settled {
            return plan;
        }
    }
    if !condemn(snapshot, &slots, &condemned, ordered, &mut plan) {
        return plan;
    }
    if plan == Plan::default() {
        plan.delete = outdated(snapshot, &slots);
    }
    plan
}

/// Stops pods that are not to be; answers with whether updates may go on.
fn condemn(snapshot: &Snapshot<'_>, slots: &[Slot], condemned: &[Arc<Pod>], ordered: bool, plan: &mut Plan) -> bool {
    if !ordered {
        plan.delete.extend(condemned.iter().filter(|pod| !pod.deleting()).cloned());
        return condemned.is_empty();
    }
    let Some(highest) = condemned.first() else { return true };
    // A pod that is down may go only if it is the first one down: the others must be up before they are counted on less.
    let down = |pod: &Arc<Pod>| !snapshot.is_up(pod);
    let here = slots.iter().filter_map(|slot| match slot {
        Slot::Here(pod) => Some(pod),
        Slot::Missing(_) => None,
    });
    let first_down = here.chain(condemned.iter().rev()).find(|pod| down(pod));
    let may_go = !down(highest) || first_down.is_some_and(|first| first.uid() == highest.uid());
    if !highest.deleting() && may_go {
        plan.delete.push(highest.clone());
    }
    false
}

/// Pods with an old template that are to go now: from the highest ordinal down to the partition, as many at a time as may
/// be missing.
fn outdated(snapshot: &Snapshot<'_>, slots: &[Slot]) -> Vec<Arc<Pod>> {
    let strategy = snapshot.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Vec::new();
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
    let allowed = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let allowed = allowed.map_or(1, |bound| scaled(bound, replicas(snapshot.set), false)).max(1);
    let pods = || {
        slots.iter().filter_map(|slot| match slot {
            Slot::Here(pod) => Some(pod),
            Slot::Missing(_) => None,
        })
    };
    let missing = pods().filter(|pod| !snapshot.is_up(pod)).count();
    let allowed = usize::try_from(allowed).unwrap_or(1).saturating_sub(missing);
    let lowest = identity::start(snapshot.set).saturating_add(partition);
    let old = |pod: &&Arc<Pod>| {
        let in_range = identity::ordinal(snapshot.set, pod).is_some_and(|ordinal| ordinal >= lowest);
        in_range && identity::revision_of(pod) != snapshot.update.0 && !pod.deleting()
    };
    pods().rev().filter(old).take(allowed).cloned().collect()
}

/// The status of a StatefulSet.
pub(crate) fn status(snapshot: &Snapshot<'_>) -> StatefulSetStatus {
    let set = snapshot.set;
    let old = set.status.clone().unwrap_or_default();
    let count = |fits: &dyn Fn(&Pod) -> bool| counter(snapshot.pods.iter().filter(|pod| fits(pod)).count());
    let running = |pod: &Pod| phase(pod) == "Running" && is_ready(pod);
    let has = |pod: &Pod, revision: &str| !pod.deleting() && identity::revision_of(pod) == revision;
    let (current, update) = (snapshot.current.0, snapshot.update.0);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true).unwrap_or(0),
        ready_replicas: count(&running),
        available_replicas: count(&|pod| running(pod) && is_available(pod, min_ready_seconds(set), snapshot.now)),
        current_replicas: count(&|pod| has(pod, current)),
        updated_replicas: count(&|pod| has(pod, update)),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    };
    let updated = status.updated_replicas.unwrap_or(0);
    if current != update && updated == replicas(set) && status.ready_replicas.unwrap_or(0) == status.replicas {
        // The update is complete: where it went to is where the next one comes from.
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
    status
}

/// Whether a status is one a set stays in.
pub(crate) fn at_rest(set: &StatefulSet, status: &StatefulSetStatus) -> bool {
    status.replicas == replicas(set)
        && status.available_replicas.unwrap_or(0) == replicas(set)
        && status.current_revision == status.update_revision
}

/// When the next pod becomes available by the passing of time alone.
pub(crate) fn next_available(snapshot: &Snapshot<'_>) -> Option<Duration> {
    let seconds = min_ready_seconds(snapshot.set);
    let times = snapshot.pods.iter().filter(|_| seconds > 0).filter_map(|pod| available_at(pod, seconds));
    Duration::try_from(times.filter(|at| *at > snapshot.now).min()?.duration_since(snapshot.now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use skiff_meta::patch::merge_patch;

    fn set(replicas: i32, change: Value) -> StatefulSet {
        let value = json!({"metadata": {"name": "db", "namespace": "ns", "uid": "u", "generation": 1},
            "spec": {"replicas": replicas, "selector": {}, "template": {}}});
        serde_json::from_value(merge_patch(&value, &change)).expect("a set")
    }

    fn pod(ordinal: i32, revision: &str, change: Value) -> Arc<Pod> {
        let value = json!({"metadata": {"name": format!("db-{ordinal}"), "uid": format!("u{ordinal}"),
                "labels": {"controller-revision-hash": revision}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        Arc::new(serde_json::from_value(merge_patch(&value, &change)).expect("a pod"))
    }

    fn look<R>(set: &StatefulSet, pods: &[Arc<Pod>], see: impl FnOnce(&Snapshot<'_>) -> R) -> R {
        let template = PodTemplateSpec::default();
        let (current, update) = (("v1", &template), ("v2", &template));
        see(&Snapshot { set, pods, current, update, now: Timestamp::UNIX_EPOCH })
    }

    fn planned(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<String> {
        let plan = look(set, pods, plan);
        let created = plan.create.iter().map(|(_, pod)| format!("+{}@{}", pod.name(), identity::revision_of(pod)));
        created.chain(plan.delete.iter().map(|pod| format!("-{}", pod.name()))).collect()
    }

    fn down() -> Value {
        json!({"status": {"conditions": null}})
    }

    fn going() -> Value {
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    }

    #[test]
    fn in_order_one_thing_happens_at_a_time() {
        let up = |ordinal| pod(ordinal, "v2", json!({}));
        let table = [
            ("the first", 3, vec![], vec!["+db-0@v2"]),
            ("waits", 3, vec![pod(0, "v2", down())], vec![]),
            ("the second", 3, vec![up(0)], vec!["+db-1@v2"]),
            ("fills a gap", 3, vec![up(0), up(2)], vec!["+db-1@v2"]),
            ("all there", 2, vec![up(0), up(1)], vec![]),
            (
                "replaces what ended",
                2,
                vec![pod(0, "v2", json!({"status": {"phase": "Failed"}})), up(1)],
                vec!["-db-0"],
            ),
            ("the last goes first", 1, vec![up(0), up(1), up(2)], vec!["-db-2"]),
            ("waits for it to go", 1, vec![up(0), up(1), pod(2, "v2", going())], vec![]),
            (
                "does not go while one before is down",
                1,
                vec![up(0), pod(1, "v2", down()), pod(2, "v2", down())],
                vec![],
            ),
            ("the only one down may go", 1, vec![up(0), pod(1, "v2", down())], vec!["-db-1"]),
        ];
        for (name, replicas, pods, expected) in table {
            assert_eq!(planned(&set(replicas, json!({})), &pods), expected, "{name}");
        }
    }

    #[test]
    fn in_parallel_nobody_waits() {
        let parallel = json!({"spec": {"podManagementPolicy": "Parallel", "ordinals": {"start": 1}}});
        let pods = [pod(0, "v2", json!({})), pod(2, "v2", down()), pod(5, "v2", json!({}))];
        assert_eq!(planned(&set(3, parallel), &pods), ["+db-1@v2", "+db-3@v2", "-db-5", "-db-0"]);
    }

    #[test]
    fn updates_go_down_to_the_partition() {
        let strategy = |value: Value| json!({"spec": {"updateStrategy": value}});
        let (up, old) = (|ordinal| pod(ordinal, "v2", json!({})), |ordinal| pod(ordinal, "v1", json!({})));
        let partition = strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}));
        let two = strategy(json!({"rollingUpdate": {"partition": 0, "maxUnavailable": 2}}));
        let table = [
            ("the highest first", json!({}), vec![old(0), old(1), old(2)], vec!["-db-2"]),
            ("then the next", json!({}), vec![old(0), old(1), up(2)], vec!["-db-1"]),
            ("waits for the new one", json!({}), vec![old(0), old(1), pod(2, "v2", down())], vec![]),
            ("not below the partition", partition.clone(), vec![old(0), old(1), up(2)], vec![]),
            ("below it the old template", partition, vec![old(0), up(2)], vec!["+db-1@v1"]),
            ("two at a time", two, vec![old(0), old(1), old(2)], vec!["-db-2", "-db-1"]),
            ("not by itself", strategy(json!({"type": "OnDelete"})), vec![old(0), old(1), old(2)], vec![]),
        ];
        for (name, change, pods, expected) in table {
            assert_eq!(planned(&set(3, change), &pods), expected, "{name}");
        }
    }

    #[test]
    fn statuses_tell_when_an_update_is_complete() {
        let half = [pod(0, "v1", json!({})), pod(1, "v2", down())];
        let status_of = |pods: &[Arc<Pod>]| look(&set(2, json!({})), pods, status);
        let status = status_of(&half);
        assert_eq!((status.replicas, status.ready_replicas, status.current_replicas), (2, Some(1), Some(1)));
        assert_eq!(status.current_revision.as_deref(), Some("v1"));
        assert!(!at_rest(&set(2, json!({})), &status));
        let status = status_of(&[pod(0, "v2", json!({})), pod(1, "v2", json!({}))]);
        assert_eq!((status.current_revision.as_deref(), status.current_replicas), (Some("v2"), Some(2)));
        assert!(at_rest(&set(2, json!({})), &status));
    }
}
