//! Where a cluster is and who we are there: kubeconfig files, in-cluster files, plain values.

mod kubeconfig;

use std::path::{Path, PathBuf};

pub use kubeconfig::{Kubeconfig, Named, NamedContext, User};

use crate::backend::ClientError;

/// One cluster's address with our credentials for it.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// `https://HOST:PORT`, with a path where the kubeconfig has one.
    pub server: String,
    /// PEM of the authorities to trust; empty: the system's.
    pub certificate_authority: Vec<u8>,
    /// Do not verify the server (`insecure-skip-tls-verify`).
    pub insecure: bool,
    /// Name to verify instead of the host.
    pub tls_server_name: Option<String>,
    /// PEM of our certificate chain.
    pub client_certificate: Vec<u8>,
    /// PEM of its key.
    pub client_key: Vec<u8>,
    /// Bearer token.
    pub token: Option<String>,
    /// File to read the bearer token from, again and again, since such tokens are replaced; wins over `token`.
    pub token_file: Option<PathBuf>,
    /// Namespace to use where none is given.
    pub namespace: String,
}

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl Remote {
    /// The cluster we run in as a pod, as told by the environment and the mounted service account.
    ///
    /// # Errors
    /// When we do not run in a pod.
    pub fn in_cluster() -> Result<Self, ClientError> {
        let variable = |name: &str| std::env::var(name).map_err(|_| ClientError::Config(format!("{name} is not set")));
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let files = Path::new(SERVICE_ACCOUNT);
        let namespace = read(&files.join("namespace")).unwrap_or_default();
        Ok(Self {
            server: format!("https://{host}:{port}"),
            certificate_authority: read(&files.join("ca.crt"))?,
            token_file: Some(files.join("token")),
            namespace: String::from_utf8_lossy(&namespace).trim().to_owned(),
            ..Self::default()
        })
    }

    /// The bearer token as of now.
    ///
    /// # Errors
    /// When the token's file cannot be read.
    pub fn read_token(&self) -> Result<Option<String>, ClientError> {
        let Some(file) = &self.token_file else { return Ok(self.token.clone()) };
        Ok(Some(String::from_utf8_lossy(&read(file)?).trim().to_owned()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|e| ClientError::Config(format!("{}: {e}", path.display())))
}
