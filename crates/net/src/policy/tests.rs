//! The planner by table, and against an evaluator that knows no plan.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::facts::{Labels, Peer, Pod, Policy, Port, Rule};
use super::plan::{Direction, Match, PeerMatch, Plan, PortMatch, plan};
use super::*;
use crate::fake::{Cluster, Hurry, object};
use crate::nft::model::FakeNft;

type Cast = (BTreeMap<String, Policy>, Vec<Pod>, BTreeMap<String, Labels>);

/// A packet that begins a connection.
#[derive(Clone, Copy, Debug)]
struct Packet {
    from: IpAddr,
    to: IpAddr,
    protocol: &'static str,
    port: u16,
}

/// What upstream's documentation says, read aloud.
fn naive((policies, pods, namespaces): &Cast, packet: Packet) -> bool {
    let pod = |address| pods.iter().find(|pod| pod.addresses.contains(&address));
    let side = |subject: IpAddr, other: IpAddr, rules: fn(&Policy) -> Option<&Vec<Rule>>| {
        let Some(subject) = pod(subject).filter(|pod| pod.local) else { return true };
        let mut about = policies.values().filter(|policy| policy.selects(subject)).filter_map(rules).peekable();
        about.peek().is_none()
            || about.flatten().any(|rule| {
                let peer = rule.peers.is_empty()
                    || rule.peers.iter().any(|peer| match peer {
                        Peer::Block { range, except } => {
                            range.contains(&other) && !except.iter().any(|range| range.contains(&other))
                        }
                        selected => pod(other).is_some_and(|other| selected.includes(other, namespaces)),
                    });
                let port = rule.ports.is_empty()
                    || rule.ports.iter().any(|port| match port {
                        Port::Any(protocol) => *protocol == packet.protocol,
                        Port::Numbers(protocol, first, last) => {
                            *protocol == packet.protocol && (*first..=*last).contains(&packet.port)
                        }
                        Port::Named(protocol, name) => pod(packet.to).is_some_and(|to| {
                            to.ports.contains(&(name.clone(), protocol, packet.port)) && *protocol == packet.protocol
                        }),
                    });
                peer && port
            })
    };
    packet.from == packet.to
        || (side(packet.from, packet.to, |policy| policy.egress.as_ref())
            && side(packet.to, packet.from, |policy| policy.ingress.as_ref()))
}

/// What the plan lets pass, as the table's rules go.
fn planned(plan: &Plan, packet: Packet) -> bool {
    let passes = |direction, subject: IpAddr, other: IpAddr| {
        let Some(profile) = plan.pods.get(&(direction, subject)) else { return true };
        plan.profiles[&(direction, profile.clone())].iter().any(|Match { peer, port }| {
            let peer = match peer {
                PeerMatch::Anybody => true,
                PeerMatch::Set(set) => plan.peers[set].contains(&other),
                PeerMatch::Block { range, except } => {
                    range.contains(&other) && !except.iter().any(|range| range.contains(&other))
                }
            };
            let port = match port {
                PortMatch::Anything => true,
                PortMatch::Protocol(protocol) => *protocol == packet.protocol,
                PortMatch::Numbers(protocol, ranges) => {
                    *protocol == packet.protocol
                        && ranges.iter().any(|(first, last)| (*first..=*last).contains(&packet.port))
                }
                PortMatch::Set(set) => plan.ports[set].contains(&(packet.to, packet.protocol, packet.port)),
            };
            peer && port
        })
    };
    packet.from == packet.to
        || (passes(Direction::Egress, packet.from, packet.to) && passes(Direction::Ingress, packet.to, packet.from))
}

fn pod(namespace: &str, number: u8, app: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{number}"), "namespace": namespace, "uid": format!("p{number}"), "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": 8080 + i32::from(number % 2)}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIP": address(number), "podIPs": [{"ip": address(number)}, {"ip": address6(number)}]}})
}

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 42, 0, number])
}

fn address6(number: u8) -> IpAddr {
    format!("fd42::{number:x}").parse().unwrap()
}

fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, "uid": name}, "spec": spec})
}

/// Three local pods and a remote one in `n`, a local one in `m`.
fn cast(policies: &[Value]) -> Cast {
    let pods = [
        pod("n", 1, "a", "node"),
        pod("n", 2, "b", "node"),
        pod("n", 3, "c", "node"),
        pod("n", 4, "a", "far"),
        pod("m", 5, "a", "node"),
    ];
    let read = |pod: &Value| Pod::of(&serde_json::from_value(pod.clone()).unwrap(), "node").unwrap();
    let policies = policies.iter().enumerate();
    let namespaces = [("n", json!({"team": "x"})), ("m", json!({"team": "y"}))];
    (
        policies.map(|(i, p)| (i.to_string(), Policy::of(&serde_json::from_value(p.clone()).unwrap()))).collect(),
        pods.iter().map(read).collect(),
        namespaces.map(|(name, labels)| (name.to_owned(), serde_json::from_value(labels).unwrap())).into(),
    )
}

fn plan_of(family: Family, (policies, pods, namespaces): &Cast) -> Plan {
    plan(family, policies, pods.iter(), namespaces)
}

#[test]
fn policies_by_table() {
    let web = json!([{"port": 80}]);
    // Who of 1 to 5 and the outside (9) may begin a connection to pod 1 at port 80.
    for (case, policies, expected) in [
        ("no policy", vec![], vec![1, 2, 3, 4, 5, 9]),
        ("default deny", vec![policy("n", "p", json!({"podSelector": {}}))], vec![1]),
        ("of another namespace", vec![policy("m", "p", json!({"podSelector": {}}))], vec![1, 2, 3, 4, 5, 9]),
        (
            "about others",
            vec![policy("n", "p", json!({"podSelector": {"matchLabels": {"app": "b"}}}))],
            vec![1, 2, 3, 4, 5, 9],
        ),
        ("anybody", vec![policy("n", "p", json!({"podSelector": {}, "ingress": [{}]}))], vec![1, 2, 3, 4, 5, 9]),
        (
            "at another port",
            vec![policy("n", "p", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 81}]}]}))],
            vec![1],
        ),
        (
            "at this port",
            vec![policy("n", "p", json!({"podSelector": {}, "ingress": [{"ports": web}]}))],
            vec![1, 2, 3, 4, 5, 9],
        ),
        (
            "from pods here",
            vec![policy(
                "n",
                "p",
                json!({"podSelector": {},
            "ingress": [{"from": [{"podSelector": {}}]}]}),
            )],
            vec![1, 2, 3, 4],
        ),
        (
            "from a team",
            vec![policy(
                "n",
                "p",
                json!({"podSelector": {},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "y"}}}]}]}),
            )],
            vec![1, 5],
        ),
        (
            "from some of any team",
            vec![policy(
                "n",
                "p",
                json!({"podSelector": {},
            "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a"}}}]}]}),
            )],
            vec![1, 4, 5],
        ),
        (
            "from a range but for some",
            vec![policy(
                "n",
                "p",
                json!({"podSelector": {},
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.42.0.0/29", "except": ["10.42.0.2/31"]}}]}]}),
            )],
            vec![1, 4, 5],
        ),
        (
            "policies add up",
            vec![
                policy("n", "p", json!({"podSelector": {}})),
                policy(
                    "n",
                    "q",
                    json!({"podSelector": {},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}], "ports": [{"port": 70, "endPort": 80}]}]}),
                ),
            ],
            vec![1, 2],
        ),
        (
            "nothing goes out",
            vec![policy(
                "n",
                "p",
                json!({"podSelector": {"matchLabels": {"app": "b"}},
            "policyTypes": ["Egress"]}),
            )],
            vec![1, 3, 4, 5, 9],
        ),
        (
            "both ends",
            vec![policy(
                "n",
                "p",
                json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": web}]}),
            )],
            vec![1, 2, 3, 4, 5, 9],
        ),
        (
            "a port nobody understands",
            vec![policy(
                "n",
                "p",
                json!({"podSelector": {},
            "ingress": [{"ports": [{"port": 70000}]}]}),
            )],
            vec![1],
        ),
    ] {
        let cast = cast(&policies);
        let plan = plan_of(Family::V4, &cast);
        let packet = |from: u8| Packet { from: address(from), to: address(1), protocol: "tcp", port: 80 };
        let may = |from: &u8| planned(&plan, packet(*from));
        let pass: Vec<u8> = [1, 2, 3, 4, 5, 9].into_iter().filter(may).collect();
        assert_eq!(pass, expected, "{case}");
        for from in 1..=9 {
            assert_eq!(naive(&cast, packet(from)), planned(&plan, packet(from)), "{case}: {from}");
        }
    }
}

#[test]
fn named_ports_are_the_receivers() {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": "web"}]}], "egress": [{"ports": [{"port": "dns", "protocol": "UDP"}, {"port": "web"}]}]});
    let cast = cast(&[policy("n", "p", spec)]);
    let plan = plan_of(Family::V4, &cast);
    let may = |to: u8, protocol, port| planned(&plan, Packet { from: address(3), to: address(to), protocol, port });
    assert!(may(1, "tcp", 8081) && !may(1, "tcp", 8080) && may(2, "tcp", 8080));
    assert!(may(5, "udp", 53) && !may(5, "tcp", 53), "a pod elsewhere that no policy is about");
    assert!(!may(1, "udp", 53), "it does not come in");
}

#[test]
fn pods_that_ended_or_have_the_hosts_network_are_none() {
    let with = |change: fn(&mut Value)| {
        let mut pod = pod("n", 1, "a", "node");
        change(&mut pod);
        Pod::of(&serde_json::from_value(pod).unwrap(), "node")
    };
    assert!(with(|_| {}).is_some());
    assert_eq!(with(|pod| pod["status"]["phase"] = json!("Succeeded")), None);
    assert_eq!(with(|pod| pod["spec"]["hostNetwork"] = json!(true)), None);
    assert_eq!(with(|pod| pod["status"] = json!({"phase": "Pending"})), None);
}

fn labels() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(|app| json!({"matchLabels": {"app": app}})),
        Just(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let team = prop_oneof![
        Just(json!({})),
        Just(json!({"matchLabels": {"team": "x"}})),
        Just(json!({"matchLabels": {"team": "z"}}))
    ];
    prop_oneof![
        labels().prop_map(|pods| json!({"podSelector": pods})),
        team.clone().prop_map(|team| json!({"namespaceSelector": team})),
        (labels(), team).prop_map(|(pods, team)| json!({"podSelector": pods, "namespaceSelector": team})),
        (0u8..8, 28u8..33, 0u8..8).prop_map(|(at, bits, hole)| {
            json!({"ipBlock": {"cidr": format!("10.42.0.{at}/{bits}"), "except": [format!("10.42.0.{hole}/31"), format!("10.42.0.{hole}/32")]}})
        }),
        (0u8..8, 124u8..129, 0u8..8).prop_map(|(at, bits, hole)| {
            json!({"ipBlock": {"cidr": format!("fd42::{at}/{bits}"), "except": [format!("fd42::{hole}/127"), format!("fd42::{hole}/128")]}})
        }),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    prop_oneof![
        (79u16..83, 0u16..4).prop_map(|(first, more)| json!({"port": first, "endPort": first + more})),
        (79u16..83).prop_map(|port| json!({"port": port})),
        Just(json!({"port": "web"})),
        Just(json!({"port": "dns", "protocol": "UDP"})),
        Just(json!({"protocol": "UDP"})),
    ]
}

fn any_policy() -> impl Strategy<Value = Value> {
    let list = |peers: &'static str| {
        let rule = (proptest::collection::vec(peer(), 0..3), proptest::collection::vec(port(), 0..3));
        proptest::collection::vec(rule.prop_map(move |(others, ports)| json!({peers: others, "ports": ports})), 0..3)
    };
    let types = prop_oneof![
        Just(json!(["Ingress"])),
        Just(json!(["Egress"])),
        Just(json!(["Ingress", "Egress"])),
        Just(json!([]))
    ];
    (prop_oneof![Just("n"), Just("m")], labels(), types, list("from"), list("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            policy(
                namespace,
                "p",
                json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}),
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn plan_and_evaluator_agree(policies in proptest::collection::vec(any_policy(), 0..5)) {
        let cast = cast(&policies);
        for (family, address) in [(Family::V4, address as fn(u8) -> IpAddr), (Family::V6, address6)] {
            let plan = plan_of(family, &cast);
            render::table("t", &plan).check_references();
            for from in 1..=6 {
                for to in 1..=6 {
                    for (protocol, port) in [("tcp", 79), ("tcp", 81), ("tcp", 84), ("tcp", 8080), ("tcp", 8081), ("udp", 53), ("udp", 81)] {
                        let packet = Packet { from: address(from), to: address(to), protocol, port };
                        prop_assert_eq!(naive(&cast, packet), planned(&plan, packet), "{:?}", packet);
                    }
                }
            }
        }
    }

    #[test]
    fn changes_add_up_to_the_whole_table(steps in proptest::collection::vec(proptest::collection::vec(any_policy(), 0..4), 1..5)) {
        let table = |policies: &[Value]| render::table("t", &plan_of(Family::V4, &cast(policies)));
        let mut kernel = table(&[]);
        for policies in &steps {
            let wanted = table(policies);
            kernel.apply(&kernel.clone().change_to(&wanted));
            prop_assert_eq!(&kernel, &wanted);
        }
    }
}

#[test]
fn nothing_is_loaded_before_all_is_known_and_refusals_are_tried_again() {
    let cluster = Arc::new(Cluster::default());
    let [pods, namespaces, policies] =
        ["pods", "namespaces", "networkpolicies"].map(|resource| cluster.source(resource));
    let nft = Arc::new(FakeNft::default());
    let mut work = Box::pin(run(
        "t",
        &[Family::V4, Family::V6],
        "node",
        cluster.client(),
        Hurry::shared(),
        nft.clone(),
        crate::guard::none(),
    ));
    let mut turn = || assert!((&mut work).now_or_never().is_none());
    let scripts = || nft.scripts.lock().clone();
    pods.unbounded_send(Event::Replace(vec![object(pod("n", 1, "a", "node"))])).unwrap();
    namespaces.unbounded_send(Event::Replace(Vec::new())).unwrap();
    turn();
    assert!(scripts().is_empty());
    policies.unbounded_send(Event::Replace(Vec::new())).unwrap();
    turn();
    assert_eq!(scripts().len(), 2, "one of each family");

    *nft.failures.lock() = 1;
    let deny = object(policy("n", "deny", json!({"podSelector": {}})));
    policies.unbounded_send(Event::Apply(deny.clone())).unwrap();
    turn();
    assert_eq!(scripts().len(), 4);
    assert!(scripts()[2].contains("add element ip6 t ingress { fd42::1 : jump ingress-"), "{}", scripts()[2]);
    assert!(scripts()[3].starts_with("add table ip t\ndelete table ip t\n"), "anew after a refusal: {}", scripts()[3]);
    assert!(scripts()[3].contains("10.42.0.1 : jump ingress-"), "{}", scripts()[3]);

    pods.unbounded_send(Event::Apply(object(pod("n", 1, "a", "node")))).unwrap();
    turn();
    assert_eq!(scripts().len(), 4, "nothing has changed");
    policies.unbounded_send(Event::Delete(deny)).unwrap();
    turn();
    assert!(scripts()[4].contains("delete element ip t ingress { 10.42.0.1 }"), "{}", scripts()[4]);
    assert!(scripts()[5].contains("delete element ip6 t ingress { fd42::1 }"), "{}", scripts()[5]);
}
