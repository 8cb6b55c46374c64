//! What fails comes back: cut wires, killed agents, nodes that leave.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_testkit::nodes::Nodes;
use skiff_testkit::process::eventually;

use crate::holds;
use crate::traffic::{LONG, page, pods_to_pods, servers};

/// The server on a node: its name and address.
fn server_on(nodes: &Nodes, node: &str) -> Result<(String, String), String> {
    let list = nodes.get(&["pods", "-l", "app=web", "--field-selector", &format!("spec.nodeName={node}")])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pod = list["items"].as_array().into_iter().flatten().find(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let pod = pod.ok_or_else(|| format!("no server on {node}"))?;
    Ok((text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"])))
}

/// Cuts or mends the wire of node 3.
fn wire(nodes: &Nodes, state: &str) -> Result<(), String> {
    // The peer's index tells which device on the bridge it is.
    let peer = nodes.on_host(3, &["cat", "/proc/net/dev"])?;
    holds(&peer, peer.contains("eth0"))?;
    let links = Command::new("ip").args(["-o", "link"]).output().map_err(|e| e.to_string())?.stdout;
    let links = String::from_utf8_lossy(&links).into_owned();
    let device =
        links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next()).find(|name| name.ends_with("n3"));
    let device = device.ok_or(format!("no device of node 3 in:\n{links}"))?;
    let status = Command::new("ip").args(["link", "set", device, state]).status().map_err(|e| e.to_string())?;
    holds(&format!("{device} is {state}"), status.success())
}

pub(crate) fn partition(nodes: &mut Nodes) -> Result<(), String> {
    let (near, _) = server_on(nodes, "node-1")?;
    let (far, address) = server_on(nodes, "node-3")?;
    let url = format!("http://{address}/name");
    wire(nodes, "down")?;
    let cut = page(nodes, &near, &url);
    wire(nodes, "up")?;
    holds(&format!("nothing passes a cut wire: {cut:?}"), cut.is_err())?;
    let healed = eventually(Duration::from_secs(30), || page(nodes, &near, &url).is_ok_and(|name| name.trim() == far));
    holds("the wire is mended and packets pass", healed)?;
    // The agent's connections outlive the cut or are made anew.
    nodes.kubectl(&["exec", &far, "--", "true"]).map(drop)
}

pub(crate) fn killed_agent(nodes: &mut Nodes) -> Result<(), String> {
    let (near, _) = server_on(nodes, "node-1")?;
    let (far, address) = server_on(nodes, "node-3")?;
    let container = |nodes: &Nodes| -> Result<String, String> {
        Ok(nodes.get(&["pod", &far])?["status"]["containerStatuses"][0]["containerID"].to_string())
    };
    let before = container(nodes)?;
    let service = nodes.get(&["service", "web"])?["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    // From elsewhere to the pod, and from the pod through the node's own rules.
    let open = [(&near, &*address), (&far, &*service)];
    open.iter().try_for_each(|(from, to)| begin(nodes, from, to))?;
    let words = nodes.kill(3)?;
    page(nodes, &near, &format!("http://{address}/name"))?;
    nodes.launch(3, &words)?;
    let back = eventually(Duration::from_secs(30), || nodes.kubectl(&["exec", &far, "--", "true"]).is_ok());
    holds(&format!("the agent is back:\n{}", nodes.log_end(3)), back)?;
    open.iter().try_for_each(|(from, to)| finish(nodes, from, to))?;
    holds("its container is the same", before == container(nodes)?)
}

/// Asks half a question on a connection that stays open.
fn begin(nodes: &Nodes, from: &str, to: &str) -> Result<(), String> {
    let half = "printf 'GET /name HTTP/1.0\\r\\n'; touch /tmp/open; cat /tmp/rest";
    // Nothing of it may hold the streams of the command that starts it.
    let script = format!("mkfifo /tmp/rest; (({half}) 2>&- | nc {to} 80 > /tmp/answer 2>&-) > /dev/null 2>&1 &");
    // Half is sent, and the connection to port 80 (0x50) stands.
    let wait = "until test -e /tmp/open && grep -q ':0050 01' /proc/net/tcp; do sleep 0.1; done";
    nodes.kubectl(&["exec", from, "--", "sh", "-c", &format!("{script} {wait}")]).map(drop)
}

/// Asks the rest, and takes the answer.
fn finish(nodes: &Nodes, from: &str, to: &str) -> Result<(), String> {
    let script = "printf '\\r\\n' > /tmp/rest; for i in $(seq 50); do grep -q web- /tmp/answer && exit; sleep 0.1; done; \
                  cat /tmp/answer; exit 1";
    let said = nodes.kubectl(&["exec", from, "--", "sh", "-c", script]);
    said.map(drop).map_err(|error| format!("the connection from {from} to {to} broke: {error}"))
}

/// A node without free addresses says so, and goes on when there are some again.
pub(crate) fn exhaustion(nodes: &mut Nodes) -> Result<(), String> {
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sleep", "3600"]});
    nodes.apply(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": {
        "replicas": 9, "selector": {"matchLabels": {"app": "many"}}, "template": {"metadata": {"labels": {"app": "many"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}}))?;
    let told = eventually(Duration::from_secs(60), || {
        let events = nodes.get(&["events", "--field-selector", "reason=FailedCreatePodSandBox"]);
        let said =
            |event: &Value| event["message"].as_str().is_some_and(|text| text.contains("no free address is left"));
        events.is_ok_and(|events| events["items"].as_array().is_some_and(|events| events.iter().any(said)))
    });
    holds(&format!("an event tells that no free address is left:\n{}", nodes.log_end(1)), told)?;
    nodes.kubectl(&["scale", "deployment/many", "--replicas=4"])?;
    nodes.kubectl(&["rollout", "status", "deployment/many", LONG])?;
    // Others get the addresses of those that went.
    nodes.kubectl(&["rollout", "restart", "deployment/many"])?;
    nodes.kubectl(&["rollout", "status", "deployment/many", LONG]).map(drop)
}

/// Certificates of 30 seconds are renewed after 20; when there have been three of each, the first has ended.
pub(crate) fn renewal(nodes: &mut Nodes) -> Result<(), String> {
    let signed = |nodes: &Nodes| -> Result<BTreeMap<String, usize>, String> {
        let mut signed = BTreeMap::new();
        for request in nodes.get(&["csr"])?["items"].as_array().into_iter().flatten() {
            let (spec, status) = (&request["spec"], &request["status"]);
            if spec["username"] == "system:node:node-2" && status["certificate"].is_string() {
                *signed.entry(spec["signerName"].to_string()).or_default() += 1;
            }
        }
        Ok(signed)
    };
    // Proxy, policies and DNS have the same signer. The node's first one was asked for with the token.
    let enough = |signed: &BTreeMap<String, usize>| signed.len() == 3 && signed.values().all(|&count| count >= 2);
    let parts = |signed: &BTreeMap<String, usize>| signed.values().any(|&count| count >= 9);
    let renewed = eventually(Duration::from_secs(90), || signed(nodes).is_ok_and(|all| enough(&all) && parts(&all)));
    holds(&format!("renewed: {:?}\n{}", signed(nodes)?, nodes.log_end(2)), renewed)?;
    let (pod, _) = server_on(nodes, "node-2")?;
    nodes.kubectl(&["exec", &pod, "--", "true"])?;
    nodes.kubectl(&["wait", "--for=condition=Ready", "node", "--all", LONG])?;
    pods_to_pods(nodes)?;
    // What the node makes known comes through the connections of its new certificates.
    nodes.kubectl(&["delete", "pod", &pod])?;
    let another = || server_on(nodes, "node-2").is_ok_and(|(name, address)| name != pod && !address.is_empty());
    holds("another server on node-2", eventually(Duration::from_secs(60), another))?;
    nodes.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=web", LONG])?;
    pods_to_pods(nodes)
}

pub(crate) fn leave_and_rejoin(nodes: &mut Nodes) -> Result<(), String> {
    let uid = |nodes: &Nodes| -> Result<String, String> {
        Ok(nodes.get(&["node", "node-3"])?["metadata"]["uid"].to_string())
    };
    let before = uid(nodes)?;
    let words = nodes.kill(3)?;
    nodes.kubectl(&["delete", "node", "node-3"])?;
    nodes.launch(3, &words)?;
    nodes.kubectl(&["wait", "--for=create", "node/node-3", LONG])?;
    nodes.kubectl(&["wait", "--for=condition=Ready", "node/node-3", LONG])?;
    holds("it is another node now", before != uid(nodes)?)?;
    let served = eventually(Duration::from_secs(60), || {
        nodes.kubectl(&["rollout", "status", "daemonset/web", LONG]).is_ok()
            && servers(nodes).is_ok_and(|servers| servers.len() == 3)
    });
    holds(&format!("a server on the new node:\n{}", nodes.log_end(3)), served)?;
    pods_to_pods(nodes)
}
