//! Load balancers with addresses of their own, from a pool that is set aside for them. Pure.
//!
//! An address is held by one Service. One node answers for it on the wire; a condition of the Service says which. Both
//! stay as long as they can.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use skiff_api::network::{announcer, is_balanced};
use skiff_client::{Key, Kind};

use super::plan::{Given, Snapshot, current, fit_nodes, ingress};
use crate::AddressRange;

/// What each Service should have. Those that have it already are left out, but for those that wait for an address.
pub(super) fn plan(snapshot: &Snapshot, pool: &[AddressRange]) -> BTreeMap<Key, Given> {
    let mut services: Vec<&Arc<Service>> = snapshot.services.iter().filter(|service| is_balanced(service)).collect();
    // Whoever was first keeps an address; the name decides where the time does not.
    services.sort_by_key(|service| (service.metadata.creation_timestamp.clone(), Key::of(&***service).to_string()));
    let mut taken = BTreeSet::new();
    let mut kept = BTreeMap::new();
    for service in services.iter().filter(|service| !service.deleting()) {
        let inside = |ip: &IpAddr| pool.iter().any(|range| range.contains(*ip));
        let own: Vec<IpAddr> = held(service).into_iter().filter(|ip| inside(ip) && taken.insert(*ip)).collect();
        kept.insert(Key::of(&***service), own);
    }
    let mut plan = BTreeMap::new();
    for service in services {
        let key = Key::of(&**service);
        let own = kept.remove(&key).unwrap_or_default();
        let given = if service.deleting() { Given::default() } else { give(snapshot, service, &own, pool, &mut taken) };
        if given.short || !given.is_had_by(service) {
            plan.insert(key, given);
        }
    }
    plan
}

fn give(
    snapshot: &Snapshot,
    service: &Service,
    own: &[IpAddr],
    pool: &[AddressRange],
    taken: &mut BTreeSet<IpAddr>,
) -> Given {
    let spec = service.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_else(|| vec!["IPv4".to_owned()]);
    let asked = spec.and_then(|spec| spec.load_balancer_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok());
    let mut addresses = Vec::new();
    for v6 in families.iter().map(|family| family == "IPv6") {
        let mine = own.iter().copied().find(|ip| ip.is_ipv6() == v6);
        let wanted = asked.filter(|ip| ip.is_ipv6() == v6 && pool.iter().any(|range| range.contains(*ip)));
        let found = match (mine, wanted) {
            (Some(mine), None) => Some(mine),
            (Some(mine), Some(wanted)) if mine == wanted => Some(mine),
            // Somebody else may have what this one asks for; then it waits.
            (_, Some(wanted)) => (!taken.contains(&wanted)).then_some(wanted),
            (None, None) => {
                let family = pool.iter().filter(|range| range.is_ipv6() == v6);
                family.flat_map(AddressRange::addresses).find(|ip| !taken.contains(ip))
            }
        };
        taken.extend(found);
        addresses.extend(found);
    }
    let short = addresses.is_empty();
    let fit: BTreeSet<&str> = fit_nodes(snapshot, service).into_iter().map(Kind::name).collect();
    let announcer = announcer(service).filter(|name| fit.contains(name)).map(str::to_owned);
    let announcer = announcer.or_else(|| chosen(&Key::of(service), &fit)).filter(|_| !short);
    Given { ingress: ingress(addresses), announcer, short }
}

/// Spreads Services over nodes, and moves few when a node comes or goes.
fn chosen(key: &Key, fit: &BTreeSet<&str>) -> Option<String> {
    let weight = |node: &&&str| {
        let mut hasher = DefaultHasher::new();
        (key.to_string(), node).hash(&mut hasher);
        hasher.finish()
    };
    fit.iter().max_by_key(weight).map(|node| (*node).to_owned())
}

fn held(service: &Service) -> Vec<IpAddr> {
    current(service).iter().filter_map(|one| one.ip.as_ref()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, ready: bool) -> Arc<Node> {
        let status = json!({"conditions": [{"type": "Ready", "status": if ready { "True" } else { "Unknown" }}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
    }

    fn service(name: &str, second: u32, more: Value) -> Arc<Service> {
        let mut spec =
            json!({"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP"}], "ipFamilies": ["IPv4"]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata =
            json!({"name": name, "namespace": "n", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn with(service: &Service, given: &Given) -> Arc<Service> {
        let mut service = service.clone();
        let conditions = super::super::conditions(&service, given.announcer.as_deref(), jiff::Timestamp::UNIX_EPOCH);
        let status = json!({"loadBalancer": {"ingress": given.ingress}, "conditions": conditions});
        service.status = serde_json::from_value(status).unwrap();
        Arc::new(service)
    }

    fn planned(services: &[Arc<Service>], nodes: &[Arc<Node>]) -> BTreeMap<String, (Vec<String>, Given)> {
        from_pool(["192.0.2.64/31", "2001:db8::1-2001:db8::2"], services, nodes)
    }

    fn from_pool(
        pool: [&str; 2],
        services: &[Arc<Service>],
        nodes: &[Arc<Node>],
    ) -> BTreeMap<String, (Vec<String>, Given)> {
        let pool = pool.map(|text| AddressRange::parse(text).unwrap());
        let snapshot = Snapshot { services: services.to_vec(), nodes: nodes.to_vec(), ..Snapshot::default() };
        let ips = |given: &Given| given.ingress.iter().filter_map(|one| one.ip.clone()).collect::<Vec<_>>();
        plan(&snapshot, &pool).into_iter().map(|(key, given)| (key.name.clone(), (ips(&given), given))).collect()
    }

    #[test]
    fn each_service_has_an_address_of_its_own_until_the_pool_is_empty() {
        let nodes = [node("a", true), node("b", true), node("c", false)];
        let services = [
            service("first", 1, json!({})),
            service("dual", 2, json!({"ipFamilies": ["IPv6", "IPv4"]})),
            service("late", 3, json!({})),
            service("six", 4, json!({"ipFamilies": ["IPv6"], "loadBalancerIP": "2001:db8::2"})),
            service("classed", 1, json!({"loadBalancerClass": "example.com/x"})),
        ];
        let plan = planned(&services, &nodes);
        let ips = |name: &str| plan.get(name).map(|(ips, _)| ips.join(" "));
        assert_eq!(ips("first").unwrap(), "192.0.2.64");
        assert_eq!(ips("dual").unwrap(), "2001:db8::1 192.0.2.65");
        assert_eq!(ips("six").unwrap(), "2001:db8::2");
        assert!(plan["late"].1.short && plan["late"].0.is_empty(), "the pool is empty");
        assert_eq!(ips("classed"), None);
        for name in ["first", "dual", "six"] {
            assert!(matches!(plan[name].1.announcer.as_deref(), Some("a" | "b")), "{name}: {:?}", plan[name].1);
        }

        let given: Vec<Arc<Service>> =
            services[..2].iter().map(|service| with(service, &plan[service.name()].1)).collect();
        assert!(planned(&given, &nodes).is_empty(), "all is as it should be");
        let more = [node("0", true), nodes[0].clone(), nodes[1].clone(), node("z", true)];
        assert!(planned(&given, &more).is_empty(), "a node that comes takes nothing away");
        let lost = plan["first"].1.announcer.clone().unwrap();
        let rest: Vec<Arc<Node>> = nodes
            .iter()
            .map(|node| if node.name() == lost { self::node(&lost, false) } else { node.clone() })
            .collect();
        let moved = planned(&given[..1], &rest);
        assert_eq!(moved["first"].0, ["192.0.2.64"], "the address stays");
        assert!(moved["first"].1.announcer.as_ref().is_some_and(|name| *name != lost), "another node answers");
        assert_eq!(planned(&given[..1], &[])["first"].1.announcer, None);
    }

    #[test]
    fn a_wide_range_of_the_other_family_is_not_walked_through() {
        let services = [service("first", 1, json!({})), service("second", 2, json!({}))];
        let plan = from_pool(["2001:db8::/64", "192.0.2.64/32"], &services, &[node("a", true)]);
        assert_eq!(plan["first"].0, ["192.0.2.64"]);
        assert!(plan["second"].1.short);
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_or_waited_for() {
        let nodes = [node("a", true)];
        let asks = |name: &str, second| service(name, second, json!({"loadBalancerIP": "192.0.2.65"}));
        let plan = planned(&[asks("first", 1), asks("second", 2), service("third", 3, json!({}))], &nodes);
        assert_eq!(plan["first"].0, ["192.0.2.65"]);
        assert_eq!(plan["third"].0, ["192.0.2.64"]);
        assert!(plan["second"].1.short, "it waits, though others are free");
        let outside = Given { ingress: ingress(["198.51.100.1".parse().unwrap()]), announcer: None, short: false };
        let plan = planned(&[with(&asks("first", 1), &outside)], &nodes);
        assert_eq!(plan["first"].0, ["192.0.2.65"], "an address from before the pool goes");
    }

    #[test]
    fn who_goes_gives_its_address_back() {
        let given =
            Given { ingress: ingress(["192.0.2.64".parse().unwrap()]), announcer: Some("a".to_owned()), short: false };
        let mut going = (*with(&service("going", 1, json!({})), &given)).clone();
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let plan = planned(&[Arc::new(going), service("next", 2, json!({}))], &[node("a", true)]);
        assert_eq!((&plan["going"].1, &*plan["next"].0), (&Given::default(), &["192.0.2.64".to_owned()][..]));
    }
}
