//! When two pod templates mean the same: the question on which every rollout hangs.
//!
//! A difference of spelling must not roll anything out, and a set whose template the server completed while storing it
//! must be known again, or each look would make another set.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

/// Fields that hold quantities, by any name.
const QUANTITIES: [&str; 3] = ["limits", "requests", "overhead"];
/// Single quantities.
const QUANTITY: [&str; 2] = ["sizeLimit", "divisor"];
/// Maps for which being empty is the same as being absent; other empty objects say something (`emptyDir: {}`).
const MAPS: [&str; 8] =
    ["labels", "annotations", "nodeSelector", "matchLabels", "limits", "requests", "overhead", "options"];

/// A template as a tree in which equal meaning is equality, the label `hash` left out.
pub(crate) fn meaning(template: &PodTemplateSpec, hash: &str) -> Value {
    let mut tree = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = tree.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(hash);
    }
    if let Some(tree) = tree.as_object_mut() {
        tree.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        normalize(tree);
    }
    tree
}

/// Whether two templates are the same to the letter, the label `hash` left out: the usual case, and a cheap question.
pub(crate) fn identical(one: &PodTemplateSpec, other: &PodTemplateSpec, hash: &str) -> bool {
    let meta = |template: &PodTemplateSpec| {
        let mut meta = template.metadata.clone().unwrap_or_default();
        meta.labels.as_mut().map(|labels| labels.remove(hash));
        meta.labels = meta.labels.filter(|labels| !labels.is_empty());
        meta
    };
    one.spec == other.spec && meta(one) == meta(other)
}

fn normalize(fields: &mut Map<String, Value>) {
    fields.retain(|name, value| {
        match value {
            Value::Object(map) if QUANTITIES.contains(&&**name) => map.values_mut().for_each(spell),
            Value::Object(map) => normalize(map),
            Value::Array(items) => items.iter_mut().filter_map(Value::as_object_mut).for_each(normalize),
            Value::String(_) if QUANTITY.contains(&&**name) => spell(value),
            _ => {}
        }
        match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(map) => !map.is_empty() || !MAPS.contains(&&**name),
            _ => true,
        }
    });
}

/// The one spelling of a quantity.
fn spell(quantity: &mut Value) {
    let canonical = quantity.as_str().and_then(|text| skiff_meta::quantity::canonical_text(text).ok());
    if let Some(canonical) = canonical {
        *quantity = Value::String(canonical);
    }
}

/// Whether `whole` says everything that `part` says, and perhaps more: what defaulting makes of it.
pub(crate) fn completes(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|known| completes(known, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| completes(whole, part))
        }
        _ => whole == part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: Value) -> Value {
        meaning(&serde_json::from_value(value).expect("a template"), "hash")
    }

    #[test]
    fn spelling_is_not_meaning() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"limits": {"cpu": cpu}}});
        let table = [
            ("the hash", json!({"metadata": {"labels": {"hash": "x"}}}), json!({}), true),
            (
                "empty lists",
                json!({"spec": {"containers": [], "tolerations": []}}),
                json!({"spec": {"containers": []}}),
                true,
            ),
            ("empty maps", json!({"metadata": {"annotations": {}}}), json!({"metadata": {}}), true),
            (
                "quantities",
                json!({"spec": {"containers": [container("1")]}}),
                json!({"spec": {"containers": [container("1000m")]}}),
                true,
            ),
            (
                "other quantities",
                json!({"spec": {"containers": [container("1")]}}),
                json!({"spec": {"containers": [container("2")]}}),
                false,
            ),
            (
                "empty objects",
                json!({"spec": {"containers": [], "securityContext": {}}}),
                json!({"spec": {"containers": []}}),
                false,
            ),
        ];
        for (name, one, other, same) in table {
            assert_eq!(of(one.clone()) == of(other.clone()), same, "{name}");
            let read = |value| serde_json::from_value::<PodTemplateSpec>(value).expect("a template");
            assert!(!identical(&read(one), &read(other), "hash") || same, "{name}");
        }
    }

    #[test]
    fn defaults_complete_what_was_said() {
        let said = of(json!({"spec": {"containers": [{"name": "c", "image": "v1"}]}}));
        let stored = of(json!({"spec": {"containers": [{"name": "c", "image": "v1", "imagePullPolicy": "Always"}],
            "restartPolicy": "Always"}}));
        assert!(completes(&stored, &said) && !completes(&said, &stored));
        let other = of(json!({"spec": {"containers": [{"name": "c", "image": "v2"}]}}));
        assert!(!completes(&stored, &other));
    }
}
