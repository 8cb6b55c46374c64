//! What the cases share.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use skiff_client::Patch;
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

/// Applies Deployment `web` in `default`.
pub(crate) async fn apply(cluster: &Cluster, replicas: i32, image: &str) {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    });
    let client = cluster.admin().with_manager("kubectl");
    let deployments = client.namespaced::<Deployment>("default");
    let applied = deployments.patch("web", &Patch::Apply { object, force: false }).await;
    applied.unwrap_or_else(|error| panic!("apply: {error}"));
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
