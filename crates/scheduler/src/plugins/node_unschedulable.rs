//! NodeUnschedulable: a cordoned node takes only pods that tolerate the taint a cordon stands for.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use skiff_api::taints;

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// The plugin.
pub struct NodeUnschedulable;

struct Uncordoned;

fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

fn tolerates(pod: &PodInfo) -> bool {
    let (key, effect) = ("node.kubernetes.io/unschedulable".to_owned(), taints::NO_SCHEDULE.to_owned());
    taints::any_tolerates(pod.tolerations(), &Taint { key, effect, ..Taint::default() })
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn begin(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Begin {
        if tolerates(pod) { Begin::Skip } else { Begin::Go(Box::new(Uncordoned)) }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeChanged, Kind::Own]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::Node(Change { old, new: Some(new) }) => !is_cordoned(new) && old.is_none_or(is_cordoned),
            Event::Own(_) => tolerates(pod),
            _ => false,
        }
    }
}

impl Cycle for Uncordoned {
    fn is_local(&self) -> bool {
        true
    }
    fn filter(&self, _cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if !node.cordoned {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("node(s) were unschedulable"));
        Verdict::Unresolvable
    }
}
