//! The difference that a client-side apply sends: what the file adds or changes against the live object, and what it no
//! longer has against what was applied last. What others added to the live object stays.
//!
//! Lists that merge (by the schema's facts) are compared item by item with their merge key, so that two writers can own
//! items of one list; all other lists are sent whole. Without a schema the result is a plain merge patch.

use serde_json::{Map, Value, json};
use skiff_meta::schema::{Field, TypeRef};

/// The patch that turns `live` into what `modified` says, minus what only `original` said.
pub fn patch(original: &Value, modified: &Value, live: &Value, ty: TypeRef<'_>) -> Value {
    Value::Object(object(original, modified, live, ty))
}

fn object(original: &Value, modified: &Value, live: &Value, ty: TypeRef<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    let empty = Map::new();
    let map = |value: &'_ Value| value.as_object().cloned();
    let (original_map, live_map) = (map(original).unwrap_or_default(), map(live).unwrap_or_default());
    let modified_map = modified.as_object().unwrap_or(&empty);
    for (key, wanted) in modified_map {
        let (before, now) = (original_map.get(key).unwrap_or(&Value::Null), live_map.get(key).unwrap_or(&Value::Null));
        match (wanted, now) {
            (Value::Null, Value::Null) => {}
            (Value::Object(_), Value::Object(_)) => {
                let inner = object(before, wanted, now, ty.member(key));
                if !inner.is_empty() {
                    out.insert(key.clone(), Value::Object(inner));
                }
            }
            (Value::Array(wanted_items), Value::Array(now_items)) if merges(ty.field(key)) => {
                let field = ty.field(key);
                let merge_key = field.map(|f| f.patch.merge_key.clone()).unwrap_or_default();
                let before_items = before.as_array().cloned().unwrap_or_default();
                list(key, &merge_key, &before_items, wanted_items, now_items, ty.member(key).item(), &mut out);
            }
            _ if wanted == now => {}
            _ => {
                out.insert(key.clone(), wanted.clone());
            }
        }
    }
    for key in original_map.keys().filter(|k| !modified_map.contains_key(*k) && live_map.contains_key(*k)) {
        out.insert(key.clone(), Value::Null);
    }
    out
}

fn merges(field: Option<&Field>) -> bool {
    field.is_some_and(|f| f.patch.merge)
}

fn list(
    key: &str,
    merge_key: &str,
    before: &[Value],
    wanted: &[Value],
    now: &[Value],
    item: TypeRef<'_>,
    out: &mut Map<String, Value>,
) {
    if merge_key.is_empty() {
        let added: Vec<&Value> = wanted.iter().filter(|v| !now.contains(v)).collect();
        let removed: Vec<&Value> = before.iter().filter(|v| !wanted.contains(v) && now.contains(v)).collect();
        if !added.is_empty() {
            out.insert(key.to_owned(), json!(added));
        }
        if !removed.is_empty() {
            out.insert(format!("$deleteFromPrimitiveList/{key}"), json!(removed));
        }
        return;
    }
    let find = |items: &[Value], id: &Value| items.iter().find(|v| v[merge_key] == *id).cloned();
    let mut changes = Vec::new();
    for entry in wanted {
        let id = &entry[merge_key];
        match find(now, id) {
            None => changes.push(entry.clone()),
            Some(current) => {
                let mut inner = object(&find(before, id).unwrap_or_default(), entry, &current, item);
                if !inner.is_empty() {
                    inner.insert(merge_key.to_owned(), id.clone());
                    changes.push(Value::Object(inner));
                }
            }
        }
    }
    for gone in before {
        let id = &gone[merge_key];
        if find(wanted, id).is_none() && find(now, id).is_some() {
            changes.push(json!({"$patch": "delete", merge_key: id}));
        }
    }
    let order = |items: &[Value]| items.iter().map(|v| v[merge_key].clone()).collect::<Vec<_>>();
    if !changes.is_empty() {
        let order: Vec<Value> = order(wanted).into_iter().map(|id| json!({merge_key: id})).collect();
        out.insert(format!("$setElementOrder/{key}"), json!(order));
        out.insert(key.to_owned(), Value::Array(changes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_meta::GroupVersionKind;

    fn deployment() -> skiff_meta::schema::KindSchema {
        skiff_api::facts::schema(&GroupVersionKind::new("apps", "v1", "Deployment")).unwrap()
    }

    fn with_containers(containers: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn nothing_to_do() {
        let manifest = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}});
        let live =
            json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"replicas": 1, "paused": false}, "status": {}});
        assert_eq!(patch(&manifest, &manifest, &live, TypeRef::any()), json!({}));
    }

    #[test]
    fn what_the_file_dropped_goes_what_others_added_stays() {
        let original = json!({"data": {"a": "1", "b": "2"}});
        let modified = json!({"data": {"a": "3"}});
        let live = json!({"data": {"a": "1", "b": "2", "other": "x"}});
        assert_eq!(patch(&original, &modified, &live, TypeRef::any()), json!({"data": {"a": "3", "b": null}}));
    }

    #[test]
    fn merging_lists_go_by_key() {
        let schema = deployment();
        let original = with_containers(json!([{"name": "web", "image": "x:1"}, {"name": "old", "image": "o"}]));
        let modified = with_containers(json!([{"name": "web", "image": "x:2"}, {"name": "new", "image": "n"}]));
        let live = with_containers(
            json!([{"name": "web", "image": "x:1", "terminationMessagePath": "/t"}, {"name": "old", "image": "o"}, {"name": "injected", "image": "i"}]),
        );
        let made = patch(&original, &modified, &live, schema.root());
        let spec = &made["spec"]["template"]["spec"];
        assert_eq!(
            spec["containers"],
            json!([{"name": "web", "image": "x:2"}, {"name": "new", "image": "n"}, {"$patch": "delete", "name": "old"}])
        );
        assert_eq!(spec["$setElementOrder/containers"], json!([{"name": "web"}, {"name": "new"}]));
    }

    #[test]
    fn atomic_lists_are_sent_whole() {
        let schema = deployment();
        let command = |words: Value| with_containers(json!([{"name": "web", "command": words}]));
        let made = patch(&command(json!(["a"])), &command(json!(["b"])), &command(json!(["a"])), schema.root());
        assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["command"], json!(["b"]));
    }
}
