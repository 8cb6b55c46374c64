//! JSON Merge Patch (RFC 7386), which upstream extends by one habit: nulls inside new lists' objects go too.

use serde_json::Value;

/// Applies the merge patch `patch` to `document`.
pub fn merge_patch(document: &Value, patch: &Value) -> Value {
    let mut document = document.clone();
    merge(&mut document, patch);
    document
}

fn merge(document: &mut Value, patch: &Value) {
    let (Value::Object(members), Value::Object(changes)) = (&mut *document, patch) else {
        let prune = !document.is_object();
        *document = patch.clone();
        if prune {
            prune_nulls(document);
        }
        return;
    };
    for (key, change) in changes {
        match members.get_mut(key) {
            _ if change.is_null() => {
                members.remove(key);
            }
            Some(member) => merge(member, change),
            None => {
                let mut added = change.clone();
                prune_nulls(&mut added);
                members.insert(key.clone(), added);
            }
        }
    }
}

/// Removes members that are null, at any depth; nulls that are items of lists stay.
fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merging() {
        for (document, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"a": null, "b": 1}), json!({"b": 1})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({}), json!({"a": [{"b": null}, null]}), json!({"a": [{}, null]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({"a": 1}), json!([1]), json!([1])),
        ] {
            assert_eq!(merge_patch(&document, &patch), expected, "{document} {patch}");
        }
    }
}
