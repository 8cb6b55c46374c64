//! Node selectors and node affinity (`k8s.io/component-helpers/scheduling/corev1/nodeaffinity` upstream).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// What of a node selectors look at.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.labels`.
    pub labels: &'a BTreeMap<String, String>,
}

/// Whether the pod's `nodeSelector` and its required node affinity let it onto this node.
pub fn pod_fits(spec: &PodSpec, node: NodeView<'_>) -> bool {
    let wanted = spec.node_selector.iter().flatten();
    let required = affinity(spec).and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    wanted.into_iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && required.is_none_or(|selector| selects(selector, node))
}

/// Sum of the weights of the preferred terms that this node fulfils; terms without conditions count for nothing.
pub fn preference(spec: &PodSpec, node: NodeView<'_>) -> i64 {
    let terms = affinity(spec).and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let fulfilled = terms.into_iter().flatten().filter(|t| fulfils(&t.preference, node));
    fulfilled.map(|t| i64::from(t.weight)).sum()
}

/// Whether any term of the selector is fulfilled. No terms, and terms without conditions, select nothing.
pub fn selects(selector: &NodeSelector, node: NodeView<'_>) -> bool {
    selector.node_selector_terms.iter().any(|term| fulfils(term, node))
}

fn affinity(spec: &PodSpec) -> Option<&NodeAffinity> {
    spec.affinity.as_ref()?.node_affinity.as_ref()
}

fn is_empty(term: &NodeSelectorTerm) -> bool {
    let none = |list: &Option<Vec<NodeSelectorRequirement>>| list.as_ref().is_none_or(Vec::is_empty);
    none(&term.match_expressions) && none(&term.match_fields)
}

fn fulfils(term: &NodeSelectorTerm, node: NodeView<'_>) -> bool {
    let mut labels = term.match_expressions.iter().flatten();
    let mut fields = term.match_fields.iter().flatten();
    !is_empty(term)
        && labels.all(|r| label_fits(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.all(|r| field_fits(r, node))
}

fn label_fits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|v| values.iter().any(|x| x == v));
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let compared = |relation: fn(i64, i64) -> bool| match (number(value), values) {
        (Some(have), [one]) => number(Some(one)).is_some_and(|want| relation(have, want)),
        _ => false,
    };
    match &*requirement.operator {
        "In" => listed(),
        "NotIn" => !values.is_empty() && !listed(),
        "Exists" => values.is_empty() && value.is_some(),
        "DoesNotExist" => values.is_empty() && value.is_none(),
        "Gt" => compared(|have, want| have > want),
        "Lt" => compared(|have, want| have < want),
        _ => false,
    }
}

/// `metadata.name` is the only field there is; others are empty.
fn field_fits(requirement: &NodeSelectorRequirement, node: NodeView<'_>) -> bool {
    let value = if requirement.key == "metadata.name" { node.name } else { "" };
    match (&*requirement.operator, requirement.values.as_deref()) {
        ("In", Some([one])) => value == one,
        ("NotIn", Some([one])) => value != one,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodSpec {
        let mut spec = json!({"containers": []});
        spec.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn required(term: Value) -> PodSpec {
        let selector = json!({"nodeSelectorTerms": [term]});
        spec(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}}))
    }

    fn labels() -> BTreeMap<String, String> {
        [("zone", "a"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn requirements() {
        let labels = labels();
        let node = NodeView { name: "n1", labels: &labels };
        let term = |key: &str, op: &str, values: &[&str]| {
            required(json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]}))
        };
        for (key, op, values, expected) in [
            ("zone", "In", &["a", "b"][..], true),
            ("zone", "NotIn", &["a"], false),
            ("rack", "NotIn", &["a"], true),
            ("zone", "Exists", &[], true),
            ("rack", "Exists", &[], false),
            ("rack", "DoesNotExist", &[], true),
            ("cores", "Gt", &["7"], true),
            ("cores", "Gt", &["8"], false),
            ("cores", "Lt", &["10"], true),
            ("zone", "Lt", &["10"], false),
            ("zone", "Like", &["a"], false),
        ] {
            assert_eq!(pod_fits(&term(key, op, values), node), expected, "{key} {op} {values:?}");
        }
    }

    #[test]
    fn fields_terms_and_emptiness() {
        let labels = labels();
        let node = NodeView { name: "n1", labels: &labels };
        let named = |op: &str, name: &str| {
            required(json!({"matchFields": [{"key": "metadata.name", "operator": op, "values": [name]}]}))
        };
        assert!(pod_fits(&named("In", "n1"), node) && !pod_fits(&named("In", "n2"), node));
        assert!(pod_fits(&named("NotIn", "n2"), node) && !pod_fits(&named("Exists", "n1"), node));
        assert!(!pod_fits(&required(json!({})), node));
        assert!(pod_fits(&spec(json!({})), node));
        assert!(pod_fits(&spec(json!({"nodeSelector": {"zone": "a"}})), node));
        assert!(!pod_fits(&spec(json!({"nodeSelector": {"zone": "a", "rack": "1"}})), node));
    }

    #[test]
    fn preferences_add_up() {
        let labels = labels();
        let node = NodeView { name: "n1", labels: &labels };
        let term = |weight: i32, zone: &str| {
            json!({"weight": weight,
                "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}})
        };
        let terms = json!([term(5, "a"), term(7, "b"), term(2, "a"), {"weight": 1, "preference": {}}]);
        let spec = spec(json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": terms}}}));
        assert_eq!(preference(&spec, node), 7);
    }
}
