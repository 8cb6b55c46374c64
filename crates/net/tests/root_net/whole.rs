//! The network of a node as the binary starts it, against a cluster that is a few channels.

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_client::{Backend, Body, Client, ClientError, Event, ListTarget};
use skiff_meta::Object;
use skiff_meta::world::RealWorld;
use skiff_net::Clients;

use crate::machine::{Machine, Pod, block_on, on_a_machine};

/// An API server that knows one node and keeps what is applied.
#[derive(Default)]
pub(crate) struct Cluster {
    objects: Mutex<HashMap<String, Vec<Arc<Object>>>>,
    watchers: Mutex<HashMap<String, Vec<UnboundedSender<Event>>>>,
}

impl Cluster {
    pub(crate) fn put(&self, resource: &str, mut value: Value) {
        value["metadata"]["uid"] = json!(format!("{resource}/{}", value["metadata"]["name"]));
        let object = Arc::new(Object::from_wire(value).unwrap());
        self.objects.lock().unwrap().entry(resource.to_owned()).or_default().push(object.clone());
        for watcher in self.watchers.lock().unwrap().entry(resource.to_owned()).or_default() {
            let _ = watcher.unbounded_send(Event::Apply(object.clone()));
        }
    }
}

impl Backend for Cluster {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let segments: Vec<&str> = request.uri().path().split('/').collect();
        let resource = segments[segments.len() - 2];
        self.put(resource, serde_json::from_slice(request.body()).unwrap());
        let body = http_body_util::Full::new(request.body().clone()).map_err(|never| match never {}).boxed_unsync();
        async { Ok(Response::new(body)) }.boxed()
    }
    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        let resource = target.resource.resource;
        let (sender, receiver) = unbounded();
        let objects = self.objects.lock().unwrap().entry(resource.clone()).or_default().clone();
        sender.unbounded_send(Event::Replace(objects)).unwrap();
        self.watchers.lock().unwrap().entry(resource).or_default().push(sender);
        receiver.boxed()
    }
    fn remote(&self) -> Option<Arc<skiff_client::config::Remote>> {
        None
    }
}

/// Runs the node's network while `test` runs on another thread of the machine.
fn with_network(machine: &Machine, test: impl FnOnce() + Send + 'static) {
    let cluster = Arc::new(Cluster::default());
    let node = json!({"metadata": {"name": "node"}, "spec": {"podCIDRs": machine.network.pod_cidrs}});
    cluster.put("nodes", node);
    cluster.put("namespaces", json!({"metadata": {"name": "kube-system"}}));
    let client = Client::new(cluster);
    let clients = Clients { node: client.clone(), proxy: client.clone(), policy: client.clone(), dns: client };
    let mut config = machine.config.clone();
    config.dns = true;
    let (stop, stopped) = oneshot::channel();
    #[allow(clippy::disallowed_methods, reason = "the test waits for packets while the network runs here")]
    let thread = std::thread::spawn(move || {
        test();
        let _ = stop.send(());
    });
    let shutdown = stopped.map(drop).boxed();
    block_on(skiff_net::run(config, clients, RealWorld::shared(), shutdown)).expect("the network runs");
    thread.join().expect("the test passes");
}

/// Asks the cluster's DNS for the address of `name` until it answers, as resolvers do.
fn resolve(server: IpAddr, name: &str) -> IpAddr {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let question = question.to_vec().unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 512];
    for _ in 0..50 {
        // The socket may tell of an earlier refusal; the question is asked again all the same.
        let _ = socket.send_to(&question, (server, 53));
        if let Ok((size, from)) = socket.recv_from(&mut buffer) {
            assert_eq!(from.ip(), server);
            let answer = Message::from_vec(&buffer[..size]).unwrap();
            if let Some(record) = answer.answers.first() {
                return record.data.ip_addr().expect("an address");
            }
        }
    }
    panic!("no answer for {name}")
}

#[test]
fn pods_and_node_resolve_names_through_kube_dns() {
    on_a_machine(|machine| {
        let pod: Pod = machine.pod("client");
        let server = machine.config.cluster_dns;
        let name = "kube-dns.kube-system.svc.cluster.local.";
        with_network(machine, move || {
            assert_eq!(pod.run(move || resolve(server, name)), server, "from a pod");
            assert_eq!(resolve(server, name), server, "from the node");
        });
    });
}

#[test]
fn a_second_server_with_port_53_taken_serves_on_another() {
    on_a_machine(|machine| {
        let taken = UdpSocket::bind((machine.gateway(0), 53)).unwrap();
        let server = machine.config.cluster_dns;
        with_network(machine, move || {
            let name = "kube-dns.kube-system.svc.cluster.local.";
            assert_eq!(resolve(server, name), server);
            drop(taken);
        });
    });
}

/// Until it answers; what is lost is looked for every ten seconds.
pub(crate) fn patiently(name: &str, mut answers: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !answers() {
        assert!(begun.elapsed() < Duration::from_secs(40), "{name} does not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_others_take_away_is_put_back() {
    on_a_machine(|machine| {
        let (pod, other): (Pod, Pod) = (machine.pod("client"), machine.pod("other"));
        other.serve(80);
        let (server, bridge) = (machine.config.cluster_dns, machine.instance().node_device());
        let name = "kube-dns.kube-system.svc.cluster.local.";
        let shell = |script: &str| {
            let done = std::process::Command::new("sh").args(["-c", script]).status().unwrap();
            assert!(done.success(), "{script}");
        };
        let other = other.address;
        with_network(machine, move || {
            let works = || {
                let (asked, fetched) = (pod.run(move || resolve(server, name)), pod.fetch(other, 80));
                asked == server && fetched.is_ok()
            };
            assert!(works());
            // As a firewall does that starts.
            shell("nft flush ruleset");
            let tables = || {
                let list = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
                String::from_utf8(list).unwrap().lines().count()
            };
            patiently("nftables", || tables() == 4);
            patiently("Services", works);
            shell(&format!("ip link delete {bridge}"));
            let routes = || {
                let list = std::process::Command::new("ip").args(["route"]).output().unwrap().stdout;
                String::from_utf8(list).unwrap().contains(&format!("10.43.0.0/16 dev {bridge}"))
            };
            patiently("the node's device", routes);
            shell("ip route del unreachable 10.42.0.0/24");
            let unreachable = || {
                let list = std::process::Command::new("ip").args(["route"]).output().unwrap().stdout;
                String::from_utf8(list).unwrap().contains("unreachable 10.42.0.0/24")
            };
            patiently("a route", unreachable);
            patiently("Services", works);
        });
    });
}
