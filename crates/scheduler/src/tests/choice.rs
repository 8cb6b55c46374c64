//! Several nodes can take the pod: which is best.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

use super::{Stage, from, info, node, pod, with, zoned};
use crate::config::Config;
use crate::decide::Decision;

#[test]
fn the_emptier_node_wins() {
    let mut stage = Stage::new(vec![
        node("a", json!({})),
        node("b", json!({})),
        node("c", json!({"spec": {"unschedulable": true}})),
    ]);
    stage.put(pod("one", "1"), "a");
    assert_eq!(stage.choices(&pod("p", "100m")), ["b"]);
}

#[test]
fn equals_are_chosen_from_by_chance() {
    assert_eq!(Stage::new(vec![node("a", json!({})), node("b", json!({}))]).choices(&pod("p", "100m")), ["a", "b"]);
}

#[test]
fn sums_follow_pods() {
    let mut stage = Stage::new(vec![node("a", json!({}))]);
    let one = info(pod("one", "1500m"));
    for _ in 0..2 {
        stage.cluster.set_pod(one.clone(), "a");
        assert_eq!(stage.cluster.node("a").expect("the node").used.cpu, 1500, "told twice, counted once");
    }
    assert!(stage.place(pod("p", "1")).is_err());
    assert!(stage.cluster.remove_pod("one").is_some() && stage.cluster.remove_pod("one").is_none());
    assert_eq!(stage.place(pod("p", "1")), Ok("a".to_owned()));
}

fn preferring(kind: &str, weight: i64, term: Value) -> Value {
    let field = if kind == "nodeAffinity" { "preference" } else { "podAffinityTerm" };
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, field: term}]}}})
}

#[test]
fn preferences() {
    let zone = "topology.kubernetes.io/zone";
    let in_two = json!({"matchExpressions": [{"key": zone, "operator": "In", "values": ["two"]}]});
    let like = |app: &str| json!({"topologyKey": zone, "labelSelector": {"matchLabels": {"app": app}}});
    let app = |name: &str, app: &str, spec: Value| {
        with(name, "0", json!({"metadata": {"labels": {"app": app}}, "spec": spec}))
    };
    let (to, away) = ("podAffinity", "podAntiAffinity");
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    for (what, placed, incoming, expected) in [
        ("zone", json!({}), preferring("nodeAffinity", 10, in_two), "b"),
        ("near", json!({}), preferring(to, 10, like("db")), "a"),
        ("far", json!({}), preferring(away, 10, like("db")), "b"),
        ("others like it", preferring(to, 10, like("web")), json!({}), "a"),
        ("others do not", preferring(away, 10, like("web")), json!({}), "b"),
        (
            "others need it",
            json!({"affinity": {to: {"requiredDuringSchedulingIgnoredDuringExecution": [like("web")]}}}),
            json!({}),
            "a",
        ),
    ] {
        let mut stage = Stage::new(vec![zoned("a", "one"), zoned("b", "two")]);
        stage.put(app("1", "db", placed), "a");
        stage.put(app("2", "db-too", json!({})), "b");
        assert_eq!(stage.choices(&app("p", "web", incoming)), [expected], "{what}");
    }
    let tainted = super::merged(json!(zoned("a", "one")), &soft);
    assert_eq!(Stage::new(vec![from(tainted), zoned("b", "two")]).choices(&pod("p", "0")), ["b"]);
}

#[test]
fn siblings_spread_without_being_told() {
    let mut stage = Stage::new(vec![zoned("a", "one"), zoned("b", "one"), zoned("c", "two")]);
    let set: ReplicaSet = from(
        json!({"metadata": {"name": "s", "namespace": "x"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}}),
    );
    stage.cluster.objects.replica_sets.insert(("x".to_owned(), "s".to_owned()), Arc::new(set));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "s", "controller": true}]);
    let web = |name: &str| with(name, "0", json!({"metadata": {"labels": {"app": "web"}, "ownerReferences": owner}}));
    stage.put(web("1"), "a");
    assert_eq!(stage.choices(&web("p")), ["c"], "another zone first");
    stage.put(web("2"), "c");
    stage.put(web("3"), "c");
    assert_eq!(stage.choices(&web("p")), ["b"], "then another node");
}

#[test]
fn images_that_are_there() {
    let image = json!({"status": {"images": [{"names": ["i:latest"], "sizeBytes": 900 << 20}]}});
    let mut stage = Stage::new(vec![node("a", image), node("b", json!({}))]);
    assert_eq!(stage.choices(&pod("p", "0")), ["a"]);
}

#[test]
fn strategies_come_from_the_configuration() {
    let text = |kind: &str| {
        format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n\
             - pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      scoringStrategy: {{type: {kind}}}\n  \
             plugins: {{score: {{disabled: [{{name: NodeResourcesBalancedAllocation}}]}}}}\n"
        )
    };
    for (kind, expected) in [("LeastAllocated", "b"), ("MostAllocated", "a")] {
        let profile = Config::read(&text(kind), &skiff_meta::world::RealWorld::shared())
            .expect("a configuration")
            .profiles
            .remove(0);
        let mut stage = Stage { profile, ..Stage::new(vec![node("a", json!({})), node("b", json!({}))]) };
        stage.put(pod("one", "1"), "a");
        assert_eq!(stage.choices(&pod("p", "100m")), [expected], "{kind}");
    }
}

#[test]
fn enough_is_enough_and_all_have_their_turn() {
    let nodes = (0..400).map(|n| node(&format!("n{n}"), json!({}))).collect();
    let mut stage = Stage::new(nodes);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let Decision::Place(_, Some(scored)) = stage.decide(pod("p", "100m"), 0) else { panic!("there is room") };
        assert_eq!(scored.nodes.len(), 400 * (50 - 400 / 125) / 100);
        seen.extend(scored.nodes);
    }
    assert_eq!(seen.len(), 400);
}
