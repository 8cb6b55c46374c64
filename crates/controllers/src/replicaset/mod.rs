//! ReplicaSets and ReplicationControllers: as many pods as asked for.
//!
//! Both kinds are the same to this controller; [`Replicated`] names what differs.

mod kinds;
mod plan;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Informer, Key, Kind, Recorder, Store, WorkQueue, Workers,
    involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{
    Expectations, Selector, Settling, claims, controller_of, doubt, enqueue_owners, execute_claims,
    namespace_terminating, pod_from_template, revision_of, slow_start,
};
use plan::{Snapshot, Step};

/// A kind that keeps a number of pods.
pub(crate) trait Replicated: Kind {
    /// Whether its status has `terminatingReplicas`.
    const COUNTS_TERMINATING: bool;
    /// How many pods it wants.
    fn replicas(&self) -> usize;
    /// For how long pods must be ready to count as available, in seconds.
    fn min_ready_seconds(&self) -> i32;
    /// Which pods are its own.
    fn selector(&self) -> Selector;
    /// What its pods look like.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// Its status, in the form of a ReplicaSet's.
    fn status(&self) -> ReplicaSetStatus;
    /// The same object with another status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

/// How many sets are worked on at the same time.
const WORKERS: usize = 5;

struct Controller<R> {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    sets: Store<R>,
    by_owner: Index<R>,
    pods: Store<Pod>,
    pods_of: Index<Pod>,
    expectations: Expectations,
    settling: Settling,
}

/// Starts the ReplicaSet controller.
pub(crate) fn start_replicasets(context: &Context, client: Client) -> Vec<Task> {
    start::<ReplicaSet>(context, client, "replicaset-controller")
}

/// Starts the ReplicationController controller.
pub(crate) fn start_replication_controllers(context: &Context, client: Client) -> Vec<Task> {
    start::<ReplicationController>(context, client, "replication-controller")
}

fn start<R: Replicated>(context: &Context, client: Client, name: &'static str) -> Vec<Task> {
    let (sets, pods): (Informer<R>, Informer<Pod>) = (context.informers.all(), context.informers.all());
    let queue = WorkQueue::new(context.world.clone());
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), name, ""),
        client,
        world: context.world.clone(),
        by_owner: sets.by_owner(),
        sets: sets.store(),
        pods: pods.store(),
        pods_of: context.pods_by_controller.clone(),
        expectations: Expectations::default(),
        settling: Settling::default(),
    });
    let to_queue = queue.clone();
    sets.on(move |change: &Change<'_, R>| to_queue.add(change.key(), change.trace));
    enqueue_owners(&sets, &pods, &queue, R::selector);
    let workers =
        Workers { world: context.world.clone(), name, count: WORKERS, synced: vec![sets.synced(), pods.synced()] };
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl<R: Replicated> Controller<R> {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(set) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            self.settling.forget(key);
            return Ok(After::Change);
        };
        let candidates = self.pods_of.get(set.uid()).into_iter().chain(self.pods_of.get(&orphans(&key.namespace)));
        let candidates = candidates.filter(|pod| !skiff_api::pods::is_finished(pod));
        let claim = claims(&*set, &set.selector(), candidates);
        let (sets, pods) = (self.client.namespaced::<R>(&key.namespace), self.client.namespaced::<Pod>(&key.namespace));
        if execute_claims(&sets, &pods, &*set, &claim).await? {
            // What was adopted or released comes back as a change.
            return Ok(After::Change);
        }
        let now = self.world.elapsed();
        let caught_up = self.expectations.met(key, &self.pods, now);
        let related = self.related(&set);
        let snapshot = Snapshot { set: &*set, pods: &claim.ours, related: &related, caught_up, now: self.world.now() };
        let outcome = match plan::step(&snapshot) {
            Step::Keep if !caught_up => return Ok(After::Delay(Expectations::limit())),
            Step::Keep => return self.write_status(key, &snapshot, None).await,
            Step::Create(count) => self.create(key, &set, count).await,
            Step::Delete(pods) => self.delete(key, &set, pods).await,
        };
        match outcome {
            // The pods themselves will tell the rest.
            Ok(()) => Ok(After::Change),
            Err((reason, error)) => {
                self.write_status(key, &snapshot, Some((reason, error.to_string()))).await?;
                Err(error)
            }
        }
    }

    /// Pods of all sets that have the same managing controller.
    fn related(&self, set: &R) -> Vec<Arc<Pod>> {
        let siblings = controller_of(set).map(|owner| self.by_owner.get(&owner.uid)).unwrap_or_default();
        if siblings.is_empty() {
            return self.pods_of.get(set.uid());
        }
        siblings.iter().flat_map(|sibling| self.pods_of.get(sibling.uid())).collect()
    }

    async fn create(&self, key: &Key, set: &R, count: usize) -> Result<(), (&'static str, ClientError)> {
        let Some(template) = set.template() else { return Ok(()) };
        let api = self.client.namespaced::<Pod>(&key.namespace);
        let pod = pod_from_template(template, set);
        let (api, pods) = (&api, vec![&pod; count]);
        let (made, failure) = slow_start(&pods, |pod| async move { api.create(pod).await }).await;
        let about = involved(set);
        for pod in &made {
            self.expectations.wrote(key, revision_of(pod), self.world.elapsed());
            self.recorder.normal(&about, "SuccessfulCreate", format!("Created pod: {}", pod.name()));
        }
        if let Some(error) = &failure
            && let Some(revision) = doubt::seen_at(api, set, error).await
        {
            self.expectations.wrote(key, revision, self.world.elapsed());
        }
        match failure {
            // Nothing can be created there any more, and nothing needs to be.
            Some(error) if namespace_terminating(&error) => Ok(()),
            Some(error) => {
                self.recorder.warning(&about, "FailedCreate", format!("Error creating: {error}"));
                Err(("FailedCreate", error))
            }
            None => Ok(()),
        }
    }

    async fn delete(&self, key: &Key, set: &R, pods: Vec<Arc<Pod>>) -> Result<(), (&'static str, ClientError)> {
        let api = self.client.namespaced::<Pod>(&key.namespace);
        self.expectations.deletes(key, pods.iter().map(|pod| &**pod), self.world.elapsed());
        let (api, about) = (&api, involved(set));
        let calls = pods.iter().map(|pod| async move {
            let outcome = api.delete(pod.name(), &DeleteOptions::uid(pod.uid())).await;
            (pod, outcome)
        });
        let mut failure = None;
        for (pod, outcome) in futures::future::join_all(calls).await {
            match outcome {
                Ok(()) => {
                    self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                }
                // Gone already, or replaced: the cache will see it.
                Err(error) if error.is_not_found() || error.is_conflict() => {
                    self.expectations.kept(key, &Key::of(&**pod));
                }
                Err(error) => {
                    self.expectations.kept(key, &Key::of(&**pod));
                    self.recorder.warning(&about, "FailedDelete", format!("Error deleting: {error}"));
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), |error| Err(("FailedDelete", error)))
    }

    async fn write_status(
        &self,
        key: &Key,
        snapshot: &Snapshot<'_, R>,
        failure: Option<(&str, String)>,
    ) -> Result<After, ClientError> {
        let set = snapshot.set;
        let status = plan::status(snapshot, failure);
        if status != set.status() {
            let at_rest = plan::at_rest(set, &status);
            if let Some(wait) = self.settling.wait(key, at_rest, self.world.elapsed()) {
                return Ok(After::Delay(wait));
            }
            self.client.namespaced::<R>(&key.namespace).update_status(&set.with_status(status)).await?;
        }
        Ok(plan::next_available(snapshot).map_or(After::Change, After::Delay))
    }
}

/// The value under which [`Context::pods_by_controller`] lists pods of a namespace that nobody manages.
pub(crate) fn orphans(namespace: &str) -> String {
    format!("orphans/{namespace}")
}
