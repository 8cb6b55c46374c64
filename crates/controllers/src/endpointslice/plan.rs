//! The EndpointSlices of a Service, from its pods. Pure.
//!
//! Slices are grouped by address family and by ports, since named ports may differ from pod to pod. Within a group,
//! endpoints stay where they are, so that a change touches few slices; what is new fills the fullest slice that has
//! room.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::pods::is_ready;
use skiff_client::Kind;

use crate::shared::services::{
    MANAGED_BY, SERVICE_NAME, addresses, derived_labels, has_endpoint, hostname, is_headless, node_name,
    publishes_not_ready, reference, target_port,
};
use crate::shared::{controller_ref, node_of};

/// Our value of it.
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints per slice, at most.
const CAPACITY: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";

/// What is known of one Service.
pub(crate) struct Snapshot<'a> {
    pub(crate) service: &'a Service,
    pub(crate) spec: &'a ServiceSpec,
    /// The pods it selects.
    pub(crate) pods: &'a [Arc<Pod>],
    /// The nodes of these pods, by name.
    pub(crate) nodes: &'a BTreeMap<String, Arc<Node>>,
    /// The slices it has, in the order of their names.
    pub(crate) slices: &'a [Arc<EndpointSlice>],
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
}

/// What tells endpoints apart: address, host name, pod.
type Identity = (Vec<String>, Option<String>, Option<String>);
/// Endpoints to be, by identity.
type Endpoints = BTreeMap<Identity, Endpoint>;

/// The plan for a Service.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let families = families(snapshot.spec);
    let mut plan = Plan::default();
    for slice in snapshot.slices {
        if !families.contains(&&*slice.address_type) {
            plan.delete.push(slice.clone());
        }
    }
    for family in families {
        plan_family(snapshot, family, &mut plan);
    }
    if snapshot.service.deleting() {
        plan.create.clear();
    }
    plan
}

fn families(spec: &ServiceSpec) -> Vec<&'static str> {
    let named = |family: &String| if family == "IPv6" { "IPv6" } else { "IPv4" };
    let families: Vec<_> = spec.ip_families.iter().flatten().map(named).collect();
    match (families.is_empty(), spec.cluster_ip.as_deref()) {
        (false, _) => families,
        (true, Some(ip)) if ip.contains(':') => vec!["IPv6"],
        (true, Some(ip)) if !is_headless(spec) && !ip.is_empty() => vec!["IPv4"],
        _ => vec!["IPv4", "IPv6"],
    }
}

fn plan_family(snapshot: &Snapshot<'_>, family: &'static str, plan: &mut Plan) {
    let mut existing: BTreeMap<String, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let mut group = Plan::default();
    let ours: Vec<_> = snapshot.slices.iter().filter(|slice| slice.address_type == family).collect();
    for &slice in &ours {
        if is_owned(slice, snapshot.service) {
            existing.entry(ports_key(slice.ports.as_deref())).or_default().push(slice.clone());
        } else {
            group.delete.push(slice.clone());
        }
    }
    for (key, (ports, endpoints)) in desired(snapshot, family) {
        let slices = existing.remove(&key).unwrap_or_default();
        distribute(snapshot, family, &ports, slices, endpoints, &mut group);
    }
    group.delete.extend(existing.into_values().flatten());
    if ours.len() == group.delete.len() && group.create.is_empty() {
        add_placeholder(snapshot, family, &mut group);
    }
    reuse(snapshot, &mut group);
    plan.create.append(&mut group.create);
    plan.update.append(&mut group.update);
    plan.delete.append(&mut group.delete);
}

/// The endpoints to be, by their ports.
fn desired(snapshot: &Snapshot<'_>, family: &str) -> BTreeMap<String, (Vec<EndpointPort>, Endpoints)> {
    let mut groups: BTreeMap<String, (Vec<EndpointPort>, Endpoints)> = BTreeMap::new();
    for pod in snapshot.pods.iter().filter(|pod| has_endpoint(pod)) {
        let ports = ports(snapshot.spec, pod);
        let (_, endpoints) = groups.entry(ports_key(Some(&ports))).or_insert_with(|| (ports, Endpoints::new()));
        let node = snapshot.nodes.get(node_of(pod));
        // A pod on a node that is gone is as good as gone itself.
        if node.is_none() && !publishes_not_ready(snapshot.spec) {
            continue;
        }
        let endpoint = endpoint(snapshot, pod, node.map(|node| &**node), family);
        if !endpoint.addresses.is_empty() {
            endpoints.insert(identity(&endpoint), endpoint);
        }
    }
    groups
}

fn identity(endpoint: &Endpoint) -> Identity {
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
    (endpoint.addresses.clone(), endpoint.hostname.clone(), pod)
}

fn endpoint(snapshot: &Snapshot<'_>, pod: &Pod, node: Option<&Node>, family: &str) -> Endpoint {
    let fits = |address: &IpAddr| address.is_ipv6() == (family == "IPv6");
    let serving = is_ready(pod);
    let ready = publishes_not_ready(snapshot.spec) || (serving && !pod.deleting());
    let zone = node.and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned()).filter(|zone| !zone.is_empty());
    let node_name = node_name(pod);
    Endpoint {
        addresses: addresses(pod).filter(fits).map(|address| address.to_string()).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(pod.deleting()),
        }),
        hints: hints(snapshot.spec, ready, zone.as_deref(), node_name.as_deref()),
        hostname: hostname(pod, snapshot.service),
        node_name,
        target_ref: Some(reference(pod)),
        zone,
        deprecated_topology: None,
    }
}

/// Whom the endpoint should serve first, by `spec.trafficDistribution`.
fn hints(spec: &ServiceSpec, ready: bool, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let near = match spec.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let for_nodes = node.filter(|_| near).map(|node| vec![ForNode { name: node.to_owned() }]);
    (ready && (for_zones.is_some() || for_nodes.is_some())).then_some(EndpointHints { for_nodes, for_zones })
}

fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(port, pod)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

/// Equal for equal sets of ports.
fn ports_key(ports: Option<&[EndpointPort]>) -> String {
    let mut texts: Vec<String> = ports.unwrap_or_default().iter().map(|port| format!("{port:?}")).collect();
    texts.sort();
    texts.join("\n")
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    slice.metadata.owner_references.iter().flatten().any(|owner| owner.uid == service.uid() && owner.kind == "Service")
}

fn labels(snapshot: &Snapshot<'_>) -> BTreeMap<String, String> {
    let mut labels = derived_labels(snapshot.service, snapshot.spec, &[SERVICE_NAME, MANAGED_BY]);
    labels.insert(SERVICE_NAME.to_owned(), snapshot.service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn new_slice(snapshot: &Snapshot<'_>, family: &str, ports: &[EndpointPort]) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", snapshot.service.name())),
            namespace: snapshot.service.metadata.namespace.clone(),
            labels: Some(labels(snapshot)),
            owner_references: Some(vec![controller_ref(snapshot.service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports.to_vec()),
    }
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// Puts the endpoints of one group of ports into its slices.
fn distribute(
    snapshot: &Snapshot<'_>,
    family: &str,
    ports: &[EndpointPort],
    slices: Vec<Arc<EndpointSlice>>,
    mut endpoints: Endpoints,
    plan: &mut Plan,
) {
    let labels = labels(snapshot);
    let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
    for slice in slices {
        let before = slice.endpoints.as_deref().unwrap_or_default();
        // An endpoint keeps its place; what is taken out of `endpoints` here is not placed again.
        let kept: Vec<Endpoint> = before.iter().filter_map(|endpoint| endpoints.remove(&identity(endpoint))).collect();
        if kept == before && slice.metadata.labels.as_ref() == Some(&labels) {
            unchanged.push(slice);
        } else if kept.is_empty() && !before.is_empty() {
            plan.delete.push(slice);
        } else {
            let mut slice = (*slice).clone();
            slice.endpoints = Some(kept);
            slice.metadata.labels = Some(labels.clone());
            changed.push(slice);
        }
    }
    let mut rest: VecDeque<Endpoint> = endpoints.into_values().collect();
    changed.sort_by_key(|slice| std::cmp::Reverse(count(slice)));
    changed.iter_mut().for_each(|slice| fill(slice, &mut rest));
    while !rest.is_empty() {
        let roomy = unchanged.iter().enumerate().filter(|(_, slice)| count(slice) + rest.len() <= CAPACITY);
        let fullest = roomy.max_by_key(|(_, slice)| count(slice)).map(|(index, _)| index);
        match fullest {
            Some(index) => {
                let mut slice = (*unchanged.remove(index)).clone();
                fill(&mut slice, &mut rest);
                changed.push(slice);
            }
            None => {
                let mut slice = new_slice(snapshot, family, ports);
                fill(&mut slice, &mut rest);
                plan.create.push(slice);
            }
        }
    }
    plan.update.append(&mut changed);
}

fn fill(slice: &mut EndpointSlice, rest: &mut VecDeque<Endpoint>) {
    let endpoints = slice.endpoints.get_or_insert_default();
    let room = CAPACITY.saturating_sub(endpoints.len()).min(rest.len());
    endpoints.extend(rest.drain(..room));
}

/// A Service without endpoints still has one slice, so that readers see that there are none.
fn add_placeholder(snapshot: &Snapshot<'_>, family: &str, plan: &mut Plan) {
    let placeholder = new_slice(snapshot, family, &[]);
    let same = |slice: &EndpointSlice| {
        count(slice) == 0
            && slice.ports.as_deref().unwrap_or_default().is_empty()
            && slice.metadata.labels == placeholder.metadata.labels
            && is_owned(slice, snapshot.service)
    };
    match &*plan.delete {
        [only] if same(only) => plan.delete.clear(),
        _ => plan.create.push(placeholder),
    }
}

/// A slice about to go becomes one about to come: one write instead of two, and no moment without either.
fn reuse(snapshot: &Snapshot<'_>, plan: &mut Plan) {
    let (ours, others): (Vec<_>, Vec<_>) = plan.delete.drain(..).partition(|slice| is_owned(slice, snapshot.service));
    plan.delete = others;
    for old in ours {
        match plan.create.pop() {
            Some(new) => {
                let metadata = ObjectMeta { labels: new.metadata.labels, ..old.metadata.clone() };
                plan.update.push(EndpointSlice { metadata, ..new });
            }
            None => plan.delete.push(old),
        }
    }
}

#[cfg(test)]
mod tests;
