//! NodeResourcesBalancedAllocation: nodes whose resources fill evenly score higher.

use std::sync::Arc;

use super::scoring::Weighed;
use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::events::{Event, Kind};
use crate::framework::{Begin, Cycle, MAX_SCORE, Plugin};

/// The plugin.
pub struct BalancedAllocation {
    /// The resources whose shares are compared.
    pub resources: Arc<Vec<Weighed>>,
}

impl Default for BalancedAllocation {
    fn default() -> Self {
        Self { resources: Arc::new(super::scoring::cpu_and_memory()) }
    }
}

struct Balance {
    pod: Arc<PodInfo>,
    resources: Arc<Vec<Weighed>>,
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn begin(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Begin {
        if self.resources.iter().all(|resource| pod.requests.get(&resource.name) == 0) {
            return Begin::Skip;
        }
        Begin::Go(Box::new(Balance { pod: pod.clone(), resources: self.resources.clone() }))
    }
    fn events(&self) -> &'static [Kind] {
        &[]
    }
    fn hint(&self, _pod: &PodInfo, _event: &Event<'_>, _cluster: &Cluster) -> bool {
        false
    }
}

impl Cycle for Balance {
    fn filters(&self) -> bool {
        false
    }
    fn pre_score(&mut self, _cluster: &Cluster, _nodes: &[NodeIx]) -> bool {
        true
    }
    fn scores_locally(&self) -> bool {
        true
    }
    /// Half of it compares with the node as it is, so that a pod that improves the balance is drawn there.
    fn score(&self, _cluster: &Cluster, node: &NodeInfo) -> i64 {
        let (with, without) = (self.evenness(node, true), self.evenness(node, false));
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }
}

impl Balance {
    /// 100 minus the standard deviation of the shares in percent.
    fn evenness(&self, node: &NodeInfo, with_pod: bool) -> i64 {
        let share = |resource: &Weighed| {
            let name = resource.name.as_str();
            let (wanted, has) = (self.pod.requests.get(name), node.allocatable.get(name));
            let always = matches!(name, "cpu" | "memory" | "ephemeral-storage");
            let taken = node.used.get(name) + if with_pod { wanted } else { 0 };
            (has != 0 && (wanted != 0 || always)).then(|| (taken as f64 / has as f64).min(1.0))
        };
        let shares = || self.resources.iter().filter_map(share);
        let deviation = match shares().count() {
            0 | 1 => 0.0,
            2 => shares().reduce(|a, b| (a - b).abs() / 2.0).unwrap_or(0.0),
            count => {
                let mean = shares().sum::<f64>() / count as f64;
                (shares().map(|share| (share - mean).powi(2)).sum::<f64>() / count as f64).sqrt()
            }
        };
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}
