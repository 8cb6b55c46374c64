//! NodeAffinity: node selector and required terms must match; preferred terms add their weight. A profile can add
//! affinity of its own to every pod's.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, Node, NodeAffinity as Terms, NodeSelectorTerm, PodSpec};
use skiff_api::affinity::{self, NodeView};

use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict, normalize_by_highest};

/// The plugin.
#[derive(Default)]
pub struct NodeAffinity {
    /// A spec with nothing but the profile's added affinity.
    added: Option<Arc<PodSpec>>,
}

struct Wanted {
    pod: Arc<PodInfo>,
    added: Option<Arc<PodSpec>>,
    /// The nodes that pass, where many pods ask the same; otherwise every node is looked at.
    set: Option<usize>,
}

impl NodeAffinity {
    /// With affinity that every pod of the profile has besides its own.
    pub fn new(added: Option<Terms>) -> Self {
        let spec = |added| PodSpec {
            affinity: Some(Affinity { node_affinity: Some(added), ..Affinity::default() }),
            ..PodSpec::default()
        };
        Self { added: added.map(|added| Arc::new(spec(added))) }
    }
}

fn terms(pod: &PodInfo) -> Option<&Terms> {
    pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

fn fits(pod: &PodInfo, node: &Node) -> bool {
    let empty = std::collections::BTreeMap::new();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let view = NodeView { name, labels: node.metadata.labels.as_ref().unwrap_or(&empty) };
    pod.pod.spec.as_ref().is_some_and(|spec| affinity::pod_fits(spec, view))
}

/// The names that a term asks for, where it asks for names at all.
fn names(term: &NodeSelectorTerm) -> Option<BTreeSet<String>> {
    let fields = term.match_fields.iter().flatten();
    let named = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
    let sets = named.map(|field| field.values.iter().flatten().cloned().collect::<BTreeSet<String>>());
    sets.reduce(|all, next| all.intersection(&next).cloned().collect())
}

/// The names of the only nodes that come into question.
fn only(pod: &PodInfo) -> Option<BTreeSet<String>> {
    let required = terms(pod)?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let all: Option<Vec<BTreeSet<String>>> = required.node_selector_terms.iter().map(names).collect();
    all.filter(|all| !all.is_empty()).map(|all| all.into_iter().flatten().collect())
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let preferred = terms(pod).is_some_and(|t| t.preferred_during_scheduling_ignored_during_execution.is_some());
        if pod.node_affinity.is_none() && self.added.is_none() && !preferred {
            return Begin::Skip;
        }
        let only = only(pod);
        if only.as_ref().is_some_and(BTreeSet::is_empty) {
            return Begin::Refuse("pod affinity terms conflict".to_owned());
        }
        let (index, _, nodes) = cluster.split();
        let set = if only.is_none() { index.affinity_set(pod, nodes) } else { None };
        let wanted = Box::new(Wanted { pod: pod.clone(), added: self.added.clone(), set });
        match only {
            Some(names) => Begin::Only(names, wanted),
            None => Begin::Go(wanted),
        }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeChanged]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::Node(Change { old, new: Some(new) }) => fits(pod, new) && !old.is_some_and(|old| fits(pod, old)),
            _ => false,
        }
    }
}

impl Cycle for Wanted {
    fn is_local(&self) -> bool {
        true
    }
    fn filters(&self) -> bool {
        self.pod.node_affinity.is_some() || self.added.is_some()
    }
    fn by_index(&self) -> bool {
        self.set.is_some() && self.added.is_none()
    }
    fn index_refuses(&self, cluster: &Cluster, node: NodeIx) -> bool {
        self.set.is_some_and(|set| !cluster.index.in_set(set, node))
    }
    fn filter(&self, cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if self.added.as_ref().is_some_and(|added| !affinity::pod_fits(added, node.view())) {
            reasons.push(Reason::Text("node(s) didn't match scheduler-enforced node affinity"));
            return Verdict::Unresolvable;
        }
        let fits = match (self.set, &self.pod.node_affinity, &self.pod.pod.spec) {
            (Some(set), ..) => cluster.index.in_set(set, node.ix),
            (None, Some(_), Some(spec)) => affinity::pod_fits(spec, node.view()),
            (None, ..) => true,
        };
        if fits {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("node(s) didn't match Pod's node affinity/selector"));
        Verdict::Unresolvable
    }
    fn pre_score(&mut self, _cluster: &Cluster, _nodes: &[NodeIx]) -> bool {
        let soft = |terms: &Terms| terms.preferred_during_scheduling_ignored_during_execution.is_some();
        let added = self.added.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
        terms(&self.pod).is_some_and(soft) || added.is_some_and(soft)
    }
    fn score(&self, _cluster: &Cluster, node: &NodeInfo) -> i64 {
        let specs = self.pod.pod.spec.iter().chain(self.added.as_deref());
        specs.map(|spec| affinity::preference(spec, node.view())).sum()
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_highest(scores, false);
    }
}
