//! DefaultTolerationSeconds: pods outlive five minutes of a node that is not ready or not reached.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::{GroupVersionResource, Status};

use super::{items, list_mut, text};
use crate::chain::{Admission, AdmissionRequest, Operation};

const SECONDS: i64 = 300;
const EFFECT: &str = "NoExecute";
const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// The plug-in.
pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && resource.group.is_empty()
            && resource.resource == "pods"
            && subresource.is_empty()
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, _request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let spec = &mut object["spec"];
        for key in KEYS {
            let tolerates = |toleration: &Value| {
                matches!(text(toleration, "effect"), EFFECT | "")
                    && (text(toleration, "key") == key || text(toleration, "key").is_empty())
            };
            if !items(&spec["tolerations"]).iter().any(tolerates)
                && let Some(tolerations) = list_mut(spec, "tolerations")
            {
                tolerations
                    .push(json!({"key": key, "operator": "Exists", "effect": EFFECT, "tolerationSeconds": SECONDS}));
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
    fn adds_what_is_not_tolerated() {
        let trial = Trial::new(DefaultTolerationSeconds);
        let cases = [
            (json!([]), 2),
            (json!([{"operator": "Exists"}]), 0),
            (json!([{"operator": "Exists", "effect": "NoSchedule"}]), 2),
            (json!([{"key": KEYS[0], "operator": "Exists", "effect": EFFECT, "tolerationSeconds": 5}]), 1),
            (json!([{"key": KEYS[1], "operator": "Exists"}]), 1),
        ];
        for (tolerations, added) in cases {
            let before = items(&tolerations).len();
            let pod = trial.create("pods").mutate(json!({"spec": {"tolerations": tolerations}})).unwrap();
            assert_eq!(items(&pod["spec"]["tolerations"]).len(), before + added, "{pod}");
        }
        let pod = trial.create("pods").mutate(json!({"spec": {}})).unwrap();
        let first = json!({"key": KEYS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        assert_eq!(pod["spec"]["tolerations"][0], first);
    }
}
