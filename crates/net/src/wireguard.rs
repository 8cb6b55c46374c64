//! The way to other nodes' pods through WireGuard, where the kernel has it: all that leaves a node for pods of another is
//! encrypted.
//!
//! Each node makes its own key and publishes the public half as an annotation of its Node object, which only the node
//! itself may write. Peers follow from the Node objects alone, as in [`crate::peers`]; what the device should know is one
//! file of configuration, which the program `wg` brings it in step with.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use skiff_client::{Client, Patch};
use skiff_meta::WorldRef;

use crate::guard::{Losses, lost};
use crate::netlink::{Netlink, Route, Via};
use crate::others::Others;
use crate::peers::Peer;
use crate::{Family, NetError, watch};

/// Where nodes publish their keys.
const KEY: &str = "skiff.io/wireguard-key";
/// The UDP port of the device, the usual one.
const PORT: u16 = 51_820;
/// How long to wait before trying again what was refused.
const RETRY: Duration = Duration::from_secs(1);

/// What this node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its name.
    pub name: String,
    /// The family that the encrypted packets travel in.
    pub outside: Family,
    /// All nodes' pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// The addresses it sends from itself.
    pub sources: Vec<IpAddr>,
    /// The name of the device.
    pub device: String,
    /// The largest packet inside.
    pub mtu: u32,
    /// Where its key is kept.
    pub key_file: PathBuf,
}

/// Both halves of a key, as `wg` writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Never leaves the machine.
    pub private: String,
    /// What others know the node by.
    pub public: String,
}

/// The device, and who keeps the key.
pub trait Kernel: Send + 'static {
    /// The node's keys; made when there are none.
    ///
    /// # Errors
    /// When the program is missing or the disk refuses.
    fn keys(&mut self, own: &Own) -> Result<Keys, NetError>;
    /// Makes the device and its configuration so, and has just these destinations lead into it.
    ///
    /// # Errors
    /// When the kernel has no WireGuard or refuses.
    fn apply(&mut self, own: &Own, configuration: &str, destinations: &[IpNet]) -> Result<(), NetError>;
}

/// Keeps the way to other nodes, for ever. `node` may write this node's object, `nodes` read all.
pub async fn run(own: Own, node: Client, nodes: Client, world: WorldRef, kernel: impl Kernel, mut losses: Losses) {
    let mut state = State { peers: Others::new(&own.name, known), own, kernel };
    let keys = loop {
        match state.introduce(&node).await {
            Ok(keys) => break keys,
            Err(why) => tracing::error!("other nodes' pods cannot be reached: {why}"),
        }
        world.sleep(RETRY).await;
    };
    let mut events = watch::nodes(&nodes);
    let Some(first) = events.next().await else { return };
    state.peers.take(first);
    loop {
        let (configuration, destinations) = state.wanted(&keys);
        let applied = state.kernel.apply(&state.own, &configuration, &destinations);
        if let Err(error) = &applied {
            tracing::error!("other nodes' pods may not be reached: {error}");
        }
        let mut retry = world.sleep(RETRY);
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { return };
                    if state.peers.take(event) {
                        break;
                    }
                }
                () = lost(&mut losses) => break,
                () = &mut retry, if applied.is_err() => break,
            }
        }
    }
}

struct State<K> {
    own: Own,
    kernel: K,
    /// The key of each, and where it and its pods are.
    peers: Others<(String, Peer)>,
}

fn known(node: &Node) -> Option<(String, Peer)> {
    let key = node.metadata.annotations.as_ref()?.get(KEY).filter(|key| is_key(key))?;
    Some((key.clone(), Peer::of(node)?))
}

impl<K: Kernel> State<K> {
    /// Publishes the node's key.
    async fn introduce(&mut self, node: &Client) -> Result<Keys, String> {
        let keys = self.kernel.keys(&self.own).map_err(|error| error.to_string())?;
        let patch = Patch::Merge(json!({"metadata": {"annotations": {KEY: keys.public}}}));
        node.all::<Node>().patch(&self.own.name, &patch).await.map_err(|error| error.to_string())?;
        Ok(keys)
    }

    /// The device's configuration, and what leads into it.
    fn wanted(&self, keys: &Keys) -> (String, Vec<IpNet>) {
        let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", keys.private);
        let mut destinations = Vec::new();
        for (key, peer) in self.peers.iter() {
            let Some(address) = peer.address(self.own.outside) else { continue };
            let ranges: Vec<String> = peer.pod_cidrs.iter().map(IpNet::to_string).collect();
            let endpoint = SocketAddr::new(address, PORT);
            let _ = write!(
                text,
                "\n[Peer]\nPublicKey = {key}\nEndpoint = {endpoint}\nAllowedIPs = {}\n",
                ranges.join(", ")
            );
            destinations.extend(&peer.pod_cidrs);
        }
        (text, destinations)
    }
}

/// 32 bytes in base 64; anything else must not get into a configuration.
fn is_key(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.len() == 44 && text.ends_with('=') && text.bytes().take(43).all(plain)
}

/// This machine's kernel, and the program `wg`.
pub struct RealKernel;

impl Kernel for RealKernel {
    fn keys(&mut self, own: &Own) -> Result<Keys, NetError> {
        let failed = |source| NetError::Key { path: own.key_file.clone(), source };
        let private = match std::fs::read_to_string(&own.key_file) {
            Ok(kept) if is_key(kept.trim()) => kept.trim().to_owned(),
            _ => {
                let made = wg(&["genkey"], "")?;
                if let Some(directory) = own.key_file.parent() {
                    std::fs::create_dir_all(directory).map_err(failed)?;
                }
                let mut options = std::fs::OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                options.open(&own.key_file).and_then(|mut file| file.write_all(made.as_bytes())).map_err(failed)?;
                made.trim().to_owned()
            }
        };
        let public = wg(&["pubkey"], &private)?.trim().to_owned();
        Ok(Keys { private, public })
    }

    fn apply(&mut self, own: &Own, configuration: &str, destinations: &[IpNet]) -> Result<(), NetError> {
        let mut netlink = Netlink::open()?;
        if netlink.link(&own.device)?.is_none_or(|link| !link.is_wireguard || link.mtu != own.mtu) {
            netlink.delete_link(&own.device)?;
            netlink.add_wireguard(&own.device, own.mtu)?;
        }
        let index = netlink.link(&own.device)?.ok_or_else(|| NetError::NoDevice(own.device.clone()))?.index;
        // Node ports on 127.0.0.1 may lead to endpoints on other nodes; the pod table guards the way back.
        crate::sysctl::set(&["ipv4", "conf", &own.device, "route_localnet"], "1")?;
        wg(&["syncconf", &own.device, "/dev/stdin"], configuration)?;
        let ours = |route: &Route| route.via == Via::Device(index) && within(&own.cluster_cidrs, &route.destination);
        for route in netlink.routes()?.into_iter().filter(ours) {
            if !destinations.contains(&route.destination) {
                netlink.delete_route(&Route { source: None, ..route })?;
            }
        }
        for destination in destinations {
            let source = own.sources.iter().copied().find(|source| source.is_ipv4() == destination.addr().is_ipv4());
            netlink.set_route(&Route { destination: *destination, via: Via::Device(index), source })?;
        }
        Ok(())
    }
}

fn within(ranges: &[IpNet], destination: &IpNet) -> bool {
    ranges.iter().any(|range| range.contains(destination))
}

/// Runs the program with `input`, for what it prints.
fn wg(words: &[&str], input: &str) -> Result<String, NetError> {
    let failed = |why: String| NetError::Wireguard(why);
    let mut child = Command::new("wg")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot run wg: {error}; install wireguard-tools")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| failed(format!("wg: {error}")))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(format!("wg: {error}")))?;
    if !output.status.success() {
        return Err(failed(format!("wg {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use parking_lot::Mutex;
    use skiff_client::Event;
    use skiff_meta::Object;

    use super::*;
    use crate::fake::{Cluster, Hurry, object};

    /// Keeps what it was told; refuses so many times.
    #[derive(Clone, Default)]
    struct FakeKernel(Arc<Mutex<(String, Vec<IpNet>, usize)>>);

    impl Kernel for FakeKernel {
        fn keys(&mut self, _: &Own) -> Result<Keys, NetError> {
            Ok(Keys { private: "private".to_owned(), public: key('p') })
        }
        fn apply(&mut self, _: &Own, configuration: &str, destinations: &[IpNet]) -> Result<(), NetError> {
            let (text, to, refusals) = &mut *self.0.lock();
            if *refusals > 0 {
                *refusals -= 1;
                return Err(NetError::Wireguard("made to fail".to_owned()));
            }
            (*text, *to) = (configuration.to_owned(), destinations.to_vec());
            Ok(())
        }
    }

    fn key(letter: char) -> String {
        letter.to_string().repeat(43) + "="
    }

    fn node(number: u8, key: Option<&str>) -> Arc<Object> {
        let addresses = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
        let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
        object(json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("n{number}"), "uid": format!("u{number}"), "annotations": {KEY: key}},
            "spec": {"podCIDRs": [format!("10.42.{number}.0/24"), format!("fd42:{number}::/64")]},
            "status": {"addresses": addresses}}))
    }

    #[test]
    fn the_key_is_published_and_peers_follow_the_nodes() {
        let cluster = Arc::new(Cluster::default());
        let source = cluster.source("nodes");
        let kernel = FakeKernel::default();
        kernel.0.lock().2 = 2;
        let own = Own {
            name: "n1".to_owned(),
            outside: Family::V6,
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            sources: Vec::new(),
            device: "wg".to_owned(),
            mtu: 1_420,
            key_file: PathBuf::new(),
        };
        let client = cluster.client();
        let mut work =
            Box::pin(run(own, client.clone(), client, Hurry::shared(), kernel.clone(), crate::guard::none()));
        let mut turn = || assert!((&mut work).now_or_never().is_none());
        turn();
        let (path, patch) = cluster.requests.lock()[0].clone();
        assert!(path.starts_with("PATCH /api/v1/nodes/n1"), "{path}");
        assert_eq!(patch["metadata"]["annotations"][KEY], key('p'));

        let (two, bad) = (key('2'), format!("{}\n[Peer]", &key('3')[..37]));
        let nodes = vec![node(1, Some(&key('p'))), node(2, Some(&two)), node(3, Some(&bad)), node(4, None)];
        source.unbounded_send(Event::Replace(nodes)).unwrap();
        turn();
        let (text, to, _) = kernel.0.lock().clone();
        let expected = format!(
            "[Interface]\nPrivateKey = private\nListenPort = 51820\n\n[Peer]\nPublicKey = {two}\n\
             Endpoint = [2001:db8::2]:51820\nAllowedIPs = 10.42.2.0/24, fd42:2::/64\n"
        );
        assert_eq!(text, expected, "in spite of two refusals, and of keys that are none");
        assert_eq!(to.iter().map(IpNet::to_string).collect::<Vec<_>>(), ["10.42.2.0/24", "fd42:2::/64"]);
        source.unbounded_send(Event::Delete(node(2, Some(&two)))).unwrap();
        turn();
        assert_eq!(kernel.0.lock().1, []);
    }
}
