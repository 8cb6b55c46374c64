//! InterPodAffinity: pods that want to be near others, or far from them; and pods that others want near or far.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::index::{CounterIx, NodeSetSpec};
use crate::cluster::terms::{Labels, Matcher, PodTerm, Terms};
use crate::cluster::topology::{KeyIx, NONE};
use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo, Wish};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, MAX_SCORE, Plugin, Reason, Verdict};

/// The plugin.
#[derive(Clone, Copy)]
pub struct InterPodAffinity {
    /// How much it counts that a placed pod requires pods like this one nearby.
    pub hard_weight: i64,
    /// What placed pods prefer does not count for pods that prefer nothing.
    pub ignore_preferred_of_existing: bool,
}

impl Default for InterPodAffinity {
    fn default() -> Self {
        Self { hard_weight: 1, ignore_preferred_of_existing: false }
    }
}

/// How many placed pods match a term, and how many more are counted on the node in question.
struct Watched {
    term: Arc<PodTerm>,
    counter: CounterIx,
    more: i64,
}

struct Affinity {
    plugin: InterPodAffinity,
    pod: Arc<PodInfo>,
    of_namespace: Option<Labels>,
    /// One per topology key; all count pods that match every term.
    affinity: Vec<Watched>,
    anti_affinity: Vec<Watched>,
    preferred: Vec<(i64, CounterIx)>,
    /// What placed pods wish of this one.
    holders: Vec<usize>,
    /// Those of them that refuse it, with what is counted differently on the node in question, by topology key.
    never: Vec<usize>,
    more_never: BTreeMap<String, i64>,
    /// What a node's domains are worth, by topology key.
    worth: Vec<(KeyIx, Vec<i64>)>,
    /// Terms with as many domains as nodes are counted node by node: weight, and holder or counter.
    by_node: Vec<(i64, Weighed)>,
}

/// What weighs.
#[derive(Clone, Copy)]
enum Weighed {
    Holder(usize),
    Counter(CounterIx),
}

impl Weighed {
    /// The label's number, and how many pods are in a domain.
    fn count(self, cluster: &Cluster, value: u32) -> i64 {
        match self {
            Self::Holder(ix) => cluster.index.holder(ix).count(value),
            Self::Counter(ix) => cluster.index.counter(ix).count(value),
        }
    }
    fn key(self, cluster: &Cluster) -> KeyIx {
        match self {
            Self::Holder(ix) => cluster.index.holder(ix).key,
            Self::Counter(ix) => cluster.index.counter(ix).key,
        }
    }
}

static NO_TERMS: Terms = Terms { affinity: Vec::new(), anti_affinity: Vec::new(), preferred: Vec::new() };

fn terms(pod: &PodInfo) -> &Terms {
    pod.terms.as_deref().unwrap_or(&NO_TERMS)
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let (index, _, nodes) = cluster.split();
        let holders = index.holders_of(pod);
        if pod.terms.is_none() && holders.is_empty() {
            return Begin::Skip;
        }
        let own = terms(pod);
        let everywhere = NodeSetSpec::default();
        let mut count = |terms: Vec<Arc<PodTerm>>, key: &str| {
            index.counter_for(&Matcher::Terms(terms), Some(key), pod, &everywhere, nodes)
        };
        let watched = |term: &Arc<PodTerm>, counter| Watched { term: term.clone(), counter, more: 0 };
        let affinity =
            own.affinity.iter().map(|term| watched(term, count(own.affinity.clone(), &term.topology_key))).collect();
        let anti_affinity = own.anti_affinity.iter();
        let anti_affinity =
            anti_affinity.map(|term| watched(term, count(vec![term.clone()], &term.topology_key))).collect();
        let preferred = own
            .preferred
            .iter()
            .map(|(weight, term)| (*weight, count(vec![term.clone()], &term.topology_key)))
            .collect();
        let never = holders.iter().copied().filter(|ix| index.holder(*ix).wish == Wish::Never).collect();
        Begin::Go(Box::new(Affinity {
            plugin: *self,
            of_namespace: index.namespace(pod.namespace()).cloned(),
            pod: pod.clone(),
            affinity,
            anti_affinity,
            preferred,
            holders,
            never,
            more_never: BTreeMap::new(),
            worth: Vec::new(),
            by_node: Vec::new(),
        }))
    }

    fn events(&self) -> &'static [Kind] {
        &[Kind::PodAdded, Kind::PodChanged, Kind::PodGone, Kind::Own, Kind::NodeAdded, Kind::NodeChanged]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        // Labels of namespaces are not at hand here: selectors over them count as matching.
        let speaks_of = |terms: &[Arc<PodTerm>], other: &PodInfo| {
            terms.iter().any(|term| term.looks_at_namespaces() || term.matches(other.namespace(), None, other.labels()))
        };
        let own = terms(pod);
        match event {
            Event::Pod(Change { old: None, new: Some(new) }, _) => speaks_of(&own.affinity, new),
            Event::Pod(Change { old: Some(old), new: None }, _) => {
                speaks_of(&own.anti_affinity, old) || speaks_of(&terms(old).anti_affinity, pod)
            }
            Event::Pod(Change { old: Some(old), new: Some(new) }, _) => {
                old.labels() != new.labels() && (speaks_of(&own.affinity, new) || speaks_of(&own.anti_affinity, old))
            }
            Event::Own(Change { old: Some(old), new: Some(new) }) => old.labels() != new.labels(),
            Event::Node(Change { old, new: Some(new) }) => {
                let label = |node: &k8s_openapi::api::core::v1::Node, key: &String| {
                    node.metadata.labels.as_ref().and_then(|labels| labels.get(key).cloned())
                };
                let mut keys = own.affinity.iter().chain(&own.anti_affinity).map(|term| &term.topology_key);
                let changed = |key: &String| match old {
                    None => label(new, key).is_some(),
                    Some(old) => label(new, key) != label(old, key),
                };
                old.is_none() || keys.any(changed) || old.is_some_and(|old| old.metadata.labels != new.metadata.labels)
            }
            _ => false,
        }
    }
}

impl Affinity {
    /// Whether pods that match all of the pod's terms are in all of the node's domains.
    fn near(&self, cluster: &Cluster, node: NodeIx) -> bool {
        let mut all_there = true;
        for watched in &self.affinity {
            let counter = cluster.index.counter(watched.counter);
            let value = cluster.index.topology.value(counter.key, node);
            if value == NONE {
                return false;
            }
            all_there &= counter.count(value) + watched.more > 0;
        }
        all_there || self.is_first(cluster)
    }

    /// The first of a group that wants to be together: there are none to be near to, and it would be one itself.
    fn is_first(&self, cluster: &Cluster) -> bool {
        let none = self.affinity.iter().all(|w| cluster.index.counter(w.counter).total + w.more == 0);
        let itself = |watched: &Watched| {
            watched.term.matches(self.pod.namespace(), self.of_namespace.as_ref(), self.pod.labels())
        };
        none && self.affinity.iter().all(itself)
    }

    fn far(&self, cluster: &Cluster, node: NodeIx) -> bool {
        self.anti_affinity
            .iter()
            .all(|w| cluster.index.counter(w.counter).at(&cluster.index.topology, node) + w.more <= 0)
    }

    fn welcome(&self, cluster: &Cluster, node: NodeIx) -> bool {
        let refused = self.never.iter().any(|ix| {
            let holder = cluster.index.holder(*ix);
            let value = cluster.index.topology.value(holder.key, node);
            // What has gone from the node in question is counted per key: all holders of the key together.
            value != NONE
                && holder.count(value) > 0
                && self.still(cluster, holder.key, value, &holder.term.topology_key) > 0
        });
        let joined = self.more_never.iter().any(|(key, more)| *more > 0 && cluster.at(node).labels().contains_key(key));
        !refused && !joined
    }

    /// How many terms in a domain refuse the pod, over all holders with the same key.
    fn still(&self, cluster: &Cluster, key: KeyIx, value: u32, name: &str) -> i64 {
        let more = self.more_never.get(name).copied().unwrap_or(0);
        if more == 0 {
            return 1;
        }
        let holders = self.never.iter().map(|ix| cluster.index.holder(*ix)).filter(|holder| holder.key == key);
        holders.map(|holder| holder.count(value)).sum::<i64>() + more
    }

    fn add_worth(&mut self, cluster: &Cluster, nodes: usize, weight: i64, weighed: Weighed) {
        let key = weighed.key(cluster);
        if cluster.index.topology.values(key) > nodes {
            return self.by_node.push((weight, weighed));
        }
        let place = self.worth.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            self.worth.push((key, vec![0; cluster.index.topology.values(key)]));
            self.worth.len() - 1
        });
        for (value, worth) in self.worth[place].1.iter_mut().enumerate() {
            *worth += weight * weighed.count(cluster, value as u32);
        }
    }
}

impl Cycle for Affinity {
    fn filters(&self) -> bool {
        !self.affinity.is_empty() || !self.anti_affinity.is_empty() || !self.never.is_empty()
    }
    fn by_index(&self) -> bool {
        true
    }
    fn index_refuses(&self, cluster: &Cluster, node: NodeIx) -> bool {
        !(self.near(cluster, node) && self.far(cluster, node) && self.welcome(cluster, node))
    }
    fn filter(&self, cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if !self.near(cluster, node.ix) {
            reasons.push(Reason::Text("node(s) didn't match pod affinity rules"));
            return Verdict::Unresolvable;
        }
        if !self.far(cluster, node.ix) {
            reasons.push(Reason::Text("node(s) didn't match pod anti-affinity rules"));
            return Verdict::Unschedulable;
        }
        if !self.welcome(cluster, node.ix) {
            reasons.push(Reason::Text("node(s) didn't satisfy existing pods anti-affinity rules"));
            return Verdict::Unschedulable;
        }
        Verdict::Fits
    }
    fn update(&mut self, cluster: &Cluster, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        let of_namespace = cluster.index.namespace(pod.namespace());
        let matches = |term: &PodTerm| term.matches(pod.namespace(), of_namespace, pod.labels());
        if self.affinity.iter().all(|watched| matches(&watched.term)) {
            let there = self.affinity.iter_mut().filter(|w| node.labels().contains_key(&w.term.topology_key));
            there.for_each(|watched| watched.more += sign);
        }
        self.anti_affinity.iter_mut().filter(|watched| matches(&watched.term)).for_each(|w| w.more += sign);
        for term in &terms(pod).anti_affinity {
            if term.matches(self.pod.namespace(), self.of_namespace.as_ref(), self.pod.labels()) {
                *self.more_never.entry(term.topology_key.clone()).or_default() += sign;
            }
        }
    }
    fn pre_score(&mut self, cluster: &Cluster, nodes: &[NodeIx]) -> bool {
        let of_others = !self.preferred.is_empty() || !self.plugin.ignore_preferred_of_existing;
        for ix in self.holders.clone().into_iter().filter(|_| of_others) {
            let holder = cluster.index.holder(ix);
            let weight = match holder.wish {
                Wish::Never => 0,
                Wish::Required => self.plugin.hard_weight,
                Wish::Preferred(weight) => weight,
            };
            if weight != 0 && holder.total > 0 {
                self.add_worth(cluster, nodes.len(), weight, Weighed::Holder(ix));
            }
        }
        for (weight, counter) in self.preferred.clone() {
            if cluster.index.counter(counter).total > 0 {
                self.add_worth(cluster, nodes.len(), weight, Weighed::Counter(counter));
            }
        }
        !self.worth.is_empty() || !self.by_node.is_empty()
    }
    fn score(&self, cluster: &Cluster, node: &NodeInfo) -> i64 {
        let value = |key: KeyIx| cluster.index.topology.value(key, node.ix);
        let by_domain = self.worth.iter().map(|(key, worth)| worth.get(value(*key) as usize).copied().unwrap_or(0));
        let by_node = self.by_node.iter().map(|(weight, w)| weight * w.count(cluster, value(w.key(cluster))));
        by_domain.chain(by_node).sum()
    }
    fn normalize(&self, scores: &mut [i64]) {
        let (lowest, highest) = (scores.iter().min().copied().unwrap_or(0), scores.iter().max().copied().unwrap_or(0));
        for score in scores {
            let share = (*score - lowest) as f64 / (highest - lowest).max(1) as f64;
            *score = (MAX_SCORE as f64 * share) as i64;
        }
    }
    fn explain(&self, cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        let told = |watched: &Watched| {
            let counter = cluster.index.counter(watched.counter);
            let key = &watched.term.topology_key;
            let Some(domain) = node.labels().get(key) else { return format!("label {key} is missing") };
            format!("{key}={domain} holds {} matching pods", counter.at(&cluster.index.topology, node.ix))
        };
        let near =
            (!self.near(cluster, node.ix)).then(|| self.affinity.iter().map(told).collect::<Vec<_>>().join("; "));
        let far = || {
            let close = |w: &&Watched| cluster.index.counter(w.counter).at(&cluster.index.topology, node.ix) > 0;
            self.anti_affinity.iter().find(close).map(told)
        };
        let welcome = || {
            self.never.iter().find_map(|ix| {
                let holder = cluster.index.holder(*ix);
                let pods = holder.count(cluster.index.topology.value(holder.key, node.ix));
                let key = &holder.term.topology_key;
                let domain = node.labels().get(key)?;
                (pods > 0).then(|| format!("{pods} pods in {key}={domain} have an anti-affinity to this one"))
            })
        };
        near.or_else(far).or_else(welcome)
    }
}
