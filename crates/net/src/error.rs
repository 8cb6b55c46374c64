//! What can go wrong with the network.

use std::io;

/// The network could not be set up, kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel refused a device, address or route.
    #[error("pod network: {0}")]
    Netlink(#[from] crate::netlink::NetlinkError),
    /// A kernel switch could not be set.
    #[error("pod network: {0}; run as root, with /proc/sys writable")]
    Sysctl(#[from] crate::sysctl::SysctlError),
    /// nftables refused, or is missing.
    #[error("pod network: {0}")]
    Nft(#[from] crate::nft::NftError),
    /// The CNI plugin could not be installed.
    #[error("CNI plugin: {0}")]
    Install(#[from] crate::cni::InstallError),
    /// A host port of a pod makes no sense.
    #[error("host ports: {0}")]
    Plugin(#[from] crate::cni::PluginError),
    /// WireGuard is not to be had, or refused.
    #[error("WireGuard: {0}")]
    Wireguard(String),
    /// The node's key cannot be kept.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The node's device vanished while it was set up.
    #[error("pod network: device {0} vanished while it was set up")]
    NoDevice(String),
    /// The directory of address bookings cannot be used.
    #[error("pod address bookings: {0}")]
    Bookings(#[source] io::Error),
    /// The node's range cannot be read.
    #[error("node {node} has a pod range that is no network with room for pods: {range:?}")]
    BadRange {
        /// The node.
        node: String,
        /// Its range.
        range: String,
    },
    /// Load balancers' addresses cannot be given back.
    #[error("load balancers: {0}")]
    Announce(#[from] crate::proxy::AnnounceError),
    /// DNS cannot listen.
    #[error("cluster DNS cannot listen at {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl NetError {
    pub(crate) fn bookings(error: io::Error) -> Self {
        Self::Bookings(error)
    }
}
