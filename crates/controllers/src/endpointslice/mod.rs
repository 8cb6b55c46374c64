//! EndpointSlices: who stands behind a Service right now, in pieces small enough to be sent around.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Informer, Key, Kind, Recorder, Store, WorkQueue, Workers,
    involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::services::{MANAGED_BY, SERVICE_NAME, enqueue_services, selected_pods, selecting};
use crate::shared::{Expectations, namespace_terminating, node_of, revision_of};
use plan::{MANAGER, Plan, Snapshot};

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    services: Store<Service>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    /// By namespace and name of their Service; ours only.
    of_service: Index<EndpointSlice>,
    expectations: Expectations,
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    labels.get(SERVICE_NAME).filter(|_| ours).map(|name| Key::new(slice.namespace(), &**name))
}

/// Starts the EndpointSlice controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let services = context.informers.all::<Service>();
    let pods = context.informers.all::<Pod>();
    let nodes = context.informers.all::<Node>();
    let slices = context.informers.all::<EndpointSlice>();
    let queue = WorkQueue::new(context.world.clone());
    enqueue_services(&services, &pods, &queue);
    let to_queue = queue.clone();
    slices.on(move |change: &Change<'_, EndpointSlice>| {
        for key in change.states().filter_map(|slice| service_of(slice)) {
            to_queue.add(key, change.trace);
        }
    });
    enqueue_with_nodes(context, &nodes, &services, &queue);
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "endpoint-slice-controller", ""),
        client,
        world: context.world.clone(),
        services: services.store(),
        pods: pods.store(),
        nodes: nodes.store(),
        of_service: slices.index(|slice| service_of(slice).iter().map(Key::to_string).collect()),
        slices: slices.store(),
        expectations: Expectations::default(),
    });
    let workers = Workers {
        world: context.world.clone(),
        name: "endpointslice-controller",
        count: WORKERS,
        synced: vec![services.synced(), pods.synced(), nodes.synced(), slices.synced()],
    };
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

/// A node that comes, goes or changes its zone changes the endpoints of its pods.
fn enqueue_with_nodes(context: &Context, nodes: &Informer<Node>, services: &Informer<Service>, queue: &WorkQueue<Key>) {
    let (on_node, services, queue) = (context.pods_by_node.clone(), services.store(), queue.clone());
    nodes.on(move |change: &Change<'_, Node>| {
        let labels = |node: Option<&Arc<Node>>| node.and_then(|node| node.metadata.labels.clone());
        if change.old.is_some() && change.new.is_some() && labels(change.old) == labels(change.new) {
            return;
        }
        for pod in on_node.get(&change.key().name) {
            for service in services.in_namespace(pod.namespace()) {
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                let selector = crate::shared::map_selector(selector);
                if crate::shared::selects(&selector, pod.metadata.labels.as_ref()) {
                    queue.add(Key::of(&*service), change.trace);
                }
            }
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(service) = self.services.get_key(key) else {
            // The garbage collector takes the slices.
            self.expectations.forget(key);
            return Ok(After::Change);
        };
        let Some(spec) = selecting(&service) else { return Ok(After::Change) };
        if !self.expectations.met(key, &self.slices, self.world.elapsed()) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let pods = selected_pods(spec, &key.namespace, &self.pods);
        let slices: Vec<_> =
            self.of_service.get(&key.to_string()).into_iter().filter(|slice| !slice.deleting()).collect();
        let names = pods.iter().map(|pod| node_of(pod));
        let nodes: BTreeMap<String, Arc<Node>> =
            names.filter_map(|name| Some((name.to_owned(), self.nodes.get("", name)?))).collect();
        let snapshot = Snapshot { service: &service, spec, pods: &pods, nodes: &nodes, slices: &slices };
        match self.execute(key, plan::plan(&snapshot)).await {
            Err(error) if namespace_terminating(&error) => Ok(After::Change),
            Err(error) => {
                let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
                self.recorder.warning(&involved(&*service), "FailedToUpdateEndpointSlices", message);
                Err(error)
            }
            Ok(()) => Ok(After::Change),
        }
    }

    async fn execute(&self, key: &Key, plan: Plan) -> Result<(), ClientError> {
        let api = self.client.namespaced::<EndpointSlice>(&key.namespace);
        for slice in &plan.create {
            let written = api.create(slice).await?;
            self.expectations.wrote(key, revision_of(&written), self.world.elapsed());
        }
        for slice in &plan.update {
            let written = api.update(slice).await?;
            self.expectations.wrote(key, revision_of(&written), self.world.elapsed());
        }
        for slice in &plan.delete {
            match api.delete(slice.name(), &DeleteOptions::uid(slice.uid())).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => self.expectations.deletes(key, std::iter::once(&**slice), self.world.elapsed()),
            }
        }
        Ok(())
    }
}
