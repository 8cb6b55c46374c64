//! Both address families at once, on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_testkit::nodes::Nodes;
use skiff_testkit::process::eventually;

use crate::holds;
use crate::traffic::page;

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Pods and nodes have addresses of both, and reach each other at both.
pub(crate) fn pods(nodes: &mut Nodes) -> Result<(), String> {
    let servers = servers(nodes)?;
    holds(&format!("three servers: {servers:?}"), servers.len() == 3)?;
    for node in nodes.get(&["nodes"])?["items"].as_array().into_iter().flatten() {
        let ranges = texts(&node["spec"]["podCIDRs"]);
        holds(&format!("a range of each family: {ranges:?}"), ranges.len() == 2 && ranges[1].contains(':'))?;
        let addresses = node["status"]["addresses"].to_string();
        holds(&format!("an address of each family: {addresses}"), addresses.matches("InternalIP").count() == 2)?;
    }
    for from in servers.keys() {
        for (to, addresses) in &servers {
            holds(&format!("{to} has both: {addresses:?}"), addresses.len() == 2 && addresses[1].contains(':'))?;
            for url in [format!("http://{}/name", addresses[0]), format!("http://[{}]/name", addresses[1])] {
                let name = page(nodes, from, &url)?;
                holds(&format!("{to} answers {from} at {url}, not {name}"), name.trim() == to)?;
            }
        }
    }
    Ok(())
}

/// A Service that wants both has both, in slices of their own, and its name leads to both.
pub(crate) fn services(nodes: &mut Nodes) -> Result<(), String> {
    nodes.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "both"}, "spec": {
        "type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"},
        "ports": [{"port": 80, "nodePort": 30090}]}}))?;
    let service = nodes.get(&["service", "both"])?;
    let addresses = texts(&service["spec"]["clusterIPs"]);
    holds(&format!("two addresses: {service}"), addresses.len() == 2 && addresses[1].contains(':'))?;
    nodes.kubectl(&[
        "wait",
        "--for=jsonpath={.endpoints[2].conditions.ready}=true",
        "endpointslice",
        "-l",
        "kubernetes.io/service-name=both",
        crate::traffic::LONG,
    ])?;
    let slices = nodes.get(&["endpointslices", "-l", "kubernetes.io/service-name=both"])?;
    let kinds: BTreeSet<String> =
        slices["items"].as_array().into_iter().flatten().map(|slice| slice["addressType"].to_string()).collect();
    holds(&format!("a slice of each family: {kinds:?}"), kinds.len() == 2)?;
    let servers = servers(nodes)?;
    let names: BTreeSet<&str> = servers.keys().map(String::as_str).collect();
    for from in servers.keys() {
        let script =
            format!("for i in $(seq 30); do timeout 5 wget -qO- http://[{}]/name; done | sort -u", addresses[1]);
        let said = nodes.kubectl(&["exec", from, "--", "sh", "-c", &script])?;
        holds(&format!("all of {names:?} answer {from}: {said}"), said.lines().collect::<BTreeSet<_>>() == names)?;
        let found = nodes.kubectl(&["exec", from, "--", "nslookup", "both.default.svc.cluster.local"])?;
        holds(
            &format!("the name has both addresses: {found}"),
            addresses.iter().all(|address| found.contains(address)),
        )?;
    }
    let internal = nodes.get(&["node", "node-2"])?["status"]["addresses"].clone();
    let own = internal.as_array().into_iter().flatten().filter_map(|a| a["address"].as_str()).find(|a| a.contains(':'));
    let url = format!("http://[{}]:30090/name", own.unwrap_or_default());
    nodes.on_host(1, &["curl", "-sS", "--noproxy", "*", "--max-time", "5", &url]).map(drop)
}

/// Addresses of each server by its pod's name.
fn servers(nodes: &Nodes) -> Result<BTreeMap<String, Vec<String>>, String> {
    let list = nodes.get(&["pods", "-l", "app=web"])?;
    let pods = list["items"].as_array().into_iter().flatten();
    let addresses = |pod: &Value| {
        let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
        all.filter_map(|ip| ip["ip"].as_str()).map(str::to_owned).collect()
    };
    Ok(pods.map(|pod| (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), addresses(pod))).collect())
}

/// A load balancer has addresses of its own from the pool, which one of the nodes answers for on the wire.
pub(crate) fn pool(nodes: &mut Nodes) -> Result<(), String> {
    nodes.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "balanced"}, "spec": {
        "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"},
        "ports": [{"port": 8080, "targetPort": 80}]}}))?;
    let ingress = "--for=jsonpath={.status.loadBalancer.ingress[1].ip}";
    nodes.kubectl(&["wait", ingress, "service/balanced", crate::traffic::LONG])?;
    let service = nodes.get(&["service", "balanced"])?;
    let given = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let given: Vec<&str> = given.filter_map(|one| one["ip"].as_str()).collect();
    holds(&format!("addresses of the pool, not {given:?}"), given == crate::POOL)?;
    let announcer = service["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
    for url in [format!("http://{}:8080/name", given[0]), format!("http://[{}]:8080/name", given[1])] {
        // This machine is on the wire, and no node.
        let curl = || Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "2", &url]).output();
        let answered = eventually(Duration::from_secs(20), || curl().is_ok_and(|said| said.status.success()));
        holds(&format!("{announcer} answers at {url}"), answered)?;
    }
    Ok(())
}
