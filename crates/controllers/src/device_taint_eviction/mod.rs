//! Pods leave when devices of theirs get taints that make users leave, at once or after as long as they tolerate it.

mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use serde_json::json;
use skiff_api::{claims, pods};
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Key, Kind, Patch, Recorder, Store, WorkQueue, Workers,
    involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    pods: Store<Pod>,
    /// Claims by the UIDs of the pods that use them.
    by_user: Index<ResourceClaim>,
    /// Slices by their pool.
    by_pool: Index<ResourceSlice>,
}

fn users(claim: &ResourceClaim) -> impl Iterator<Item = (&str, &str)> {
    claims::users(claim).iter().filter(|user| claims::is_pod(user)).map(|user| (&*user.name, &*user.uid))
}

/// Starts the controller of tainted devices.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let pods = context.informers.all::<Pod>();
    let held = context.informers.all::<ResourceClaim>();
    let slices = context.informers.all::<ResourceSlice>();
    let by_user = held.index(|claim| users(claim).map(|(_, uid)| uid.to_owned()).collect());
    let holding = held.index(|claim| {
        let pools: BTreeSet<String> = claims::allocated(claim).iter().map(|r| plan::pool(&r.driver, &r.pool)).collect();
        pools.into_iter().collect()
    });
    let by_pool = slices.index(|slice| vec![plan::pool(&slice.spec.driver, &slice.spec.pool.name)]);

    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    pods.on(move |change: &Change<'_, Pod>| {
        let has_any = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.resource_claims.is_some());
        if change.new.is_some_and(|pod| has_any(pod)) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let to_queue = queue.clone();
    held.on(move |change: &Change<'_, ResourceClaim>| {
        let Some(claim) = change.new else { return };
        users(claim).for_each(|(name, _)| to_queue.add(Key::new(claim.namespace(), name), change.trace));
    });
    let to_queue = queue.clone();
    slices.on(move |change: &Change<'_, ResourceSlice>| {
        let Some(slice) = change.object().filter(|_| change.states().any(|slice| plan::evicts(slice))) else { return };
        for claim in holding.get(&plan::pool(&slice.spec.driver, &slice.spec.pool.name)) {
            users(&claim).for_each(|(name, _)| to_queue.add(Key::new(claim.namespace(), name), change.trace));
        }
    });

    let synced = vec![pods.synced(), held.synced(), slices.synced()];
    let workers = Workers { world: context.world.clone(), name: "device-taint-eviction-controller", count: 2, synced };
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "device-taint-eviction-controller", ""),
        world: context.world.clone(),
        client,
        pods: pods.store(),
        by_user,
        by_pool,
    });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let leaves = |pod: &Arc<Pod>| pod.deleting() || pods::is_finished(pod);
        let Some(pod) = self.pods.get_key(key).filter(|pod| !leaves(pod)) else { return Ok(After::Change) };
        let claims = self.by_user.get(pod.uid());
        let Some(when) = plan::eviction(&pod, claims.into_iter(), |pool| self.by_pool.get(pool)) else {
            return Ok(After::Change);
        };
        let now = self.world.now();
        if let Ok(wait) = Duration::try_from(when.duration_since(now))
            && !wait.is_zero()
        {
            return Ok(After::Delay(wait));
        }
        self.recorder.normal(&involved(&*pod), "DeviceTaintManagerEviction", "Marking for deletion".to_owned());
        let api = self.client.namespaced::<Pod>(&key.namespace);
        // Whoever counts failures is told that this one is not the pod's own.
        let why = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByDeviceTaintManager",
            "message": "Device Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [why]}}));
        let done = async {
            api.patch_status(pod.name(), &patch).await?;
            api.delete(pod.name(), &DeleteOptions::uid(pod.uid())).await
        };
        match done.await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(After::Change),
        }
    }
}
