//! The planner by table, and the property that makes incremental changes safe.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_client::Event;

use super::*;
use crate::fake::{Cluster, Hurry, object};
use crate::nft::Fragment;
use crate::nft::model::FakeNft;

fn node() -> NodeFacts {
    NodeFacts {
        family: crate::Family::V4,
        name: "node".to_owned(),
        zone: Some("here".to_owned()),
        pod_cidr: Some("10.42.0.0/24".parse().unwrap()),
        service_cidr: "10.43.0.0/16".parse().ok(),
        localhost_node_ports: true,
    }
}

fn service(spec: Value) -> Value {
    let mut spec = spec;
    let fields = spec.as_object_mut().unwrap();
    fields.entry("clusterIPs").or_insert(json!(["10.43.0.9"]));
    fields.entry("ports").or_insert(json!([{"port": 80, "protocol": "TCP"}]));
    let metadata = json!({"name": "s", "namespace": "n", "uid": "u"});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

/// `ready`, `serving` (while it terminates) or `gone`, each at an address; addresses in 10.42.0.0/24 are local.
fn slice(endpoints: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, state)| {
            let (ready, serving) = (*state == "ready", *state != "gone");
            let node = if address.starts_with("10.42.0.") { "node" } else { "other" };
            json!({"addresses": [address], "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": !ready}})
        })
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s-1", "namespace": "n", "uid": "v", "labels": {"kubernetes.io/service-name": "s"}},
        "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

fn planned(service: Value, slice: Value) -> Fragment {
    let planned = |service: &str, slice: &str, node: NodeFacts| {
        let service: Service = serde_json::from_str(service).unwrap();
        let slice: EndpointSlice = serde_json::from_str(slice).unwrap();
        plan(&service, &[&slice], &node)
    };
    let (service, slice) = (service.to_string(), slice.to_string());
    let fragment = planned(&service, &slice, node());
    // The same in IPv6 is the same; of the other family nothing is planned.
    let (service6, slice6) = (in_ipv6(&service), in_ipv6(&slice));
    assert_eq!(format!("{:?}", planned(&service6, &slice6, node6())), in_ipv6(&format!("{fragment:?}")));
    assert_eq!(planned(&service6, &slice6, node()), Fragment::default());
    fragment
}

fn node6() -> NodeFacts {
    NodeFacts {
        family: crate::Family::V6,
        pod_cidr: Some("fd42:1::/64".parse().unwrap()),
        service_cidr: "fd43::/108".parse().ok(),
        localhost_node_ports: false,
        ..node()
    }
}

/// What these tests say about IPv4, said about IPv6, in the same order.
fn in_ipv6(text: &str) -> String {
    let pairs = [
        ("10.42.0.0/24", "fd42:1::/64"),
        ("10.42.0.", "fd42:1::"),
        ("10.42.1.", "fd42:2::"),
        ("10.43.0.", "fd43::"),
        ("10.0.0.0/", "fd00::/"),
        ("198.51.100.", "fd51::"),
        ("203.0.113.", "fd60::"),
        ("ip saddr", "ip6 saddr"),
        ("ip daddr", "ip6 daddr"),
        ("dnat ip ", "dnat ip6 "),
        ("IPv4", "IPv6"),
    ];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// `SET KEY` or `SET KEY : VALUE`, without what every Service with a ClusterIP has, and without endpoints.
fn elements(fragment: &Fragment) -> Vec<String> {
    let left_out = |set: &str| set == "cluster-ips" || set.ends_with("endpoints");
    let all = fragment.elements.iter().filter(|((set, _), _)| !left_out(set));
    all.map(|((set, key), value)| format!("{set} {}", crate::nft::element(key, value))).collect()
}

/// What a map of endpoints has.
fn pool(fragment: &Fragment, map: &str) -> Vec<String> {
    let all = fragment.elements.iter().filter(|((set, _), _)| *set == map);
    all.map(|((_, key), value)| crate::nft::element(key, value)).collect()
}

const LOCAL: &str = "10.42.0.2";
const REMOTE: &str = "10.42.1.2";

#[test]
fn what_needs_no_proxy_has_no_rules() {
    let mut other = service(json!({}));
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "mine"});
    for service in [
        service(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
        service(json!({"type": "ExternalName", "externalName": "x.example", "clusterIPs": []})),
        other,
    ] {
        assert_eq!(planned(service, slice(&[(LOCAL, "ready")])), Fragment::default());
    }
}

#[test]
fn only_ready_endpoints_get_connections_and_terminating_ones_when_none_is_ready() {
    let picked = |endpoints: &[(&str, &str)]| pool(&planned(service(json!({})), slice(endpoints)), "endpoints");
    let (local, remote) = ("10.42.0.2 . 8080", "10.42.1.2 . 8080");
    let at = |index: usize, target: &str| format!("10.43.0.9 . tcp . 80 . {index} : {target}");
    assert_eq!(picked(&[(LOCAL, "ready")]), [at(0, local)]);
    assert_eq!(picked(&[(REMOTE, "ready"), (LOCAL, "ready")]), [at(0, local), at(1, remote)]);
    assert_eq!(picked(&[(LOCAL, "serving"), (REMOTE, "ready")]), [at(0, remote)]);
    assert_eq!(picked(&[(LOCAL, "serving"), (REMOTE, "gone")]), [at(0, local)]);
    assert!(picked(&[(LOCAL, "gone")]).is_empty());
}

#[test]
fn many_endpoints_have_a_chain_of_their_own() {
    let addresses: Vec<String> = (1..=33).map(|i| format!("10.42.1.{i}")).collect();
    let ready =
        |count: usize| -> Vec<(&str, &str)> { addresses.iter().take(count).map(|a| (a.as_str(), "ready")).collect() };
    let fragment = planned(service(json!({})), slice(&ready(32)));
    assert!(fragment.chains.is_empty());
    assert!(elements(&fragment).contains(&"services 10.43.0.9 . tcp . 80 : goto pick-endpoints-32".to_owned()));
    let fragment = planned(service(json!({})), slice(&ready(33)));
    let rule = &fragment.chains["endpoints-n/s/tcp/80"][0];
    assert!(rule.ends_with("numgen random mod 33 map @endpoints"), "{rule}");
    assert_eq!(pool(&fragment, "endpoints").len(), 33);
}

#[test]
fn fates_of_addresses_and_ports() {
    let node_port = json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}]);
    let external = |policy: &str| json!({"type": "NodePort", "ports": node_port, "externalTrafficPolicy": policy});
    type Case = (&'static str, Value, &'static [(&'static str, &'static str)], &'static [&'static str]);
    let cases: [Case; 8] = [
        ("no endpoints", json!({}), &[], &["refused-services 10.43.0.9 . tcp . 80 : goto refuse"]),
        (
            "local endpoint",
            json!({}),
            &[(LOCAL, "ready")],
            &["hairpin 10.42.0.2 . 10.42.0.2", "services 10.43.0.9 . tcp . 80 : goto pick-endpoints-1"],
        ),
        (
            "remote endpoint",
            json!({}),
            &[(REMOTE, "ready")],
            &["remote 10.42.1.2 . tcp . 8080", "services 10.43.0.9 . tcp . 80 : goto pick-endpoints-1"],
        ),
        (
            "internal Local, none here",
            json!({"internalTrafficPolicy": "Local"}),
            &[(REMOTE, "ready")],
            &["refused-services 10.43.0.9 . tcp . 80 : drop", "remote 10.42.1.2 . tcp . 8080"],
        ),
        (
            "internal Local, one here",
            json!({"internalTrafficPolicy": "Local"}),
            &[(LOCAL, "ready")],
            &["hairpin 10.42.0.2 . 10.42.0.2", "services 10.43.0.9 . tcp . 80 : goto pick-local-endpoints-1"],
        ),
        (
            "node port",
            external("Cluster"),
            &[(LOCAL, "ready")],
            &[
                "hairpin 10.42.0.2 . 10.42.0.2",
                "node-ports tcp . 30080 : goto pick-port-endpoints-1",
                "services 10.43.0.9 . tcp . 80 : goto pick-endpoints-1",
            ],
        ),
        (
            "external Local, none here",
            external("Local"),
            &[(REMOTE, "ready")],
            &[
                "node-ports tcp . 30080 : goto external-port-n/s/tcp/80",
                "refused-node-ports tcp . 30080 : drop",
                "remote 10.42.1.2 . tcp . 8080",
                "services 10.43.0.9 . tcp . 80 : goto pick-endpoints-1",
            ],
        ),
        (
            "external Local, none at all",
            external("Local"),
            &[],
            &["refused-node-ports tcp . 30080 : goto refuse", "refused-services 10.43.0.9 . tcp . 80 : goto refuse"],
        ),
    ];
    for (name, spec, endpoints, expected) in cases {
        assert_eq!(elements(&planned(service(spec), slice(endpoints))), expected, "{name}");
    }
}

#[test]
fn external_policy_local_splits_ours_from_strangers() {
    let spec = json!({"externalIPs": ["198.51.100.1"], "externalTrafficPolicy": "Local"});
    let fragment = planned(service(spec), slice(&[(LOCAL, "ready"), (REMOTE, "ready")]));
    assert_eq!(
        fragment.chains["external-n/s/tcp/80"],
        [
            "ip saddr 10.42.0.0/24 goto pick-endpoints-2",
            "fib saddr type local goto pick-endpoints-2",
            "goto pick-local-endpoints-1",
        ]
    );
    assert_eq!(pool(&fragment, "local-endpoints"), ["198.51.100.1 . tcp . 80 . 0 : 10.42.0.2 . 8080"]);
}

#[test]
fn load_balancer_addresses_and_source_ranges() {
    let mut balanced =
        service(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/9", "10.0.0.0/8"]}));
    balanced["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "lb.example"}]}});
    let fragment = planned(balanced.clone(), slice(&[(LOCAL, "ready")]));
    let led: Vec<String> = elements(&fragment).into_iter().filter(|element| element.contains("203.")).collect();
    assert_eq!(led, ["services 203.0.113.1 . tcp . 80 : goto firewall-n/s/tcp/80"]);
    let rules = ["ip saddr != { 10.0.0.0/8 } drop", "goto pick-endpoints-1"];
    assert_eq!(fragment.chains["firewall-n/s/tcp/80"], rules);
}

#[test]
fn endpoints_hinted_for_this_node_or_its_zone_are_preferred() {
    for (kind, ours, others) in [("forNodes", "node", "other"), ("forZones", "here", "there")] {
        let mut hinted = slice(&[(LOCAL, "ready"), (REMOTE, "ready")]);
        hinted["endpoints"][0]["hints"] = json!({kind: [{"name": ours}]});
        let remote = |slice: &Value| {
            pool(&planned(service(json!({})), slice.clone()), "endpoints")
                .iter()
                .any(|element| element.contains(REMOTE))
        };
        assert!(remote(&hinted), "one without a hint: hints are not complete");
        hinted["endpoints"][1]["hints"] = json!({kind: [{"name": others}]});
        assert!(!remote(&hinted));
        hinted["endpoints"][0]["hints"] = json!({kind: [{"name": "third"}]});
        assert!(remote(&hinted), "none for us");
    }
}

#[test]
fn stale_udp_flows_are_reported_once() {
    let mut state = State::new("t", node());
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]);
    let spec = json!({"ports": ports, "type": "NodePort"});
    let mut endpoints = slice(&[(LOCAL, "ready"), (REMOTE, "ready")]);
    endpoints["ports"] = json!([{"name": "dns", "port": 5353, "protocol": "UDP"}]);
    let flows = |endpoint: Option<&str>| {
        let endpoint = endpoint.map(|endpoint| endpoint.parse().unwrap());
        let address = Some("10.43.0.9".parse().unwrap());
        let family = crate::Family::V4;
        let flow = |address, port| UdpFlow { family, address, port, endpoint };
        [flow(None, 30053), flow(address, 53)].into()
    };
    state.service_event(&Event::Apply(object(service(spec))));
    assert!(state.changes().stale_flows.is_empty(), "refused packets leave no flow");
    state.slice_event(&Event::Apply(object(endpoints.clone())));
    assert_eq!(state.changes().stale_flows, flows(None));
    endpoints["endpoints"].as_array_mut().unwrap().pop();
    state.slice_event(&Event::Apply(object(endpoints)));
    assert_eq!(state.changes().stale_flows, flows(Some(REMOTE)));
    state.service_event(&Event::Replace(Vec::new()));
    assert_eq!(state.changes().stale_flows, flows(Some(LOCAL)));
    assert!(state.changes().stale_flows.is_empty());
}

#[test]
fn an_address_claimed_twice_belongs_to_the_first_by_name() {
    let claim = |name: &str| {
        let mut claimant =
            service(json!({"clusterIPs": [format!("10.43.0.{}", name.len())], "externalIPs": ["1.2.3.4"]}));
        claimant["metadata"]["name"] = json!(name);
        object(claimant)
    };
    let mut state = State::new("t", node());
    let holder = |state: &mut State| {
        state.changes();
        state.table().sets["refused-services"].elements.contains_key("1.2.3.4 . tcp . 80")
    };
    state.service_event(&Event::Apply(claim("bb")));
    state.service_event(&Event::Apply(claim("a")));
    assert!(holder(&mut state));
    state.service_event(&Event::Delete(claim("a")));
    assert!(holder(&mut state), "the other one still claims it");
    state.service_event(&Event::Delete(claim("bb")));
    assert!(!holder(&mut state));
}

/// Remembers the flows it was told to forget.
#[derive(Default)]
struct FakeConntrack(parking_lot::Mutex<Vec<UdpFlow>>);

#[async_trait::async_trait]
impl Conntrack for FakeConntrack {
    async fn forget(&self, flows: &std::collections::BTreeSet<UdpFlow>) {
        self.0.lock().extend(flows.iter().cloned());
    }
}

/// Remembers what ports say.
#[derive(Default)]
struct FakeHealth(parking_lot::Mutex<BTreeMap<u16, HealthCheck>>);

impl HealthPorts for FakeHealth {
    fn set(&self, checks: BTreeMap<u16, HealthCheck>) {
        *self.0.lock() = checks;
    }
}

/// Effects on no machine.
fn effects(nft: &Arc<FakeNft>) -> Effects {
    Effects {
        nft: nft.clone(),
        conntrack: Arc::new(FakeConntrack::default()),
        health: Arc::new(FakeHealth::default()),
        announce: Arc::new(FakeWire::default()),
    }
}

/// Remembers what the node answers for; fails the next times on demand.
#[derive(Default)]
struct FakeWire(parking_lot::Mutex<(std::collections::BTreeSet<std::net::IpAddr>, usize)>);

impl Announce for FakeWire {
    fn set(&self, addresses: &std::collections::BTreeSet<std::net::IpAddr>) -> Result<(), AnnounceError> {
        let (known, failures) = &mut *self.0.lock();
        if *failures > 0 {
            *failures -= 1;
            return Err(AnnounceError::NoDevice("192.0.2.1".parse().unwrap()));
        }
        known.clone_from(addresses);
        Ok(())
    }
}

#[test]
fn the_node_answers_for_addresses_that_are_its_own_to_announce() {
    let cluster = Arc::new(Cluster::default());
    let (services, slices) = (cluster.source("services"), cluster.source("endpointslices"));
    let wire = Arc::new(FakeWire::default());
    let effects = Effects { announce: wire.clone(), ..effects(&Arc::default()) };
    let nodes = vec![node(), node6()];
    let mut proxy = Box::pin(run("t", nodes, cluster.client(), Hurry::shared(), effects, crate::guard::none()));
    let mut turn = || {
        assert!((&mut proxy).now_or_never().is_none(), "the loop has ended");
        wire.0.lock().0.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let balanced = |announcer: &str| {
        let mut balanced = service(json!({"type": "LoadBalancer", "clusterIPs": ["10.43.0.9", "fd43::9"]}));
        let condition = json!({"type": skiff_api::network::ANNOUNCED, "status": "True", "reason": "Pool",
            "message": announcer, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        balanced["status"] = json!({"conditions": [condition],
            "loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "2001:db8::7"}]}});
        object(balanced)
    };
    services.unbounded_send(Event::Replace(vec![balanced("node")])).unwrap();
    slices.unbounded_send(Event::Replace(Vec::new())).unwrap();
    assert_eq!(turn(), ["203.0.113.1", "2001:db8::7"]);
    services.unbounded_send(Event::Apply(balanced("other"))).unwrap();
    assert_eq!(turn(), [] as [&str; 0]);
    wire.0.lock().1 = 1;
    services.unbounded_send(Event::Apply(balanced("node"))).unwrap();
    assert_eq!(turn().len(), 2, "tried again after a refusal");
    assert_eq!(wire.0.lock().1, 0);
}

#[test]
fn health_check_ports_count_the_ready_endpoints_here() {
    let mut state = State::new("t", node());
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
    state.service_event(&Event::Apply(object(service(spec))));
    let said = |state: &mut State| {
        let changed = state.changes().health_checks;
        let check = state.health_checks().find(|(port, _)| *port == 31000);
        changed.then(|| check.map(|(_, check)| check.local))
    };
    assert_eq!(said(&mut state), Some(Some(0)));
    state.slice_event(&Event::Apply(object(slice(&[(LOCAL, "ready"), (REMOTE, "ready")]))));
    assert_eq!(said(&mut state), Some(Some(1)));
    state.slice_event(&Event::Apply(object(slice(&[(LOCAL, "ready"), (REMOTE, "gone")]))));
    assert_eq!(said(&mut state), None, "nothing new");
    state.service_event(&Event::Replace(Vec::new()));
    assert_eq!(said(&mut state), Some(None));
}

#[test]
fn the_loop_rebuilds_first_then_coalesces_and_rebuilds_after_a_refusal() {
    let cluster = Arc::new(Cluster::default());
    let (services, slices) = (cluster.source("services"), cluster.source("endpointslices"));
    let nft = Arc::new(FakeNft::default());
    let health = Arc::new(FakeHealth::default());
    let effects = Effects { health, ..effects(&nft) };
    let mut proxy = Box::pin(run("t", vec![node()], cluster.client(), Hurry::shared(), effects, crate::guard::none()));
    let mut turn = || {
        assert!((&mut proxy).now_or_never().is_none(), "the loop has ended");
        std::mem::take(&mut *nft.scripts.lock())
    };
    services.unbounded_send(Event::Replace(vec![object(service(json!({})))])).unwrap();
    assert!(turn().is_empty(), "not before slices are known");
    slices.unbounded_send(Event::Replace(Vec::new())).unwrap();
    let scripts = turn();
    assert!(scripts.len() == 1 && scripts[0].contains("delete table ip t"), "{scripts:?}");

    for endpoints in [&[(LOCAL, "ready")][..], &[(LOCAL, "ready"), (REMOTE, "ready")]] {
        slices.unbounded_send(Event::Apply(object(slice(endpoints)))).unwrap();
    }
    let scripts = turn();
    assert!(
        scripts.len() == 1 && scripts[0].contains("goto pick-endpoints-2") && !scripts[0].contains("delete table"),
        "{scripts:?}"
    );
    slices.unbounded_send(Event::Apply(object(slice(&[(LOCAL, "ready"), (REMOTE, "ready")])))).unwrap();
    assert!(turn().is_empty(), "nothing has changed");

    *nft.failures.lock() = 2;
    slices.unbounded_send(Event::Apply(object(slice(&[(LOCAL, "ready")])))).unwrap();
    let scripts = turn();
    assert!(scripts.len() == 1 && scripts[0].contains("delete table ip t"), "{scripts:?}");
    assert!(scripts[0].contains(". 0 : 10.42.0.2 . 8080"), "{scripts:?}");
}

/// One event: a Service or a slice of one of three names comes, changes or goes, or a list starts anew.
#[derive(Clone, Debug)]
enum Step {
    Service(usize, Option<Value>),
    Slice(usize, usize, Vec<(u8, &'static str)>),
    NoSlice(usize),
    ServicesAnew,
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        Just(json!({})),
        Just(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]})),
        Just(json!({"sessionAffinity": "ClientIP"})),
        Just(json!({"externalIPs": ["1.2.3.4"], "externalTrafficPolicy": "Local"})),
        Just(json!({"internalTrafficPolicy": "Local"})),
        Just(json!({"clusterIPs": ["None"]})),
    ];
    let states = prop_oneof![Just("ready"), Just("serving"), Just("gone")];
    let step = prop_oneof![
        (0..3usize, proptest::option::weighted(0.8, kind)).prop_map(|(n, spec)| Step::Service(n, spec)),
        (0..4usize, 0..3usize, prop::collection::vec((0..4u8, states), 0..4))
            .prop_map(|(i, n, e)| Step::Slice(i, n, e)),
        (0..4usize).prop_map(Step::NoSlice),
        Just(Step::ServicesAnew),
        Just(Step::Sync),
    ];
    prop::collection::vec(step, 1..40)
}

fn named(index: usize, spec: &Value) -> Value {
    let mut value = service(spec.clone());
    value["metadata"]["name"] = json!(format!("s{index}"));
    if spec.get("clusterIPs").is_none() {
        value["spec"]["clusterIPs"] = json!([format!("10.43.0.{}", index + 1)]);
    }
    value
}

fn named_slice(index: usize, owner: usize, endpoints: &[(u8, &'static str)]) -> Value {
    let address = |n: u8| if n < 2 { format!("10.42.0.{}", n + 2) } else { format!("10.42.1.{n}") };
    let endpoints: Vec<(String, &str)> = endpoints.iter().map(|(n, state)| (address(*n), *state)).collect();
    let borrowed: Vec<(&str, &str)> = endpoints.iter().map(|(address, state)| (address.as_str(), *state)).collect();
    let mut value = slice(&borrowed);
    value["metadata"]["name"] = json!(format!("slice-{index}"));
    value["metadata"]["labels"]["kubernetes.io/service-name"] = json!(format!("s{owner}"));
    value
}

proptest! {
    /// A kernel that was given one change after the other has the same table as one that was given the whole at once.
    #[test]
    fn changes_add_up_to_the_whole(steps in steps()) {
        let mut state = State::new("t", node());
        let mut kernel = state.table();
        let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
        for step in steps.into_iter().chain([Step::Sync]) {
            match step {
                Step::Service(index, Some(spec)) => {
                    services.insert(index, object(named(index, &spec)));
                    state.service_event(&Event::Apply(services[&index].clone()));
                }
                Step::Service(index, None) => {
                    if let Some(service) = services.remove(&index) {
                        state.service_event(&Event::Delete(service));
                    }
                }
                Step::Slice(index, owner, endpoints) => {
                    slices.insert(index, object(named_slice(index, owner, &endpoints)));
                    state.slice_event(&Event::Apply(slices[&index].clone()));
                }
                Step::NoSlice(index) => {
                    if let Some(slice) = slices.remove(&index) {
                        state.slice_event(&Event::Delete(slice));
                    }
                }
                Step::ServicesAnew => {
                    services.retain(|index, _| *index != 1);
                    state.service_event(&Event::Replace(services.values().cloned().collect()));
                }
                Step::Sync => kernel.apply(&state.changes().batch),
            }
        }
        let mut fresh = State::new("t", node());
        fresh.slice_event(&Event::Replace(slices.values().cloned().collect()));
        fresh.service_event(&Event::Replace(services.values().cloned().collect()));
        fresh.changes();
        prop_assert_eq!(&kernel, &fresh.table());
        prop_assert_eq!(&kernel, &state.table());
        kernel.check_references();
        prop_assert!(fresh.changes().batch.is_empty());
    }
}

#[test]
fn the_families_of_a_cluster_are_loaded_together() {
    let cluster = Arc::new(Cluster::default());
    let (services, slices) = (cluster.source("services"), cluster.source("endpointslices"));
    let nft = Arc::new(FakeNft::default());
    let health = Arc::new(FakeHealth::default());
    let effects = Effects { health: health.clone(), ..effects(&nft) };
    let mut proxy =
        Box::pin(run("t", vec![node(), node6()], cluster.client(), Hurry::shared(), effects, crate::guard::none()));
    let mut turn = || {
        assert!((&mut proxy).now_or_never().is_none(), "the loop has ended");
        std::mem::take(&mut *nft.scripts.lock())
    };
    let spec = json!({"clusterIPs": ["10.43.0.9", "fd43::9"], "ipFamilies": ["IPv4", "IPv6"], "type": "LoadBalancer",
        "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
    let mut slice6: Value = serde_json::from_str(&in_ipv6(&slice(&[(LOCAL, "ready")]).to_string())).unwrap();
    slice6["metadata"]["name"] = json!("s-6");
    services.unbounded_send(Event::Replace(vec![object(service(spec))])).unwrap();
    slices.unbounded_send(Event::Replace(vec![object(slice(&[(LOCAL, "ready")])), object(slice6.clone())])).unwrap();
    let scripts = turn();
    assert_eq!(scripts.len(), 1);
    for words in [
        "table ip t {",
        "table ip6 t {",
        "10.43.0.9 . tcp . 80 . 0 : 10.42.0.2 . 8080",
        "fd43::9 . tcp . 80 . 0 : fd42:1::2 . 8080",
    ] {
        assert!(scripts[0].contains(words), "{words}: {}", scripts[0]);
    }
    assert_eq!(health.0.lock()[&31000].local, 1, "one pod, though it has two addresses");
    slices.unbounded_send(Event::Delete(object(slice6))).unwrap();
    let scripts = turn();
    assert!(scripts.len() == 1 && scripts[0].contains("delete element ip6 t endpoints"), "{scripts:?}");
    assert!(!scripts[0].contains("element ip t "), "{scripts:?}");
}
