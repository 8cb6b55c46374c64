//! RuntimeClass: pods take over the overhead and the scheduling rules of the class they name.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::node::v1::RuntimeClass as Class;
use serde_json::{Value, json};
use skiff_meta::{GroupResource, GroupVersionResource, Quantity, Status};

use super::{find, items, list_mut, refuse, text};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

/// The plug-in.
pub(super) struct RuntimeClass;

async fn class_of(request: &AdmissionRequest<'_>, pod: &Value) -> Result<Option<Arc<Class>>, Status> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    match find(request.view, &GroupResource::new("node.k8s.io", "runtimeclasses"), "", name).await? {
        Some(found) => found.typed().map(Some).map_err(Status::internal),
        None => Err(refuse(request, Some(pod), &format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn overhead_of(class: Option<&Class>) -> Option<Value> {
    let fixed = class?.overhead.as_ref()?.pod_fixed.as_ref();
    Some(json!(fixed))
}

/// Whether two resource lists are the same amounts, however written.
fn same_amounts(a: &Value, b: &Value) -> bool {
    let read = |list: &Value| -> Vec<(String, Option<Quantity>)> {
        let entries = list.as_object().into_iter().flatten();
        entries.map(|(name, amount)| (name.clone(), Quantity::from_json(amount).ok())).collect()
    };
    read(a) == read(b)
}

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Create
            && resource.group.is_empty()
            && resource.resource == "pods"
            && subresource.is_empty()
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let Some(class) = class_of(request, object).await? else { return Ok(()) };
        if let Some(overhead) = overhead_of(Some(&class)) {
            let said = &object["spec"]["overhead"];
            if said.as_object().is_some_and(|said| !said.is_empty()) && !same_amounts(said, &overhead) {
                return Err(mismatch(request, object));
            }
            object["spec"]["overhead"] = overhead;
        }
        let Some(scheduling) = &class.scheduling else { return Ok(()) };
        for (key, value) in scheduling.node_selector.iter().flatten() {
            let selector = &object["spec"]["nodeSelector"];
            if let Some(said) = selector.get(key).and_then(Value::as_str).filter(|said| said != value) {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                     pod.spec.nodeSelector[{key}] = {said}"
                );
                return Err(refuse(request, Some(object), &why));
            }
            object["spec"]["nodeSelector"][key] = json!(value);
        }
        let tolerations = scheduling.tolerations.iter().flatten().map(|toleration| json!(toleration)).collect();
        merge_tolerations(&mut object["spec"], tolerations);
        Ok(())
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let Some(pod) = object else { return Ok(()) };
        let class = class_of(request, pod).await?;
        let said = &pod["spec"]["overhead"];
        match overhead_of(class.as_deref()) {
            Some(overhead) if !same_amounts(&overhead, said) => Err(mismatch(request, pod)),
            None if !said.is_null() => {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                Err(refuse(request, object, why))
            }
            _ => Ok(()),
        }
    }
}

fn mismatch(request: &AdmissionRequest<'_>, pod: &Value) -> Status {
    refuse(request, Some(pod), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
}

/// Adds tolerations, leaving out those that another one includes.
fn merge_tolerations(spec: &mut Value, more: Vec<Value>) {
    if more.is_empty() {
        return;
    }
    let all: Vec<Value> = items(&spec["tolerations"]).iter().cloned().chain(more).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let later = all.iter().skip(index + 1);
        let redundant = merged.iter().any(|other| includes(other, toleration))
            || later.into_iter().any(|other| other != toleration && includes(other, toleration));
        if !redundant {
            merged.push(toleration.clone());
        }
    }
    if let Some(tolerations) = list_mut(spec, "tolerations") {
        *tolerations = merged;
    }
}

/// Whether `a` tolerates all that `b` does.
fn includes(a: &Value, b: &Value) -> bool {
    if a == b {
        return true;
    }
    let exists = text(a, "operator") == "Exists";
    let key = text(a, "key") == text(b, "key") || (text(a, "key").is_empty() && exists);
    let effect = text(a, "effect") == text(b, "effect") || text(a, "effect").is_empty();
    if !key || !effect {
        return false;
    }
    let seconds = |toleration: &Value| toleration["tolerationSeconds"].as_i64().unwrap_or(i64::MAX);
    if text(a, "effect") == "NoExecute" && seconds(b) > seconds(a) {
        return false;
    }
    exists || (text(b, "operator") == "Equal" && text(a, "value") == text(b, "value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;

    fn trial() -> Trial<RuntimeClass> {
        let trial = Trial::new(RuntimeClass);
        let scheduling = json!({"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]});
        trial.view.put(
            "runtimeclasses.node.k8s.io",
            json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "vm"}, "handler": "vm",
                "overhead": {"podFixed": {"memory": "100Mi"}}, "scheduling": scheduling}),
        );
        trial
    }

    fn admit(spec: Value) -> Result<Value, String> {
        let trial = trial();
        let pod = json!({"metadata": {"name": "p"}, "spec": spec});
        let pod = trial.create("pods").mutate(pod).map_err(|status| status.message)?;
        trial.create("pods").validate(&pod).map_err(|status| status.message)?;
        Ok(pod["spec"].clone())
    }

    #[test]
    fn the_class_tells_overhead_and_place() {
        let spec = admit(json!({"runtimeClassName": "vm", "nodeSelector": {"disk": "ssd"}})).unwrap();
        assert_eq!(spec["overhead"], json!({"memory": "100Mi"}));
        assert_eq!(spec["nodeSelector"], json!({"disk": "ssd", "vm": "yes"}));
        assert_eq!(spec["tolerations"], json!([{"key": "vm", "operator": "Exists"}]));
        let wide = json!([{"operator": "Exists"}]);
        let spec = admit(json!({"runtimeClassName": "vm", "tolerations": wide})).unwrap();
        assert_eq!(spec["tolerations"], wide);
        assert!(admit(json!({"runtimeClassName": "vm", "overhead": {"memory": "102400Ki"}})).is_ok());
        assert_eq!(admit(json!({})), Ok(json!({})));
    }

    #[test]
    fn contradictions_are_refused() {
        let cases = [
            (json!({"runtimeClassName": "x"}), "pods \"p\" is forbidden: pod rejected: RuntimeClass \"x\" not found"),
            (
                json!({"runtimeClassName": "vm", "overhead": {"memory": "1Mi"}}),
                "pods \"p\" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ),
            (
                json!({"overhead": {"memory": "1Mi"}}),
                "pods \"p\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
            (
                json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
                "pods \"p\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
            ),
        ];
        for (spec, words) in cases {
            assert_eq!(admit(spec).unwrap_err(), words);
        }
    }
}
