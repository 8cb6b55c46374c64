//! What nodes have said to the last pods, for pods that ask for the same: as long as nothing has changed on a node, and
//! nobody else waits for room there, its answer is the same, and so are the pods that would have to go from it.
//!
//! Only answers that look at the node alone are remembered: a pod whose filters ask for counts of other pods, volumes or
//! devices is always decided anew.

use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::attempt::Attempt;
use super::preempt::Way;
use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::framework::{Reason, Verdict};
use crate::queue::Nominator;

/// How many kinds of pods are remembered.
const SHAPES: usize = 4;

/// The plugin that refused a pod, by its place in the profile, and how.
type Refused = Option<(usize, Verdict)>;

/// What an answer was about: the node's version, and the last change of those who wait for it.
pub(super) type State = (u64, u64);

/// What a node said, and why.
type Answer = (State, Refused, Box<[Reason]>);

/// The last kinds of pods with what nodes said to them, the latest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Memo(Vec<Shape>);

/// Pods that ask for the same.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pod: Arc<PodInfo>,
    profile: String,
    answers: Vec<Option<Answer>>,
    ways: Vec<Option<(State, Way)>>,
    /// The budgets that the ways heed.
    budgets: Vec<Arc<PodDisruptionBudget>>,
}

/// Whether filters that look at nodes alone cannot tell two pods apart.
fn same(a: &PodInfo, b: &PodInfo) -> bool {
    let node = |pod: &PodInfo| pod.pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    a.priority == b.priority
        && a.requests == b.requests
        && a.ports == b.ports
        && a.node_affinity == b.node_affinity
        && a.tolerations() == b.tolerations()
        && node(a) == node(b)
}

impl Memo {
    /// What is known of pods like this one; `None`: nothing can be.
    pub(super) fn of(&mut self, attempt: &Attempt<'_>) -> Option<&mut Shape> {
        if attempt.parts.iter().any(|part| part.filters && !part.cycle.is_local()) {
            return None;
        }
        let known = self.0.iter().position(|s| s.profile == attempt.profile.name && same(&s.pod, &attempt.pod));
        let shape = match known {
            Some(place) => self.0.remove(place),
            None => Shape {
                pod: attempt.pod.clone(),
                profile: attempt.profile.name.clone(),
                answers: Vec::new(),
                ways: Vec::new(),
                budgets: Vec::new(),
            },
        };
        if self.0.len() == SHAPES {
            self.0.remove(0);
        }
        self.0.push(shape);
        self.0.last_mut()
    }
}

fn put<T>(all: &mut Vec<Option<T>>, node: NodeIx, known: T) {
    if all.len() <= node {
        all.resize_with(node + 1, || None);
    }
    all[node] = Some(known);
}

impl Shape {
    /// What the node in this state says; `ask` asks it, and adds reasons.
    pub(super) fn answer(
        &mut self,
        node: NodeIx,
        state: State,
        reasons: &mut Vec<Reason>,
        ask: impl FnOnce(&mut Vec<Reason>) -> Refused,
    ) -> Refused {
        if let Some(Some((known, refused, why))) = self.answers.get(node)
            && *known == state
        {
            reasons.extend(why.iter().cloned());
            return *refused;
        }
        let before = reasons.len();
        let refused = ask(reasons);
        put(&mut self.answers, node, (state, refused, reasons[before..].into()));
        refused
    }

    /// Forgets who would have to go, if the budgets are not those that this was found out with.
    pub(super) fn heed(&mut self, cluster: &Cluster) {
        let budgets = cluster.objects.budgets.values();
        let same =
            self.budgets.len() == budgets.len() && self.budgets.iter().zip(budgets).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.ways.clear();
            self.budgets = cluster.objects.budgets.values().cloned().collect();
        }
    }

    /// How room can be made on the node in this state; `find` finds out.
    pub(super) fn way(&mut self, node: NodeIx, state: State, find: impl FnOnce() -> Way) -> Way {
        match self.ways.get(node) {
            Some(Some((known, way))) if *known == state => way.clone(),
            _ => {
                let way = find();
                put(&mut self.ways, node, (state, way.clone()));
                way
            }
        }
    }
}

/// On which nodes pods wait for room.
#[derive(Clone, Debug, Default)]
pub(super) struct Awaited {
    /// Of the nominations and of the cluster, when it was noted.
    when: Option<(u64, u64)>,
    /// The last change of those who wait, by node; 0: nobody does.
    nodes: Vec<u64>,
}

impl Awaited {
    pub(super) fn note(&mut self, cluster: &Cluster, nominated: &Nominator) {
        let now = Some((nominated.changes(), cluster.epoch()));
        if self.when == now {
            return;
        }
        self.when = now;
        self.nodes.fill(0);
        for (name, changed) in nominated.nodes() {
            if let Some(node) = cluster.node(name) {
                if self.nodes.len() <= node.ix {
                    self.nodes.resize(node.ix + 1, 0);
                }
                self.nodes[node.ix] = changed;
            }
        }
    }

    /// The state of a node; `None` where `pod` itself waits: what is said to others is not said to it.
    pub(super) fn state(&self, node: &NodeInfo, nominated: &Nominator, pod: &PodInfo) -> Option<State> {
        let awaited = self.nodes.get(node.ix).copied().unwrap_or(0);
        let itself = awaited > 0 && nominated.node_of(&pod.uid) == Some(&node.name);
        (!itself).then_some((node.version, awaited))
    }
}
