//! Handing objects over from client-side apply, which keeps its last configuration in an annotation.
//!
//! When kubectl goes over to server-side apply, the fields it last applied from the client's side are its own, though
//! the books name another manager. As long as the annotation is there, it follows what is applied, so that a user may
//! go back.

use serde_json::{Map, Value};

use super::set::FieldSet;
use super::walk::{compare, faults, field_set};
use crate::schema::TypeRef;

/// The one manager this is done for.
pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// The fields of the last client-side configuration that still are as it said.
pub(super) fn inherited_fields(live: &Value, ty: TypeRef<'_>, api_version: &str) -> Option<FieldSet> {
    let last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if last.get("apiVersion")?.as_str()? != api_version || !faults(&last, ty).is_empty() {
        return None;
    }
    let changed = compare(&last, live, ty);
    let gone = changed.touched().union(&changed.removed);
    Some(field_set(&last, ty).difference(&gone))
}

/// Brings the annotation, where there is one, up to date with what was applied.
pub(super) fn refresh(object: &mut Value, applied: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
        if annotations.is_empty() {
            applied["metadata"].as_object_mut().map(|m: &mut Map<String, Value>| m.remove("annotations"));
        }
    }
    if let Some(text) = object.pointer_mut("/metadata/annotations").and_then(|a| a.get_mut(ANNOTATION)) {
        *text = Value::String(format!("{applied}\n"));
    }
}
