//! Cluster addresses and node ports of Services.
//!
//! An address is an `IPAddress` object, a node port a bare key; both are made and removed in the transaction that
//! writes the Service, on the condition that they were free. So nothing can be given out twice, nothing leaks, and
//! there is no allocator to repair. Rules of choice are upstream's (`pkg/registry/core/service/storage/alloc.go`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::object::canonical_bytes;
use skiff_meta::world::WorldExt;
use skiff_meta::{GroupKind, GroupResource, Status};
use skiff_store::{Compare, StoreError, Transaction, Write};

use crate::api::Api;
use crate::call::Call;
use crate::chain::Extra;
use crate::tree;

/// Keys of node ports.
const PORTS: &str = "/registry/ranges/servicenodeports/";
/// Random tries before all candidates are walked through.
const TRIES: usize = 64;

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
        if let Some(old) = old {
            carry_over(new, old);
        }
        families(new, old, call.api.config.service_cidr);
        address(call, new, &before)?;
        ports(call, new, &before).await?;
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
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address, "uid": api.world.uuid(),
            "creationTimestamp": tree::timestamp(api.world.now()),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
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
        let all = tree::texts(service, &["spec", "clusterIPs"]);
        claims.addresses.extend(all.into_iter().filter(|a| !a.is_empty()).map(str::to_owned));
    }
    if may_have_ports(service) {
        claims.ports.extend(service_ports(service).filter_map(|p| tree::number(p, &["nodePort"])).filter(|p| *p > 0));
    }
    if needs_health_port(service) {
        claims.ports.extend(tree::number(service, &["spec", "healthCheckNodePort"]).filter(|p| *p > 0));
    }
    claims
}

/// What an update leaves out stays as it was given.
fn carry_over(new: &mut Value, old: &Value) {
    if needs_address(old) && needs_address(new) {
        let unset =
            tree::text(new, &["spec", "clusterIP"]).is_empty() && tree::texts(new, &["spec", "clusterIPs"]).is_empty();
        if unset {
            for name in ["clusterIP", "clusterIPs"] {
                let value = tree::at(old, &["spec", name]).cloned();
                tree::put(tree::child(new, "spec"), name, value);
            }
        }
    }
    if may_have_ports(old) && needs_ports(new) {
        let given: Vec<(Option<Value>, Option<Value>, i64)> = service_ports(old)
            .filter_map(|p| Some((p.get("protocol").cloned(), p.get("port").cloned(), tree::number(p, &["nodePort"])?)))
            .collect();
        let taken: Vec<i64> = service_ports(new).filter_map(|p| tree::number(p, &["nodePort"])).collect();
        for port in new.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if tree::number(port, &["nodePort"]).unwrap_or(0) != 0 {
                continue;
            }
            let same = given.iter().find(|(protocol, number, node)| {
                port.get("protocol") == protocol.as_ref()
                    && port.get("port") == number.as_ref()
                    && !taken.contains(node)
            });
            if let Some((.., node)) = same {
                tree::map(port).insert("nodePort".to_owned(), json!(node));
            }
        }
    }
    if needs_health_port(old)
        && needs_health_port(new)
        && tree::number(new, &["spec", "healthCheckNodePort"]).unwrap_or(0) == 0
    {
        let value = tree::at(old, &["spec", "healthCheckNodePort"]).cloned();
        tree::put(tree::child(new, "spec"), "healthCheckNodePort", value);
    }
}

fn family(net: IpNet) -> &'static str {
    if net.network().is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Address families: those of the cluster's range, with the exception for headless services without selector, which
/// anybody may point anywhere.
fn families(service: &mut Value, old: Option<&Value>, net: IpNet) {
    if kind(service) == "ExternalName" {
        return;
    }
    let headless = is_headless(service);
    let selectorless = tree::at(service, &["spec", "selector"]).and_then(Value::as_object).is_none_or(|s| s.is_empty());
    let before = old.and_then(|o| tree::at(o, &["spec", "ipFamilyPolicy"])).cloned();
    let spec = tree::child(service, "spec");
    if headless {
        spec.insert("clusterIP".to_owned(), json!("None"));
        spec.insert("clusterIPs".to_owned(), json!(["None"]));
    }
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        let default = if headless && selectorless { "RequireDualStack" } else { "SingleStack" };
        spec.insert("ipFamilyPolicy".to_owned(), before.unwrap_or_else(|| json!(default)));
    }
    let single = spec.get("ipFamilyPolicy").is_some_and(|p| p == "SingleStack");
    let families = spec.entry("ipFamilies").or_insert_with(|| json!([]));
    let Some(list) = families.as_array_mut() else { return };
    if list.is_empty() {
        list.push(json!(family(net)));
    }
    if headless && selectorless && !single && list.len() == 1 {
        list.push(json!(if list[0] == "IPv4" { "IPv6" } else { "IPv4" }));
    }
}

fn invalid(service: &Value, fault: FieldError) -> Status {
    Status::invalid(&GroupKind::new("", "Service"), tree::text(service, &["metadata", "name"]), &[fault])
}

/// Gives the Service its address.
fn address(call: &Call, service: &mut Value, before: &Claims) -> Result<(), Status> {
    if !needs_address(service) {
        return Ok(());
    }
    let mut given = tree::text(service, &["spec", "clusterIP"]).to_owned();
    if given.is_empty() {
        tree::texts(service, &["spec", "clusterIPs"]).first().copied().unwrap_or_default().clone_into(&mut given);
    }
    let net = call.api.config.service_cidr;
    let taken = |address: &str| {
        !before.addresses.contains(address) && call.api.view.get(&addresses_id(), "", address).is_some()
    };
    if given.is_empty() {
        let random = || call.api.world.random();
        let free = free_address(net, random, taken)
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
        given = free.to_string();
    } else if let Some(why) = unusable(net, &given, taken) {
        let why = format!("failed to allocate IP {given}: {why}");
        let path = FieldPath::new("spec.clusterIPs");
        return Err(invalid(service, FieldError::invalid(&path, json!([given]), &why)));
    }
    let spec = tree::child(service, "spec");
    spec.insert("clusterIP".to_owned(), json!(given));
    spec.insert("clusterIPs".to_owned(), json!([given]));
    Ok(())
}

/// Why an address somebody asked for cannot be had.
fn unusable(net: IpNet, given: &str, taken: impl Fn(&str) -> bool) -> Option<String> {
    // What is no address at all is for validation to tell.
    let address: IpAddr = given.parse().ok()?;
    if !net.contains(&address) || address == net.network() || address == net.broadcast() {
        return Some("the provided network does not match the current range".to_owned());
    }
    taken(given).then(|| "provided IP is already allocated".to_owned())
}

fn size(net: IpNet) -> u128 {
    let bits = net.max_prefix_len() - net.prefix_len();
    // Network and broadcast addresses are not given out.
    1u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX).saturating_sub(2)
}

fn nth(net: IpNet, offset: u128) -> IpAddr {
    match net.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first).wrapping_add(offset as u32)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first).wrapping_add(offset)).into()),
    }
}

/// A free address: by chance from the upper part of the range, since people pick from the lower one by hand.
fn free_address(net: IpNet, random: impl Fn() -> u64, taken: impl Fn(&str) -> bool) -> Option<IpAddr> {
    let size = size(net).min(u128::from(u32::MAX));
    let reserved = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
    let dynamic = size - reserved;
    if dynamic == 0 {
        return None;
    }
    let free = |offset: u128| Some(nth(net, 1 + offset)).filter(|a| !taken(&a.to_string()));
    let by_chance = (0..TRIES).find_map(|_| free(reserved + u128::from(random()) % dynamic));
    by_chance.or_else(|| (reserved..size).chain(0..reserved).find_map(free))
}

/// Gives the Service its node ports.
async fn ports(call: &Call, service: &mut Value, before: &Claims) -> Result<(), Status> {
    let mut wanted = claims(service).ports;
    for (at, port) in service_ports(service).enumerate().filter(|_| may_have_ports(service)) {
        let Some(number) = tree::number(port, &["nodePort"]).filter(|p| *p > 0) else { continue };
        if let Some(why) = unusable_port(call, number, before).await? {
            let path = FieldPath::new("spec.ports").index(at).child("nodePort");
            return Err(invalid(service, FieldError::invalid(&path, number, &why)));
        }
    }
    if needs_ports(service) {
        let mut list = tree::at(service, &["spec", "ports"]).cloned().unwrap_or_default();
        // One number serves all protocols of the same port.
        let mut by_port: Vec<(Value, i64)> = Vec::new();
        for port in list.as_array_mut().into_iter().flatten() {
            let number = port.get("port").cloned().unwrap_or_default();
            let node = match tree::number(port, &["nodePort"]).filter(|p| *p > 0) {
                Some(node) => node,
                None => match by_port.iter().find(|(p, _)| *p == number) {
                    Some((_, node)) => *node,
                    None => free_port(call, &wanted).await?,
                },
            };
            wanted.insert(node);
            by_port.push((number, node));
            tree::map(port).insert("nodePort".to_owned(), json!(node));
        }
        tree::child(service, "spec").insert("ports".to_owned(), list);
    }
    if needs_health_port(service) {
        match tree::number(service, &["spec", "healthCheckNodePort"]).filter(|p| *p > 0) {
            Some(port) => {
                if let Some(why) = unusable_port(call, port, before).await? {
                    let why = format!("failed to allocate requested HealthCheck NodePort {port}: {why}");
                    return Err(Status::internal(why));
                }
            }
            None => {
                let port = free_port(call, &wanted).await?;
                tree::child(service, "spec").insert("healthCheckNodePort".to_owned(), json!(port));
            }
        }
    }
    Ok(())
}

async fn port_is_taken(call: &Call, port: i64) -> Result<bool, Status> {
    let found = call.api.store.get(&port_key(port), None).await.map_err(|e| crate::error::store(&e))?;
    Ok(found.0.is_some())
}

async fn unusable_port(call: &Call, port: i64, before: &Claims) -> Result<Option<String>, Status> {
    if before.ports.contains(&port) {
        return Ok(None);
    }
    let (first, last) = call.api.config.node_ports;
    if port < i64::from(first) || port > i64::from(last) {
        let why = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
        return Ok(Some(why));
    }
    Ok(port_is_taken(call, port).await?.then(|| "provided port is already allocated".to_owned()))
}

async fn free_port(call: &Call, wanted: &BTreeSet<i64>) -> Result<i64, Status> {
    let (first, last) = call.api.config.node_ports;
    let (first, size) = (i64::from(first), i64::from(last) - i64::from(first) + 1);
    let reserved = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
    let span = (size - reserved).max(1) as u64;
    for _ in 0..TRIES {
        let port = first + reserved + (call.api.world.random() % span) as i64;
        if !wanted.contains(&port) && !port_is_taken(call, port).await? {
            return Ok(port);
        }
    }
    for port in (first + reserved..first + size).chain(first..first + reserved) {
        if !wanted.contains(&port) && !port_is_taken(call, port).await? {
            return Ok(port);
        }
    }
    Err(Status::internal("failed to allocate a nodePort: range is full"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_come_from_the_upper_part_first() {
        let net: IpNet = "10.0.0.0/27".parse().unwrap();
        let chosen = |taken: &[&str]| free_address(net, || 0, |a| taken.contains(&a)).map(|a| a.to_string());
        assert_eq!(chosen(&[]).unwrap(), "10.0.0.17");
        assert_eq!(chosen(&["10.0.0.17"]).unwrap(), "10.0.0.18");
        let upper: Vec<String> = (17..31).map(|i| format!("10.0.0.{i}")).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        assert_eq!(chosen(&upper).unwrap(), "10.0.0.1");
        assert_eq!(free_address(net, || 0, |_| true), None);
        assert!(unusable(net, "10.0.1.1", |_| false).is_some());
        assert!(unusable(net, "10.0.0.0", |_| false).is_some());
        assert!(unusable(net, "10.0.0.5", |_| true).is_some());
        assert!(unusable(net, "10.0.0.5", |_| false).is_none());
    }

    #[test]
    fn claims_depend_on_the_type() {
        let mut service = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "nodePort": 30_000}, {"port": 81, "nodePort": 30_001}]}});
        let all = claims(&service);
        assert_eq!((all.addresses.len(), all.ports.len()), (1, 2));
        service["spec"]["type"] = json!("ClusterIP");
        assert!(claims(&service).ports.is_empty());
        service["spec"]["type"] = json!("ExternalName");
        assert_eq!(claims(&service), Claims::default());
    }

    #[test]
    fn updates_keep_what_they_leave_out() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30_000}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [
            {"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]}});
        carry_over(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.1");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30_000);
        assert_eq!(new["spec"]["ports"][1].get("nodePort"), None);
    }

    #[test]
    fn headless_services_without_selector_have_both_families() {
        let net: IpNet = "10.0.0.0/16".parse().unwrap();
        let mut headless = json!({"spec": {"clusterIP": "None"}});
        families(&mut headless, None, net);
        assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let mut plain = json!({"spec": {}});
        families(&mut plain, None, net);
        assert_eq!(plain["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(plain["spec"]["ipFamilyPolicy"], "SingleStack");
    }
}
