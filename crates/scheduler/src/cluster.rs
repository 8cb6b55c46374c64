//! The scheduler's view of the cluster: per node the running sums that filters and scores need, kept as pods come and
//! go, never computed anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_api::resources;

use crate::amounts::{Amounts, unasked};

/// A pod with what the scheduler computes of it once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// `namespace/name`.
    pub key: String,
    /// Its UID.
    pub uid: String,
    /// What it asks for.
    pub requests: Amounts,
    /// What it is scored as: what it asks for, with a default for containers that ask for nothing.
    pub scored: (i64, i64),
    /// Host ports: (address, protocol, port).
    pub ports: Vec<HostPort>,
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
    fn collides(&self, other: &Self) -> bool {
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
        let containers = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
        let requests = spec.map(|s| Amounts::of(&resources::requests(s, pod.status.as_ref()))).unwrap_or_default();
        let with_unasked =
            spec.map(|s| Amounts::of(&resources::requests_or(s, pod.status.as_ref(), &unasked()))).unwrap_or_default();
        let scored = (with_unasked.cpu, with_unasked.memory);
        let ports = containers
            .iter()
            .flat_map(|c| c.ports.as_deref().unwrap_or_default())
            .filter_map(|p| {
                let port = p.host_port.filter(|port| *port > 0)?;
                let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
                Some(HostPort { ip, protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port })
            })
            .collect();
        let key = format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name));
        Self { key, uid: text(&pod.metadata.uid), requests, scored, ports, pod }
    }
}

/// A node with its sums.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The node; `None` while only pods on it are known.
    pub node: Option<Arc<Node>>,
    /// What it has for pods.
    pub allocatable: Amounts,
    /// How many pods it takes.
    pub max_pods: i64,
    /// What its pods ask for.
    pub used: Amounts,
    /// What its pods are scored as: thousandths of a core, bytes.
    pub scored: (i64, i64),
    /// Its pods by UID.
    pub pods: BTreeMap<String, Arc<PodInfo>>,
}

impl NodeInfo {
    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.used.add(&pod.requests, sign);
        self.scored.0 += sign * pod.scored.0;
        self.scored.1 += sign * pod.scored.1;
    }
    /// Whether a pod on this node holds a port that `pod` wants.
    pub fn ports_taken(&self, pod: &PodInfo) -> bool {
        !pod.ports.is_empty()
            && self
                .pods
                .values()
                .any(|other| other.ports.iter().any(|taken| pod.ports.iter().any(|p| p.collides(taken))))
    }
}

/// All nodes, and where each pod is.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeInfo>,
    places: BTreeMap<String, String>,
}

impl Cluster {
    /// The nodes that exist, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &NodeInfo)> {
        self.nodes.iter().filter(|(_, info)| info.node.is_some()).map(|(name, info)| (name.as_str(), info))
    }
    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|info| info.node.is_some())
    }
    /// Number of nodes that exist.
    pub fn len(&self) -> usize {
        self.nodes().count()
    }
    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes().next().is_none()
    }
    /// A node is there or has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let info = self.nodes.entry(node.metadata.name.clone().unwrap_or_default()).or_default();
        let allocatable = resources::parse(&node.status.as_ref().and_then(|s| s.allocatable.clone()));
        info.max_pods = allocatable.get("pods").map_or(0, |amount| amount.value());
        info.allocatable = Amounts::of(&allocatable);
        info.node = Some(node);
    }
    /// A node is gone; pods on it stay counted until they go too.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }
    /// A pod is (assumed to be) on a node; replaces what was known of it.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        let info = self.nodes.entry(node.to_owned()).or_default();
        info.count(&pod, 1);
        self.places.insert(pod.uid.clone(), node.to_owned());
        info.pods.insert(pod.uid.clone(), pod);
    }
    /// A pod is gone, or finished: it takes no room any more. Whether it had taken any.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(node) = self.places.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&node)
            && let Some(pod) = info.pods.remove(uid)
        {
            info.count(&pod, -1);
            if info.pods.is_empty() && info.node.is_none() {
                self.nodes.remove(&node);
            }
        }
        true
    }
    /// Where a pod is counted.
    pub fn place(&self, uid: &str) -> Option<&str> {
        self.places.get(uid).map(String::as_str)
    }
}
