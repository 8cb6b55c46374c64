//! The controllers: what is declared becomes what is.
//!
//! Each controller lives in a folder: `plan.rs` computes from a snapshot what to do, as a plain value and without any
//! I/O; `mod.rs` wires informers to a queue, and plans to writes through the API. Controllers share the caches
//! ([`skiff_client::Informers`]) but not their identity: each writes as the service account upstream gives it.

mod replicaset;
mod shared;

use k8s_openapi::api::core::v1::Pod;
use skiff_client::{Client, Index, Informers, Kind};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

/// The one name that [`start`] asks a client for that is no service account: the user
/// `system:kube-controller-manager`, who fills the shared caches.
pub const SHARED_INFORMERS: &str = "shared-informers";

/// What all controllers share.
pub(crate) struct Context {
    pub(crate) world: WorldRef,
    pub(crate) informers: Informers,
    /// Pods by the UID of their managing controller; those without one under [`replicaset::orphans`].
    pub(crate) pods_by_controller: Index<Pod>,
}

/// Settings of the controllers.
#[derive(Clone, Debug, Default)]
pub struct Options {}

type Start = fn(&Context, Client) -> Vec<Task>;

/// Each controller with the service account (in `kube-system`) it acts as.
const CONTROLLERS: &[(&str, Start)] = &[
    ("replicaset-controller", replicaset::start_replicasets),
    ("replication-controller", replicaset::start_replication_controllers),
];

/// Starts all controllers. `make_client` makes a client that acts as the service account of that name in `kube-system`
/// (but see [`SHARED_INFORMERS`]). Aborting the tasks stops them.
pub fn start(make_client: &dyn Fn(&str) -> Client, world: WorldRef, _options: Options) -> Vec<Task> {
    let informers = Informers::new(make_client(SHARED_INFORMERS), world.clone());
    let pods_by_controller = informers.all::<Pod>().index(|pod| {
        let controller = shared::controller_of(pod).map(|owner| owner.uid.clone());
        vec![controller.unwrap_or_else(|| replicaset::orphans(pod.namespace()))]
    });
    let context = Context { world, informers, pods_by_controller };
    CONTROLLERS.iter().flat_map(|(account, start)| start(&context, make_client(account))).collect()
}
