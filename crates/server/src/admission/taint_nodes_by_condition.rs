//! TaintNodesByCondition: a new node takes no pods until it says it is ready.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::{GroupVersionResource, Status};

use super::{items, list_mut, text};
use crate::chain::{Admission, AdmissionRequest, Operation};

const KEY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

/// The plug-in.
pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Create
            && resource.group.is_empty()
            && resource.resource == "nodes"
            && subresource.is_empty()
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, _request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let spec = &mut object["spec"];
        if spec.is_null() {
            *spec = json!({});
        }
        let there = |taint: &Value| text(taint, "key") == KEY && text(taint, "effect") == EFFECT;
        if !items(&spec["taints"]).iter().any(there)
            && let Some(taints) = list_mut(spec, "taints")
        {
            taints.push(json!({"key": KEY, "effect": EFFECT}));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;

    #[test]
    fn taints_once() {
        let trial = Trial::new(TaintNodesByCondition);
        let taint = json!({"key": KEY, "effect": EFFECT});
        let other = json!({"key": KEY, "effect": "NoExecute"});
        let cases = [
            (json!({}), json!([taint])),
            (json!({"taints": [taint]}), json!([taint])),
            (json!({"taints": [other]}), json!([other, taint])),
        ];
        for (spec, expected) in cases {
            assert_eq!(trial.create("nodes").mutate(json!({"spec": spec})).unwrap()["spec"]["taints"], expected);
        }
        assert_eq!(trial.create("nodes").mutate(json!({})).unwrap()["spec"]["taints"], json!([taint]));
    }
}
