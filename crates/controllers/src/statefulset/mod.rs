//! StatefulSets: pods with a name, a place in an order, and volumes that stay theirs.

mod identity;
mod plan;
mod retention;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Key, Kind, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::replicaset::orphans;
use crate::shared::history::{self, Revision, Written};
use crate::shared::{
    Expectations, Settling, claims, enqueue_owners, execute_claims, namespace_terminating, revision_of, selector,
};
use plan::{Plan, Snapshot};

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    sets: Store<StatefulSet>,
    pods: Store<Pod>,
    pods_of: Index<Pod>,
    volume_claims: Store<PersistentVolumeClaim>,
    revisions: Store<ControllerRevision>,
    revisions_of: Index<ControllerRevision>,
    expectations: Expectations,
    revision_expectations: Expectations,
    settling: Settling,
}

/// Starts the StatefulSet controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let sets = context.informers.all::<StatefulSet>();
    let pods = context.informers.all::<Pod>();
    let volume_claims = context.informers.all::<PersistentVolumeClaim>();
    let revisions = context.informers.all::<ControllerRevision>();
    let queue = WorkQueue::new(context.world.clone());
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "statefulset-controller", ""),
        client,
        world: context.world.clone(),
        sets: sets.store(),
        pods: pods.store(),
        pods_of: context.pods_by_controller.clone(),
        volume_claims: volume_claims.store(),
        revisions: revisions.store(),
        revisions_of: revisions.by_owner(),
        expectations: Expectations::default(),
        revision_expectations: Expectations::default(),
        settling: Settling::default(),
    });
    let to_queue = queue.clone();
    sets.on(move |change: &Change<'_, StatefulSet>| to_queue.add(change.key(), change.trace));
    let of_set = |set: &StatefulSet| selector(set.spec.as_ref().map(|spec| &spec.selector));
    enqueue_owners(&sets, &pods, &queue, of_set);
    enqueue_owners(&sets, &revisions, &queue, of_set);
    let synced = vec![sets.synced(), pods.synced(), volume_claims.synced(), revisions.synced()];
    let workers = Workers { world: context.world.clone(), name: "statefulset-controller", count: WORKERS, synced };
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(set) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            self.revision_expectations.forget(key);
            self.settling.forget(key);
            return Ok(After::Change);
        };
        let now = self.world.elapsed();
        if !self.revision_expectations.met(key, &self.revisions, now) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let mut revisions = self.revisions_of.get(set.uid());
        history::sort(&mut revisions);
        let Some(update) = self.update_revision(key, &set, &revisions).await? else { return Ok(After::Change) };
        let current = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current = revisions.iter().find(|revision| Some(revision.name()) == current.as_deref());
        let current = current.unwrap_or(&update).clone();

        let selector = selector(set.spec.as_ref().map(|spec| &spec.selector));
        let orphans = self.pods_of.get(&orphans(&key.namespace)).into_iter();
        // An orphan of a fitting name only: others could never be one of the set's pods.
        let orphans = orphans.filter(|pod| identity::ordinal(&set, pod).is_some());
        let claim = claims(&*set, &selector, self.pods_of.get(set.uid()).into_iter().chain(orphans));
        let (sets, pods) = (self.client.namespaced(&key.namespace), self.client.namespaced(&key.namespace));
        if execute_claims::<StatefulSet, Pod>(&sets, &pods, &*set, &claim).await? {
            return Ok(After::Change);
        }
        if !self.expectations.met(key, &self.pods, now) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let own = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let template = |revision: &ControllerRevision| history::template_of(revision).unwrap_or_else(|| own.clone());
        let (current_template, update_template): (PodTemplateSpec, _) = (template(&current), template(&update));
        let snapshot = Snapshot {
            set: &set,
            pods: &claim.ours,
            current: (current.name(), &current_template),
            update: (update.name(), &update_template),
            now: self.world.now(),
        };
        let outcome = match self.settle_claims(key, &set, &claim.ours).await {
            Ok(()) => self.execute(key, &set, plan::plan(&snapshot)).await,
            Err(error) => Err(error),
        };
        let after = self.write_status(key, &snapshot).await?;
        outcome?;
        let in_use = claim.ours.iter().map(|pod| identity::revision_of(pod).to_owned());
        let in_use: BTreeSet<String> = in_use.chain([current.name().to_owned(), update.name().to_owned()]).collect();
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        history::delete(&self.client, &history::expired(&revisions, limit, &in_use)).await?;
        Ok(after)
    }

    /// The revision of the present template; `None`: it has just been written, and will be seen.
    async fn update_revision(
        &self,
        key: &Key,
        set: &StatefulSet,
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<Option<Arc<ControllerRevision>>, ClientError> {
        let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).filter(|count| *count > 0);
        let revision = match history::find(set, &template, collisions, revisions) {
            Revision::Known(known) => return Ok(Some(known)),
            Revision::Again(revision) | Revision::New(revision) => revision,
        };
        match history::write(&self.client, set, &revision).await? {
            Written::At(at) => self.revision_expectations.wrote(key, at, self.world.elapsed()),
            Written::Collision => {
                let mut set = set.clone();
                let status = set.status.get_or_insert_default();
                status.collision_count = Some(collisions.unwrap_or(0) + 1);
                self.client.namespaced::<StatefulSet>(&key.namespace).update_status(&set).await?;
            }
        }
        Ok(None)
    }

    async fn execute(&self, key: &Key, set: &StatefulSet, plan: Plan) -> Result<(), ClientError> {
        let (api, about) = (self.client.namespaced::<Pod>(&key.namespace), involved(set));
        for (ordinal, pod) in &plan.create {
            self.create_claims(key, set, *ordinal).await?;
            let what = format!("Pod {} in StatefulSet {}", pod.name(), set.name());
            match api.create(pod).await {
                Ok(made) => {
                    self.expectations.wrote(key, revision_of(&made), self.world.elapsed());
                    self.recorder.normal(&about, "SuccessfulCreate", format!("create {what} successful"));
                }
                Err(error) if namespace_terminating(&error) => return Ok(()),
                Err(error) => {
                    self.recorder.warning(&about, "FailedCreate", format!("create {what} failed error: {error}"));
                    return Err(error);
                }
            }
        }
        for pod in &plan.delete {
            let what = format!("Pod {} in StatefulSet {}", pod.name(), set.name());
            match api.delete(pod.name(), &DeleteOptions::uid(pod.uid())).await {
                Ok(()) => {
                    self.expectations.deletes(key, std::iter::once(&**pod), self.world.elapsed());
                    self.recorder.normal(&about, "SuccessfulDelete", format!("delete {what} successful"));
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    self.recorder.warning(&about, "FailedDelete", format!("delete {what} failed error: {error}"));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Brings the claims of pods in line with the retention policy, before any of the pods goes; and makes claims that
    /// somebody deleted under a pod that waits for them.
    async fn settle_claims(&self, key: &Key, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<(), ClientError> {
        let api = self.client.namespaced::<PersistentVolumeClaim>(&key.namespace);
        for pod in pods.iter().filter(|pod| !pod.deleting() && !set.deleting()) {
            let Some(ordinal) = identity::ordinal(set, pod) else { continue };
            if skiff_api::pods::phase(pod) == "Pending" {
                self.create_claims(key, set, ordinal).await?;
            }
            for (_, claim) in identity::claims(set, ordinal) {
                let Some(known) = self.volume_claims.get(&key.namespace, claim.name()) else { continue };
                let Some(owners) = retention::owners(set, pod, &known) else { continue };
                let mut updated = (*known).clone();
                updated.metadata.owner_references = Some(owners);
                api.update(&updated).await?;
            }
        }
        Ok(())
    }

    /// Volumes outlive pods: a claim that is there is used again.
    async fn create_claims(&self, key: &Key, set: &StatefulSet, ordinal: i32) -> Result<(), ClientError> {
        let api = self.client.namespaced::<PersistentVolumeClaim>(&key.namespace);
        for (_, claim) in identity::claims(set, ordinal) {
            if self.volume_claims.get(&key.namespace, claim.name()).is_some() {
                continue;
            }
            match api.create(&claim).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn write_status(&self, key: &Key, snapshot: &Snapshot<'_>) -> Result<After, ClientError> {
        let set = snapshot.set;
        let status = plan::status(snapshot);
        if set.status.as_ref() != Some(&status) {
            if let Some(wait) = self.settling.wait(key, plan::at_rest(set, &status), self.world.elapsed()) {
                return Ok(After::Delay(wait));
            }
            let updated = StatefulSet { status: Some(status), ..set.clone() };
            self.client.namespaced::<StatefulSet>(&key.namespace).update_status(&updated).await?;
        }
        Ok(plan::next_available(snapshot).map_or(After::Change, After::Delay))
    }
}
