//! JSON Patch (RFC 6902) with the liberties of upstream's library (`github.com/evanphx/json-patch` v4): indices may
//! count from the end, and `replace` may set a member that is not there.

use serde_json::{Map, Value};

use super::PatchError;

/// Most operations a patch may have.
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes, roughly, that the `copy` operations of one patch may add.
const MAX_COPIED: usize = 3 << 20;

/// Applies the JSON Patch in `patch` to `document`.
///
/// # Errors
/// When the patch is not a list of operations, is too long, or one of its operations does not apply.
pub fn apply_json_patch(document: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations: Vec<Map<String, Value>> = serde_json::from_slice(patch)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations { max: MAX_OPERATIONS, actual: operations.len() });
    }
    let mut document = document.clone();
    let mut copied = 0;
    for operation in &operations {
        apply(&mut document, operation, &mut copied)?;
    }
    Ok(document)
}

fn refuse<T>(message: String) -> Result<T, PatchError> {
    Err(PatchError::Operation(message))
}

fn apply(document: &mut Value, operation: &Map<String, Value>, copied: &mut usize) -> Result<(), PatchError> {
    let text = |name: &str| match operation.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => refuse(format!("operation missing {name} field")),
    };
    let value = || operation.get("value").cloned().unwrap_or_default();
    match operation.get("op").and_then(Value::as_str).unwrap_or("unknown") {
        "add" => add(document, text("path")?, value()),
        "remove" => remove(document, text("path")?).map(drop),
        "replace" => replace(document, text("path")?, value()),
        "move" => {
            let moved = remove(document, text("from")?)?;
            add(document, text("path")?, moved)
        }
        "copy" => {
            // Of a member that is not there, null is copied.
            let copy = test_target(document, text("from")?)?.clone();
            *copied = copied.saturating_add(rough_size(&copy));
            if *copied > MAX_COPIED {
                return refuse(format!("copies add more than {MAX_COPIED} bytes"));
            }
            add(document, text("path")?, copy)
        }
        "test" => {
            let path = text("path")?;
            let found = if path.is_empty() { &*document } else { test_target(document, path)? };
            if *found == value() { Ok(()) } else { refuse(format!("testing value {path} failed: test failed")) }
        }
        other => refuse(format!("Unexpected kind: {other}")),
    }
}

fn rough_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|v| rough_size(v) + 1).sum::<usize>(),
        Value::Object(members) => 2 + members.iter().map(|(k, v)| k.len() + rough_size(v) + 4).sum::<usize>(),
        _ => 4,
    }
}

/// Takes a pointer apart: the path to the container, and the last step.
fn split(path: &str) -> Result<(Vec<String>, String), PatchError> {
    let mut steps = path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect::<Vec<_>>();
    match steps.pop() {
        Some(last) => Ok((steps, last)),
        None => refuse(format!("doc is missing path: {path:?}: missing value")),
    }
}

/// The index `step` means in a list of `length`; negative ones count from the end.
fn index(step: &str, length: usize) -> Result<usize, PatchError> {
    let number: i64 =
        step.parse().map_err(|_| PatchError::Operation(format!("value was not a proper array index: '{step}'")))?;
    let from_start = if number < 0 { number + length as i64 } else { number };
    match usize::try_from(from_start) {
        Ok(index) if index < length => Ok(index),
        _ => refuse(format!("Unable to access invalid index: {number}: invalid index referenced")),
    }
}

fn step<'a>(container: &'a Value, key: &str) -> Result<Option<&'a Value>, PatchError> {
    match container {
        Value::Object(members) => Ok(members.get(key)),
        Value::Array(items) => Ok(items.get(index(key, items.len())?)),
        _ => Ok(None),
    }
}

fn missing(path: &str) -> PatchError {
    PatchError::Operation(format!("doc is missing path: {path:?}: missing value"))
}

fn container<'a>(document: &'a mut Value, steps: &[String], path: &str) -> Result<&'a mut Value, PatchError> {
    let mut here = document;
    for key in steps {
        here = match here {
            Value::Object(members) => members.get_mut(key),
            Value::Array(items) => {
                let at = index(key, items.len())?;
                items.get_mut(at)
            }
            _ => None,
        }
        .ok_or_else(|| missing(path))?;
    }
    if here.is_object() || here.is_array() { Ok(here) } else { Err(missing(path)) }
}

/// What is there; a missing last member is null, which `test` and `copy` may ask for.
fn test_target<'a>(document: &'a Value, path: &str) -> Result<&'a Value, PatchError> {
    let (steps, last) = split(path)?;
    let mut here = document;
    for key in &steps {
        here = step(here, key)?.ok_or_else(|| missing(path))?;
    }
    if !here.is_object() && !here.is_array() {
        return Err(missing(path));
    }
    Ok(step(here, &last)?.unwrap_or(&Value::Null))
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    let (steps, last) = split(path)?;
    match container(document, &steps, path)? {
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => items.insert(index(&last, items.len() + 1)?, value),
        Value::Object(members) => {
            members.insert(last, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, PatchError> {
    let (steps, last) = split(path)?;
    match container(document, &steps, path)? {
        Value::Array(items) => Ok(items.remove(index(&last, items.len())?)),
        Value::Object(members) => members
            .remove(&last)
            .ok_or_else(|| PatchError::Operation(format!("Unable to remove nonexistent key: {last}: missing value"))),
        _ => Err(missing(path)),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return refuse("replace operation value must be object or array".to_owned());
        }
        *document = value;
        return Ok(());
    }
    let (steps, last) = split(path)?;
    match container(document, &steps, path)? {
        Value::Array(items) => {
            let at = index(&last, items.len())?;
            items[at] = value;
        }
        Value::Object(members) => {
            members.insert(last, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(document: Value, patch: Value) -> Result<Value, String> {
        apply_json_patch(&document, patch.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn operations() {
        let document = json!({"a": {"b": [1, 2, 3]}, "x/y": {"~": 1}});
        for (patch, expected) in [
            (
                json!([{"op": "add", "path": "/a/c", "value": 1}]),
                json!({"a": {"b": [1, 2, 3], "c": 1}, "x/y": {"~": 1}}),
            ),
            (json!([{"op": "add", "path": "/a/b/1", "value": 9}]), json!({"a": {"b": [1, 9, 2, 3]}, "x/y": {"~": 1}})),
            (json!([{"op": "add", "path": "/a/b/-", "value": 9}]), json!({"a": {"b": [1, 2, 3, 9]}, "x/y": {"~": 1}})),
            (json!([{"op": "add", "path": "/a/b/-1", "value": 9}]), json!({"a": {"b": [1, 2, 3, 9]}, "x/y": {"~": 1}})),
            (json!([{"op": "remove", "path": "/a/b/-1"}]), json!({"a": {"b": [1, 2]}, "x/y": {"~": 1}})),
            (json!([{"op": "remove", "path": "/x~1y/~0"}]), json!({"a": {"b": [1, 2, 3]}, "x/y": {}})),
            (
                json!([{"op": "replace", "path": "/a/new", "value": 1}]),
                json!({"a": {"b": [1, 2, 3], "new": 1}, "x/y": {"~": 1}}),
            ),
            (
                json!([{"op": "move", "from": "/a/b/0", "path": "/z"}]),
                json!({"a": {"b": [2, 3]}, "x/y": {"~": 1}, "z": 1}),
            ),
            (
                json!([{"op": "copy", "from": "/a/b/0", "path": "/z"}]),
                json!({"a": {"b": [1, 2, 3]}, "x/y": {"~": 1}, "z": 1}),
            ),
            (
                json!([{"op": "test", "path": "/a/b/0", "value": 1}, {"op": "test", "path": "/none", "value": null}]),
                document.clone(),
            ),
        ] {
            assert_eq!(patched(document.clone(), patch.clone()), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn refusals() {
        for patch in [
            json!([{"op": "remove", "path": "/none"}]),
            json!([{"op": "remove", "path": "/a/b/3"}]),
            json!([{"op": "remove", "path": "/a/b/-4"}]),
            json!([{"op": "add", "path": "/none/x", "value": 1}]),
            json!([{"op": "add", "path": "", "value": 1}]),
            json!([{"op": "test", "path": "/a/b/0", "value": 2}]),
            json!([{"op": "fly", "path": "/a"}]),
            json!([{"op": "add", "value": 1}]),
            json!([{"op": "move", "path": "/a", "from": "/none"}]),
        ] {
            let error = apply_json_patch(&json!({"a": {"b": [1, 2, 3]}}), patch.to_string().as_bytes()).unwrap_err();
            assert_eq!(error.to_status().code, 422, "{patch}");
        }
        assert_eq!(apply_json_patch(&json!({}), b"{}").unwrap_err().to_status().code, 400);
        let many = Value::Array(vec![json!({"op": "test", "path": "/a"}); 10_001]).to_string();
        let error = apply_json_patch(&json!({}), many.as_bytes()).unwrap_err();
        assert_eq!((error.to_status().code, error.to_string().ends_with("10000, got 10001")), (413, true));
    }

    #[test]
    fn copies_are_bounded() {
        let double = json!([{"op": "copy", "from": "/a", "path": "/b"}, {"op": "move", "from": "/b", "path": "/a/-"}]);
        let bomb: Vec<Value> = (0..40).flat_map(|_| double.as_array().unwrap().clone()).collect();
        assert!(patched(json!({"a": ["0123456789"]}), Value::Array(bomb)).is_err());
    }
}
