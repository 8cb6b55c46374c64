//! One decision: which node takes a pod, and when none does, why not, and whose place it could take. Pure.

mod attempt;
mod diagnosis;
mod memo;
mod preempt;
mod score;
mod standing;

use std::sync::Arc;

use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::framework::{GiveUp, Reason, Verdict};
use crate::profile::Profile;
use crate::queue::Nominator;

pub use attempt::{Attempt, Part, Refused};
pub use diagnosis::{Diagnosis, Histogram};
pub use preempt::{Candidate, Preempted, least_harm};
pub use score::{Scored, score};

/// What became of a pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// This node takes it, with these scores where there was a choice.
    Place(NodeIx, Option<Box<Scored>>),
    /// There are no nodes.
    NoNodes,
    /// No node takes it.
    Nowhere(Box<Diagnosis>),
    /// The plugin at this place in the profile waits for something that is about to come, and nobody need be told.
    Waits(usize),
    /// Something is wrong with what it asks for.
    Failed(String),
}

/// What goes from one decision to the next.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Where the search begins, so that all nodes are looked at in the long run.
    pub start: usize,
    reasons: Vec<Reason>,
    fitting: Vec<NodeIx>,
    memo: memo::Memo,
    awaited: memo::Awaited,
}

#[cfg(test)]
impl Turn {
    /// A turn that remembers nothing but where to begin.
    pub(crate) fn beginning(start: usize) -> Self {
        Self { start, ..Self::default() }
    }
}

/// What a search came to.
enum Found<'p> {
    /// Nodes that fit, in `Turn::fitting`.
    Nodes(Attempt<'p>),
    /// None, and why; without an attempt where no node came into question.
    Nowhere(Option<Attempt<'p>>, Diagnosis),
    /// There is nothing to look for.
    Over(Decision),
}

/// Decides for a pod. Among equally good nodes `random` picks one.
pub fn decide(
    profile: &Profile,
    cluster: &mut Cluster,
    nominated: &Nominator,
    pod: &Arc<PodInfo>,
    turn: &mut Turn,
    random: u64,
) -> Decision {
    match find(profile, cluster, nominated, pod, turn, true) {
        Found::Nodes(mut attempt) => {
            let worth = turn.memo.worth_to(&attempt);
            place(&mut attempt, cluster, &turn.fitting, &[], worth, random)
        }
        Found::Over(decision) => decision,
        Found::Nowhere(mut attempt, mut diagnosis) => {
            let found = room(attempt.as_mut(), profile, cluster, nominated, pod, &mut diagnosis, turn, random);
            nowhere(profile, diagnosis, found.map(|found| found.map_or_else(|no| no, least_harm)))
        }
    }
}

/// The nodes that fit, for those who ask others before they choose: the first half of [`decide`]. `nominated_first`: the
/// node that the pod waits for room on alone, if it fits there.
///
/// # Errors
/// The diagnosis, or the decision where that is made.
pub fn fitting(
    profile: &Profile,
    cluster: &mut Cluster,
    nominated: &Nominator,
    pod: &Arc<PodInfo>,
    turn: &mut Turn,
    nominated_first: bool,
) -> Result<Vec<NodeIx>, Result<Diagnosis, Decision>> {
    match find(profile, cluster, nominated, pod, turn, nominated_first) {
        Found::Nodes(_) => Ok(turn.fitting.clone()),
        Found::Nowhere(_, diagnosis) => Err(Ok(diagnosis)),
        Found::Over(decision) => Err(Err(decision)),
    }
}

/// Chooses among nodes that fit, whose scores others have raised by `more`: the second half of [`decide`].
pub fn choose(
    profile: &Profile,
    cluster: &mut Cluster,
    pod: &Arc<PodInfo>,
    nodes: &[NodeIx],
    more: &[i64],
    random: u64,
) -> Decision {
    match Attempt::begin(profile, pod, cluster) {
        Ok(mut attempt) => place(&mut attempt, cluster, nodes, more, &mut memo::Worth::default(), random),
        Err(refused) => Decision::Failed(refused.why),
    }
}

/// The nodes on which room could be made for a pod that fits nowhere, noted in the diagnosis where there are none; `None`:
/// the profile does not preempt.
pub fn rooms(
    profile: &Profile,
    cluster: &mut Cluster,
    nominated: &Nominator,
    pod: &Arc<PodInfo>,
    diagnosis: &mut Diagnosis,
    turn: &mut Turn,
    random: u64,
) -> Option<Result<Vec<Arc<Candidate>>, Preempted>> {
    let mut attempt = Attempt::begin(profile, pod, cluster).ok();
    room(attempt.as_mut(), profile, cluster, nominated, pod, diagnosis, turn, random)
}

/// What is said of a pod that fits nowhere, once it is known whether room is made for it.
pub fn nowhere(profile: &Profile, mut diagnosis: Diagnosis, preempted: Option<Preempted>) -> Decision {
    if let Some(Preempted::No { why, .. }) = &preempted {
        let said = diagnosis.give_up.as_ref().map_or("no new claims to deallocate", GiveUp::message).to_owned();
        let devices = profile.filters_with("DynamicResources").then_some(said);
        diagnosis.post_filter = devices.into_iter().chain([format!("preemption: {why}")]).collect();
    }
    diagnosis.preempted = preempted;
    Decision::Nowhere(Box::new(diagnosis))
}

fn find<'p>(
    profile: &'p Profile,
    cluster: &mut Cluster,
    nominated: &Nominator,
    pod: &Arc<PodInfo>,
    turn: &mut Turn,
    nominated_first: bool,
) -> Found<'p> {
    cluster.sort();
    cluster.index.shed();
    if cluster.is_empty() {
        return Found::Over(Decision::NoNodes);
    }
    let mut attempt = match Attempt::begin(profile, pod, cluster) {
        Ok(attempt) => attempt,
        Err(Refused { place, waits: true, .. }) => return Found::Over(Decision::Waits(place)),
        Err(Refused { place, why, .. }) => {
            let mut diagnosis = Diagnosis { nodes: cluster.len(), refused: Some(why), ..Diagnosis::default() };
            diagnosis.rejected_by.insert(place);
            diagnosis.nominated_is_hopeless = true;
            return Found::Nowhere(None, diagnosis);
        }
    };
    match search(&mut attempt, cluster, nominated, turn, nominated_first) {
        None => Found::Nodes(attempt),
        Some(Diagnosis { failed: Some(why), .. }) => Found::Over(Decision::Failed(why)),
        Some(diagnosis) => Found::Nowhere(Some(attempt), diagnosis),
    }
}

fn place(
    attempt: &mut Attempt<'_>,
    cluster: &Cluster,
    fitting: &[NodeIx],
    more: &[i64],
    worth: &mut memo::Worth,
    random: u64,
) -> Decision {
    match fitting {
        [only] => Decision::Place(*only, None),
        fitting => {
            let mut scored = score::score_knowing(attempt, cluster, fitting, worth);
            scored.totals.iter_mut().zip(more).for_each(|(total, more)| *total += more);
            Decision::Place(scored.best(random), Some(Box::new(scored)))
        }
    }
}

/// Fills `turn.fitting`; `None` when it is not empty, and otherwise why.
fn search(
    attempt: &mut Attempt<'_>,
    cluster: &Cluster,
    nominated: &Nominator,
    turn: &mut Turn,
    nominated_first: bool,
) -> Option<Diagnosis> {
    let Turn { start, reasons, fitting, memo, awaited } = turn;
    fitting.clear();
    let mut diagnosis = Diagnosis { nodes: cluster.len(), ..Diagnosis::default() };
    // Where the pod waits for room, it most likely fits, and nowhere else.
    let waits_on = attempt.pod.nominated_node().to_owned();
    if let Some(node) = cluster.node(&waits_on).filter(|_| nominated_first) {
        reasons.clear();
        if attempt.check_after(cluster, node, nominated, reasons).is_none() {
            fitting.push(node.ix);
            return None;
        }
    }
    awaited.note(cluster, nominated);
    let mut shape = memo.answers_to(attempt);
    let ask =
        |shape: Option<&mut memo::Shape>, attempt: &mut Attempt<'_>, node: &NodeInfo, reasons: &mut Vec<Reason>| {
            reasons.clear();
            let state = awaited.state(node, nominated, &attempt.pod);
            let mut ask = |reasons: &mut Vec<Reason>| match state {
                Some((_, 0)) => attempt.check(cluster, node, reasons),
                _ => attempt.check_after(cluster, node, nominated, reasons),
            };
            match (shape, state) {
                (Some(shape), Some(state)) => shape.answer(node.ix, state, reasons, ask),
                _ => ask(reasons),
            }
        };
    // Where all nodes have refused such a pod before, only those that have changed are asked. What is said to a pod that waits
    // for a node is said to no other.
    let alike = attempt.only.is_none() && nominated.node_of(&attempt.pod.uid).is_none();
    if let Some(shape) = shape.as_mut().filter(|_| alike) {
        let again = |shape: &mut memo::Shape, node: &NodeInfo| ask(Some(shape), attempt, node, reasons);
        if let Some(standing) = shape.standing(cluster, awaited, again).filter(|standing| standing.fits == 0) {
            *start %= cluster.len();
            diagnosis = standing.diagnosis(cluster, *start);
            let hopeless = |node: &NodeInfo| standing.is_hopeless(node.ix);
            diagnosis.nominated_is_hopeless = cluster.node(&waits_on).is_some_and(hopeless);
            return Some(diagnosis);
        }
    }
    let named: Option<Vec<NodeIx>> =
        attempt.only.as_ref().map(|names| names.iter().filter_map(|name| Some(cluster.node(name)?.ix)).collect());
    let nodes = named.as_deref().unwrap_or(cluster.order());
    let enough = attempt.profile.enough(nodes.len());
    // Where the index can tell, it is asked first whether the pod fits: hardly anybody wants to know why it does not.
    if attempt.parts.iter().any(|part| part.by_index) {
        let mut looked_at = 0;
        for step in 0..nodes.len() {
            let ix = nodes[(*start + step) % nodes.len()];
            looked_at += 1;
            if !attempt.refused_by_index(cluster, ix)
                && ask(shape.as_deref_mut(), attempt, cluster.at(ix), reasons).is_none()
            {
                fitting.push(ix);
                if fitting.len() == enough {
                    break;
                }
            }
        }
        if !fitting.is_empty() {
            *start = (*start + looked_at) % cluster.len();
            return None;
        }
    }
    let mut looked_at = 0;
    for step in 0..nodes.len() {
        let node = cluster.at(nodes[(*start + step) % nodes.len()]);
        looked_at += 1;
        match ask(shape.as_deref_mut(), attempt, node, reasons) {
            None => {
                fitting.push(node.ix);
                if fitting.len() == enough {
                    break;
                }
            }
            Some((place, Verdict::Failed)) => {
                let plugin = attempt.profile.plugin_name(place);
                let why = reasons.pop().map(|reason| reason.to_string()).unwrap_or_default();
                diagnosis.failed = Some(format!("running {plugin:?} filter plugin: {why}"));
                return Some(diagnosis);
            }
            Some((place, verdict)) => {
                diagnosis.rejected_by.insert(place);
                reasons.drain(..).for_each(|reason| diagnosis.reasons.add(reason, 1));
                if verdict == Verdict::Unschedulable {
                    diagnosis.resolvable.push(node.ix);
                } else if node.name == waits_on {
                    diagnosis.nominated_is_hopeless = true;
                }
            }
        }
    }
    *start = (*start + looked_at) % cluster.len();
    if !fitting.is_empty() {
        return None;
    }
    if let Some(shape) = shape.filter(|_| alike) {
        shape.stands(cluster, awaited);
    }
    if named.is_some() {
        let mut names: Vec<&str> = attempt.narrowed_by.iter().map(|place| attempt.profile.plugin_name(place)).collect();
        names.sort_unstable();
        let why = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
        diagnosis.others = Some((why, cluster.len() - looked_at));
        attempt.narrowed_by.iter().for_each(|place| diagnosis.rejected_by.insert(place));
    }
    Some(diagnosis)
}

fn room(
    attempt: Option<&mut Attempt<'_>>,
    profile: &Profile,
    cluster: &Cluster,
    nominated: &Nominator,
    pod: &Arc<PodInfo>,
    diagnosis: &mut Diagnosis,
    turn: &mut Turn,
    random: u64,
) -> Option<Result<Vec<Arc<Candidate>>, Preempted>> {
    // Devices are given back before pods are asked to go.
    diagnosis.give_up = attempt.as_ref().and_then(|attempt| attempt.parts.iter().find_map(|part| part.cycle.give_up()));
    let settings = profile.preemption.as_ref()?;
    Some(preempt::candidates(attempt, settings, cluster, nominated, pod, diagnosis, turn, random))
}
