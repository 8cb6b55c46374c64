//! Brings default roles and bindings of an older version up to date: what they lack is added, what somebody added stays.
//!
//! As upstream's `component-helpers/auth/rbac/reconciliation`. Who wants a default left alone annotates it so.

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use super::rule;

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// `existing` with what `wanted` has and it lacks; `None` when nothing is to be done.
pub(crate) fn reconciled(existing: &Value, wanted: &Value) -> Option<Value> {
    let annotation = &existing["metadata"]["annotations"][AUTO_UPDATE];
    if annotation == "false" || wanted["metadata"]["annotations"][AUTO_UPDATE].is_null() {
        return None;
    }
    let mut result = existing.clone();
    for field in ["labels", "annotations"] {
        add_entries(&mut result["metadata"], &wanted["metadata"], field);
    }
    add_rules(&mut result, existing, wanted);
    add_subjects(&mut result, wanted);
    if existing["aggregationRule"].is_null() && !wanted["aggregationRule"].is_null() {
        result["aggregationRule"] = wanted["aggregationRule"].clone();
    }
    (result != *existing).then_some(result)
}

fn add_entries(metadata: &mut Value, wanted: &Value, field: &str) {
    for (key, value) in wanted[field].as_object().into_iter().flatten() {
        if metadata.get(field).and_then(|entries| entries.get(key)).is_none() {
            metadata[field][key] = value.clone();
        }
    }
}

fn add_rules(result: &mut Value, existing: &Value, wanted: &Value) {
    let read = |role: &Value| serde_json::from_value::<Vec<PolicyRule>>(role["rules"].clone()).unwrap_or_default();
    let (held, needed) = (read(existing), read(wanted));
    let lacking = rule::uncovered(&held.iter().collect::<Vec<_>>(), &needed);
    if !lacking.is_empty() {
        result["rules"] = held.iter().chain(&lacking).map(|rule| json!(rule)).collect();
    }
}

fn add_subjects(result: &mut Value, wanted: &Value) {
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|field| a[field] == b[field]);
    let has = result["subjects"].as_array().cloned().unwrap_or_default();
    let needed = wanted["subjects"].as_array().into_iter().flatten();
    let lacking: Vec<Value> = needed.filter(|subject| !has.iter().any(|other| same(other, subject))).cloned().collect();
    if !lacking.is_empty() {
        result["subjects"] = has.into_iter().chain(lacking).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(rules: Value, auto: &str) -> Value {
        json!({"kind": "ClusterRole", "metadata": {"name": "r", "annotations": {AUTO_UPDATE: auto}}, "rules": rules})
    }

    fn rule(verbs: &[&str], resource: &str) -> Value {
        json!({"apiGroups": [""], "resources": [resource], "verbs": verbs})
    }

    #[test]
    fn adds_what_lacks_and_keeps_what_was_added() {
        let wanted = role(json!([rule(&["get", "list"], "pods")]), "true");
        let own = rule(&["get"], "secrets");
        let cases = [
            (json!([rule(&["get", "list"], "pods")]), None),
            (json!([rule(&["*"], "*"), own]), None),
            (json!([rule(&["get"], "pods"), own]), Some(json!([rule(&["get"], "pods"), own, rule(&["list"], "pods")]))),
        ];
        for (rules, expected) in cases {
            let result = reconciled(&role(rules.clone(), "true"), &wanted);
            assert_eq!(result.map(|role| role["rules"].clone()), expected, "{rules}");
            assert_eq!(reconciled(&role(rules, "false"), &wanted), None);
        }
    }

    #[test]
    fn subjects_and_labels_come_back() {
        let binding = |subjects: Value, labels: Value| {
            let metadata = json!({"name": "b", "labels": labels, "annotations": {AUTO_UPDATE: "true"}});
            json!({"kind": "ClusterRoleBinding", "metadata": metadata, "subjects": subjects})
        };
        let user = |name: &str| json!({"kind": "User", "name": name});
        let wanted = binding(json!([user("a")]), json!({"l": "1"}));
        let result = reconciled(&binding(json!([user("b")]), json!({"l": "2"})), &wanted).unwrap();
        assert_eq!(result, binding(json!([user("b"), user("a")]), json!({"l": "2"})));
        let result = reconciled(&binding(json!([user("a")]), json!({})), &wanted).unwrap();
        assert_eq!(result["metadata"]["labels"], json!({"l": "1"}));
        assert_eq!(reconciled(&wanted, &wanted), None);
    }
}
