//! Nodes: signs of life, taints, pods that must leave a node that is gone, and each node's pod addresses.

mod plan;
mod ranges;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::json;
use skiff_api::nodes::is_ready;
use skiff_client::{
    After, Client, ClientError, DeleteOptions, Index, Key, Kind, Patch, Recorder, Selection, Store, WorkQueue, Workers,
    involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::{Context, PodRange};
use plan::{Plan, Snapshot};
use zones::{Giving, Paces};

/// A node's last sign of life: what it said, and when we saw it. Our clock, not the node's, is what counts.
#[derive(Clone, Debug, PartialEq)]
struct Heartbeat {
    said: String,
    seen: Duration,
}

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    nodes: Store<Node>,
    leases: Store<Lease>,
    pods_on: Index<Pod>,
    heartbeats: Mutex<BTreeMap<String, Heartbeat>>,
    paces: Mutex<Paces>,
    /// When pods were first seen under taints that do not say since when they are there, by node and UID.
    tainted: Mutex<BTreeMap<String, BTreeMap<String, Timestamp>>>,
    pod_ranges: Vec<PodRange>,
    service_ranges: Vec<IpNet>,
    control_plane_node: String,
    /// One range is given out at a time: each next choice must see the last one.
    giving: futures::lock::Mutex<BTreeMap<String, Vec<IpNet>>>,
}

/// Starts the node controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (nodes, pods) = (context.informers.all::<Node>(), context.informers.all::<Pod>());
    let leases = context.informers.select::<Lease>("kube-node-lease", Selection::default());
    let queue = WorkQueue::new(context.world.clone());
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "node-controller", ""),
        client,
        world: context.world.clone(),
        nodes: nodes.store(),
        leases: leases.store(),
        pods_on: context.pods_by_node.clone(),
        heartbeats: Mutex::default(),
        paces: Mutex::default(),
        tainted: Mutex::default(),
        pod_ranges: context.options.cluster_cidrs.clone(),
        service_ranges: context.options.service_cidrs.clone(),
        control_plane_node: context.options.control_plane_node.clone(),
        giving: futures::lock::Mutex::default(),
    });
    let to_queue = queue.clone();
    let all = nodes.store();
    nodes.on(move |change| {
        to_queue.add(change.key(), change.trace);
        let ready = |node: Option<&Arc<Node>>| node.is_some_and(|node| is_ready(node));
        if ready(change.old) != ready(change.new) {
            // Whether pods must leave a lost node depends on whether there is any other.
            for lost in all.list().iter().filter(|node| !is_ready(node)) {
                to_queue.add(Key::of(&**lost), change.trace);
            }
        }
    });
    let (to_queue, lives) = (queue.clone(), controller.clone());
    leases.on(move |change| {
        // A beating heart is noted, not worked on; only a node that was silent is looked at again.
        let key = Key::new("", change.key().name);
        if lives.silent(&key.name) >= plan::GRACE {
            to_queue.add(key, change.trace);
        } else {
            lives.silent(&key.name);
        }
    });
    let to_queue = queue.clone();
    pods.on(move |change| {
        let on = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|s| s.node_name.clone());
        let arrived = change.old.and_then(on).is_none();
        if let Some(node) = change.new.and_then(on).filter(|_| arrived) {
            to_queue.add(Key::new("", node), change.trace);
        }
    });
    let synced = vec![nodes.synced(), leases.synced(), pods.synced()];
    let workers = Workers { world: context.world.clone(), name: "node-controller", count: 4, synced };
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(node) = self.nodes.get_key(key) else {
            self.heartbeats.lock().remove(&key.name);
            self.tainted.lock().remove(&key.name);
            self.giving.lock().await.remove(&key.name);
            return Ok(After::Change);
        };
        self.give_range(&node).await?;
        self.give_role(&node).await?;
        let pods = self.pods_on.get(&key.name);
        let silent = self.silent(&key.name);
        let (giving, wait) = self.giving_up(&node, silent);
        let now = self.world.now();
        let seen = self.under_taints(&node, &pods, now);
        let plan = plan::plan(&Snapshot { node: &node, pods: &pods, silent, giving, seen: &seen, now });
        let again = [plan.again, wait].into_iter().flatten().min();
        self.execute(&node, plan).await?;
        Ok(again.map_or(After::Change, After::Delay))
    }

    /// Since when the node's pods bear its taints for a while, where those do not say it themselves.
    fn under_taints(&self, node: &Node, pods: &[Arc<Pod>], now: Timestamp) -> BTreeMap<String, Timestamp> {
        let mut tainted = self.tainted.lock();
        let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        if !taints.any(|taint| taint.effect == "NoExecute" && taint.time_added.is_none()) {
            tainted.remove(node.name());
            return BTreeMap::new();
        }
        let before = tainted.remove(node.name()).unwrap_or_default();
        let since = |pod: &Arc<Pod>| (pod.uid().to_owned(), before.get(pod.uid()).copied().unwrap_or(now));
        let counted = pods.iter().filter(|pod| plan::is_counted(node, pod));
        let seen: BTreeMap<_, _> = counted.map(since).collect();
        tainted.insert(node.name().to_owned(), seen.clone());
        seen
    }

    /// Whether pods must leave the node if it is lost, and when to ask again.
    fn giving_up(&self, node: &Node, silent: Duration) -> (Giving, Option<Duration>) {
        if (silent < plan::GRACE && is_ready(node)) || (plan::is_given_up(node) && self.some_ready()) {
            return (Giving::Up, None);
        }
        let (now, mut paces) = (self.world.elapsed(), self.paces.lock());
        let (giving, wait) = paces.ask(node, &self.nodes.list(), now);
        if giving == Giving::Up {
            paces.gave_up(node, now);
        }
        (giving, wait)
    }

    fn some_ready(&self) -> bool {
        self.nodes.list().iter().any(|node| is_ready(node))
    }

    /// How long the node has been silent.
    fn silent(&self, name: &str) -> Duration {
        let lease = self.leases.get("kube-node-lease", name);
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.clone()).map(|t| t.0.to_string());
        let node = self.nodes.get("", name);
        let told = node.and_then(|n| {
            let conditions = n.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|c| c.type_ == "Ready")?.last_heartbeat_time.as_ref().map(|t| t.0.to_string())
        });
        let said = format!("{renewed:?} {told:?}");
        let mut heartbeats = self.heartbeats.lock();
        // Read under the lock, so that no other thread has seen a later time before.
        let now = self.world.elapsed();
        let last = heartbeats.entry(name.to_owned()).or_insert_with(|| Heartbeat { said: said.clone(), seen: now });
        if last.said != said {
            let was = now - last.seen;
            *last = Heartbeat { said, seen: now };
            // The caller learns of the silence that has just ended, so that it looks at the node.
            return if was >= plan::GRACE { was } else { Duration::ZERO };
        }
        now - last.seen
    }

    /// Gives the node its pod addresses, once.
    async fn give_range(&self, node: &Node) -> Result<(), ClientError> {
        if !ranges::of(node).is_empty() || self.pod_ranges.is_empty() {
            return Ok(());
        }
        let mut giving = self.giving.lock().await;
        let mut taken: Vec<IpNet> = self.nodes.list().iter().flat_map(|node| ranges::of(node)).collect();
        taken.extend(giving.iter().filter(|(name, _)| *name != node.name()).flat_map(|(_, ranges)| ranges));
        taken.extend(&self.service_ranges);
        let mut given = Vec::new();
        for from in &self.pod_ranges {
            let Some(range) = ranges::free(*from, &taken) else {
                let why = format!("no pod addresses are left in {} for node {}", from.range, node.name());
                self.recorder.warning(&involved(node), "CIDRNotAvailable", why);
                return Ok(());
            };
            given.push(range);
        }
        let texts: Vec<String> = given.iter().map(ToString::to_string).collect();
        let patch = json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": texts[0], "podCIDRs": texts}});
        self.client.all::<Node>().patch(node.name(), &Patch::Merge(patch)).await?;
        giving.insert(node.name().to_owned(), given);
        Ok(())
    }

    /// Labels the node that the control plane runs on.
    async fn give_role(&self, node: &Node) -> Result<(), ClientError> {
        const ROLE: &str = "node-role.kubernetes.io/control-plane";
        let has = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(ROLE));
        if has || node.name() != self.control_plane_node {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": node.uid(), "labels": {ROLE: ""}}});
        self.client.all::<Node>().patch(node.name(), &Patch::Merge(patch)).await.map(drop)
    }

    async fn execute(&self, node: &Node, plan: Plan) -> Result<(), ClientError> {
        let api = self.client.all::<Node>();
        if let Some(conditions) = plan.conditions {
            self.recorder.normal(
                &involved(node),
                "NodeNotReady",
                format!("Node {} status is now: NodeNotReady", node.name()),
            );
            api.patch_status(node.name(), &Patch::Strategic(json!({"status": {"conditions": conditions}}))).await?;
        }
        if let Some(taints) = plan.taints {
            // The list is replaced as a whole, so nobody else's change may be lost.
            let version = &node.metadata.resource_version;
            let fresh = self.nodes.get("", node.name()).and_then(|n| n.metadata.resource_version.clone());
            let patch = json!({"metadata": {"resourceVersion": fresh.as_ref().or(version.as_ref())}, "spec": {"taints": taints}});
            match api.patch(node.name(), &Patch::Merge(patch)).await {
                Ok(_) => {}
                // What else has changed brings the node back to us.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        for pod in plan.unready {
            let now = self.world.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let condition =
                json!({"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": now});
            let patch =
                Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}}));
            ignore_gone(self.client.namespaced::<Pod>(pod.namespace()).patch_status(pod.name(), &patch).await)?;
        }
        for pod in plan.evict {
            self.recorder.normal(
                &involved(&*pod),
                "TaintManagerEviction",
                format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name()),
            );
            let api = self.client.namespaced::<Pod>(pod.namespace());
            let now = self.world.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            // Whoever counts failures is told that this one is not the pod's own.
            let why = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": now});
            let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [why]}}));
            ignore_gone(api.patch_status(pod.name(), &patch).await)?;
            ignore_gone(api.delete(pod.name(), &DeleteOptions::uid(pod.uid())).await)?;
        }
        Ok(())
    }
}

fn ignore_gone<T>(result: Result<T, ClientError>) -> Result<(), ClientError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}
