//! Mirroring: Endpoints that somebody keeps by hand, for a Service without a selector, become EndpointSlices, which is
//! what proxies read.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Key, Kind, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::services::{MANAGED_BY, SERVICE_NAME};
use crate::shared::{Expectations, namespace_terminating, revision_of};

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    endpoints: Store<Endpoints>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    /// By namespace and name of their Endpoints; ours only.
    of_endpoints: Index<EndpointSlice>,
    expectations: Expectations,
}

fn mirrored_from(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == plan::MANAGER);
    labels.get(SERVICE_NAME).filter(|_| ours).map(|name| Key::new(slice.namespace(), &**name))
}

/// Starts the mirroring controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let endpoints = context.informers.all::<Endpoints>();
    let services = context.informers.all::<Service>();
    let slices = context.informers.all::<EndpointSlice>();
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    endpoints.on(move |change: &Change<'_, Endpoints>| to_queue.add(change.key(), change.trace));
    let to_queue = queue.clone();
    services.on(move |change: &Change<'_, Service>| {
        let selects = |service: Option<&Arc<Service>>| {
            service.map(|service| service.spec.as_ref().is_some_and(|spec| spec.selector.is_some()))
        };
        if selects(change.old) != selects(change.new) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let to_queue = queue.clone();
    slices.on(move |change: &Change<'_, EndpointSlice>| {
        for key in change.states().filter_map(|slice| mirrored_from(slice)) {
            to_queue.add(key, change.trace);
        }
    });
    let synced = vec![endpoints.synced(), services.synced(), slices.synced()];
    let name = "endpointslicemirroring-controller";
    let workers = Workers { world: context.world.clone(), name, count: 2, synced };
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "endpoint-slice-mirroring-controller", ""),
        client,
        world: context.world.clone(),
        endpoints: endpoints.store(),
        services: services.store(),
        of_endpoints: slices.index(|slice| mirrored_from(slice).iter().map(Key::to_string).collect()),
        slices: slices.store(),
        expectations: Expectations::default(),
    });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        if !self.expectations.met(key, &self.slices, self.world.elapsed()) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let by_hand = |service: Arc<Service>| service.spec.as_ref().is_some_and(|spec| spec.selector.is_none());
        let wanted = self.services.get_key(key).is_some_and(by_hand);
        let endpoints = self.endpoints.get_key(key).filter(|endpoints| wanted && plan::is_mirrored(endpoints));
        let slices = self.of_endpoints.get(&key.to_string());
        let slices: Vec<_> = slices.into_iter().filter(|slice| !slice.deleting()).collect();
        let plan = plan::plan(endpoints.as_deref(), &slices);
        if let Some(endpoints) = &endpoints {
            self.tell(endpoints, &plan);
        }
        let api = self.client.namespaced::<EndpointSlice>(&key.namespace);
        for slice in &plan.create {
            match api.create(slice).await {
                Ok(written) => self.expectations.wrote(key, revision_of(&written), self.world.elapsed()),
                Err(error) if namespace_terminating(&error) => return Ok(After::Change),
                Err(error) => return Err(error),
            }
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
        Ok(After::Change)
    }

    fn tell(&self, endpoints: &Endpoints, plan: &plan::Plan) {
        let about = involved(endpoints);
        if plan.invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", plan.invalid);
            self.recorder.warning(&about, "InvalidIPAddress", message);
        }
        if plan.skipped > 0 {
            let message = format!(
                "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. {} \
                                   addresses were skipped",
                plan.skipped
            );
            self.recorder.warning(&about, "TooManyAddressesToMirror", message);
        }
    }
}
