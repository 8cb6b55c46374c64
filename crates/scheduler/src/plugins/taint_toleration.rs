//! TaintToleration: taints keep pods away that do not tolerate them; PreferNoSchedule makes a node less attractive.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use skiff_api::taints;

use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict, normalize_by_highest};

const HARD: &[&str] = &[taints::NO_SCHEDULE, taints::NO_EXECUTE];

/// The plugin.
pub struct TaintToleration;

struct Tolerations {
    pod: Arc<PodInfo>,
    soft: Vec<Toleration>,
}

fn keeps_away<'a>(taints: &'a [Taint], pod: &PodInfo) -> Option<&'a Taint> {
    taints::untolerated(taints, pod.tolerations(), HARD)
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn begin(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Begin {
        let soft =
            |t: &&Toleration| t.effect.as_deref().is_none_or(|e| e.is_empty() || e == taints::PREFER_NO_SCHEDULE);
        let soft = pod.tolerations().iter().filter(soft).cloned().collect();
        Begin::Go(Box::new(Tolerations { pod: pod.clone(), soft }))
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeChanged, Kind::Own]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        let away = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            keeps_away(taints, pod).is_some()
        };
        match event {
            Event::Node(Change { old, new: Some(new) }) => !away(new) && old.is_none_or(away),
            Event::Own(Change { old: Some(old), new: Some(new) }) => old.tolerations() != new.tolerations(),
            _ => false,
        }
    }
}

impl Cycle for Tolerations {
    fn is_local(&self) -> bool {
        true
    }
    fn filter(&self, _cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if keeps_away(&node.taints, &self.pod).is_none() {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("node(s) had untolerated taint(s)"));
        Verdict::Unresolvable
    }
    fn pre_score(&mut self, _cluster: &Cluster, _nodes: &[NodeIx]) -> bool {
        true
    }
    fn scores_locally(&self) -> bool {
        true
    }
    fn score(&self, _cluster: &Cluster, node: &NodeInfo) -> i64 {
        let soft = node.taints.iter().filter(|taint| taint.effect == taints::PREFER_NO_SCHEDULE);
        soft.filter(|taint| !taints::any_tolerates(&self.soft, taint)).count() as i64
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_highest(scores, true);
    }
    fn explain(&self, _cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        let taint = keeps_away(&node.taints, &self.pod)?;
        let value = taint.value.as_deref().filter(|value| !value.is_empty());
        Some(format!("taint {}{}:{}", taint.key, value.map(|v| format!("={v}")).unwrap_or_default(), taint.effect))
    }
}
