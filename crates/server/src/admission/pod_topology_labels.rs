//! PodTopologyLabels: pods bear zone and region of the node they are bound to.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::{GroupResource, GroupVersionResource, Status};

use super::{find, text};
use crate::chain::{Admission, AdmissionRequest, Operation};

const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// The plug-in.
pub(super) struct PodTopologyLabels;

#[async_trait]
impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        let pods = resource.group.is_empty() && resource.resource == "pods";
        operation == Operation::Create && pods && matches!(subresource, "" | "binding")
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let node = match request.subresource {
            "" => text(&object["spec"], "nodeName"),
            _ if text(&object["target"], "kind") == "Node" => text(&object["target"], "name"),
            _ => "",
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = find(request.view, &GroupResource::new("", "nodes"), "", node).await? else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = node.meta().labels.get(label) {
                object["metadata"]["labels"][label] = json!(value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;

    #[test]
    fn pods_bear_the_place_of_their_node() {
        let trial = Trial::new(PodTopologyLabels);
        let labels = json!({"topology.kubernetes.io/zone": "z", "kubernetes.io/os": "linux"});
        trial.view.put("nodes", json!({"metadata": {"name": "n", "labels": labels}}));
        let pod = trial.create("pods").mutate(json!({"metadata": {}, "spec": {"nodeName": "n"}})).unwrap();
        assert_eq!(pod["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
        let binding = json!({"metadata": {"labels": {"a": "b"}}, "target": {"kind": "Node", "name": "n"}});
        let bound = trial.create("pods").subresource("binding").mutate(binding).unwrap();
        assert_eq!(bound["metadata"]["labels"], json!({"a": "b", "topology.kubernetes.io/zone": "z"}));
        let free = json!({"metadata": {}, "spec": {}});
        assert_eq!(trial.create("pods").mutate(free.clone()).unwrap(), free);
    }
}
