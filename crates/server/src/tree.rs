//! Reading and writing members of JSON trees without ceremony.

use serde_json::{Map, Value};

/// The value at a path of member names.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, name| v.get(*name)).filter(|v| !v.is_null())
}

/// The text at a path, empty when missing.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at a path.
pub(crate) fn number(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The strings of the list at a path.
pub(crate) fn texts<'a>(value: &'a Value, path: &[&str]) -> Vec<&'a str> {
    at(value, path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The value as an object, which it is made when it is something else.
pub(crate) fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Just made one.
        _ => unreachable!("an object was put here"),
    }
}

/// The object below `name`, made when missing.
pub(crate) fn child<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    map(map(value).entry(name.to_owned()).or_insert(Value::Null))
}

/// `metadata`, made when missing.
pub(crate) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    child(value, "metadata")
}

/// Sets a member, or removes it when the value is missing.
pub(crate) fn put(map: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(name.to_owned(), value);
        }
        None => {
            map.remove(name);
        }
    }
}

/// Sets the value at a path, making what is missing on the way.
pub(crate) fn set(value: &mut Value, path: &[String], new: Value) {
    match path {
        [] => *value = new,
        [first, rest @ ..] => set(map(value).entry(first.clone()).or_insert(Value::Null), rest, new),
    }
}

/// The value at a path of owned names.
pub(crate) fn at_path<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, name| v.get(name)).filter(|v| !v.is_null())
}

/// A point in time as the API writes it: RFC 3339 in whole seconds.
pub(crate) fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
