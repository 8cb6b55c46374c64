//! Where a cluster is and who we are there: kubeconfig files, in-cluster files, plain values.

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
    /// Namespace to use where none is given.
    pub namespace: String,
}
