//! A Deployment's life, once per seed.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use skiff_client::{DeleteOptions, Selection};
use skiff_testkit::cluster::Seen;
use skiff_testkit::writes::Writes;
use skiff_testkit::{Cluster, Options, Sim};

use crate::support::{apply, available, cluster, run, under_every_seed};

const SEEDS: u64 = 200;
const REPLICAS: i32 = 5;
/// 25% of the replicas, rounded up.
const SURGE: i32 = 2;
/// 25% of the replicas, rounded down.
const UNAVAILABLE: i32 = 1;

#[test]
fn a_deployment_lives_and_dies_under_every_seed() {
    under_every_seed(SEEDS, live);
}

#[test]
fn one_seed_is_one_run() {
    let trace = || {
        let (sim, cluster) = cluster(11, &Options::default());
        run(&sim, 11, "rollout", async {
            apply(&cluster, REPLICAS, "web:1").await;
            available(&cluster, REPLICAS).await;
        });
        let pods = cluster.admin().namespaced::<Pod>("default");
        let pods = run(&sim, 11, "list", pods.list(&Selection::default())).unwrap();
        (pods.metadata.resource_version, pods.items, sim.digest())
    };
    assert_eq!(trace(), trace());
}

fn live(seed: u64) {
    let (sim, cluster) = cluster(seed, &Options::default());
    run(&sim, seed, "first rollout", async {
        apply(&cluster, REPLICAS, "web:1").await;
        available(&cluster, REPLICAS).await;
    });
    let update = async {
        apply(&cluster, REPLICAS, "web:2").await;
        available(&cluster, REPLICAS).await;
    };
    let broken = broken(&cluster);
    run(&sim, seed, "rolling update", async {
        futures::pin_mut!(update, broken);
        if let Either::Right((what, _)) = select(update, broken).await {
            panic!("seed {seed}: {what}");
        }
    });
    if seed.is_multiple_of(2) {
        scale_to_nothing(&sim, seed, &cluster);
    }
    run(&sim, seed, "deletion", async {
        let deployments = cluster.admin().namespaced::<Deployment>("default");
        let deleted = deployments.delete("web", &DeleteOptions::default()).await;
        deleted.unwrap_or_else(|error| panic!("seed {seed}: delete: {error}"));
        cluster.until::<Deployment>("default", Seen::is_empty).await;
        cluster.until::<ReplicaSet>("default", Seen::is_empty).await;
        cluster.until::<Pod>("default", Seen::is_empty).await;
    });
    rest(&sim, seed, &cluster);
    assert_eq!(cluster.refused(), Vec::<String>::new(), "seed {seed}");
}

fn scale_to_nothing(sim: &Sim, seed: u64, cluster: &Cluster) {
    run(sim, seed, "scaling to nothing", async {
        let deployments = cluster.admin().namespaced::<Deployment>("default");
        deployments.set_scale("web", 0).await.unwrap_or_else(|error| panic!("seed {seed}: scale: {error}"));
        available(cluster, 0).await;
        cluster.until::<Pod>("default", Seen::is_empty).await;
    });
}

/// Nothing is left to do, so nothing is done.
fn rest(sim: &Sim, seed: u64, cluster: &Cluster) {
    sim.run_for(Duration::from_secs(5));
    let before = run(sim, seed, "revision", cluster.store().revision()).unwrap();
    sim.run_for(Duration::from_secs(60));
    let writes = run(sim, seed, "writes", Writes::since(&**cluster.store(), before)).unwrap();
    assert_eq!(writes.total(), 0, "seed {seed}: an idle cluster writes nothing:\n{writes}");
}

/// Looks at every change, and returns what is wrong once the bounds of a rolling update are left.
async fn broken(cluster: &Cluster) -> String {
    let serves = |pod: &&Arc<Pod>| {
        let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        pod.metadata.deletion_timestamp.is_none()
            && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let too_few = cluster.follow("default", |seen: &Seen<Pod>| {
        let count = seen.values().filter(serves).count() as i32;
        if count < REPLICAS - UNAVAILABLE { ControlFlow::Break(count) } else { ControlFlow::Continue(()) }
    });
    // What is asked for is what upstream bounds: a set may learn of its new size a moment later than its sister.
    let too_many = cluster.follow("default", |seen: &Seen<ReplicaSet>| {
        let count = seen.values().filter_map(|set| set.spec.as_ref()?.replicas).sum::<i32>();
        if count > REPLICAS + SURGE { ControlFlow::Break(count) } else { ControlFlow::Continue(()) }
    });
    futures::pin_mut!(too_few, too_many);
    match select(too_few, too_many).await {
        Either::Left((count, _)) => format!("only {} pods serve", count.unwrap_or_default()),
        Either::Right((count, _)) => format!("{} pods are asked for", count.unwrap_or_default()),
    }
}
