//! What the suites share: the API they ask, and how.
#![allow(dead_code, reason = "each suite uses its part")]
#![allow(clippy::disallowed_methods, reason = "a real server answers in real time")]

pub(crate) mod served;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use skiff_client::{Event, ListTarget, Selection};
use skiff_conformance::{Answer, Credentials, Wire};
use skiff_meta::GroupVersionResource;
use skiff_testkit::process::{Process, Setup};

pub(crate) type Outcome = Result<(), String>;

/// Objects by name.
pub(crate) type Seen = BTreeMap<String, Value>;

/// How long anything may take on a busy machine; nothing is judged by its speed here.
const LONG: Duration = Duration::from_secs(100);

/// The kubeconfig of the API under test: that of `CONFORMANCE_KUBECONFIG`, or of a server that is started for it without
/// the parts named in `disable`. `number` sets the servers of different suites apart.
pub(crate) fn api(number: u8, disable: &str) -> Result<(PathBuf, Option<Process>), String> {
    api_with(number, disable, &[])
}

fn api_with(number: u8, disable: &str, more: &[String]) -> Result<(PathBuf, Option<Process>), String> {
    if let Some(given) = std::env::var_os("CONFORMANCE_KUBECONFIG") {
        return Ok((given.into(), None));
    }
    let flags = [&["--ephemeral", "--disable", disable].map(str::to_owned), more].concat();
    let process = Process::start(&Setup { number, flags, images: Vec::new() })?;
    Ok((process.kubeconfig(), Some(process)))
}

/// An API over the wire, and what was made on it, which goes with this value.
pub(crate) struct Api {
    pub(crate) wire: Wire,
    pub(crate) runtime: tokio::runtime::Runtime,
    kubeconfig: PathBuf,
    made: Vec<String>,
    _server: Option<Process>,
}

impl Api {
    pub(crate) fn start(number: u8) -> Result<Self, String> {
        Self::start_with(number, &[])
    }

    /// With more flags for a server that is started for it.
    pub(crate) fn start_with(number: u8, flags: &[String]) -> Result<Self, String> {
        Self::start_without(number, "agent,scheduler,proxy,dns", flags)
    }

    /// Without the parts named in `disable`.
    pub(crate) fn start_without(number: u8, disable: &str, flags: &[String]) -> Result<Self, String> {
        let (kubeconfig, server) = api_with(number, disable, flags)?;
        Self::of(kubeconfig, server)
    }

    fn of(kubeconfig: PathBuf, server: Option<Process>) -> Result<Self, String> {
        let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
        let wire = {
            let _inside = runtime.enter();
            Wire::new(&kubeconfig)?
        };
        Ok(Self { wire, runtime, kubeconfig, made: Vec::new(), _server: server })
    }

    /// With a node that has these images, on which everything runs, at the address of this network namespace.
    pub(crate) fn start_with_a_node(number: u8, images: &[&str]) -> Result<Self, String> {
        if std::env::var_os("CONFORMANCE_KUBECONFIG").is_some() {
            return Self::start(number);
        }
        let place = std::env::var_os("SKIFF_IMAGES").map(PathBuf::from);
        let place = place.ok_or("SKIFF_IMAGES is not set; run `cargo xtask test cluster`")?;
        let images = images.iter().map(|name| place.join(format!("{name}.tar"))).collect();
        let flags = ["--bind-address", "0.0.0.0"].map(str::to_owned).to_vec();
        let process = Process::start(&Setup { number, flags, images })?;
        let api = Self::of(process.kubeconfig(), Some(process))?;
        let nodes = GroupVersionResource::new("", "v1", "nodes");
        api.see("the node is ready", nodes, "", |seen| seen.values().any(is_ready))?;
        Ok(api)
    }

    /// One of the nodes.
    pub(crate) fn node(&self) -> Result<Value, String> {
        let nodes = self.json(Method::GET, "/api/v1/nodes", &Value::Null)?;
        accepted(&nodes)?;
        Ok(nodes.tree()["items"][0].clone())
    }

    /// Whom it speaks for.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(crate) fn json(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        self.runtime.block_on(self.wire.json(method, path, body))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Answer, String> {
        self.json(Method::POST, path, body)
    }

    pub(crate) fn merge(&self, path: &str, body: &Value) -> Result<Answer, String> {
        let types = ("application/merge-patch+json", "application/json");
        self.runtime.block_on(self.wire.send(Credentials::Own, &Method::PATCH, path, types, body.to_string()))
    }

    /// Creates what goes in the end; its path.
    pub(crate) fn make(&mut self, collection: &str, tree: &Value) -> Result<String, String> {
        let made = self.post(collection, tree)?;
        accepted(&made)?;
        let path = format!("{collection}/{}", made.tree()["metadata"]["name"].as_str().unwrap_or_default());
        self.made.push(path.clone());
        Ok(path)
    }

    /// A number that no name made so far has.
    pub(crate) fn number(&self) -> usize {
        self.made.len()
    }

    /// A namespace; the path of what is in it.
    pub(crate) fn namespace(&mut self, labels: Value) -> Result<String, String> {
        let metadata = json!({"generateName": "conformance-", "labels": labels});
        self.make("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    }

    /// A namespace in which pods can be made; the path of what is in it.
    pub(crate) fn home(&mut self) -> Result<String, String> {
        self.home_with(json!({}))
    }

    /// The same, with labels.
    pub(crate) fn home_with(&mut self, labels: Value) -> Result<String, String> {
        let path = self.namespace(labels)?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let made = self.post(&format!("{path}/serviceaccounts"), &account)?;
        expect(made.code == 201 || made.code == 409, &made)?;
        Ok(path)
    }

    /// Looks at what is there of a resource, in the namespace at `path` where it has one, at every change, until it suits.
    pub(crate) fn see(
        &self,
        what: &str,
        resource: GroupVersionResource,
        path: &str,
        mut suits: impl FnMut(&Seen) -> bool,
    ) -> Result<Seen, String> {
        let namespace = path.rsplit('/').next().unwrap_or_default().to_owned();
        let target = ListTarget { resource, namespace, selection: Selection::default() };
        let mut seen = Seen::new();
        let looking = async {
            let mut events = self.wire.client().list_watch(target);
            while let Some(event) = events.next().await {
                let (gone, there) = match event {
                    Event::Replace(objects) => {
                        seen.clear();
                        (None, objects)
                    }
                    Event::Apply(object) => (None, vec![object]),
                    Event::Delete(object) => (Some(object), Vec::new()),
                };
                for object in there {
                    let tree = object.to_value().map_err(|e| e.to_string())?;
                    seen.insert(object.meta().name.to_string(), tree);
                }
                gone.iter().for_each(|object| drop(seen.remove(&*object.meta().name)));
                if suits(&seen) {
                    return Ok(());
                }
            }
            Err("the watch ended".to_owned())
        };
        let found = self.runtime.block_on(async { tokio::time::timeout(LONG, looking).await });
        match found {
            Ok(found) => found.map(|()| seen),
            Err(_) => {
                seen.values_mut().for_each(|object| object["metadata"]["managedFields"] = Value::Null);
                Err(format!("not in time: {what}; there is {}", json!(seen)))
            }
        }
    }

    /// Asks until the answer is as it shall be: servers hear of definitions, policies and webhooks a moment later, and
    /// upstream's goes on for ten seconds to trust a token that it has just accepted.
    pub(crate) fn until(
        &self,
        ask: impl Fn() -> Result<Answer, String>,
        holds: impl Fn(&Answer) -> bool,
    ) -> Result<Answer, String> {
        let mut last = ask()?;
        for _ in 0..30_000 {
            if holds(&last) {
                return Ok(last);
            }
            last = ask()?;
        }
        expect(false, &last).map(|()| last)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        for path in std::mem::take(&mut self.made).iter().rev() {
            if let Err(error) = self.json(Method::DELETE, path, &Value::Null) {
                println!("{path}: {error}");
            }
        }
    }
}

/// Whether the conditions of a pod or a node say so.
pub(crate) fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

pub(crate) fn expect(holds: bool, answer: &Answer) -> Outcome {
    if holds { Ok(()) } else { Err(format!("{} {}", answer.code, String::from_utf8_lossy(&answer.bytes))) }
}

pub(crate) fn accepted(answer: &Answer) -> Outcome {
    expect(answer.code < 300, answer)
}
