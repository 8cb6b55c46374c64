//! How many pods a second find a node: `scheduler [SHAPE|all [NODES [PODS]]] [--https | --by COMMAND | --on KUBECONFIG]`.
//!
//! Upstream's scheduler_perf shapes, on the real API server and the durable store in one process, each shape from nothing.
//! Counted from the first pod that is created until the last one is seen on its node, so that the creations count too.
//!
//! `--https`: the scheduler is a process of its own, and talks to the server over HTTPS; what it takes of memory and of
//! processor time is printed. `--by COMMAND`: so is another scheduler, such as upstream's, started by this command with the
//! path of its kubeconfig as last word. `--on KUBECONFIG`: nothing is started; this API server has the load, over HTTPS, and
//! whatever scheduler runs there. It has to be empty: nodes and pods stay there.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use http::Method;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use skiff_client::config::Kubeconfig;
use skiff_client::http::HttpBackend;
use skiff_client::{Call, Client, Event, Patch, Selection};
use skiff_meta::WorldRef;
use skiff_meta::world::{AbortOnDrop, RealWorld};
use skiff_scheduler::{Options, Stats};
use skiff_server::chain::User;
use skiff_server::pki::{Component, Pki};
use skiff_server::{Api, Server, ServerConfig};
use skiff_store::EmbeddedStore;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Requests on their way at one time.
const AT_ONCE: usize = 128;
const ZONES: usize = 10;
const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// Pods of one kind.
struct Batch {
    name: &'static str,
    count: usize,
    spec: Value,
    labels: Value,
    /// They find a node.
    fit: bool,
}

struct Shape {
    name: &'static str,
    /// There before anything is measured.
    before: Vec<Batch>,
    measured: Batch,
}

fn batch(name: &'static str, count: usize, cpu: &str, colour: &str, spec: Value) -> Batch {
    let resources = json!({"requests": {"cpu": cpu, "memory": "500Mi"}});
    let mut full = json!({
        "containers": [{"name": "c", "image": "registry.example.com/pause:3", "resources": resources}],
        "terminationGracePeriodSeconds": 0,
    });
    if let (Some(full), Some(spec)) = (full.as_object_mut(), spec.as_object()) {
        full.extend(spec.clone());
    }
    Batch { name, count, spec: full, labels: json!({"colour": colour}), fit: true }
}

fn near(kind: &str, colour: &str, key: &str) -> Value {
    let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"colour": colour}}});
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn shapes(nodes: usize, pods: usize) -> Vec<Shape> {
    let plain = || json!({});
    let warm = |spec: Value| batch("warm", pods / 10, "100m", "blue", spec);
    let in_zones = json!({"key": ZONE, "operator": "In", "values": ["zone-1", "zone-2"]});
    let required = json!({"nodeSelectorTerms": [{"matchExpressions": [in_zones]}]});
    let node_affinity =
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}});
    let spread = json!({"topologySpreadConstraints": [{
        "maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"colour": "blue"}},
    }]});
    let never = Batch { fit: false, ..batch("never", 200, "9", "red", plain()) };
    vec![
        Shape { name: "basic", before: vec![warm(plain())], measured: batch("pod", pods, "100m", "blue", plain()) },
        Shape {
            name: "affinity",
            before: vec![warm(plain())],
            measured: batch("pod", pods, "100m", "blue", near("podAffinity", "blue", ZONE)),
        },
        Shape {
            name: "anti-affinity",
            before: vec![],
            measured: batch("pod", pods.min(nodes), "100m", "green", near("podAntiAffinity", "green", HOST)),
        },
        Shape {
            name: "node-affinity",
            before: vec![warm(plain())],
            measured: batch("pod", pods.min(nodes * 4), "100m", "blue", node_affinity),
        },
        Shape { name: "spread", before: vec![warm(plain())], measured: batch("pod", pods, "100m", "blue", spread) },
        Shape {
            name: "preemption",
            before: vec![batch("low", nodes * 4, "900m", "blue", json!({"priorityClassName": "low"}))],
            measured: batch("pod", nodes / 2, "3", "blue", json!({"priorityClassName": "high"})),
        },
        Shape {
            name: "unschedulable",
            before: vec![warm(plain()), never],
            measured: batch("pod", pods, "100m", "blue", plain()),
        },
    ]
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if let [child, kubeconfig] = &words[..]
        && child == "child"
    {
        return schedule(kubeconfig.as_ref()).await;
    }
    let own = std::env::current_exe()?.display().to_string() + " child";
    let on = words.iter().position(|word| word == "--on").and_then(|place| words.drain(place..).nth(1));
    let command = match words.iter().position(|word| word == "--https" || word == "--by") {
        Some(place) if words[place] == "--https" => {
            words.remove(place);
            Some(own)
        }
        Some(place) => words.drain(place..).nth(1),
        None => None,
    };
    let mut words = words.into_iter();
    let wanted = words.next().unwrap_or_else(|| "all".to_owned());
    let nodes: usize = words.next().map_or(Ok(5000), |w| w.parse())?;
    let pods: usize = words.next().map_or(Ok(10_000), |w| w.parse())?;
    for shape in shapes(nodes, pods) {
        if let Some(kubeconfig) = on.as_deref().filter(|_| wanted == shape.name) {
            println!("{}", measure_on(&shape, nodes, kubeconfig.as_ref()).await?);
        } else if wanted == shape.name {
            println!("{}", measure(&shape, nodes, command.as_deref()).await?);
        } else if wanted == "all" {
            // In a process of its own: what one leaves in memory is not the next one's.
            let mut alone = Command::new(std::env::current_exe()?);
            alone.args([shape.name, &nodes.to_string(), &pods.to_string()]);
            alone.args(command.iter().flat_map(|command| ["--by", command]));
            if !alone.status()?.success() {
                return Err(format!("{} was not measured", shape.name).into());
            }
        }
    }
    Ok(())
}

/// The API server of a kubeconfig.
fn remote(kubeconfig: &Path, world: &WorldRef) -> Result<Client, Failure> {
    let remote = Kubeconfig::load(kubeconfig)?.remote(None)?;
    Ok(Client::new(Arc::new(HttpBackend::new(remote, world.clone(), "scheduler")?)))
}

/// The scheduler of a process of its own.
async fn schedule(kubeconfig: &Path) -> Result<(), Failure> {
    let world = RealWorld::shared();
    skiff_scheduler::run(remote(kubeconfig, &world)?, world, Options::default()).await;
    Ok(())
}

/// What an API server and its scheduler, wherever they run, make of the load.
async fn measure_on(shape: &Shape, nodes: usize, kubeconfig: &Path) -> Result<String, Failure> {
    let admin = remote(kubeconfig, &RealWorld::shared())?;
    prepare(&admin, nodes).await?;
    run(&admin, &batch("first", 1, "0", "none", json!({}))).await?;
    for batch in &shape.before {
        run(&admin, batch).await?;
    }
    let begun = Instant::now();
    run(&admin, &shape.measured).await?;
    let (name, count) = (shape.name, shape.measured.count);
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    Ok(format!("{name:14} {nodes} nodes, {count} pods: {rate:.0} pods/s"))
}

/// A scheduler, here or in a process of its own.
enum Runs {
    Here { _task: AbortOnDrop, stats: Arc<Stats> },
    Apart(Child),
}

impl Drop for Runs {
    fn drop(&mut self) {
        if let Self::Apart(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Runs {
    fn process(&self) -> String {
        match self {
            Self::Here { .. } => "self".to_owned(),
            Self::Apart(child) => child.id().to_string(),
        }
    }
}

async fn measure(shape: &Shape, nodes: usize, command: Option<&str>) -> Result<String, Failure> {
    let world = RealWorld::shared();
    let directory = tempfile::tempdir()?;
    let store = Arc::new(EmbeddedStore::open(directory.path(), world.clone(), skiff_store::Options::default())?);
    let pki = Pki::in_memory(world.now())?;
    let config = ServerConfig { bind: (Ipv4Addr::LOCALHOST, 0).into(), ..ServerConfig::default() };
    let listener = Server::bind(config.bind)?;
    let server = Server::start(listener, config, &pki, store.clone(), world.clone()).await?;
    let admin = Client::new(server.backend(User::new("admin", &["system:masters", "system:authenticated"])));
    let before = resident("self")?;
    prepare(&admin, nodes).await?;

    let scheduler = match command {
        None => {
            let stats = Arc::new(Stats::default());
            Runs::Here { _task: start(server.api(), &world, &stats), stats }
        }
        Some(command) => {
            let kubeconfig = directory.path().join("scheduler.kubeconfig");
            let address = format!("https://{}", server.address());
            std::fs::write(&kubeconfig, pki.kubeconfig(&Component::Scheduler, &address, world.now())?)?;
            let mut words = command.split_whitespace();
            let mut child = Command::new(words.next().ok_or("no command")?);
            Runs::Apart(child.args(words).arg(kubeconfig).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
        }
    };
    // Whoever has placed a pod has seen all nodes.
    run(&admin, &batch("first", 1, "0", "none", json!({}))).await?;
    let process = scheduler.process();
    let bare = resident(&process)?;
    for batch in &shape.before {
        run(&admin, batch).await?;
    }
    let (after, worked) = (resident(&process)?, processor(&process)?);
    if let Runs::Here { stats, .. } = &scheduler {
        stats.reset();
    }
    let begun = Instant::now();
    run(&admin, &shape.measured).await?;
    let took = begun.elapsed();
    let rate = shape.measured.count as f64 / took.as_secs_f64();
    let (name, count) = (shape.name, shape.measured.count);
    let grew = (resident(&process)? - after) as f64 / 1024.0;
    Ok(match &scheduler {
        Runs::Here { stats, .. } => {
            let micros = |share: f64| stats.latency(share).as_secs_f64() * 1e6;
            let (placed, refused) = stats.decisions();
            format!(
                "{name:14} {nodes} nodes, {count} pods: {rate:.0} pods/s; decisions: {placed} placed, {refused} refused, \
                 p50 {:.0} us, p99 {:.0} us; server and scheduler keep {:.1} KiB a node and {:.1} KiB a pod",
                micros(0.5),
                micros(0.99),
                (bare - before) as f64 / nodes as f64,
                grew * 1024.0 / count as f64,
            )
        }
        Runs::Apart(_) => format!(
            "{name:14} {nodes} nodes, {count} pods: {rate:.0} pods/s; the scheduler: {:.0} MiB with all nodes, {:.1} KiB a \
             pod, {:.0} us of processor time a pod",
            bare as f64 / 1024.0,
            grew * 1024.0 / count as f64,
            (processor(&process)? - worked).as_secs_f64() * 1e6 / count as f64,
        ),
    })
}

fn start(api: &Arc<Api>, world: &WorldRef, stats: &Arc<Stats>) -> AbortOnDrop {
    let client = Client::new(api.backend(User::new("system:kube-scheduler", &["system:authenticated"])));
    let options = Options { stats: stats.clone(), ..Options::default() };
    AbortOnDrop(world.spawn("scheduler", Box::pin(skiff_scheduler::run(client, world.clone(), options))))
}

/// Nodes that take pods, a service account for these, and two priorities.
async fn prepare(admin: &Client, nodes: usize) -> Result<(), Failure> {
    let account: ServiceAccount =
        serde_json::from_value(json!({"metadata": {"name": "default", "namespace": "default"}}))?;
    match admin.namespaced::<ServiceAccount>("default").create(&account).await {
        // A cluster with controllers has made it.
        Err(error) if error.reason() == "AlreadyExists" => {}
        made => drop(made?),
    }
    for (name, value) in [("low", 1), ("high", 1000)] {
        let class: PriorityClass = serde_json::from_value(json!({"metadata": {"name": name}, "value": value}))?;
        admin.all::<PriorityClass>().create(&class).await?;
    }
    let results: Vec<Result<(), Failure>> = stream::iter(0..nodes)
        .map(|number| async move {
            let name = format!("node-{number}");
            let room = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
            let node: Node = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {HOST: name, ZONE: format!("zone-{}", number % ZONES)}},
                "status": {
                    "capacity": room, "allocatable": room,
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }))?;
            admin.all::<Node>().create(&node).await?;
            // A new node is tainted until somebody has seen it ready.
            admin.all::<Node>().patch(&name, &Patch::Merge(json!({"spec": {"taints": null}}))).await?;
            Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    results.into_iter().collect()
}

/// Creates the pods, and waits until all of them that can have a node.
async fn run(admin: &Client, batch: &Batch) -> Result<(), Failure> {
    // Only what is on a node is told of, so that the load costs little beside what is measured.
    let placed = Selection { fields: "spec.nodeName!=".to_owned(), ..Selection::default() };
    let mut events = admin.list_watch(admin.all::<Pod>().target(placed));
    let (name, count) = (batch.name, batch.count);
    let seen = async move {
        // Pods that had a node once: those that are preempted count on.
        let mut placed = std::collections::BTreeSet::new();
        while let Some(event) = events.next().await {
            let objects = match event {
                Event::Replace(objects) => objects,
                Event::Apply(object) => vec![object],
                Event::Delete(_) => continue,
            };
            for object in objects {
                let meta = object.meta();
                if meta.name.starts_with(name) {
                    placed.insert(meta.uid.clone());
                }
            }
            if placed.len() >= count {
                return;
            }
        }
    };
    let path = admin.namespaced::<Pod>("default").path("", "");
    let create = async {
        let results: Vec<Result<(), Failure>> = stream::iter(0..batch.count)
            .map(|number| {
                let pod = json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": format!("{}-{number}", batch.name), "namespace": "default", "labels": batch.labels},
                    "spec": batch.spec,
                });
                let call = Call::new(Method::POST, &*path).json(&pod);
                async move {
                    admin.call::<IgnoredAny>(call?).await?;
                    Ok(())
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        results.into_iter().collect::<Result<(), Failure>>()
    };
    if !batch.fit {
        return create.await;
    }
    let limit = Duration::from_secs(600);
    let (created, seen) = futures::future::join(create, tokio::time::timeout(limit, seen)).await;
    created?;
    seen.map_err(|_| format!("not all pods of {:?} had a node after {limit:?}", batch.name).into())
}

/// Resident memory of a process in KiB.
fn resident(process: &str) -> Result<i64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Processor time of a process; the kernel counts hundredths of a second.
fn processor(process: &str) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("no name")?.1;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
