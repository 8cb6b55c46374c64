//! A pod with what the scheduler computes of it once.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use serde_json::json;
use skiff_api::{resources, volumes};

use super::terms::{Constraint, Labels, Terms};
use crate::amounts::{Amounts, unasked};

static NO_LABELS: Labels = Labels::new();

/// A pod with what the scheduler computes of it once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// `namespace/name`.
    pub key: String,
    /// Its UID.
    pub uid: String,
    /// Higher ones come first, and may preempt lower ones.
    pub priority: i32,
    /// What it asks for.
    pub requests: Amounts,
    /// CPU and memory it is scored as: what it asks for, with a default for containers that ask for nothing.
    pub scored: (i64, i64),
    /// Host ports.
    pub ports: Vec<HostPort>,
    /// Inter-pod affinity.
    pub terms: Option<Box<Terms>>,
    /// Its own topology spread constraints.
    pub constraints: Vec<Constraint>,
    /// Stands for its node selector and required node affinity: equal texts, equal nodes. `None`: any node will do.
    pub node_affinity: Option<Arc<str>>,
    /// Names of the PersistentVolumeClaims it mounts, those of ephemeral volumes included.
    pub claims: Vec<String>,
}

/// A port taken on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Address, `0.0.0.0` for all.
    pub ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn collides(&self, other: &Self) -> bool {
        let everywhere = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || everywhere(&self.ip) || everywhere(&other.ip))
    }
}

impl PodInfo {
    /// Computes it.
    pub fn new(pod: Arc<Pod>) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let amounts = |missing: &resources::ResourceList| {
            spec.map(|s| Amounts::of(&resources::requests_or(s, pod.status.as_ref(), missing))).unwrap_or_default()
        };
        let requests = amounts(&resources::ResourceList::new());
        let scored = amounts(&unasked());
        Self {
            key: format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name)),
            uid: text(&pod.metadata.uid),
            priority: spec.and_then(|s| s.priority).unwrap_or(0),
            requests,
            scored: (scored.cpu, scored.memory),
            ports: spec.map(ports).unwrap_or_default(),
            terms: Terms::of(&pod),
            constraints: Constraint::of(&pod),
            node_affinity: spec.and_then(node_affinity),
            claims: claims(&pod),
            pod,
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
    /// Its name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
    /// Its labels.
    pub fn labels(&self) -> &Labels {
        self.pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
    }
    /// Its tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }
    /// All containers, those of initialization too.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
    }
    /// Whether its deletion was asked for.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
    /// The node it waits for room on.
    pub fn nominated_node(&self) -> &str {
        self.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or_default()
    }
    /// The profile it asks for.
    pub fn scheduler_name(&self) -> &str {
        let name = self.pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
        name.filter(|name| !name.is_empty()).unwrap_or(crate::NAME)
    }
    /// Whether something holds it back from being scheduled at all.
    pub fn is_gated(&self) -> bool {
        self.pod.spec.as_ref().is_some_and(|s| s.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()))
    }
}

fn ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| resources::is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            Some(HostPort { ip, protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port })
        })
        .collect()
}

fn node_affinity(spec: &PodSpec) -> Option<Arc<str>> {
    let selector = spec.node_selector.as_ref().filter(|labels| !labels.is_empty());
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    (selector.is_some() || required.is_some()).then(|| json!([selector, required]).to_string().into())
}

fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|volume| volumes::claim(pod, volume)).collect()
}
