//! What the server is told at start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::admission::config::AdmissionConfig;
use crate::audit::AuditConfig;
use crate::auth::{AuthenticationConfig, AuthorizationConfig};
use crate::chain::Explainer;
use crate::encryption::Keyring;
use crate::live::Live;

/// Everything that can be set; [`ServerConfig::default`] is a server on any free port of the loopback device that keeps
/// nothing on disk.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where keys, certificates and kubeconfigs lie; `None`: they live in memory only.
    pub data_dir: Option<PathBuf>,
    /// Where HTTPS listens; port 0: any free one.
    pub bind: SocketAddr,
    /// The address others reach this server at: the endpoint of the `kubernetes` Service, and a name of the certificate.
    pub advertise: IpAddr,
    /// The name of the machine, by which servers of a cluster are told apart.
    pub host: String,
    /// Further names and addresses of the server's certificate.
    pub tls_sans: Vec<String>,
    /// Cluster addresses of Services come from here: one range, or one of each family, of which the first is where
    /// Services have their address that do not say. Its first address is the `kubernetes` Service's.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports, first and last.
    pub node_ports: (u16, u16),
    /// `cluster.local`
    pub cluster_domain: String,
    /// Reads, and writes, that are answered at the same time; together the seats of flow control.
    pub max_in_flight: (u32, u32),
    /// Whether requests queue fairly by FlowSchemas; else they are refused past the numbers above.
    pub priority_and_fairness: bool,
    /// How long a request may take that is neither a watch nor a connection.
    pub request_timeout: Duration,
    /// What is written down of requests, if anything.
    pub audit: Option<AuditConfig>,
    /// Whose tokens are believed beside the cluster's own.
    pub authentication: Option<Arc<Live<AuthenticationConfig>>>,
    /// Who decides what they may.
    pub authorization: Arc<Live<AuthorizationConfig>>,
    /// What admission plug-ins are told.
    pub admission: AdmissionConfig,
    /// Keys for what is encrypted in the store.
    pub encryption: Option<Arc<Keyring>>,
    /// How many seconds Events live.
    pub event_ttl: u64,
    /// Other servers work on the same store.
    pub shared_store: bool,
    /// A static token that makes its bearer a member of `system:masters`.
    pub admin_token: Option<String>,
    /// Who explains where pods are, when the scheduler is at hand.
    pub explainer: Option<Arc<dyn Explainer>>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            data_dir: None,
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
            host: "localhost".to_owned(),
            tls_sans: Vec::new(),
            service_cidrs: vec![IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16))],
            node_ports: (30_000, 32_767),
            cluster_domain: "cluster.local".to_owned(),
            max_in_flight: (400, 200),
            priority_and_fairness: true,
            request_timeout: Duration::from_secs(60),
            audit: None,
            authentication: None,
            authorization: Live::shared(AuthorizationConfig::default()),
            admission: AdmissionConfig::default(),
            encryption: None,
            event_ttl: 3_600,
            shared_store: false,
            admin_token: None,
            explainer: None,
        }
    }
}

impl ServerConfig {
    /// The address of the `kubernetes` Service.
    pub(crate) fn kubernetes_address(&self) -> Option<IpAddr> {
        Some(nth(*self.service_cidrs.first()?, 1))
    }
}

/// The address at a place of a range.
pub(crate) fn nth(range: IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first).wrapping_add(offset as u32)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first).wrapping_add(offset)).into()),
    }
}
