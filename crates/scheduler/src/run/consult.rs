//! Decisions that extenders have a say in: the same halves as of any other, with their answers in between.

use std::sync::Arc;

use super::Scheduler;
use crate::cluster::{NodeIx, PodInfo};
use crate::decide::{Candidate, Decision, Diagnosis, Preempted, choose, fitting, least_harm, nowhere, rooms};
use crate::extender::{Extender, ExtenderError, Nodes};
use crate::framework::{Reason, Verdict};
use crate::profile::Plugins;

/// An answer, or none of one that may be passed over.
fn unless_ignorable<T>(extender: &Extender, answer: Result<T, ExtenderError>) -> Result<Option<T>, ExtenderError> {
    match answer {
        Err(error) if extender.settings.is_ignorable => {
            tracing::debug!("an extender is passed over: {error}");
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

impl Scheduler {
    /// The extenders whose business a pod is.
    pub(super) fn extenders_of(&self, pod: &PodInfo) -> Vec<Extender> {
        self.extenders.iter().filter(|extender| extender.is_interested(pod)).cloned().collect()
    }

    /// Decides for a pod together with these.
    pub(super) async fn consult(
        &mut self,
        extenders: &[Extender],
        pod: &Arc<PodInfo>,
        place: usize,
        random: u64,
    ) -> Decision {
        let decided = self.consulted(extenders, pod, place, random).await;
        decided.unwrap_or_else(|error| Decision::Failed(error.to_string()))
    }

    async fn consulted(
        &mut self,
        extenders: &[Extender],
        pod: &Arc<PodInfo>,
        place: usize,
        random: u64,
    ) -> Result<Decision, ExtenderError> {
        let mut diagnosis = Diagnosis::default();
        for nominated_first in [true, false] {
            let profile = &self.profiles[place];
            let found = fitting(profile, &mut self.cluster, &self.nominated, pod, &mut self.turn, nominated_first);
            let mut nodes = match found {
                Ok(nodes) => nodes,
                Err(Err(decision)) => return Ok(decision),
                Err(Ok(known)) => {
                    diagnosis = known;
                    break;
                }
            };
            let waits_on = self.cluster.node(pod.nominated_node()).map(|node| node.ix);
            let only_nominated = nominated_first && waits_on.is_some_and(|ix| nodes == [ix]);
            diagnosis = Diagnosis { nodes: self.cluster.len(), ..Diagnosis::default() };
            self.filter(extenders, pod, &mut nodes, &mut diagnosis).await?;
            if !nodes.is_empty() {
                let more = self.prioritize(extenders, pod, &nodes).await;
                return Ok(choose(&self.profiles[place], &mut self.cluster, pod, &nodes, &more, random));
            }
            // Nobody knows what would change an extender's mind: anything that happens is a reason to ask again.
            diagnosis.rejected_by = Plugins::default();
            if !only_nominated {
                break;
            }
        }
        let profile = &self.profiles[place];
        let (cluster, turn) = (&mut self.cluster, &mut self.turn);
        let preempted = match rooms(profile, cluster, &self.nominated, pod, &mut diagnosis, turn, random) {
            None => None,
            Some(Err(no)) => Some(no),
            Some(Ok(found)) => Some(preempt(extenders, pod, found).await?),
        };
        Ok(nowhere(&self.profiles[place], diagnosis, preempted))
    }

    fn named(&self, nodes: &[NodeIx]) -> Nodes {
        nodes.iter().map(|ix| self.cluster.at(*ix)).map(|node| (node.name.clone(), node.node.clone())).collect()
    }

    async fn filter(
        &mut self,
        extenders: &[Extender],
        pod: &PodInfo,
        nodes: &mut Vec<NodeIx>,
        diagnosis: &mut Diagnosis,
    ) -> Result<(), ExtenderError> {
        for extender in extenders.iter().filter(|extender| !extender.settings.filter.is_empty()) {
            if nodes.is_empty() {
                break;
            }
            let answer = extender.filter(pod, &self.named(nodes)).await;
            let Some(filtered) = unless_ignorable(extender, answer)? else { continue };
            for (node, (verdict, why)) in filtered.failed {
                diagnosis.reasons.add(Reason::Said(why.into()), 1);
                if let Some(node) = self.cluster.node(&node).filter(|_| verdict == Verdict::Unschedulable) {
                    diagnosis.resolvable.push(node.ix);
                }
            }
            *nodes = filtered.left.iter().map(|place| nodes[*place]).collect();
        }
        Ok(())
    }

    /// What extenders add to the scores. Those that fail add nothing.
    async fn prioritize(&mut self, extenders: &[Extender], pod: &PodInfo, nodes: &[NodeIx]) -> Vec<i64> {
        let mut more = vec![0; nodes.len()];
        if nodes.len() == 1 {
            return more;
        }
        let named = self.named(nodes);
        let asked = extenders.iter().filter(|extender| !extender.settings.prioritize.is_empty());
        let answers = futures::future::join_all(asked.map(|extender| extender.prioritize(pod, &named))).await;
        for answer in answers {
            match answer {
                Ok(scores) => more.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score),
                Err(error) => tracing::debug!(pod = pod.key, "an extender's scores are missing: {error}"),
            }
        }
        more
    }
}

/// Where room is made once extenders have had their say.
async fn preempt(
    extenders: &[Extender],
    pod: &PodInfo,
    mut found: Vec<Arc<Candidate>>,
) -> Result<Preempted, ExtenderError> {
    for extender in extenders.iter().filter(|extender| !extender.settings.preempt.is_empty()) {
        if found.is_empty() {
            break;
        }
        let answer = extender.preempt(pod, &found).await;
        found = unless_ignorable(extender, answer)?.unwrap_or(found);
    }
    Ok(least_harm(found))
}
