//! The wiring: watches in, decisions, bindings out.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use skiff_api::pods;
use skiff_client::{Client, ClientError, Event, Patch, Recorder, Selection, involved};
use skiff_meta::{Object, WorldRef};

use crate::cluster::{Cluster, PodInfo};
use crate::decide::{Decision, decide};
use crate::queue::Queue;

/// The name that pods ask for in `schedulerName`.
pub const NAME: &str = "default-scheduler";
/// Bindings on their way at one time.
const MOST_BINDINGS: usize = 256;

/// What a scheduler can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pods with this `schedulerName` are ours.
    pub name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: NAME.to_owned() }
    }
}

/// Schedules for ever.
pub async fn run(client: Client, world: WorldRef, options: Options) {
    let pods = client.list_watch(client.all::<Pod>().target(Selection::default()));
    let nodes = client.list_watch(client.all::<Node>().target(Selection::default()));
    let recorder = Recorder::new(client.clone(), world.clone(), &options.name, "");
    let mut scheduler = Scheduler {
        client,
        world,
        options,
        recorder,
        cluster: Cluster::default(),
        queue: Queue::default(),
        known: Known::default(),
        bindings: FuturesUnordered::new(),
    };
    let (mut pods, mut nodes) = (pods.fuse(), nodes.fuse());
    loop {
        let pause = scheduler.pause();
        futures::pin_mut!(pause);
        futures::select_biased! {
            event = nodes.next() => event.into_iter().for_each(|event| scheduler.node_event(event)),
            event = pods.next() => event.into_iter().for_each(|event| scheduler.pod_event(event)),
            done = scheduler.bindings.select_next_some() => scheduler.bound(done),
            () = futures::FutureExt::fuse(pause) => {}
        }
        scheduler.schedule();
    }
}

/// What has been told so far.
#[derive(Default)]
struct Known {
    pods: bool,
    nodes: bool,
    /// UIDs of all pods, to find those that a fresh list no longer has.
    seen: std::collections::BTreeSet<String>,
}

type Bound = (Arc<PodInfo>, String, Result<(), ClientError>);

struct Scheduler {
    client: Client,
    world: WorldRef,
    options: Options,
    recorder: Recorder,
    cluster: Cluster,
    queue: Queue,
    known: Known,
    bindings: FuturesUnordered<BoxFuture<'static, Bound>>,
}

impl Scheduler {
    /// Until the next pod's pause is over; for ever when none pauses.
    fn pause(&mut self) -> BoxFuture<'static, ()> {
        let now = self.world.elapsed();
        match self.queue.tick(now) {
            Some(until) => self.world.sleep(until.saturating_sub(now)),
            None => Box::pin(futures::future::pending()),
        }
    }

    fn node_event(&mut self, event: Event) {
        match event {
            Event::Replace(objects) => {
                let names: Vec<String> = self.cluster.nodes().map(|(name, _)| name.to_owned()).collect();
                for name in names.iter().filter(|name| !objects.iter().any(|o| o.meta().name == **name)) {
                    self.cluster.remove_node(name);
                }
                self.known.nodes = true;
                objects.iter().for_each(|object| self.node(object));
            }
            Event::Apply(object) => self.node(&object),
            Event::Delete(object) => self.cluster.remove_node(&object.meta().name),
        }
    }

    fn node(&mut self, object: &Object) {
        let Ok(node) = object.typed::<Node>().inspect_err(|error| tracing::warn!("node cannot be read: {error}"))
        else {
            return;
        };
        let name = object.meta().name.clone();
        let helps = self.cluster.node(&name).and_then(|info| info.node.clone()).is_none_or(|old| may_help(&old, &node));
        self.cluster.set_node(node);
        if helps {
            self.queue.wake(self.world.elapsed(), |_| true);
        }
    }

    fn pod_event(&mut self, event: Event) {
        match event {
            Event::Replace(objects) => {
                let now: std::collections::BTreeSet<String> = objects.iter().map(|o| o.meta().uid.clone()).collect();
                let gone: Vec<String> = self.known.seen.difference(&now).cloned().collect();
                gone.iter().for_each(|uid| self.pod_gone(uid));
                self.known.pods = true;
                objects.iter().for_each(|object| self.pod(object));
            }
            Event::Apply(object) => self.pod(&object),
            Event::Delete(object) => self.pod_gone(&object.meta().uid),
        }
    }

    fn pod_gone(&mut self, uid: &str) {
        self.known.seen.remove(uid);
        self.queue.forget(uid);
        if self.cluster.remove_pod(uid) {
            self.queue.wake(self.world.elapsed(), |_| true);
        }
    }

    fn pod(&mut self, object: &Object) {
        let Ok(pod) = object.typed::<Pod>().inspect_err(|error| tracing::warn!("pod cannot be read: {error}")) else {
            return;
        };
        let info = PodInfo::new(pod.clone());
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|s| s.node_name.clone()).unwrap_or_default();
        self.known.seen.insert(info.uid.clone());
        if pods::is_finished(&pod) {
            self.queue.forget(&info.uid);
            if self.cluster.remove_pod(&info.uid) {
                self.queue.wake(self.world.elapsed(), |_| true);
            }
        } else if !node.is_empty() {
            self.queue.forget(&info.uid);
            self.cluster.set_pod(Arc::new(info), &node);
        } else if self.cluster.place(&info.uid).is_some() {
            // Assumed: the binding is on its way, and this is news from before it.
        } else if self.is_ours(&pod) {
            self.queue.set(Arc::new(info));
        } else {
            self.queue.forget(&info.uid);
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        let name = spec.scheduler_name.as_deref().unwrap_or(NAME);
        name == self.options.name && !gated && pod.metadata.deletion_timestamp.is_none()
    }

    /// Decides for every pod that is ready to be tried.
    fn schedule(&mut self) {
        self.queue.tick(self.world.elapsed());
        while self.known.pods && self.known.nodes && self.bindings.len() < MOST_BINDINGS {
            let Some(pod) = self.queue.pop() else { return };
            match decide(&pod, &self.cluster, self.world.random()) {
                Decision::Place(node) => self.bind(pod, node),
                Decision::Nowhere(why) => self.refuse(&pod, &why),
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        self.cluster.set_pod(pod.clone(), &node);
        let client = self.client.clone();
        self.bindings.push(Box::pin(async move {
            let meta = &pod.pod.metadata;
            let api = client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
            let result = api.bind(meta.name.as_deref().unwrap_or_default(), &pod.uid, &node).await;
            (pod, node, result)
        }));
    }

    fn bound(&mut self, (pod, node, result): Bound) {
        match result {
            Ok(()) => {
                self.queue.forget(&pod.uid);
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.normal(&involved(&*pod.pod), "Scheduled", message);
            }
            Err(error) => {
                tracing::debug!(pod = pod.key, "binding failed: {error}");
                self.cluster.remove_pod(&pod.uid);
                if error.is_not_found() {
                    self.queue.forget(&pod.uid);
                }
                self.queue.failed(&pod.uid, self.world.elapsed(), true);
            }
        }
    }

    fn refuse(&mut self, pod: &Arc<PodInfo>, why: &str) {
        self.queue.failed(&pod.uid, self.world.elapsed(), false);
        let told = pods::condition(&pod.pod, "PodScheduled").and_then(|c| c.message.clone()).unwrap_or_default();
        if told == why {
            return;
        }
        self.recorder.warning(&involved(&*pod.pod), "FailedScheduling", why);
        let now = self.world.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why, "lastTransitionTime": now});
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}));
        let (client, pod) = (self.client.clone(), pod.clone());
        let write = async move {
            let meta = &pod.pod.metadata;
            let api = client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
            if let Err(error) = api.patch_status(meta.name.as_deref().unwrap_or_default(), &patch).await
                && !error.is_not_found()
            {
                tracing::debug!(pod = pod.key, "the refusal was not written: {error}");
            }
        };
        self.world.spawn("unschedulable", Box::pin(write));
    }
}

/// Whether a change of a node can make room for a pod: heartbeats cannot.
fn may_help(old: &Node, new: &Node) -> bool {
    let taints = |node: &Node| node.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable.unwrap_or(false)));
    let room = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new) || room(old) != room(new)
}
