//! A node is lost: its pods are given up after a while, and others take their place.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_client::{DeleteOptions, Kind, Selection};
use skiff_testkit::cluster::Seen;
use skiff_testkit::{Cluster, Options};

use crate::support::{LIMIT, apply, available, cluster};

const PODS: usize = 6;
/// How long a pod tolerates that its node is silent.
const TOLERATED: Duration = Duration::from_secs(300);

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn is_unreachable(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let effects: Vec<&str> = taints
        .filter(|taint| taint.key == "node.kubernetes.io/unreachable")
        .map(|taint| taint.effect.as_str())
        .collect();
    effects.contains(&"NoSchedule") && effects.contains(&"NoExecute")
}

async fn all_elsewhere(cluster: &Cluster, lost: &str) {
    let suits = |seen: &Seen<Pod>| {
        let stay = seen.values().filter(|pod| !pod.deleting());
        let phases = stay.map(|pod| (node_of(pod) == lost, pod.status.as_ref().and_then(|s| s.phase.as_deref())));
        phases.filter(|&(lost, phase)| !lost && phase == Some("Running")).count() == PODS
    };
    cluster.until("default", suits).await;
}

#[test]
fn pods_of_a_lost_node_are_replaced() {
    let (sim, cluster) = cluster(5, &Options::default());
    let placed = async {
        apply(&cluster, PODS as i32, "web:1").await;
        available(&cluster, PODS as i32).await;
        cluster.admin().namespaced::<Pod>("default").list(&Selection::default()).await.unwrap().items
    };
    let pods = sim.run_until(placed, LIMIT).unwrap();
    let lost = node_of(&pods[0]).to_owned();

    cluster.kill_node(lost.strip_prefix("node-").unwrap().parse().unwrap());
    let noticed = |seen: &Seen<Node>| seen.values().any(|node| node.name() == lost && is_unreachable(node));
    sim.run_until(cluster.until("", noticed), LIMIT).unwrap();
    let noticed = sim.world().elapsed();
    sim.run_until(all_elsewhere(&cluster, &lost), LIMIT).unwrap();
    let took = sim.world().elapsed() - noticed;
    assert!(took >= TOLERATED, "no pod is given up early, but they were after {took:?}");

    // Nobody confirms the end of the old pods until the node is known to be gone for good.
    let gone = async {
        cluster.admin().all::<Node>().delete(&lost, &DeleteOptions::default()).await.unwrap();
        let gone = |seen: &Seen<Pod>| seen.len() == PODS && seen.values().all(|pod| node_of(pod) != lost);
        cluster.until("default", gone).await;
    };
    sim.run_until(gone, LIMIT).unwrap();
    assert_eq!(cluster.refused(), Vec::<String>::new());
}
