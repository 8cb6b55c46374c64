//! Lists that are sets or maps hold nothing twice (`apiserver/schema/listtype` upstream).

use std::collections::HashMap;

use serde_json::{Map, Value};
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};

use super::node::Node;

/// All items that stand twice.
pub(super) fn check(value: &Value, node: &Node, path: &FieldPath, faults: &mut FieldErrors) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let own = node.properties.get(name);
                let at = if own.is_some() { path.child(name) } else { path.key(name) };
                if let Some(node) = own.or_else(|| node.member(name)) {
                    check(member, node, &at, faults);
                }
            }
        }
        Value::Array(items) => {
            match &*node.list_type {
                "set" => {
                    twice(items).for_each(|i| faults.push(FieldError::duplicate(&path.index(i), items[i].clone())))
                }
                "map" => map_keys(items, &node.list_map_keys, path, faults),
                _ => {}
            }
            if let Some(node) = &node.items {
                items.iter().enumerate().for_each(|(i, item)| check(item, node, &path.index(i), faults));
            }
        }
        _ => {}
    }
}

/// The keys of one item, as far as it has them.
pub(super) fn keys_of(item: &Value, keys: &[String]) -> Value {
    let found = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    Value::Object(found.collect::<Map<_, _>>())
}

fn map_keys(items: &[Value], keys: &[String], path: &FieldPath, faults: &mut FieldErrors) {
    let odd = items.iter().position(|item| !item.is_null() && !item.is_object());
    if let Some(i) = odd {
        let detail = "must be an object for an array of list-type map";
        faults.push(FieldError::invalid(&path.index(i), items[i].clone(), detail));
        return;
    }
    let all: Vec<Value> = items.iter().map(|item| keys_of(item, keys)).collect();
    twice(&all).for_each(|i| faults.push(FieldError::duplicate(&path.index(i), all[i].clone())));
}

/// Where a value stands for the second time (and only then).
fn twice(values: &[Value]) -> impl Iterator<Item = usize> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut found = Vec::new();
    for (i, value) in values.iter().enumerate() {
        let count = seen.entry(value.to_string()).or_default();
        *count += 1;
        if *count == 2 {
            found.push(i);
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates() {
        let node =
            Node::read(Some(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                    "items": {"type": "object"}},
                "named": {"type": "object", "additionalProperties": {"type": "array", "x-kubernetes-list-type": "set"}},
                "free": {"type": "array", "items": {"type": "string"}},
            }}}})));
        let object = json!({"spec": {
            "set": ["x", "y", "x", "x"], "free": ["x", "x"], "named": {"k": [1, 1]},
            "map": [{"a": 1, "b": 2, "c": 3}, {"a": 1}, {"a": 1, "b": 2}, {"a": 1}]}});
        let mut faults = Vec::new();
        check(&object, &node, &FieldPath::root(), &mut faults);
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                r#"spec.map[2]: Duplicate value: {"a":1,"b":2}"#,
                r#"spec.map[3]: Duplicate value: {"a":1}"#,
                "spec.named[k][1]: Duplicate value: 1",
                r#"spec.set[2]: Duplicate value: "x""#,
            ]
        );
    }
}
