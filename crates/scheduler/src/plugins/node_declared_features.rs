//! NodeDeclaredFeatures: what not every node agent can do yet is asked of those that say they can (KEP-5328,
//! `status.declaredFeatures`).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node};

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::events::{Change, Event, Kind, declared_features};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// A rule of a container restarts all of its pod.
const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";
/// Users of the pod's own in the network of the host.
const USERS_ON_HOST: &str = "UserNamespacesHostNetworkSupport";

/// The plugin.
pub struct NodeDeclaredFeatures;

struct Required(Vec<&'static str>);

/// What a pod needs of a node agent.
fn required(pod: &PodInfo) -> Vec<&'static str> {
    let Some(spec) = &pod.pod.spec else { return Vec::new() };
    let restarts_all = |container: &Container| {
        container.restart_policy_rules.iter().flatten().any(|rule| rule.action == "RestartAllContainers")
    };
    let mut needs = Vec::new();
    if spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(restarts_all) {
        needs.push(RESTART_ALL);
    }
    if spec.host_network == Some(true) && spec.host_users == Some(false) {
        needs.push(USERS_ON_HOST);
    }
    needs
}

impl Required {
    fn missing<'a>(&'a self, node: Option<&'a Node>) -> impl Iterator<Item = &'static str> {
        let declared = node.map(declared_features).unwrap_or_default();
        self.0.iter().copied().filter(move |feature| !declared.iter().any(|known| known == feature))
    }
}

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }
    fn begin(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Begin {
        let required = required(pod);
        if required.is_empty() { Begin::Skip } else { Begin::Go(Box::new(Required(required))) }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeChanged, Kind::Own]
    }
    fn hint(&self, _pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::Node(Change { old, new: Some(new) }) => {
                old.is_none_or(|old| declared_features(old) != declared_features(new))
            }
            Event::Own(Change { old: Some(old), new: Some(new) }) => required(old) != required(new),
            _ => false,
        }
    }
}

impl Cycle for Required {
    fn filter(&self, _cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if self.missing(node.node.as_deref()).next().is_none() {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("node(s) didn't match Pod's required features"));
        Verdict::Unresolvable
    }
    fn explain(&self, _cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        let missing: Vec<&str> = self.missing(node.node.as_deref()).collect();
        Some(format!("the node does not declare {}", missing.join(", ")))
    }
}
