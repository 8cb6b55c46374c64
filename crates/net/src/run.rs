//! Everything together: what the binary starts on a node.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use skiff_client::{Client, Event};
use skiff_meta::{Object, WorldRef};

use crate::dns::{self, DnsConfig};
use crate::family::of_family;
use crate::guard::{Guard, Losses, lost};
use crate::network::NodeNetwork;
use crate::news::News;
use crate::nft::Nft;
use crate::proxy::{self, NodeFacts};
use crate::{Family, Instance, NetConfig, NetError, NetworkMode, peers, policy, watch, wireguard};

/// The clients of the parts, each with its own identity.
#[derive(Clone)]
pub struct Clients {
    /// Reads this node's Node object (`system:node:NAME`).
    pub node: Client,
    /// Reads Services and EndpointSlices (`system:kube-proxy`).
    pub proxy: Client,
    /// Reads pods, namespaces and network policies.
    pub policy: Client,
    /// Reads Services, EndpointSlices and namespaces; writes the `kube-dns` Service and its slices in `kube-system`.
    pub dns: Client,
}

/// Brings the node's network up once its range is known, and keeps it until `shutdown` or a failure; a node that gets
/// another range is set up anew. What was set up stays, since running pods live on it; [`crate::network::cleanup`]
/// removes it.
///
/// # Errors
/// When the machine refuses something the network cannot do without.
pub async fn run(
    config: NetConfig,
    clients: Clients,
    world: WorldRef,
    shutdown: BoxFuture<'static, ()>,
) -> Result<(), NetError> {
    let work = async {
        let mut events = watch::node(&clients.node, &config.node_name);
        let mut known = KnownNode::wait(&config, &mut events, None).await?;
        loop {
            let parts = run_parts(&config, &known, &clients, &world);
            let next = KnownNode::wait(&config, &mut events, Some(&known));
            let next = futures::select! {
                result = parts.fuse() => return result,
                next = next.fuse() => next?,
            };
            tracing::info!("the Node object is another now; the pod network is set up anew");
            known = next;
        }
    };
    futures::select! {
        result = work.fuse() => result,
        () = shutdown.fuse() => Ok(()),
    }
}

async fn run_parts(config: &NetConfig, node: &KnownNode, clients: &Clients, world: &WorldRef) -> Result<(), NetError> {
    let instance = Instance::of(&config.data_dir);
    let ranges = config.cluster_cidrs.iter().chain(&config.service_cidrs).copied();
    let news = News::of(&config.node_name, &node.uid, clients.node.clone(), world.clone());
    let mut guard = Guard::new(&instance, ranges.collect(), config.families(), news.clone());
    let mut listen = config.node_ip();
    let (mut own, mut encrypted) = (None, None);
    let mut ours = None;
    if !node.pod_cidrs.is_empty() {
        let network = NodeNetwork::new(config, node.pod_cidrs.clone());
        network.up(config, &news).await?;
        listen = network.gateways().first().copied().unwrap_or(listen);
        own = network.own(config)?;
        encrypted = network.encrypted(config)?;
        ours = Some((network.clone(), guard.base(), guard.tables(instance.pod_table())));
        tracing::info!(pod_cidrs = ?network.pod_cidrs, device = network.instance.node_device(), mode = ?config.mode, "pod network is up");
    }
    let lost_ways = guard.base();
    let losses = guard_tables(&mut guard, config.proxy, instance.service_table());
    let proxy = run_proxy(config, node, clients, world, news.clone(), losses);
    let losses = guard_tables(&mut guard, config.policy, instance.policy_table());
    let policy = run_policy(config, clients, world, news.clone(), losses);
    let dns = run_dns(config, listen, node.uid.clone(), clients, world);
    let peers = async {
        if let Some(own) = own {
            peers::run(own, clients.proxy.clone(), world.clone(), peers::RealKernel, lost_ways).await;
        } else if let Some(own) = encrypted {
            let (node, nodes) = (clients.node.clone(), clients.proxy.clone());
            wireguard::run(own, node, nodes, world.clone(), wireguard::RealKernel, lost_ways).await;
        }
        Ok(())
    };
    let base = async {
        if let Some((network, base, table)) = ours {
            keep_up(&network, config, &news, base, table, world).await;
        }
        Ok(())
    };
    let guarded = async {
        guard.run(world.clone()).await;
        Ok(())
    };
    futures::try_join!(proxy, dns, peers, policy, base, guarded).map(drop)
}

/// Puts back what others take away of devices, routes and the pod table.
async fn keep_up(
    network: &NodeNetwork,
    config: &NetConfig,
    news: &News,
    mut base: Losses,
    mut table: Losses,
    world: &WorldRef,
) {
    loop {
        tokio::select! {
            () = lost(&mut base) => {}
            () = lost(&mut table) => {}
        }
        while let Err(error) = network.up(config, news).await {
            tracing::error!("the pod network is not whole: {error}");
            world.sleep(RETRY).await;
        }
    }
}

/// Guards tables that are there.
fn guard_tables(guard: &mut Guard, there: bool, table: String) -> Losses {
    if there { guard.tables(table) } else { guard.base() }
}

async fn run_proxy(
    config: &NetConfig,
    node: &KnownNode,
    clients: &Clients,
    world: &WorldRef,
    news: News,
    losses: Losses,
) -> Result<(), NetError> {
    let table = Instance::of(&config.data_dir).service_table();
    if !config.proxy {
        remove_table(&table).await;
        return Ok(());
    }
    let effects = proxy::Effects::real(config, Arc::new(news), world);
    let mut facts = Vec::new();
    for family in config.families() {
        if node.pod_cidrs.is_empty() {
            crate::sysctl::forward(family, None)?;
        }
        facts.push(NodeFacts {
            family,
            name: config.node_name.clone(),
            zone: node.zone.clone(),
            pod_cidr: of_family(&node.pod_cidrs, family),
            service_cidr: of_family(&config.service_cidrs, family),
            // The kernel sends packets with addresses of the machine itself elsewhere for IPv4 alone.
            localhost_node_ports: family == Family::V4 && !node.pod_cidrs.is_empty(),
        });
    }
    proxy::run(&table, facts, clients.proxy.clone(), world.clone(), effects, losses).await;
    Ok(())
}

async fn run_policy(
    config: &NetConfig,
    clients: &Clients,
    world: &WorldRef,
    news: News,
    losses: Losses,
) -> Result<(), NetError> {
    let table = Instance::of(&config.data_dir).policy_table();
    if !config.policy {
        remove_table(&table).await;
        return Ok(());
    }
    let families = config.families();
    policy::run(&table, &families, &config.node_name, clients.policy.clone(), world.clone(), Arc::new(news), losses)
        .await;
    Ok(())
}

/// Removes what an earlier run may have left, which would go on with what is no longer true. Where nftables is missing
/// there is none.
async fn remove_table(table: &str) {
    for family in Family::ALL {
        let _ = crate::nft::Program.run(crate::nft::removal(family, table)).await;
    }
}

async fn run_dns(
    config: &NetConfig,
    listen: IpAddr,
    node_uid: String,
    clients: &Clients,
    world: &WorldRef,
) -> Result<(), NetError> {
    if !config.dns {
        return Ok(());
    }
    let dns = DnsConfig {
        listen,
        cluster_dns: config.cluster_dns,
        cluster_domain: config.cluster_domain.clone(),
        node_name: config.node_name.clone(),
        node_uid,
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
    };
    dns::run(dns, clients.dns.clone(), world.clone()).await
}

/// How long to wait before trying again what the machine refused.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);
/// Says which zone a node is in.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What the network must know of the Node object before it can start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownNode {
    uid: String,
    /// Where it is, as its label says.
    zone: Option<String>,
    /// A range of each family; none where the pod network is not ours.
    pod_cidrs: Vec<IpNet>,
}

impl KnownNode {
    /// Waits for the Node object and, where the network is ours, for its range; for one that is not `old`.
    async fn wait(
        config: &NetConfig,
        events: &mut BoxStream<'static, Event>,
        old: Option<&Self>,
    ) -> Result<Self, NetError> {
        while let Some(event) = events.next().await {
            let nodes: Vec<Arc<Object>> = match event {
                Event::Replace(nodes) => nodes,
                Event::Apply(node) => vec![node],
                Event::Delete(_) => Vec::new(),
            };
            for node in nodes {
                if let Some(known) = Self::of(config, &node)?
                    && old != Some(&known)
                {
                    return Ok(known);
                }
            }
        }
        // The source ends only when the process does.
        futures::future::pending().await
    }

    fn of(config: &NetConfig, node: &Object) -> Result<Option<Self>, NetError> {
        let uid = node.meta().uid.clone();
        let zone = node.meta().labels.get(ZONE_LABEL).cloned();
        if config.mode == NetworkMode::None {
            return Ok(Some(Self { uid, zone, pod_cidrs: Vec::new() }));
        }
        let spec = node.typed::<Node>().ok().and_then(|node| node.spec.clone()).unwrap_or_default();
        let ranges = spec.pod_cidrs.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        let bad = |range: &str| NetError::BadRange { node: config.node_name.clone(), range: range.to_owned() };
        let mut pod_cidrs = Vec::new();
        for range in &ranges {
            let parsed: IpNet = range.parse().map_err(|_| bad(range))?;
            if parsed.max_prefix_len() - parsed.prefix_len() < 2 {
                return Err(bad(range));
            }
            pod_cidrs.push(parsed.trunc());
        }
        Ok((!pod_cidrs.is_empty()).then_some(Self { uid, zone, pod_cidrs }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::{Value, json};

    use super::*;
    use crate::fake::{Cluster, object};

    fn config(mode: NetworkMode) -> NetConfig {
        NetConfig {
            data_dir: "/nonexistent".into(),
            cluster: String::new(),
            node_name: "n1".to_owned(),
            node_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            mode,
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            cluster_dns: "10.43.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            cni_bin_dir: PathBuf::new(),
            cni_conf_dir: PathBuf::new(),
            proxy: true,
            policy: true,
            dns: true,
        }
    }

    fn node(spec: Value) -> Arc<Object> {
        object(json!({"metadata": {"name": "n1", "uid": "u1"}, "spec": spec}))
    }

    fn known_node(ranges: &[&str]) -> KnownNode {
        let pod_cidrs = ranges.iter().map(|range| range.parse().unwrap()).collect();
        KnownNode { uid: "u1".to_owned(), zone: None, pod_cidrs }
    }

    #[test]
    fn the_nodes_range_is_waited_for() {
        let cluster = Arc::new(Cluster::default());
        let source = cluster.source("nodes");
        let config = config(NetworkMode::Bridge);
        let mut events = watch::node(&cluster.client(), "n1");
        let mut known = Box::pin(KnownNode::wait(&config, &mut events, None));
        source.unbounded_send(Event::Replace(Vec::new())).unwrap();
        source.unbounded_send(Event::Apply(node(json!({})))).unwrap();
        assert!((&mut known).now_or_never().is_none());
        let ranges = ["10.42.3.0/24", "fd42:3::/64"];
        let spec = json!({"podCIDR": ranges[0], "podCIDRs": ranges});
        source.unbounded_send(Event::Apply(node(spec))).unwrap();
        let known = known.now_or_never().expect("known by now").unwrap();
        assert_eq!(known, known_node(&ranges));

        let mut next = Box::pin(KnownNode::wait(&config, &mut events, Some(&known)));
        source.unbounded_send(Event::Apply(node(json!({"podCIDR": ranges[0], "podCIDRs": ranges})))).unwrap();
        assert!((&mut next).now_or_never().is_none(), "nothing new");
        source.unbounded_send(Event::Apply(node(json!({"podCIDR": "10.42.4.0/24"})))).unwrap();
        assert_eq!(next.now_or_never().unwrap().unwrap(), known_node(&["10.42.4.0/24"]));
    }

    #[test]
    fn ranges_that_hold_no_pods_are_refused_and_none_is_needed_for_foreign_networks() {
        for range in ["10.42.0.0/31", "fd42::/127", "10.42.0.0", "pods"] {
            let known = KnownNode::of(&config(NetworkMode::Bridge), &node(json!({"podCIDR": range})));
            assert!(matches!(known, Err(NetError::BadRange { .. })), "{range}");
        }
        let known = KnownNode::of(&config(NetworkMode::None), &node(json!({}))).unwrap();
        assert_eq!(known, Some(known_node(&[])));
    }
}
