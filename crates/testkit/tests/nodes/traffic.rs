//! What goes over the wire: pods to pods, Services, names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use skiff_testkit::nodes::Nodes;
use skiff_testkit::process::eventually;

use crate::holds;

pub(crate) const LONG: &str = "--timeout=90s";
/// More than fits into a packet of any size.
const LARGE: usize = 300_000;

/// A server on every node that tells its name, and has a page that no packet holds.
pub(crate) fn prepare(nodes: &Nodes) -> Result<(), String> {
    let script = format!(
        "mkdir /www; hostname > /www/name; head -c {LARGE} /dev/zero > /www/large; exec httpd -f -p 80 -h /www"
    );
    let container = json!({"name": "web", "image": "busybox:1.35", "command": ["sh", "-c", script],
        "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"path": "/name", "port": 80}, "periodSeconds": 1}});
    nodes.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
            "type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": 30080}]}},
    ]}))?;
    // One on each node, also where the controller has not seen all nodes yet.
    nodes.kubectl(&["wait", "--for=jsonpath={.status.numberAvailable}=3", "daemonset/web", LONG]).map(drop)
}

/// Address of each server by its pod's name.
pub(crate) fn servers(nodes: &Nodes) -> Result<BTreeMap<String, String>, String> {
    let list = nodes.get(&["pods", "-l", "app=web"])?;
    let pods =
        list["items"].as_array().into_iter().flatten().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(pods.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))).collect())
}

/// What a page says, from inside a pod.
pub(crate) fn page(nodes: &Nodes, pod: &str, url: &str) -> Result<String, String> {
    nodes.kubectl(&["exec", pod, "--", "sh", "-c", &format!("timeout 5 wget -qO- {url}")])
}

pub(crate) fn pods_to_pods(nodes: &mut Nodes) -> Result<(), String> {
    let servers = servers(nodes)?;
    holds(&format!("three servers: {servers:?}"), servers.len() == 3)?;
    for from in servers.keys() {
        for (to, address) in &servers {
            let name = page(nodes, from, &format!("http://{address}/name"))?;
            holds(&format!("{to} answers {from}, not {name}"), name.trim() == to)?;
            let script = format!("timeout 5 wget -qO- http://{address}/large | wc -c");
            let size = nodes.kubectl(&["exec", from, "--", "sh", "-c", &script])?;
            holds(&format!("a large page of {size} bytes from {to}"), size.trim() == LARGE.to_string())?;
        }
    }
    // A host reaches pods elsewhere, and they know which host it was.
    for address in servers.values() {
        for node in 1..=3 {
            nodes.on_host(
                node,
                &["curl", "-sS", "--noproxy", "*", "--max-time", "5", &format!("http://{address}/name")],
            )?;
        }
    }
    Ok(())
}

pub(crate) fn services_and_names(nodes: &mut Nodes) -> Result<(), String> {
    let servers = servers(nodes)?;
    let names: BTreeSet<&str> = servers.keys().map(String::as_str).collect();
    let service = nodes.get(&["service", "web"])?;
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    for from in servers.keys() {
        let script = format!(
            "for i in $(seq 30); do timeout 5 wget -qO- http://{address}/name; done | sort -u; \
             timeout 5 wget -qO- http://web/name; timeout 5 wget -qO- http://web.default.svc.cluster.local/name"
        );
        let said = nodes.kubectl(&["exec", from, "--", "sh", "-c", &script])?;
        let seen: Vec<&str> = said.lines().collect();
        let (answers, by_name) = seen.split_at(seen.len().saturating_sub(2));
        let answers: BTreeSet<&str> = answers.iter().copied().collect();
        holds(&format!("all of {names:?} answer {from}: {said}"), answers == names)?;
        holds(&format!("names resolve for {from}: {said}"), by_name.iter().all(|name| names.contains(name)))?;
    }
    // A node's port leads to servers on all nodes, and none of them only now and then.
    for _ in 0..10 {
        let url = "http://127.0.0.1:30080/name";
        nodes.on_host(1, &["curl", "-sS", "--noproxy", "*", "--max-time", "5", url])?;
    }
    Ok(())
}

pub(crate) fn policies(nodes: &mut Nodes) -> Result<(), String> {
    let servers = servers(nodes)?;
    let all: Vec<(&String, &String)> = servers.iter().collect();
    let ((from, _), (_, address)) = (all[0], all[1]);
    let url = format!("http://{address}/name");
    let asks = |seconds: u8| {
        let script = format!("timeout {seconds} wget -qO- {url}");
        nodes.kubectl(&["exec", from, "--", "sh", "-c", &script])
    };
    let policy = |ingress: serde_json::Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web"},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": ingress}})
    };
    nodes.apply(&policy(json!([])))?;
    let refused = eventually(Duration::from_secs(20), || asks(1).is_err());
    holds("nothing comes in from another node", refused)?;
    nodes.apply(&policy(json!([{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])))?;
    let allowed = eventually(Duration::from_secs(20), || asks(2).is_ok());
    holds("what is allowed comes in", allowed)?;
    nodes.kubectl(&["delete", "networkpolicy", "web"]).map(drop)
}
