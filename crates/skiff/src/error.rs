//! Why a command cannot go on: one line that says what is wrong and what to do.

/// A wrong start. The process ends with code 2 and nothing half-written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A flag's value makes no sense.
    #[error("--{flag} {value}: {why}")]
    Flag { flag: &'static str, value: String, why: String },
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
