//! Making room: which pods of lower priority would have to go so that a pod fits, on which node that hurts least.

use std::cell::OnceCell;
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use jiff::Timestamp;
use skiff_api::labels;
use skiff_meta::selector::LabelSelector;

use super::Turn;
use super::attempt::Attempt;
use super::diagnosis::{Diagnosis, Histogram};
use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::framework::Reason;
use crate::profile::Preemption;
use crate::queue::Nominator;

/// What came of the attempt to make room.
#[derive(Clone, Debug)]
pub enum Preempted {
    /// The pod waits for room on this node, and these pods must go.
    Room {
        /// The node.
        node: String,
        /// The pods, most important first.
        victims: Vec<Arc<PodInfo>>,
    },
    /// There is no room to be made.
    No {
        /// Why.
        why: String,
        /// The pod waits for no node any more.
        clear: bool,
    },
}

/// A node with the pods that would have to go.
#[derive(Debug)]
pub struct Candidate {
    /// The node.
    pub node: String,
    /// The most important first.
    pub victims: Vec<Arc<PodInfo>>,
    harm: Harm,
}

impl Candidate {
    /// With this number of budgets violated.
    pub fn new(node: &str, mut victims: Vec<Arc<PodInfo>>, violations: usize) -> Self {
        victims.sort_by(by_importance);
        Self { node: node.to_owned(), harm: harm(&victims, violations), victims }
    }

    /// How many budgets are violated.
    pub fn violations(&self) -> usize {
        self.harm.0
    }
}

/// The less, the better: budgets violated, the highest priority, the sum of priorities, the number of pods; and then the
/// node whose most important pods started last.
type Harm = (usize, i32, i64, usize, Reverse<Timestamp>);

/// How room can be made on a node, or why not.
pub(super) type Way = Result<Arc<Candidate>, Arc<[Reason]>>;

/// A disruption budget, as far as it counts here.
struct Budget<'a> {
    namespace: &'a str,
    selector: LabelSelector,
    allowed: i32,
    /// Pods whose disruption is counted already.
    counted: Vec<&'a String>,
}

fn started(pod: &PodInfo) -> Timestamp {
    // What has not started yet started last.
    pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |time| time.0)
}

/// The more important first. Upstream leaves the order of equally important ones to chance; here their names decide, so that
/// the same pods go whatever was placed and removed before.
fn by_importance(a: &Arc<PodInfo>, b: &Arc<PodInfo>) -> Ordering {
    let rank = |pod: &PodInfo| (Reverse(pod.priority), started(pod));
    rank(a).cmp(&rank(b)).then_with(|| a.key.cmp(&b.key))
}

/// Looks for nodes on which room can be made; what is known of the nodes is in `turn`. `attempt` is missing when no node came
/// into question.
///
/// # Errors
/// When there is none, with the reason.
pub(super) fn candidates(
    attempt: Option<&mut Attempt<'_>>,
    settings: &Preemption,
    cluster: &Cluster,
    nominated: &Nominator,
    pod: &Arc<PodInfo>,
    diagnosis: &Diagnosis,
    turn: &mut Turn,
    random: u64,
) -> Result<Vec<Arc<Candidate>>, Preempted> {
    if let Some(why) = ineligible(cluster, pod, diagnosis) {
        return Err(Preempted::No { why: why.to_owned(), clear: false });
    }
    let potential = &diagnosis.resolvable;
    let mut statuses = Histogram::default();
    let (mut looked_at, mut found): (usize, Vec<Arc<Candidate>>) = (0, Vec::new());
    if let Some(attempt) = attempt {
        let protecting = OnceCell::new();
        let Turn { memo, awaited, .. } = turn;
        awaited.note(cluster, nominated);
        let mut shape = memo.answers_to(attempt);
        if let Some(shape) = &mut shape {
            shape.heed(cluster);
        }
        let enough = (potential.len() * settings.percentage / 100).max(settings.absolute).min(potential.len());
        let offset = random as usize;
        for step in 0..potential.len() {
            let node = cluster.at(potential[offset.wrapping_add(step) % potential.len()]);
            let state = awaited.state(node, nominated, &attempt.pod);
            let mut find = || {
                let budgets = protecting.get_or_init(|| budgets(cluster));
                victims_on(attempt, cluster, node, nominated, budgets)
            };
            let way = match (&mut shape, state) {
                (Some(shape), Some(state)) => shape.way(node.ix, state, find),
                _ => find(),
            };
            match way {
                Ok(candidate) => found.push(candidate),
                Err(reasons) => {
                    looked_at += 1;
                    reasons.iter().for_each(|reason| statuses.add(reason.clone(), 1));
                }
            }
            if found.len() >= enough && found.iter().any(|candidate| candidate.harm.0 == 0) {
                break;
            }
        }
    }
    if found.is_empty() {
        let others = ("Preemption is not helpful for scheduling".to_owned(), diagnosis.nodes - looked_at);
        let status =
            Diagnosis { nodes: diagnosis.nodes, reasons: statuses, others: Some(others), ..Diagnosis::default() };
        return Err(Preempted::No { why: status.to_string(), clear: true });
    }
    Ok(found)
}

/// The node on which the least harm is done.
pub fn least_harm(mut found: Vec<Arc<Candidate>>) -> Preempted {
    // Those that violate no budget first, so that ties go to them.
    found.sort_by_key(|candidate| candidate.harm.0 > 0);
    match found.iter().min_by_key(|candidate| candidate.harm) {
        Some(candidate) => Preempted::Room { node: candidate.node.clone(), victims: candidate.victims.clone() },
        None => Preempted::No { why: "no candidate node for preemption".to_owned(), clear: true },
    }
}

/// Why the pod may not preempt others (now).
fn ineligible(cluster: &Cluster, pod: &PodInfo, diagnosis: &Diagnosis) -> Option<&'static str> {
    let policy = pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    if pod.nominated_node().is_empty() || diagnosis.nominated_is_hopeless {
        return None;
    }
    let leaves = |other: &Arc<PodInfo>| {
        let condition = skiff_api::pods::condition(&other.pod, "DisruptionTarget");
        other.priority < pod.priority
            && other.is_terminating()
            && condition.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
    };
    let room = cluster.node(pod.nominated_node()).is_some_and(|node| node.pods.iter().any(leaves));
    room.then_some("not eligible due to a terminating pod on the nominated node.")
}

fn harm(victims: &[Arc<PodInfo>], violations: usize) -> Harm {
    let highest = victims.first().map_or(i32::MIN, |pod| pod.priority);
    let sum = victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
    let most_important = victims.iter().filter(|pod| pod.priority == highest);
    let earliest = most_important.map(|pod| started(pod)).min().unwrap_or(Timestamp::MAX);
    (violations, highest, sum, victims.len(), Reverse(earliest))
}

fn budgets(cluster: &Cluster) -> Vec<Budget<'_>> {
    let budgets = cluster.objects.budgets.iter().filter_map(|((namespace, _), budget)| {
        let selector = labels::compile(budget.spec.as_ref()?.selector.as_ref()).ok()?;
        // An empty selector protects nothing here, as upstream has it.
        if selector.is_everything() {
            return None;
        }
        let status = budget.status.as_ref();
        let allowed = status.and_then(|status| status.disruptions_allowed).unwrap_or(0);
        let counted = status.iter().flat_map(|s| s.disrupted_pods.iter().flatten().map(|(name, _)| name)).collect();
        Some(Budget { namespace, selector, allowed, counted })
    });
    budgets.collect()
}

/// Which of the pods, most important first, are protected when all of them go.
fn protected(pods: &[Arc<PodInfo>], budgets: &[Budget<'_>]) -> Vec<bool> {
    let mut allowed: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    let mut is_protected = |pod: &Arc<PodInfo>| {
        let mut violated = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            let counts = budget.namespace == pod.namespace()
                && !pod.labels().is_empty()
                && budget.selector.matches(pod.labels())
                && !budget.counted.iter().any(|name| *name == pod.name());
            if counts {
                *allowed -= 1;
                violated |= *allowed < 0;
            }
        }
        violated
    };
    pods.iter().map(&mut is_protected).collect()
}

/// The fewest and least important pods that would have to go from a node.
fn victims_on(
    attempt: &mut Attempt<'_>,
    cluster: &Cluster,
    node: &NodeInfo,
    nominated: &Nominator,
    budgets: &[Budget<'_>],
) -> Way {
    let priority = attempt.pod.priority;
    if node.pods.is_empty() || node.lowest_priority >= priority {
        return Err([Reason::Text("No preemption victims found for incoming pod")].into());
    }
    let mut lower: Vec<Arc<PodInfo>> = node.pods.iter().filter(|pod| pod.priority < priority).cloned().collect();
    let mut room = node.clone();
    for pod in &lower {
        room.remove(&pod.uid);
        attempt.update(cluster, pod, node, -1);
    }
    let mut reasons = Vec::new();
    if attempt.check_after(cluster, &room, nominated, &mut reasons).is_some() {
        lower.iter().for_each(|pod| attempt.update(cluster, pod, node, 1));
        return Err(reasons.into());
    }
    lower.sort_by(by_importance);
    let protected = protected(&lower, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    // The protected are spared first, and of both the more important.
    for wanted in [true, false] {
        for (pod, _) in lower.iter().zip(&protected).filter(|(_, protected)| **protected == wanted) {
            room.add(pod.clone());
            attempt.update(cluster, pod, node, 1);
            reasons.clear();
            if attempt.check_after(cluster, &room, nominated, &mut reasons).is_some() {
                room.remove(&pod.uid);
                attempt.update(cluster, pod, node, -1);
                victims.push(pod.clone());
                violations += usize::from(wanted);
            }
        }
    }
    victims.iter().for_each(|pod| attempt.update(cluster, pod, node, 1));
    if victims.is_empty() {
        // It fits as it is: not a matter of victims.
        return Err([Reason::Text("No preemption victims found for incoming pod")].into());
    }
    Ok(Arc::new(Candidate::new(&node.name, victims, violations)))
}
