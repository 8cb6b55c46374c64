//! NodePorts: a host port is held by one pod at a time.

use std::sync::Arc;

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// The plugin.
pub struct NodePorts;

struct Wanted(Arc<PodInfo>);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn begin(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Begin {
        if pod.ports.is_empty() { Begin::Skip } else { Begin::Go(Box::new(Wanted(pod.clone()))) }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::PodGone, Kind::NodeAdded]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::Pod(Change { old: Some(gone), new: None }, _) => {
                gone.ports.iter().any(|port| pod.ports.iter().any(|wanted| wanted.collides(port)))
            }
            Event::Node(Change { old: None, new: Some(_) }) => true,
            _ => false,
        }
    }
}

impl Cycle for Wanted {
    fn is_local(&self) -> bool {
        true
    }
    fn filter(&self, _cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if !node.ports_taken(&self.0) {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("node(s) didn't have free ports for the requested pod ports"));
        Verdict::Unschedulable
    }
    fn explain(&self, _cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        let taken = self.0.ports.iter().find(|port| node.ports.iter().any(|taken| port.collides(taken)))?;
        Some(format!("host port {}/{} on {} is taken", taken.port, taken.protocol, taken.ip))
    }
}
