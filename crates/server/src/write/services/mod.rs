//! Cluster addresses and node ports of Services.
//!
//! An address is an `IPAddress` object, a node port a bare key; both are made and removed in the transaction that
//! writes the Service, on the condition that they were free. So nothing can be given out twice, nothing leaks, and
//! there is no allocator to repair. Rules of choice are upstream's (`pkg/registry/core/service/storage/alloc.go`).

mod addresses;
mod families;
mod ports;
pub(crate) mod repair;

use std::collections::BTreeSet;
use std::net::IpAddr;

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_meta::field::FieldError;
use skiff_meta::object::canonical_bytes;
use skiff_meta::world::WorldExt;
use skiff_meta::{GroupKind, GroupResource, Status};
use skiff_rules::service_addresses;
use skiff_store::{Compare, StoreError, Transaction, Write};

use crate::api::Api;
use crate::call::Call;
use crate::chain::Extra;
use crate::tree;

/// Keys of node ports.
const PORTS: &str = "/registry/ranges/servicenodeports/";

/// What a Service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Claims {
    addresses: BTreeSet<String>,
    ports: BTreeSet<i64>,
}

/// Whether the request writes Services.
pub(crate) fn applies(call: &Call) -> bool {
    let id = call.served.id();
    id.group.is_empty() && id.resource == "services"
}

/// Fills in addresses and ports of a Service that is about to be written, and says what must hold and happen with it.
/// For all other resources: nothing.
pub(crate) async fn reserve(call: &Call, old: Option<&Value>, new: Option<&mut Value>) -> Result<Extra, Status> {
    if !applies(call) {
        return Ok(Extra::default());
    }
    let before = old.map(claims).unwrap_or_default();
    let mut after = Claims::default();
    let mut owner = (String::new(), String::new());
    if let Some(new) = new {
        service_addresses::sync(new, old.unwrap_or(&Value::Null));
        let cluster: Vec<&str> =
            call.api.config.service_cidrs.iter().map(|range| families::of(&range.to_string())).collect();
        families::settle(new, old, &cluster).map_err(|faults| invalid(new, &faults))?;
        addresses::give(call, new, old, &before)?;
        ports::give(call, new, &before).await?;
        after = claims(new);
        owner =
            (tree::text(new, &["metadata", "namespace"]).to_owned(), tree::text(new, &["metadata", "name"]).to_owned());
    }
    changes(call, &before, &after, &owner)
}

/// Writes down what Services hold by the word of another kind of server: upstream keeps node ports elsewhere. Nothing
/// changes where it is written down already, or where the Service has changed meanwhile.
pub(crate) async fn adopt(api: &Api) -> Result<(), StoreError> {
    let id = GroupResource::new("", "services");
    for object in api.view.list(&id, "") {
        let Ok(service) = object.to_value() else { continue };
        let owner = (object.meta().namespace.clone(), object.meta().name.clone());
        let same = Compare::Modified(api.view.key(&id, &owner.0, &owner.1), object.revision());
        let claims = claims(&service);
        let ports = claims.ports.iter().map(|port| (port_key(*port), format!("{}/{}", owner.0, owner.1).into()));
        let addresses = claims.addresses.iter().filter_map(|address| {
            let object = ip_address(api, address, &owner);
            Some((address_key(api, address), canonical_bytes(&object).ok()?))
        });
        for (key, value) in ports.chain(addresses) {
            let compare = vec![same.clone(), Compare::Modified(key.clone(), 0)];
            let writes = vec![Write::Put { key, value, lease: 0 }];
            api.store.commit(Transaction { compare, writes, trace: None }).await?;
        }
    }
    Ok(())
}

/// The conditions and writes between two sets of claims.
fn changes(call: &Call, before: &Claims, after: &Claims, owner: &(String, String)) -> Result<Extra, Status> {
    let mut extra = Extra::default();
    let mut take = |key: Bytes, value: Bytes| {
        extra.compare.push(Compare::Modified(key.clone(), 0));
        extra.writes.push(Write::Put { key, value, lease: 0 });
    };
    for address in after.addresses.difference(&before.addresses) {
        let object = ip_address(&call.api, address, owner);
        take(address_key(&call.api, address), canonical_bytes(&object).map_err(Status::internal)?);
    }
    for port in after.ports.difference(&before.ports) {
        take(port_key(*port), format!("{}/{}", owner.0, owner.1).into());
    }
    let mut free = |key: Bytes| extra.writes.push(Write::Delete { key });
    before.addresses.difference(&after.addresses).for_each(|a| free(address_key(&call.api, a)));
    before.ports.difference(&after.ports).for_each(|p| free(port_key(*p)));
    Ok(extra)
}

fn addresses_id() -> GroupResource {
    GroupResource::new("networking.k8s.io", "ipaddresses")
}

fn address_key(api: &Api, address: &str) -> Bytes {
    api.view.key(&addresses_id(), "", address)
}

fn port_key(port: i64) -> Bytes {
    format!("{PORTS}{port}").into()
}

fn ip_address(api: &Api, address: &str, (namespace, name): &(String, String)) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address, "uid": api.world.uuid(),
            "creationTimestamp": tree::timestamp(api.world.now()),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": families::of(address),
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    })
}

fn kind(service: &Value) -> &str {
    match tree::text(service, &["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn is_headless(service: &Value) -> bool {
    tree::text(service, &["spec", "clusterIP"]) == "None"
        || tree::texts(service, &["spec", "clusterIPs"]).first() == Some(&"None")
}

fn needs_address(service: &Value) -> bool {
    kind(service) != "ExternalName" && !is_headless(service)
}

fn needs_ports(service: &Value) -> bool {
    let wanted = tree::at(service, &["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false));
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => wanted,
        _ => false,
    }
}

fn may_have_ports(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

fn needs_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && tree::text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

fn service_ports(service: &Value) -> impl Iterator<Item = &Value> {
    tree::at(service, &["spec", "ports"]).and_then(Value::as_array).into_iter().flatten()
}

fn claims(service: &Value) -> Claims {
    let mut claims = Claims::default();
    if needs_address(service) {
        let all = families::list(service, "clusterIPs").into_iter().filter_map(|text| text.parse::<IpAddr>().ok());
        claims.addresses.extend(all.map(|address| address.to_string()));
    }
    if may_have_ports(service) {
        claims.ports.extend(service_ports(service).filter_map(|p| tree::number(p, &["nodePort"])).filter(|p| *p > 0));
    }
    if needs_health_port(service) {
        claims.ports.extend(tree::number(service, &["spec", "healthCheckNodePort"]).filter(|p| *p > 0));
    }
    claims
}

fn invalid(service: &Value, faults: &[FieldError]) -> Status {
    Status::invalid(&GroupKind::new("", "Service"), tree::text(service, &["metadata", "name"]), faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_depend_on_the_type() {
        let mut service = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "FD00::0:1"],
            "ports": [{"port": 80, "nodePort": 30_000}, {"port": 81, "nodePort": 30_001}]}});
        let all = claims(&service);
        assert_eq!((all.addresses, all.ports.len()), (["10.0.0.1", "fd00::1"].map(str::to_owned).into(), 2));
        service["spec"]["type"] = json!("ClusterIP");
        assert!(claims(&service).ports.is_empty());
        service["spec"]["type"] = json!("ExternalName");
        assert_eq!(claims(&service), Claims::default());
    }
}
