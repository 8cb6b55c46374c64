//! Tables of pods: what each is, and what it must say before it ends.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use skiff_meta::GroupVersionResource;
use skiff_meta::patch::merge_patch;
use skiff_meta::quantity::Quantity;

use crate::support::{Api as Run, Outcome, Seen, accepted, expect, is_ready};

pub(crate) const BUSYBOX: &str = "busybox:1.35";
pub(crate) const PROBE: &str = "probe:1";

/// A pod that says something and ends.
pub(crate) struct Row {
    name: String,
    pod: Value,
    says: String,
}

/// A row whose container runs `script`; `container` and `spec` say what else there is.
pub(crate) fn row(name: &str, script: &str, container: Value, spec: Value, says: impl Into<String>) -> Row {
    let container = merge_patch(&json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]}), &container);
    Row { name: name.to_owned(), pod: pod(name, container, spec), says: says.into() }
}

/// A pod with one container that is not started again.
pub(crate) fn pod(name: &str, container: Value, spec: Value) -> Value {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"name": name}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}});
    merge_patch(&pod, &json!({"spec": spec}))
}

/// A pod with a probe that serves.
pub(crate) fn server(name: &str, flags: &[&str]) -> Value {
    let command: Vec<&str> = ["probe", "serve"].iter().chain(flags).copied().collect();
    let ready = json!({"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1});
    pod(name, json!({"name": "c", "image": PROBE, "command": command, "readinessProbe": ready}), json!({}))
}

pub(crate) fn pods() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "pods")
}

/// The node's own address.
pub(crate) fn address(node: &Value) -> &str {
    let internal = node["status"]["addresses"].as_array().into_iter().flatten().find(|a| a["type"] == "InternalIP");
    internal.and_then(|address| address["address"].as_str()).unwrap_or_default()
}

/// How much of a resource the node gives to pods, as a whole number.
pub(crate) fn allocatable(node: &Value, resource: &str) -> String {
    let amount = node["status"]["allocatable"][resource].as_str().and_then(|text| text.parse::<Quantity>().ok());
    amount.map(|amount| amount.value().to_string()).unwrap_or_default()
}

pub(crate) fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

impl Run {
    /// Creates an object in a collection of a home.
    pub(crate) fn add(&self, home: &str, collection: &str, object: &Value) -> Result<Value, String> {
        let made = self.post(&format!("{home}/{collection}"), object)?;
        accepted(&made).map_err(|error| format!("{collection} {}: {error}", object["metadata"]["name"]))?;
        Ok(made.tree())
    }

    /// The pods with these names once all are as they shall be.
    pub(crate) fn pods_when(
        &self,
        what: &str,
        home: &str,
        names: &[&str],
        suits: impl Fn(&Value) -> bool,
    ) -> Result<Seen, String> {
        self.see(what, pods(), home, |seen| names.iter().all(|&name| seen.get(name).is_some_and(&suits)))
    }

    /// The pod with this name once it is as it shall be.
    pub(crate) fn pod_when(
        &self,
        what: &str,
        home: &str,
        name: &str,
        suits: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let mut seen = self.pods_when(what, home, &[name], suits)?;
        seen.remove(name).ok_or_else(|| format!("no pod {name}"))
    }

    /// Starts pods that serve, and waits until they are ready; their addresses by name.
    pub(crate) fn serve(&self, home: &str, pods: &[Value]) -> Result<BTreeMap<String, String>, String> {
        let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        pods.iter().try_for_each(|pod| self.add(home, "pods", pod).map(drop))?;
        let ready = self.pods_when("servers are ready", home, &names, is_ready)?;
        let address = |name: &&str| ready[*name]["status"]["podIP"].as_str().unwrap_or_default().to_owned();
        Ok(names.iter().map(|name| ((*name).to_owned(), address(name))).collect())
    }

    /// What a probe answers, asked through the API server.
    pub(crate) fn ask(&self, home: &str, pod: &str, path: &str) -> Result<String, String> {
        let answer = self.json(Method::GET, &format!("{home}/pods/{pod}:8080/proxy{path}"), &Value::Null)?;
        expect(answer.code == 200, &answer)?;
        Ok(String::from_utf8_lossy(&answer.bytes).into_owned())
    }

    /// Asks a probe until its answer suits: what it looks at follows what was declared a moment later.
    pub(crate) fn ask_until(
        &self,
        home: &str,
        pod: &str,
        path: &str,
        suits: impl Fn(&Result<String, String>) -> bool,
    ) -> Outcome {
        let mut last = Ok(String::new());
        let held = skiff_testkit::process::eventually(std::time::Duration::from_secs(100), || {
            last = self.ask(home, pod, path);
            suits(&last)
        });
        if held { Ok(()) } else { Err(format!("{pod} {path}: {last:?}")) }
    }

    /// What a container has said.
    pub(crate) fn log(&self, home: &str, pod: &str) -> Result<String, String> {
        let answer = self.json(Method::GET, &format!("{home}/pods/{pod}/log"), &Value::Null)?;
        expect(answer.code == 200, &answer)?;
        Ok(String::from_utf8_lossy(&answer.bytes).into_owned())
    }

    /// Runs all pods of a table at once and compares what they said.
    pub(crate) fn says(&self, home: &str, rows: Vec<Row>) -> Outcome {
        rows.iter().try_for_each(|row| self.add(home, "pods", &row.pod).map(drop))?;
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let ended = |pod: &Value| matches!(phase(pod), "Succeeded" | "Failed");
        let seen = self.pods_when("all pods of the table have ended", home, &names, ended)?;
        let mut wrong = Vec::new();
        for row in &rows {
            let said = self.log(home, &row.name).map_err(|error| format!("{error}; {}", seen[&row.name]["status"]))?;
            if said.trim() != row.says {
                wrong.push(format!("{}: said {:?}, not {:?}", row.name, said.trim(), row.says));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}
