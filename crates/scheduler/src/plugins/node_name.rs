//! NodeName: a pod that names its node goes there.

use std::sync::Arc;

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// The plugin.
pub struct NodeName;

struct Wanted(String);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
    fn begin(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Begin {
        let wanted = pod.pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        if wanted.is_empty() { Begin::Skip } else { Begin::Go(Box::new(Wanted(wanted))) }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::NodeAdded]
    }
    fn hint(&self, _pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        matches!(event, Event::Node(Change { old: None, .. }))
    }
}

impl Cycle for Wanted {
    fn is_local(&self) -> bool {
        true
    }
    fn filter(&self, _cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if self.0 == node.name {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("node(s) didn't match the requested node name"));
        Verdict::Unresolvable
    }
}
