//! A node without containers: it says that it is ready, that its pods run, and that they have ended.
//!
//! It knows the API and nothing else, and acts with a kubelet's rights. It answers each pod with one status patch, as
//! a kubelet that coalesces well does. What a container does is told by its command:
//!
//! - `stay`: it runs until it is stopped; so do all containers that are restarted always.
//! - `unready`: it runs, and is never ready.
//! - `refused`: the node does not take the pod.
//! - `exit CODE`: it ends with this code; with an index as a third word, only in the pod of that index of a Job.
//!
//! All others end after a while with code 0.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use serde_json::{Value, json};
use skiff_client::{Client, ClientError, DeleteOptions, Event, Kind, Patch, Selection};
use skiff_meta::{Object, WorldRef};

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often a kubelet renews its lease, and how long that lasts, in seconds.
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// Between attempts of what must succeed in the end.
const PAUSE: Duration = Duration::from_secs(1);

/// Which node to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// Its place among the nodes: addresses are made of it.
    pub number: u8,
    /// How many pods it takes.
    pub pods: u32,
    /// The longest a container takes to start or stop; how long it does take is drawn.
    pub slowest: Duration,
}

/// Plays a node for ever. `client` acts as `system:node:NAME`.
pub async fn run(client: Client, world: WorldRef, options: Options) {
    let hollow = Arc::new(Hollow { client, world, options });
    hollow.insist("register", || hollow.register()).await;
    let heart = hollow.clone();
    let beating = hollow.world.spawn("hollow-heart", Box::pin(async move { heart.beat().await }));
    let _beating = skiff_meta::world::AbortOnDrop(beating);
    hollow.follow_pods().await;
}

struct Hollow {
    client: Client,
    world: WorldRef,
    options: Options,
}

impl Hollow {
    /// Tries until it succeeds; what is gone or changed hands meanwhile needs no more work.
    async fn insist<F: Future<Output = Result<(), ClientError>>>(&self, what: &str, attempt: impl Fn() -> F) {
        while let Err(error) = attempt().await {
            if error.is_not_found() || error.is_conflict() || error.is_already_exists() {
                return;
            }
            tracing::warn!(node = self.options.name, "{what}: {error}");
            self.world.sleep(PAUSE).await;
        }
    }

    async fn register(&self) -> Result<(), ClientError> {
        let node = node(&self.options, self.world.now());
        self.client.all::<Node>().create(&read(node)?).await.map(drop)
    }

    async fn beat(&self) {
        let leases = self.client.namespaced::<Lease>(LEASE_NAMESPACE);
        let name = &self.options.name;
        let spec = || {
            let now = micros(self.world.now());
            json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now})
        };
        let create = || async {
            let lease = json!({"metadata": {"name": name, "namespace": LEASE_NAMESPACE}, "spec": spec()});
            leases.create(&read(lease)?).await.map(drop)
        };
        self.insist("create lease", create).await;
        loop {
            self.world.sleep(RENEW).await;
            let patch = Patch::Merge(json!({"spec": spec()}));
            self.insist("renew lease", || async { leases.patch(name, &patch).await.map(drop) }).await;
        }
    }

    async fn follow_pods(self: &Arc<Self>) {
        let fields = format!("spec.nodeName={}", self.options.name);
        let selection = Selection { labels: String::new(), fields };
        let mut events = self.client.list_watch(self.client.all::<Pod>().target(selection));
        let mut begun = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Event::Replace(objects) => objects.iter().for_each(|object| self.pod(object, &mut begun)),
                Event::Apply(object) => self.pod(&object, &mut begun),
                Event::Delete(object) => begun.retain(|(uid, _)| *uid != object.meta().uid),
            }
        }
    }

    /// Begins what a pod needs, once.
    fn pod(self: &Arc<Self>, object: &Object, begun: &mut BTreeSet<(String, bool)>) {
        let Ok(pod) = object.typed::<Pod>().inspect_err(|error| tracing::warn!("pod cannot be read: {error}")) else {
            return;
        };
        if !begun.insert((pod.uid().to_owned(), pod.deleting())) {
            return;
        }
        let address = format!("10.42.{}.{}", self.options.number, begun.len() % 250 + 2);
        let hollow = self.clone();
        let act = async move {
            let slowest = hollow.options.slowest.as_micros() as u64;
            hollow.world.sleep(Duration::from_micros(hollow.world.random() % (slowest + 1))).await;
            if pod.deleting() {
                hollow.insist("end pod", || hollow.end(&pod)).await;
                return;
            }
            if has_command(&pod, "refused") {
                let status = json!({"phase": "Failed", "reason": "NodeAffinity", "message": "Pod was rejected"});
                hollow.insist("refuse pod", || hollow.tell(&pod, &status)).await;
                return;
            }
            hollow.insist("start pod", || hollow.start(&pod, &address)).await;
            if ends(&pod) {
                hollow.world.sleep(Duration::from_micros(hollow.world.random() % (2 * slowest + 1))).await;
                let status = ended(&pod, hollow.world.now());
                hollow.insist("finish pod", || hollow.tell(&pod, &status)).await;
            }
        };
        drop(self.world.spawn("hollow-pod", Box::pin(act)));
    }

    async fn start(&self, pod: &Pod, address: &str) -> Result<(), ClientError> {
        let host = host_address(&self.options);
        let status = running(pod, address, &host, self.world.now());
        self.tell(pod, &status).await
    }

    async fn tell(&self, pod: &Pod, status: &Value) -> Result<(), ClientError> {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        self.client.namespaced::<Pod>(pod.namespace()).patch_status(pod.name(), &patch).await.map(drop)
    }

    async fn end(&self, pod: &Pod) -> Result<(), ClientError> {
        let options = DeleteOptions::uid(pod.uid()).grace(0);
        self.client.namespaced::<Pod>(pod.namespace()).delete(pod.name(), &options).await
    }
}

fn read<K: Kind>(value: Value) -> Result<K, ClientError> {
    serde_json::from_value(value).map_err(|e| ClientError::BadAnswer(e.to_string()))
}

fn seconds(time: Timestamp) -> String {
    DateTimePrinter::new().precision(Some(0)).timestamp_to_string(&time)
}

fn micros(time: Timestamp) -> String {
    DateTimePrinter::new().precision(Some(6)).timestamp_to_string(&time)
}

fn host_address(options: &Options) -> String {
    format!("192.168.0.{}", options.number)
}

fn node(options: &Options, now: Timestamp) -> Value {
    let now = seconds(now);
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let room = json!({"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": options.pods.to_string()});
    json!({
        "metadata": {
            "name": options.name,
            "labels": {"kubernetes.io/hostname": options.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
        },
        "status": {
            "capacity": room,
            "allocatable": room,
            "addresses": [
                {"type": "InternalIP", "address": host_address(options)},
                {"type": "Hostname", "address": options.name},
            ],
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
        },
    })
}

fn command(container: &Container) -> Vec<&str> {
    container.command.iter().flatten().map(String::as_str).collect()
}

fn has_command(pod: &Pod, word: &str) -> bool {
    pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| command(container) == [word])
}

/// Whether its containers end by themselves.
fn ends(pod: &Pod) -> bool {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    policy.is_some_and(|policy| policy != "Always") && !has_command(pod, "stay")
}

/// The code with which a container ends.
fn exit_code(pod: &Pod, container: &Container) -> i32 {
    const INDEX: &str = "batch.kubernetes.io/job-completion-index";
    let index = pod.metadata.labels.as_ref().and_then(|labels| labels.get(INDEX)).map(String::as_str);
    match command(container)[..] {
        ["exit", code] => code.parse().unwrap_or(0),
        ["exit", code, only] if index == Some(only) => code.parse().unwrap_or(0),
        _ => 0,
    }
}

/// The status of a pod whose containers have ended.
fn ended(pod: &Pod, now: Timestamp) -> Value {
    let now = seconds(now);
    let mut worst = 0;
    let mut containers = Vec::new();
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let code = exit_code(pod, container);
        worst = worst.max(code);
        let image = container.image.as_deref().unwrap_or_default();
        let state = json!({"terminated": {"exitCode": code, "startedAt": now, "finishedAt": now}});
        containers.push(json!({"name": container.name, "image": image, "imageID": image, "ready": false,
            "restartCount": 0, "state": state}));
    }
    let condition = |kind: &str| json!({"type": kind, "status": "False", "lastTransitionTime": now});
    json!({
        "phase": if worst == 0 { "Succeeded" } else { "Failed" },
        "conditions": [condition("Ready"), condition("ContainersReady")],
        "containerStatuses": containers,
    })
}

/// The status of a pod whose containers all run.
fn running(pod: &Pod, address: &str, host: &str, now: Timestamp) -> Value {
    let now = seconds(now);
    let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let unready = has_command(pod, "unready");
    let conditions = kinds.map(|kind| {
        let holds = !unready || !kind.ends_with("Ready");
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": now})
    });
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
        let image = container.image.as_deref().unwrap_or_default();
        json!({"name": container.name, "image": image, "imageID": image, "ready": !unready, "started": true,
            "restartCount": 0, "state": {"running": {"startedAt": now}}})
    });
    json!({
        "phase": "Running",
        "startTime": now,
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}
