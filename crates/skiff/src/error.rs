//! Why a command cannot go on: one line that says what is wrong and what to do.

/// A wrong start. The process ends with code 2 and nothing half-written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A flag's value makes no sense.
    #[error("--{flag} {value}: {why}")]
    Flag { flag: &'static str, value: String, why: String },
    /// A look at the machine found something.
    #[error("this machine is not fit: {0} things to mend, told above")]
    Unfit(usize),
    /// The file of flags makes no sense.
    #[error("--config {0}: {1}")]
    Config(String, String),
    /// The data directory cannot be used.
    #[error("the data directory {0} cannot be used: {1}; choose another with --data-dir")]
    DataDir(String, std::io::Error),
    /// The node part needs root.
    #[error(
        "the node agent runs containers and needs root; run as root, or leave it out with --disable agent,proxy,dns"
    )]
    NotRoot,
    /// The port is taken.
    #[error("port {0} is in use; stop what listens there, or choose another with --secure-port")]
    PortInUse(u16),
    /// What answers is a server, but it publishes nothing that a node could join by.
    #[error("the server publishes no kube-public/cluster-info of Skiff; is --server the address of a Skiff server?")]
    NotSkiff,
    /// The token is for another cluster.
    #[error("{0} is not the server that the token is for, or somebody stands in between; check --server and --token")]
    WrongAuthority(String),
    /// The data directory is another cluster's.
    #[error("the data directory {0} belongs to a node of another cluster; choose another, or clean it up first")]
    OtherCluster(String),
    /// A local cluster is there already.
    #[error("there is a cluster in {0} already; skiff cluster delete --data-dir {0} removes it")]
    ClusterThere(String),
    /// A program that a local cluster needs failed.
    #[error("{0}")]
    Program(String),
    /// A node of a local cluster did not come up.
    #[error("{0} ended before it was ready; its log is {1}")]
    NodeEnded(String, String),
    /// No node's data are there.
    #[error("no node has its data in {0}; name its directory with --data-dir")]
    NoNode(String),
    /// An image that is to be removed is not there.
    #[error("no image {0} is here; skiff image list shows which are")]
    NoImage(String),
    #[error(transparent)]
    Runtime(#[from] skiff_cri::RuntimeError),
    #[error(transparent)]
    Netlink(#[from] skiff_net::netlink::NetlinkError),
    /// A certificate was refused.
    #[error("certificate request {0} was refused: {1}")]
    Refused(String, String),
    #[error(transparent)]
    Store(#[from] skiff_store::StoreError),
    #[error(transparent)]
    Pki(#[from] skiff_server::pki::PkiError),
    #[error(transparent)]
    Server(skiff_server::ServerError),
    #[error(transparent)]
    Containerd(#[from] skiff_cri::containerd::ContainerdError),
    #[error(transparent)]
    Restore(#[from] skiff_store::snapshot::RestoreError),
    #[error("no snapshot: {0}")]
    Snapshot(String),
    #[error("{0}")]
    Node(String),
    #[error("--{flag} {path}: {source}")]
    SchedulerConfig { flag: &'static str, path: String, source: skiff_scheduler::ConfigError },
    #[error("--kubelet-config {path}: {source}")]
    KubeletConfig { path: String, source: skiff_node::SettingsError },
    #[error(transparent)]
    Client(#[from] skiff_client::ClientError),
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
}

impl From<skiff_server::ServerError> for StartError {
    fn from(error: skiff_server::ServerError) -> Self {
        match error {
            skiff_server::ServerError::Listen { address, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Self::PortInUse(address.port())
            }
            other => Self::Server(other),
        }
    }
}
