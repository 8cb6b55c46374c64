//! Load balancers where no cloud makes them: a Service of type LoadBalancer has the addresses of the nodes, whose
//! proxies take its connections there. Several Services share the addresses as long as their ports differ; one whose
//! port is taken waits. A Service with a `loadBalancerClass` is somebody else's.
//!
//! Where a pool of addresses is set aside, each Service has an address of its own instead, which one node answers for.

mod plan;
mod pool;
mod range;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use parking_lot::Mutex;
use serde_json::json;
use skiff_api::network::{ANNOUNCED, is_balanced};
use skiff_client::{After, Change, Client, ClientError, Key, Patch, Recorder, Store, WorkQueue, Workers, involved};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use plan::{Given, Snapshot};
pub use range::AddressRange;

const NAME: &str = "service-controller";
/// Remote login stays what it is, whatever a Service asks for.
const LOGIN: i32 = 22;

struct Controller {
    client: Client,
    services: Store<Service>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    pool: Vec<AddressRange>,
    /// Who was told last that the pool has no address for it, so that it is told once.
    short: Mutex<BTreeSet<Key>>,
    recorder: Recorder,
    world: WorldRef,
}

/// Starts the controller, unless somebody else balances.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    if !context.options.balance {
        return Vec::new();
    }
    let services = context.informers.all::<Service>();
    let nodes = context.informers.all::<Node>();
    let slices = context.informers.all::<EndpointSlice>();
    // Ports are shared out among all Services, so there is one piece of work.
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    services.on(move |change: &Change<'_, Service>| {
        if change.states().any(|service| is_balanced(service)) {
            to_queue.add((), change.trace);
        }
    });
    let (to_queue, all) = (queue.clone(), services.store());
    let any = move || all.list().iter().any(|service| is_balanced(service));
    let wanted = any.clone();
    nodes.on(move |change: &Change<'_, Node>| {
        if wanted() {
            to_queue.add((), change.trace);
        }
    });
    let to_queue = queue.clone();
    slices.on(move |change: &Change<'_, EndpointSlice>| {
        if any() {
            to_queue.add((), change.trace);
        }
    });
    let synced = vec![services.synced(), nodes.synced(), slices.synced()];
    let workers = Workers { world: context.world.clone(), name: NAME, count: 1, synced };
    let controller = Arc::new(Controller {
        client: client.with_manager(NAME),
        services: services.store(),
        nodes: nodes.store(),
        slices: slices.store(),
        pool: context.options.balance_pool.clone(),
        short: Mutex::default(),
        recorder: Recorder::new(client, context.world.clone(), NAME, ""),
        world: context.world.clone(),
    });
    workers.start(queue, move |()| {
        let controller = controller.clone();
        async move { controller.reconcile().await }
    })
}

impl Controller {
    async fn reconcile(&self) -> Result<After, ClientError> {
        let (nodes, slices) = (self.nodes.list(), self.slices.list());
        let snapshot = Snapshot { services: self.services.list(), reserved: reserved(&nodes, &slices), nodes, slices };
        let plan = match self.pool.is_empty() {
            true => plan::plan(&snapshot),
            false => pool::plan(&snapshot, &self.pool),
        };
        self.tell(&plan);
        for (key, given) in plan {
            self.give(&key, &given).await?;
        }
        Ok(After::Change)
    }

    fn tell(&self, plan: &BTreeMap<Key, Given>) {
        let short: BTreeSet<Key> = plan.iter().filter(|(_, given)| given.short).map(|(key, _)| key.clone()).collect();
        let told = std::mem::replace(&mut *self.short.lock(), short.clone());
        let why = "no address that the Service could have is left in the pool of load balancers";
        for service in short.difference(&told).filter_map(|key| self.services.get_key(key)) {
            self.recorder.warning(&involved(&*service), "NoAddress", why);
        }
    }

    async fn give(&self, key: &Key, given: &Given) -> Result<(), ClientError> {
        let Some(service) = self.services.get(&key.namespace, &key.name) else { return Ok(()) };
        if given.is_had_by(&service) {
            return Ok(());
        }
        let conditions = conditions(&service, given.announcer.as_deref(), self.world.now());
        let status = json!({"loadBalancer": {"ingress": given.ingress}, "conditions": conditions});
        let api = self.client.namespaced::<Service>(&key.namespace);
        match api.patch_status(&key.name, &Patch::Merge(json!({"status": status}))).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// The Service's conditions, with the one that says who answers for its addresses, if anybody does.
fn conditions(service: &Service, announcer: Option<&str>, now: Timestamp) -> Option<Vec<Condition>> {
    let before = service.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let announced = |condition: &Condition| condition.type_ == ANNOUNCED;
    let own = announcer.map(|node| Condition {
        type_: ANNOUNCED.to_owned(),
        status: "True".to_owned(),
        reason: "Pool".to_owned(),
        message: node.to_owned(),
        last_transition_time: Time(now),
        observed_generation: None,
    });
    if own.is_none() && !before.iter().any(announced) {
        return service.status.as_ref().and_then(|status| status.conditions.clone());
    }
    Some(before.into_iter().filter(|condition| !announced(condition)).chain(own).collect())
}

/// Ports of nodes that are not for Services: the agents' and the API server's.
fn reserved(nodes: &[Arc<Node>], slices: &[Arc<EndpointSlice>]) -> BTreeSet<(String, i32)> {
    let agents = nodes
        .iter()
        .filter_map(|node| Some(node.status.as_ref()?.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port));
    let api = slices.iter().filter(|slice| {
        slice.metadata.name.as_deref() == Some("kubernetes") && slice.metadata.namespace.as_deref() == Some("default")
    });
    let api = api.flat_map(|slice| slice.ports.iter().flatten()).filter_map(|port| port.port);
    agents.chain(api).chain([LOGIN]).map(|port| ("TCP".to_owned(), port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;

    #[tokio::test]
    async fn who_gets_no_address_is_told_once() {
        let fake = Fake::new();
        let mut context = fake.context();
        context.options.balance = true;
        context.options.balance_pool = AddressRange::parse("192.0.2.64").into_iter().collect();
        let service = |name: &str, second: u32| {
            json!({"kind": "Service", "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80}]},
                "metadata": {"namespace": "ns", "name": name, "uid": name,
                    "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")}})
        };
        fake.put(service("first", 1));
        fake.put(service("late", 2));
        let tasks = start(&context, fake.client());
        let events = || fake.objects("events").iter().filter_map(|event| event["count"].as_u64()).sum::<u64>();
        fake.eventually(|| events() == 1).await;
        for number in 0..3 {
            fake.put(json!({"kind": "Node", "metadata": {"name": format!("n{number}")}}));
            fake.settle().await;
        }
        assert_eq!(events(), 1);
        // It was gone in between.
        fake.remove("services", "ns", "late");
        fake.settle().await;
        fake.put(service("late", 2));
        fake.eventually(|| events() == 2).await;
        tasks.iter().for_each(Task::abort);
    }
}
