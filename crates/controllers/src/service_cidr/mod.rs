//! ServiceCIDRs: a range that addresses of Services come from is protected and said to be ready; one that is deleted stays
//! until no Service depends on it.

mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::json;
use skiff_client::{
    After, Change, Client, ClientError, Key, Kind, Patch, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use plan::{FINALIZER, Plan};

const NAME: &str = "service-cidr-controller";

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    cidrs: Store<ServiceCIDR>,
    addresses: Store<IPAddress>,
}

/// Starts the controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (cidrs, addresses) = (context.informers.all::<ServiceCIDR>(), context.informers.all::<IPAddress>());
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let (to_queue, known) = (queue.clone(), cidrs.store());
    cidrs.on(move |change: &Change<'_, ServiceCIDR>| {
        to_queue.add(change.key(), change.trace);
        if change.old.is_some() && change.new.is_some() {
            return;
        }
        // A range that comes may free another one, and one that goes may bind it.
        let ranges: Vec<IpNet> = change.states().flat_map(|cidr| plan::ranges(cidr)).collect();
        for other in known.list() {
            if plan::ranges(&other).any(|one| ranges.iter().any(|two| one.contains(two) || two.contains(&one))) {
                to_queue.add(Key::of(&*other), change.trace);
            }
        }
    });
    let (to_queue, known) = (queue.clone(), cidrs.store());
    addresses.on(move |change: &Change<'_, IPAddress>| {
        for address in change.states().filter_map(|address| plan::held(address)).collect::<BTreeSet<_>>() {
            // What nobody deletes does not mind.
            let going = known.list().into_iter().filter(|cidr| cidr.deleting());
            for cidr in going.filter(|cidr| plan::ranges(cidr).any(|range| plan::contains(range, address))) {
                to_queue.add(Key::of(&*cidr), change.trace);
            }
        }
    });
    let synced = vec![cidrs.synced(), addresses.synced()];
    let workers = Workers { world: context.world.clone(), name: NAME, count: 1, synced };
    let client = client.with_manager(NAME);
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), NAME, ""),
        client,
        world: context.world.clone(),
        cidrs: cidrs.store(),
        addresses: addresses.store(),
    });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(cidr) = self.cidrs.get_key(key) else { return Ok(After::Change) };
        let held: Vec<_> = self.addresses.list().iter().filter_map(|address| plan::held(address)).collect();
        let written = match plan::plan(&cidr, &self.cidrs.list(), &held, self.world.now()) {
            Plan::Nothing => return Ok(After::Change),
            Plan::Wait(left) => return Ok(After::Delay(left)),
            Plan::Keep { protect, ready } => self.keep(&cidr, protect, ready).await,
            Plan::Blocked { tell: false } => return Ok(After::Change),
            Plan::Blocked { tell: true } => self.tell(&cidr, plan::TERMINATING).await,
            Plan::Release => self.finalizers(&cidr, json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER]})).await,
        };
        match written {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(After::Change),
        }
    }

    async fn keep(&self, cidr: &ServiceCIDR, protect: bool, ready: bool) -> Result<(), ClientError> {
        if protect {
            self.finalizers(cidr, json!({"finalizers": [FINALIZER]})).await?;
        }
        let told = if ready { self.tell(cidr, plan::READY).await } else { Ok(()) };
        if told.is_err() {
            let why = "The ServiceCIDR Status can not be set to Ready=True";
            self.recorder.warning(&involved(cidr), "KubernetesServiceCIDRError", why);
        }
        told
    }

    async fn finalizers(&self, cidr: &ServiceCIDR, metadata: serde_json::Value) -> Result<(), ClientError> {
        let patch = Patch::Strategic(json!({ "metadata": metadata }));
        self.client.all::<ServiceCIDR>().patch(cidr.name(), &patch).await.map(drop)
    }

    async fn tell(&self, cidr: &ServiceCIDR, (status, reason, message): (&str, &str, &str)) -> Result<(), ClientError> {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": cidr.name()},
            "status": {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": self.world.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}]},
        });
        let patch = Patch::Apply { object, force: true };
        self.client.all::<ServiceCIDR>().patch_status(cidr.name(), &patch).await.map(drop)
    }
}
