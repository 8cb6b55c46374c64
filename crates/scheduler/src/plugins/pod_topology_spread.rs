//! PodTopologySpread: pods that belong together spread evenly over zones, nodes, or whatever a label says.

use std::sync::Arc;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use skiff_meta::selector::LabelSelector;

use crate::cluster::index::{CounterIx, NodeSetSpec};
use crate::cluster::terms::{Constraint, Matcher};
use crate::cluster::topology::{KeyIx, NONE};
use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, MAX_SCORE, Plugin, Reason, Verdict};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The score of nodes that lack a label.
const IGNORED: i64 = -1;

/// The plugin.
pub struct PodTopologySpread {
    /// What counts for pods without constraints of their own.
    defaults: Vec<TopologySpreadConstraint>,
    /// These are the system's defaults: nodes without zone still spread by name.
    system: bool,
}

impl Default for PodTopologySpread {
    fn default() -> Self {
        let soft = |key: &str, max_skew| TopologySpreadConstraint {
            max_skew,
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            ..TopologySpreadConstraint::default()
        };
        Self { defaults: vec![soft(HOSTNAME, 3), soft(ZONE, 5)], system: true }
    }
}

impl PodTopologySpread {
    /// With a profile's own defaults.
    pub fn with_defaults(defaults: Vec<TopologySpreadConstraint>) -> Self {
        Self { defaults, system: false }
    }

    /// The constraints that count for a pod, and whether nodes must have all labels to be scored.
    fn constraints(&self, pod: &PodInfo, siblings: impl FnOnce() -> Option<LabelSelector>) -> (Vec<Constraint>, bool) {
        if !pod.constraints.is_empty() {
            return (pod.constraints.clone(), true);
        }
        let Some(selector) = (if self.defaults.is_empty() { None } else { siblings() }) else {
            return (Vec::new(), true);
        };
        let default = |constraint| Constraint { selector: selector.clone(), ..Constraint::new(constraint) };
        (self.defaults.iter().map(default).collect(), !self.system)
    }
}

/// A constraint with the counter that watches it.
struct Watched {
    constraint: Constraint,
    counter: CounterIx,
    /// The label's number.
    label: KeyIx,
    /// The pod itself counts.
    itself: i64,
    /// Pods that are counted on the node in question besides those of the counter.
    more: i64,
    /// How much a pod in the same domain weighs, by the number of domains.
    weight: f64,
}

struct Spread {
    pod: Arc<PodInfo>,
    hard: Vec<Watched>,
    soft: Vec<Watched>,
    all_labels: bool,
}

fn labels_there(watched: &[Watched], cluster: &Cluster, node: NodeIx) -> bool {
    watched.iter().all(|watched| cluster.index.topology.value(watched.label, node) != NONE)
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let (constraints, all_labels) = self.constraints(pod, || cluster.objects.siblings(pod));
        if constraints.is_empty() {
            return Begin::Skip;
        }
        let (hard, soft): (Vec<Constraint>, Vec<Constraint>) = constraints.into_iter().partition(|c| c.hard);
        let mut watch = |constraints: Vec<Constraint>, hard: bool| -> Vec<Watched> {
            let all: Vec<String> = constraints.iter().map(|c| c.topology_key.clone()).collect();
            let watched = constraints.into_iter().map(|constraint| {
                let matcher =
                    Matcher::Spread { namespace: pod.namespace().to_owned(), selector: constraint.selector.clone() };
                let by_node = !hard && constraint.topology_key == HOSTNAME;
                let spec = NodeSetSpec {
                    affinity: constraint.honor_affinity && !by_node,
                    taints: constraint.honor_taints && !by_node,
                    keys: if (hard || all_labels) && !by_node { all.clone() } else { Vec::new() },
                };
                let key = (!by_node).then_some(constraint.topology_key.as_str());
                let (index, _, nodes) = cluster.split();
                let counter = index.counter_for(&matcher, key, pod, &spec, nodes);
                let itself = i64::from(constraint.selector.matches(pod.labels()));
                let label = index.key(&constraint.topology_key, nodes);
                Watched { constraint, counter, label, itself, more: 0, weight: 0.0 }
            });
            watched.collect()
        };
        let (hard, soft) = (watch(hard, true), watch(soft, false));
        Begin::Go(Box::new(Spread { pod: pod.clone(), hard, soft, all_labels }))
    }

    fn events(&self) -> &'static [Kind] {
        &[
            Kind::PodAdded,
            Kind::PodChanged,
            Kind::PodGone,
            Kind::Own,
            Kind::NodeAdded,
            Kind::NodeChanged,
            Kind::NodeGone,
        ]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        // Default constraints keep no pod from a node unless a profile says so: then every change of a pod may help.
        let hard = || pod.constraints.iter().filter(|c| c.hard);
        let counts = |other: &PodInfo| {
            other.namespace() == pod.namespace()
                && (pod.constraints.is_empty() || hard().any(|c| c.selector.matches(other.labels())))
        };
        match event {
            Event::Pod(Change { old: Some(old), new: Some(new) }, _) => counts(old) != counts(new),
            Event::Pod(Change { old, new }, _) => [*old, *new].into_iter().flatten().any(counts),
            Event::Own(Change { old: Some(old), new: Some(new) }) => {
                old.labels() != new.labels() || old.tolerations() != new.tolerations()
            }
            Event::Node(Change { old, new }) => {
                let labelled = |node: &k8s_openapi::api::core::v1::Node| {
                    let has =
                        |key: &String| node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(key));
                    hard().all(|c| has(&c.topology_key))
                };
                [*old, *new].into_iter().flatten().any(labelled)
            }
            _ => false,
        }
    }
}

impl Spread {
    /// The pods in the node's domain, its own included, and those in the emptiest domain.
    fn skew(&self, watched: &Watched, cluster: &Cluster, value: u32) -> (i64, i64) {
        let counter = cluster.index.counter(watched.counter);
        let lowest = match counter.lowest(value, watched.more) {
            Some(lowest) if counter.domains >= watched.constraint.min_domains => lowest,
            _ => 0,
        };
        (counter.count(value) + watched.more + watched.itself, lowest)
    }

    fn value(watched: &Watched, cluster: &Cluster, node: NodeIx) -> u32 {
        cluster.index.topology.value(cluster.index.counter(watched.counter).key, node)
    }

    fn is_too_full(&self, watched: &Watched, cluster: &Cluster, value: u32) -> bool {
        let (here, lowest) = self.skew(watched, cluster, value);
        here - lowest > watched.constraint.max_skew
    }
}

impl Cycle for Spread {
    fn filters(&self) -> bool {
        !self.hard.is_empty()
    }
    fn by_index(&self) -> bool {
        true
    }
    fn index_refuses(&self, cluster: &Cluster, node: NodeIx) -> bool {
        self.hard.iter().any(|watched| {
            let value = Self::value(watched, cluster, node);
            value == NONE || self.is_too_full(watched, cluster, value)
        })
    }
    fn filter(&self, cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        for watched in &self.hard {
            let value = Self::value(watched, cluster, node.ix);
            if value == NONE {
                let text = "node(s) didn't match pod topology spread constraints (missing required label)";
                reasons.push(Reason::Text(text));
                return Verdict::Unresolvable;
            }
            if self.is_too_full(watched, cluster, value) {
                reasons.push(Reason::Text("node(s) didn't match pod topology spread constraints"));
                return Verdict::Unschedulable;
            }
        }
        Verdict::Fits
    }
    fn update(&mut self, cluster: &Cluster, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        if pod.namespace() != self.pod.namespace()
            || pod.is_terminating()
            || !labels_there(&self.hard, cluster, node.ix)
        {
            return;
        }
        for watched in &mut self.hard {
            let counter = cluster.index.counter(watched.counter);
            let inside = counter.set.is_none_or(|set| cluster.index.in_set(set, node.ix));
            if inside && counter.matcher.matches(pod.namespace(), None, pod.labels()) {
                watched.more += sign;
            }
        }
    }
    fn pre_score(&mut self, cluster: &Cluster, nodes: &[NodeIx]) -> bool {
        if self.soft.is_empty() {
            return false;
        }
        let scored: Vec<NodeIx> = match self.all_labels {
            true => nodes.iter().copied().filter(|ix| labels_there(&self.soft, cluster, *ix)).collect(),
            false => nodes.to_vec(),
        };
        for watched in &mut self.soft {
            let domains = if watched.constraint.topology_key == HOSTNAME {
                scored.len()
            } else {
                let key = cluster.index.counter(watched.counter).key;
                let mut seen = vec![false; cluster.index.topology.values(key) + 1];
                for &ix in &scored {
                    // Nodes without the label make one domain together.
                    let value = cluster.index.topology.value(key, ix);
                    let last = seen.len() - 1;
                    seen[if value == NONE { last } else { value as usize }] = true;
                }
                seen.into_iter().filter(|seen| *seen).count()
            };
            watched.weight = ((domains + 2) as f64).ln();
        }
        true
    }
    fn score(&self, cluster: &Cluster, node: &NodeInfo) -> i64 {
        if self.all_labels && !labels_there(&self.soft, cluster, node.ix) {
            return IGNORED;
        }
        let mut score = 0.0;
        for watched in &self.soft {
            let by_label = cluster.index.counter(watched.counter);
            let value = Self::value(watched, cluster, node.ix);
            if value == NONE || cluster.index.topology.value(watched.label, node.ix) == NONE {
                continue;
            }
            score += by_label.count(value) as f64 * watched.weight + (watched.constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }
    fn normalize(&self, scores: &mut [i64]) {
        let counted = || scores.iter().copied().filter(|score| *score != IGNORED);
        let (lowest, highest) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0).max(0));
        for score in scores {
            *score = match *score {
                IGNORED => 0,
                _ if highest == 0 => MAX_SCORE,
                score => MAX_SCORE * (highest + lowest - score) / highest,
            };
        }
    }
    fn explain(&self, cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        self.hard.iter().find_map(|watched| {
            let (key, most) = (&watched.constraint.topology_key, watched.constraint.max_skew);
            let value = Self::value(watched, cluster, node.ix);
            let Some(domain) = node.labels().get(key) else { return Some(format!("label {key} is missing")) };
            let (here, lowest) = self.skew(watched, cluster, value);
            let over = here - lowest > most;
            over.then(|| {
                format!("{key}={domain} would hold {here} pods, the emptiest domain {lowest}; maxSkew is {most}")
            })
        })
    }
}
