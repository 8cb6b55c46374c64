//! What a pod has been granted of its node: what it asked for when it was let in, and later what it asks for by then, once
//! there is room for it (`pkg/kubelet/allocation` upstream).
//!
//! The agent runs a pod as granted, whatever its specification says by now. The record lies beside the pod's volumes, so
//! that a restarted agent grants nobody what it had refused.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};
use skiff_api::resources;

use super::facts;
use crate::os::Files;

/// The record's longest size, in bytes: far more than any pod needs.
const LONGEST: usize = 1 << 20;

/// Resources of a pod and its containers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Granted {
    pod: Option<ResourceRequirements>,
    containers: BTreeMap<String, ResourceRequirements>,
}

impl Granted {
    /// What the pod asks for.
    pub(crate) fn of(pod: &Pod) -> Self {
        let all = facts::init_containers(pod).iter().chain(facts::main_containers(pod));
        let containers = all.filter_map(|c| Some((c.name.clone(), c.resources.clone()?)));
        Self { pod: facts::spec(pod).resources.clone(), containers: containers.collect() }
    }

    /// Whether both mean the same, however amounts are written.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let names = self.containers.keys().chain(other.containers.keys());
        let pairs = names.map(|name| (self.containers.get(name), other.containers.get(name)));
        std::iter::once((self.pod.as_ref(), other.pod.as_ref())).chain(pairs).all(|(a, b)| are_same(a, b))
    }

    /// The pod with what it was granted instead of what it asks for; the same pod where that is the same.
    pub(crate) fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if self.is_same(&Self::of(pod)) {
            return pod.clone();
        }
        let mut pod = Pod::clone(pod);
        if let Some(spec) = &mut pod.spec {
            spec.resources.clone_from(&self.pod);
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                container.resources = self.containers.get(&container.name).cloned();
            }
        }
        Arc::new(pod)
    }
}

fn are_same(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    let amounts = |of: Option<&ResourceRequirements>| {
        let of = of.cloned().unwrap_or_default();
        (resources::parse(&of.requests), resources::parse(&of.limits))
    };
    amounts(a) == amounts(b)
}

/// What a change of resources asks of a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// New limits while it runs.
    InPlace,
    /// A new container, as its resize policy says.
    Restart,
}

/// What it takes to give a container that runs with `actual` what its specification says. Only processors and memory can
/// be changed.
pub(crate) fn change(container: &Container, actual: Option<&ResourceRequirements>) -> Change {
    let Some(actual) = actual else { return Change::Nothing };
    let wanted = container.resources.clone().unwrap_or_default();
    let differs = |name: &str| {
        let amounts = |of: &ResourceRequirements| {
            [&of.requests, &of.limits].map(|list| resources::parse(list).get(name).copied().unwrap_or_default())
        };
        amounts(&wanted) != amounts(actual)
    };
    let restarts = |name: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer")
    };
    let changed: Vec<&str> = ["cpu", "memory"].into_iter().filter(|name| differs(name)).collect();
    match changed[..] {
        [] => Change::Nothing,
        _ if changed.iter().any(|name| restarts(name)) => Change::Restart,
        _ => Change::InPlace,
    }
}

/// What must outlive the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) granted: Granted,
    /// What containers were changed to since they were made, by the runtime's id.
    pub(crate) changed: BTreeMap<String, ResourceRequirements>,
}

impl Record {
    /// The record in this directory, if there is one.
    pub(crate) fn load(files: &dyn Files, directory: &Path) -> Option<Self> {
        let bytes = files.tail(&directory.join("granted.json"), LONGEST).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps it there.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn save(&self, files: &dyn Files, directory: &Path) -> io::Result<()> {
        files.make_directory(directory, 0o750)?;
        files.replace(&directory.join("granted.json"), &serde_json::to_vec(self)?, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::RealFiles;
    use serde_json::{Value, json};

    fn pod(resources: Value) -> Arc<Pod> {
        let containers = json!([{"name": "c", "resources": resources}, {"name": "d"}]);
        let value = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": containers}});
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    #[test]
    fn a_pod_runs_as_granted_and_the_record_outlives_the_agent() {
        let (before, same) = (pod(json!({"requests": {"cpu": "1"}})), pod(json!({"requests": {"cpu": "1000m"}})));
        let after = pod(json!({"requests": {"cpu": "2"}}));
        let record = Record { granted: Granted::of(&before), ..Record::default() };
        assert!(Arc::ptr_eq(&record.granted.apply(&same), &same), "another spelling is no other amount");
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Record::load(&RealFiles, dir.path()).is_none());
        record.save(&RealFiles, dir.path()).expect("saved");
        let found = Record::load(&RealFiles, dir.path()).expect("a record");
        assert_eq!(found.granted.apply(&after).spec, before.spec);
    }

    #[test]
    fn what_a_change_takes() {
        let requests = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}});
        for (what, wanted, policy, expected) in [
            ("the same", requests("1000m", "1Gi"), json!(null), Change::Nothing),
            ("more", requests("2", "1Gi"), json!(null), Change::InPlace),
            ("its policy", requests("2", "1Gi"), json!("cpu"), Change::Restart),
            ("a policy for another", requests("2", "1Gi"), json!("memory"), Change::InPlace),
            (
                "a limit is new",
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}),
                json!(null),
                Change::InPlace,
            ),
        ] {
            let mut container = json!({"name": "c", "resources": wanted});
            if let Some(name) = policy.as_str() {
                container["resizePolicy"] = json!([{"resourceName": name, "restartPolicy": "RestartContainer"}]);
            }
            let container: Container = serde_json::from_value(container).expect("a container");
            let actual: ResourceRequirements = serde_json::from_value(requests("1", "1Gi")).expect("resources");
            assert_eq!(change(&container, Some(&actual)), expected, "{what}");
            assert_eq!(change(&container, None), Change::Nothing, "{what}, but nobody knows what it has");
        }
    }
}
