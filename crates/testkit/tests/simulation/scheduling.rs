//! What upstream's conformance suite asks of a scheduler (`[sig-scheduling]`), on a simulated cluster: limits of nodes,
//! node selectors, host ports, preemption with its condition; and that a pod is tried again when something happens that
//! helps it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};
use skiff_client::{Client, DeleteOptions, Kind, Patch};
use skiff_server::chain::User;
use skiff_testkit::cluster::Seen;
use skiff_testkit::faults::Rates;
use skiff_testkit::{Cluster, Options, Sim};

use crate::support::{LIMIT, cluster};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A pod that asks for this many units of what test nodes have two of.
pub(crate) fn pod(name: &str, units: u32, spec: Value) -> Value {
    let resources =
        json!({"requests": {"example.com/unit": units.to_string()}, "limits": {"example.com/unit": units.to_string()}});
    let container = json!({"name": "c", "image": "i", "resources": if units == 0 { json!({}) } else { resources }});
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

pub(crate) async fn create(cluster: &Cluster, value: Value) {
    let created = cluster.admin().namespaced::<Pod>("default").create(&read(value)).await;
    created.unwrap_or_else(|error| panic!("create: {error}"));
}

async fn delete(cluster: &Cluster, name: &str) {
    let deleted = cluster.admin().namespaced::<Pod>("default").delete(name, &DeleteOptions::default()).await;
    deleted.unwrap_or_else(|error| panic!("delete: {error}"));
}

/// Gives every node two units.
pub(crate) async fn give_units(cluster: &Cluster, nodes: u8) {
    let units = json!({"example.com/unit": "2"});
    for number in 0..nodes {
        let patch = Patch::Merge(json!({"status": {"capacity": units, "allocatable": units}}));
        let patched = cluster.admin().all::<Node>().patch_status(&format!("node-{number}"), &patch).await;
        patched.unwrap_or_else(|error| panic!("patch: {error}"));
    }
}

pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn named<'s>(seen: &'s Seen<Pod>, name: &str) -> Option<&'s Arc<Pod>> {
    seen.get(&("default".to_owned(), name.to_owned()))
}

/// Waits until the pod has a node; which.
pub(crate) async fn placed(cluster: &Cluster, name: &str) -> String {
    let node = |seen: &Seen<Pod>| match named(seen, name).map(|pod| node_of(pod)) {
        Some(node) if !node.is_empty() => ControlFlow::Break(node.to_owned()),
        _ => ControlFlow::Continue(()),
    };
    cluster.follow("default", node).await.unwrap_or_default()
}

/// Waits until it is known why the pod has no node; the reason and the message.
pub(crate) async fn reason(cluster: &Cluster, name: &str) -> (String, String) {
    let told = |seen: &Seen<Pod>| {
        let condition = named(seen, name).and_then(|pod| skiff_api::pods::condition(pod, "PodScheduled").cloned());
        match condition {
            Some(c) if c.status == "False" => {
                ControlFlow::Break((c.reason.unwrap_or_default(), c.message.unwrap_or_default()))
            }
            _ => ControlFlow::Continue(()),
        }
    };
    cluster.follow("default", told).await.unwrap_or_default()
}

/// Waits until the pod is known to fit nowhere; the message.
async fn refused(cluster: &Cluster, name: &str) -> String {
    let (reason, message) = reason(cluster, name).await;
    assert_eq!(reason, "Unschedulable", "{message}");
    message
}

fn run<T>(seed: u64, nodes: u8, story: impl AsyncFnOnce(&Cluster) -> T) -> (Sim, Cluster) {
    run_with(seed, &Options { nodes, ..Options::default() }, story)
}

fn run_with<T>(seed: u64, options: &Options, story: impl AsyncFnOnce(&Cluster) -> T) -> (Sim, Cluster) {
    let (nodes, (sim, cluster)) = (options.nodes, cluster(seed, options));
    let told = async {
        give_units(&cluster, nodes).await;
        story(&cluster).await;
    };
    sim.run_until(told, LIMIT).unwrap();
    // Watches that have only just begun get a moment to tell something.
    sim.run_for(Duration::from_secs(1));
    let strangers = |line: &String| line.contains("stranger");
    assert_eq!(cluster.refused().into_iter().filter(|line| !strangers(line)).collect::<Vec<_>>(), Vec::<String>::new());
    (sim, cluster)
}

#[test]
fn nodes_take_no_more_than_they_have() {
    run(21, 2, async |cluster| {
        for (name, units) in [("a", 2), ("b", 1), ("c", 1)] {
            create(cluster, pod(name, units, json!({}))).await;
            placed(cluster, name).await;
        }
        create(cluster, pod("more", 1, json!({}))).await;
        let expected = "0/2 nodes are available: 2 Insufficient example.com/unit. no new claims to deallocate, preemption: \
                        0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        assert_eq!(refused(cluster, "more").await, expected);
        let said = |seen: &Seen<Event>| {
            seen.values().any(|event| {
                event.reason.as_deref() == Some("FailedScheduling")
                    && event.type_.as_deref() == Some("Warning")
                    && event.message.as_deref() == Some(expected)
            })
        };
        cluster.until("default", said).await;
        // Room for it is noticed.
        delete(cluster, "c").await;
        placed(cluster, "more").await;
    });
}

#[test]
fn selectors_are_respected() {
    run(22, 3, async |cluster| {
        create(cluster, pod("nowhere", 0, json!({"nodeSelector": {"example.com/colour": "red"}}))).await;
        assert!(refused(cluster, "nowhere").await.contains("3 node(s) didn't match Pod's node affinity/selector"));
        let label = Patch::Merge(json!({"metadata": {"labels": {"example.com/colour": "red"}}}));
        cluster.admin().all::<Node>().patch("node-1", &label).await.unwrap();
        assert_eq!(placed(cluster, "nowhere").await, "node-1", "the label that was missing is there");
    });
}

#[test]
fn a_host_port_on_all_addresses_excludes_any_other() {
    run(23, 1, async |cluster| {
        let port = |ip: &str, protocol: &str| {
            let ports = json!([{"containerPort": 80, "hostPort": 5432, "hostIP": ip, "protocol": protocol}]);
            json!({"containers": [{"name": "c", "image": "i", "ports": ports}]})
        };
        create(cluster, pod("all", 0, port("", "TCP"))).await;
        placed(cluster, "all").await;
        create(cluster, pod("one", 0, port("127.0.0.1", "TCP"))).await;
        assert!(refused(cluster, "one").await.contains("didn't have free ports for the requested pod ports"));
        create(cluster, pod("datagrams", 0, port("127.0.0.1", "UDP"))).await;
        placed(cluster, "datagrams").await;
        delete(cluster, "all").await;
        placed(cluster, "one").await;
    });
}

pub(crate) async fn class(cluster: &Cluster, name: &str, value: i32, policy: &str) {
    let class: PriorityClass = read(json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": policy}));
    cluster.admin().all::<PriorityClass>().create(&class).await.unwrap();
}

#[test]
fn the_less_important_make_room() {
    let (sim, cluster) = run(24, 2, async |cluster| {
        class(cluster, "low", 1, "PreemptLowerPriority").await;
        class(cluster, "high", 1000, "PreemptLowerPriority").await;
        class(cluster, "polite", 1000, "Never").await;
        let of = |class: &str| json!({"priorityClassName": class});
        for (name, units) in [("a", 2), ("b", 1), ("c", 1)] {
            let class = if name == "a" { "high" } else { "low" };
            create(cluster, pod(name, units, of(class))).await;
            placed(cluster, name).await;
        }
        create(cluster, pod("urgent", 2, of("high"))).await;
        let marked = |seen: &Seen<Pod>| {
            ["b", "c"].iter().all(|name| {
                named(seen, name).is_some_and(|pod| {
                    let target = skiff_api::pods::condition(pod, "DisruptionTarget");
                    target.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
                })
            })
        };
        let (node, ()) = futures::future::join(placed(cluster, "urgent"), cluster.until("default", marked)).await;
        let gone = |seen: &Seen<Pod>| named(seen, "b").is_none() && named(seen, "c").is_none();
        cluster.until("default", gone).await;
        let pods = cluster.admin().namespaced::<Pod>("default");
        assert_ne!(node_of(&pods.get("a").await.unwrap()), node, "the more important stayed");
        // Asked politely, nobody goes.
        create(cluster, pod("polite", 1, of("polite"))).await;
        assert!(refused(cluster, "polite").await.ends_with("preemption: not eligible due to preemptionPolicy=Never."));
    });
    // Critical pods are above all.
    let critical = async {
        let mut critical = pod("critical", 2, json!({"priorityClassName": "system-cluster-critical"}));
        critical["metadata"]["namespace"] = json!("kube-system");
        cluster.admin().namespaced::<Pod>("kube-system").create(&read(critical)).await.unwrap();
        let there = |seen: &Seen<Pod>| seen.values().any(|pod| pod.name() == "critical" && !node_of(pod).is_empty());
        cluster.until("kube-system", there).await;
    };
    sim.run_until(critical, LIMIT).unwrap();
}

/// Each of several pods that come at once makes room for itself, whatever news of those that go is late; nobody goes for
/// nothing.
#[test]
fn no_more_go_than_room_is_needed() {
    let faults = Rates { lags: 300, longest_lag: Duration::from_millis(1500), ..Rates::default() };
    for seed in 40..43 {
        run_with(seed, &Options { nodes: 6, faults, ..Options::default() }, async |cluster| {
            class(cluster, "low", 1, "PreemptLowerPriority").await;
            class(cluster, "high", 1000, "PreemptLowerPriority").await;
            let of = |class: &str| json!({"priorityClassName": class, "terminationGracePeriodSeconds": seed % 3});
            for number in 0..12 {
                create(cluster, pod(&format!("low-{number}"), 1, of("low"))).await;
            }
            let all_placed = |prefix: &'static str, count: usize| {
                move |seen: &Seen<Pod>| {
                    let placed = |pod: &&Arc<Pod>| pod.name().starts_with(prefix) && !node_of(pod).is_empty();
                    seen.values().filter(placed).count() == count
                }
            };
            cluster.until("default", all_placed("low", 12)).await;
            // Nodes that come, where nobody may go, are reasons to try again while news of those that go is on its way.
            let distract = async {
                for number in 0..40 {
                    let room = json!({"cpu": "8", "memory": "8Gi", "pods": "9", "example.com/unit": "2"});
                    let node = json!({
                        "metadata": {"name": format!("closed-{number}")}, "spec": {"unschedulable": true},
                        "status": {"capacity": room, "allocatable": room},
                    });
                    cluster.admin().all::<Node>().create(&read(node)).await.unwrap();
                }
            };
            let preempt = async {
                for number in 0..3 {
                    create(cluster, pod(&format!("high-{number}"), 2, of("high"))).await;
                }
            };
            futures::join!(distract, preempt);
            cluster.until("default", all_placed("high", 3)).await;
            let stay = |seen: &Seen<Pod>| {
                seen.values()
                    .filter(|pod| pod.name().starts_with("low") && !skiff_api::pods::is_terminating(pod))
                    .count()
            };
            let staying = cluster.follow("default", |seen| ControlFlow::Break(stay(seen))).await;
            assert_eq!(staying, Some(6), "seed {seed}");
        });
    }
}

#[test]
fn gates_and_other_schedulers_are_respected() {
    run(25, 1, async |cluster| {
        create(cluster, pod("gated", 0, json!({"schedulingGates": [{"name": "example.com/gate"}]}))).await;
        create(cluster, pod("foreign", 0, json!({"schedulerName": "somebody"}))).await;
        create(cluster, pod("plain", 0, json!({}))).await;
        placed(cluster, "plain").await;
        let pods = cluster.admin().namespaced::<Pod>("default");
        for name in ["gated", "foreign"] {
            assert_eq!(node_of(&pods.get(name).await.unwrap()), "", "{name}");
        }
        let open = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
        pods.patch("gated", &open).await.unwrap();
        placed(cluster, "gated").await;
    });
}

#[test]
fn people_are_told_why() {
    run(26, 2, async |cluster| {
        create(cluster, pod("first", 2, json!({}))).await;
        let node = placed(cluster, "first").await;
        let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
        let other = if node == "node-0" { "node-1" } else { "node-0" };
        cluster.admin().all::<Node>().patch(other, &cordon).await.unwrap();
        create(cluster, pod("second", 1, json!({}))).await;
        refused(cluster, "second").await;

        let ask = async |client: &Client, name: &str| {
            client.request(Method::GET, &format!("/api/v1/namespaces/default/pods/{name}/why"), None).await
        };
        let why = ask(&cluster.admin(), "first").await.unwrap();
        assert_eq!(why["node"], json!(node));
        assert_eq!((&why["scores"][0]["node"], &why["scores"][1]["node"]), (&json!(node), &json!(other)));
        let why = ask(&cluster.admin(), "second").await.unwrap();
        let mut said: Vec<(&str, &str, &str)> = why["refusals"]
            .as_array()
            .unwrap()
            .iter()
            .map(|refusal| {
                let text = |field: &str| refusal[field].as_str().unwrap_or_default();
                (text("node"), text("plugin"), text("detail"))
            })
            .collect();
        said.sort();
        let mut expected = [
            (node.as_str(), "NodeResourcesFit", "example.com/unit: asks for 1, 2 of 2 taken"),
            (other, "NodeUnschedulable", ""),
        ];
        expected.sort();
        assert_eq!(said, expected);
        assert!(ask(&cluster.admin(), "nobody").await.unwrap_err().is_not_found());
        let stranger = cluster.client(User::new("stranger", &["system:authenticated"]));
        assert_eq!(ask(&stranger, "first").await.unwrap_err().reason(), "Forbidden");
    });
}
