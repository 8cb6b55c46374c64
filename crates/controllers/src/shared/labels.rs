//! Label selectors, ready to be matched.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    Missing(String),
}

/// A label selector. Matches nothing where the object's selector is missing or cannot be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector(Option<Vec<Requirement>>);

impl Selector {
    /// From a `LabelSelector`; an empty one matches everything.
    pub(crate) fn new(selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.iter().flatten();
        let mut all: Vec<Requirement> =
            labels.map(|(key, value)| Requirement::In(key.clone(), BTreeSet::from([value.clone()]))).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.iter().flatten().cloned().collect();
            all.push(match &*expression.operator {
                "In" => Requirement::In(expression.key.clone(), values),
                "NotIn" => Requirement::NotIn(expression.key.clone(), values),
                "Exists" => Requirement::Exists(expression.key.clone()),
                "DoesNotExist" => Requirement::Missing(expression.key.clone()),
                _ => return Self(None),
            });
        }
        Self(Some(all))
    }

    /// From the plain maps of Services and ReplicationControllers; an empty map matches nothing there.
    pub(crate) fn from_map(map: Option<&BTreeMap<String, String>>) -> Self {
        if map.is_none_or(BTreeMap::is_empty) { Self(None) } else { Self::from_labels(map) }
    }

    /// Objects with all of these labels; no labels match everything.
    pub(crate) fn from_labels(labels: Option<&BTreeMap<String, String>>) -> Self {
        Self::new(&LabelSelector { match_labels: labels.cloned(), match_expressions: None })
    }

    /// Whether it matches everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether it matches these labels.
    pub(crate) fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = |key: &String| labels.and_then(|labels| labels.get(key));
        let Some(requirements) = &self.0 else { return false };
        requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => value(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => value(key).is_some(),
            Requirement::Missing(key) => value(key).is_none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_operators() {
        let labels: BTreeMap<String, String> = [("a".to_owned(), "1".to_owned())].into();
        let table = [
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "2"}}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), false),
            (json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]}), false),
        ];
        for (selector, expected) in table {
            let text = selector.to_string();
            let selector = Selector::new(&serde_json::from_value(selector).unwrap());
            assert_eq!(selector.matches(Some(&labels)), expected, "{text}");
        }
        assert!(!Selector::from_map(None).matches(None));
        assert!(!Selector::from_map(Some(&BTreeMap::new())).matches(Some(&labels)));
        assert!(Selector::from_map(Some(&labels)).matches(Some(&labels)));
    }
}
