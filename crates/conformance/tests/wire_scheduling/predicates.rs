//! What keeps a pod from a node, and that it gets there as soon as that is no more.

use serde_json::{Value, json};

use crate::support::{Api as Run, Outcome, accepted};
use crate::{asks, create, delete, make_node, only, placed, refused, spec};

pub(crate) fn resources(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let nodes = [make_node(run, "cpu", json!({"cpu": "1"}))?, make_node(run, "cpu", json!({"cpu": "1"}))?];
    let pod = |cpu: &str, affinity: Value| spec("cpu", json!({"containers": asks("cpu", cpu), "affinity": affinity}));
    for (filler, node) in ["filler-0", "filler-1"].iter().zip(&nodes) {
        create(run, &home, filler, pod("700m", only(node)))?;
        placed(run, &home, filler, node)?;
    }
    create(run, &home, "further", pod("500m", json!({})))?;
    refused(run, &home, "further", "2 Insufficient cpu")?;
    delete(run, &format!("{home}/pods/filler-1"))?;
    placed(run, &home, "further", &nodes[1])
}

pub(crate) fn selectors(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let (red, other) = (make_node(run, "color", json!({}))?, make_node(run, "color", json!({}))?);
    let paint = |node: &str, color: &str| {
        accepted(&run.merge(&format!("/api/v1/nodes/{node}"), &json!({"metadata": {"labels": {"color": color}}}))?)
    };
    paint(&red, "red")?;
    let pod = |color: &str| spec("color", json!({"nodeSelector": {"color": color}}));
    create(run, &home, "red", pod("red"))?;
    placed(run, &home, "red", &red)?;
    create(run, &home, "blue", pod("blue"))?;
    refused(run, &home, "blue", "node(s) didn't match Pod's node affinity/selector")?;
    paint(&other, "blue")?;
    placed(run, &home, "blue", &other)
}

pub(crate) fn ports(run: &mut Run) -> Outcome {
    let home = run.home()?;
    make_node(run, "ports", json!({}))?;
    let pod = |address: &str, protocol: &str| {
        let port = json!({"containerPort": 80, "hostPort": 54322, "hostIP": address, "protocol": protocol});
        spec("ports", json!({"containers": [{"name": "c", "image": "i", "ports": [port]}]}))
    };
    create(run, &home, "all", pod("", "TCP"))?;
    placed(run, &home, "all", "")?;
    create(run, &home, "one", pod("192.0.2.1", "TCP"))?;
    refused(run, &home, "one", "node(s) didn't have free ports for the requested pod ports")?;
    create(run, &home, "datagrams", pod("192.0.2.1", "UDP"))?;
    placed(run, &home, "datagrams", "")?;
    delete(run, &format!("{home}/pods/all"))?;
    placed(run, &home, "one", "")?;
    create(run, &home, "another", pod("192.0.2.2", "TCP"))?;
    placed(run, &home, "another", "")
}

pub(crate) fn taints(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let node = format!("/api/v1/nodes/{}", make_node(run, "taints", json!({}))?);
    let taint = |taints: Value| accepted(&run.merge(&node, &json!({"spec": {"taints": taints}}))?);
    taint(json!([{"key": "dedicated", "value": "others", "effect": "NoSchedule"}]))?;
    let bears = json!([{"key": "dedicated", "operator": "Equal", "value": "others", "effect": "NoSchedule"}]);
    create(run, &home, "any", spec("taints", json!({})))?;
    refused(run, &home, "any", "untolerated taint(s)")?;
    create(run, &home, "bears", spec("taints", json!({"tolerations": bears})))?;
    placed(run, &home, "bears", "")?;
    taint(json!([]))?;
    placed(run, &home, "any", "")
}
