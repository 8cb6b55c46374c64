//! How a node joins: what the server publishes, and what the agent makes of it.
//!
//! The server publishes the usual ConfigMap `kube-public/cluster-info`, which anybody may read: where it is, whom it is
//! signed by, and what all nodes must agree on. The agent reads it, compares the authority with the hash in its token,
//! shows the token for a client certificate of its own, and as a node asks for what else it needs. Everything is kept in
//! the data directory and asked for anew when it ends soon, while the agent runs as well.

mod certificates;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use futures::FutureExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use skiff_client::config::{Kubeconfig, Remote};
use skiff_client::http::HttpBackend;
use skiff_client::{Client, ClientError, Patch, Renewable};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;
use skiff_server::pki::{Pair, write_if_changed};

use crate::error::StartError;
use crate::flags::{self, Network};
use crate::token::JoinToken;
pub(crate) use certificates::Certificates;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
/// Pauses while the server is not reached.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What all nodes of a cluster agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterFacts {
    pub(crate) cluster_cidr: String,
    pub(crate) service_cidr: String,
    pub(crate) cluster_dns: IpAddr,
    pub(crate) cluster_domain: String,
    pub(crate) network: Network,
}

impl ClusterFacts {
    /// As the server's flags have it.
    pub(crate) fn of(flags: &flags::Server) -> Self {
        Self {
            cluster_cidr: flags.cluster_cidr.clone(),
            service_cidr: flags.service_cidr.clone(),
            cluster_dns: flags.cluster_dns,
            cluster_domain: flags.cluster_domain.clone(),
            network: flags.network,
        }
    }

    fn data(&self) -> Value {
        let network = self.network.to_possible_value().map(|value| value.get_name().to_owned());
        json!({"clusterCIDR": self.cluster_cidr, "serviceCIDR": self.service_cidr, "clusterDNS": self.cluster_dns,
            "clusterDomain": self.cluster_domain, "network": network})
    }

    fn read(map: &ConfigMap) -> Option<Self> {
        let data = map.data.as_ref()?;
        let field = |key: &str| data.get(key).cloned();
        Some(Self {
            cluster_cidr: field("clusterCIDR")?,
            service_cidr: field("serviceCIDR")?,
            cluster_dns: field("clusterDNS")?.parse().ok()?,
            cluster_domain: field("clusterDomain")?,
            network: Network::from_str(&field("network")?, false).ok()?,
        })
    }
}

/// Publishes `cluster-info` and keeps trying until it is there.
pub(crate) fn publish(client: Client, facts: &ClusterFacts, url: String, authority: String, world: &WorldRef) -> Task {
    let map = cluster_info(facts, &url, &authority);
    let sleeper = world.clone();
    let work = async move {
        let patch = Patch::Apply { object: map, force: true };
        while let Err(error) = client.namespaced::<ConfigMap>(NAMESPACE).patch(NAME, &patch).await {
            tracing::warn!("kube-public/cluster-info is not published yet: {error}");
            sleeper.sleep(RETRY.1).await;
        }
    };
    world.spawn("cluster info", work.boxed())
}

fn cluster_info(facts: &ClusterFacts, url: &str, authority: &str) -> Value {
    let authority = serde_json::to_value(ByteString(authority.as_bytes().to_vec())).unwrap_or_default();
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "clusters": [
        {"name": "", "cluster": {"server": url, "certificate-authority-data": authority}}]});
    let mut data = facts.data();
    data["kubeconfig"] = kubeconfig.to_string().into();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data})
}

/// A node that belongs to a cluster.
pub(crate) struct Joined {
    pub(crate) authority: String,
    pub(crate) serving: Arc<Renewable>,
    pub(crate) cluster: ClusterFacts,
    /// The clients of node, proxy, policies and DNS.
    pub(crate) clients: [Client; 4],
    /// What must be renewed in time.
    pub(crate) certificates: Certificates,
}

/// Joins, or finds that the node has joined already.
pub(crate) struct Joining<'a> {
    pub(crate) server: &'a str,
    pub(crate) token: &'a str,
    pub(crate) data: &'a Path,
    pub(crate) node: &'a str,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) world: WorldRef,
}

impl Joining<'_> {
    pub(crate) async fn join(&self) -> Result<Joined, StartError> {
        let directory = self.data.join("pki");
        std::fs::create_dir_all(&directory).map_err(|e| StartError::Io(directory.display().to_string(), e))?;
        let authority = self.authority(&directory.join("server-ca.crt")).await?;
        let info = self.cluster_info(self.remote(&authority)).await?;
        let cluster = ClusterFacts::read(&info).ok_or(StartError::NotSkiff)?;
        let (certificates, serving, clients) = self.certificates(&authority).await?;
        Ok(Joined { authority, serving, cluster, clients, certificates })
    }

    /// The cluster's authority: the one kept from joining, or the one that the server names and the token pins.
    async fn authority(&self, path: &Path) -> Result<String, StartError> {
        if let Ok(kept) = std::fs::read_to_string(path) {
            if self.token.is_empty() || JoinToken::parse(self.token)?.pins(&kept) {
                return Ok(kept);
            }
            return Err(StartError::OtherCluster(self.data.display().to_string()));
        }
        let token = JoinToken::parse(self.token)?;
        let remote = Remote { server: self.server.to_owned(), insecure: true, ..Remote::default() };
        let info = self.cluster_info(remote).await?;
        let kubeconfig = info.data.as_ref().and_then(|data| data.get("kubeconfig")).ok_or(StartError::NotSkiff)?;
        let named = Kubeconfig::parse(kubeconfig)?.clusters.into_iter().next().ok_or(StartError::NotSkiff)?;
        let encoded = Value::from(named.value.certificate_authority_data.unwrap_or_default());
        let bytes: ByteString = serde_json::from_value(encoded).map_err(|_| StartError::NotSkiff)?;
        let authority = String::from_utf8(bytes.0).map_err(|_| StartError::NotSkiff)?;
        if !token.pins(&authority) {
            return Err(StartError::WrongAuthority(self.server.to_owned()));
        }
        write_if_changed(path, &authority)?;
        Ok(authority)
    }

    async fn cluster_info(&self, remote: Remote) -> Result<ConfigMap, StartError> {
        let client = self.client(remote, "join")?;
        let api = client.namespaced::<ConfigMap>(NAMESPACE);
        self.patiently(|| api.get(NAME)).await
    }

    /// Tries again while the server is not reached; what it says is final.
    async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, StartError> {
        let mut pause = RETRY.0;
        loop {
            match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(error @ ClientError::Transport(_)) => {
                    tracing::warn!(server = self.server, "the server is not reached, trying again: {error}");
                }
                // The server is there but not yet, or not any more, what it will be.
                Err(ClientError::Api(status)) if status.code >= 500 || status.code == 429 => {
                    tracing::warn!(server = self.server, "the server is not ready, trying again: {status}");
                }
                Err(error) => return Err(error.into()),
            }
            self.world.sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    fn remote(&self, authority: &str) -> Remote {
        let certificate_authority = authority.as_bytes().to_vec();
        Remote { server: self.server.to_owned(), certificate_authority, ..Remote::default() }
    }

    fn remote_with_token(&self, authority: &str) -> Result<Remote, StartError> {
        Ok(Remote { token: Some(JoinToken::parse(self.token)?.bearer), ..self.remote(authority) })
    }

    fn remote_as(&self, authority: &str, pair: &Pair) -> Remote {
        let (certificate, key) = (pair.certificate.clone().into_bytes(), pair.key.clone().into_bytes());
        Remote { client_certificate: certificate, client_key: key, ..self.remote(authority) }
    }

    fn client(&self, remote: Remote, agent: &str) -> Result<Client, StartError> {
        Ok(Client::new(Arc::new(self.backend(remote, agent)?)))
    }

    fn backend(&self, remote: Remote, agent: &str) -> Result<HttpBackend, StartError> {
        Ok(HttpBackend::new(remote, self.world.clone(), agent)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_again() {
        let facts = ClusterFacts {
            cluster_cidr: "10.42.0.0/16".to_owned(),
            service_cidr: "10.43.0.0/16".to_owned(),
            cluster_dns: "10.43.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            network: Network::Routed,
        };
        let map: ConfigMap = serde_json::from_value(cluster_info(&facts, "https://a:6443", "PEM")).unwrap();
        assert_eq!(ClusterFacts::read(&map), Some(facts));
        let kubeconfig = Kubeconfig::parse(&map.data.unwrap()["kubeconfig"]).unwrap();
        assert_eq!(kubeconfig.clusters[0].value.server, "https://a:6443");
        assert_eq!(ClusterFacts::read(&ConfigMap::default()), None);
    }
}
