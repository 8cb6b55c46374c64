//! What nodes have said to the last pods, for pods that ask for the same: as long as nothing has changed on a node, and
//! nobody else waits for room there, its answer is the same, and so are its scores and the pods that would have to go from it.
//!
//! Only what comes from looking at the node alone is remembered: filters and scores that ask for counts of other pods, volumes
//! or devices are always asked anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::attempt::{Attempt, Part};
use super::preempt::Way;
use super::standing::Standing;
use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::framework::{Reason, Verdict};
use crate::queue::Nominator;
use crate::recent::Recent;

/// The version of no node.
const UNKNOWN: u64 = u64::MAX;
/// How many kinds of pods are remembered.
const SHAPES: usize = 4;

/// The plugin that refused a pod, by its place in the profile, and how.
pub(super) type Refused = Option<(usize, Verdict)>;

/// What an answer was about: the node's version, and the last change of those who wait for it.
pub(super) type State = (u64, u64);

/// What a node said, and why.
type Answer = (State, Refused, Box<[Reason]>);

/// The last kinds of pods with what nodes said to them, the latest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Memo(Vec<Shape>);

/// Pods that ask for the same.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pod: Arc<PodInfo>,
    profile: String,
    answers: Vec<Option<Answer>>,
    /// Of what all nodes say; `None`: not all have been asked.
    standing: Option<Standing>,
    ways: Vec<Option<(State, Way)>>,
    worth: Worth,
    /// The budgets that the ways heed.
    budgets: Vec<Arc<PodDisruptionBudget>>,
}

/// What nodes are worth to plugins that look at the node alone, before it is compared with other nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Worth {
    /// The plugins, by their places in the profile.
    plugins: Vec<usize>,
    /// Of which version of each node it is told.
    versions: Vec<u64>,
    /// What each of the plugins gives to the first node, then to the second, and so on.
    scores: Vec<i64>,
}

/// Whether plugins that look at nodes alone cannot tell two pods apart.
fn same(a: &PodInfo, b: &PodInfo) -> bool {
    fn node(pod: &PodInfo) -> Option<&str> {
        pod.pod.spec.as_ref()?.node_name.as_deref()
    }
    a.priority == b.priority
        && a.requests == b.requests
        && a.scored == b.scored
        && a.ports == b.ports
        && a.node_affinity == b.node_affinity
        && a.tolerations() == b.tolerations()
        && node(a) == node(b)
}

impl Memo {
    /// What nodes have said to pods like this one; `None`: that cannot be remembered.
    pub(super) fn answers_to(&mut self, attempt: &Attempt<'_>) -> Option<&mut Shape> {
        let local = attempt.parts.iter().all(|part| !part.filters || part.cycle.is_local());
        local.then(|| self.of(attempt))
    }

    /// What nodes are worth to pods like this one.
    pub(super) fn worth_to(&mut self, attempt: &Attempt<'_>) -> &mut Worth {
        &mut self.of(attempt).worth
    }

    fn of(&mut self, attempt: &Attempt<'_>) -> &mut Shape {
        let known = self.0.iter().position(|s| s.profile == attempt.profile.name && same(&s.pod, &attempt.pod));
        if known.is_none() && self.0.len() == SHAPES {
            self.0.pop();
        }
        if known.is_none() {
            self.0.push(Shape {
                pod: attempt.pod.clone(),
                profile: attempt.profile.name.clone(),
                answers: Vec::new(),
                standing: None,
                ways: Vec::new(),
                worth: Worth::default(),
                budgets: Vec::new(),
            });
        }
        let place = known.unwrap_or(self.0.len() - 1);
        self.0[..=place].rotate_right(1);
        &mut self.0[0]
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
        let why: Box<[Reason]> = reasons[before..].into();
        self.retract(node);
        if let Some(standing) = &mut self.standing {
            standing.add(node, refused, &why);
        }
        put(&mut self.answers, node, (state, refused, why));
        refused
    }

    /// Forgets what a node said.
    fn retract(&mut self, node: NodeIx) {
        let old = self.answers.get_mut(node).and_then(Option::take);
        if let (Some(standing), Some((_, refused, why))) = (&mut self.standing, old) {
            standing.remove(node, refused, &why);
        }
    }

    /// What all nodes say, where that is known; `ask` asks those that have changed.
    pub(super) fn standing(
        &mut self,
        cluster: &Cluster,
        awaited: &Awaited,
        mut ask: impl FnMut(&mut Self, &NodeInfo) -> Refused,
    ) -> Option<&Standing> {
        let (nodes, waits) = self.standing.as_ref()?.knows;
        let changed = cluster.changes().since(nodes).zip(awaited.changes.since(waits));
        let Some((nodes, waits)) = changed else {
            self.standing = None;
            return None;
        };
        for node in nodes.chain(waits) {
            match cluster.at(*node) {
                info if info.node.is_some() => {
                    ask(self, info);
                }
                _ => self.retract(*node),
            }
        }
        let standing = self.standing.as_mut()?;
        standing.knows = (cluster.changes().end(), awaited.changes.end());
        Some(standing)
    }

    /// All nodes have just been asked.
    pub(super) fn stands(&mut self, cluster: &Cluster, awaited: &Awaited) {
        let mut standing = Standing::default();
        standing.knows = (cluster.changes().end(), awaited.changes.end());
        for (node, answer) in self.answers.iter_mut().enumerate() {
            // Nodes that are gone have nothing to say.
            answer.take_if(|_| cluster.at(node).node.is_none());
            if let Some((_, refused, why)) = answer {
                standing.add(node, *refused, why);
            }
        }
        self.standing = Some(standing);
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

impl Worth {
    /// What each of these parts, at the places `plugins`, gives to the node.
    pub(super) fn of(&mut self, cluster: &Cluster, node: NodeIx, parts: &[Part], plugins: &[usize]) -> &[i64] {
        if self.plugins != plugins {
            (self.plugins, self.versions, self.scores) = (plugins.to_vec(), Vec::new(), Vec::new());
        }
        let count = plugins.len();
        if self.versions.len() <= node {
            self.versions.resize(node + 1, UNKNOWN);
            self.scores.resize((node + 1) * count, 0);
        }
        let scores = &mut self.scores[node * count..(node + 1) * count];
        let info = cluster.at(node);
        if self.versions[node] != info.version {
            self.versions[node] = info.version;
            let asked = parts.iter().filter(|part| plugins.contains(&part.place));
            scores.iter_mut().zip(asked).for_each(|(score, part)| *score = part.cycle.score(cluster, info));
        }
        scores
    }
}

/// On which nodes pods wait for room.
#[derive(Clone, Debug, Default)]
pub(super) struct Awaited {
    /// Of the nominations and of the cluster, when it was noted.
    when: Option<(u64, u64)>,
    /// The last change of those who wait, by node; 0: nobody does.
    nodes: Vec<u64>,
    /// The nodes for which that changed.
    changes: Recent<NodeIx>,
}

impl Awaited {
    pub(super) fn note(&mut self, cluster: &Cluster, nominated: &Nominator) {
        let now = (nominated.changes().end(), cluster.epoch());
        let before = self.when.replace(now);
        if before == Some(now) {
            return;
        }
        let known = before.filter(|(_, epoch)| *epoch == now.1);
        if let Some(names) = known.and_then(|(number, _)| nominated.changes().since(number)) {
            let nodes = names.filter_map(|name| cluster.node(name));
            nodes.for_each(|node| self.set(node.ix, nominated.changed(&node.name)));
            return;
        }
        let waiting: BTreeMap<NodeIx, u64> =
            nominated.nodes().filter_map(|(name, changed)| Some((cluster.node(name)?.ix, changed))).collect();
        let over: Vec<NodeIx> = (0..self.nodes.len()).filter(|node| !waiting.contains_key(node)).collect();
        waiting.into_iter().chain(over.into_iter().map(|node| (node, 0))).for_each(|(node, at)| self.set(node, at));
    }

    /// The last change of those who wait for a node has this number.
    fn set(&mut self, node: NodeIx, changed: u64) {
        if self.nodes.len() <= node {
            self.nodes.resize(node + 1, 0);
        }
        if std::mem::replace(&mut self.nodes[node], changed) != changed {
            self.changes.add(node);
        }
    }

    /// The state of a node; `None` where `pod` itself waits: what is said to others is not said to it.
    pub(super) fn state(&self, node: &NodeInfo, nominated: &Nominator, pod: &PodInfo) -> Option<State> {
        let awaited = self.nodes.get(node.ix).copied().unwrap_or(0);
        let itself = awaited > 0 && nominated.node_of(&pod.uid) == Some(&node.name);
        (!itself).then_some((node.version, awaited))
    }
}
