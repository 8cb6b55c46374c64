//! Everything together: what the binary starts on a node.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use skiff_client::{Client, Event};
use skiff_meta::{Object, WorldRef};

use crate::dns::{self, DnsConfig};
use crate::network::NodeNetwork;
use crate::nft::Nft;
use crate::proxy::{self, NodeFacts};
use crate::{Instance, NetConfig, NetError, NetworkMode, watch};

/// The clients of the parts, each with its own identity.
#[derive(Clone)]
pub struct Clients {
    /// Reads this node's Node object (`system:node:NAME`).
    pub node: Client,
    /// Reads Services and EndpointSlices (`system:kube-proxy`).
    pub proxy: Client,
    /// Reads Services, EndpointSlices and namespaces; writes the `kube-dns` Service and its slices in `kube-system`.
    pub dns: Client,
}

/// Brings the node's network up once its range is known, and keeps it until `shutdown` or a failure. What was set up
/// stays, since running pods live on it; [`crate::network::cleanup`] removes it.
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
        let node = KnownNode::wait(&config, &clients.node).await?;
        let mut listen = config.node_ip;
        if let Some(pod_cidr) = node.pod_cidr {
            let network = NodeNetwork::new(&config, pod_cidr);
            network.up(&config, &crate::nft::Program).await?;
            listen = network.gateway();
            tracing::info!(%pod_cidr, device = network.instance.node_device(), "pod network is up");
        }
        let proxy = run_proxy(&config, node.pod_cidr, &clients, &world);
        let dns = run_dns(&config, listen, node.uid, &clients, &world);
        futures::try_join!(proxy, dns).map(drop)
    };
    futures::select! {
        result = work.fuse() => result,
        () = shutdown.fuse() => Ok(()),
    }
}

async fn run_proxy(
    config: &NetConfig,
    pod_cidr: Option<Ipv4Net>,
    clients: &Clients,
    world: &WorldRef,
) -> Result<(), NetError> {
    let table = Instance::of(&config.data_dir).service_table();
    if !config.proxy {
        // An earlier run may have left its table, which would go on with what is no longer true. Where nftables is
        // missing there is none.
        let _ = crate::nft::Program.run(format!("add table ip {table}\ndelete table ip {table}\n")).await;
        return Ok(());
    }
    if pod_cidr.is_none() {
        crate::sysctl::set(&["ipv4", "ip_forward"], "1")?;
    }
    let facts = NodeFacts {
        name: config.node_name.clone(),
        pod_cidr,
        service_cidr: config.service_cidr,
        localhost_node_ports: pod_cidr.is_some(),
    };
    proxy::run(&table, facts, clients.proxy.clone(), world.clone(), proxy::Effects::programs()).await;
    Ok(())
}

async fn run_dns(
    config: &NetConfig,
    listen: std::net::Ipv4Addr,
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

/// What the network must know of the Node object before it can start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownNode {
    uid: String,
    /// `None` where the pod network is not ours.
    pod_cidr: Option<Ipv4Net>,
}

impl KnownNode {
    /// Waits for the Node object and, where the network is ours, for its range.
    async fn wait(config: &NetConfig, client: &Client) -> Result<Self, NetError> {
        let mut events = watch::node(client, &config.node_name);
        while let Some(event) = events.next().await {
            let nodes: Vec<Arc<Object>> = match event {
                Event::Replace(nodes) => nodes,
                Event::Apply(node) => vec![node],
                Event::Delete(_) => Vec::new(),
            };
            for node in nodes {
                if let Some(known) = Self::of(config, &node)? {
                    return Ok(known);
                }
            }
        }
        // The source ends only when the process does.
        futures::future::pending().await
    }

    fn of(config: &NetConfig, node: &Object) -> Result<Option<Self>, NetError> {
        let uid = node.meta().uid.clone();
        if config.mode == NetworkMode::None {
            return Ok(Some(Self { uid, pod_cidr: None }));
        }
        let spec = node.typed::<Node>().ok().and_then(|node| node.spec.clone()).unwrap_or_default();
        let ranges = spec.pod_cidrs.unwrap_or_default().into_iter().chain(spec.pod_cidr);
        let Some(range) = ranges.into_iter().find(|range| !range.contains(':')) else { return Ok(None) };
        let bad = |range: String| NetError::BadRange { node: config.node_name.clone(), range };
        let pod_cidr: Ipv4Net = range.parse().map_err(|_| bad(range.clone()))?;
        if pod_cidr.prefix_len() > 30 {
            return Err(bad(range));
        }
        Ok(Some(Self { uid, pod_cidr: Some(pod_cidr.trunc()) }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fake::{Cluster, object};

    fn config(mode: NetworkMode) -> NetConfig {
        NetConfig {
            data_dir: "/nonexistent".into(),
            node_name: "n1".to_owned(),
            node_ip: std::net::Ipv4Addr::LOCALHOST,
            mode,
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            cluster_dns: std::net::Ipv4Addr::new(10, 43, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            cni_bin_dir: PathBuf::new(),
            cni_conf_dir: PathBuf::new(),
            proxy: true,
            dns: true,
        }
    }

    fn node(spec: Value) -> Arc<Object> {
        object(json!({"metadata": {"name": "n1", "uid": "u1"}, "spec": spec}))
    }

    #[test]
    fn the_nodes_range_is_waited_for() {
        let cluster = Arc::new(Cluster::default());
        let source = cluster.source("nodes");
        let (config, client) = (config(NetworkMode::Bridge), cluster.client());
        let mut known = Box::pin(KnownNode::wait(&config, &client));
        source.unbounded_send(Event::Replace(Vec::new())).unwrap();
        source.unbounded_send(Event::Apply(node(json!({})))).unwrap();
        assert!((&mut known).now_or_never().is_none());
        let spec = json!({"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.42.3.0/24"]});
        source.unbounded_send(Event::Apply(node(spec))).unwrap();
        let known = known.now_or_never().expect("known by now").unwrap();
        assert_eq!(known, KnownNode { uid: "u1".to_owned(), pod_cidr: "10.42.3.0/24".parse().ok() });
    }

    #[test]
    fn ranges_that_hold_no_pods_are_refused_and_none_is_needed_for_foreign_networks() {
        for range in ["10.42.0.0/31", "10.42.0.0", "pods"] {
            let known = KnownNode::of(&config(NetworkMode::Bridge), &node(json!({"podCIDR": range})));
            assert!(matches!(known, Err(NetError::BadRange { .. })), "{range}");
        }
        let known = KnownNode::of(&config(NetworkMode::None), &node(json!({}))).unwrap();
        assert_eq!(known, Some(KnownNode { uid: "u1".to_owned(), pod_cidr: None }));
    }
}
