//! What tests build clusters and pods with.

mod choice;
mod devices;
mod naive;
mod preemption;
mod verdicts;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::cluster::{Cluster, PodInfo};
use crate::decide::{Decision, Diagnosis, Preempted, Turn, decide};
use crate::profile::Profile;
use crate::queue::Nominator;

pub(crate) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a well-formed object")
}

/// Merges `changes` into `into`, as a merge patch would; lists are replaced.
pub(crate) fn merged(mut into: Value, changes: &Value) -> Value {
    match (&mut into, changes) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, change) in changes {
                let field = fields.entry(name.clone()).or_insert(Value::Null);
                *field = merged(field.take(), change);
            }
            into
        }
        _ => changes.clone(),
    }
}

/// A pod in namespace `x` that asks for `cpu` and 10 MiB.
pub(crate) fn pod(name: &str, cpu: &str) -> Pod {
    with(name, cpu, json!({}))
}

/// Such a pod, changed.
pub(crate) fn with(name: &str, cpu: &str, changes: Value) -> Pod {
    let requests = json!({"requests": {"cpu": cpu, "memory": "10Mi"}});
    let plain = json!({
        "metadata": {"name": name, "namespace": "x", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": requests}]},
    });
    from(merged(plain, &changes))
}

pub(crate) fn info(pod: Pod) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(pod)))
}

/// A node of 2 cores, 1 GiB and 10 pods, labelled with its name, changed.
pub(crate) fn node(name: &str, changes: Value) -> Node {
    let plain = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}},
    });
    from(merged(plain, &changes))
}

/// Nodes a, b, c ... in zones.
pub(crate) fn zoned(name: &str, zone: &str) -> Node {
    node(name, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}))
}

/// A cluster, and who decides about it.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) profile: Profile,
    pub(crate) nominated: Nominator,
    pub(crate) turn: Turn,
}

impl Stage {
    pub(crate) fn new(nodes: Vec<Node>) -> Self {
        let mut stage = Self::default();
        nodes.into_iter().for_each(|node| stage.cluster.set_node(Arc::new(node)));
        stage
    }

    pub(crate) fn put(&mut self, pod: Pod, node: &str) {
        self.cluster.set_pod(info(pod), node);
    }

    pub(crate) fn decide(&mut self, pod: Pod, random: u64) -> Decision {
        decide(&self.profile, &mut self.cluster, &self.nominated, &info(pod), &mut self.turn, random)
    }

    /// The node that takes the pod, or why there is none.
    pub(crate) fn place(&mut self, pod: Pod) -> Result<String, String> {
        match self.decide(pod, 0) {
            Decision::Place(node, _) => Ok(self.cluster.at(node).name.clone()),
            Decision::NoNodes => Err("no nodes available to schedule pods".to_owned()),
            Decision::Nowhere(diagnosis) => Err(diagnosis.to_string()),
            Decision::Waits(_) => Err("waits".to_owned()),
            Decision::Failed(why) => Err(why),
        }
    }

    /// The nodes that any chance would pick.
    pub(crate) fn choices(&mut self, pod: &Pod) -> Vec<String> {
        let mut found: Vec<String> = (0..60)
            .filter_map(|random| match self.decide(pod.clone(), random) {
                Decision::Place(node, _) => Some(self.cluster.at(node).name.clone()),
                _ => None,
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    pub(crate) fn diagnose(&mut self, pod: Pod) -> Diagnosis {
        match self.decide(pod, 0) {
            Decision::Nowhere(diagnosis) => *diagnosis,
            other => panic!("{other:?}"),
        }
    }

    /// Where room would be made, and whose.
    pub(crate) fn preempt(&mut self, pod: Pod) -> Result<(String, Vec<String>), String> {
        match self.diagnose(pod).preempted.expect("preemption was tried") {
            Preempted::Room { node, victims } => Ok((node, victims.iter().map(|pod| pod.uid.clone()).collect())),
            Preempted::No { why, .. } => Err(why),
        }
    }
}
