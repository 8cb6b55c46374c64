//! Small words for reading and filling JSON trees, so that rules read like rules.

use serde_json::{Map, Value, json};

/// Sets a member where there is none.
pub(crate) fn fill(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(name).is_none_or(Value::is_null)
    {
        map.insert(name.to_owned(), value.into());
    }
}

/// The member as an object, made where there is none.
pub(crate) fn object<'a>(parent: &'a mut Value, name: &str) -> &'a mut Value {
    fill(parent, name, json!({}));
    &mut parent[name]
}

/// Sets a member, or removes it when the value is null.
pub(crate) fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        if value.is_null() {
            map.remove(name);
        } else {
            map.insert(name.to_owned(), value);
        }
    }
}

/// Text, empty where there is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number, 0 where there is none.
pub(crate) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Items of a list, none where there is none.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Members of an object, none where there is none.
pub(crate) fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Whether there is nothing: absent, null, empty text, list or object.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The object without some members, to compare the rest.
pub(crate) fn without(object: &Value, names: &[&str]) -> Map<String, Value> {
    object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, _)| !names.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
