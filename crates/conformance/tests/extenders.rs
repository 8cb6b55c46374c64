//! A scheduler that asks extenders, over HTTP and over TLS, against a server that is started for it with a configuration of
//! its own. What the answers mean is told in the simulation; here they travel.
#![allow(clippy::disallowed_methods, reason = "a real server answers in real time")]

mod support;

use std::path::Path;
use std::sync::Arc;

use http::request::Parts;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_meta::GroupVersionResource;
use skiff_testkit::cases::{self, Case};
use support::served::{Authority, Served};
use support::{Api, Outcome, accepted};

const CASES: &[Case<Run>] = &[
    ("a_plain_extender_is_asked_by_the_names_of_nodes", plain),
    ("an_extender_behind_tls_knows_its_scheduler_and_sees_whole_nodes", behind_tls),
    ("an_extender_with_a_strangers_certificate_is_not_asked", stranger),
];

fn main() {
    std::process::exit(cases::run_with(Run::start(), CASES));
}

/// Paths and bodies of what was asked.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

struct Run {
    // Before the extenders: its scheduler asks them until it ends.
    api: Api,
    home: String,
    asked: Asked,
    _extenders: [Served; 3],
    _runtime: tokio::runtime::Runtime,
    _files: tempfile::TempDir,
}

/// Leaves the node `second` of names, and any whole node, and finds `second` the best.
fn answer(asked: &Asked, request: &Parts, question: Value) -> (u16, Value) {
    let path = request.uri.path().to_owned();
    let whole = question["Nodes"]["items"].clone();
    asked.lock().push((path.clone(), question));
    let answer = if path.ends_with("/prioritize") {
        json!([{"Host": "second", "Score": 10}])
    } else if whole.is_array() {
        json!({"Nodes": {"metadata": {}, "items": whole}})
    } else {
        json!({"NodeNames": ["second"], "FailedNodes": {"first": "too far away"}})
    };
    (200, answer)
}

/// What the scheduler reads: extenders at these ports, each for a resource of its own.
fn config(ports: &[u16], files: &Path) -> Value {
    let file = |name: &str| files.join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let tls = json!({"caFile": ca, "certFile": certificate, "keyFile": key});
    let managed = |name: &str| json!([{"name": format!("example.com/{name}"), "ignoredByScheduler": true}]);
    let secure = |port: u16, name: &str| {
        json!({"urlPrefix": format!("https://localhost:{port}/{name}"), "filterVerb": "filter", "enableHTTPS": true,
            "tlsConfig": tls, "managedResources": managed(name), "prioritizeVerb": "prioritize", "weight": 2})
    };
    let plain = json!({"urlPrefix": format!("http://127.0.0.1:{}/plain", ports[0]), "filterVerb": "filter",
        "nodeCacheCapable": true, "managedResources": managed("plain")});
    json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "extenders": [plain, secure(ports[1], "secure"), secure(ports[2], "strange")]})
}

impl Run {
    fn start() -> Result<Self, String> {
        let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
        let (asked, files) = (Asked::default(), tempfile::tempdir().map_err(|error| error.to_string())?);
        let started = runtime.block_on(async {
            let (ours, strangers) = (Authority::new()?, Authority::new()?);
            let (certificate, key) = ours.issue("scheduler")?;
            for (name, pem) in [("ca.pem", &ours.pem), ("client.pem", &certificate), ("client.key", &key)] {
                std::fs::write(files.path().join(name), pem)?;
            }
            let start = async |tls| {
                let asked = asked.clone();
                Served::start(tls, move |request, question| answer(&asked, request, question)).await
            };
            let secure = ours.server("localhost", &ours.pem)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>([
                start(None).await?,
                start(Some(secure)).await?,
                start(Some(strangers.server("localhost", "")?)).await?,
            ])
        });
        let extenders = started.map_err(|error| error.to_string())?;
        let ports: Vec<u16> = extenders.iter().map(|extender| extender.port).collect();
        let file = files.path().join("scheduler.json");
        std::fs::write(&file, config(&ports, files.path()).to_string()).map_err(|error| error.to_string())?;
        let flags = ["--scheduler-config".to_owned(), file.display().to_string()];
        let mut api = Api::start_without(91, "agent,proxy,dns,controller-manager", &flags)?;
        let home = api.home()?;
        for node in ["first", "second"] {
            let tree = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
            let path = api.make("/api/v1/nodes", &tree)?;
            // Without controllers nobody finds it ready.
            accepted(&api.merge(&path, &json!({"spec": {"taints": null}}))?)?;
            let room = json!({"status": {"capacity": {"pods": "10"}, "allocatable": {"pods": "10"}}});
            accepted(&api.merge(&format!("{path}/status"), &room)?)?;
        }
        Ok(Self { api, home, asked, _extenders: extenders, _files: files, _runtime: runtime })
    }

    /// Makes a pod that is an extender's business, and waits until it has a node or was told why not; which.
    fn tried(&self, name: &str) -> Result<(String, String), String> {
        let one = json!({format!("example.com/{name}"): "1"});
        let container = json!({"name": "c", "image": "i", "resources": {"requests": one, "limits": one}});
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}});
        accepted(&self.api.post(&format!("{}/pods", self.home), &pod)?)?;
        let mut outcome = Default::default();
        self.api.see(name, GroupVersionResource::new("", "v1", "pods"), &self.home, |seen| {
            let Some(pod) = seen.get(name) else { return false };
            let conditions = pod["status"]["conditions"].as_array();
            let told = conditions.into_iter().flatten().find(|c| c["type"] == "PodScheduled");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            outcome = (text(&pod["spec"]["nodeName"]), told.map(|c| text(&c["message"])).unwrap_or_default());
            told.is_some()
        })?;
        Ok(outcome)
    }

    /// The bodies that came to this path.
    fn asked(&self, path: &str) -> Vec<Value> {
        self.asked.lock().iter().filter(|(asked, _)| asked == path).map(|(_, question)| question.clone()).collect()
    }
}

fn holds(holds: bool, what: impl std::fmt::Debug) -> Outcome {
    if holds { Ok(()) } else { Err(format!("{what:?}")) }
}

fn plain(run: &mut Run) -> Outcome {
    let (node, told) = run.tried("plain")?;
    let asked = run.asked("/plain/filter");
    holds(node == "second", (node, told, &asked))?;
    let mut names: Vec<&str> =
        asked[0]["NodeNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.sort_unstable();
    holds(names == ["first", "second"] && asked[0]["Nodes"].is_null(), &asked)
}

fn behind_tls(run: &mut Run) -> Outcome {
    let (node, told) = run.tried("secure")?;
    let (filter, prioritize) = (run.asked("/secure/filter"), run.asked("/secure/prioritize"));
    holds(node == "second" && filter.len() == 1 && prioritize.len() == 1, (node, told, &filter))?;
    let whole = filter[0]["Nodes"]["items"]
        .as_array()
        .map_or(0, |nodes| nodes.iter().filter(|n| n["status"].is_object()).count());
    holds(whole == 2 && filter[0]["Pod"]["metadata"]["name"] == "secure", &filter)
}

fn stranger(run: &mut Run) -> Outcome {
    let (node, told) = run.tried("strange")?;
    let asked = run.asked("/strange/filter");
    holds(node.is_empty() && told.contains("certificate") && asked.is_empty(), (node, told, asked))
}
