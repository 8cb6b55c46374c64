//! Endpoints: the older form of who stands behind a Service, one object each.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Informer, Key, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::services::{enqueue_services, selected_pods, selecting};
use crate::shared::{Expectations, namespace_terminating, revision_of};

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
    expectations: Expectations,
}

/// Starts the Endpoints controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let services = context.informers.all::<Service>();
    let pods = context.informers.all::<Pod>();
    let endpoints = context.informers.all::<Endpoints>();
    let queue = WorkQueue::new(context.world.clone());
    enqueue_services(&services, &pods, &queue);
    let (to_queue, known) = (queue.clone(), services.store());
    endpoints.on(move |change: &Change<'_, Endpoints>| {
        // Endpoints may be there before their Service: they are nobody's left-overs then.
        if known.get_key(&change.key()).is_some() {
            to_queue.add(change.key(), change.trace);
        }
    });
    let left_over = look_for_left_overs(context, &endpoints, &queue);
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "endpoint-controller", ""),
        client,
        world: context.world.clone(),
        services: services.store(),
        pods: pods.store(),
        endpoints: endpoints.store(),
        expectations: Expectations::default(),
    });
    let workers = Workers {
        world: context.world.clone(),
        name: "endpoint-controller",
        count: WORKERS,
        synced: vec![services.synced(), pods.synced(), endpoints.synced()],
    };
    let mut tasks = workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
    tasks.push(left_over);
    tasks
}

/// Once at the start: Endpoints whose Service went while nobody watched.
fn look_for_left_overs(context: &Context, endpoints: &Informer<Endpoints>, queue: &WorkQueue<Key>) -> Task {
    let (synced, store, queue) = (endpoints.synced(), endpoints.store(), queue.clone());
    let look = async move {
        synced.wait().await;
        for endpoints in store.list() {
            queue.add(Key::of(&*endpoints), None);
        }
    };
    context.world.spawn("endpoint-controller", Box::pin(look))
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let api = self.client.namespaced::<Endpoints>(&key.namespace);
        let Some(service) = self.services.get_key(key) else {
            self.expectations.forget(key);
            return match self.endpoints.get_key(key).filter(|endpoints| is_left_over(endpoints)) {
                Some(_) => match api.delete(&key.name, &DeleteOptions::default()).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(After::Change),
                },
                None => Ok(After::Change),
            };
        };
        let Some(spec) = selecting(&service) else { return Ok(After::Change) };
        if !self.expectations.met(key, &self.endpoints, self.world.elapsed()) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let pods = selected_pods(spec, &key.namespace, &self.pods);
        let current = self.endpoints.get_key(key);
        let wanted = plan::endpoints(&service, spec, &pods, current.as_deref());
        let outcome = match &current {
            Some(current) if plan::same(current, &wanted) => return Ok(After::Change),
            Some(_) => api.update(&wanted).await,
            None => api.create(&wanted).await,
        };
        match outcome {
            Ok(written) => {
                self.expectations.wrote(key, revision_of(&written), self.world.elapsed());
                Ok(After::Change)
            }
            Err(error) if namespace_terminating(&error) => Ok(After::Change),
            Err(error) => {
                let reason = if current.is_some() { "FailedToUpdateEndpoint" } else { "FailedToCreateEndpoint" };
                self.recorder.warning(&involved(&*service), reason, format!("{key}: {error}"));
                Err(error)
            }
        }
    }
}

/// Whether Endpoints without a Service may go: the old leader election kept its record in such objects.
fn is_left_over(endpoints: &Endpoints) -> bool {
    let annotations = endpoints.metadata.annotations.as_ref();
    !annotations.is_some_and(|annotations| annotations.contains_key("control-plane.alpha.kubernetes.io/leader"))
}
