//! DefaultIngressClass: an Ingress that names no class gets the newest one marked as default.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::{GroupResource, GroupVersionResource, Status};

use crate::chain::{Admission, AdmissionRequest, Operation, View};

const GROUP: &str = "networking.k8s.io";
const MARK: &str = "ingressclass.kubernetes.io/is-default-class";

/// The plug-in.
pub(super) struct DefaultIngressClass;

#[async_trait]
impl Admission for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Create
            && resource.group == GROUP
            && resource.resource == "ingresses"
            && subresource.is_empty()
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let annotated = object["metadata"]["annotations"].get("kubernetes.io/ingress.class").is_some();
        if annotated || !object["spec"]["ingressClassName"].is_null() {
            return Ok(());
        }
        if let Some(name) = newest_marked(request.view, &GroupResource::new(GROUP, "ingressclasses"), &[MARK]) {
            object["spec"]["ingressClassName"] = json!(name);
        }
        Ok(())
    }
}

/// The newest object that carries one of the annotations `marks` with value `true`; of the same age, the first by name.
pub(super) fn newest_marked(view: &dyn View, resource: &GroupResource, marks: &[&str]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: String,
        #[serde(default)]
        creation_timestamp: String,
        #[serde(default)]
        annotations: std::collections::BTreeMap<String, String>,
    }
    #[derive(serde::Deserialize)]
    struct Class {
        metadata: Metadata,
    }
    let classes = view.list(resource, "");
    let classes = classes.iter().filter_map(|class| serde_json::from_slice::<Class>(class.canonical()).ok());
    let marked = classes
        .map(|class| class.metadata)
        .filter(|class| marks.iter().any(|&mark| class.annotations.get(mark).is_some_and(|value| value == "true")));
    let age =
        |a: &Metadata, b: &Metadata| b.creation_timestamp.cmp(&a.creation_timestamp).then_with(|| a.name.cmp(&b.name));
    marked.min_by(age).map(|class| class.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;

    #[test]
    fn the_newest_default_is_taken() {
        let trial = Trial::new(DefaultIngressClass);
        let admit = |spec: Value, annotations: Value| {
            let ingress = json!({"metadata": {"annotations": annotations}, "spec": spec});
            let attempt = trial.create("ingresses.networking.k8s.io");
            attempt.mutate(ingress).unwrap()["spec"]["ingressClassName"].take()
        };
        assert_eq!(admit(json!({}), json!({})), Value::Null);
        for (name, time, mark) in [
            ("old", "2026-01-01T00:00:00Z", "true"),
            ("b", "2026-02-01T00:00:00Z", "true"),
            ("a", "2026-02-01T00:00:00Z", "true"),
            ("no", "2026-03-01T00:00:00Z", "false"),
        ] {
            let metadata = json!({"name": name, "creationTimestamp": time, "annotations": {MARK: mark}});
            trial.view.put("ingressclasses.networking.k8s.io", json!({"metadata": metadata}));
        }
        assert_eq!(admit(json!({}), json!({})), "a");
        assert_eq!(admit(json!({"ingressClassName": "own"}), json!({})), "own");
        assert_eq!(admit(json!({}), json!({"kubernetes.io/ingress.class": "own"})), Value::Null);
    }
}
