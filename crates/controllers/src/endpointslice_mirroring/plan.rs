//! The slices that say what an Endpoints object says. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::Kind;

use crate::shared::controller_ref;
use crate::shared::services::{MANAGED_BY, SERVICE_NAME};

/// Our value of [`MANAGED_BY`].
pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const NOT_COPIED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one set of ports, at most.
const CAPACITY: usize = 1000;

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    /// Addresses that are none, and those beyond the capacity.
    pub(super) invalid: usize,
    pub(super) skipped: usize,
}

/// Whether somebody keeps these Endpoints by hand for others to read.
pub(super) fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skips =
        endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|skip| skip == "true");
    let elects = endpoints.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    !skips && !elects
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(bool, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((ip.is_ipv6(), endpoint))
}

fn slice(endpoints: &Endpoints, family: &str, ports: Vec<EndpointPort>, found: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let annotations = endpoints.metadata.annotations.iter().flatten();
    let annotations: BTreeMap<String, String> = annotations
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name())),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(found),
        ports: Some(ports),
    }
}

/// The slices to be: one for each set of ports and family of addresses.
fn desired(endpoints: &Endpoints, plan: &mut Plan) -> Vec<EndpointSlice> {
    /// Ready and other endpoints, by the family of their address.
    type Found = (Vec<EndpointPort>, [Vec<Endpoint>; 2]);
    let mut groups: BTreeMap<String, Found> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        });
        let ports: Vec<EndpointPort> = ports.collect();
        let (_, found) = groups.entry(format!("{ports:?}")).or_insert_with(|| (ports, Default::default()));
        let ready = subset.addresses.iter().flatten().map(|address| endpoint(address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| endpoint(address, false));
        for made in ready.chain(others) {
            match made {
                None => plan.invalid += 1,
                Some(_) if found[0].len() + found[1].len() >= CAPACITY => plan.skipped += 1,
                Some((ipv6, endpoint)) => found[usize::from(ipv6)].push(endpoint),
            }
        }
    }
    let families = |(ports, [four, six]): Found| {
        [("IPv4", four), ("IPv6", six)]
            .into_iter()
            .filter(|(_, found)| !found.is_empty())
            .map(move |(family, found)| (family, ports.clone(), found))
    };
    let all = groups.into_values().flat_map(families);
    all.map(|(family, ports, found)| slice(endpoints, family, ports, found)).collect()
}

/// The plan for Endpoints, `None` where there is nothing to mirror (any more), and the slices there are.
pub(super) fn plan(endpoints: Option<&Endpoints>, slices: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let wanted = endpoints.map(|endpoints| desired(endpoints, &mut plan)).unwrap_or_default();
    let mut left: Vec<Arc<EndpointSlice>> = slices.to_vec();
    let mut missing = Vec::new();
    for wanted in wanted {
        let same =
            |slice: &Arc<EndpointSlice>| slice.address_type == wanted.address_type && slice.ports == wanted.ports;
        match left.iter().position(same) {
            Some(place) => adapt(&left.remove(place), wanted, &mut plan),
            None => missing.push(wanted),
        }
    }
    for wanted in missing {
        // A slice about to go becomes one about to come; its address family cannot change.
        match left.iter().position(|slice| slice.address_type == wanted.address_type) {
            Some(place) => adapt(&left.remove(place), wanted, &mut plan),
            None => plan.create.push(wanted),
        }
    }
    plan.delete = left;
    plan
}

fn adapt(known: &EndpointSlice, wanted: EndpointSlice, plan: &mut Plan) {
    let metadata = ObjectMeta {
        labels: wanted.metadata.labels,
        annotations: wanted.metadata.annotations,
        owner_references: wanted.metadata.owner_references,
        ..known.metadata.clone()
    };
    let adapted = EndpointSlice { metadata, ..wanted };
    if adapted != *known {
        plan.update.push(adapted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use skiff_meta::patch::merge_patch;

    fn endpoints(change: Value) -> Endpoints {
        let value = json!({"metadata": {"name": "db", "namespace": "ns", "uid": "e", "labels": {"a": "b"},
                "annotations": {"note": "x", NOT_COPIED[0]: "now"}},
            "subsets": [{"addresses": [{"ip": "10.0.0.1", "nodeName": "n"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}]});
        serde_json::from_value(merge_patch(&value, &change)).expect("endpoints")
    }

    fn stored(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        let stored = slices.into_iter().enumerate().map(|(number, mut slice)| {
            slice.metadata.name = Some(format!("db-{number}"));
            Arc::new(slice)
        });
        stored.collect()
    }

    #[test]
    fn both_families_are_mirrored_and_then_left_alone() {
        let first = plan(Some(&endpoints(json!({}))), &[]);
        let four = serde_json::to_value(&first.create[0]).unwrap();
        assert_eq!((first.create.len(), &four["addressType"]), (2, &json!("IPv4")));
        assert_eq!(
            four["endpoints"][0],
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "nodeName": "n"})
        );
        assert_eq!(four["endpoints"][1]["conditions"], json!({"ready": false}));
        assert_eq!(four["ports"], json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]));
        assert_eq!(four["metadata"]["labels"], json!({"a": "b", SERVICE_NAME: "db", MANAGED_BY: MANAGER}));
        assert_eq!(four["metadata"]["annotations"], json!({"note": "x"}));
        let slices = stored(first.create);
        assert_eq!(plan(Some(&endpoints(json!({}))), &slices), Plan::default());

        let fewer = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "nowhere"}],
            "ports": [{"port": 5433, "protocol": "TCP"}]}]});
        let changed = plan(Some(&endpoints(fewer)), &slices);
        assert_eq!((changed.create.len(), changed.update.len(), changed.delete.len(), changed.invalid), (0, 1, 1, 1));
        assert_eq!(changed.update[0].name(), "db-0", "the slice goes on with other ports");
        assert_eq!(plan(None, &slices).delete.len(), 2);
    }

    #[test]
    fn what_is_not_mirrored() {
        assert!(is_mirrored(&endpoints(json!({}))));
        assert!(!is_mirrored(&endpoints(json!({"metadata": {"labels": {SKIP: "true"}}}))));
        assert!(!is_mirrored(&endpoints(json!({"metadata": {"annotations": {LEADER: "{}"}}}))));
        let many: Vec<Value> = (0..1200).map(|n| json!({"ip": format!("10.1.{}.{}", n / 250, n % 250)})).collect();
        let plan = plan(Some(&endpoints(json!({"subsets": [{"addresses": many}]}))), &[]);
        assert_eq!((plan.skipped, plan.create[0].endpoints.as_ref().map(Vec::len)), (200, Some(1000)));
    }
}
