//! The node's share of `skiff server` and `skiff agent`: containerd, the agent, the network.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use skiff_client::{Client, Renewable};
use skiff_cri::containerd::{Containerd, ContainerdOptions};
use skiff_cri::{GrpcRuntime, Runtime};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;
use skiff_net::{Clients, NetConfig, NetworkMode};
use skiff_node::os::{Mounts, Os, RealMounts};
use skiff_node::{NodeConfig, Settings};
use tokio::sync::watch;

use crate::error::StartError;
use crate::flags::{self, Network, Part};
use crate::join::ClusterFacts;
use crate::place::host_name;
use crate::ranges;

/// What serves on a node says who calls it.
const API_SERVER: &str = "system:kube-apiserver-kubelet-client";

/// Whether this process may start containers.
pub(crate) fn check_root() -> Result<(), StartError> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(StartError::NotRoot) }
}

/// Whether this machine can be a node with these flags; asked before anything is written.
pub(crate) fn fit(flags: &flags::Node) -> Result<(), StartError> {
    check_root()?;
    labels(flags)?;
    taints(flags)?;
    settings(flags)?;
    if flags.container_runtime_endpoint.is_none() {
        skiff_cri::containerd::installed()?;
    }
    if flags.runs(Part::Proxy) || flags.runs(Part::NetworkPolicy) {
        skiff_net::nft::run_blocking("").map_err(|error| StartError::Node(error.to_string()))?;
    }
    Ok(())
}

/// Who a node is, however it came to know.
pub(crate) struct Identity {
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// Its name.
    pub(crate) name: String,
    /// Its addresses, at most one of each family.
    pub(crate) addresses: Vec<IpAddr>,
    /// What it serves with.
    pub(crate) serving: Arc<Renewable>,
    /// PEM of the cluster's authority.
    pub(crate) authority: String,
    /// How its parts reach the API.
    pub(crate) clients: NodeClients,
    /// What all nodes of the cluster agree on.
    pub(crate) cluster: ClusterFacts,
}

/// A client for each part of a node, with its own user.
pub(crate) struct NodeClients {
    /// `system:node:NAME`.
    pub(crate) node: Client,
    /// `system:kube-proxy`.
    pub(crate) proxy: Client,
    /// The service account `network-policy`.
    pub(crate) policy: Client,
    /// The service account `kube-dns`.
    pub(crate) dns: Client,
}

/// A running node.
pub(crate) struct Node {
    containerd: Option<Containerd>,
    stop: watch::Sender<bool>,
    failure: watch::Receiver<Option<String>>,
    tasks: Vec<Task>,
    net: NetConfig,
}

impl Node {
    /// Starts containerd (unless another runtime is given), the network and the agent.
    pub(crate) async fn start(flags: &flags::Node, who: Identity, world: &WorldRef) -> Result<Self, StartError> {
        let net = net_config(flags, &who)?;
        let (containerd, runtime) = runtime(flags, &net, world).await?;
        let (stop, stopped) = watch::channel(false);
        let (fail, failure) = watch::channel(None);
        let fail = Arc::new(fail);
        let until = || {
            let mut stopped = stopped.clone();
            async move { drop(stopped.wait_for(|stop| *stop).await) }.boxed()
        };
        let config = agent_config(flags, &who)?;
        let clients = Clients {
            node: who.clients.node.clone(),
            proxy: who.clients.proxy,
            policy: who.clients.policy,
            dns: who.clients.dns.with_manager("kube-dns"),
        };
        let network = skiff_net::run(net.clone(), clients, world.clone(), until());
        let agent = skiff_node::run(config, who.clients.node, runtime, world.clone(), until());
        let (fails, told) = (fail.clone(), fail);
        let tasks = vec![
            world.spawn("network", async move { report(&fails, network.await) }.boxed()),
            world.spawn("agent", async move { report(&told, agent.await) }.boxed()),
        ];
        Ok(Self { containerd, stop, failure, tasks, net })
    }

    /// Completes when the node cannot go on.
    pub(crate) async fn failed(&self) -> StartError {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => StartError::Node(why.clone().unwrap_or_default()),
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops the agent. Containers run on, unless everything is to go.
    pub(crate) async fn stop(self, everything: bool) {
        let _ = self.stop.send(true);
        for task in self.tasks {
            task.await;
        }
        if !everything {
            // Dropping the keeper leaves containerd running.
            return;
        }
        drop(self.containerd);
        cleanup(&self.net.data_dir, skiff_meta::world::RealWorld::shared()).await;
        let _ = skiff_net::network::cleanup(&self.net.data_dir, &self.net.cni_bin_dir, &self.net.cni_conf_dir);
    }
}

fn report<E: std::fmt::Display>(fail: &watch::Sender<Option<String>>, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::error!("{error}");
        fail.send_replace(Some(error.to_string()));
    }
}

/// The user's runtime, or a private containerd.
async fn runtime(
    flags: &flags::Node,
    net: &NetConfig,
    world: &WorldRef,
) -> Result<(Option<Containerd>, Arc<dyn Runtime>), StartError> {
    if let Some(endpoint) = &flags.container_runtime_endpoint {
        let socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        return Ok((None, Arc::new(GrpcRuntime::new(Path::new(socket)))));
    }
    let options = ContainerdOptions {
        directory: net.data_dir.join("containerd"),
        cni_conf_dir: net.cni_conf_dir.clone(),
        cni_bin_dir: net.cni_bin_dir.clone(),
        registries: net.data_dir.join("registries.yaml"),
        own_network: net.mode != NetworkMode::None,
    };
    let containerd = Containerd::start(options, world.clone()).await?;
    let runtime = containerd.runtime();
    Ok((Some(containerd), runtime))
}

fn net_config(flags: &flags::Node, who: &Identity) -> Result<NetConfig, StartError> {
    let cluster = &who.cluster;
    let ours = cluster.network != Network::None;
    Ok(NetConfig {
        data_dir: who.data.clone(),
        cluster: who.authority.clone(),
        node_name: who.name.clone(),
        node_ips: who.addresses.clone(),
        mode: match cluster.network {
            Network::Vxlan => NetworkMode::Vxlan,
            Network::Routed => NetworkMode::Routed,
            Network::Wireguard => NetworkMode::Wireguard,
            Network::Bridge => NetworkMode::Bridge,
            Network::None => NetworkMode::None,
        },
        cluster_cidrs: ranges::parse("cluster-cidr", &cluster.cluster_cidr)?,
        service_cidrs: ranges::parse("service-cidr", &cluster.service_cidr)?,
        cluster_dns: cluster.cluster_dns,
        cluster_domain: cluster.cluster_domain.clone(),
        cni_bin_dir: if ours { who.data.join("cni/bin") } else { flags.cni_bin_dir.clone() },
        cni_conf_dir: if ours { who.data.join("cni/net.d") } else { flags.cni_conf_dir.clone() },
        proxy: flags.runs(Part::Proxy),
        policy: flags.runs(Part::NetworkPolicy),
        dns: flags.runs(Part::Dns),
    })
}

fn agent_config(flags: &flags::Node, who: &Identity) -> Result<NodeConfig, StartError> {
    let directory = flags.root_dir.clone().unwrap_or_else(|| who.data.join("agent"));
    let failed = |e| StartError::Io("the machine cannot be read".to_owned(), e);
    std::fs::create_dir_all(&directory).map_err(failed)?;
    Ok(NodeConfig {
        name: who.name.clone(),
        hostname: host_name(),
        addresses: who.addresses.clone(),
        labels: labels(flags)?,
        taints: taints(flags)?,
        log_directory: who.data.join("logs"),
        storage_directory: who.data.join("storage"),
        image_directory: Some(who.data.join("images")),
        static_pod_directory: Some(who.data.join("static-pods")),
        cluster_dns: flags.runs(Part::Dns).then_some(who.cluster.cluster_dns),
        cluster_domain: who.cluster.cluster_domain.clone(),
        settings: settings(flags)?,
        watches_pressure: true,
        takes_plugins: true,
        version: format!("v1.36.2+skiff-{}", env!("CARGO_PKG_VERSION")),
        server: Some(skiff_node::ServerConfig {
            bind: SocketAddr::new(flags.bind_address, flags.kubelet_port),
            identity: who.serving.clone(),
            client_ca: who.authority.clone().into_bytes(),
            clients: vec![API_SERVER.to_owned()],
        }),
        os: Os::real(&cgroup_root(&who.data), &directory).map_err(failed)?,
        directory,
    })
}

/// Clusters side by side have cgroups side by side: `/kubepods` is the standard data directory's.
fn cgroup_root(data: &Path) -> String {
    if data == Path::new(flags::DATA_DIR) {
        return "/kubepods".to_owned();
    }
    let name: String =
        data.display().to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("/kubepods{name}")
}

fn labels(flags: &flags::Node) -> Result<BTreeMap<String, String>, StartError> {
    let mut labels = BTreeMap::new();
    for text in &flags.node_label {
        let why = || "is not of the form KEY=VALUE".to_owned();
        let (key, value) = text.split_once('=').ok_or_else(|| StartError::Flag {
            flag: "node-label",
            value: text.clone(),
            why: why(),
        })?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

fn taints(flags: &flags::Node) -> Result<Vec<k8s_openapi::api::core::v1::Taint>, StartError> {
    let read = |text: &String| {
        let (pair, effect) = text.rsplit_once(':')?;
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = Some(value.to_owned()).filter(|v| !v.is_empty());
        Some(k8s_openapi::api::core::v1::Taint {
            key: key.to_owned(),
            value,
            effect: effect.to_owned(),
            time_added: None,
        })
    };
    let wrong = |text: &String| StartError::Flag {
        flag: "node-taint",
        value: text.clone(),
        why: "is not of the form KEY=VALUE:EFFECT".to_owned(),
    };
    flags.node_taint.iter().map(|text| read(text).ok_or_else(|| wrong(text))).collect()
}

fn settings(flags: &flags::Node) -> Result<Settings, StartError> {
    let Some(path) = &flags.kubelet_config else { return Ok(Settings::default()) };
    let shown = path.display().to_string();
    let text = std::fs::read(path).map_err(|error| StartError::Io(shown.clone(), error))?;
    let settings = Settings::read(&text).map_err(|source| StartError::KubeletConfig { path: shown.clone(), source })?;
    if !settings.unheeded.is_empty() {
        tracing::warn!(file = shown, "means nothing here: {}", settings.unheeded.join(", "));
    }
    Ok(settings)
}

/// Ends what still runs from a data directory, and removes its devices and rules.
pub(crate) async fn cleanup(data: &Path, world: WorldRef) {
    let (cni_bin_dir, cni_conf_dir) = (data.join("cni/bin"), data.join("cni/net.d"));
    let directory = data.join("containerd");
    if directory.exists() {
        let options = ContainerdOptions {
            directory,
            cni_conf_dir: cni_conf_dir.clone(),
            cni_bin_dir: cni_bin_dir.clone(),
            registries: data.join("registries.yaml"),
            own_network: true,
        };
        match Containerd::start(options, world).await {
            Ok(containerd) => {
                if let Err(error) = remove_pods(&*containerd.runtime()).await {
                    tracing::warn!("pods were not removed: {error}");
                }
                containerd.stop().await;
            }
            Err(error) => tracing::warn!("pods were not looked for: {error}"),
        }
    }
    unmount(data);
    remove_cgroups(&cgroup_root(data));
    if let Err(error) = skiff_net::network::cleanup(data, &cni_bin_dir, &cni_conf_dir) {
        tracing::warn!("the network was not removed: {error}");
    }
}

async fn remove_pods(runtime: &dyn Runtime) -> Result<(), skiff_cri::RuntimeError> {
    let sandboxes = runtime.list_pod_sandboxes(skiff_cri::v1::PodSandboxFilter::default()).await?;
    let gone = sandboxes.iter().map(|sandbox| async {
        runtime.stop_pod_sandbox(&sandbox.id).await?;
        runtime.remove_pod_sandbox(&sandbox.id).await
    });
    futures::future::join_all(gone).await.into_iter().collect()
}

/// Unmounts what is mounted below the directory, the innermost first.
fn unmount(data: &Path) {
    let points = RealMounts.below(&real(data));
    for point in points.unwrap_or_default() {
        if let Err(error) = RealMounts.unmount(&point) {
            tracing::warn!("{} was not unmounted: {error}", point.display());
        }
    }
}

/// Removes a directory with all in it, unless something is still mounted there: what that holds is not ours.
pub(crate) fn purge(data: &Path) -> std::io::Result<()> {
    match RealMounts.below(&real(data))?.first() {
        Some(left) => Err(std::io::Error::other(format!("{} is still mounted", left.display()))),
        None => std::fs::remove_dir_all(data),
    }
}

/// As the table of mounts names it.
fn real(data: &Path) -> PathBuf {
    data.canonicalize().unwrap_or_else(|_| data.to_owned())
}

/// Removes the cgroups of a data directory's pods from every hierarchy, the innermost first. What still has processes
/// stays.
fn remove_cgroups(root: &str) {
    let name = root.trim_start_matches('/');
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for top in hierarchies.map(|hierarchy| hierarchy.join(name)).chain([Path::new("/sys/fs/cgroup").join(name)]) {
        remove_tree(&top);
    }
}

fn remove_tree(cgroup: &Path) {
    for child in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&child.path());
        }
    }
    let _ = std::fs::remove_dir(cgroup);
}
