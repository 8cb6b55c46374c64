//! What a DaemonSet needs, from a snapshot of nodes and pods. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    PodTemplateSpec, Toleration,
};
use skiff_api::affinity::{NodeView, pod_fits};
use skiff_api::pods::{available_at, is_available, is_ready, phase};
use skiff_api::taints::{NO_EXECUTE, NO_SCHEDULE, untolerated};
use skiff_client::Kind;

use crate::shared::history::REVISION_LABEL;
use crate::shared::{node_of, pod_from_template, scaled};

/// At most so many creations or deletions in one go.
const BURST: usize = 250;

/// What is known of one DaemonSet.
pub(crate) struct Snapshot<'a> {
    pub(crate) set: &'a DaemonSet,
    /// All nodes.
    pub(crate) nodes: &'a [Arc<Node>],
    /// Its pods, claimed already.
    pub(crate) pods: &'a [Arc<Pod>],
    /// The hash of its present template.
    pub(crate) hash: &'a str,
    pub(crate) now: Timestamp,
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Pods to create, with the node each is for.
    pub(crate) create: Vec<Pod>,
    /// Pods to delete.
    pub(crate) delete: Vec<Arc<Pod>>,
    /// Pods that ended and are to be replaced, with back-off where they failed.
    pub(crate) ended: Vec<Arc<Pod>>,
    /// When the next pod becomes available by the passing of time alone.
    pub(crate) look_again: Option<Duration>,
}

/// Whether a node should get a pod, and whether one that runs there may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    run: bool,
    stay: bool,
}

fn template(set: &DaemonSet) -> PodTemplateSpec {
    set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
}

fn min_ready_seconds(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// What all daemon pods bear, so that they run where ordinary pods do not.
fn add_tolerations(spec: &mut PodSpec) {
    let mut borne = vec![
        ("node.kubernetes.io/not-ready", NO_EXECUTE),
        ("node.kubernetes.io/unreachable", NO_EXECUTE),
        ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
        ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
        ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
        ("node.kubernetes.io/unschedulable", NO_SCHEDULE),
    ];
    if spec.host_network == Some(true) {
        borne.push(("node.kubernetes.io/network-unavailable", NO_SCHEDULE));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in borne {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// Replaces what the template says about node names by the one node.
fn pin(spec: &mut PodSpec, node: &str) {
    let only = NodeSelectorTerm {
        match_expressions: None,
        match_fields: Some(vec![NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    node_affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![only] });
}

fn place(spec: &PodSpec, node: &Node) -> Place {
    const NOWHERE: Place = Place { run: false, stay: false };
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name()) {
        return NOWHERE;
    }
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    if !pod_fits(spec, NodeView { name: node.name(), labels }) {
        return NOWHERE;
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    Place {
        run: untolerated(taints, tolerations, &[NO_SCHEDULE, NO_EXECUTE]).is_none(),
        stay: untolerated(taints, tolerations, &[NO_EXECUTE]).is_none(),
    }
}

/// Nodes with their pods, and pods whose node is not known.
struct Survey<'a> {
    nodes: Vec<(&'a Node, Place, Vec<Arc<Pod>>)>,
    lost: Vec<Arc<Pod>>,
}

/// The node a pod is or will be on: a pod not assigned yet says so in its affinity.
fn target(pod: &Pod) -> &str {
    if !node_of(pod).is_empty() {
        return node_of(pod);
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = terms.iter().flat_map(|t| &t.node_selector_terms).flat_map(|term| term.match_fields.iter().flatten());
    let names = fields.filter(|field| field.key == "metadata.name").flat_map(|field| field.values.iter().flatten());
    names.map(String::as_str).next().unwrap_or_default()
}

fn survey<'a>(snapshot: &Snapshot<'a>) -> Survey<'a> {
    let mut spec = template(snapshot.set).spec.unwrap_or_default();
    add_tolerations(&mut spec);
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in snapshot.pods {
        by_node.entry(target(pod)).or_default().push(pod.clone());
    }
    let nodes = snapshot.nodes.iter().map(|node| {
        let pods = by_node.remove(node.name()).unwrap_or_default();
        (&**node, place(&spec, node), pods)
    });
    let nodes = nodes.collect();
    Survey { nodes, lost: by_node.into_values().flatten().collect() }
}

/// The plan for a DaemonSet.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let survey = survey(snapshot);
    let surge = surge(snapshot.set, &survey);
    let mut plan = Plan::default();
    for (node, place, pods) in &survey.nodes {
        let staying = || pods.iter().filter(|pod| !pod.deleting());
        if !place.stay {
            plan.delete.extend(staying().cloned());
            continue;
        }
        if place.run && pods.is_empty() {
            plan.create.push(pod_for(snapshot, node.name()));
            continue;
        }
        let ended = |pod: &&Arc<Pod>| matches!(phase(pod), "Failed" | "Succeeded");
        plan.ended.extend(staying().filter(ended).cloned());
        let mut running: Vec<_> = staying().filter(|pod| !ended(pod)).cloned().collect();
        running.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (node_of(pod).is_empty(), created, pod.name().to_owned())
        });
        if surge > 0 {
            if running.is_empty() && place.run {
                plan.create.push(pod_for(snapshot, node.name()));
            }
            plan.delete.extend(surplus_of_surge(snapshot, running));
        } else {
            // Of several the oldest stays; one that has its node already before others.
            plan.delete.extend(running.into_iter().skip(1));
        }
    }
    // Pods that wait for a node that is gone would wait for ever; those that ran there are the pod collector's.
    let waiting = |pod: &&Arc<Pod>| node_of(pod).is_empty() && !pod.deleting();
    plan.delete.extend(survey.lost.iter().filter(waiting).cloned());
    if plan.create.is_empty() && plan.delete.is_empty() && is_rolling(snapshot.set) {
        if surge > 0 {
            roll_with_surge(snapshot, &survey, surge, &mut plan);
        } else {
            plan.delete = outdated(snapshot, &survey);
        }
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan.look_again = next_available(snapshot);
    plan
}

fn pod_for(snapshot: &Snapshot<'_>, node: &str) -> Pod {
    let mut template = template(snapshot.set);
    let spec = template.spec.get_or_insert_default();
    add_tolerations(spec);
    pin(spec, node);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), snapshot.hash.to_owned());
    pod_from_template(&template, snapshot.set)
}

fn is_rolling(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).is_some_and(|label| label == hash)
}

/// Pods with an old template that may go now: those that are not available anyway, and as many others as may be missing.
fn outdated(snapshot: &Snapshot<'_>, survey: &Survey<'_>) -> Vec<Arc<Pod>> {
    let available = |pod: &Pod| is_available(pod, min_ready_seconds(snapshot.set), snapshot.now);
    let desired = survey.nodes.iter().filter(|(_, place, _)| place.run).count();
    let (mut broken, mut candidates, mut missing) = (Vec::new(), Vec::new(), 0);
    for (_, place, pods) in survey.nodes.iter().filter(|(_, place, _)| place.run || place.stay) {
        let staying: Vec<_> = pods.iter().filter(|pod| !pod.deleting()).collect();
        let new = staying.iter().find(|pod| is_current(pod, snapshot.hash));
        let old = staying.iter().find(|pod| !is_current(pod, snapshot.hash));
        match (new, old) {
            (Some(new), _) => missing += usize::from(!available(new)),
            (None, Some(old)) if available(old) => candidates.push((**old).clone()),
            (None, Some(old)) => {
                broken.push((**old).clone());
                missing += 1;
            }
            (None, None) => missing += usize::from(place.run),
        }
    }
    let allowed = max_unavailable(snapshot.set, i32::try_from(desired).unwrap_or(i32::MAX));
    candidates.truncate(allowed.saturating_sub(missing));
    broken.extend(candidates);
    broken
}

/// Which of the running pods of a node (the oldest first) go though a second one is allowed: an old and a new pod stay
/// together only while the old one serves and the new one does not yet.
fn surplus_of_surge(snapshot: &Snapshot<'_>, running: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    let (mut new, mut old, mut surplus) = (None, None, Vec::new());
    for pod in running {
        let place = if is_current(&pod, snapshot.hash) { &mut new } else { &mut old };
        match place {
            None => *place = Some(pod),
            Some(_) => surplus.push(pod),
        }
    }
    if let (Some(new), Some(old)) = (new, old) {
        let served = is_available(&new, min_ready_seconds(snapshot.set), snapshot.now);
        if !is_ready(&old) || served {
            surplus.push(old);
        }
    }
    surplus
}

/// New pods beside old ones: at once where the old one does not serve, on `surge` nodes where it does. Old ones go when
/// the new one serves, or where none should run any more and enough others serve.
fn roll_with_surge(snapshot: &Snapshot<'_>, survey: &Survey<'_>, surge: usize, plan: &mut Plan) {
    let available = |pod: &Pod| is_available(pod, min_ready_seconds(snapshot.set), snapshot.now);
    let desired = survey.nodes.iter().filter(|(_, place, _)| place.run).count();
    let (mut surging, mut serving, mut candidates, mut misplaced) = (0, 0, Vec::new(), Vec::new());
    for (node, place, pods) in &survey.nodes {
        let of = |current: bool| {
            let mut staying =
                pods.iter().filter(move |pod| !pod.deleting() && is_current(pod, snapshot.hash) == current);
            (staying.next(), staying.next().is_some())
        };
        let ((new, more_new), (old, more_old)) = (of(true), of(false));
        if more_new || more_old {
            surging += 1;
            continue;
        }
        serving += usize::from(old.or(new).is_some_and(|pod| available(pod)));
        match (old, new) {
            (None, _) => {}
            (Some(old), Some(new)) if available(new) => plan.delete.push(old.clone()),
            (Some(_), Some(_)) => surging += 1,
            (Some(old), None) => match (available(old), place.run) {
                (false, false) => plan.delete.push(old.clone()),
                (false, true) => plan.create.push(pod_for(snapshot, node.name())),
                (true, false) => misplaced.push(old.clone()),
                (true, true) => candidates.push(node.name()),
            },
        }
    }
    plan.delete.extend(misplaced.into_iter().take(serving.saturating_sub(desired)));
    let room = surge.saturating_sub(surging);
    plan.create.extend(candidates.into_iter().take(room).map(|node| pod_for(snapshot, node)));
}

/// On how many nodes a new pod may run beside the old one.
fn surge(set: &DaemonSet, survey: &Survey<'_>) -> usize {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref()).filter(|_| is_rolling(set));
    let bound = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let desired = survey.nodes.iter().filter(|(_, place, _)| place.run).count();
    let desired = i32::try_from(desired).unwrap_or(i32::MAX);
    bound.map_or(0, |bound| usize::try_from(scaled(bound, desired, true)).unwrap_or(0))
}

fn max_unavailable(set: &DaemonSet, desired: i32) -> usize {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let bound = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    usize::try_from(bound.map_or(1, |bound| scaled(bound, desired, true))).unwrap_or(0).max(1)
}

fn next_available(snapshot: &Snapshot<'_>) -> Option<Duration> {
    let seconds = min_ready_seconds(snapshot.set);
    let times = snapshot.pods.iter().filter(|_| seconds > 0).filter_map(|pod| available_at(pod, seconds));
    Duration::try_from(times.filter(|at| *at > snapshot.now).min()?.duration_since(snapshot.now)).ok()
}

/// The status of a DaemonSet.
pub(crate) fn status(snapshot: &Snapshot<'_>) -> DaemonSetStatus {
    let old = snapshot.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        collision_count: old.collision_count,
        conditions: old.conditions,
        observed_generation: snapshot.set.metadata.generation,
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for (_, place, pods) in &survey(snapshot).nodes {
        if !place.run {
            status.number_misscheduled += i32::from(!pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let mut pods: Vec<_> = pods.iter().filter(|pod| !pod.deleting()).collect();
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let Some(pod) = pods.first() else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(is_ready(pod));
        available += i32::from(is_available(pod, min_ready_seconds(snapshot.set), snapshot.now));
        updated += i32::from(is_current(pod, snapshot.hash));
    }
    let counted = |number: i32| (number != 0).then_some(number);
    status.updated_number_scheduled = counted(updated);
    status.number_available = counted(available);
    status.number_unavailable = counted(status.desired_number_scheduled - available);
    status
}

/// Whether a status is one a set stays in.
pub(crate) fn at_rest(status: &DaemonSetStatus) -> bool {
    status.number_unavailable.is_none()
        && status.updated_number_scheduled.unwrap_or(0) == status.desired_number_scheduled
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use skiff_meta::patch::merge_patch;

    fn set(change: Value) -> DaemonSet {
        let value = json!({"metadata": {"name": "d", "namespace": "ns", "uid": "d"}, "spec": {"selector": {},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [], "nodeSelector": {"os": "linux"}}}}});
        serde_json::from_value(merge_patch(&value, &change)).expect("a set")
    }

    fn node(name: &str, change: Value) -> Arc<Node> {
        let value = json!({"metadata": {"name": name, "labels": {"os": "linux"}}});
        Arc::new(serde_json::from_value(merge_patch(&value, &change)).expect("a node"))
    }

    fn pod(name: &str, node: &str, hash: &str, change: Value) -> Arc<Pod> {
        let value = json!({"metadata": {"name": name, "uid": name, "labels": {REVISION_LABEL: hash},
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        Arc::new(serde_json::from_value(merge_patch(&value, &change)).expect("a pod"))
    }

    fn planned(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> (Vec<String>, Vec<String>, DaemonSetStatus) {
        let snapshot = Snapshot { set, nodes, pods, hash: "new", now: Timestamp::UNIX_EPOCH };
        let plan = plan(&snapshot);
        let created = plan.create.iter().map(|pod| target(pod).to_owned()).collect();
        let deleted = plan.delete.iter().chain(&plan.ended).map(|pod| pod.name().to_owned()).collect();
        (created, deleted, status(&snapshot))
    }

    #[test]
    fn every_fitting_node_has_one_pod() {
        let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "effect": effect}]}});
        let cordoned = json!({"spec": {"unschedulable": true,
            "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}});
        let nodes = [
            node("bare", json!({})),
            node("cordoned", cordoned),
            node("other-os", json!({"metadata": {"labels": {"os": "plan9"}}})),
            node("tainted", taint("NoSchedule")),
            node("evicting", taint("NoExecute")),
            node("twice", json!({})),
            node("failed", json!({})),
        ];
        let pods = [
            pod("stays-on-tainted", "tainted", "new", json!({})),
            pod("leaves-evicting", "evicting", "new", json!({})),
            pod("second", "twice", "new", json!({"metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"}})),
            pod("first", "twice", "new", json!({})),
            pod("broken", "failed", "new", json!({"status": {"phase": "Failed"}})),
        ];
        let (created, deleted, status) = planned(&set(json!({})), &nodes, &pods);
        assert_eq!(created, ["bare", "cordoned"]);
        assert_eq!(deleted, ["leaves-evicting", "second", "broken"]);
        assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (4, 2));
        assert_eq!(status.number_misscheduled, 2);
    }

    #[test]
    fn created_pods_are_pinned_and_hardy() {
        let set = set(json!({"spec": {"template": {"spec": {"hostNetwork": true}}}}));
        let snapshot =
            Snapshot { set: &set, nodes: &[node("n", json!({}))], pods: &[], hash: "h", now: Timestamp::UNIX_EPOCH };
        let pod = &plan(&snapshot).create[0];
        let spec = pod.spec.as_ref().expect("a spec");
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(7));
        assert_eq!((target(pod), &*pod.metadata.labels.as_ref().expect("labels")[REVISION_LABEL]), ("n", "h"));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("d-"));
    }

    #[test]
    fn updates_roll_within_bounds() {
        let nodes: Vec<_> = ["a", "b", "c", "d"].map(|name| node(name, json!({}))).into();
        let unready = json!({"status": {"conditions": null}});
        let old = |name: &str| pod(name, name, "old", json!({}));
        let fresh = |name: &str, change| pod(name, name, "new", change);
        let two = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}});
        let on_delete = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        let all = || vec![old("a"), old("b"), old("c"), old("d")];
        let table = [
            ("one at a time", json!({}), all(), vec!["a"]),
            ("two at a time", two, all(), vec!["a", "b"]),
            ("not by itself", on_delete, all(), vec![]),
            (
                "waits for the new one",
                json!({}),
                vec![fresh("a", unready.clone()), old("b"), old("c"), old("d")],
                vec![],
            ),
            ("goes on", json!({}), vec![fresh("a", json!({})), old("b"), old("c"), old("d")], vec!["b"]),
            (
                "broken ones first",
                json!({}),
                vec![old("a"), pod("b", "b", "old", unready), old("c"), old("d")],
                vec!["b"],
            ),
        ];
        for (name, change, pods, expected) in table {
            let (_, deleted, _) = planned(&set(change), &nodes, &pods);
            assert_eq!(deleted, expected, "{name}");
        }
    }

    #[test]
    fn a_surge_starts_the_new_before_it_stops_the_old() {
        let nodes: Vec<_> = ["a", "b", "c"].map(|name| node(name, json!({}))).into();
        let unready = json!({"status": {"conditions": null}});
        let old = |node: &str| pod(node, node, "old", json!({}));
        let new = |node: &str, change: Value| pod(&format!("{node}-new"), node, "new", change);
        let surging = set(json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}));
        let table = [
            ("one at a time", vec![old("a"), old("b"), old("c")], vec!["a"], vec![]),
            ("waits for it", vec![old("a"), new("a", unready.clone()), old("b"), old("c")], vec![], vec![]),
            ("then the old one goes", vec![old("a"), new("a", json!({})), old("b"), old("c")], vec![], vec!["a"]),
            ("goes on", vec![new("a", json!({})), old("b"), old("c")], vec!["b"], vec![]),
            (
                "what does not serve goes at once",
                vec![pod("a", "a", "old", unready.clone()), new("a", unready.clone()), old("b"), old("c")],
                vec![],
                vec!["a"],
            ),
            (
                "and is replaced at once",
                vec![pod("a", "a", "old", unready.clone()), pod("b", "b", "old", unready), old("c")],
                vec!["a", "b", "c"],
                vec![],
            ),
        ];
        for (name, pods, created, deleted) in table {
            let (found, gone, _) = planned(&surging, &nodes, &pods);
            assert_eq!(
                (found, gone),
                (created.into_iter().map(str::to_owned).collect(), deleted.into_iter().map(str::to_owned).collect()),
                "{name}"
            );
        }
    }
}
