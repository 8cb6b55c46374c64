//! The Endpoints object of a Service, from its pods. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::pods::is_ready;
use skiff_client::Kind;

use crate::shared::services::{
    addresses, derived_labels, has_endpoint, hostname, is_headless, node_name, publishes_not_ready, reference,
    target_port,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses per object, at most.
const CAPACITY: usize = 1000;

/// A port, in the order in which ports are sorted.
type Port = (String, i32, String, Option<String>);

/// The Endpoints of a Service as they are to be, from those it has.
pub(crate) fn endpoints(
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
) -> Endpoints {
    let mut subsets = subsets(service, spec, pods);
    let truncated = truncate(&mut subsets);
    let mut labels = derived_labels(service, spec, &[MANAGED_BY]);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut metadata = current.map(|current| current.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: Some(service.name().to_owned()),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    });
    metadata.labels = Some(labels);
    if truncated {
        metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    Endpoints { metadata, subsets: (!subsets.is_empty()).then_some(subsets) }
}

/// Whether two objects say the same, however the server writes down that there is nothing.
pub(crate) fn same(one: &Endpoints, other: &Endpoints) -> bool {
    one.metadata == other.metadata
        && one.subsets.as_deref().unwrap_or_default() == other.subsets.as_deref().unwrap_or_default()
}

/// Addresses with the same ports together, all sorted.
fn subsets(service: &Service, spec: &ServiceSpec, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<BTreeSet<Port>, EndpointSubset> = BTreeMap::new();
    let going = |pod: &Pod| pod.deleting() && !publishes_not_ready(spec);
    for pod in pods.iter().filter(|pod| has_endpoint(pod) && !going(pod)) {
        let ports = ports(spec, pod);
        if ports.is_empty() && !(is_headless(spec) && spec.ports.iter().flatten().next().is_none()) {
            continue;
        }
        let Some(address) = address(service, spec, pod) else { continue };
        let subset = groups.entry(ports).or_default();
        let ready = publishes_not_ready(spec) || is_ready(pod);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let finished = groups.into_iter().map(|(ports, mut subset)| {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
        let port = |(name, port, protocol, app_protocol): Port| EndpointPort {
            name: Some(name).filter(|name| !name.is_empty()),
            port,
            protocol: Some(protocol),
            app_protocol,
        };
        subset.ports = (!ports.is_empty()).then(|| ports.into_iter().map(port).collect());
        subset
    });
    finished.collect()
}

fn ports(spec: &ServiceSpec, pod: &Pod) -> BTreeSet<Port> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((port.name.clone().unwrap_or_default(), target_port(port, pod)?, protocol, port.app_protocol.clone()))
    });
    ports.collect()
}

fn address(service: &Service, spec: &ServiceSpec, pod: &Pod) -> Option<EndpointAddress> {
    let first = spec.ip_families.iter().flatten().next().map(String::as_str);
    let wanted = match first {
        Some(family) => family == "IPv6",
        None => spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':')),
    };
    let ip = addresses(pod).find(|ip: &IpAddr| ip.is_ipv6() == wanted)?;
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: hostname(pod, service),
        node_name: node_name(pod),
        target_ref: Some(reference(pod)),
    })
}

/// Cuts what is over capacity, those that are not ready first; answers with whether anything was.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut room = CAPACITY;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        let Some(addresses) = list else { return false };
        let over = addresses.len() > room;
        addresses.truncate(room);
        room -= addresses.len();
        if addresses.is_empty() {
            *list = None;
        }
        over
    };
    let ready = subsets.iter_mut().fold(false, |any, subset| cut(&mut subset.addresses) | any);
    let not_ready = subsets.iter_mut().fold(false, |any, subset| cut(&mut subset.not_ready_addresses) | any);
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    ready || not_ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use skiff_meta::patch::merge_patch;

    fn service(change: Value) -> Service {
        let value = json!({
            "metadata": {"name": "web", "namespace": "ns", "labels": {"app": "web"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1",
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
        });
        serde_json::from_value(merge_patch(&value, &change)).expect("a service")
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let ip = format!("10.1.{}.{}", number / 200, number % 200);
        let value = json!({"metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": "u"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn made(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
        endpoints(service, service.spec.as_ref().expect("a spec"), pods, None)
    }

    #[test]
    fn ready_and_not_ready_are_kept_apart() {
        let made =
            serde_json::to_value(made(&service(json!({})), &[pod(2, true), pod(1, true), pod(3, false)])).unwrap();
        let subset = &made["subsets"][0];
        let ips = |list: &Value| -> Vec<Value> {
            list.as_array().map(|all| all.iter().map(|a| a["ip"].clone()).collect()).unwrap_or_default()
        };
        assert_eq!(ips(&subset["addresses"]), ["10.1.0.1", "10.1.0.2"]);
        assert_eq!(ips(&subset["notReadyAddresses"]), ["10.1.0.3"]);
        assert_eq!(subset["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(made["metadata"]["labels"], json!({"app": "web", MANAGED_BY: MANAGER}));
    }

    #[test]
    fn settled_objects_stay() {
        let service = service(json!({}));
        let first = made(&service, &[pod(1, true)]);
        let again = endpoints(&service, service.spec.as_ref().unwrap(), &[pod(1, true)], Some(&first));
        assert!(same(&first, &again));
        let fewer = endpoints(&service, service.spec.as_ref().unwrap(), &[], Some(&first));
        assert!(!same(&first, &fewer) && fewer.subsets.is_none());
    }

    #[test]
    fn capacity_is_kept() {
        let pods: Vec<_> = (0..1200).map(|n| pod(n, n < 900)).collect();
        let made = made(&service(json!({})), &pods);
        let subset = &made.subsets.as_ref().expect("a subset")[0];
        let counts = (subset.addresses.as_ref().map(Vec::len), subset.not_ready_addresses.as_ref().map(Vec::len));
        assert_eq!(counts, (Some(900), Some(100)));
        assert_eq!(made.metadata.annotations.unwrap()[OVER_CAPACITY], "truncated");
    }
}
