//! Making room, evaluated naively: on plain lists, every question answered by counting everything anew.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use skiff_api::labels;

use super::{Everyone, Plain, label};
use crate::cluster::PodInfo;
use crate::tests::Stage;

/// What hurts, the worst first: violated budgets, the highest priority, the sum of priorities, the number of pods; and that
/// the most important of them have run for long.
type Harm = (usize, i32, i64, usize, Reverse<Timestamp>);

fn started(pod: &PodInfo) -> Timestamp {
    pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(Timestamp::MAX, |time| time.0)
}

/// Which of the pods, the most important first, go beyond what budgets allow.
fn beyond_budgets(pods: &[Arc<PodInfo>], budgets: &[PodDisruptionBudget]) -> Vec<bool> {
    let mut broken = vec![false; pods.len()];
    for budget in budgets {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let counts = |pod: &PodInfo| {
            budget.metadata.namespace.as_deref() == Some(pod.namespace()) && labels::matches(selector, pod.labels())
        };
        let allowed = budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0);
        let guarded = (0..pods.len()).filter(|place| counts(&pods[*place]));
        guarded.skip(allowed as usize).for_each(|place| broken[place] = true);
    }
    broken
}

impl Plain<'_> {
    /// Nothing that happens to the pods of a node helps: the first to refuse it says so.
    fn is_hopeless(&self, pod: &PodInfo, node: &Node) -> bool {
        let spec = pod.pod.spec.iter();
        let mut constraints = spec
            .flat_map(|spec| spec.topology_spread_constraints.iter().flatten())
            .filter(|c| c.when_unsatisfiable == "DoNotSchedule");
        let unlabelled = constraints.any(|constraint| label(node, &constraint.topology_key).is_none());
        let lonely = self.spread_fits(pod, node) && !self.near_others(pod, node);
        !self.tolerated(pod, node)
            || !self.affinity_to_node(pod, node)
            || (self.room(pod, node) && (unlabelled || lonely))
    }

    fn fits_without(&self, gone: &[Arc<PodInfo>], pod: &PodInfo, node: &Node) -> bool {
        let stays = |other: &PodInfo| !gone.iter().any(|gone| gone.uid == other.uid);
        let pods: Everyone = self.pods.iter().filter(|(other, _)| stays(other)).cloned().collect();
        Plain { nodes: self.nodes, pods: &pods, namespaces: self.namespaces }.fits(pod, node)
    }

    /// Who would have to go from a node, and what harm that does.
    fn victims(
        &self,
        pod: &PodInfo,
        node: &Node,
        budgets: &[PodDisruptionBudget],
    ) -> Option<(Vec<Arc<PodInfo>>, Harm)> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here = self.pods.iter().filter(|(_, on)| on == name).map(|(pod, _)| pod);
        let mut gone: Vec<Arc<PodInfo>> = here.filter(|other| other.priority < pod.priority).cloned().collect();
        if gone.is_empty() || self.is_hopeless(pod, node) || !self.fits_without(&gone, pod, node) {
            return None;
        }
        gone.sort_by_key(|pod| (Reverse(pod.priority), started(pod), pod.key.clone()));
        let guarded = beyond_budgets(&gone, budgets);
        let mut order: Vec<(Arc<PodInfo>, bool)> = gone.iter().cloned().zip(guarded).collect();
        order.sort_by_key(|(_, guarded)| !guarded);
        let mut violations = 0;
        // One after the other may stay if the pod still fits.
        for (other, guarded) in order {
            let less: Vec<_> = gone.iter().filter(|gone| gone.uid != other.uid).cloned().collect();
            if self.fits_without(&less, pod, node) {
                gone = less;
            } else {
                violations += usize::from(guarded);
            }
        }
        let highest = gone.first()?.priority;
        let sum = gone.iter().map(|pod| i64::from(pod.priority) + (1 << 31)).sum();
        let oldest = gone.iter().filter(|pod| pod.priority == highest).map(|pod| started(pod)).min()?;
        let harm = (violations, highest, sum, gone.len(), Reverse(oldest));
        Some((gone, harm))
    }
}

/// Where nothing fits, the scheduler makes room where, and of whom, the naive evaluation would, or nowhere.
pub(super) fn made_as_the_naive_would(
    stage: &mut Stage,
    plain: &Plain<'_>,
    pod: &Arc<PodInfo>,
    budgets: &[PodDisruptionBudget],
) {
    let ways: Vec<_> = plain.nodes.iter().map(|node| (node, plain.victims(pod, node, budgets))).collect();
    let least = ways.iter().filter_map(|(_, way)| way.as_ref()).map(|(_, harm)| *harm).min();
    match stage.preempt((*pod.pod).clone()) {
        Err(why) => assert!(least.is_none(), "{why}, but there is room: {least:?} for {pod:?}"),
        Ok((node, victims)) => {
            let named = |known: &Node| known.metadata.name.as_ref() == Some(&node);
            let way = ways.iter().find(|(known, _)| named(known)).and_then(|(_, way)| way.as_ref());
            let (gone, harm) = way.unwrap_or_else(|| panic!("there is no room on {node} for {pod:?}"));
            assert_eq!(Some(*harm), least, "room on {node} for {pod:?}");
            let gone: Vec<_> = gone.iter().map(|pod| pod.uid.clone()).collect();
            assert_eq!(victims, gone, "on {node} for {pod:?}");
        }
    }
}
