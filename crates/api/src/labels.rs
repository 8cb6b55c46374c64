//! Typed label selectors against labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use skiff_meta::selector::{self, Operator, Requirement, SelectorError};

/// Whether an object with these labels is selected. No selector selects nothing, an empty one everything; an unknown
/// operator selects nothing. Allocates nothing: to match many objects and to report faults, [`compile`] first.
pub fn matches(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = selector else { return false };
    let equal = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    selector.match_labels.iter().flatten().all(equal)
        && selector.match_expressions.iter().flatten().all(|e| {
            let value = labels.get(&e.key);
            let listed = value.is_some_and(|v| e.values.iter().flatten().any(|x| x == v));
            match &*e.operator {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The selector in the form that query strings, indexes and matching use.
///
/// # Errors
/// When a key, an operator or a value is against the rules.
pub fn compile(selector: Option<&LabelSelector>) -> Result<selector::LabelSelector, SelectorError> {
    let Some(selector) = selector else { return Ok(selector::LabelSelector::nothing()) };
    let mut all = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        all.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
    }
    for e in selector.match_expressions.iter().flatten() {
        let operator = match &*e.operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(SelectorError::Operator(other.to_owned())),
        };
        all.push(Requirement::new(&e.key, operator, e.values.clone().unwrap_or_default())?);
    }
    Ok(selector::LabelSelector::new(all))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn typed(selector: Value) -> LabelSelector {
        serde_json::from_value(selector).unwrap()
    }

    #[test]
    fn both_ways_agree() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())]);
        for (selector, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "web", "tier": "back"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}), true),
            (json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}), true),
        ] {
            let selector = typed(selector);
            assert_eq!(matches(Some(&selector), &labels), expected, "{selector:?}");
            assert_eq!(compile(Some(&selector)).unwrap().matches(&labels), expected, "{selector:?}");
        }
        assert!(!matches(None, &labels) && compile(None).unwrap().is_nothing());
    }

    #[test]
    fn faults_are_told() {
        let bad = typed(json!({"matchExpressions": [{"key": "app", "operator": "Near"}]}));
        assert_eq!(compile(Some(&bad)), Err(SelectorError::Operator("Near".into())));
        assert!(!matches(Some(&bad), &BTreeMap::new()));
        assert!(compile(Some(&typed(json!({"matchLabels": {"a b": "c"}})))).is_err());
    }
}
