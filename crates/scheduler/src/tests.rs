//! Tables: one node, one pod, one verdict; and choices among several nodes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::cluster::{Cluster, PodInfo};
use crate::decide::{Decision, decide};

pub(crate) fn pod(name: &str, cpu: &str) -> Pod {
    from(
        json!({"metadata": {"name": name, "namespace": "x", "uid": name}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "10Mi"}}}]}}),
    )
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a well-formed object")
}

fn node(name: &str, change: Value) -> Value {
    let mut node = json!({"metadata": {"name": name, "labels": {"zone": name}}, "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}}});
    for (pointer, value) in change.as_object().into_iter().flatten() {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        node.pointer_mut(parent).expect("its parent")[key] = value.clone();
    }
    node
}

fn cluster(nodes: Vec<Value>) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.into_iter().for_each(|node| cluster.set_node(Arc::new(from::<Node>(node))));
    cluster
}

fn info(pod: Pod) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn with(pod: &Pod, pointer: &str, value: Value) -> Pod {
    let mut json = serde_json::to_value(pod).expect("a pod");
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    json.pointer_mut(parent).expect("its parent")[key] = value;
    from(json)
}

#[test]
fn one_verdict_each() {
    let plain = pod("p", "100m");
    let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let port = json!([{"containerPort": 80, "hostPort": 80}]);
    for (what, pod, node_change, refused) in [
        ("plain", plain.clone(), json!({}), None),
        ("cordoned", plain.clone(), json!({"/spec/unschedulable": true}), Some("node(s) were unschedulable")),
        ("taint", plain.clone(), json!({"/spec/taints": taint}), Some("node(s) had untolerated taint(s)")),
        (
            "tolerated",
            with(&plain, "/spec/tolerations", json!([{"key": "k", "operator": "Exists"}])),
            json!({"/spec/taints": taint}),
            None,
        ),
        (
            "selector",
            with(&plain, "/spec/nodeSelector", json!({"zone": "b"})),
            json!({}),
            Some("node(s) didn't match Pod's node affinity/selector"),
        ),
        ("cpu", pod("p", "3"), json!({}), Some("Insufficient cpu")),
        (
            "extended",
            with(&plain, "/spec/containers/0/resources", json!({"requests": {"x.y/z": "1"}})),
            json!({}),
            Some("Insufficient x.y/z"),
        ),
        ("pods", plain.clone(), json!({"/status/allocatable/pods": "0"}), Some("Too many pods")),
        ("port", with(&plain, "/spec/containers/0/ports", port.clone()), json!({}), None),
    ] {
        let found = decide(&info(pod), &cluster(vec![node("a", node_change)]), 0);
        let expected = match refused {
            None => Decision::Place("a".to_owned()),
            Some(reason) => Decision::Nowhere(format!("0/1 nodes are available: 1 {reason}.")),
        };
        assert_eq!(found, expected, "{what}");
    }
    let mut taken = cluster(vec![node("a", json!({}))]);
    taken.set_pod(info(with(&pod("other", "0"), "/spec/containers/0/ports", port.clone())), "a");
    let verdict = decide(&info(with(&plain, "/spec/containers/0/ports", port)), &taken, 0);
    assert_eq!(
        verdict,
        Decision::Nowhere(
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.".to_owned()
        )
    );
}

#[test]
fn the_emptier_node_wins_and_reasons_are_counted() {
    let mut cluster =
        cluster(vec![node("a", json!({})), node("b", json!({})), node("c", json!({"/spec/unschedulable": true}))]);
    cluster.set_pod(info(pod("one", "1")), "a");
    for random in 0..4 {
        assert_eq!(decide(&info(pod("p", "100m")), &cluster, random), Decision::Place("b".to_owned()));
    }
    let nowhere = decide(&info(pod("p", "4")), &cluster, 0);
    assert_eq!(
        nowhere,
        Decision::Nowhere("0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.".to_owned())
    );
    assert_eq!(
        decide(&info(pod("p", "1")), &Cluster::default(), 0),
        Decision::Nowhere("no nodes available to schedule pods".to_owned())
    );
}

#[test]
fn equals_are_chosen_from_by_chance() {
    let cluster = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    let chosen: std::collections::BTreeSet<String> = (0..8)
        .filter_map(|random| match decide(&info(pod("p", "100m")), &cluster, random) {
            Decision::Place(node) => Some(node),
            Decision::Nowhere(_) => None,
        })
        .collect();
    assert_eq!(chosen.len(), 2);
}

#[test]
fn sums_follow_pods() {
    let mut cluster = cluster(vec![node("a", json!({}))]);
    let one = info(pod("one", "1500m"));
    cluster.set_pod(one.clone(), "a");
    assert_eq!(cluster.node("a").expect("the node").used.cpu, 1500);
    cluster.set_pod(one.clone(), "a");
    assert_eq!(cluster.node("a").expect("the node").used.cpu, 1500, "told twice, counted once");
    assert!(matches!(decide(&info(pod("p", "1")), &cluster, 0), Decision::Nowhere(_)));
    assert!(cluster.remove_pod("one") && !cluster.remove_pod("one"));
    assert_eq!(decide(&info(pod("p", "1")), &cluster, 0), Decision::Place("a".to_owned()));
}
