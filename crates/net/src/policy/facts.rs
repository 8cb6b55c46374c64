//! What policies are about, taken from objects: pods with addresses, namespaces, policies with compiled selectors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_meta::LabelSelector;

use crate::Family;

/// Labels of an object.
pub(super) type Labels = BTreeMap<String, String>;

/// A pod that has an address of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) labels: Labels,
    /// At most one of each family.
    pub(super) addresses: Vec<IpAddr>,
    /// Whether it is on this node.
    pub(super) local: bool,
    /// Ports by name.
    pub(super) ports: Vec<(String, &'static str, u16)>,
}

impl Pod {
    /// `None` for pods that have ended, or have no address, or the host's.
    pub(super) fn of(pod: &core::Pod, node: &str) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if spec.host_network == Some(true) || ended {
            return None;
        }
        let ips: Vec<&String> = match &status.pod_ips {
            Some(ips) => ips.iter().map(|ip| &ip.ip).collect(),
            None => status.pod_ip.iter().collect(),
        };
        let addresses: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        if addresses.is_empty() {
            return None;
        }
        let sidecars = spec.init_containers.iter().flatten();
        let containers =
            spec.containers.iter().chain(sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always")));
        let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            let number = u16::try_from(port.container_port).ok()?;
            Some((port.name.clone()?, protocol(port.protocol.as_deref())?, number))
        });
        Some(Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses,
            local: spec.node_name.as_deref() == Some(node),
            ports: ports.collect(),
        })
    }

    /// Its address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

fn protocol(name: Option<&str>) -> Option<&'static str> {
    match name.unwrap_or("TCP") {
        "TCP" => Some("tcp"),
        "UDP" => Some("udp"),
        "SCTP" => Some("sctp"),
        _ => None,
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    pub(super) namespace: String,
    pub(super) subjects: LabelSelector,
    /// What may come in; `None`: the policy does not say.
    pub(super) ingress: Option<Vec<Rule>>,
    /// What may go out.
    pub(super) egress: Option<Vec<Rule>>,
}

/// What one rule lets pass.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    /// Empty: anybody.
    pub(super) peers: Vec<Peer>,
    /// Empty: anything.
    pub(super) ports: Vec<Port>,
}

/// The other side.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Peer {
    /// Pods of one namespace, or of those that are selected.
    Pods { namespaces: Namespaces, pods: LabelSelector },
    /// Addresses, but for some.
    Block { range: IpNet, except: Vec<IpNet> },
}

/// Where selected pods are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Namespaces {
    Own(String),
    Selected(LabelSelector),
}

/// What it talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// All of a protocol.
    Any(&'static str),
    /// From one number to another.
    Numbers(&'static str, u16, u16),
    /// Whatever number the pod at the receiving end has under this name.
    Named(&'static str, String),
}

impl Policy {
    /// The policy that an object describes. What cannot be understood (a faulty selector, a faulty range)
    /// matches nothing, so that a policy never lets pass more than it says.
    pub(super) fn of(policy: &api::NetworkPolicy) -> Self {
        let namespace = policy.metadata.namespace.clone().unwrap_or_default();
        let spec = policy.spec.clone().unwrap_or_default();
        let types: Vec<&str> = spec.policy_types.iter().flatten().map(String::as_str).collect();
        let has = |direction: &str, by_default: bool| types.contains(&direction) || (types.is_empty() && by_default);
        let ingress = has("Ingress", true).then(|| {
            let rules = spec.ingress.iter().flatten();
            rules.map(|rule| Rule::of(&namespace, rule.from.as_deref(), rule.ports.as_deref())).collect()
        });
        let egress = has("Egress", spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())).then(|| {
            let rules = spec.egress.iter().flatten();
            rules.map(|rule| Rule::of(&namespace, rule.to.as_deref(), rule.ports.as_deref())).collect()
        });
        let subjects = spec.pod_selector.as_ref().map_or_else(LabelSelector::everything, |own| selector(Some(own)));
        Self { subjects, namespace, ingress, egress }
    }

    /// Whether the policy is about this pod.
    pub(super) fn selects(&self, pod: &Pod) -> bool {
        pod.namespace == self.namespace && self.subjects.matches(&pod.labels)
    }
}

impl Rule {
    fn of(namespace: &str, peers: Option<&[api::NetworkPolicyPeer]>, ports: Option<&[api::NetworkPolicyPort]>) -> Self {
        Self {
            peers: peers.unwrap_or_default().iter().map(|peer| Peer::of(namespace, peer)).collect(),
            // A port that is not understood is one that nobody has.
            ports: ports.unwrap_or_default().iter().map(|port| Port::of(port).unwrap_or(Port::NONE)).collect(),
        }
    }
}

impl Peer {
    fn of(namespace: &str, peer: &api::NetworkPolicyPeer) -> Self {
        if let Some(block) = &peer.ip_block {
            let except = block.except.iter().flatten().filter_map(|range| range.parse().ok()).collect();
            return match block.cidr.parse::<IpNet>() {
                Ok(range) => Self::Block { range: range.trunc(), except },
                Err(_) => Self::Pods { namespaces: Namespaces::Own(String::new()), pods: LabelSelector::nothing() },
            };
        }
        let namespaces = match &peer.namespace_selector {
            None => Namespaces::Own(namespace.to_owned()),
            some => Namespaces::Selected(selector(some.as_ref())),
        };
        let pods = match &peer.pod_selector {
            None => LabelSelector::everything(),
            some => selector(some.as_ref()),
        };
        Self::Pods { namespaces, pods }
    }

    /// Whether the pod is such a peer; ranges of addresses are not asked here.
    pub(super) fn includes(&self, pod: &Pod, namespaces: &BTreeMap<String, Labels>) -> bool {
        let Self::Pods { namespaces: wanted, pods } = self else { return false };
        let there = match wanted {
            Namespaces::Own(name) => pod.namespace == *name,
            Namespaces::Selected(selector) => {
                namespaces.get(&pod.namespace).is_some_and(|labels| selector.matches(labels))
            }
        };
        there && pods.matches(&pod.labels)
    }
}

impl Port {
    const NONE: Self = Self::Numbers("tcp", 1, 0);

    fn of(port: &api::NetworkPolicyPort) -> Option<Self> {
        let protocol = protocol(port.protocol.as_deref())?;
        let number = |n: i32| u16::try_from(n).ok();
        Some(match &port.port {
            None => Self::Any(protocol),
            Some(IntOrString::String(name)) => Self::Named(protocol, name.clone()),
            Some(IntOrString::Int(first)) => {
                let first = number(*first)?;
                Self::Numbers(protocol, first, port.end_port.map_or(Some(first), number)?)
            }
        })
    }
}

fn selector(selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>) -> LabelSelector {
    skiff_api::labels::compile(selector).unwrap_or_else(|_| LabelSelector::nothing())
}
