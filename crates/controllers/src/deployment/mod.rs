//! Deployments: one ReplicaSet per revision, and the way from one to the next.

mod draft;
mod facts;
mod plan;
mod revision;
mod scale;
mod status;

use std::sync::Arc;

use http::Method;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use skiff_api::pods::is_finished;
use skiff_client::{
    After, Call, Change, Client, ClientError, DeleteOptions, Index, Key, Kind, Recorder, Store, WorkQueue, Workers,
    involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{
    Expectations, Settling, claims, controller_of, enqueue_owners, execute_claims, is_controlled_by,
    namespace_terminating, revision_of, selector, template,
};
use plan::{Plan, Snapshot};
pub(crate) use revision::template_hash;

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods_of: Index<Pod>,
    expectations: Expectations,
    settling: Settling,
}

/// Starts the Deployment controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let deployments = context.informers.all::<Deployment>();
    let sets = context.informers.all::<ReplicaSet>();
    let pods = context.informers.all::<Pod>();
    let queue = WorkQueue::new(context.world.clone());
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "deployment-controller", ""),
        client,
        world: context.world.clone(),
        deployments: deployments.store(),
        sets: sets.store(),
        pods_of: context.pods_by_controller.clone(),
        expectations: Expectations::default(),
        settling: Settling::default(),
    });
    let to_queue = queue.clone();
    deployments.on(move |change: &Change<'_, Deployment>| to_queue.add(change.key(), change.trace));
    enqueue_owners(&deployments, &sets, &queue, |d| selector(d.spec.as_ref().map(|spec| &spec.selector)));
    let (waiting, to_queue) = (controller.clone(), queue.clone());
    pods.on(move |change: &Change<'_, Pod>| waiting.pod_ended(change, &to_queue));
    let workers = Workers {
        world: context.world.clone(),
        name: "deployment-controller",
        count: WORKERS,
        synced: vec![deployments.synced(), sets.synced(), pods.synced()],
    };
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    /// A Deployment that recreates waits for the end of its old pods, which its ReplicaSets do not tell.
    fn pod_ended(&self, change: &Change<'_, Pod>, queue: &WorkQueue<Key>) {
        if change.new.is_some_and(|pod| !is_finished(pod)) {
            return;
        }
        let Some(pod) = change.object() else { return };
        let Some(owner) = controller_of(&**pod).filter(|owner| owner.kind == "ReplicaSet") else { return };
        let Some(set) = self.sets.get(pod.namespace(), &owner.name) else { return };
        let Some(owner) = controller_of(&*set) else { return };
        let deployment = self.deployments.get(pod.namespace(), &owner.name);
        if deployment.is_some_and(|deployment| !facts::is_rolling(&deployment)) {
            queue.add(Key::new(pod.namespace(), &*owner.name), change.trace);
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(deployment) = self.deployments.get_key(key) else {
            self.expectations.forget(key);
            self.settling.forget(key);
            return Ok(After::Change);
        };
        let selector = selector(deployment.spec.as_ref().map(|spec| &spec.selector));
        if selector.is_everything() {
            let about = involved(&*deployment);
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&about, "SelectingAll", message);
            return Ok(After::Change);
        }
        if !self.expectations.met(key, &self.sets, self.world.elapsed()) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let claim = claims(&*deployment, &selector, self.sets.in_namespace(&key.namespace));
        let deployments = self.client.namespaced::<Deployment>(&key.namespace);
        let sets = self.client.namespaced::<ReplicaSet>(&key.namespace);
        if execute_claims(&deployments, &sets, &*deployment, &claim).await? {
            return Ok(After::Change);
        }
        let runs = |set: &Arc<ReplicaSet>| self.pods_of.get(set.uid()).iter().any(|pod| !is_finished(pod));
        let with_pods: Vec<String> =
            claim.ours.iter().filter(|set| runs(set)).map(|set| set.uid().to_owned()).collect();
        let now = self.world.now();
        let snapshot = Snapshot { deployment: &deployment, sets: &claim.ours, with_pods: &with_pods, now };
        self.execute(key, &deployment, plan::plan(&snapshot)).await
    }

    async fn execute(&self, key: &Key, deployment: &Deployment, plan: Plan) -> Result<After, ClientError> {
        let deployments = self.client.namespaced::<Deployment>(&key.namespace);
        let sets = self.client.namespaced::<ReplicaSet>(&key.namespace);
        if let Some(rolled_back) = &plan.rollback {
            deployments.update(rolled_back).await?;
            self.tell(deployment, &plan);
            return Ok(After::Change);
        }
        if let Some(set) = &plan.create {
            match sets.create(set).await {
                Ok(created) => self.expectations.wrote(key, revision_of(&created), self.world.elapsed()),
                Err(error) => return self.not_created(deployment, set, error).await,
            }
        }
        for set in &plan.update {
            let written = sets.update(set).await?;
            self.expectations.wrote(key, revision_of(&written), self.world.elapsed());
        }
        self.tell(deployment, &plan);
        for set in &plan.delete {
            match sets.delete(set.name(), &DeleteOptions::uid(set.uid())).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        if let Some(updated) = &plan.status {
            if let Some(wait) = self.settling.wait(key, plan.at_rest, self.world.elapsed()) {
                return Ok(After::Delay(wait));
            }
            deployments.update_status(updated).await?;
        }
        Ok(plan.look_again.map_or(After::Change, After::Delay))
    }

    fn tell(&self, deployment: &Deployment, plan: &Plan) {
        let about = involved(deployment);
        for (reason, message) in &plan.events {
            match *reason {
                "ScalingReplicaSet" | "DeploymentRollback" => self.recorder.normal(&about, reason, message),
                _ => self.recorder.warning(&about, reason, message),
            }
        }
    }

    /// The name may be taken by ourselves (the cache lags), or by something else that happens to have the same hash: the
    /// next name is another one then. Where it is taken by what the server makes of this very set, another name would
    /// lead to the same end, again and again.
    async fn not_created(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        error: ClientError,
    ) -> Result<After, ClientError> {
        let deployments = self.client.namespaced::<Deployment>(deployment.namespace());
        let mut changed = deployment.clone();
        let status = changed.status.get_or_insert_default();
        let mut error = error;
        if error.is_already_exists() {
            let taken = self.client.namespaced::<ReplicaSet>(deployment.namespace()).get(set.name()).await?;
            let ours = is_controlled_by(&taken, deployment);
            if ours && revision::is_newest(deployment, &taken) {
                return Ok(After::Change);
            }
            if !ours || !self.is_altered(set, &taken).await? {
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                deployments.update_status(&changed).await?;
                return Ok(After::Change);
            }
            let what = "the server stores another pod template than it is given: look at webhooks for ReplicaSets";
            error = ClientError::BadAnswer(what.to_owned());
        }
        if namespace_terminating(&error) {
            return Ok(After::Change);
        }
        let message = format!("Failed to create new replica set \"{}\": {error}", set.name());
        self.recorder.warning(&involved(deployment), "ReplicaSetCreateError", &*message);
        if facts::progress_deadline(deployment).is_some() {
            let now = self.world.now();
            let failed = status::condition(status::PROGRESSING, "False", "ReplicaSetCreateError", &message, now);
            status::set(status, failed);
            if changed != *deployment {
                deployments.update_status(&changed).await?;
            }
        }
        Err(error)
    }

    /// Whether `taken` is what the server makes of `set`: asked by a dry run under a name that is free.
    async fn is_altered(&self, set: &ReplicaSet, taken: &ReplicaSet) -> Result<bool, ClientError> {
        let mut probe = set.clone();
        probe.metadata.name = None;
        probe.metadata.generate_name = Some(format!("{}-", set.name().get(..200).unwrap_or(set.name())));
        let path = self.client.namespaced::<ReplicaSet>(set.namespace()).path("", "");
        let call = Call::new(Method::POST, path).with("dryRun", "All").json(&probe)?;
        let made: ReplicaSet = self.client.call(call).await?;
        let meaning = |set: &ReplicaSet| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.map(|template| template::meaning(template, revision::HASH_LABEL))
        };
        Ok(meaning(&made) == meaning(taken))
    }
}
