//! Services on real packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use skiff_client::Event;
use skiff_meta::Object;
use skiff_net::Family;
use skiff_net::proxy::{Announce, NodeFacts, State};

use crate::machine::{Machine, NODE, NODE6, Pod, WORLD, WORLD6, fetch, load, on_a_machine, run_in};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 20);
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd43, 0, 0, 0, 0, 0, 0, 0x20);

/// A proxy driven by hand.
struct Proxy {
    state: State,
    family: Family,
}

impl Proxy {
    fn new(machine: &Machine) -> Self {
        Self::of(machine, Family::V4)
    }

    fn of(machine: &Machine, family: Family) -> Self {
        let index = usize::from(family == Family::V6);
        let node = NodeFacts {
            family,
            name: "node".to_owned(),
            zone: None,
            pod_cidr: Some(machine.network.pod_cidrs[index]),
            service_cidr: Some(machine.config.service_cidrs[index]),
            localhost_node_ports: family == Family::V4,
        };
        let proxy = Self { state: State::new(&machine.instance().service_table(), node), family };
        load(&proxy.state.table().to_string());
        proxy
    }

    fn service(&mut self, spec: Value) {
        let mut spec = spec;
        let fields = spec.as_object_mut().unwrap();
        let address = match self.family {
            Family::V4 => IpAddr::V4(VIP),
            Family::V6 => IpAddr::V6(VIP6),
        };
        fields.entry("clusterIP").or_insert(json!(address));
        fields.entry("clusterIPs").or_insert(json!([address]));
        fields.entry("ports").or_insert(json!([{"name": "web", "port": 80, "nodePort": 30080, "protocol": "TCP"}]));
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("web"), "spec": spec});
        self.state.service_event(&Event::Apply(object(service)));
        self.sync();
    }

    /// Endpoints by address and whether they are ready; the others terminate but still serve.
    fn endpoints<A: Into<IpAddr> + Copy>(&mut self, endpoints: &[(A, bool)]) {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, ready)| {
                let conditions = json!({"ready": ready, "serving": true, "terminating": !ready});
                json!({"addresses": [(*address).into()], "nodeName": "node", "conditions": conditions})
            })
            .collect();
        let mut metadata = metadata("web-1");
        metadata["labels"] = json!({"kubernetes.io/service-name": "web"});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": self.family.to_string(),
            "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
        self.state.slice_event(&Event::Apply(object(slice)));
        self.sync();
    }

    fn sync(&mut self) {
        load(&self.state.changes().batch.to_string());
    }
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "1"})
}

fn object(value: Value) -> Arc<Object> {
    Arc::new(Object::from_wire(value).unwrap())
}

fn server(machine: &Machine, id: &str) -> Pod {
    let pod = machine.pod(id);
    pod.serve(8080);
    pod
}

/// Which pods answer at the Service, asked 60 times.
fn answering(mut ask: impl FnMut() -> String) -> BTreeSet<String> {
    (0..60).map(|_| ask().split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn every_way_in_reaches_every_endpoint() {
    on_a_machine(|machine| {
        let (a, b, client) = (server(machine, "a"), server(machine, "b"), machine.pod("client"));
        let mut proxy = Proxy::new(machine);
        proxy.service(json!({"type": "NodePort", "externalIPs": ["198.51.100.7"]}));
        proxy.endpoints(&[(a.address, true), (b.address, true)]);

        let both: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
        assert_eq!(answering(|| client.fetch(VIP, 80).unwrap()), both, "from a pod");
        assert_eq!(answering(|| fetch(VIP, 80).unwrap()), both, "from the node");
        assert_eq!(answering(|| fetch(NODE, 30080).unwrap()), both, "by node port from the node");
        assert_eq!(answering(|| fetch(LOCALHOST, 30080).unwrap()), both, "by node port on loopback");
        assert_eq!(answering(|| client.fetch(NODE, 30080).unwrap()), both, "by node port from a pod");
        assert_eq!(answering(|| run_in(&machine.world, || fetch(NODE, 30080).unwrap())), both, "from the world");
        assert_eq!(answering(|| a.fetch(VIP, 80).unwrap()), both, "from an endpoint, itself included");
        assert_eq!(answering(|| client.fetch(Ipv4Addr::new(198, 51, 100, 7), 80).unwrap()), both, "external address");

        proxy.endpoints(&[(a.address, true)]);
        assert_eq!(client.fetch(VIP, 80).unwrap(), format!("a {}", client.address), "the client's address is kept");
        assert_eq!(run_in(&machine.world, || fetch(NODE, 30080).unwrap()), format!("a {WORLD}"));
        assert_eq!(a.fetch(VIP, 80).unwrap(), format!("a {}", machine.gateway(0)), "hairpin");
    });
}

#[test]
fn what_has_no_endpoint_or_no_such_port_is_refused_at_once() {
    on_a_machine(|machine| {
        let (a, client) = (server(machine, "a"), machine.pod("client"));
        let mut proxy = Proxy::new(machine);
        proxy.service(json!({"type": "NodePort"}));
        let refused = |result: &Result<String, _>| *result == Err(std::io::ErrorKind::ConnectionRefused);
        let world = || run_in(&machine.world, || fetch(NODE, 30080));
        assert!([client.fetch(VIP, 80), fetch(VIP, 80), world(), fetch(NODE, 30080)].iter().all(refused));
        proxy.endpoints(&[(a.address, true)]);
        assert!(client.fetch(VIP, 80).is_ok() && world().is_ok());
        assert!([client.fetch(VIP, 81), fetch(VIP, 81)].iter().all(refused));
        proxy.endpoints::<Ipv4Addr>(&[]);
        assert!([client.fetch(VIP, 80), fetch(VIP, 80), world()].iter().all(refused));
        assert_eq!(client.fetch(Ipv4Addr::new(10, 43, 9, 9), 80), Err(std::io::ErrorKind::TimedOut), "no such Service");
    });
}

#[test]
fn policy_local_keeps_strangers_to_endpoints_of_this_node() {
    on_a_machine(|machine| {
        let (a, client) = (server(machine, "a"), machine.pod("client"));
        let mut proxy = Proxy::new(machine);
        proxy.service(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}));
        proxy.endpoints(&[(a.address, true)]);
        let world = || run_in(&machine.world, || fetch(NODE, 30080));
        assert_eq!(world().unwrap(), format!("a {WORLD}"));
        // The endpoint moves to another node (which the test lets this one reach all the same).
        let mut elsewhere = metadata("web-1");
        elsewhere["labels"] = json!({"kubernetes.io/service-name": "web"});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": elsewhere,
            "addressType": "IPv4", "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [a.address], "nodeName": "other"}]});
        proxy.state.slice_event(&Event::Apply(object(slice)));
        proxy.sync();
        assert_eq!(world(), Err(std::io::ErrorKind::TimedOut), "dropped, not refused");
        assert!(client.fetch(NODE, 30080).is_ok(), "our own go anywhere");
        assert!(fetch(NODE, 30080).is_ok());
    });
}

#[test]
fn affinity_keeps_a_client_where_it_was() {
    on_a_machine(|machine| {
        let servers: Vec<Pod> = ["a", "b", "c"].iter().map(|id| server(machine, id)).collect();
        let clients: Vec<Pod> = (0..6).map(|i| machine.pod(&format!("client-{i}"))).collect();
        let mut proxy = Proxy::new(machine);
        proxy.service(json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100}}}));
        let all: Vec<_> = servers.iter().map(|pod| (pod.address, true)).collect();
        proxy.endpoints(&all);
        let mut given = Vec::new();
        for client in &clients {
            let answers = answering(|| client.fetch(VIP, 80).unwrap());
            assert_eq!(answers.len(), 1, "{answers:?}");
            given.extend(answers);
        }
        let more = server(machine, "d");
        proxy.endpoints(&[all.clone(), vec![(more.address, true)]].concat());
        for (client, given) in clients.iter().zip(&given) {
            assert_eq!(answering(|| client.fetch(VIP, 80).unwrap()), [given.clone()].into(), "an endpoint more");
        }
        proxy.endpoints(&[(more.address, true)]);
        assert_eq!(answering(|| clients[0].fetch(VIP, 80).unwrap()), ["d".to_owned()].into());
    });
}

#[test]
fn a_client_without_pause_sees_no_error_while_endpoints_change() {
    on_a_machine(|machine| {
        let servers: Vec<Pod> = (0..6).map(|i| server(machine, &format!("s{i}"))).collect();
        let client = machine.pod("client");
        let mut proxy = Proxy::new(machine);
        proxy.service(json!({"type": "NodePort"}));
        proxy.endpoints(&[(servers[0].address, true)]);

        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let namespace = client.namespace.try_clone().unwrap();
        let (stopped, counted) = (stop.clone(), done.clone());
        #[allow(clippy::disallowed_methods, reason = "the client that does not pause")]
        let fetcher = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                for (address, port) in [(VIP, 80), (NODE, 30080)] {
                    fetch(address, port).map_err(|error| format!("{address}:{port}: {error}"))?;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok::<(), String>(())
        });
        for round in 0..60 {
            let (old, new) = (&servers[round % 6], &servers[(round + 1) % 6]);
            proxy.endpoints(&[(old.address, true), (new.address, true)]);
            proxy.endpoints(&[(old.address, false), (new.address, true)]);
            // The last one terminates before its successor is ready: it goes on serving.
            proxy.endpoints(&[(new.address, false)]);
            let before = done.load(Ordering::Relaxed);
            while done.load(Ordering::Relaxed) < before + 4 && !fetcher.is_finished() {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(fetcher.join().unwrap(), Ok(()));
        assert!(done.load(Ordering::Relaxed) > 200);
    });
}

#[test]
fn the_longest_names_and_every_protocol_are_taken() {
    on_a_machine(|machine| {
        let (a, client) = (server(machine, "a"), machine.pod("client"));
        a.serve_udp(5353);
        let mut proxy = Proxy::new(machine);
        let (namespace, name) = ("n".repeat(63), "s".repeat(63));
        let ports = json!([
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "web", "port": 53, "protocol": "TCP"},
            {"name": "sctp", "port": 65535, "protocol": "SCTP"}]);
        let service = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "uid": "u", "resourceVersion": "1"},
            "spec": {"clusterIP": VIP, "clusterIPs": [VIP], "ports": ports, "sessionAffinity": "ClientIP"}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "x", "namespace": namespace, "uid": "v", "resourceVersion": "1",
                "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "web", "port": 8080, "protocol": "TCP"},
                {"name": "sctp", "port": 65535, "protocol": "SCTP"}],
            "endpoints": [{"addresses": [a.address], "nodeName": "node"}]});
        proxy.state.service_event(&Event::Apply(object(service)));
        proxy.state.slice_event(&Event::Apply(object(slice)));
        proxy.sync();
        assert!(client.fetch(VIP, 53).unwrap().starts_with("a "));
        let answer = client.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
            socket.send_to(b"?", (VIP, 53)).unwrap();
            let mut buffer = [0; 16];
            let (size, from) = socket.recv_from(&mut buffer).unwrap();
            (buffer[..size].to_vec(), from.ip())
        });
        assert_eq!(answer, (b"a".to_vec(), VIP.into()));
        proxy.state.service_event(&Event::Replace(Vec::new()));
        proxy.state.slice_event(&Event::Replace(Vec::new()));
        proxy.sync();
        load(&proxy.state.table().to_string());
    });
}

#[test]
fn services_of_ipv6() {
    on_a_machine(|machine| {
        let (a, b, client) = (server(machine, "a"), server(machine, "b"), machine.pod("client"));
        let mut proxy = Proxy::of(machine, Family::V6);
        let external = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
        proxy.service(json!({"type": "NodePort", "externalIPs": [external]}));
        let refused = Err(std::io::ErrorKind::ConnectionRefused);
        assert_eq!((client.fetch(VIP6, 80), fetch(VIP6, 80)), (refused.clone(), refused.clone()));
        proxy.endpoints(&[(a.address6, true), (b.address6, true)]);

        let both: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
        let world = || run_in(&machine.world, || fetch(NODE6, 30080));
        assert_eq!(answering(|| client.fetch(VIP6, 80).unwrap()), both, "from a pod");
        assert_eq!(answering(|| fetch(VIP6, 80).unwrap()), both, "from the node");
        assert_eq!(answering(|| fetch(NODE6, 30080).unwrap()), both, "by node port from the node");
        assert_eq!(answering(|| client.fetch(NODE6, 30080).unwrap()), both, "by node port from a pod");
        assert_eq!(answering(|| world().unwrap()), both, "from the world");
        assert_eq!(answering(|| a.fetch(VIP6, 80).unwrap()), both, "from an endpoint, itself included");
        assert_eq!(answering(|| client.fetch(external, 80).unwrap()), both, "external address");
        assert_eq!(client.fetch(VIP6, 81), refused, "no such port");
        let nobody = Ipv6Addr::new(0xfd43, 0, 0, 0, 0, 0, 0, 0x99);
        assert_eq!(client.fetch(nobody, 80), Err(std::io::ErrorKind::TimedOut), "no such Service");

        proxy.endpoints(&[(a.address6, true)]);
        assert_eq!(client.fetch(VIP6, 80).unwrap(), format!("a {}", client.address6), "the client's address is kept");
        assert_eq!(world().unwrap(), format!("a {WORLD6}"));
        assert_eq!(a.fetch(VIP6, 80).unwrap(), format!("a {}", machine.gateway(1)), "hairpin");

        proxy.service(json!({"sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["2001:db8::/64"]}));
        proxy.endpoints(&[(a.address6, true), (b.address6, true)]);
        assert_eq!(answering(|| client.fetch(VIP6, 80).unwrap()).len(), 1, "affinity");
        load(&proxy.state.table().to_string());
    });
}

#[test]
fn the_world_finds_the_node_that_answers_for_a_load_balancers_address() {
    on_a_machine(|machine| {
        let pod = server(machine, "a");
        let directory = machine.config.data_dir.join("net");
        let wire = || skiff_net::proxy::Wire::new(NODE.into(), &directory);
        let address = Ipv4Addr::new(192, 0, 2, 77);
        let mut proxy = Proxy::new(machine);
        proxy.service(json!({"type": "LoadBalancer", "externalIPs": [address]}));
        proxy.endpoints(&[(pod.address, true)]);
        let world = || run_in(&machine.world, move || fetch(address, 80));
        assert!(world().is_err(), "nobody answers yet");
        wire().set(&[IpAddr::V4(address), "2001:db8::77".parse().unwrap()].into()).unwrap();
        assert_eq!(world().unwrap(), format!("a {WORLD}"));
        // Another process knows what this one did, and takes it back.
        wire().set(&[IpAddr::V4(Ipv4Addr::new(192, 0, 2, 78))].into()).unwrap();
        let addresses = || {
            let list =
                std::process::Command::new("ip").args(["addr", "show", "dev", "uplink"]).output().unwrap().stdout;
            String::from_utf8(list).unwrap()
        };
        assert!(!addresses().contains("192.0.2.77/") && addresses().contains("192.0.2.78/"), "{}", addresses());
        assert!(!addresses().contains("2001:db8::77/"), "{}", addresses());
        let config = &machine.config;
        skiff_net::network::cleanup(&config.data_dir, &config.cni_bin_dir, &config.cni_conf_dir).unwrap();
        assert!(!addresses().contains("192.0.2.78/"), "{}", addresses());
    });
}
