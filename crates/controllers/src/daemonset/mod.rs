//! DaemonSets: one pod on every node that fits.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Key, Kind, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::replicaset::orphans;
use crate::shared::history::{self, Revision, Written};
use crate::shared::{
    Expectations, Settling, claims, doubt, enqueue_owners, execute_claims, namespace_terminating, node_of, revision_of,
    selector, slow_start,
};
use plan::Snapshot;

const WORKERS: usize = 2;
/// How long a failed pod is left before it is replaced, doubled at every failure on the same node.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    sets: Store<DaemonSet>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    pods_of: Index<Pod>,
    revisions: Store<ControllerRevision>,
    revisions_of: Index<ControllerRevision>,
    expectations: Expectations,
    revision_expectations: Expectations,
    settling: Settling,
    /// By set and node: when a failed pod was last replaced there, and how long the next one is left.
    backoff: Mutex<BTreeMap<(Key, String), (Duration, Duration)>>,
}

/// Starts the DaemonSet controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let sets = context.informers.all::<DaemonSet>();
    let nodes = context.informers.all::<Node>();
    let pods = context.informers.all::<Pod>();
    let revisions = context.informers.all::<ControllerRevision>();
    let queue = WorkQueue::new(context.world.clone());
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "daemonset-controller", ""),
        client,
        world: context.world.clone(),
        sets: sets.store(),
        nodes: nodes.store(),
        pods: pods.store(),
        pods_of: context.pods_by_controller.clone(),
        revisions: revisions.store(),
        revisions_of: revisions.by_owner(),
        expectations: Expectations::default(),
        revision_expectations: Expectations::default(),
        settling: Settling::default(),
        backoff: Mutex::default(),
    });
    let to_queue = queue.clone();
    sets.on(move |change: &Change<'_, DaemonSet>| to_queue.add(change.key(), change.trace));
    let of_set = |set: &DaemonSet| selector(set.spec.as_ref().map(|spec| &spec.selector));
    enqueue_owners(&sets, &pods, &queue, of_set);
    enqueue_owners(&sets, &revisions, &queue, of_set);
    let (to_queue, all) = (queue.clone(), sets.store());
    nodes.on(move |change: &Change<'_, Node>| {
        // Heartbeats change nodes all the time; what counts here are labels and taints.
        let looks = |node: &Arc<Node>| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
            (node.metadata.labels.clone(), taints)
        };
        if change.old.map(looks) != change.new.map(looks) {
            all.list().iter().for_each(|set| to_queue.add(Key::of(&**set), change.trace));
        }
    });
    let synced = vec![sets.synced(), nodes.synced(), pods.synced(), revisions.synced()];
    let workers = Workers { world: context.world.clone(), name: "daemon-set-controller", count: WORKERS, synced };
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
            self.backoff.lock().retain(|(set, _), _| set != key);
            return Ok(After::Change);
        };
        let selector = selector(set.spec.as_ref().map(|spec| &spec.selector));
        if selector.is_everything() || set.deleting() {
            return Ok(After::Change);
        }
        let now = self.world.elapsed();
        if !self.revision_expectations.met(key, &self.revisions, now) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let mut revisions = self.revisions_of.get(set.uid());
        history::sort(&mut revisions);
        let Some(hash) = self.current_hash(key, &set, &revisions).await? else { return Ok(After::Change) };

        let candidates = self.pods_of.get(set.uid()).into_iter().chain(self.pods_of.get(&orphans(&key.namespace)));
        let claim = claims(&*set, &selector, candidates);
        let (sets, pods) =
            (self.client.namespaced::<DaemonSet>(&key.namespace), self.client.namespaced(&key.namespace));
        if execute_claims(&sets, &pods, &*set, &claim).await? {
            return Ok(After::Change);
        }
        if !self.expectations.met(key, &self.pods, now) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let nodes = self.nodes.list();
        let snapshot = Snapshot { set: &set, nodes: &nodes, pods: &claim.ours, hash: &hash, now: self.world.now() };
        let plan = plan::plan(&snapshot);
        let (again, ended) = self.after_backoff(key, &set, plan.ended);
        self.delete(key, &set, plan.delete.iter().chain(&ended)).await?;
        self.create(key, &set, &plan.create).await?;
        let in_use = claim.ours.iter().filter_map(|pod| pod.metadata.labels.as_ref()?.get(history::REVISION_LABEL));
        let in_use: BTreeSet<String> = in_use.cloned().chain([hash.clone()]).collect();
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(0);
        history::delete(&self.client, &history::expired(&revisions, limit, &in_use)).await?;
        let wait = self.write_status(key, &snapshot).await?;
        let next = [again, plan.look_again, wait].into_iter().flatten().min();
        Ok(next.map_or(After::Change, After::Delay))
    }

    /// The hash of the present template; `None`: its revision has just been written, and will be seen.
    async fn current_hash(
        &self,
        key: &Key,
        set: &DaemonSet,
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<Option<String>, ClientError> {
        let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let revision = match history::find(set, &template, collisions, revisions) {
            Revision::Known(known) => return Ok(Some(history::hash_of(&known).to_owned())),
            Revision::Again(revision) | Revision::New(revision) => revision,
        };
        match history::write(&self.client, set, &revision).await? {
            Written::At(at) => self.revision_expectations.wrote(key, at, self.world.elapsed()),
            Written::Collision => {
                let mut set = set.clone();
                let status = set.status.get_or_insert_default();
                status.collision_count = Some(collisions.unwrap_or(0) + 1);
                self.client.namespaced::<DaemonSet>(&key.namespace).update_status(&set).await?;
            }
        }
        Ok(None)
    }

    /// Which ended pods may be replaced now, and when the next may be.
    fn after_backoff(&self, key: &Key, set: &DaemonSet, ended: Vec<Arc<Pod>>) -> (Option<Duration>, Vec<Arc<Pod>>) {
        let (now, mut next, mut due) = (self.world.elapsed(), None::<Duration>, Vec::new());
        let mut backoff = self.backoff.lock();
        for pod in ended {
            let failed = skiff_api::pods::phase(&pod) == "Failed";
            let place = (key.clone(), node_of(&pod).to_owned());
            let (since, delay) = backoff.get(&place).copied().unwrap_or((Duration::ZERO, Duration::ZERO));
            let left = (since + delay).saturating_sub(now);
            if failed && !left.is_zero() {
                next = Some(next.map_or(left, |next| next.min(left)));
                continue;
            }
            let (kind, reason) =
                if failed { ("failed", "FailedDaemonPod") } else { ("succeeded", "SucceededDaemonPod") };
            let place_name = &place.1;
            let message = format!("Found {kind} daemon pod {} on node {place_name}, will try to delete it", pod.name());
            self.recorder.warning(&involved(set), reason, message);
            if failed {
                backoff.insert(place, (now, (delay * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF)));
            }
            due.push(pod);
        }
        (next, due)
    }

    async fn create(&self, key: &Key, set: &DaemonSet, pods: &[Pod]) -> Result<(), ClientError> {
        let (api, about) = (self.client.namespaced::<Pod>(&key.namespace), involved(set));
        let api = &api;
        let (made, failure) = slow_start(pods, |pod| async move { api.create(pod).await }).await;
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
            Some(error) if namespace_terminating(&error) => Ok(()),
            Some(error) => {
                self.recorder.warning(&about, "FailedCreate", format!("Error creating: {error}"));
                Err(error)
            }
            None => Ok(()),
        }
    }

    async fn delete<'a>(
        &self,
        key: &Key,
        set: &DaemonSet,
        pods: impl Iterator<Item = &'a Arc<Pod>>,
    ) -> Result<(), ClientError> {
        let (api, about) = (self.client.namespaced::<Pod>(&key.namespace), involved(set));
        for pod in pods {
            match api.delete(pod.name(), &DeleteOptions::uid(pod.uid())).await {
                Ok(()) => {
                    self.expectations.deletes(key, std::iter::once(&**pod), self.world.elapsed());
                    self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    self.recorder.warning(&about, "FailedDelete", format!("Error deleting: {error}"));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn write_status(&self, key: &Key, snapshot: &Snapshot<'_>) -> Result<Option<Duration>, ClientError> {
        let status = plan::status(snapshot);
        if snapshot.set.status.as_ref() == Some(&status) {
            return Ok(None);
        }
        if let Some(wait) = self.settling.wait(key, plan::at_rest(&status), self.world.elapsed()) {
            return Ok(Some(wait));
        }
        let updated = DaemonSet { status: Some(status), ..snapshot.set.clone() };
        self.client.namespaced::<DaemonSet>(&key.namespace).update_status(&updated).await?;
        Ok(None)
    }
}
