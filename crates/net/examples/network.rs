//! The load of `cargo xtask bench network`: prints `WHAT: FIGURE` lines.
//!
//! Everything happens in a network namespace of the process's own, with the tables, loops and sockets the node has. Load
//! and what is measured share the cores.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench fails loudly and measures real time")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use http::{Request, Response};
use http_body_util::BodyExt;
use ipnet::IpNet;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use skiff_client::{Backend, Body, Client, ClientError, Event, ListTarget};
use skiff_meta::Object;
use skiff_meta::world::RealWorld;
use skiff_net::Family;
use skiff_net::dns::{self, DnsConfig};
use skiff_net::netlink::{self, Namespace, Netlink, Tunnel};
use skiff_net::nft;
use skiff_net::peers::{self, Kernel, Mac, Paths, Peer, RealKernel, Way};
use skiff_net::proxy::{NodeFacts, State};

#[path = "../tests/root_net/machine.rs"]
#[allow(dead_code, clippy::expect_used, reason = "what the tests use, in part")]
mod machine;

use machine::Machine;

/// Connections measured at a time, and how often: in turns, since the machine is not always equally fast. The median
/// counts.
const CONNECTIONS: u32 = 500;
const PAIRS: usize = 31;
/// The port of the server that no Service leads to.
const DIRECT: u16 = 8081;
/// How many Services there are.
const COUNTS: [u32; 3] = [10, 1_000, 10_000];
/// Names that are asked for.
const NAMES: u32 = 1_000;
/// The port of the other name server.
const OTHER_DNS: u16 = 5300;
/// How long a rate is measured, and how often; the best counts.
const WHILE: Duration = Duration::from_secs(2);
const TURNS: u32 = 3;
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 255, 1);

fn main() -> Result<(), nix::Error> {
    // A namespace of its own: as root.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    loopback();
    COUNTS.into_iter().for_each(services);
    on_one_core(|| machine::on_a_machine(connections))?;
    overlay();
    names();
    Ok(())
}

/// Who connects and who accepts wait for each other all the time. On two cores, what a connection costs depends more on
/// which of them the kernel gave to whom than on the way of the packets.
fn on_one_core(measure: impl FnOnce()) -> Result<(), nix::Error> {
    let own = Pid::from_raw(0);
    let (all, mut one) = (sched_getaffinity(own)?, CpuSet::new());
    one.set((0..CpuSet::count()).find(|core| all.is_set(*core).unwrap_or(false)).unwrap_or(0))?;
    sched_setaffinity(own, &one)?;
    measure();
    sched_setaffinity(own, &all)
}

/// The servers of names are asked on loopback.
fn loopback() {
    let mut netlink = Netlink::open().unwrap();
    let loopback = netlink.link("lo").unwrap().unwrap().index;
    netlink.set_up(loopback).unwrap();
}

fn object(value: Value) -> Arc<Object> {
    Arc::new(Object::from_wire(value).unwrap())
}

fn service(name: &str, address: Ipv4Addr) -> Arc<Object> {
    object(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "protocol": "TCP"}]}}))
}

fn slice(name: &str, endpoints: &[Ipv4Addr]) -> Arc<Object> {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|address| json!({"addresses": [address], "nodeName": "node"})).collect();
    object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "uid": format!("s-{name}"),
            "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
}

fn state() -> State {
    let node = NodeFacts {
        family: Family::V4,
        name: "node".to_owned(),
        zone: None,
        pod_cidr: Some("10.42.0.0/24".parse().unwrap()),
        service_cidr: "10.43.0.0/16".parse().ok(),
        localhost_node_ports: false,
    };
    State::new("bench", node)
}

/// Puts up a table of so many Services, then changes one Service again and again.
fn services(count: u32) {
    let mut state = state();
    let name = |index: u32| format!("s{index}");
    let endpoints = |index: u32, shift: u32| -> Vec<Ipv4Addr> {
        (0..3).map(|i| Ipv4Addr::from(0x0a2a_0000 + ((index * 3 + i + shift) % 60_000) + 2)).collect()
    };
    for index in 0..count {
        state.service_event(&Event::Apply(service(&name(index), Ipv4Addr::from(0x0a2b_0001 + index))));
        state.slice_event(&Event::Apply(slice(&name(index), &endpoints(index, 0))));
    }
    state.changes();
    let begun = Instant::now();
    nft::run_blocking(&state.table().to_string()).unwrap();
    println!("{count} Services, table anew: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    let mut times: Vec<f64> = (1..=21)
        .map(|round| {
            let begun = Instant::now();
            state.slice_event(&Event::Apply(slice(&name(count / 2), &endpoints(count / 2, round))));
            nft::run_blocking(&state.changes().batch.to_string()).unwrap();
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{count} Services, endpoints of one change, p50 / max: {:.1} / {:.1} ms", times[10], times[20]);
}

/// Connections per second to a pod, by its own address and by that of a Service among so many: from another pod, and from
/// the node.
fn connections(machine: &Machine) {
    let (client, server) = (machine.pod("client"), machine.pod("server"));
    // Each way has a server and ports of its own: what one has used must not stand in the way of the other.
    for port in [8080, DIRECT] {
        let address = server.address;
        let listener = server.run(move || TcpListener::bind((address, port)).unwrap());
        std::thread::spawn(move || while listener.accept().is_ok() {});
    }
    client.run(many_ports);
    many_ports();
    let mut state = state();
    let endpoints = [server.address];
    state.service_event(&Event::Apply(service("web", SERVICE)));
    state.slice_event(&Event::Apply(slice("web", &endpoints)));
    let mut made = 0;
    for count in COUNTS {
        for index in made..count {
            state.service_event(&Event::Apply(service(&format!("s{index}"), Ipv4Addr::from(0x0a2b_0001 + index))));
            state.slice_event(&Event::Apply(slice(&format!("s{index}"), &endpoints)));
        }
        made = count;
        state.changes();
        nft::run_blocking(&state.table().to_string()).unwrap();
        let target = server.address;
        let from_pod = || client.run(move || (rate(target, DIRECT), rate(SERVICE, 80)));
        tell_connections("a pod", count, from_pod);
        tell_connections("the node", count, || (rate(target, DIRECT), rate(SERVICE, 80)));
    }
}

fn tell_connections(from: &str, count: u32, measure: impl Fn() -> (f64, f64)) {
    let rates: Vec<(f64, f64)> = (0..PAIRS).map(|_| measure()).collect();
    let (direct, service) = (median(rates.iter().map(|r| r.0)), median(rates.iter().map(|r| r.1)));
    let ratio = median(rates.iter().map(|(direct, service)| service / direct));
    println!("connections from {from} to a pod, direct, beside {count} Services: {direct:.0} per s");
    println!("the same through a ClusterIP: {service:.0} per s ({:.0}%)", ratio * 100.0);
}

/// Connections per second, one after the other, from this thread's namespace.
fn rate(address: Ipv4Addr, port: u16) -> f64 {
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect((address, port)).unwrap();
        let _ = stream.read(&mut [0]);
    }
    f64::from(CONNECTIONS) / begun.elapsed().as_secs_f64()
}

/// A port that was used rests for a minute.
fn many_ports() {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").unwrap();
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn best(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, f64::max)
}

/// Bytes per second of one connection to another namespace, over a plain link and through the overlay on it.
fn overlay() {
    let far = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        Namespace::open(Path::new("/proc/thread-self/ns/net")).unwrap()
    });
    let far = far.join().unwrap();
    let mut here = Netlink::open().unwrap();
    here.add_veth("wire", "wire", far.as_fd(), 1_500).unwrap();
    let ends = [("192.0.2.1", "10.42.0.0/24"), ("192.0.2.2", "10.42.1.0/24")];
    let ends = ends.map(|(address, range)| (address.parse().unwrap(), range.parse().unwrap()));
    netlink::inside(&far, move || end(ends[1], ends[0])).unwrap();
    end(ends[0], ends[1]);
    netlink::inside(&far, || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9000)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut buffer = vec![0; 1 << 18];
                let mut stream = stream.unwrap();
                while stream.read(&mut buffer).is_ok_and(|size| size > 0) {}
            }
        });
    })
    .unwrap();
    let throughput = |address: &str| {
        let mut stream = TcpStream::connect((address, 9000)).unwrap();
        let (buffer, begun, mut sent) = (vec![0; 1 << 18], Instant::now(), 0);
        while begun.elapsed() < WHILE {
            sent += stream.write(&buffer).unwrap();
        }
        sent as f64 / begun.elapsed().as_secs_f64()
    };
    let rates: Vec<(f64, f64)> = (0..TURNS).map(|_| (throughput("192.0.2.2"), throughput("10.42.1.2"))).collect();
    let (plain, overlay) = (best(rates.iter().map(|r| r.0)), best(rates.iter().map(|r| r.1)));
    println!("one connection over a plain link: {:.2} GB/s", plain / 1e9);
    println!("the same through the overlay: {:.2} GB/s ({:.0}%)", overlay / 1e9, overlay / plain * 100.0);
}

/// One end of the wire, with a pod range and the way to the other's.
fn end((own, range): (IpAddr, IpNet), (other, far): (IpAddr, IpNet)) {
    let mut netlink = Netlink::open().unwrap();
    for name in ["lo", "wire"] {
        let index = netlink.link(name).unwrap().unwrap().index;
        netlink.set_up(index).unwrap();
        let address = if name == "lo" { range.hosts().nth(1).unwrap() } else { own };
        netlink.add_address(index, IpNet::new(address, if name == "lo" { 32 } else { 24 }).unwrap()).unwrap();
    }
    let (mac, addresses) = (Mac::of(range).0, vec![range.network()]);
    let tunnel = Tunnel { number: 7, port: 8472, local: own, mac, mtu: 1_450, addresses };
    let way = Way { tunnel: RealKernel.prepare("overlay", Some(&tunnel)).unwrap(), wire: Vec::new() };
    let peer = Peer { pod_cidrs: vec![far], addresses: vec![other] };
    for step in peers::steps(&Paths::default(), &Paths::to(&way, [&peer])) {
        RealKernel.take(&way, &[range.hosts().nth(1).unwrap()], &step).unwrap();
    }
}

/// An API server that lists what it was given, once.
struct Cluster(HashMap<&'static str, Vec<Arc<Object>>>);

impl Backend for Cluster {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let body = http_body_util::Full::new(request.body().clone()).map_err(|never| match never {}).boxed_unsync();
        async { Ok(Response::new(body)) }.boxed()
    }
    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        let objects = self.0.get(&*target.resource.resource).cloned().unwrap_or_default();
        futures::stream::iter([Event::Replace(objects)]).chain(futures::stream::pending()).boxed()
    }
    fn remote(&self) -> Option<Arc<skiff_client::config::Remote>> {
        None
    }
}

/// Questions per second that name servers answer, for names of 1,000 Services, asked 32 at a time: ours, and Debian's
/// dnsmasq with the same names in a file.
fn names() {
    let namespace =
        object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "uid": "d"}}));
    let address = |index: u32| Ipv4Addr::from(0x0a2b_0001 + index);
    let services = (0..NAMES).map(|i| service(&format!("s{i}"), address(i))).collect();
    let cluster = Cluster([("namespaces", vec![namespace]), ("services", services)].into());
    let config = DnsConfig {
        listen: Ipv4Addr::LOCALHOST.into(),
        cluster_dns: Ipv4Addr::new(10, 43, 0, 10).into(),
        cluster_domain: "cluster.local".to_owned(),
        node_name: "node".to_owned(),
        node_uid: String::new(),
        resolv_conf: "/nonexistent".into(),
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(dns::run(config, Client::new(Arc::new(cluster)), RealWorld::shared())).unwrap();
    });
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let lines: String = (0..NAMES).map(|i| format!("{} s{i}.default.svc.cluster.local\n", address(i))).collect();
    std::fs::write(hosts.path(), lines).unwrap();
    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
    dnsmasq.args(["--pid-file=", "--listen-address=127.0.0.1", "--bind-interfaces", &format!("--port={OTHER_DNS}")]);
    let other = dnsmasq.arg(format!("--addn-hosts={}", hosts.path().display())).stderr(Stdio::null()).spawn();
    let turns: Vec<_> =
        (0..TURNS).map(|_| (questions(53), other.as_ref().ok().map(|_| questions(OTHER_DNS)))).collect();
    let tell = |who: &str, turns: Vec<(f64, Duration)>| {
        let Some((rate, p99)) = turns.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)) else { return };
        println!("names{who}, 32 questions at a time: {rate:.0} per s, p99 {:.2} ms", p99.as_secs_f64() * 1e3);
    };
    tell("", turns.iter().map(|turn| turn.0).collect());
    tell(" of dnsmasq", turns.iter().filter_map(|turn| turn.1).collect());
    if let Ok(mut other) = other {
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

/// How many questions a second a server answers, and the time of the slowest hundredth.
fn questions(port: u16) -> (f64, Duration) {
    let questions: Vec<Vec<u8>> = (0..NAMES)
        .map(|index| {
            let mut message = Message::new(u16::try_from(index).unwrap(), MessageType::Query, OpCode::Query);
            let name = Name::from_ascii(format!("s{index}.default.svc.cluster.local.")).unwrap();
            message.add_query(Query::query(name, RecordType::A));
            message.to_vec().unwrap()
        })
        .collect();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 512];
    // Until it listens.
    while socket.send(&questions[0]).is_err() || socket.recv(&mut buffer).is_err() {}
    let (mut sent, mut answered) = (0usize, 0u32);
    let mut times = Vec::new();
    let mut asked = vec![Instant::now(); questions.len()];
    let begun = Instant::now();
    let mut ask = |asked: &mut Vec<Instant>| {
        let index = sent % questions.len();
        asked[index] = Instant::now();
        let _ = socket.send(&questions[index]);
        sent += 1;
    };
    (0..32).for_each(|_| ask(&mut asked));
    while begun.elapsed() < WHILE {
        if let Ok(size) = socket.recv(&mut buffer)
            && size >= 12
        {
            // An answer without an address is none.
            assert_eq!(u16::from_be_bytes([buffer[6], buffer[7]]), 1);
            let index = usize::from(u16::from_be_bytes([buffer[0], buffer[1]])) % questions.len();
            times.push(asked[index].elapsed());
            answered += 1;
        }
        ask(&mut asked);
    }
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    (f64::from(answered) / begun.elapsed().as_secs_f64(), p99)
}
