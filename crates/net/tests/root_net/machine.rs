//! A machine in a namespace, with pods, an uplink and a world behind it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use skiff_net::netlink::{Namespace, Netlink, Route, Via, inside};
use skiff_net::network::NodeNetwork;
use skiff_net::{Instance, NetConfig, NetworkMode, cni, nft};

/// The machine's address on its uplink.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The world's end of the uplink.
pub(crate) const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Both in IPv6.
pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub(crate) const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Runs `test` on a thread of its own inside a fresh machine.
pub(crate) fn on_a_machine(test: impl FnOnce(&Machine) + Send + 'static) {
    assert!(nix::unistd::Uid::effective().is_root(), "this test makes network namespaces: run it as root");
    let nft = Command::new("nft").arg("--version").output();
    assert!(nft.is_ok_and(|o| o.status.success()), "this test needs the program nft: install nftables");
    #[allow(clippy::disallowed_methods, reason = "a namespace belongs to a thread")]
    let thread = std::thread::spawn(move || test(&Machine::new()));
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The machine: this thread's namespace.
pub(crate) struct Machine {
    pub(crate) config: NetConfig,
    pub(crate) network: NodeNetwork,
    pub(crate) world: Namespace,
    _data: tempfile::TempDir,
}

/// A pod: its namespace and addresses.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) namespace: File,
    pub(crate) address: Ipv4Addr,
    pub(crate) address6: Ipv6Addr,
}

impl Machine {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace for the machine");
        let world = Namespace::open(&path_of(&new_namespace())).unwrap();
        uplink(&world);
        let data = tempfile::tempdir().unwrap();
        let config = NetConfig {
            data_dir: data.path().to_owned(),
            cluster: "a cluster".to_owned(),
            node_name: "node".to_owned(),
            node_ips: vec![NODE.into(), NODE6.into()],
            mode: NetworkMode::Bridge,
            cluster_cidrs: ranges(&["10.42.0.0/16", "fd42::/56"]),
            service_cidrs: ranges(&["10.43.0.0/16", "fd43::/108"]),
            cluster_dns: "10.43.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            cni_bin_dir: data.path().join("bin"),
            cni_conf_dir: data.path().join("conf"),
            proxy: true,
            policy: false,
            dns: false,
        };
        let network = NodeNetwork::new(&config, ranges(&["10.42.0.0/24", "fd42::/64"]));
        let machine = Self { config, network, world, _data: data };
        machine.up();
        machine
    }

    /// Brings the pod network up (again).
    pub(crate) fn up(&self) {
        block_on(self.network.up(&self.config, &nft::Program)).expect("the network comes up");
    }

    pub(crate) fn instance(&self) -> &Instance {
        &self.network.instance
    }

    /// Calls the plugin as the container runtime does, with the installed configuration.
    pub(crate) fn plugin(&self, command: &str, pod: Option<(&str, &File)>, extra: Value) -> (i32, Value) {
        let list = std::fs::read(self.config.cni_conf_dir.join("00-skiff.conflist")).expect("the configuration");
        let list: Value = serde_json::from_slice(&list).unwrap();
        let mut input = list["plugins"][0].clone();
        let fields = input.as_object_mut().unwrap();
        fields.insert("cniVersion".to_owned(), list["cniVersion"].clone());
        fields.insert("name".to_owned(), list["name"].clone());
        fields.extend(extra.as_object().cloned().unwrap_or_default());
        let env = |name: &str| match (name, pod) {
            ("CNI_COMMAND", _) => Some(command.to_owned()),
            ("CNI_CONTAINERID", Some((id, _))) => Some(id.to_owned()),
            ("CNI_NETNS", Some((_, namespace))) => Some(path_of(namespace).display().to_string()),
            ("CNI_IFNAME", Some(_)) => Some("eth0".to_owned()),
            _ => None,
        };
        let mut output = Vec::new();
        let code = cni::main(env, input.to_string().as_bytes(), &mut output);
        (code, if output.is_empty() { Value::Null } else { serde_json::from_slice(&output).unwrap() })
    }

    /// A pod on the network.
    pub(crate) fn pod(&self, id: &str) -> Pod {
        self.pod_with_ports(id, json!([]))
    }

    pub(crate) fn pod_with_ports(&self, id: &str, mappings: Value) -> Pod {
        let namespace = new_namespace();
        let extra = json!({"runtimeConfig": {"portMappings": mappings}});
        let (code, result) = self.plugin("ADD", Some((id, &namespace)), extra);
        assert_eq!(code, 0, "{result}");
        let address = |index: usize| result["ips"][index]["address"].as_str().unwrap().parse::<IpNet>().unwrap().addr();
        let (IpAddr::V4(address), IpAddr::V6(address6)) = (address(0), address(1)) else { panic!("{result}") };
        Pod { id: id.to_owned(), namespace, address, address6 }
    }

    pub(crate) fn delete(&self, pod: &Pod) {
        let (code, result) = self.plugin("DEL", Some((&pod.id, &pod.namespace)), json!({}));
        assert_eq!(code, 0, "{result}");
    }

    /// The pods' gateway, as IPv4 and IPv6 have it.
    pub(crate) fn gateway(&self, index: usize) -> IpAddr {
        self.network.gateways()[index]
    }

    /// Everything on the machine that bears the instance's name.
    pub(crate) fn traces(&self) -> Vec<String> {
        let links = Netlink::open().unwrap().links().unwrap().into_iter().map(|link| link.name);
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
        let tables = String::from_utf8(tables).unwrap();
        let names = links.chain(tables.lines().map(str::to_owned));
        names.filter(|name| name.contains(self.instance().id())).collect()
    }
}

impl Pod {
    /// Runs `work` in the pod.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        run_in(&Namespace::open(&path_of(&self.namespace)).unwrap(), work)
    }

    /// Fetches from inside the pod.
    pub(crate) fn fetch(&self, address: impl Into<IpAddr>, port: u16) -> Result<String, std::io::ErrorKind> {
        let address = address.into();
        self.run(move || fetch(address, port))
    }

    /// Serves `name` and the client's address at `port`, of both families, until the test ends.
    pub(crate) fn serve(&self, port: u16) {
        let listener = self.run(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        serve(listener, self.id.clone());
    }

    /// A UDP echo that answers with the pod's name.
    pub(crate) fn serve_udp(&self, port: u16) {
        let (id, address) = (self.id.clone(), self.address);
        let socket = self.run(move || UdpSocket::bind((address, port)).unwrap());
        #[allow(clippy::disallowed_methods, reason = "a server in a test; it ends with the process")]
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(id.as_bytes(), peer);
            }
        });
    }
}

/// Answers every connection with `name CLIENT`.
pub(crate) fn serve(listener: TcpListener, name: String) {
    #[allow(clippy::disallowed_methods, reason = "a server in a test; it ends with the process")]
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{name} {}", peer.ip().to_canonical());
        }
    });
}

/// What a server at `address` says, from this thread's namespace.
pub(crate) fn fetch(address: impl Into<IpAddr>, port: u16) -> Result<String, std::io::ErrorKind> {
    let target = SocketAddr::new(address.into(), port);
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2)).map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.kind())?;
    Ok(text)
}

/// Runs `work` in `namespace`, on a thread of its own.
pub(crate) fn run_in<T: Send + 'static>(namespace: &Namespace, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = namespace.as_fd().try_clone_to_owned().unwrap();
    #[allow(clippy::disallowed_methods, reason = "a namespace belongs to a thread")]
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().expect("no panic in the namespace")
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Loads a script into this thread's namespace.
pub(crate) fn load(script: &str) {
    nft::run_blocking(script).unwrap_or_else(|error| panic!("{error}\n{script}"));
}

/// A namespace that lives as long as the file is open.
pub(crate) fn new_namespace() -> File {
    #[allow(clippy::disallowed_methods, reason = "a namespace belongs to a thread")]
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    thread.join().unwrap()
}

pub(crate) fn path_of(namespace: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(namespace.as_raw_fd().to_string())
}

fn ranges(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Gives a device, which it brings up, an address on the wire and the route to its neighbours; returns its index.
pub(crate) fn wire(netlink: &mut Netlink, name: &str, address: IpAddr, bits: u8) -> u32 {
    let device = netlink.link(name).unwrap().unwrap().index;
    netlink.set_up(device).unwrap();
    let range = IpNet::new(address, bits).unwrap();
    netlink.add_address(device, range).unwrap();
    netlink.set_route(&Route { destination: range.trunc(), via: Via::Device(device), source: None }).unwrap();
    device
}

fn uplink(world: &Namespace) {
    let mut here = Netlink::open().unwrap();
    here.add_veth("uplink", "uplink", world.as_fd(), 1400).unwrap();
    let loopback = here.link("lo").unwrap().unwrap();
    here.set_up(loopback.index).unwrap();
    let device = here.link("uplink").unwrap().unwrap();
    for (node, bits) in [(IpAddr::V4(NODE), 24), (IpAddr::V6(NODE6), 64)] {
        wire(&mut here, "uplink", node, bits);
    }
    for (all, world) in [("0.0.0.0/0", IpAddr::V4(WORLD)), ("::/0", IpAddr::V6(WORLD6))] {
        let via = Via::Gateway(device.index, world);
        here.set_route(&Route { destination: all.parse().unwrap(), via, source: None }).unwrap();
    }
    let mut there = inside(world, Netlink::open).unwrap().unwrap();
    for (world, bits) in [(IpAddr::V4(WORLD), 24), (IpAddr::V6(WORLD6), 64)] {
        wire(&mut there, "uplink", world, bits);
    }
    let loopback = there.link("lo").unwrap().unwrap();
    there.set_up(loopback.index).unwrap();
}
