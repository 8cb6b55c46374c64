//! What the user chose.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::Family;
use crate::family::families;

/// Who makes the pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// We do; packets to other nodes travel in UDP.
    Vxlan,
    /// We do; the nodes are on one wire, and packets to other nodes are simply routed.
    Routed,
    /// We do; packets to other nodes are encrypted by WireGuard.
    Wireguard,
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
    /// The node's own addresses, at most one of each family. At the first one DNS listens when the pod network is not
    /// ours, and the overlay travels.
    pub node_ips: Vec<IpAddr>,
    /// Who makes the pod network.
    pub mode: NetworkMode,
    /// Addresses of all nodes' pods, a range of each family.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses of Services, a range of each family.
    pub service_cidrs: Vec<IpNet>,
    /// The address of the `kube-dns` Service.
    pub cluster_dns: IpAddr,
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

impl NetConfig {
    /// The node's first address.
    pub(crate) fn node_ip(&self) -> IpAddr {
        self.node_ips.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    }

    /// The families that pods or Services have, the main one first.
    pub(crate) fn families(&self) -> Vec<Family> {
        families(self.service_cidrs.iter().chain(&self.cluster_cidrs))
    }
}

/// Where the plugin books addresses.
pub(crate) fn state_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("net")
}
