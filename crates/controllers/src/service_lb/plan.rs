//! Which addresses a load-balanced Service has. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_api::network::{announcer, is_balanced};
use skiff_api::nodes::is_ready;
use skiff_client::{Key, Kind};

/// Says that no balancer shall use the node.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A protocol and a port.
type Port = (String, i32);

/// What there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) services: Vec<Arc<Service>>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    /// Ports that belong to the cluster itself on every node.
    pub(super) reserved: BTreeSet<Port>,
}

/// What a Service should have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Given {
    pub(super) ingress: Vec<LoadBalancerIngress>,
    /// The node that answers for the addresses; `None`: they are nodes' own, or nobody does.
    pub(super) announcer: Option<String>,
    /// The pool has too few addresses.
    pub(super) short: bool,
}

impl Given {
    /// Whether the Service has it.
    pub(super) fn is_had_by(&self, service: &Service) -> bool {
        current(service) == self.ingress && announcer(service) == self.announcer.as_deref()
    }
}

/// The addresses that each Service should have; those that have them already are left out.
pub(super) fn plan(snapshot: &Snapshot) -> BTreeMap<Key, Given> {
    let mut taken = snapshot.reserved.clone();
    let mut services: Vec<_> = snapshot.services.iter().filter(|service| is_balanced(service)).collect();
    // Whoever was first keeps a port; the name decides where the time does not.
    services.sort_by_key(|service| (service.metadata.creation_timestamp.clone(), Key::of(&***service).to_string()));
    let mut plan = BTreeMap::new();
    for service in services {
        let ports: Vec<Port> = ports(service).collect();
        let free = ports.iter().all(|port| !taken.contains(port)) && !service.deleting();
        let ingress = if free { addresses(snapshot, service) } else { Vec::new() };
        if free {
            taken.extend(ports);
        }
        let given = Given { ingress, ..Given::default() };
        if !given.is_had_by(service) {
            plan.insert(Key::of(&**service), given);
        }
    }
    plan
}

fn ports(service: &Service) -> impl Iterator<Item = Port> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port))
}

/// The addresses that its status tells.
pub(super) fn current(service: &Service) -> Vec<LoadBalancerIngress> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.clone()).unwrap_or_default()
}

/// The addresses of the nodes that take the Service's connections.
fn addresses(snapshot: &Snapshot, service: &Service) -> Vec<LoadBalancerIngress> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let has = |family: &str| families.iter().any(|one| one == family);
    // The first family's addresses come first; a Service from before families has those of IPv4.
    let primary_v6 = families.first().is_some_and(|family| family == "IPv6");
    let wanted = |v6: bool| if families.is_empty() { !v6 } else { has(if v6 { "IPv6" } else { "IPv4" }) };
    let all: BTreeSet<(bool, IpAddr)> = fit_nodes(snapshot, service)
        .into_iter()
        .flat_map(|node| [false, true].into_iter().filter(|v6| wanted(*v6)).filter_map(|v6| address(node, v6)))
        .map(|ip| (ip.is_ipv6() != primary_v6, ip))
        .collect();
    ingress(all.into_iter().map(|(_, ip)| ip))
}

/// The nodes that take the Service's connections: every fit node passes them on, but with external policy Local only
/// those with endpoints.
pub(super) fn fit_nodes<'a>(snapshot: &'a Snapshot, service: &Service) -> Vec<&'a Node> {
    let local = service.spec.as_ref().is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local"));
    let with_endpoints = local.then(|| nodes_with_endpoints(snapshot, service));
    let fit = snapshot.nodes.iter().filter(|node| is_fit(node));
    let chosen = fit.filter(|node| with_endpoints.as_ref().is_none_or(|names| names.contains(node.name())));
    chosen.map(|node| &**node).collect()
}

/// Addresses as a status tells them.
pub(super) fn ingress(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<LoadBalancerIngress> {
    let one = |ip: IpAddr| LoadBalancerIngress {
        ip: Some(ip.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    };
    addresses.into_iter().map(one).collect()
}

fn is_fit(node: &Node) -> bool {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    is_ready(node) && !excluded && !node.deleting()
}

/// The address of a family that outsiders know the node by.
fn address(node: &Node, v6: bool) -> Option<IpAddr> {
    let of = |type_: &str| {
        let addresses = node.status.as_ref()?.addresses.iter().flatten().filter(|address| address.type_ == type_);
        addresses.filter_map(|address| address.address.parse::<IpAddr>().ok()).find(|ip| ip.is_ipv6() == v6)
    };
    of("ExternalIP").or_else(|| of("InternalIP"))
}

fn nodes_with_endpoints<'a>(snapshot: &'a Snapshot, service: &Service) -> BTreeSet<&'a str> {
    let ours = snapshot.slices.iter().filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        slice.namespace() == service.namespace()
            && labels.and_then(|labels| labels.get(SERVICE_NAME)).is_some_and(|name| name == service.name())
    });
    let endpoints = ours.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|e| e.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false));
    ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, address: &str, ready: bool) -> Arc<Node> {
        let six = format!("2001:db8::{name}");
        let addresses = [address, &six].map(|address| json!({"type": "InternalIP", "address": address}));
        let status = json!({"addresses": addresses,
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "Unknown" }}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
    }

    fn service(name: &str, port: i32, second: u32, more: Value) -> Arc<Service> {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": port, "protocol": "TCP"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata =
            json!({"name": name, "namespace": "n", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn planned(services: &[Arc<Service>]) -> BTreeMap<String, Vec<String>> {
        let slice = json!({"metadata": {"name": "s", "namespace": "n", "labels": {SERVICE_NAME: "local"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": "b"}, {"addresses": ["10.42.0.3"], "nodeName": "a",
                "conditions": {"ready": false}}]});
        let snapshot = Snapshot {
            services: services.to_vec(),
            nodes: vec![node("a", "192.0.2.1", true), node("b", "192.0.2.2", true), node("c", "192.0.2.3", false)],
            slices: vec![Arc::new(serde_json::from_value(slice).unwrap())],
            reserved: BTreeSet::from([("TCP".to_owned(), 6443)]),
        };
        let ips = |given: Given| given.ingress.into_iter().filter_map(|one| one.ip).collect();
        plan(&snapshot).into_iter().map(|(key, given)| (key.name.clone(), ips(given))).collect()
    }

    #[test]
    fn fit_nodes_take_connections_and_the_first_keeps_a_port() {
        let services = [
            service("later", 80, 5, json!({})),
            service("first", 80, 1, json!({})),
            service("other", 81, 9, json!({})),
            service("local", 82, 2, json!({"externalTrafficPolicy": "Local"})),
            service("classed", 83, 2, json!({"loadBalancerClass": "example.com/x"})),
            service("plain", 84, 2, json!({"type": "ClusterIP"})),
            service("api", 6443, 1, json!({})),
            service("six", 85, 1, json!({"ipFamilies": ["IPv6"]})),
            service("dual", 86, 1, json!({"ipFamilies": ["IPv6", "IPv4"]})),
        ];
        let both = vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()];
        let six = ["2001:db8::a", "2001:db8::b"].map(str::to_owned).to_vec();
        let dual = [&six[..], &both].concat();
        let expected =
            [("first", both.clone()), ("local", both[1..].to_vec()), ("other", both), ("six", six), ("dual", dual)];
        let expected = expected.map(|(name, ips)| (name.to_owned(), ips));
        assert_eq!(planned(&services), expected.into(), "what has no address and gets none is left alone");
    }

    #[test]
    fn what_has_its_addresses_is_left_alone_and_what_lost_its_port_loses_them() {
        let with = |service: Arc<Service>| {
            let mut service = (*service).clone();
            let ingress = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "VIP"}]);
            service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap();
            Arc::new(service)
        };
        assert_eq!(planned(&[with(service("first", 80, 1, json!({})))]), BTreeMap::new());
        let both = [with(service("first", 80, 1, json!({}))), with(service("later", 80, 2, json!({})))];
        assert_eq!(planned(&both), [("later".to_owned(), Vec::new())].into());

        // From when there was a pool: nobody may answer for the nodes' own addresses.
        let mut announced = (*with(service("first", 80, 1, json!({})))).clone();
        let condition = json!({"type": skiff_api::network::ANNOUNCED, "status": "True", "reason": "Pool", "message": "a",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = announced.status.as_mut().unwrap();
        status.conditions = Some(vec![serde_json::from_value(condition).unwrap()]);
        assert_eq!(planned(&[Arc::new(announced)])["first"], ["192.0.2.1", "192.0.2.2"]);
    }
}
