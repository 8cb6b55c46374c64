//! What a node's status says.

use k8s_openapi::api::core::v1::Node;

/// Whether the node says that it is ready.
pub fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_true_is_ready() {
        let ready = |conditions: Value| {
            is_ready(&serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}})).unwrap())
        };
        for (type_, status, expected) in
            [("Ready", "True", true), ("Ready", "False", false), ("Ready", "Unknown", false), ("Other", "True", false)]
        {
            assert_eq!(ready(json!([{"type": type_, "status": status}])), expected, "{type_} {status}");
        }
        assert!(!ready(json!(null)));
    }
}
