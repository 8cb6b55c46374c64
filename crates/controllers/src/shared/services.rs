//! Which pods stand behind a Service, under which addresses and ports; and which change wakes up whom.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_api::pods::{is_finished, is_ready};
use skiff_client::{Change, Informer, Key, Kind, Store, WorkQueue};

use super::{map_selector, node_of, selects};

/// The label that names the Service of a slice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names the controller of a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of slices and Endpoints whose Service has no address.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The specification of a Service whose endpoints are ours to find: one with a selector, and no mere alias.
pub(crate) fn selecting(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref()?;
    (spec.selector.is_some() && spec.type_.as_deref() != Some("ExternalName")).then_some(spec)
}

/// Whether the Service has no address of its own.
pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

/// Whether pods count that are not ready.
pub(crate) fn publishes_not_ready(spec: &ServiceSpec) -> bool {
    spec.publish_not_ready_addresses.unwrap_or(false)
}

/// The pods that a Service selects, in the order of their names.
pub(crate) fn selected_pods(spec: &ServiceSpec, namespace: &str, pods: &Store<Pod>) -> Vec<Arc<Pod>> {
    let selector = map_selector(spec.selector.as_ref());
    let mut found = pods.in_namespace(namespace);
    found.retain(|pod| selects(&selector, pod.metadata.labels.as_ref()));
    found
}

/// Whether a pod has an address to send to: it has one, and has not ended.
pub(crate) fn has_endpoint(pod: &Pod) -> bool {
    !is_finished(pod) && addresses(pod).next().is_some()
}

/// The addresses of a pod.
pub(crate) fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let many = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|address| &address.ip);
    // Statuses from before dual stack have but one.
    let single = status.filter(|status| status.pod_ips.iter().flatten().next().is_none());
    many.chain(single.and_then(|status| status.pod_ip.as_ref())).filter_map(|ip| ip.parse().ok())
}

/// The pod's host name, where DNS is to know it under this Service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let name = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == Some(service.name())).then_some(name)
}

/// A reference to the pod behind an endpoint.
pub(crate) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// `nodeName`, where the pod has one.
pub(crate) fn node_name(pod: &Pod) -> Option<String> {
    Some(node_of(pod)).filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The port of the pod that a port of the Service leads to; a named one may be another in every pod.
pub(crate) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let fits = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
        p.name.as_ref() == Some(name) && protocol(&p.protocol) == protocol(&port.protocol)
    };
    ports.find(fits).map(|found| found.container_port)
}

/// The labels of what is derived from a Service: its own without `reserved` ones, and `headless` where it is.
pub(crate) fn derived_labels(service: &Service, spec: &ServiceSpec, reserved: &[&str]) -> BTreeMap<String, String> {
    let own = service.metadata.labels.iter().flatten();
    let own = own.filter(|(key, _)| *key != HEADLESS && !reserved.contains(&&***key));
    let mut labels: BTreeMap<String, String> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    if is_headless(spec) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// Enqueues Services that change, and Services whose pods change in a way that endpoints show.
pub(crate) fn enqueue_services(services: &Informer<Service>, pods: &Informer<Pod>, queue: &WorkQueue<Key>) {
    let to_queue = queue.clone();
    services.on(move |change: &Change<'_, Service>| to_queue.add(change.key(), change.trace));
    let (known, to_queue) = (services.store(), queue.clone());
    pods.on(move |change: &Change<'_, Pod>| {
        let Some(pod) = change.object() else { return };
        if let (Some(old), Some(new)) = (change.old, change.new)
            && looks(old) == looks(new)
        {
            return;
        }
        for service in known.in_namespace(pod.namespace()) {
            let selector = map_selector(service.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
            if change.states().any(|state| selects(&selector, state.metadata.labels.as_ref())) {
                to_queue.add(Key::of(&*service), change.trace);
            }
        }
    });
}

/// What endpoints show of a pod.
fn looks(pod: &Pod) -> impl PartialEq {
    (
        pod.metadata.labels.clone(),
        pod.spec.as_ref().map(|spec| (spec.hostname.clone(), spec.subdomain.clone())),
        (pod.deleting(), is_ready(pod), is_finished(pod)),
        (addresses(pod).collect::<Vec<_>>(), node_name(pod)),
    )
}
