//! Extended resources that device classes stand for: on nodes that have no such resource of their own, a pod's requests for
//! them are met by devices, through a claim that the scheduler makes for the pod.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerExtendedResourceRequest};
use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use skiff_api::resources;
use skiff_meta::Quantity;

use super::Stock;
use crate::cluster::{NodeInfo, PodInfo};

/// The annotation of claims that stand for extended resources.
const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// Which of a pod's requests a node has to meet with devices.
pub fn backed<'a>(pod: &'a PodInfo, stock: &Stock, node: &NodeInfo) -> BTreeSet<&'a str> {
    let all = resources_of(pod, stock);
    all.filter(|name| node.allocatable.scalar(name) == 0).collect()
}

/// A pod's requests that devices may meet.
pub fn resources_of<'a>(pod: &'a PodInfo, stock: &Stock) -> impl Iterator<Item = &'a str> {
    let asked = pod.requests.scalars.iter().filter(|(_, amount)| *amount > 0).map(|(name, _)| &**name);
    asked.filter(|name| stock.class_for(name).is_some())
}

/// Whether a claim is the one that the scheduler has made for the pod.
pub fn is_for(claim: &ResourceClaim, pod: &PodInfo) -> bool {
    let annotated = claim.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION)).map(String::as_str);
    let mut owners = claim.metadata.owner_references.iter().flatten();
    annotated == Some("true")
        && owners.any(|owner| owner.controller == Some(true) && owner.name == pod.name() && owner.uid == pod.uid)
}

/// The claim that stands for some of a pod's requests, and which container's request is met by which of the claim's.
pub fn claim(
    pod: &PodInfo,
    stock: &Stock,
    names: &BTreeSet<&str>,
) -> (Arc<ResourceClaim>, Vec<ContainerExtendedResourceRequest>) {
    let (mut requests, mut mappings) = (Vec::new(), Vec::new());
    for name in names {
        let Some(class) = stock.class_for(name).and_then(|class| class.metadata.name.as_deref()) else { continue };
        let (more, by) = of_resource(pod, name, class);
        requests.extend(more);
        mappings.extend(by);
    }
    requests.sort_by(|a, b| a.name.cmp(&b.name));
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid.clone(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    let claim = ResourceClaim {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace().to_owned()),
            generate_name: Some(format!("{}-extended-resources-", pod.name())),
            owner_references: Some(vec![owner]),
            annotations: Some(BTreeMap::from([(ANNOTATION.to_owned(), "true".to_owned())])),
            ..ObjectMeta::default()
        },
        spec: ResourceClaimSpec { devices: Some(DeviceClaim { requests: Some(requests), ..DeviceClaim::default() }) },
        status: None,
    };
    (Arc::new(claim), mappings)
}

/// A container that begins and ends before others may have their devices; only what it needs beyond these, or beyond what
/// others like it need, is asked for.
fn of_resource(
    pod: &PodInfo,
    resource: &str,
    class: &str,
) -> (Vec<DeviceRequest>, Vec<ContainerExtendedResourceRequest>) {
    let containers: Vec<(&Container, bool)> = pod
        .pod
        .spec
        .iter()
        .flat_map(|spec| {
            let first = spec.init_containers.iter().flatten().map(|c| (c, !resources::is_sidecar(c)));
            first.chain(spec.containers.iter().map(|c| (c, false)))
        })
        .collect();
    let asks = |container: &Container| {
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let amount = requests?.get(resource)?.0.parse::<Quantity>().unwrap_or_default().value();
        let place = requests?.keys().position(|name| name == resource)?;
        (amount > 0).then_some((amount, place))
    };
    let request = |number: usize, place: usize, count: i64| DeviceRequest {
        name: format!("container-{number}-request-{place}"),
        exactly: Some(ExactDeviceRequest {
            device_class_name: class.to_owned(),
            allocation_mode: Some("ExactCount".to_owned()),
            count: Some(count),
            ..ExactDeviceRequest::default()
        }),
        first_available: None,
    };
    let mapping = |container: &Container, request: &str| ContainerExtendedResourceRequest {
        container_name: container.name.clone(),
        resource_name: resource.to_owned(),
        request_name: request.to_owned(),
    };
    let count = |request: &DeviceRequest| request.exactly.as_ref().and_then(|exactly| exactly.count).unwrap_or(0);

    let lasting = containers.iter().enumerate().filter(|(_, (_, short))| !short);
    let lasting: BTreeMap<usize, DeviceRequest> = lasting
        .filter_map(|(number, (container, _))| asks(container).map(|(n, place)| (number, request(number, place, n))))
        .collect();
    let mut mappings: Vec<_> =
        lasting.iter().map(|(number, made)| mapping(containers[*number].0, &made.name)).collect();

    let mut largest: Option<DeviceRequest> = None;
    let mut passing = Vec::new();
    for (number, (container, _)) in containers.iter().enumerate().filter(|(_, (_, short))| *short) {
        let Some((amount, place)) = asks(container) else { continue };
        let mut had = 0;
        for (_, reused) in lasting.range(number..) {
            if had >= amount {
                break;
            }
            had += count(reused);
            passing.push((*container, Some(reused.name.clone())));
        }
        if had < amount {
            let own = request(number, place, amount - had);
            if largest.as_ref().is_none_or(|largest| count(largest) < count(&own)) {
                largest = Some(own);
            }
            passing.push((*container, None));
        }
    }
    // What short-lived containers need of their own is the same devices for all of them.
    let shared = largest.as_ref().map(|request| request.name.clone()).unwrap_or_default();
    mappings.extend(passing.into_iter().map(|(c, reused)| mapping(c, reused.as_deref().unwrap_or(&shared))));
    (largest.into_iter().chain(lasting.into_values()).collect(), mappings)
}
