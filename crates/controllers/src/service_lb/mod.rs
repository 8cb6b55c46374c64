//! Load balancers where no cloud makes them: a Service of type LoadBalancer has the addresses of the nodes, whose
//! proxies take its connections there. Several Services share the addresses as long as their ports differ; one whose
//! port is taken waits. A Service with a `loadBalancerClass` is somebody else's.

mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use skiff_client::{After, Change, Client, ClientError, Patch, Store, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;
use plan::Snapshot;

const NAME: &str = "service-controller";
/// Remote login stays what it is, whatever a Service asks for.
const LOGIN: i32 = 22;

struct Controller {
    client: Client,
    services: Store<Service>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
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
        for (key, ingress) in plan::plan(&snapshot) {
            let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
            let api = self.client.namespaced::<Service>(&key.namespace);
            match api.patch_status(&key.name, &Patch::Merge(status)).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(After::Change)
    }
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
