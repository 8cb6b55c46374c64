//! The fast path against a naive evaluation that counts everything anew for every node: on random clusters, after random
//! changes, both find the same nodes fit, and what is chosen is as good as anything else.

mod room;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_api::{affinity, labels, taints};

use super::{Stage, from, info, merged, node, with};
use crate::cluster::{Cluster, PodInfo};
use crate::decide::{Attempt, Decision, Turn, decide, score};
use crate::profile::Profile;

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

type Everyone = Vec<(Arc<PodInfo>, String)>;

/// What the naive evaluation sees: plain lists.
struct Plain<'a> {
    nodes: &'a [Node],
    pods: &'a Everyone,
    namespaces: &'a BTreeMap<String, BTreeMap<String, String>>,
}

fn label<'n>(node: &'n Node, key: &str) -> Option<&'n String> {
    node.metadata.labels.as_ref()?.get(key)
}

impl Plain<'_> {
    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name))
    }

    fn term_matches(&self, owner: &PodInfo, term: &PodAffinityTerm, pod: &PodInfo) -> bool {
        let listed = term.namespaces.iter().flatten().any(|name| name == pod.namespace());
        let unsaid = term.namespaces.iter().flatten().next().is_none() && term.namespace_selector.is_none();
        let selected = labels::matches(term.namespace_selector.as_ref(), &self.namespaces[pod.namespace()]);
        let namespace = listed || selected || (unsaid && owner.namespace() == pod.namespace());
        namespace && labels::matches(term.label_selector.as_ref(), pod.labels())
    }

    fn together(&self, a: &Node, b: &str, key: &str) -> bool {
        let there = self.node(b).and_then(|b| label(b, key));
        there.is_some() && there == label(a, key)
    }

    fn terms(pod: &PodInfo, anti: bool) -> Vec<&PodAffinityTerm> {
        let Some(affinity) = pod.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return Vec::new() };
        match anti {
            true => affinity
                .pod_anti_affinity
                .iter()
                .flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten())
                .collect(),
            false => affinity
                .pod_affinity
                .iter()
                .flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten())
                .collect(),
        }
    }

    /// Whether the pods that the pod wants near are.
    fn near_others(&self, pod: &PodInfo, node: &Node) -> bool {
        let wanted = Self::terms(pod, false);
        let all = |other: &PodInfo| wanted.iter().all(|term| self.term_matches(pod, term, other));
        let labelled = wanted.iter().all(|term| label(node, &term.topology_key).is_some());
        let near = wanted
            .iter()
            .all(|term| self.pods.iter().any(|(other, on)| all(other) && self.together(node, on, &term.topology_key)));
        let reachable =
            |on: &str| wanted.iter().any(|term| self.node(on).is_some_and(|n| label(n, &term.topology_key).is_some()));
        let first = all(pod) && !self.pods.iter().any(|(other, on)| all(other) && reachable(on));
        labelled && (near || first)
    }

    fn affinity_fits(&self, pod: &PodInfo, node: &Node) -> bool {
        let far = Self::terms(pod, true).iter().all(|term| {
            !self
                .pods
                .iter()
                .any(|(other, on)| self.term_matches(pod, term, other) && self.together(node, on, &term.topology_key))
        });
        let welcome = !self.pods.iter().any(|(other, on)| {
            Self::terms(other, true)
                .iter()
                .any(|term| self.term_matches(other, term, pod) && self.together(node, on, &term.topology_key))
        });
        self.near_others(pod, node) && far && welcome
    }

    fn spread_fits(&self, pod: &PodInfo, node: &Node) -> bool {
        let constraints: Vec<&TopologySpreadConstraint> = pod
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.topology_spread_constraints.iter().flatten())
            .filter(|c| c.when_unsatisfiable == "DoNotSchedule")
            .collect();
        constraints.iter().all(|constraint| {
            let Some(here) = label(node, &constraint.topology_key) else { return false };
            let honors = |policy: &Option<String>, unsaid: &str| policy.as_deref().unwrap_or(unsaid) == "Honor";
            let eligible = |node: &Node| {
                constraints.iter().all(|c| label(node, &c.topology_key).is_some())
                    && (!honors(&constraint.node_affinity_policy, "Honor") || self.affinity_to_node(pod, node))
                    && (!honors(&constraint.node_taints_policy, "Ignore") || self.tolerated(pod, node))
            };
            let counts = |other: &PodInfo| {
                other.namespace() == pod.namespace()
                    && !other.is_terminating()
                    && labels::matches(constraint.label_selector.as_ref(), other.labels())
            };
            let mut domains: BTreeMap<&String, i64> = BTreeMap::new();
            for node in self.nodes.iter().filter(|node| eligible(node)) {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let held = self.pods.iter().filter(|(other, on)| on == name && counts(other)).count() as i64;
                if let Some(value) = label(node, &constraint.topology_key) {
                    *domains.entry(value).or_default() += held;
                }
            }
            let enough = domains.len() >= constraint.min_domains.unwrap_or(1) as usize;
            let lowest = if enough { domains.values().min().copied().unwrap_or(0) } else { 0 };
            let own = i64::from(labels::matches(constraint.label_selector.as_ref(), pod.labels()));
            domains.get(here).copied().unwrap_or(0) + own - lowest <= i64::from(constraint.max_skew)
        })
    }

    fn affinity_to_node(&self, pod: &PodInfo, node: &Node) -> bool {
        let empty = BTreeMap::new();
        let view = affinity::NodeView {
            name: node.metadata.name.as_deref().unwrap_or_default(),
            labels: node.metadata.labels.as_ref().unwrap_or(&empty),
        };
        pod.pod.spec.as_ref().is_some_and(|spec| affinity::pod_fits(spec, view))
    }

    fn tolerated(&self, pod: &PodInfo, node: &Node) -> bool {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        taints::untolerated(taints, pod.tolerations(), &["NoSchedule", "NoExecute"]).is_none()
    }

    fn room(&self, pod: &PodInfo, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let used: i64 = self.pods.iter().filter(|(_, on)| on == name).map(|(other, _)| other.requests.cpu).sum();
        pod.requests.cpu == 0 || used + pod.requests.cpu <= 2000
    }

    fn fits(&self, pod: &PodInfo, node: &Node) -> bool {
        self.affinity_to_node(pod, node)
            && self.tolerated(pod, node)
            && self.room(pod, node)
            && self.affinity_fits(pod, node)
            && self.spread_fits(pod, node)
    }
}

fn a_node(number: usize) -> impl Strategy<Value = Node> {
    (prop::option::of(0..3_u8), prop::bool::weighted(0.2)).prop_map(move |(zone, tainted)| {
        let name = format!("n{number}");
        let zone = zone.map(|zone| json!({"metadata": {"labels": {ZONE: format!("z{zone}")}}})).unwrap_or(json!({}));
        let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        node(&name, if tainted { merged(zone, &taint) } else { zone })
    })
}

fn a_term() -> impl Strategy<Value = Value> {
    let namespaces = prop_oneof![
        4 => Just(json!({})),
        1 => Just(json!({"namespaces": ["x", "y"]})),
        1 => Just(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}})),
        1 => Just(json!({"namespaceSelector": {}})),
    ];
    (0..3_u8, prop::bool::ANY, namespaces).prop_map(|(app, zone, namespaces)| {
        let term = json!({"topologyKey": if zone { ZONE } else { HOST }, "labelSelector": {"matchLabels": {"app": format!("a{app}")}}});
        merged(term, &namespaces)
    })
}

fn a_constraint() -> impl Strategy<Value = Value> {
    let policy = || prop::option::of(prop_oneof![Just("Honor"), Just("Ignore")]);
    let unsatisfiable = prop_oneof![2 => Just("DoNotSchedule"), 1 => Just("ScheduleAnyway")];
    (0..3_u8, prop::bool::ANY, 1..3_i32, prop::option::of(1..4_i32), policy(), policy(), unsatisfiable).prop_map(
        |(app, zone, skew, domains, of_affinity, of_taints, unsatisfiable)| {
            json!({
                "topologyKey": if zone { ZONE } else { HOST }, "maxSkew": skew, "whenUnsatisfiable": unsatisfiable,
                "minDomains": domains.filter(|_| unsatisfiable == "DoNotSchedule"),
                "labelSelector": {"matchLabels": {"app": format!("a{app}")}},
                "nodeAffinityPolicy": of_affinity, "nodeTaintsPolicy": of_taints,
            })
        },
    )
}

fn a_pod(name: String) -> impl Strategy<Value = Pod> {
    let terms = || prop::collection::vec(a_term(), 0..2);
    let weighted = prop::collection::vec((1..9_i32, a_term()), 0..2);
    let parts = (0..3_u8, prop::bool::weighted(0.8), 0..8_u32, prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let own = (prop::bool::weighted(0.3), prop::bool::weighted(0.2), 0..4_i32, prop::option::of(0..4_u8));
    (parts, own, terms(), terms(), weighted, prop::collection::vec(a_constraint(), 0..3)).prop_map(
        move |((app, here, cpu, selects, leaves), (tolerates, quiet, priority, since), near, far, liked, constraints)| {
            let preferred: Vec<Value> =
                liked.iter().map(|(weight, term)| json!({"weight": weight, "podAffinityTerm": term})).collect();
            let affinity = if quiet { json!(null) } else {
                json!({
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": near, "preferredDuringSchedulingIgnoredDuringExecution": preferred},
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": far},
                })
            };
            with(&name, &format!("{}m", cpu * 100), json!({
                "metadata": {
                    "labels": {"app": format!("a{app}")}, "namespace": if here { "x" } else { "y" },
                    "deletionTimestamp": leaves.then_some("2026-01-01T00:00:00Z"),
                },
                "spec": {
                    "affinity": affinity, "priority": priority,
                    "topologySpreadConstraints": if quiet { json!([]) } else { json!(constraints) },
                    "tolerations": if tolerates { json!([{"operator": "Exists"}]) } else { json!([]) },
                    "nodeSelector": if selects { json!({ZONE: "z1"}) } else { json!({}) },
                },
                "status": {"startTime": since.map(|hour| format!("2026-01-01T0{hour}:00:00Z"))},
            }))
        },
    )
}

/// What happens to a cluster.
#[derive(Clone, Debug)]
enum Step {
    Place(Pod, usize),
    Remove(usize),
    Relabel(Node),
    /// How many pods with a label may be disrupted.
    Protect(u8, i32),
    Ask(Pod),
}

const NODES: usize = 6;

fn a_step(number: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (a_pod(format!("p{number}")), 0..NODES).prop_map(|(pod, node)| Step::Place(pod, node)),
        1 => (0..20_usize).prop_map(Step::Remove),
        1 => (0..NODES).prop_flat_map(a_node).prop_map(Step::Relabel),
        1 => (0..3_u8, 0..3_i32).prop_map(|(app, allowed)| Step::Protect(app, allowed)),
        3 => a_pod(format!("p{number}")).prop_map(Step::Ask),
    ]
}

fn steps() -> impl Strategy<Value = (Vec<Node>, Vec<Step>)> {
    let nodes: Vec<_> = (0..NODES).map(a_node).collect();
    let steps: Vec<_> = (0..24).map(a_step).collect();
    (nodes, steps)
}

fn fitting(cluster: &mut Cluster, profile: &Profile, pod: &Arc<PodInfo>) -> Vec<String> {
    cluster.sort();
    let attempt = Attempt::begin(profile, pod, cluster).unwrap_or_else(|refused| panic!("{refused:?}"));
    let order = cluster.order().iter().map(|ix| cluster.at(*ix));
    let mut found: Vec<String> = order
        .filter(|node| attempt.check(cluster, node, &mut Vec::new()).is_none())
        .map(|node| node.name.clone())
        .collect();
    found.sort();
    found
}

/// The scores that a cluster gives that has just learned of everything, in another order.
fn scores(cluster: &mut Cluster, profile: &Profile, pod: &Arc<PodInfo>, names: &[String]) -> Vec<i64> {
    cluster.sort();
    let mut attempt = Attempt::begin(profile, pod, cluster).unwrap_or_else(|refused| panic!("{refused:?}"));
    let nodes: Vec<usize> = names.iter().filter_map(|name| Some(cluster.node(name)?.ix)).collect();
    score(&mut attempt, cluster, &nodes).totals
}

fn namespaces() -> BTreeMap<String, BTreeMap<String, String>> {
    let team = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
    [("x".to_owned(), team("a")), ("y".to_owned(), team("b"))].into()
}

fn anew(nodes: &[Node], pods: &Everyone) -> Stage {
    let mut stage = Stage::default();
    pods.iter().for_each(|(pod, on)| stage.cluster.set_pod(pod.clone(), on));
    nodes.iter().rev().for_each(|node| stage.cluster.set_node(Arc::new(node.clone())));
    namespaces().into_iter().for_each(|(name, labels)| stage.cluster.set_namespace(&name, Some(labels)));
    stage
}

fn check(nodes: Vec<Node>, steps: Vec<Step>) {
    let namespaces = namespaces();
    let mut nodes = nodes;
    let mut pods: Everyone = Vec::new();
    let mut budgets: BTreeMap<String, PodDisruptionBudget> = BTreeMap::new();
    let mut stage = Stage::new(nodes.clone());
    namespaces.iter().for_each(|(name, labels)| stage.cluster.set_namespace(name, Some(labels.clone())));
    for step in steps {
        match step {
            Step::Place(pod, on) => {
                let (pod, on) = (info(pod), format!("n{on}"));
                stage.cluster.set_pod(pod.clone(), &on);
                pods.push((pod, on));
            }
            Step::Remove(number) if number < pods.len() => {
                let (pod, _) = pods.remove(number);
                stage.cluster.remove_pod(&pod.uid);
            }
            Step::Remove(_) => {}
            Step::Relabel(node) => {
                stage.cluster.set_node(Arc::new(node.clone()));
                let known = nodes.iter_mut().find(|known| known.metadata.name == node.metadata.name);
                *known.expect("one of them") = node;
            }
            Step::Protect(app, allowed) => {
                let name = format!("b{app}");
                let budget: PodDisruptionBudget = from(json!({
                    "metadata": {"name": name, "namespace": "x"},
                    "spec": {"selector": {"matchLabels": {"app": format!("a{app}")}}},
                    "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
                }));
                stage.cluster.objects.budgets.insert(("x".to_owned(), name.clone()), Arc::new(budget.clone()));
                budgets.insert(name, budget);
            }
            Step::Ask(pod) => {
                let pod = info(pod);
                let plain = Plain { nodes: &nodes, pods: &pods, namespaces: &namespaces };
                let mut expected: Vec<String> = nodes
                    .iter()
                    .filter(|node| plain.fits(&pod, node))
                    .filter_map(|node| node.metadata.name.clone())
                    .collect();
                expected.sort();
                assert_eq!(fitting(&mut stage.cluster, &stage.profile, &pod), expected, "{pod:?}");
                let fresh = scores(&mut anew(&nodes, &pods).cluster, &stage.profile, &pod, &expected);
                assert_eq!(scores(&mut stage.cluster, &stage.profile, &pod, &expected), fresh, "{pod:?}");
                match stage.decide((*pod.pod).clone(), 0) {
                    Decision::Place(node, _) => assert!(expected.contains(&stage.cluster.at(node).name), "{pod:?}"),
                    _ => assert!(expected.is_empty(), "{expected:?} take {pod:?}"),
                }
                if expected.is_empty() {
                    let budgets: Vec<_> = budgets.values().cloned().collect();
                    room::made_as_the_naive_would(&mut stage, &plain, &pod, &budgets);
                }
            }
        }
    }
}

/// `SKIFF_CASES` raises the number of random clusters.
fn cases() -> u32 {
    std::env::var("SKIFF_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn fast_and_naive_agree((nodes, steps) in steps()) {
        check(nodes, steps);
    }
}

#[test]
fn a_pod_without_any_wish_fits_wherever_there_is_room() {
    let mut stage = Stage::new(vec![node("a", json!({}))]);
    assert_eq!(fitting(&mut stage.cluster, &Profile::default(), &info(from(json!(super::pod("p", "1"))))), ["a"]);
}

/// What happens between decisions about pods of a few kinds.
#[derive(Clone, Debug)]
enum Turnover {
    Place(Pod, usize),
    Remove(usize),
    Started(usize),
    Change(Node),
    Vanish(usize),
    Nominate(Pod, Option<usize>),
    Protect(Option<i32>),
    Ask(Pod),
}

fn a_plain_pod(name: String) -> impl Strategy<Value = Pod> {
    (1..3_u32, 0..3_i32, prop::bool::ANY).prop_map(move |(half_cores, priority, labelled)| {
        let labels = if labelled { json!({"app": "a"}) } else { json!({}) };
        let spec = json!({"metadata": {"labels": labels}, "spec": {"priority": priority}});
        with(&name, &format!("{}m", half_cores * 500), spec)
    })
}

fn a_turnover(number: usize) -> impl Strategy<Value = Turnover> {
    let pod = || a_plain_pod(format!("p{number}"));
    let node = (0..NODES, prop::bool::ANY)
        .prop_map(|(number, closed)| node(&format!("n{number}"), json!({"spec": {"unschedulable": closed}})));
    prop_oneof![
        6 => (pod(), 0..NODES).prop_map(|(pod, node)| Turnover::Place(pod, node)),
        2 => (0..30_usize).prop_map(Turnover::Remove),
        1 => (0..30_usize).prop_map(Turnover::Started),
        2 => node.prop_map(Turnover::Change),
        1 => (0..NODES).prop_map(Turnover::Vanish),
        1 => (pod(), prop::option::of(0..NODES)).prop_map(|(pod, node)| Turnover::Nominate(pod, node)),
        1 => prop::option::of(0..2_i32).prop_map(Turnover::Protect),
        6 => pod().prop_map(Turnover::Ask),
    ]
}

/// A decision that remembers what nodes said before is the one that asks them all.
fn remembers(steps: Vec<Turnover>) {
    let mut stage = Stage::new((0..NODES).map(|number| node(&format!("n{number}"), json!({}))).collect());
    let mut placed: Vec<Pod> = Vec::new();
    for step in steps {
        match step {
            Turnover::Place(pod, on) => {
                stage.put(pod.clone(), &format!("n{on}"));
                placed.push(pod);
            }
            Turnover::Remove(number) if number < placed.len() => {
                stage.cluster.remove_pod(placed.remove(number).metadata.uid.as_deref().unwrap_or_default());
            }
            Turnover::Started(number) if number < placed.len() => {
                let pod = placed[number].clone();
                let started = json!({"status": {"startTime": format!("2026-01-01T00:00:{number:02}Z")}});
                let pod: Pod = from(merged(serde_json::to_value(pod).expect("a pod"), &started));
                stage.cluster.refresh_pod(info(pod.clone()));
                placed[number] = pod;
            }
            Turnover::Remove(_) | Turnover::Started(_) => {}
            Turnover::Change(node) => stage.cluster.set_node(Arc::new(node)),
            Turnover::Vanish(number) => stage.cluster.remove_node(&format!("n{number}")),
            Turnover::Nominate(pod, Some(node)) => stage.nominated.set(info(pod), &format!("n{node}")),
            Turnover::Nominate(..) => {
                let waiting: Vec<String> = (0..40).map(|number| format!("p{number}")).collect();
                waiting.iter().for_each(|uid| {
                    stage.nominated.remove(uid);
                });
            }
            Turnover::Protect(allowed) => {
                let key = ("x".to_owned(), "b".to_owned());
                stage.cluster.objects.budgets.remove(&key);
                if let Some(allowed) = allowed {
                    let spec = json!({"selector": {"matchLabels": {"app": "a"}}});
                    let budget = json!({"spec": spec, "status": {"disruptionsAllowed": allowed,
                        "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
                    stage.cluster.objects.budgets.insert(key, Arc::new(from(budget)));
                }
            }
            Turnover::Ask(pod) => {
                let mut fresh = Turn::beginning(stage.turn.start);
                let pod = info(pod);
                let Stage { cluster, profile, nominated, turn } = &mut stage;
                let anew = decide(profile, cluster, nominated, &pod, &mut fresh, 7);
                let remembered = decide(profile, cluster, nominated, &pod, turn, 7);
                assert_eq!(format!("{remembered:?}"), format!("{anew:?}"));
                assert_eq!(turn.start, fresh.start);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_remembered_is_still_true(steps in (0..60_usize).map(a_turnover).collect::<Vec<_>>()) {
        remembers(steps);
    }
}
