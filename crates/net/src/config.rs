//! What the user chose.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

/// Who makes the pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// We do; packets to other nodes travel in UDP.
    Vxlan,
    /// We do; the nodes are on one wire, and packets to other nodes are simply routed.
    Routed,
    /// We do, for the pods of this node only.
    Bridge,
    /// The user's own CNI plugin does.
    None,
}

/// Everything the network of a node needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// The server's data directory; names on the machine derive from it.
    pub data_dir: PathBuf,
    /// What tells the cluster from others on the same wire, such as its authority's certificate.
    pub cluster: String,
    /// The name of this node's Node object.
    pub node_name: String,
    /// The node's own address, where DNS listens when the pod network is not ours.
    pub node_ip: Ipv4Addr,
    /// Who makes the pod network.
    pub mode: NetworkMode,
    /// Addresses of all nodes' pods.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// The address of the `kube-dns` Service.
    pub cluster_dns: Ipv4Addr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Where the container runtime looks for plugins.
    pub cni_bin_dir: PathBuf,
    /// Where it looks for their configuration.
    pub cni_conf_dir: PathBuf,
    /// Whether to run the service proxy.
    pub proxy: bool,
    /// Whether to enforce network policies.
    pub policy: bool,
    /// Whether to run cluster DNS.
    pub dns: bool,
}

/// Where the plugin books addresses.
pub(crate) fn state_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("net")
}
