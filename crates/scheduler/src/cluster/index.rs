//! What inter-pod affinity and topology spread need to know of all placed pods, kept as pods and nodes come and go.
//!
//! Two questions are asked for every pod that is scheduled: how many placed pods, in each domain, match *its* terms
//! ([`Counter`]), and how many placed pods have terms that match *it* ([`Holder`]). Pods with the same namespace and
//! labels match the same, so what matches whom is decided once per [`Shape`] and term; a pod that comes or goes then
//! changes a few integers, however many nodes and pods there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use skiff_api::{affinity, taints};

use super::counter::{Counter, Holder, Wish};
use super::node::NodeInfo;
use super::pod::PodInfo;
use super::terms::{Labels, Matcher, PodTerm};
use super::topology::{EACH_NODE, KeyIx, NONE, Topology};
use super::{ByUid, NodeIx};

/// How many counters are kept; beyond it all are dropped, and those still needed are counted anew.
const MOST_COUNTERS: usize = 4096;

/// Nodes that a pod's node affinity, and its tolerations where they matter, leave to it, and that have certain labels.
#[derive(Clone, Debug)]
struct NodeSet {
    pod: Arc<PodInfo>,
    affinity: bool,
    taints: bool,
    keys: Vec<String>,
    members: Vec<bool>,
}

/// Which nodes count for a topology spread constraint, or pass a pod's node affinity.
#[derive(Clone, Debug, Default)]
pub struct NodeSetSpec {
    /// The pod's node selector and required node affinity count.
    pub affinity: bool,
    /// Taints that the pod does not tolerate exclude nodes.
    pub taints: bool,
    /// Labels that must be there.
    pub keys: Vec<String>,
}

impl NodeSetSpec {
    /// Equal texts, equal nodes; `None`: all nodes.
    fn identity(&self, pod: &PodInfo) -> Option<String> {
        let affinity = pod.node_affinity.as_deref().filter(|_| self.affinity);
        if affinity.is_none() && !self.taints && self.keys.is_empty() {
            return None;
        }
        let tolerations = self.taints.then(|| serde_json::to_string(pod.tolerations()).unwrap_or_default());
        Some(format!("{affinity:?}{tolerations:?}{:?}", self.keys))
    }
}

impl NodeSet {
    fn decide(&mut self, ix: NodeIx, node: Option<&NodeInfo>) {
        if self.members.len() <= ix {
            self.members.resize(ix + 1, false);
        }
        self.members[ix] = node.is_some_and(|node| self.admits(node));
    }

    fn admits(&self, node: &NodeInfo) -> bool {
        let hard = &[taints::NO_SCHEDULE, taints::NO_EXECUTE];
        self.keys.iter().all(|key| node.labels().contains_key(key))
            && (!self.affinity || self.pod.pod.spec.as_ref().is_some_and(|s| affinity::pod_fits(s, node.view())))
            && (!self.taints || taints::untolerated(&node.taints, self.pod.tolerations(), hard).is_none())
    }
}

/// A number for a counter: see [`Index::counter`].
pub type CounterIx = usize;

/// Pods that no rule can tell apart: same namespace, same labels.
#[derive(Clone, Debug, Default)]
struct Shape {
    namespace: String,
    labels: Labels,
    counters: Vec<CounterIx>,
    holders: Vec<usize>,
    pods: usize,
}

/// Where a pod is, with what it changes.
#[derive(Clone, Debug)]
struct Placed {
    node: NodeIx,
    shape: usize,
    terminating: bool,
    holders: Box<[usize]>,
}

/// The index. See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Which value of which label each node has.
    pub topology: Topology,
    namespaces: BTreeMap<String, Labels>,
    sets: Vec<NodeSet>,
    sets_by: BTreeMap<String, usize>,
    counters: Vec<Counter>,
    counters_by: BTreeMap<String, CounterIx>,
    holders: Vec<Holder>,
    holders_by: BTreeMap<(String, KeyIx, Wish), usize>,
    free_holders: Vec<usize>,
    shapes: Vec<Shape>,
    shapes_by: BTreeMap<String, BTreeMap<Labels, usize>>,
    free_shapes: Vec<usize>,
    placed: ByUid<Placed>,
    nodes: usize,
}

impl Index {
    /// A counter that exists.
    pub fn counter(&self, ix: CounterIx) -> &Counter {
        &self.counters[ix]
    }

    /// A counter of the placed pods that `matcher` matches, by the domains of label `key` (`None`: by node), on the
    /// nodes that `spec` admits for `pod`. A new one is counted over all pods.
    pub fn counter_for(
        &mut self,
        matcher: &Matcher,
        key: Option<&str>,
        pod: &Arc<PodInfo>,
        spec: &NodeSetSpec,
        nodes: &[NodeInfo],
    ) -> CounterIx {
        let set = spec.identity(pod);
        let identity =
            format!("{}@{}@{}", matcher.identity(), key.unwrap_or_default(), set.as_deref().unwrap_or_default());
        if let Some(&known) = self.counters_by.get(&identity) {
            return known;
        }
        let key = key.map_or(EACH_NODE, |key| self.key(key, nodes));
        let set = set.map(|set| self.set_by(set, pod, spec, nodes));
        let mut counter = Counter::new(matcher.clone(), key, set);
        let ix = self.counters.len();
        for node in nodes.iter().filter(|node| node.node.is_some()) {
            counter.node(self.domain(&counter, node.ix), 1);
        }
        for shape in &mut self.shapes {
            if counter.matcher.matches(&shape.namespace, self.namespaces.get(&shape.namespace), &shape.labels) {
                shape.counters.push(ix);
            }
        }
        for placed in self.placed.values() {
            let counts = !placed.terminating || counter.matcher.counts_terminating();
            if counts && self.shapes[placed.shape].counters.last() == Some(&ix) {
                counter.add(self.domain(&counter, placed.node), 1);
            }
        }
        self.counters.push(counter);
        self.counters_by.insert(identity, ix);
        ix
    }

    /// The set of nodes that pass the pod's required node affinity; `None`: all do.
    pub fn affinity_set(&mut self, pod: &Arc<PodInfo>, nodes: &[NodeInfo]) -> Option<usize> {
        let spec = NodeSetSpec { affinity: true, ..NodeSetSpec::default() };
        let identity = spec.identity(pod)?;
        Some(self.set_by(identity, pod, &spec, nodes))
    }

    /// Whether a node is in a set.
    pub fn in_set(&self, set: usize, node: NodeIx) -> bool {
        self.sets[set].members.get(node).copied().unwrap_or(false)
    }

    fn set_by(&mut self, identity: String, pod: &Arc<PodInfo>, spec: &NodeSetSpec, nodes: &[NodeInfo]) -> usize {
        if let Some(&known) = self.sets_by.get(&identity) {
            return known;
        }
        let NodeSetSpec { affinity, taints, keys } = spec.clone();
        let mut set = NodeSet { pod: pod.clone(), affinity, taints, keys, members: Vec::new() };
        nodes.iter().filter(|node| node.node.is_some()).for_each(|node| set.decide(node.ix, Some(node)));
        self.sets.push(set);
        self.sets_by.insert(identity, self.sets.len() - 1);
        self.sets.len() - 1
    }

    /// The number of a label.
    pub fn key(&mut self, key: &str, nodes: &[NodeInfo]) -> KeyIx {
        let known = nodes.iter().filter_map(|info| Some((info.ix, &**info.node.as_ref()?)));
        self.topology.key(key, known)
    }

    /// The domain in which a counter counts pods of a node.
    fn domain(&self, counter: &Counter, node: NodeIx) -> u32 {
        match counter.set {
            Some(set) if !self.in_set(set, node) => NONE,
            _ => self.topology.value(counter.key, node),
        }
    }

    /// Drops counters when there are too many: called between two pods.
    pub fn shed(&mut self) {
        if self.counters.len() <= MOST_COUNTERS && self.sets.len() <= MOST_COUNTERS {
            return;
        }
        self.counters.clear();
        self.counters_by.clear();
        self.sets.clear();
        self.sets_by.clear();
        self.shapes.iter_mut().for_each(|shape| shape.counters.clear());
    }

    /// The terms of placed pods that speak of `pod`.
    pub fn holders_of(&mut self, pod: &PodInfo) -> Vec<usize> {
        if self.holders_by.is_empty() {
            return Vec::new();
        }
        let shape = self.shape(pod);
        let found = self.shapes[shape].holders.clone();
        self.drop_unused(shape);
        found
    }

    /// A holder that exists.
    pub fn holder(&self, ix: usize) -> &Holder {
        &self.holders[ix]
    }

    /// The labels of a namespace, where it is known.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// A node is there, has changed, or is gone (`now` is `None`). `info` is as it was.
    pub fn set_node(&mut self, info: &NodeInfo, now: Option<&Arc<Node>>) {
        let ix = info.ix;
        if info.node.is_some() {
            self.recount(info, -1);
        }
        let taints = now.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default();
        let mut after = NodeInfo { ix, name: info.name.clone(), taints, node: now.cloned(), ..NodeInfo::default() };
        self.topology.set(ix, now.map(|node| &**node), info.node.as_deref());
        self.sets.iter_mut().for_each(|set| set.decide(ix, now.is_some().then_some(&after)));
        self.nodes = self.nodes.max(ix + 1);
        if now.is_some() {
            after.pods.clone_from(&info.pods);
            self.recount(&after, 1);
        }
    }

    /// Counts a node and its pods (1), or takes them out of all counts (-1).
    fn recount(&mut self, info: &NodeInfo, sign: i64) {
        let domains: Vec<u32> = self.counters.iter().map(|counter| self.domain(counter, info.ix)).collect();
        let count_nodes = |index: &mut Self| {
            index.counters.iter_mut().zip(&domains).for_each(|(counter, domain)| counter.node(*domain, sign));
        };
        if sign > 0 {
            count_nodes(self);
        }
        for pod in &info.pods {
            if let Some(placed) = self.placed.get(&pod.uid).cloned() {
                self.count(&placed, sign);
            }
        }
        if sign < 0 {
            count_nodes(self);
        }
    }

    fn count(&mut self, placed: &Placed, sign: i64) {
        let Self { topology, sets, counters, holders, shapes, .. } = self;
        for &ix in &shapes[placed.shape].counters {
            let counter = &mut counters[ix];
            let outside =
                counter.set.is_some_and(|set| !sets[set].members.get(placed.node).is_some_and(|member| *member));
            if !outside && (!placed.terminating || counter.matcher.counts_terminating()) {
                counter.add(topology.value(counter.key, placed.node), sign);
            }
        }
        for &ix in &placed.holders {
            let holder = &mut holders[ix];
            holder.add(topology.value(holder.key, placed.node), sign);
        }
    }

    /// A pod is on a node; `known`: the node exists, so that the pod counts.
    pub fn place(&mut self, pod: &PodInfo, node: NodeIx, known: bool, nodes: &[NodeInfo]) {
        let shape = self.shape(pod);
        self.shapes[shape].pods += 1;
        let holders = self.hold(pod, nodes);
        let placed = Placed { node, shape, terminating: pod.is_terminating(), holders };
        if known {
            self.count(&placed, 1);
        }
        self.placed.insert(pod.uid.clone(), placed);
    }

    /// A pod is gone from where it was.
    pub fn remove(&mut self, uid: &str, known: bool) {
        let Some(placed) = self.placed.remove(uid) else { return };
        if known {
            self.count(&placed, -1);
        }
        for &ix in &placed.holders {
            self.holders[ix].pods -= 1;
            if self.holders[ix].pods == 0 {
                self.let_go(ix);
            }
        }
        self.shapes[placed.shape].pods -= 1;
        self.drop_unused(placed.shape);
    }

    /// A namespace's labels, or that it is gone. Terms that look at them are decided anew.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>, nodes: &[NodeInfo]) {
        let before = self.namespaces.get(name).cloned();
        if before == labels {
            return;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        let asked = self.counters.iter().any(|counter| counter.matcher.looks_at_namespaces())
            || self.holders.iter().any(|holder| holder.pods > 0 && holder.term.looks_at_namespaces());
        if !asked || !self.shapes_by.contains_key(name) {
            return;
        }
        let known = || nodes.iter().filter(|info| info.node.is_some());
        known().for_each(|info| self.recount(info, -1));
        for shape in self.shapes_by.get(name).into_iter().flat_map(BTreeMap::values) {
            let shape = &mut self.shapes[*shape];
            let of_namespace = self.namespaces.get(name);
            (shape.counters, shape.holders) = matched(&self.counters, &self.holders, shape, of_namespace);
        }
        known().for_each(|info| self.recount(info, 1));
    }

    fn shape(&mut self, pod: &PodInfo) -> usize {
        let (namespace, labels) = (pod.namespace(), pod.labels());
        if let Some(&known) = self.shapes_by.get(namespace).and_then(|by| by.get(labels)) {
            return known;
        }
        let mut shape = Shape { namespace: namespace.to_owned(), labels: labels.clone(), ..Shape::default() };
        let of_namespace = self.namespaces.get(namespace);
        (shape.counters, shape.holders) = matched(&self.counters, &self.holders, &shape, of_namespace);
        let ix = self.free_shapes.pop().unwrap_or_else(|| {
            self.shapes.push(Shape::default());
            self.shapes.len() - 1
        });
        self.shapes[ix] = shape;
        self.shapes_by.entry(namespace.to_owned()).or_default().insert(labels.clone(), ix);
        ix
    }

    fn drop_unused(&mut self, ix: usize) {
        if self.shapes[ix].pods > 0 {
            return;
        }
        let shape = std::mem::take(&mut self.shapes[ix]);
        if let Some(by) = self.shapes_by.get_mut(&shape.namespace) {
            by.remove(&shape.labels);
            if by.is_empty() {
                self.shapes_by.remove(&shape.namespace);
            }
        }
        self.free_shapes.push(ix);
    }

    /// The holders of a pod's terms; new ones are matched with all shapes.
    fn hold(&mut self, pod: &PodInfo, nodes: &[NodeInfo]) -> Box<[usize]> {
        let Some(terms) = &pod.terms else { return Box::default() };
        let never = terms.anti_affinity.iter().map(|term| (Wish::Never, term));
        let required = terms.affinity.iter().map(|term| (Wish::Required, term));
        let preferred = terms.preferred.iter().map(|(weight, term)| (Wish::Preferred(*weight), term));
        let all: Vec<(Wish, &Arc<PodTerm>)> = never.chain(required).chain(preferred).collect();
        all.into_iter().map(|(wish, term)| self.holder_for(term, wish, nodes)).collect()
    }

    fn holder_for(&mut self, term: &Arc<PodTerm>, wish: Wish, nodes: &[NodeInfo]) -> usize {
        let key = self.key(&term.topology_key, nodes);
        let identity = (term.identity.clone(), key, wish);
        if let Some(&known) = self.holders_by.get(&identity) {
            self.holders[known].pods += 1;
            return known;
        }
        let mut holder = Holder::new(term.clone(), key, wish);
        holder.pods = 1;
        let ix = match self.free_holders.pop() {
            Some(free) => {
                self.holders[free] = holder;
                free
            }
            None => {
                self.holders.push(holder);
                self.holders.len() - 1
            }
        };
        for shape in self.shapes.iter_mut().filter(|shape| shape.pods > 0) {
            if term.matches(&shape.namespace, self.namespaces.get(&shape.namespace), &shape.labels) {
                shape.holders.push(ix);
            }
        }
        self.holders_by.insert(identity, ix);
        ix
    }

    fn let_go(&mut self, ix: usize) {
        let holder = &self.holders[ix];
        self.holders_by.remove(&(holder.term.identity.clone(), holder.key, holder.wish));
        self.shapes.iter_mut().for_each(|shape| shape.holders.retain(|held| *held != ix));
        self.free_holders.push(ix);
    }
}

/// The counters and holders that a shape matters to.
fn matched(
    counters: &[Counter],
    holders: &[Holder],
    shape: &Shape,
    of_namespace: Option<&Labels>,
) -> (Vec<CounterIx>, Vec<usize>) {
    let counters = counters.iter().enumerate();
    let counting = counters.filter(|(_, c)| c.matcher.matches(&shape.namespace, of_namespace, &shape.labels));
    let holders = holders.iter().enumerate().filter(|(_, holder)| holder.pods > 0);
    let holding = holders.filter(|(_, h)| h.term.matches(&shape.namespace, of_namespace, &shape.labels));
    (counting.map(|(ix, _)| ix).collect(), holding.map(|(ix, _)| ix).collect())
}
