//! What the cases share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde_json::{Value, json};
use skiff_client::{Kind, Patch};
use skiff_testkit::cluster::Seen;
use skiff_testkit::{Cluster, Options, Sim};

/// Of the world's time; nothing here takes as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// A world with a cluster in it.
pub(crate) fn cluster(seed: u64, options: &Options) -> (Sim, Cluster) {
    let sim = Sim::new(seed);
    let started = sim.run_until(Cluster::start(sim.world(), options), LIMIT);
    let cluster = started.unwrap_or_else(|stuck| panic!("seed {seed}: the cluster does not start: {stuck}"));
    (sim, cluster.unwrap_or_else(|error| panic!("seed {seed}: {error}")))
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lives once per seed, on all processors: `SKIFF_SEEDS` raises their number, `SKIFF_FIRST_SEED` begins later than with
/// 0, `SKIFF_SEED` tries a single one.
pub(crate) fn under_every_seed(usual: u64, live: fn(u64)) {
    if let Some(seed) = setting("SKIFF_SEED") {
        return live(seed);
    }
    let (first, seeds) = (setting("SKIFF_FIRST_SEED").unwrap_or(0), setting("SKIFF_SEEDS").unwrap_or(usual));
    let next = AtomicU64::new(first);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= seeds {
                return failed;
            }
            if catch_unwind(AssertUnwindSafe(|| live(seed))).is_err() {
                failed.push(seed);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        started.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{} of {seeds} seeds fail; try SKIFF_SEED={} of {failed:?}", failed.len(), failed[0]);
}

/// Runs the world until `work` is done.
pub(crate) fn run<F: Future>(sim: &Sim, seed: u64, what: &str, work: F) -> F::Output {
    sim.run_until(work, LIMIT).unwrap_or_else(|stuck| panic!("seed {seed}: {what}: {stuck}"))
}

/// A new namespace in which pods can be made.
pub(crate) async fn namespace(cluster: &Cluster, name: &str) {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    cluster.admin().all::<Namespace>().create(&namespace).await.unwrap();
    cluster.until::<ServiceAccount>(name, |seen| !seen.is_empty()).await;
}

/// Applies an object with this spec.
pub(crate) async fn apply_in<K: Kind>(cluster: &Cluster, namespace: &str, name: &str, spec: Value) {
    let api_version = if K::GROUP.is_empty() { K::VERSION.to_owned() } else { format!("{}/{}", K::GROUP, K::VERSION) };
    let metadata = json!({"name": name, "namespace": namespace});
    let object = json!({"apiVersion": api_version, "kind": K::KIND, "metadata": metadata, "spec": spec});
    let client = cluster.admin().with_manager("kubectl");
    let applied = client.namespaced::<K>(namespace).patch(name, &Patch::Apply { object, force: false }).await;
    applied.unwrap_or_else(|error| panic!("apply {} {namespace}/{name}: {error}", K::KIND));
}

/// Applies Deployment `web` in `default`.
pub(crate) async fn apply(cluster: &Cluster, replicas: i32, image: &str) {
    let spec = json!({
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image}]},
        },
    });
    apply_in::<Deployment>(cluster, "default", "web", spec).await;
}

/// Waits until Deployment `web` has `replicas` pods, all up to date and available, and says so.
pub(crate) async fn available(cluster: &Cluster, replicas: i32) {
    let done = |seen: &Seen<Deployment>| seen.values().any(|deployment| is_complete(deployment, replicas));
    cluster.until("default", done).await;
}

fn is_complete(deployment: &Deployment, replicas: i32) -> bool {
    let Some(status) = &deployment.status else { return false };
    let all = |count: Option<i32>| count.unwrap_or(0) == replicas;
    status.observed_generation == deployment.metadata.generation
        && deployment.spec.as_ref().and_then(|spec| spec.replicas) == Some(replicas)
        && all(status.replicas)
        && all(status.updated_replicas)
        && all(status.available_replicas)
}
