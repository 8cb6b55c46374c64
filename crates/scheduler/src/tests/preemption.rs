//! Making room: who has to go, where.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::{Stage, from, info, node, with};

fn important(name: &str, cpu: &str, priority: i32, changes: Value) -> Pod {
    with(name, cpu, super::merged(json!({"spec": {"priority": priority}}), &changes))
}

fn started(time: &str) -> Value {
    json!({"status": {"startTime": format!("2026-01-01T{time}:00Z")}})
}

fn budget(app: &str, allowed: i32) -> Arc<PodDisruptionBudget> {
    Arc::new(from(json!({
        "metadata": {"name": app, "namespace": "x"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
    })))
}

fn app(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}})
}

type Placed = (&'static str, &'static str, i32, &'static str, Value);

#[test]
fn the_least_harm_is_done() {
    let none = || json!({});
    // Pods by name, cpu, priority and node; two cores on each of a and b.
    let table: Vec<(&str, Vec<Placed>, &str, &[&str])> = vec![
        ("the lower", vec![("1", "2", 5, "a", none()), ("2", "2", 1, "b", none())], "b", &["2"]),
        (
            "the lower sum",
            vec![("1", "1", 1, "a", none()), ("2", "1", 1, "a", none()), ("3", "2", 1, "b", none())],
            "b",
            &["3"],
        ),
        (
            "only as many as needed",
            vec![("1", "1500m", 1, "a", none()), ("2", "500m", 0, "a", none()), ("3", "2", 9, "b", none())],
            "a",
            &["1"],
        ),
        ("the younger", vec![("1", "2", 1, "a", started("10:00")), ("2", "2", 1, "b", started("11:00"))], "b", &["2"]),
        ("the unprotected", vec![("1", "2", 1, "a", app("guarded")), ("2", "2", 5, "b", app("free"))], "b", &["2"]),
        (
            "the protected if it must be",
            vec![("1", "2", 1, "a", app("guarded")), ("2", "2", 9, "b", none())],
            "a",
            &["1"],
        ),
    ];
    for (what, placed, node_name, victims) in table {
        let mut stage = Stage::new(vec![node("a", json!({})), node("b", json!({}))]);
        stage.cluster.objects.budgets.insert(("x".to_owned(), "guarded".to_owned()), budget("guarded", 0));
        for (name, cpu, priority, on, changes) in placed {
            stage.put(important(name, cpu, priority, changes), on);
        }
        let found = stage.preempt(important("p", "1500m", 9, json!({})));
        let victims = victims.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(found, Ok((node_name.to_owned(), victims)), "{what}");
    }
}

#[test]
fn more_important_pods_are_spared_first() {
    let mut stage = Stage::new(vec![node("a", json!({}))]);
    for (name, priority) in [("low", 1), ("high", 3), ("middle", 2)] {
        stage.put(important(name, "600m", priority, json!({})), "a");
    }
    let found = stage.preempt(important("p", "1", 9, json!({})));
    assert_eq!(found, Ok(("a".to_owned(), vec!["middle".to_owned(), "low".to_owned()])));
}

#[test]
fn there_are_limits() {
    let never = json!({"spec": {"preemptionPolicy": "Never"}});
    let hopeless = "0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    for (what, pod, expected) in [
        (
            "no one lower",
            important("p", "1", 1, json!({})),
            "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        ("too large for the node", important("p", "5", 9, json!({})), hopeless),
        ("asked not to", important("p", "1", 9, never), "not eligible due to preemptionPolicy=Never."),
    ] {
        let mut stage = Stage::new(vec![node("a", json!({}))]);
        stage.put(important("1", "2", 1, json!({})), "a");
        assert_eq!(stage.preempt(pod.clone()), Err(expected.to_owned()), "{what}");
        let message = stage.place(pod).expect_err("no room");
        assert!(message.ends_with(&format!(". no new claims to deallocate, preemption: {expected}")), "{message}");
    }
}

#[test]
fn room_is_waited_for_and_kept() {
    let leaving = json!({
        "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
    });
    let waits = json!({"status": {"nominatedNodeName": "a"}});
    let mut stage = Stage::new(vec![node("a", json!({}))]);
    stage.put(important("1", "2", 1, leaving), "a");
    let found = stage.preempt(important("p", "1", 9, waits));
    assert_eq!(found, Err("not eligible due to a terminating pod on the nominated node.".to_owned()));
    // The room that a pod waits for is not given to one that is no more important.
    stage.cluster.remove_pod("1");
    stage.nominated.set(info(important("p", "1500m", 9, json!({}))), "a");
    assert!(stage.place(important("q", "1", 9, json!({}))).is_err());
    assert_eq!(stage.place(important("r", "1", 10, json!({}))), Ok("a".to_owned()));
    assert_eq!(
        stage.place(important("p", "1500m", 9, json!({"status": {"nominatedNodeName": "a"}}))),
        Ok("a".to_owned())
    );
}

#[test]
fn affinity_to_others_makes_victims_too() {
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}});
    let away =
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    let mut stage = Stage::new(vec![node("a", json!({}))]);
    stage.put(important("db", "0", 1, app("db")), "a");
    stage.put(important("web", "0", 1, app("web")), "a");
    let found = stage.preempt(important("p", "1", 9, away));
    assert_eq!(found, Ok(("a".to_owned(), vec!["db".to_owned()])));
    // And the other way round: the placed one wants to be alone.
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "new"}}});
    let away =
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    stage.put(important("loner", "0", 1, away), "a");
    let found = stage.preempt(important("p", "1", 9, app("new")));
    assert_eq!(found, Ok(("a".to_owned(), vec!["loner".to_owned()])));
}

#[test]
fn of_equal_pods_the_same_go_whatever_was_there_before() {
    let placed = |order: &[&str]| {
        let mut stage = Stage::new(vec![node("a", json!({}))]);
        order.iter().for_each(|name| stage.put(important(name, "500m", 1, json!({})), "a"));
        stage
    };
    let room = |mut stage: Stage| stage.preempt(important("p", "500m", 9, json!({})));
    let expected = Ok(("a".to_owned(), vec!["4".to_owned()]));
    assert_eq!(room(placed(&["1", "2", "3", "4"])), expected);
    assert_eq!(room(placed(&["4", "3", "2", "1"])), expected);
    // The last takes the place of the one that went.
    let mut stage = placed(&["0", "1", "2", "3"]);
    stage.cluster.remove_pod("0");
    stage.put(important("4", "500m", 1, json!({})), "a");
    assert_eq!(room(stage), expected);
}
