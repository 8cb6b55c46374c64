//! Volumes and claims: which claim gets which volume, who is asked to make one, and what becomes of it afterwards.

mod facts;
mod pick;
mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_client::{
    After, Change, Client, ClientError, Index, Informer, Key, Kind, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::TraceContext;
use skiff_meta::world::Task;

use crate::Context;
use plan::{ClaimSnapshot, Plan, Write};

const WORKERS: usize = 2;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Claim(Key),
    Volume(String),
}

struct Controller {
    client: Client,
    recorder: Recorder,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
}

/// Starts the binder.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let claims = context.informers.all::<PersistentVolumeClaim>();
    let volumes = context.informers.all::<PersistentVolume>();
    let classes = context.informers.all::<StorageClass>();
    let queue: WorkQueue<Item> = WorkQueue::new(context.world.clone());
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "persistentvolume-controller", ""),
        client,
        claims: claims.store(),
        volumes: volumes.store(),
        classes: classes.store(),
    });
    let of_claim =
        volumes.index(|volume| facts::claim_ref(volume).iter().map(|claim| claim_key(claim).to_string()).collect());
    enqueue_with_claims(&claims, of_claim, &queue);
    enqueue_with_volumes(&claims, &volumes, &queue);
    let (to_queue, all) = (queue.clone(), claims.store());
    classes.on(move |change: &Change<'_, StorageClass>| enqueue_waiting(&all, &to_queue, change.trace));
    let synced = vec![claims.synced(), volumes.synced(), classes.synced()];
    let workers = Workers { world: context.world.clone(), name: "persistent-volume-binder", count: WORKERS, synced };
    workers.start(queue, move |item| {
        let controller = controller.clone();
        async move { controller.reconcile(&item).await }
    })
}

fn claim_key(reference: &k8s_openapi::api::core::v1::ObjectReference) -> Key {
    Key::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default())
}

fn enqueue_with_claims(
    claims: &Informer<PersistentVolumeClaim>,
    of_claim: Index<PersistentVolume>,
    queue: &WorkQueue<Item>,
) {
    let queue = queue.clone();
    claims.on(move |change: &Change<'_, PersistentVolumeClaim>| {
        queue.add(Item::Claim(change.key()), change.trace);
        for volume in of_claim.get(&change.key().to_string()) {
            queue.add(Item::Volume(volume.name().to_owned()), change.trace);
        }
    });
}

fn enqueue_with_volumes(
    claims: &Informer<PersistentVolumeClaim>,
    volumes: &Informer<PersistentVolume>,
    queue: &WorkQueue<Item>,
) {
    let (queue, claims) = (queue.clone(), claims.store());
    volumes.on(move |change: &Change<'_, PersistentVolume>| {
        queue.add(Item::Volume(change.key().name), change.trace);
        for reference in change.states().filter_map(|volume| facts::claim_ref(volume)) {
            queue.add(Item::Claim(claim_key(reference)), change.trace);
        }
        if change.new.is_some_and(|volume| facts::claim_ref(volume).is_none()) {
            enqueue_waiting(&claims, &queue, change.trace);
        }
    });
}

/// Claims that may be waiting for just this.
fn enqueue_waiting(claims: &Store<PersistentVolumeClaim>, queue: &WorkQueue<Item>, cause: Option<TraceContext>) {
    for claim in claims.list().iter().filter(|claim| facts::annotation(&***claim, facts::BIND_COMPLETED).is_none()) {
        queue.add(Item::Claim(Key::of(&**claim)), cause);
    }
}

impl Controller {
    async fn reconcile(&self, item: &Item) -> Result<After, ClientError> {
        match item {
            Item::Claim(key) => {
                let Some(claim) = self.claims.get_key(key) else { return Ok(After::Change) };
                let plan = self.claim_plan(&claim);
                self.execute(&*claim, plan).await
            }
            Item::Volume(name) => {
                let Some(volume) = self.volumes.get("", name) else { return Ok(After::Change) };
                let claim = self.claim_of(&volume).await?;
                self.execute(&*volume, plan::volume(&volume, claim.as_deref())).await
            }
        }
    }

    fn claim_plan(&self, claim: &PersistentVolumeClaim) -> Plan {
        let class = facts::class_of(claim).and_then(|name| self.classes.get("", name));
        let classes = self.classes.list();
        let newest = |class: &&Arc<StorageClass>| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let default = classes.iter().filter(|class| facts::is_default(class)).max_by_key(newest);
        plan::claim(&ClaimSnapshot {
            claim,
            volumes: &self.volumes.list(),
            class: class.as_deref(),
            default_class: default.map(|class| class.name()),
        })
    }

    /// The claim that a volume names. That it is gone costs the data, so the server is asked before it is believed.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>, ClientError> {
        let Some(reference) = facts::claim_ref(volume) else { return Ok(None) };
        let Some(uid) = reference.uid.as_deref().filter(|uid| !uid.is_empty()) else { return Ok(None) };
        let key = claim_key(reference);
        let same = |claim: &PersistentVolumeClaim| claim.uid() == uid;
        if let Some(claim) = self.claims.get_key(&key).filter(|claim| same(claim)) {
            return Ok(Some(claim));
        }
        if matches!(facts::phase(volume), "Released" | "Failed") {
            return Ok(None);
        }
        let fresh = self.client.namespaced::<PersistentVolumeClaim>(&key.namespace).get_opt(&key.name).await?;
        Ok(fresh.filter(same).map(Arc::new))
    }

    async fn execute<K: Kind>(&self, about: &K, plan: Plan) -> Result<After, ClientError> {
        if let Some((reason, message, warning)) = plan.event {
            match warning {
                true => self.recorder.warning(&involved(about), reason, message),
                false => self.recorder.normal(&involved(about), reason, message),
            }
        }
        let volumes = || self.client.all::<PersistentVolume>();
        let claims = |claim: &PersistentVolumeClaim| self.client.namespaced::<PersistentVolumeClaim>(claim.namespace());
        match plan.write {
            None => {}
            Some(Write::Volume(volume)) => drop(volumes().update(&volume).await?),
            Some(Write::VolumeStatus(volume)) => drop(volumes().update_status(&volume).await?),
            Some(Write::Claim(claim)) => drop(claims(&claim).update(&claim).await?),
            Some(Write::ClaimStatus(claim)) => drop(claims(&claim).update_status(&claim).await?),
        }
        // What was written comes back as a change, and with it the next write.
        Ok(After::Change)
    }
}
