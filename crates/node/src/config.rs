//! What a node agent is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;
use skiff_client::Renewable;

use crate::os::Os;
use crate::settings::Settings;

/// What a node agent is told; everything else it learns from the API, the runtime and the machine.
#[derive(Clone)]
pub struct NodeConfig {
    /// The node's name in the cluster.
    pub name: String,
    /// The machine's name, which pods on its network see.
    pub hostname: String,
    /// Its addresses, the first of which is the main one.
    pub addresses: Vec<IpAddr>,
    /// Labels of its own, beside those that every node has.
    pub labels: BTreeMap<String, String>,
    /// Taints it registers with; later changes are the cluster's.
    pub taints: Vec<Taint>,
    /// Where pods' volumes and other files are, such as `DATA-DIR/agent`.
    pub directory: PathBuf,
    /// Where pods' logs are.
    pub log_directory: PathBuf,
    /// Where volumes lie that are provisioned on this node, such as `DATA-DIR/storage`.
    pub storage_directory: PathBuf,
    /// Where image archives appear that are to be imported.
    pub image_directory: Option<PathBuf>,
    /// Where files lie that describe static pods.
    pub static_pod_directory: Option<PathBuf>,
    /// The cluster's name server, which pods are given.
    pub cluster_dns: Option<IpAddr>,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// What an administrator says of it.
    pub settings: Settings,
    /// Whether it evicts pods, and removes images, when memory or disk runs short.
    pub watches_pressure: bool,
    /// Whether it takes in plugins: drivers of storage and devices.
    pub takes_plugins: bool,
    /// What it says it is, such as `v1.36.2`.
    pub version: String,
    /// Where it serves logs, exec and the like; `None`: nowhere.
    pub server: Option<ServerConfig>,
    /// The operating system.
    pub os: Os,
}

/// The agent's own server, for the API server's use.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0: any free one, which the node then tells.
    pub bind: SocketAddr,
    /// What it serves with.
    pub identity: Arc<Renewable>,
    /// PEM of the authorities that sign its clients' certificates.
    pub client_ca: Vec<u8>,
    /// The common names of the clients it serves: the API server's, as a client of nodes.
    pub clients: Vec<String>,
}

/// Why a node agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The server's certificate, key or authority cannot be used.
    #[error("the node's certificate cannot be used: {0}")]
    Certificate(String),
    /// The port is taken, or may not be used.
    #[error("cannot listen on {address}: {source}; choose another --kubelet-port")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Directories of the agent cannot be made.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The runtime does not say who it is.
    #[error("the container runtime cannot be used: {0}")]
    Runtime(#[from] skiff_cri::RuntimeError),
}
