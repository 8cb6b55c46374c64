//! A network that is not ours: a DaemonSet brings the plugin, as those of the world do, and what is ours holds over it.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_testkit::nodes::Nodes;
use skiff_testkit::process::eventually;

use crate::holds;
use crate::traffic::{LONG, page, servers};

/// A node without a network is not ready and says why; the DaemonSet runs all the same, on the host's network.
pub(crate) fn install(nodes: &mut Nodes) -> Result<(), String> {
    // Nothing can be pulled, so the image must be there before a pod asks for it.
    let there = || {
        nodes.get(&["node", "node-1"]).is_ok_and(|node| node["status"]["images"].to_string().contains("cni-plugins"))
    };
    holds("the image is there", eventually(Duration::from_secs(60), there))?;
    let node = nodes.get(&["node", "node-1"])?;
    let ready = condition(&node, "Ready");
    holds(&format!("no node is ready without a network: {ready}"), ready["status"] == "False")?;
    holds(&format!("the node says why: {ready}"), ready["message"].to_string().contains("cni"))?;
    let range = node["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned();
    let directory = nodes.data_dir().join("node-1/cni");
    let plugin = json!({"type": "ptp", "ipam": {"type": "host-local", "dataDir": directory.join("addresses"),
        "ranges": [[{"subnet": range}]], "routes": [{"dst": "0.0.0.0/0"}]}});
    let list = json!({"cniVersion": "1.0.0", "name": "foreign", "plugins": [plugin]});
    let script = "cp /usr/lib/cni/* /host/bin && printf %s \"$LIST\" > /host/net.d/.new && mv /host/net.d/.new /host/net.d/10.conflist && \
        exec sleep 1000000";
    let container = json!({"name": "install", "image": "cni-plugins:1.1", "command": ["sh", "-c", script],
        "env": [{"name": "LIST", "value": list.to_string()}], "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "host", "mountPath": "/host"}]});
    nodes.on_host(1, &["mkdir", "-p", &directory.join("bin").display().to_string()])?;
    nodes.on_host(1, &["mkdir", "-p", &directory.join("net.d").display().to_string()])?;
    nodes.apply(&json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "network", "namespace": "kube-system"}, "spec": {
            "selector": {"matchLabels": {"app": "network"}},
            "template": {"metadata": {"labels": {"app": "network"}}, "spec": {
                "hostNetwork": true, "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
                "volumes": [{"name": "host", "hostPath": {"path": directory}}], "containers": [container]}}}}))?;
    nodes.kubectl(&["wait", "--for=condition=Ready", "node/node-1", LONG])?;
    let node = nodes.get(&["node", "node-1"])?;
    let taints = node["spec"]["taints"].to_string();
    holds(&format!("the taint goes with the reason: {taints}"), !taints.contains("not-ready"))
}

/// Pods, Services and names.
pub(crate) fn traffic(nodes: &mut Nodes) -> Result<(), String> {
    let container = json!({"name": "web", "image": "busybox:1.35",
        "command": ["sh", "-c", "mkdir /www; hostname > /www/name; exec httpd -f -p 80 -h /www"]});
    nodes.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"port": 80}]}},
    ]}))?;
    nodes.kubectl(&["wait", "--for=condition=Available", "deployment/web", LONG])?;
    let servers = servers(nodes)?;
    let range = nodes.get(&["node", "node-1"])?["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned();
    let prefix = range.trim_end_matches("0/24").to_owned();
    for (from, address) in &servers {
        holds(&format!("{from} has an address of {range}, not {address}"), address.starts_with(&prefix))?;
        for (to, address) in &servers {
            let name = page(nodes, from, &format!("http://{address}/name"))?;
            holds(&format!("{to} answers {from}, not {name}"), name.trim() == to)?;
        }
        let by_name = eventually(Duration::from_secs(20), || page(nodes, from, "http://web/name").is_ok());
        holds("a Service is reached by its name", by_name)?;
    }
    Ok(())
}

/// Policies hold where the host forwards.
pub(crate) fn policies(nodes: &mut Nodes) -> Result<(), String> {
    let servers = servers(nodes)?;
    let all: Vec<(&String, &String)> = servers.iter().collect();
    let (from, address) = (all[0].0, all[1].1);
    let url = format!("http://{address}/name");
    nodes
        .apply(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}}))?;
    let refused = eventually(Duration::from_secs(20), || page(nodes, from, &url).is_err());
    holds("nothing comes in", refused)?;
    nodes.kubectl(&["delete", "networkpolicy", "deny"])?;
    let allowed = eventually(Duration::from_secs(20), || page(nodes, from, &url).is_ok());
    holds("all comes in again", allowed)
}

fn condition(node: &Value, kind: &str) -> Value {
    let all = node["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}
