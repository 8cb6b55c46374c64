//! Which endpoints of a Service port may be used, and by whom.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::plan::NodeFacts;

/// Where a connection can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// Where endpoints may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// On any node.
    Cluster,
    /// On this node.
    Local,
}

impl Scope {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
        }
    }
}

/// The usable endpoints of one Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Targets {
    /// Those on any node.
    pub(super) cluster: Vec<Target>,
    /// Those on this node.
    pub(super) local: Vec<Target>,
    /// Which of both are on this node.
    on_node: Vec<Target>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    ready: bool,
    /// Terminating but still answering: used only where nothing is ready.
    serving: bool,
    on_node: bool,
    /// Hinted for this node; `None`: carries no hint for nodes.
    for_node: Option<bool>,
    /// The same for zones.
    for_zone: Option<bool>,
}

impl Targets {
    /// The endpoints of `port` in a Service's slices, as a proxy on `node` sees them.
    pub(super) fn of(port: &ServicePort, slices: &[&EndpointSlice], node: &NodeFacts) -> Self {
        let mut candidates = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice.address_type == node.family.to_string()) {
            let number = slice.ports.iter().flatten().find(|p| same_port(p, port)).and_then(|p| p.port);
            let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(Ok(address)) = endpoint.addresses.first().map(|a| a.parse()) else { continue };
                // An endpoint may stand in two slices while it moves between them; the better state counts.
                let candidate = Candidate::of(endpoint, node);
                let known = candidates.entry(Target { address, port: number }).or_insert(candidate);
                if candidate.ready || (candidate.serving && !known.ready) {
                    *known = candidate;
                }
            }
        }
        Self {
            cluster: usable(&hinted(&candidates)),
            local: usable(&candidates.iter().filter(|(_, c)| c.on_node).map(|(t, c)| (*t, *c)).collect()),
            on_node: candidates.iter().filter(|(_, c)| c.on_node).map(|(t, _)| *t).collect(),
        }
    }

    /// Those of a scope.
    pub(super) fn of_scope(&self, scope: Scope) -> &[Target] {
        match scope {
            Scope::Cluster => &self.cluster,
            Scope::Local => &self.local,
        }
    }

    /// Whether `target` is on this node.
    pub(super) fn is_on_node(&self, target: &Target) -> bool {
        self.on_node.binary_search(target).is_ok()
    }

    /// Every usable endpoint, each once.
    pub(super) fn all(&self) -> Vec<Target> {
        let mut all = [self.cluster.as_slice(), &self.local].concat();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Candidate {
    fn of(endpoint: &Endpoint, node: &NodeFacts) -> Self {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let terminating = conditions.terminating.unwrap_or(false);
        let hints = endpoint.hints.clone().unwrap_or_default();
        let nodes = hints.for_nodes.filter(|nodes| !nodes.is_empty());
        let zones = hints.for_zones.filter(|zones| !zones.is_empty());
        Self {
            ready,
            serving: conditions.serving.unwrap_or(ready) && terminating,
            on_node: endpoint.node_name.as_deref() == Some(&*node.name),
            for_node: nodes.map(|nodes| nodes.iter().any(|hint| hint.name == node.name)),
            for_zone: zones.map(|zones| zones.iter().any(|hint| Some(&hint.name) == node.zone.as_ref())),
        }
    }
}

fn same_port(endpoint: &EndpointPort, service: &ServicePort) -> bool {
    let protocol = |p: &Option<String>| p.clone().unwrap_or_else(|| "TCP".to_owned());
    endpoint.name.as_deref().unwrap_or("") == service.name.as_deref().unwrap_or("")
        && protocol(&endpoint.protocol) == protocol(&service.protocol)
}

/// Those meant for this node, or else for its zone, where every ready endpoint says whom it is meant for and some are
/// meant for us (`trafficDistribution`); otherwise all.
fn hinted(candidates: &BTreeMap<Target, Candidate>) -> BTreeMap<Target, Candidate> {
    let hints: [fn(&Candidate) -> Option<bool>; 2] = [|c| c.for_node, |c| c.for_zone];
    let complete = |hint: &fn(&Candidate) -> Option<bool>| {
        let mut ready = candidates.values().filter(|c| c.ready).map(hint);
        ready.clone().all(|hint| hint.is_some()) && ready.any(|hint| hint == Some(true))
    };
    match hints.into_iter().find(complete) {
        Some(hint) => candidates.iter().filter(|(_, c)| hint(c) == Some(true)).map(|(t, c)| (*t, *c)).collect(),
        None => candidates.clone(),
    }
}

/// The ready ones; where there are none, those that still serve while they terminate, so that the last pod of a
/// rollout is not cut off before its successor is there.
fn usable(candidates: &BTreeMap<Target, Candidate>) -> Vec<Target> {
    let pick = |wanted: fn(&Candidate) -> bool| candidates.iter().filter(move |(_, c)| wanted(c)).map(|(t, _)| *t);
    let ready: Vec<Target> = pick(|c| c.ready).collect();
    if ready.is_empty() { pick(|c| c.serving).collect() } else { ready }
}
