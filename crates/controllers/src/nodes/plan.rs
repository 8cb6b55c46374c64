//! What to do about one node: conditions, taints, pods that must leave. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::{pods, taints};
use skiff_client::Kind;

use super::zones::Giving;

/// Without a sign of life for this long, a node is unreachable (upstream's `--node-monitor-grace-period`).
pub(super) const GRACE: Duration = Duration::from_secs(50);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Conditions that become taints: condition, status, taint, whether pods must leave.
const TAINTS: &[(&str, &str, &str, bool)] = &[
    ("Ready", "False", NOT_READY, true),
    ("Ready", "Unknown", UNREACHABLE, true),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure", false),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure", false),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure", false),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable", false),
];

/// What is known.
pub(super) struct Snapshot<'a> {
    pub(super) node: &'a Node,
    pub(super) pods: &'a [Arc<Pod>],
    /// How long ago the last sign of life was.
    pub(super) silent: Duration,
    /// What may become of the pods, if the node is lost.
    pub(super) giving: Giving,
    /// When pods were first seen on this node under taints that do not say since when they are there, by UID.
    pub(super) seen: &'a BTreeMap<String, Timestamp>,
    pub(super) now: Timestamp,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// New conditions, when the agent is silent.
    pub(super) conditions: Option<Vec<NodeCondition>>,
    /// New taints.
    pub(super) taints: Option<Vec<Taint>>,
    /// Pods to show as not ready, since nobody knows.
    pub(super) unready: Vec<Arc<Pod>>,
    /// Pods to delete: they tolerate the node's taints no longer.
    pub(super) evict: Vec<Arc<Pod>>,
    /// When to look again, if nothing happens.
    pub(super) again: Option<Duration>,
}

/// Computes it.
pub(super) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let node = snapshot.node;
    let before = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let silent = snapshot.silent >= GRACE;
    let conditions = if silent { unknown(&before, snapshot.now) } else { before.clone() };
    let taints = taints(node, &conditions, snapshot);
    // One that has not said anything yet is new.
    let says_not = before.iter().any(|condition| condition.type_ == "Ready" && condition.status != "True");
    let unready = if silent || says_not {
        snapshot.pods.iter().filter(|pod| pods::is_ready(pod) && !pods::is_terminating(pod)).cloned().collect()
    } else {
        Vec::new()
    };
    let (evict, next) = evictions(snapshot, &taints);
    let sleep = if silent { None } else { Some(GRACE - snapshot.silent) };
    let was = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    Plan {
        conditions: (conditions != before).then_some(conditions),
        taints: (!same(&taints, &was)).then_some(taints),
        unready,
        evict,
        again: [sleep, next].into_iter().flatten().min(),
    }
}

/// Whether pods must leave the node already because it is lost.
pub(super) fn is_given_up(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) && taint.effect == "NoExecute")
}

/// The conditions of a node that nobody hears from.
fn unknown(before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let mut conditions = before.to_vec();
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let lost = |last: Option<Time>, reason: &str, message: &str| NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: last,
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|c| c.type_ == type_) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                *known =
                    lost(known.last_heartbeat_time.clone(), "NodeStatusUnknown", "Kubelet stopped posting node status.")
            }
            None => conditions.push(lost(None, "NodeStatusNeverUpdated", "Kubelet never posted node status.")),
        }
    }
    conditions
}

/// The taints that the conditions ask for, beside those of others.
fn taints(node: &Node, conditions: &[NodeCondition], snapshot: &Snapshot<'_>) -> Vec<Taint> {
    let spec = node.spec.as_ref();
    let before = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
    let holds = |type_: &str, status: &str| conditions.iter().any(|c| c.type_ == type_ && c.status == status);
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (_, _, key, leave) in TAINTS.iter().filter(|(type_, status, ..)| holds(type_, status)) {
        wanted.push((key, "NoSchedule"));
        let leaves = match snapshot.giving {
            Giving::Up => true,
            Giving::NotNow => is_given_up(node),
            Giving::Nobody => false,
        };
        if *leave && leaves {
            wanted.push((key, "NoExecute"));
        }
    }
    if spec.and_then(|s| s.unschedulable).unwrap_or(false) {
        wanted.push(("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    let ours: BTreeSet<&str> =
        TAINTS.iter().map(|(_, _, key, _)| *key).chain(["node.kubernetes.io/unschedulable"]).collect();
    let keeps = |taint: &&Taint| !ours.contains(&*taint.key) || wanted.contains(&(&*taint.key, &*taint.effect));
    let mut taints: Vec<Taint> = before.iter().filter(keeps).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            let added = (effect == "NoExecute").then_some(Time(snapshot.now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added: added, value: None });
        }
    }
    taints
}

fn same(a: &[Taint], b: &[Taint]) -> bool {
    let keys = |taints: &[Taint]| {
        taints.iter().map(|t| (t.key.clone(), t.effect.clone(), t.value.clone())).collect::<BTreeSet<_>>()
    };
    keys(a) == keys(b)
}

/// Pods that must leave now, and how long until the next one must.
fn evictions(snapshot: &Snapshot<'_>, taints: &[Taint]) -> (Vec<Arc<Pod>>, Option<Duration>) {
    let hard: Vec<&Taint> = taints.iter().filter(|t| t.effect == "NoExecute").collect();
    let (mut leave, mut next) = (Vec::new(), None);
    if hard.is_empty() {
        return (leave, next);
    }
    for pod in snapshot.pods.iter().filter(|pod| !pods::is_terminating(pod) && !pods::is_finished(pod)) {
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        match stays(&hard, tolerations, pod, snapshot) {
            Stays::ForEver => {}
            Stays::For(left) if left.is_zero() => leave.push(pod.clone()),
            Stays::For(left) => next = Some(next.map_or(left, |soonest: Duration| soonest.min(left))),
        }
    }
    (leave, next)
}

/// Whether the pod bears the node's taints, but not for ever.
pub(super) fn is_counted(node: &Node, pod: &Pod) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut hard = taints.filter(|taint| taint.effect == "NoExecute");
    let tolerations = || pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    hard.any(|taint| tolerations().any(|t| t.toleration_seconds.is_some() && taints::tolerates(t, taint)))
}

enum Stays {
    ForEver,
    For(Duration),
}

/// The shortest time that any of the taints leaves the pod.
fn stays(hard: &[&Taint], tolerations: &[Toleration], pod: &Pod, snapshot: &Snapshot<'_>) -> Stays {
    let now = snapshot.now;
    // Who came when the taint was there already has its whole time.
    let begun = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(Timestamp::MIN, |t| t.0);
    let mut shortest = Stays::ForEver;
    for taint in hard {
        let fitting: Vec<&Toleration> = tolerations.iter().filter(|t| taints::tolerates(t, taint)).collect();
        if fitting.is_empty() {
            return Stays::For(Duration::ZERO);
        }
        let Some(seconds) = fitting.iter().filter_map(|t| t.toleration_seconds).min() else { continue };
        let seen = || snapshot.seen.get(pod.uid()).copied().unwrap_or(now);
        let since = taint.time_added.as_ref().map_or_else(seen, |added| added.0.max(begun));
        let left = since.as_second() + seconds.max(0) - now.as_second();
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
        shortest = match shortest {
            Stays::For(before) => Stays::For(before.min(left)),
            Stays::ForEver => Stays::For(left),
        };
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(ready: &str, taints: serde_json::Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})).unwrap()
    }

    fn pod(name: &str, tolerations: serde_json::Value) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": {"containers": [], "tolerations": tolerations},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
            )
            .unwrap(),
        )
    }

    fn look(node: &Node, pods: &[Arc<Pod>], silent: u64, now: i64) -> Plan {
        let (silent, now) = (Duration::from_secs(silent), Timestamp::from_second(now).unwrap());
        plan(&Snapshot { node, pods, silent, giving: Giving::Up, seen: &BTreeMap::new(), now })
    }

    #[test]
    fn nobody_leaves_when_no_node_is_left() {
        let evicting =
            json!([{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoSchedule"}]);
        let lost = node("Unknown", evicting);
        let now = Timestamp::from_second(1000).unwrap();
        let pods = [pod("a", json!([]))];
        let plan = plan(&Snapshot {
            node: &lost,
            pods: &pods,
            silent: GRACE,
            giving: Giving::Nobody,
            seen: &BTreeMap::new(),
            now,
        });
        let taints = plan.taints.unwrap();
        assert_eq!(taints.iter().map(|t| &*t.effect).collect::<Vec<_>>(), ["NoSchedule"]);
        assert!(plan.evict.is_empty());
    }

    #[test]
    fn a_node_whose_turn_has_not_come_is_only_closed() {
        let now = Timestamp::from_second(1000).unwrap();
        let effects = |node: &Node| {
            let found =
                plan(&Snapshot { node, pods: &[], silent: GRACE, giving: Giving::NotNow, seen: &BTreeMap::new(), now });
            let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
            let taints = found.taints.unwrap_or(before);
            taints.iter().map(|taint| taint.effect.clone()).collect::<Vec<_>>()
        };
        assert_eq!(effects(&node("True", json!([]))), ["NoSchedule"]);
        let given_up = json!([{"key": NOT_READY, "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        assert_eq!(effects(&node("False", given_up)), ["NoSchedule", "NoExecute"], "who leaves goes on leaving");
    }

    #[test]
    fn a_healthy_node_is_left_alone() {
        let plan = look(&node("True", json!([])), &[pod("a", json!([]))], 5, 100);
        assert_eq!(plan, Plan { again: Some(GRACE - Duration::from_secs(5)), ..Plan::default() });
    }

    #[test]
    fn pods_of_a_node_that_is_not_ready_are_not_and_those_of_a_new_one_may_be() {
        let new: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        for (node, expected) in [(node("False", json!([])), 1), (new, 0)] {
            assert_eq!(look(&node, &[pod("a", json!([]))], 5, 100).unready.len(), expected);
        }
    }

    #[test]
    fn a_silent_node_is_unreachable_and_pods_leave_in_time() {
        let tolerant =
            json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        let pods = [pod("stays", tolerant), pod("goes", json!([]))];
        let first = look(&node("True", json!([])), &pods, 50, 1000);
        let conditions = first.conditions.unwrap();
        assert!(conditions.iter().all(|c| c.status == "Unknown"));
        let taints = first.taints.unwrap();
        assert_eq!(taints.len(), 2);
        assert_eq!(first.unready.len(), 2);
        assert_eq!(first.evict, [pods[1].clone()]);
        assert_eq!(first.again, Some(Duration::from_secs(300)));
        let mut gone = node("Unknown", json!([]));
        gone.spec.as_mut().unwrap().taints = Some(taints);
        gone.status.as_mut().unwrap().conditions = Some(conditions);
        let later = look(&gone, &pods[..1], 400, 1300);
        assert_eq!(later.evict.len(), 1, "its time is over");
        assert!(later.conditions.is_none() && later.taints.is_none());
    }

    #[test]
    fn the_time_of_a_pod_begins_with_the_taint_or_with_itself() {
        let tolerant = json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}]);
        // When the taint was added and the pod begun or first seen; how long it may stay at 1000.
        for (added, begun, seen, left) in [
            (Some("1970-01-01T00:16:35Z"), 900, None, 5),
            (Some("1970-01-01T00:10:00Z"), 997, None, 7),
            (None, 900, None, 10),
            (None, 900, Some(992), 2),
            (None, 900, Some(990), 0),
        ] {
            let taint = json!([{"key": "k", "effect": "NoExecute", "timeAdded": added}]);
            let mut pod = (*pod("p", tolerant.clone())).clone();
            pod.metadata.uid = Some("u".to_owned());
            let second = |second| Timestamp::from_second(second).unwrap();
            pod.status.as_mut().unwrap().start_time = Some(Time(second(begun)));
            let (pods, node) = ([Arc::new(pod)], node("True", taint));
            let seen = seen.map(|at| ("u".to_owned(), second(at))).into_iter().collect();
            let snapshot = Snapshot {
                node: &node,
                pods: &pods,
                silent: Duration::ZERO,
                giving: Giving::Up,
                seen: &seen,
                now: second(1000),
            };
            let plan = plan(&snapshot);
            assert_eq!(plan.evict.len(), usize::from(left == 0), "{added:?} {seen:?}");
            assert!(left == 0 || plan.again == Some(Duration::from_secs(left)), "{added:?} {seen:?}: {:?}", plan.again);
        }
    }

    #[test]
    fn only_those_are_counted_whose_time_ends() {
        let tainted = node("True", json!([{"key": "k", "effect": "NoExecute"}, {"key": "x", "effect": "NoSchedule"}]));
        for (tolerations, counted) in [
            (json!([]), false),
            (json!([{"key": "k", "operator": "Exists"}]), false),
            (json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 9}]), true),
            (json!([{"key": "x", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9}]), false),
        ] {
            assert_eq!(is_counted(&tainted, &pod("p", tolerations.clone())), counted, "{tolerations}");
        }
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let foreign = json!([{"key": "mine", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        let taints = look(&node("True", foreign), &[], 0, 0).taints.unwrap();
        assert_eq!(taints.iter().map(|t| &*t.key).collect::<Vec<_>>(), ["mine"]);
        let mut cordoned = node("True", json!([]));
        cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
        let taints = look(&cordoned, &[], 0, 0).taints.unwrap();
        assert_eq!((&*taints[0].key, &*taints[0].effect), ("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
}
