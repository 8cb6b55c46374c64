//! Jobs: pods that run to an end, as often as asked for.

mod indexes;
mod plan;
mod pods;
mod policy;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Informer, Key, Kind, Patch, Recorder, Store, WorkQueue,
    Workers, involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::replicaset::orphans;
use crate::shared::{
    Expectations, Settling, claims, controller_of, doubt, enqueue_owners, execute_claims, namespace_terminating,
    revision_of, selector, slow_start,
};
use plan::{Plan, Snapshot};

const WORKERS: usize = 5;
/// How many pods are written at a time.
const AT_ONCE: usize = 16;
/// The value of `spec.managedBy` that means us.
const MANAGER: &str = "kubernetes.io/job-controller";

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    jobs: Store<Job>,
    pods: Store<Pod>,
    pods_of: Index<Pod>,
    expectations: Expectations,
    /// Our own statuses: counting again from an older one would start work that is done.
    counted: Expectations,
    settling: Settling,
}

/// Starts the Job controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (jobs, pods) = (context.informers.all::<Job>(), context.informers.all::<Pod>());
    let queue = WorkQueue::new(context.world.clone());
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "job-controller", ""),
        client,
        world: context.world.clone(),
        jobs: jobs.store(),
        pods: pods.store(),
        pods_of: context.pods_by_controller.clone(),
        expectations: Expectations::default(),
        counted: Expectations::default(),
        settling: Settling::default(),
    });
    let to_queue = queue.clone();
    jobs.on(move |change: &Change<'_, Job>| to_queue.add(change.key(), change.trace));
    enqueue_owners(&jobs, &pods, &queue, |job| selector(job.spec.as_ref().and_then(|spec| spec.selector.as_ref())));
    let mut tasks = release_orphans(context, &controller, &jobs, &pods);
    let synced = vec![jobs.synced(), pods.synced()];
    let workers = Workers { world: context.world.clone(), name: "job-controller", count: WORKERS, synced };
    tasks.extend(workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    }));
    tasks
}

/// Pods whose Job is gone or finished are counted by nobody: their finalizer must not keep them.
fn release_orphans(
    context: &Context,
    controller: &Arc<Controller>,
    jobs: &Informer<Job>,
    pods: &Informer<Pod>,
) -> Vec<Task> {
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let (to_queue, known) = (queue.clone(), controller.clone());
    pods.on(move |change: &Change<'_, Pod>| {
        if change.new.is_some_and(|pod| known.is_orphan(pod)) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let (to_queue, known) = (queue.clone(), controller.clone());
    jobs.on(move |change: &Change<'_, Job>| {
        let Some(job) = change.object() else { return };
        if change.new.is_none_or(|job| plan::is_finished_job(job)) {
            for pod in known.pods_of.get(job.uid()).iter().filter(|pod| pods::is_tracked(pod)) {
                to_queue.add(Key::of(&**pod), change.trace);
            }
        }
    });
    let synced = vec![jobs.synced(), pods.synced()];
    let workers = Workers { world: context.world.clone(), name: "job-controller-orphans", count: 1, synced };
    let controller = controller.clone();
    workers.start(queue, move |key: Key| {
        let controller = controller.clone();
        async move {
            let pod = controller.pods.get_key(&key).filter(|pod| controller.is_orphan(pod));
            if let Some(pod) = pod {
                controller.release(&pod).await?;
            }
            Ok::<_, ClientError>(After::Change)
        }
    })
}

fn is_ours(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref()).is_none_or(|manager| manager == MANAGER)
}

/// Does it to all pods, some at a time, and begins with no more after a failure.
async fn each<'a, F: Future<Output = Result<(), ClientError>>>(
    pods: &'a [Arc<Pod>],
    act: impl Fn(&'a Arc<Pod>) -> F,
) -> Result<(), ClientError> {
    for some in pods.chunks(AT_ONCE) {
        futures::future::join_all(some.iter().map(&act)).await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}

impl Controller {
    fn is_orphan(&self, pod: &Pod) -> bool {
        if !pods::is_tracked(pod) {
            return false;
        }
        let Some(owner) = controller_of(pod) else { return true };
        if owner.kind != "Job" {
            return false;
        }
        let job = self.jobs.get(pod.namespace(), &owner.name).filter(|job| job.uid() == owner.uid);
        job.is_none_or(|job| is_ours(&job) && plan::is_finished_job(&job))
    }

    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(job) = self.jobs.get_key(key) else {
            self.expectations.forget(key);
            self.counted.forget(key);
            self.settling.forget(key);
            return Ok(After::Change);
        };
        let Some(spec) = job.spec.as_ref().filter(|_| is_ours(&job) && !plan::is_finished_job(&job)) else {
            return Ok(After::Change);
        };
        let selector = selector(spec.selector.as_ref());
        let candidates = self.pods_of.get(job.uid()).into_iter().chain(self.pods_of.get(&orphans(&key.namespace)));
        let mut claim = claims(&*job, &selector, candidates);
        claim.finalizer = Some(pods::FINALIZER);
        let (jobs, pods) = (self.client.namespaced::<Job>(&key.namespace), self.client.namespaced(&key.namespace));
        if execute_claims::<Job, Pod>(&jobs, &pods, &*job, &claim).await? {
            return Ok(After::Change);
        }
        let now = self.world.elapsed();
        if !self.expectations.met(key, &self.pods, now) || !self.counted.met(key, &self.jobs, now) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let snapshot = Snapshot { job: &job, spec, pods: &claim.ours, now: self.world.now() };
        self.execute(key, &job, plan::plan(&snapshot)).await
    }

    async fn execute(&self, key: &Key, job: &Job, plan: Plan) -> Result<After, ClientError> {
        let about = involved(job);
        each(&plan.discard, |pod| self.release(pod)).await?;
        each(&plan.stop, |pod| self.delete(key, job, pod)).await?;
        each(&plan.discard, |pod| self.delete(key, job, pod)).await?;
        self.create(key, job, &plan.create).await?;
        if let Some(status) = plan.status {
            if let Some(wait) = self.settling.wait(key, plan.at_rest, self.world.elapsed()) {
                // Finalizers go only after their pods are noted.
                return Ok(After::Delay(plan.look_again.map_or(wait, |other| other.min(wait))));
            }
            let updated = Job { status: Some(status), ..job.clone() };
            let written = self.client.namespaced::<Job>(&key.namespace).update_status(&updated).await?;
            self.counted.wrote(key, revision_of(&written), self.world.elapsed());
        }
        each(&plan.release, |pod| self.release(pod)).await?;
        for (reason, message) in &plan.events {
            match *reason {
                "Failed" => {
                    let (reason, message) = message.split_once(": ").unwrap_or((reason, message));
                    self.recorder.warning(&about, reason, message);
                }
                _ => self.recorder.normal(&about, reason, &**message),
            }
        }
        Ok(plan.look_again.map_or(After::Change, After::Delay))
    }

    async fn create(&self, key: &Key, job: &Job, pods: &[Pod]) -> Result<(), ClientError> {
        let (api, about) = (self.client.namespaced::<Pod>(&key.namespace), involved(job));
        let api = &api;
        let (made, failure) = slow_start(pods, |pod| async move { api.create(pod).await }).await;
        for pod in &made {
            self.expectations.wrote(key, revision_of(pod), self.world.elapsed());
            self.recorder.normal(&about, "SuccessfulCreate", format!("Created pod: {}", pod.name()));
        }
        if let Some(error) = &failure
            && let Some(revision) = doubt::seen_at(api, job, error).await
        {
            self.expectations.wrote(key, revision, self.world.elapsed());
        }
        match failure {
            Some(error) if namespace_terminating(&error) => Ok(()),
            Some(error) => {
                self.recorder.warning(&about, "FailedCreate", format!("Error creating: {error}"));
                Err(error)
            }
            None => Ok(()),
        }
    }

    async fn delete(&self, key: &Key, job: &Job, pod: &Arc<Pod>) -> Result<(), ClientError> {
        let (api, about) = (self.client.namespaced::<Pod>(&key.namespace), involved(job));
        match api.delete(pod.name(), &DeleteOptions::uid(pod.uid())).await {
            Ok(()) => {
                self.expectations.deletes(key, std::iter::once(&**pod), self.world.elapsed());
                self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                self.recorder.warning(&about, "FailedDelete", format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }

    /// Takes our finalizer off a pod.
    async fn release(&self, pod: &Pod) -> Result<(), ClientError> {
        let gone = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [pods::FINALIZER]}});
        let api = self.client.namespaced::<Pod>(pod.namespace());
        match api.patch(pod.name(), &Patch::Strategic(gone)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}
