//! Load balancers where no cloud makes them: a Service of type LoadBalancer has the addresses of the nodes, whose
//! proxies take its connections there. Several Services share the addresses as long as their ports differ; one whose
//! port is taken waits. A Service with a `loadBalancerClass` is somebody else's.
//!
//! Where a pool of addresses is set aside, each Service has an address of its own instead, which one node answers for.

mod plan;
mod pool;
mod range;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use skiff_client::{After, Change, Client, ClientError, Key, Patch, Recorder, Store, WorkQueue, Workers, involved};
use skiff_meta::world::Task;

use crate::Context;
use plan::Snapshot;
pub use range::AddressRange;

const NAME: &str = "service-controller";
/// Remote login stays what it is, whatever a Service asks for.
const LOGIN: i32 = 22;

struct Controller {
    client: Client,
    services: Store<Service>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    pool: Vec<AddressRange>,
    recorder: Recorder,
}

/// Starts the controller, unless somebody else balances.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    if !context.options.balance {
        return Vec::new();
    }
    let services = context.informers.all::<Service>();
    let nodes = context.informers.all::<Node>();
    let slices = context.informers.all::<EndpointSlice>();
    // Ports are shared out among all Services, so there is one piece of work.
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    services.on(move |change: &Change<'_, Service>| {
        if change.states().any(|service| plan::is_ours(service)) {
            to_queue.add((), change.trace);
        }
    });
    let (to_queue, all) = (queue.clone(), services.store());
    let any = move || all.list().iter().any(|service| plan::is_ours(service));
    let wanted = any.clone();
    nodes.on(move |change: &Change<'_, Node>| {
        if wanted() {
            to_queue.add((), change.trace);
        }
    });
    let to_queue = queue.clone();
    slices.on(move |change: &Change<'_, EndpointSlice>| {
        if any() {
            to_queue.add((), change.trace);
        }
    });
    let synced = vec![services.synced(), nodes.synced(), slices.synced()];
    let workers = Workers { world: context.world.clone(), name: NAME, count: 1, synced };
    let controller = Arc::new(Controller {
        client: client.with_manager(NAME),
        services: services.store(),
        nodes: nodes.store(),
        slices: slices.store(),
        pool: context.options.balance_pool.clone(),
        recorder: Recorder::new(client, context.world.clone(), NAME, ""),
    });
    workers.start(queue, move |()| {
        let controller = controller.clone();
        async move { controller.reconcile().await }
    })
}

impl Controller {
    async fn reconcile(&self) -> Result<After, ClientError> {
        let (nodes, slices) = (self.nodes.list(), self.slices.list());
        let snapshot = Snapshot { services: self.services.list(), reserved: reserved(&nodes, &slices), nodes, slices };
        if !self.pool.is_empty() {
            for (key, given) in pool::plan(&snapshot, &self.pool) {
                self.give(&key, &given).await?;
            }
            return Ok(After::Change);
        }
        for (key, ingress) in plan::plan(&snapshot) {
            self.write(&key, json!({"status": balanced(&ingress)})).await?;
        }
        Ok(After::Change)
    }

    /// Writes what a Service has from the pool, and who answers for it.
    async fn give(&self, key: &Key, given: &pool::Given) -> Result<(), ClientError> {
        if given.short
            && let Some(service) = self.services.get(&key.namespace, &key.name)
        {
            let why = "no address that the Service could have is left in the pool of load balancers";
            self.recorder.warning(&involved(&*service), "NoAddress", why);
        }
        let annotations = json!({pool::ANNOUNCER: given.announcer});
        self.write(key, json!({"metadata": {"annotations": annotations}, "status": balanced(&given.ingress)})).await
    }

    async fn write(&self, key: &Key, status: Value) -> Result<(), ClientError> {
        let api = self.client.namespaced::<Service>(&key.namespace);
        match api.patch_status(&key.name, &Patch::Merge(status)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn balanced(ingress: &[LoadBalancerIngress]) -> Value {
    json!({"loadBalancer": {"ingress": ingress}})
}

/// Ports of nodes that are not for Services: the agents' and the API server's.
fn reserved(nodes: &[Arc<Node>], slices: &[Arc<EndpointSlice>]) -> BTreeSet<(String, i32)> {
    let agents = nodes
        .iter()
        .filter_map(|node| Some(node.status.as_ref()?.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port));
    let api = slices.iter().filter(|slice| {
        slice.metadata.name.as_deref() == Some("kubernetes") && slice.metadata.namespace.as_deref() == Some("default")
    });
    let api = api.flat_map(|slice| slice.ports.iter().flatten()).filter_map(|port| port.port);
    agents.chain(api).chain([LOGIN]).map(|port| ("TCP".to_owned(), port)).collect()
}
