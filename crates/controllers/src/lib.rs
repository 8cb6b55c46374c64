//! The controllers: what is declared becomes what is.
//!
//! Each controller lives in a folder: `plan.rs` computes from a snapshot what to do, as a plain value and without any
//! I/O; `mod.rs` wires informers to a queue, and plans to writes through the API. Controllers share the caches
//! ([`skiff_client::Informers`]) but not their identity: each writes as the service account upstream gives it.

mod account_tokens;
mod attach_detach;
mod autoscaler;
mod bootstrap_tokens;
mod certificates;
mod cronjob;
mod daemonset;
mod deployment;
mod device_taint_eviction;
mod disruption;
mod endpoint;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral;
mod gc;
mod job;
mod local_path;
mod namespace;
mod node_certificates;
mod node_ttl;
mod nodes;
mod pod_gc;
mod quota;
mod replicaset;
mod resource_claim;
mod roles;
#[cfg(test)]
mod rollout_tests;
mod rootca;
mod service_cidr;
mod service_lb;
mod serviceaccount;
mod shared;
mod statefulset;
#[cfg(test)]
mod testing;
mod ttl;
mod volume_expand;
mod volume_protection;
mod volumes;

pub use service_lb::AddressRange;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use skiff_client::{Client, Index, Informers, Kind};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

/// The one name that [`start`] asks a client for that is no service account: the user
/// `system:kube-controller-manager`, who fills the shared caches.
pub const SHARED_INFORMERS: &str = "shared-informers";

/// Settings of the controllers.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// PEM of the authority that signs the API server's certificate; `None`: nothing is published.
    pub root_ca: Option<String>,
    /// Where nodes' ranges of pod addresses come from: one range, or one of each family; empty: nobody gets one.
    pub cluster_cidrs: Vec<PodRange>,
    /// Where Services' addresses come from, which no node gets.
    pub service_cidrs: Vec<IpNet>,
    /// The authority that signs approved certificate requests; `None`: nobody does.
    pub authority: Option<SigningAuthority>,
    /// Who signs the tokens that Secrets hold; `None`: nobody, and such Secrets stay as they are.
    pub token_signer: Option<Arc<dyn TokenSigner>>,
    /// Whether Services of type LoadBalancer get addresses.
    pub balance: bool,
    /// Where those come from; empty: they are the nodes' own.
    pub balance_pool: Vec<AddressRange>,
    /// The node that the control plane runs on, which a role label tells; empty: none. Nodes may not say so themselves.
    pub control_plane_node: String,
}

/// A range of pod addresses, and how it is divided among nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRange {
    /// The whole of it, such as `10.42.0.0/16`.
    pub range: IpNet,
    /// How long the prefix of a node's part is, such as 24.
    pub node_prefix: u8,
}

/// Signs tokens of service accounts.
pub trait TokenSigner: fmt::Debug + Send + Sync {
    /// A token that says `claims`; `None` where it cannot be signed now.
    fn sign(&self, claims: &Value) -> Option<String>;
}

/// An authority with its key.
#[derive(Clone)]
pub struct SigningAuthority {
    /// PEM of its certificate.
    pub certificate: String,
    /// PEM of its key.
    pub key: String,
    /// How long what it signs lasts at most, and where nobody asks for less (upstream: `--cluster-signing-duration`).
    pub longest: Duration,
}

impl fmt::Debug for SigningAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningAuthority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What all controllers share.
pub(crate) struct Context {
    pub(crate) world: WorldRef,
    pub(crate) informers: Informers,
    /// Pods by the UID of their managing controller; those without one under [`replicaset::orphans`].
    pub(crate) pods_by_controller: Index<Pod>,
    /// Pods by the name of their node; those without one under the empty name.
    pub(crate) pods_by_node: Index<Pod>,
    pub(crate) options: Options,
}

impl Context {
    fn new(world: WorldRef, informers: Informers, options: Options) -> Self {
        let pods_by_controller = informers.all::<Pod>().index(|pod| {
            let controller = shared::controller_of(pod).map(|owner| owner.uid.clone());
            vec![controller.unwrap_or_else(|| replicaset::orphans(pod.namespace()))]
        });
        let pods_by_node = informers.all::<Pod>().index(|pod| vec![shared::node_of(pod).to_owned()]);
        Self { world, informers, pods_by_controller, pods_by_node, options }
    }
}

type Start = fn(&Context, Client) -> Vec<Task>;

/// Each controller with the service account (in `kube-system`) it acts as.
const CONTROLLERS: &[(&str, Start)] = &[
    ("attachdetach-controller", attach_detach::start),
    // Upstream, too, writes tokens as the controller manager itself.
    (SHARED_INFORMERS, account_tokens::start),
    ("bootstrap-signer", bootstrap_tokens::signer::start),
    ("certificate-controller", certificates::start),
    ("certificate-controller", node_certificates::start),
    ("clusterrole-aggregation-controller", roles::start),
    ("cronjob-controller", cronjob::start),
    ("daemon-set-controller", daemonset::start),
    ("deployment-controller", deployment::start),
    ("device-taint-eviction-controller", device_taint_eviction::start),
    ("disruption-controller", disruption::start),
    ("endpoint-controller", endpoint::start),
    ("endpointslice-controller", endpointslice::start),
    ("endpointslicemirroring-controller", endpointslice_mirroring::start),
    ("ephemeral-volume-controller", ephemeral::start),
    ("expand-controller", volume_expand::start),
    ("generic-garbage-collector", gc::start),
    ("horizontal-pod-autoscaler", autoscaler::start),
    ("job-controller", job::start),
    ("legacy-service-account-token-cleaner", account_tokens::cleaner::start),
    ("local-path-provisioner", local_path::start),
    ("namespace-controller", namespace::start),
    ("node-controller", nodes::start),
    ("persistent-volume-binder", volumes::start),
    ("pod-garbage-collector", pod_gc::start),
    ("pv-protection-controller", volume_protection::start_volumes),
    ("pvc-protection-controller", volume_protection::start_claims),
    ("volumeattributesclass-protection-controller", volume_protection::start_classes),
    ("replicaset-controller", replicaset::start_replicasets),
    ("replication-controller", replicaset::start_replication_controllers),
    ("resource-claim-controller", resource_claim::start),
    ("resourcequota-controller", quota::start),
    ("root-ca-cert-publisher", rootca::start),
    ("service-account-controller", serviceaccount::start),
    ("service-cidrs-controller", service_cidr::start),
    ("service-controller", service_lb::start),
    ("statefulset-controller", statefulset::start),
    ("token-cleaner", bootstrap_tokens::start),
    ("ttl-after-finished-controller", ttl::start),
    ("ttl-controller", node_ttl::start),
];

/// Starts all controllers. `make_client` makes a client that acts as the service account of that name in `kube-system`
/// (but see [`SHARED_INFORMERS`]). Aborting the tasks stops them.
pub fn start(make_client: &dyn Fn(&str) -> Client, world: WorldRef, options: Options) -> Vec<Task> {
    let informers = Informers::new(make_client(SHARED_INFORMERS), world.clone());
    let context = Context::new(world, informers, options);
    CONTROLLERS.iter().flat_map(|(account, start)| start(&context, make_client(account))).collect()
}
