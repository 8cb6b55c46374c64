//! Defaults, and nulls that stand for nothing (`apiserver/schema/defaulting` upstream).

use serde_json::Value;

use super::node::Node;

/// Drops nulls where null is no value and nothing defaults it, then fills in what was left out.
pub(super) fn fill(object: &mut Value, root: &Node) {
    drop_nulls(object, Some(root));
    fill_in(object, root);
}

fn drop_nulls(value: &mut Value, node: Option<&Node>) {
    match value {
        Value::Object(members) => {
            members.retain(|name, member| {
                let node = node.and_then(|n| n.member(name));
                drop_nulls(member, node);
                !(member.is_null() && node.is_some_and(|n| !n.nullable && n.default.is_none()))
            });
        }
        Value::Array(items) => {
            let item = node.and_then(|n| n.items.as_deref());
            items.iter_mut().for_each(|value| drop_nulls(value, item));
        }
        _ => {}
    }
}

fn fill_in(value: &mut Value, node: &Node) {
    match value {
        Value::Object(members) => {
            for (name, property) in &node.properties {
                if let Some(default) = &property.default
                    && members.get(name).is_none_or(|found| found.is_null() && !property.nullable)
                {
                    members.insert(name.clone(), default.clone());
                }
            }
            for (name, member) in members.iter_mut() {
                if let Some(node) = node.member(name) {
                    replace_null(member, node);
                    fill_in(member, node);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if let Some(node) = &node.items {
                    replace_null(item, node);
                    fill_in(item, node);
                }
            }
        }
        _ => {}
    }
}

fn replace_null(value: &mut Value, node: &Node) {
    if value.is_null()
        && !node.nullable
        && let Some(default) = &node.default
    {
        *value = default.clone();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_nulls() {
        let root = Node::read(Some(&json!({"type": "object", "properties": {
            "a": {"type": "integer", "default": 1},
            "nullable": {"type": "integer", "nullable": true, "default": 2},
            "plain": {"type": "string"},
            "spec": {"type": "object", "default": {}, "properties": {"deep": {"type": "string", "default": "x"}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}},
            "map": {"type": "object", "additionalProperties": {"type": "string", "default": "m"}},
        }})));
        for (given, expected) in [
            (json!({}), json!({"a": 1, "nullable": 2, "spec": {"deep": "x"}})),
            (
                json!({"a": null, "nullable": null, "plain": null, "spec": {"deep": "y"}, "free": null}),
                json!({"a": 1, "nullable": null, "spec": {"deep": "y"}, "free": null}),
            ),
            (
                json!({"a": 5, "nullable": 6, "spec": {}, "list": [{}, {"n": 4}], "map": {"k": null, "l": "v"}}),
                json!({"a": 5, "nullable": 6, "spec": {"deep": "x"}, "list": [{"n": 3}, {"n": 4}],
                    "map": {"k": "m", "l": "v"}}),
            ),
        ] {
            let mut object = given.clone();
            fill(&mut object, &root);
            assert_eq!(object, expected, "{given}");
            fill(&mut object, &root);
            assert_eq!(object, expected, "not idempotent: {given}");
        }
    }
}
