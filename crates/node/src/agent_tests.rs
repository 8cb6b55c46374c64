//! The whole agent on a runtime and an API in memory: what it does, in which order, and what it writes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_cri::RuntimeError;
use skiff_cri::fake::{Call, FakeRuntime, Script};
use skiff_cri::v1::{
    ContainerState, ExecSyncResponse, PodSandboxState, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures,
};
use skiff_meta::WorldRef;
use skiff_meta::world::{AbortOnDrop, World};

use crate::os::{Cgroups, Limits, Machine, Os, Power, PowerWatch, Traffic, Usage};
use crate::testing::Api;
use crate::{NodeConfig, hollow};

struct Cluster {
    api: Api,
    runtime: Arc<FakeRuntime>,
    config: NodeConfig,
    agent: Option<AbortOnDrop>,
}

impl Cluster {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// One whose node differs from the usual.
    fn with(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let api = Api::default();
        let world: WorldRef = api.clock.clone();
        let runtime = FakeRuntime::new(world);
        let mut config = hollow::config("node-1", 1);
        change(&mut config);
        let mut cluster = Self { api, runtime, config, agent: None };
        cluster.start();
        cluster
    }

    /// Starts an agent; one that runs already is killed, as by SIGKILL.
    fn start(&mut self) {
        self.agent = None;
        let world: WorldRef = self.api.clock.clone();
        let (client, runtime) = (self.api.client(), self.runtime.clone());
        let (inner, never, config) = (world.clone(), std::future::pending(), self.config.clone());
        let task = async move { crate::run(config, client, runtime, inner, never).await.expect("an agent") };
        self.agent = Some(AbortOnDrop(world.spawn("agent", Box::pin(task))));
    }

    fn pod(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!("node-1");
        let metadata = json!({"name": name, "namespace": "default", "uid": format!("{name}-uid"), "generation": 1});
        self.api.put("pods", json!({"metadata": metadata, "spec": spec}));
    }

    fn status(&self, pod: &str) -> Value {
        self.api.get("pods", pod)["status"].clone()
    }

    async fn until(&self, pod: &str, pointer: &str, expected: Value) {
        let what = format!("{pointer} of {pod} is {expected}");
        self.api.eventually(&what, || self.status(pod).pointer(pointer) == Some(&expected)).await;
    }

    async fn until_ready(&self, pod: &str) {
        self.api.eventually("ready", || is_ready(&self.status(pod))).await;
    }

    fn running(&self) -> Vec<String> {
        let containers = self.runtime.containers().into_iter();
        containers.filter(|c| c.state() == ContainerState::ContainerRunning).map(|c| c.id).collect()
    }

    fn is_empty(&self) -> bool {
        self.runtime.sandboxes().is_empty() && self.runtime.containers().is_empty()
    }
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn one(image: &str) -> Value {
    json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": image}]})
}

#[tokio::test]
async fn a_pod_starts_with_one_write_and_goes_with_two() {
    let cluster = Cluster::new();
    // Until the runtime has been asked for what others left there.
    cluster.api.eventually("a lease", || !cluster.api.get("leases", "node-1").is_null()).await;
    let looks = cluster.runtime.count(Call::ListContainers);
    cluster.pod("p", one("i"));
    cluster.until_ready("p").await;
    assert_eq!(cluster.api.written(), ["PATCH pods/status p"], "one write for a whole start");
    // Once when it runs, and once more when the API shows its status.
    assert!(cluster.runtime.count(Call::ListContainers) - looks <= 2, "a new pod is looked at once it runs");
    let status = cluster.status("p");
    assert_eq!((&status["phase"], &status["hostIP"]), (&json!("Running"), &json!("10.99.0.1")));
    assert_eq!(status["containerStatuses"][0]["containerID"], format!("fake://{}", cluster.running()[0]));
    cluster.api.eventually("told of", || cluster.api.events().len() >= 3).await;
    assert_eq!(
        cluster.api.events(),
        [
            "Pulled: Container image \"i\" already present on machine",
            "Created: Container created",
            "Started: Container started",
        ]
    );

    cluster.api.delete_pod("p", 30);
    cluster.api.eventually("gone", || cluster.api.get("pods", "p").is_null()).await;
    assert!(cluster.is_empty(), "nothing is left in the runtime when the API forgets the pod");
    assert_eq!(cluster.api.written()[1..], ["PATCH pods/status p", "DELETE pods/ p"]);
}

#[tokio::test]
async fn the_node_is_registered_and_keeps_its_lease() {
    let cluster = Cluster::new();
    cluster.api.eventually("a lease", || !cluster.api.get("leases", "node-1").is_null()).await;
    let node = cluster.api.get("nodes", "node-1");
    let ready = node["status"]["conditions"].as_array().expect("conditions").iter().find(|c| c["type"] == "Ready");
    assert_eq!(ready.expect("a condition")["status"], "True");
    assert_eq!(node["status"]["capacity"]["cpu"], "8");
    let renewed = || cluster.api.get("leases", "node-1")["spec"]["renewTime"].clone();
    let first = renewed();
    cluster.api.eventually("renewed", || renewed() != first).await;
}

#[tokio::test]
async fn a_killed_agent_leaves_pods_to_its_successor() {
    let mut cluster = Cluster::new();
    cluster.pod("p", one("i"));
    cluster.until_ready("p").await;
    let (before, status, writes) = (cluster.runtime.containers(), cluster.status("p"), cluster.api.written().len());
    cluster.start();
    let changed = cluster
        .api
        .within(Duration::from_secs(120), || cluster.status("p") != status || cluster.api.written().len() > writes);
    assert!(!changed.await, "a restart of the agent changes nothing: {:?}", cluster.api.written());
    assert_eq!(cluster.runtime.containers(), before);

    // What ends while nobody looks is found by the next agent.
    cluster.agent = None;
    let id = cluster.running()[0].clone();
    cluster.runtime.exit(&id, 1);
    cluster.start();
    cluster.until("p", "/containerStatuses/0/restartCount", json!(1)).await;
    cluster.until_ready("p").await;
}

#[tokio::test]
async fn pods_that_went_while_nobody_looked_are_ended() {
    let mut cluster = Cluster::new();
    cluster.pod("p", one("i"));
    cluster.until_ready("p").await;
    cluster.agent = None;
    cluster.api.remove("pods", "p");
    cluster.start();
    cluster.api.eventually("empty", || cluster.is_empty()).await;
}

#[tokio::test]
async fn a_container_that_fails_is_started_again_ever_later() {
    let cluster = Cluster::new();
    cluster
        .runtime
        .script("bad", Script { exits_after: Some(Duration::from_millis(100)), exit_code: 3, ..Script::default() });
    cluster.pod("p", one("bad"));
    cluster.until("p", "/containerStatuses/0/state/waiting/reason", json!("CrashLoopBackOff")).await;
    let status = &cluster.status("p")["containerStatuses"][0];
    assert_eq!((&status["restartCount"], &status["lastState"]["terminated"]["exitCode"]), (&json!(1), &json!(3)));
    assert_eq!(
        status["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=p_default(p-uid)"
    );
    let at = cluster.api.clock.elapsed();
    cluster.until("p", "/containerStatuses/0/restartCount", json!(2)).await;
    let waited = cluster.api.clock.elapsed() - at;
    assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(12), "{waited:?}");
    cluster.until("p", "/containerStatuses/0/restartCount", json!(4)).await;
    assert!(cluster.runtime.containers().len() <= 2, "old containers are removed");
    assert_eq!(cluster.status("p")["phase"], "Running");
}

#[tokio::test]
async fn a_job_ends_and_keeps_its_container_until_it_is_deleted() {
    let cluster = Cluster::new();
    cluster.runtime.script("job", Script { exits_after: Some(Duration::from_secs(5)), ..Script::default() });
    let mut spec = one("job");
    spec["restartPolicy"] = json!("Never");
    cluster.pod("p", spec);
    cluster.until("p", "/phase", json!("Succeeded")).await;
    assert_eq!(cluster.status("p")["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(cluster.runtime.containers().len(), 1, "its log can still be read");
    cluster.api.delete_pod("p", 0);
    cluster.api.eventually("gone", || cluster.api.get("pods", "p").is_null()).await;
    assert!(cluster.is_empty());
}

#[tokio::test]
async fn faults_of_the_runtime_are_outlasted() {
    let cluster = Cluster::new();
    let fault = || RuntimeError::Failed("no".into());
    for call in
        [Call::RunPodSandbox, Call::ListContainers, Call::CreateContainer, Call::StartContainer, Call::PodSandboxStatus]
    {
        cluster.runtime.fail(call, 2, fault());
    }
    cluster.pod("p", one("i"));
    cluster.until_ready("p").await;
    for call in [Call::StopContainer, Call::StopPodSandbox, Call::RemovePodSandbox, Call::ListPodSandboxes] {
        cluster.runtime.fail(call, 2, fault());
    }
    cluster.api.delete_pod("p", 30);
    cluster.api.eventually("gone", || cluster.api.get("pods", "p").is_null()).await;
    assert!(cluster.is_empty());
}

#[tokio::test]
async fn a_missing_image_is_told_and_waited_for() {
    let cluster = Cluster::new();
    cluster.runtime.without_image("gone");
    cluster.pod("p", one("gone"));
    cluster.until("p", "/containerStatuses/0/state/waiting/reason", json!("ErrImagePull")).await;
    cluster.until("p", "/containerStatuses/0/state/waiting/reason", json!("ImagePullBackOff")).await;
    assert_eq!(cluster.status("p")["phase"], "Pending");
    cluster.runtime.with_image("gone");
    cluster.until_ready("p").await;
}

#[tokio::test]
async fn init_containers_run_in_turn() {
    let cluster = Cluster::new();
    cluster.runtime.script("init", Script { exits_after: Some(Duration::from_secs(1)), ..Script::default() });
    let mut spec = one("i");
    spec["initContainers"] = json!([
        {"name": "one", "image": "init"},
        {"name": "side", "image": "i", "restartPolicy": "Always"},
        {"name": "two", "image": "init"},
    ]);
    cluster.pod("p", spec);
    cluster.until_ready("p").await;
    let names: Vec<String> =
        cluster.runtime.containers().into_iter().map(|c| c.metadata.unwrap_or_default().name).collect();
    assert_eq!(names, ["one", "side", "two", "c"]);
    assert_eq!(cluster.status("p")["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    assert_eq!(cluster.running().len(), 2);
}

#[tokio::test]
async fn probes_decide_over_readiness_and_life() {
    let cluster = Cluster::new();
    let healthy = Arc::new(Mutex::new((false, true)));
    let seen = healthy.clone();
    cluster.runtime.on_exec(Arc::new(move |_, command| {
        let (ready, alive) = *seen.lock();
        let well = if command[0] == "ready" { ready } else { alive };
        ExecSyncResponse { exit_code: i32::from(!well), stdout: b"unwell".to_vec(), ..ExecSyncResponse::default() }
    }));
    let probe = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 2});
    let mut spec = one("i");
    spec["containers"][0]["readinessProbe"] = probe("ready");
    spec["containers"][0]["livenessProbe"] = probe("alive");
    cluster.pod("p", spec);
    cluster.until("p", "/containerStatuses/0/started", json!(true)).await;
    assert!(!is_ready(&cluster.status("p")));
    healthy.lock().0 = true;
    cluster.until_ready("p").await;
    healthy.lock().1 = false;
    cluster.until("p", "/containerStatuses/0/restartCount", json!(1)).await;
    healthy.lock().1 = true;
    cluster.until_ready("p").await;
    let events = cluster.api.events();
    assert!(events.contains(&"Unhealthy: Liveness probe failed: unwell".to_owned()), "{events:?}");
    assert!(events.contains(&"Killing: Container c failed liveness probe, will be restarted".to_owned()), "{events:?}");
}

#[tokio::test]
async fn a_program_that_starts_up_is_ready_long_before_its_probes_period_is_over() {
    let cluster = Cluster::new();
    let asked = Arc::new(parking_lot::Mutex::new(0));
    let count = asked.clone();
    cluster.runtime.on_exec(Arc::new(move |_, _| {
        *count.lock() += 1;
        ExecSyncResponse { exit_code: i32::from(*count.lock() < 3), ..ExecSyncResponse::default() }
    }));
    let mut spec = one("i");
    spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["ready"]}, "periodSeconds": 60});
    cluster.pod("p", spec);
    cluster.until("p", "/containerStatuses/0/started", json!(true)).await;
    assert!(cluster.api.within(Duration::from_secs(1), || is_ready(&cluster.status("p"))).await);
    let complaints = cluster.api.events().iter().filter(|event| event.starts_with("Unhealthy")).count();
    assert_eq!(complaints, 1, "the tries in between are not told");
}

#[tokio::test]
async fn what_a_pod_refers_to_is_waited_for() {
    let cluster = Cluster::new();
    let mut spec = one("i");
    spec["containers"][0]["env"] = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]);
    cluster.pod("p", spec);
    cluster.until("p", "/containerStatuses/0/state/waiting/reason", json!("CreateContainerConfigError")).await;
    cluster.api.put("configmaps", json!({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": "v"}}));
    cluster.until_ready("p").await;
}

#[tokio::test]
async fn a_stubborn_container_is_killed_when_its_time_is_up_or_cut_short() {
    let cluster = Cluster::new();
    cluster.runtime.script("deaf", Script { ignores_term: true, ..Script::default() });
    cluster.pod("p", one("deaf"));
    cluster.until_ready("p").await;
    let at = cluster.api.clock.elapsed();
    cluster.api.delete_pod("p", 200);
    assert!(!cluster.api.within(Duration::from_secs(5), || cluster.running().is_empty()).await);
    cluster.api.delete_pod("p", 3);
    cluster.api.eventually("gone", || cluster.api.get("pods", "p").is_null()).await;
    assert!(cluster.api.clock.elapsed() - at < Duration::from_secs(15));
}

#[tokio::test]
async fn a_pod_past_its_deadline_is_ended() {
    let cluster = Cluster::new();
    let mut spec = one("i");
    spec["activeDeadlineSeconds"] = json!(20);
    cluster.pod("p", spec);
    cluster.until_ready("p").await;
    cluster.until("p", "/reason", json!("DeadlineExceeded")).await;
    assert_eq!(cluster.status("p")["phase"], "Failed");
    assert!(cluster.running().is_empty());
}

/// Groups in which a process is that the runtime has lost; it lives until it is killed.
#[derive(Default)]
struct Haunted {
    killed: Mutex<Vec<String>>,
}

impl Cgroups for Haunted {
    fn root(&self) -> String {
        String::new()
    }
    fn set(&self, _: &str, _: Limits) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        let killed = self.killed.lock().iter().any(|killed| killed == path);
        if killed { Ok(()) } else { Err(io::ErrorKind::ResourceBusy.into()) }
    }
    fn kill(&self, path: &str) -> io::Result<()> {
        self.killed.lock().push(path.to_owned());
        Ok(())
    }
    fn usage(&self, _: &str) -> io::Result<Usage> {
        Ok(Usage::default())
    }
    fn traffic(&self, _: &str) -> Option<Traffic> {
        None
    }
    fn pods(&self) -> io::Result<Vec<String>> {
        Ok(vec!["burstable/podnobody".to_owned()])
    }
}

#[tokio::test]
async fn processes_that_the_runtime_lost_are_ended() {
    let haunted = Arc::new(Haunted::default());
    let cluster = Cluster::with(|config| config.os.cgroups = haunted.clone());
    cluster.pod("p", one("i"));
    cluster.until_ready("p").await;
    let swept = || *haunted.killed.lock() == ["burstable/podnobody"];
    cluster.api.eventually("the group of a pod that nobody has is cleared, and no other", swept).await;
    cluster.api.delete_pod("p", 1);
    cluster.api.eventually("gone", || cluster.api.get("pods", "p").is_null()).await;
    assert_eq!(*haunted.killed.lock(), ["burstable/podnobody", "besteffort/podp-uid"]);
}

#[tokio::test]
async fn a_pod_that_does_not_fit_fails_and_one_that_runs_stays() {
    let mut cluster = Cluster::new();
    let asking = |cpu: &str| {
        let mut spec = one("i");
        spec["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        spec
    };
    cluster.pod("first", asking("5"));
    cluster.until_ready("first").await;
    cluster.pod("second", asking("4"));
    cluster.until("second", "/phase", json!("Failed")).await;
    let status = cluster.status("second");
    let story = "Pod was rejected: Node didn't have enough resource: cpu, requested: 4000, used: 5000, capacity: 8000";
    assert_eq!((&status["reason"], &status["message"]), (&json!("OutOfcpu"), &json!(story)));
    assert!(status["containerStatuses"].is_null() && cluster.running().len() == 1, "{status}");
    // The next agent finds the one that runs, and room once it has gone.
    cluster.start();
    cluster.api.delete_pod("first", 1);
    cluster.api.eventually("gone", || cluster.api.get("pods", "first").is_null()).await;
    cluster.pod("third", asking("8"));
    cluster.until_ready("third").await;
}

fn condition(status: &Value, type_: &str) -> Value {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == type_).cloned().unwrap_or_default()
}

fn cpu(amount: &str) -> Value {
    json!({"requests": {"cpu": amount}, "limits": {"cpu": amount, "memory": "1Gi"}})
}

/// As the API's `resize` changes a pod.
fn resize(cluster: &Cluster, name: &str, generation: i64, resources: Value) {
    let mut spec = cluster.api.get("pods", name)["spec"].clone();
    spec["containers"][0]["resources"] = resources;
    cluster.api.change("pods", name, json!({"metadata": {"generation": generation}, "spec": spec}));
}

#[tokio::test]
async fn resources_of_a_running_container_change_in_place() {
    let cluster = Cluster::new();
    let mut spec = one("i");
    spec["containers"][0]["resources"] = cpu("1");
    cluster.pod("p", spec);
    cluster.until_ready("p").await;
    resize(&cluster, "p", 2, cpu("2"));
    cluster.until("p", "/containerStatuses/0/resources/limits/cpu", json!("2")).await;
    cluster.until("p", "/observedGeneration", json!(2)).await;
    let status = cluster.status("p");
    assert_eq!(status["containerStatuses"][0]["allocatedResources"], json!({"cpu": "2"}));
    assert_eq!(
        (&status["allocatedResources"], &status["containerStatuses"][0]["restartCount"]),
        (&json!({"cpu": "2"}), &json!(0))
    );
    assert!(condition(&status, "PodResizeInProgress").is_null(), "{status}");
    let given = cluster.runtime.containers()[0].resources.clone().and_then(|r| r.linux).expect("resources");
    assert_eq!((given.cpu_quota, given.cpu_shares, given.memory_limit_in_bytes), (200_000, 2048, 1 << 30));
    let told =
        |event: &String| event.starts_with("ResizeCompleted: Pod resize completed: {\"containers\":[{\"name\":\"c\"");
    cluster.api.eventually("told of", || cluster.api.events().iter().any(told)).await;
}

#[tokio::test]
async fn a_resize_that_the_runtime_refuses_is_told_and_tried_again() {
    let cluster = Cluster::new();
    let mut spec = one("i");
    spec["containers"][0]["resources"] = cpu("1");
    cluster.pod("p", spec);
    cluster.until_ready("p").await;
    cluster.runtime.fail(Call::UpdateContainerResources, 2, RuntimeError::Failed("no".into()));
    resize(&cluster, "p", 2, cpu("2"));
    let error = || condition(&cluster.status("p"), "PodResizeInProgress");
    cluster.api.eventually("told", || error()["reason"] == "Error" && error()["message"] == "no").await;
    assert_eq!(cluster.status("p")["containerStatuses"][0]["resources"]["limits"]["cpu"], "1");
    cluster.until("p", "/containerStatuses/0/resources/limits/cpu", json!("2")).await;
    cluster.api.eventually("over", || error().is_null()).await;
}

#[tokio::test]
async fn a_resize_policy_of_restart_begins_anew() {
    let cluster = Cluster::new();
    let mut spec = one("i");
    spec["containers"][0]["resources"] = cpu("1");
    spec["containers"][0]["resizePolicy"] = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    cluster.pod("p", spec);
    cluster.until_ready("p").await;
    resize(&cluster, "p", 2, cpu("2"));
    cluster.until("p", "/containerStatuses/0/restartCount", json!(1)).await;
    cluster.until("p", "/containerStatuses/0/resources/limits/cpu", json!("2")).await;
    assert_eq!(cluster.runtime.count(Call::UpdateContainerResources), 0);
}

#[tokio::test]
async fn a_resize_waits_for_room_even_while_the_agent_is_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let directory = dir.path().to_owned();
    let mut cluster = Cluster::with(move |config| {
        config.directory = directory;
        config.os.files = Arc::new(crate::os::RealFiles);
    });
    for name in ["p", "q"] {
        let mut spec = one("i");
        spec["containers"][0]["resources"] = cpu("4");
        cluster.pod(name, spec);
        cluster.until_ready(name).await;
    }
    resize(&cluster, "p", 2, cpu("6"));
    let pending = |cluster: &Cluster| condition(&cluster.status("p"), "PodResizePending");
    cluster.api.eventually("deferred", || pending(&cluster)["reason"] == "Deferred").await;
    let story = "Node didn't have enough resource: cpu, requested: 6000, used: 4000, capacity: 8000";
    assert_eq!((&pending(&cluster)["message"], &pending(&cluster)["observedGeneration"]), (&json!(story), &json!(2)));
    let has = |cluster: &Cluster, name: &str| {
        cluster.status(name)["containerStatuses"][0]["resources"]["limits"]["cpu"].clone()
    };
    assert_eq!(has(&cluster, "p"), "4");
    cluster.start();
    assert!(
        !cluster.api.within(Duration::from_secs(30), || pending(&cluster).is_null()).await,
        "the successor knows what was granted"
    );
    resize(&cluster, "q", 2, cpu("2"));
    cluster.api.eventually("room", || pending(&cluster).is_null() && has(&cluster, "p") == "6").await;
    assert_eq!(has(&cluster, "q"), "2");
}

#[tokio::test]
async fn an_image_is_seen_as_a_volume_as_long_as_its_pod_lives() {
    let cluster = Cluster::new();
    cluster.runtime.without_image("data");
    let mut spec = one("i");
    spec["volumes"] = json!([{"name": "v", "image": {"reference": "data", "pullPolicy": "Always"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/data"}]);
    cluster.pod("p", spec);
    cluster.until("p", "/containerStatuses/0/state/waiting/reason", json!("ErrImagePull")).await;
    assert!(cluster.runtime.mounted().is_empty() && cluster.runtime.containers().is_empty());
    cluster.runtime.with_image("data");
    cluster.until_ready("p").await;
    let mount = cluster.runtime.containers()[0].mounts[0].clone();
    let mounted: Vec<_> = cluster.runtime.mounted().into_iter().collect();
    assert_eq!(mounted, [(mount.host_path.into(), "data".to_owned())]);
    assert!(mount.readonly && mount.container_path == "/data");
    cluster.api.delete_pod("p", 1);
    cluster.api.eventually("gone", || cluster.api.get("pods", "p").is_null()).await;
    assert!(cluster.runtime.mounted().is_empty());
}

#[tokio::test]
async fn a_volume_follows_the_labels_of_its_pod() {
    let dir = tempfile::tempdir().expect("a directory");
    let directory = dir.path().to_owned();
    let cluster = Cluster::with(move |config| {
        config.directory = directory;
        config.os.files = Arc::new(crate::os::RealFiles);
    });
    let mut spec = one("i");
    let items = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    spec["volumes"] = json!([{"name": "v", "downwardAPI": {"items": items}}]);
    cluster.pod("p", spec);
    cluster.until_ready("p").await;
    let shown = || std::fs::read_to_string(dir.path().join("pods/p-uid/volumes/v/labels")).unwrap_or_default();
    assert_eq!(shown(), "");
    cluster.api.change("pods", "p", json!({"metadata": {"labels": {"a": "b"}}}));
    cluster.api.eventually("the label is shown", || shown() == "a=\"b\"").await;
}

/// A pod with a ConfigMap and a token in its volume, and where they are seen.
fn with_volume(cluster: &Cluster) -> std::path::PathBuf {
    let map = |text: &str| json!({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": text}});
    cluster.api.put("configmaps", map("old"));
    let sources =
        json!([{"configMap": {"name": "m"}}, {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]);
    let mut spec = one("i");
    spec["volumes"] = json!([{"name": "v", "projected": {"sources": sources}}]);
    cluster.pod("p", spec);
    cluster.config.directory.join("memory/p-uid/v")
}

#[tokio::test]
async fn a_successor_keeps_volumes_up_to_date() {
    let dir = tempfile::tempdir().expect("a directory");
    let directory = dir.path().to_owned();
    let mut cluster = Cluster::with(move |config| {
        config.directory = directory;
        config.os.files = Arc::new(crate::os::RealFiles);
    });
    let volume = with_volume(&cluster);
    let shown = || std::fs::read_to_string(volume.join("k")).unwrap_or_default();
    cluster.until_ready("p").await;
    assert_eq!(shown(), "old");
    cluster.start();
    cluster.api.change("configmaps", "m", json!({"data": {"k": "new"}}));
    cluster.api.eventually("the new content", || shown() == "new").await;
    let asked = cluster.api.tokens();
    assert!(asked >= 2, "the successor asks for a token of its own");
    cluster.api.within(Duration::from_secs(3000), || cluster.api.tokens() > asked).await;
    assert_eq!(cluster.api.tokens(), asked + 1, "and renews it");
}

#[tokio::test]
async fn a_token_that_is_not_renewed_is_asked_for_now_and_then() {
    let dir = tempfile::tempdir().expect("a directory");
    let directory = dir.path().to_owned();
    let cluster = Cluster::with(move |config| {
        config.directory = directory;
        config.os.files = Arc::new(crate::os::RealFiles);
    });
    with_volume(&cluster);
    cluster.until_ready("p").await;
    cluster.api.refuse_tokens();
    let asked = cluster.api.tokens();
    cluster.api.within(Duration::from_secs(2880 + 600), || false).await;
    let asked = cluster.api.tokens() - asked;
    assert!((8..=12).contains(&asked), "once a minute: {asked}");
    assert!(is_ready(&cluster.status("p")));
}

#[tokio::test]
async fn a_file_becomes_a_pod_that_a_mirror_shows() {
    let dir = tempfile::tempdir().expect("a directory");
    let manifest = |image: &str| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "s"},
            "spec": {"containers": [{"name": "c", "image": image}]}});
        std::fs::write(dir.path().join("s.yaml"), pod.to_string()).expect("written");
    };
    manifest("i");
    let directory = dir.path().to_owned();
    let cluster = Cluster::with(|config| config.static_pod_directory = Some(directory));
    let name = "s-node-1";
    cluster.until_ready(name).await;
    let mirror = cluster.api.get("pods", name);
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["name"], "node-1");
    let hash = |mirror: &Value| mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].clone();
    let before = cluster.running();
    cluster.api.remove("pods", name);
    cluster.until_ready(name).await;
    assert_eq!(cluster.running(), before, "who deletes a mirror ends nothing");
    manifest("j");
    cluster
        .api
        .eventually("another pod", || {
            let now = cluster.api.get("pods", name);
            !hash(&now).is_null() && hash(&now) != hash(&mirror) && is_ready(&now["status"])
        })
        .await;
    assert_eq!(cluster.running().len(), 1);
    std::fs::remove_file(dir.path().join("s.yaml")).expect("removed");
    cluster.api.eventually("gone", || cluster.api.get("pods", name).is_null() && cluster.is_empty()).await;
}

/// A machine that is out of memory as long as it is told so.
struct Strained {
    facts: crate::os::MachineFacts,
    used: Mutex<u64>,
}

impl Machine for Strained {
    fn facts(&self) -> crate::os::MachineFacts {
        self.facts.clone()
    }
    fn resolv_conf(&self) -> String {
        String::new()
    }
    fn hosts(&self) -> String {
        String::new()
    }
    fn usage(&self) -> Usage {
        Usage { working_set: *self.used.lock(), processes: 5, ..Usage::default() }
    }
    fn traffic(&self) -> Option<Traffic> {
        None
    }
}

#[tokio::test]
async fn a_node_without_memory_evicts_and_says_so() {
    let machine = Arc::new(Strained { facts: hollow::facts(), used: Mutex::new(0) });
    let strained = machine.clone();
    let cluster = Cluster::with(move |config| {
        config.os.machine = strained;
        config.watches_pressure = true;
    });
    cluster.pod("p", one("i"));
    cluster.until_ready("p").await;
    *machine.used.lock() = 32 << 30;
    cluster.until("p", "/reason", json!("Evicted")).await;
    *machine.used.lock() = 0;
    let status = cluster.status("p");
    assert_eq!(status["phase"], "Failed");
    let disrupted = |c: &Value| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet";
    assert!(status["conditions"].as_array().expect("conditions").iter().any(disrupted), "{status}");
    let pressure = || {
        let node = cluster.api.get("nodes", "node-1");
        let mut conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default().into_iter();
        conditions.find(|c| c["type"] == "MemoryPressure").is_some_and(|c| c["status"] == "True")
    };
    cluster.api.eventually("told", pressure).await;
    cluster.pod("late", one("i"));
    cluster.until("late", "/reason", json!("Evicted")).await;
    cluster.api.eventually("over", || !pressure()).await;
    cluster.pod("later", one("i"));
    cluster.until_ready("later").await;
}

/// It may be short for a while, its pods may take their time then, and each shortage is told by itself.
#[tokio::test]
async fn soft_thresholds_wait_and_give_time() {
    let facts = crate::os::MachineFacts { max_processes: 10, ..hollow::facts() };
    let machine = Arc::new(Strained { facts, used: Mutex::new(0) });
    let strained = machine.clone();
    let settings = "{apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration, evictionMaxPodGracePeriod: 20, \
        evictionHard: {}, evictionSoft: {memory.available: 1Gi, pid.available: 10%}, \
        evictionSoftGracePeriod: {memory.available: 45s, pid.available: 1h}}";
    let cluster = Cluster::with(move |config| {
        config.os.machine = strained;
        config.watches_pressure = true;
        config.settings = crate::Settings::read(settings.as_bytes()).expect("settings");
    });
    cluster.runtime.script("stubborn", Script { ignores_term: true, ..Script::default() });
    let mut stubborn = one("stubborn");
    stubborn["terminationGracePeriodSeconds"] = json!(300);
    cluster.pod("p", stubborn);
    cluster.until_ready("p").await;
    let condition = |type_: &str| {
        let conditions = cluster.api.get("nodes", "node-1")["status"]["conditions"].clone();
        let found = conditions.as_array().and_then(|all| all.iter().find(|c| c["type"] == type_).cloned());
        found.unwrap_or_default()["status"].clone()
    };
    assert_eq!(condition("PIDPressure"), "False");
    *machine.used.lock() = 32 << 30;
    cluster.api.eventually("told", || condition("MemoryPressure") == "True").await;
    let begun = cluster.api.clock.elapsed();
    cluster.until("p", "/reason", json!("Evicted")).await;
    let took = (cluster.api.clock.elapsed() - begun).as_secs();
    assert!((45 + 20 - 10..=45 + 20 + 20).contains(&took), "it took {took} s");
    assert_eq!(condition("PIDPressure"), "False", "5 of 10 are left");
}

/// A machine that stops, or not, as it is told, and whether it has been told to wait.
#[derive(Default)]
struct Switch {
    news: Mutex<Option<tokio::sync::mpsc::UnboundedReceiver<bool>>>,
    held: Arc<AtomicBool>,
}

struct Switched(tokio::sync::mpsc::UnboundedReceiver<bool>, Arc<AtomicBool>);

#[async_trait::async_trait]
impl Power for Switch {
    async fn watch(&self) -> io::Result<Box<dyn PowerWatch>> {
        let news = self.news.lock().take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Box::new(Switched(news, self.held.clone())))
    }
}

#[async_trait::async_trait]
impl PowerWatch for Switched {
    async fn patience(&mut self) -> io::Result<Duration> {
        Ok(Duration::from_secs(60))
    }
    async fn ask_for(&mut self, _: Duration) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    async fn hold(&mut self) -> io::Result<()> {
        self.1.store(true, Ordering::Relaxed);
        Ok(())
    }
    fn release(&mut self) {
        self.1.store(false, Ordering::Relaxed);
    }
    async fn next(&mut self) -> io::Result<bool> {
        self.0.recv().await.ok_or(io::ErrorKind::BrokenPipe.into())
    }
}

#[tokio::test]
async fn a_machine_that_stops_ends_its_pods_in_order() {
    let (tell, news) = tokio::sync::mpsc::unbounded_channel();
    let switch = Arc::new(Switch { news: Mutex::new(Some(news)), ..Switch::default() });
    let (power, held) = (switch.clone(), switch.held.clone());
    let settings = "{apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration, \
        shutdownGracePeriod: 30s, shutdownGracePeriodCriticalPods: 10s}";
    let cluster = Cluster::with(move |config| {
        config.os.power = power;
        config.settings = crate::Settings::read(settings.as_bytes()).expect("settings");
    });
    cluster.runtime.script("stubborn", Script { ignores_term: true, ..Script::default() });
    let mut stubborn = one("stubborn");
    stubborn["terminationGracePeriodSeconds"] = json!(300);
    cluster.pod("p", stubborn);
    let mut critical = one("i");
    critical["priority"] = json!(2_000_000_000);
    cluster.pod("critical", critical);
    cluster.until_ready("p").await;
    cluster.until_ready("critical").await;
    cluster.api.eventually("a lock", || held.load(Ordering::Relaxed)).await;
    let begun = cluster.api.clock.elapsed();
    tell.send(true).expect("told");
    let ready = || {
        let node = cluster.api.get("nodes", "node-1");
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default()
    };
    cluster.api.eventually("not ready", || ready()["message"] == "node is shutting down").await;
    cluster.pod("late", one("i"));
    cluster.until("late", "/reason", json!("NodeShutdown")).await;
    cluster.api.eventually("the machine may stop", || !held.load(Ordering::Relaxed)).await;
    let took = (cluster.api.clock.elapsed() - begun).as_secs();
    assert!((20..25).contains(&took), "it took {took} s");
    for name in ["p", "critical"] {
        cluster.until(name, "/reason", json!("Terminated")).await;
        let status = cluster.status(name);
        assert_eq!(status["phase"], "Failed");
        let disrupted = |c: &Value| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet";
        assert!(status["conditions"].as_array().expect("conditions").iter().any(disrupted), "{status}");
    }
    tell.send(false).expect("told");
    cluster.api.eventually("ready again", || ready()["status"] == "True" && held.load(Ordering::Relaxed)).await;
    cluster.pod("later", one("i"));
    cluster.until_ready("later").await;
}

/// Whole processors are a guaranteed pod's own, the others share the rest, and neither a restart nor another pod's end
/// changes what it has.
#[tokio::test]
async fn processors_of_ones_own() {
    let read = |path: &str| (path == "cpu/online").then(|| "0-3".to_owned());
    let topology = crate::os::Topology::read(&read, 32 << 30);
    let facts = crate::os::MachineFacts { processors: 4, topology, ..hollow::facts() };
    let dir = tempfile::tempdir().expect("a directory");
    let directory = dir.path().to_owned();
    let settings = "{apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration, cpuManagerPolicy: static, \
        kubeReserved: {cpu: \"1\"}, topologyManagerPolicy: single-numa-node}";
    let mut cluster = Cluster::with(move |config| {
        config.os = Os { files: Arc::new(crate::os::RealFiles), ..Os::hollow(facts) };
        config.settings = crate::Settings::read(settings.as_bytes()).expect("settings");
        (config.log_directory, config.directory) = (directory.join("logs"), directory);
    });
    let own = |cpus: &str| {
        let amounts = json!({"cpu": cpus, "memory": "1Mi"});
        let mut spec = one("own");
        spec["containers"][0]["resources"] = json!({"requests": amounts, "limits": amounts});
        spec
    };
    cluster.pod("shared", one("i"));
    cluster.until_ready("shared").await;
    let runtime = cluster.runtime.clone();
    let cpus = move |pod: &str| -> String {
        let containers = runtime.containers().into_iter();
        let mut of_pod = containers.filter(|c| c.labels.values().any(|label| label == pod));
        let linux = of_pod.next_back().and_then(|container| container.resources?.linux);
        linux.map(|linux| linux.cpuset_cpus).unwrap_or_default()
    };
    assert_eq!(cpus("shared"), "0-3");
    cluster.pod("own", own("2"));
    cluster.until_ready("own").await;
    assert_eq!(cpus("own"), "1-2");
    cluster.api.eventually("less is shared", || cpus("shared") == "0,3").await;
    cluster.pod("late", own("2"));
    cluster.until("late", "/reason", json!("TopologyAffinityError")).await;
    cluster.start();
    cluster.pod("other", own("1"));
    cluster.until_ready("other").await;
    assert_eq!((cpus("other"), cpus("own")), ("3".to_owned(), "1-2".to_owned()));
    cluster.api.delete_pod("own", 1);
    cluster.api.eventually("more is shared", || cpus("shared") == "0-2").await;
}

/// A file server that fails once, and what it was asked for.
#[derive(Clone, Default)]
struct FileServer {
    log: Arc<Mutex<Vec<String>>>,
    mounted: Arc<Mutex<Vec<std::path::PathBuf>>>,
}

impl crate::os::Mounts for FileServer {
    fn mount_memory(&self, _: &std::path::Path, _: Option<u64>) -> io::Result<()> {
        Ok(())
    }
    fn seal(&self, _: &std::path::Path) -> io::Result<()> {
        Ok(())
    }
    fn mount_share<'a>(
        &'a self,
        share: &'a crate::os::Share,
        at: &'a std::path::Path,
    ) -> futures::future::BoxFuture<'a, io::Result<()>> {
        let first = self.log.lock().is_empty();
        self.log.lock().push(format!("mount {} {}", share.source, share.options.join(",")));
        if !first {
            self.mounted.lock().push(at.to_owned());
        }
        Box::pin(std::future::ready(if first { Err(io::Error::other("mount: no route")) } else { Ok(()) }))
    }
    fn remove_share(&self, at: &std::path::Path) -> io::Result<()> {
        self.log.lock().push("remove".to_owned());
        self.unmount(at)?;
        std::fs::remove_dir(at)
    }
    fn unmount(&self, at: &std::path::Path) -> io::Result<()> {
        self.mounted.lock().retain(|mounted| mounted != at);
        Ok(())
    }
    fn below(&self, directory: &std::path::Path) -> io::Result<Vec<std::path::PathBuf>> {
        Ok(self.mounted.lock().iter().filter(|path| path.starts_with(directory)).cloned().collect())
    }
}

/// It is tried again when it fails, mounted once however often agents come and go, and given back before anything is removed.
#[tokio::test]
async fn a_directory_of_a_file_server() {
    let (server, dir) = (FileServer::default(), tempfile::tempdir().expect("a directory"));
    let (mounts, directory) = (server.clone(), dir.path().to_owned());
    let mut cluster = Cluster::with(move |config| {
        config.os =
            Os { files: Arc::new(crate::os::RealFiles), mounts: Arc::new(mounts), ..Os::hollow(hollow::facts()) };
        (config.log_directory, config.directory) = (directory.join("logs"), directory);
    });
    let mut spec = one("i");
    spec["volumes"] = json!([{"name": "v", "nfs": {"server": "files", "path": "/all", "readOnly": true}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    cluster.pod("p", spec);
    cluster.until_ready("p").await;
    assert!(cluster.api.events().iter().any(|event| event.contains("mount: no route")), "{:?}", cluster.api.events());
    let place = dir.path().join("pods/p-uid/shares/v");
    let mounted =
        cluster.runtime.containers()[0].mounts.iter().any(|mount| mount.host_path == place.display().to_string());
    assert!(mounted, "the container sees it");
    cluster.start();
    cluster.pod("other", one("i"));
    cluster.until_ready("other").await;
    assert_eq!(*server.log.lock(), ["mount files:/all ro"; 2]);
    cluster.api.delete_pod("p", 1);
    cluster.api.eventually("gone", || cluster.api.get("pods", "p").is_null()).await;
    assert_eq!(server.log.lock().last().map(String::as_str), Some("remove"));
    assert!(!dir.path().join("pods/p-uid").exists() && server.mounted.lock().is_empty());
}

#[tokio::test]
async fn what_the_runtime_cannot_do_is_refused_and_what_it_can_is_asked_for() {
    let cluster = Cluster::new();
    let mut own_users = one("i");
    own_users["hostUsers"] = json!(false);
    cluster.pod("own-users", own_users);
    let mut sealed = one("i");
    sealed["volumes"] = json!([{"name": "v", "hostPath": {"path": "/v"}}]);
    sealed["containers"][0]["volumeMounts"] =
        json!([{"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Enabled"}]);
    cluster.pod("sealed", sealed);
    let refusal = "RuntimeHandler \"\" does not support user namespaces";
    cluster.api.eventually("a refusal", || cluster.api.events().iter().any(|event| event.contains(refusal))).await;
    let reason = "/containerStatuses/0/state/waiting/reason";
    cluster.until("sealed", reason, json!("CreateContainerConfigError")).await;
    let mut strict = one("i");
    strict["securityContext"] = json!({"supplementalGroupsPolicy": "Strict"});
    cluster.pod("strict", strict.clone());
    cluster.until("strict", "/reason", json!("SupplementalGroupsPolicyNotSupported")).await;

    let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true };
    let handler = RuntimeHandler { name: String::new(), features: Some(features) };
    cluster.runtime.offers(vec![handler], RuntimeFeatures { supplemental_groups_policy: true });
    let told = || cluster.api.get("nodes", "node-1")["status"]["runtimeHandlers"][0]["features"].clone();
    cluster.api.eventually("the node says so", || told()["userNamespaces"] == true).await;
    cluster.until_ready("own-users").await;
    cluster.until_ready("sealed").await;
    cluster.pod("strict-again", strict);
    cluster.until_ready("strict-again").await;
    let status = cluster.status("sealed");
    assert_eq!(status["containerStatuses"][0]["volumeMounts"][0]["recursiveReadOnly"], "Enabled");
    let first = |sandbox: &skiff_cri::v1::PodSandboxStatus| {
        let options = sandbox.linux.as_ref()?.namespaces.as_ref()?.options.as_ref()?;
        Some(options.userns_options.as_ref()?.uids.first()?.host_id)
    };
    let ids: Vec<u32> = cluster.runtime.sandboxes().iter().filter_map(first).collect();
    assert_eq!(ids, [65_536], "one pod has users of its own");
}

#[tokio::test]
async fn sandboxes_that_cannot_be_removed_do_not_pile_up() {
    let cluster = Cluster::new();
    cluster.runtime.fail(Call::RemovePodSandbox, 30, RuntimeError::Failed("its network is stuck".into()));
    cluster.pod("p", one("i"));
    let (api, runtime) = (&cluster.api, &cluster.runtime);
    for _ in 0..6 {
        let ready = || runtime.sandboxes().into_iter().find(|s| s.state() == PodSandboxState::SandboxReady);
        let refused = || api.events().iter().any(|event| event.contains("earlier attempts cannot be removed"));
        api.eventually("a sandbox or a refusal", || refused() || ready().is_some()).await;
        if let Some(sandbox) = ready() {
            runtime.kill_sandbox(&sandbox.id);
        }
    }
    let stuck = || api.events().iter().any(|event| event.contains("3 sandboxes of earlier attempts cannot be removed"));
    api.eventually("a refusal", stuck).await;
    // Two more hold the containers that ended last, one is the newest.
    assert_eq!(runtime.sandboxes().len(), 6);
    cluster.until_ready("p").await;
    api.eventually("what was stuck goes", || runtime.sandboxes().len() <= 3).await;
}
