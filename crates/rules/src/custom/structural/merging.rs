//! How lists and maps merge, and that they can: items of sets are told apart as wholes, items of maps by their keys.

use serde_json::Value;
use skiff_meta::field::FieldErrors;

use super::{flag, must_be};
use crate::faults::At;
use crate::tree::{items, text};

/// All faults of one schema, those below it left out.
pub(super) fn check(schema: &At<'_>, faults: &mut FieldErrors) {
    let (ty, list, map) =
        (schema.get("type"), schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-map-type"));
    if map.exists() {
        if ty.text() != "object" {
            must_be(&ty, "must be object if x-kubernetes-map-type is specified", faults);
        }
        map.one_of(faults, &["atomic", "granular"]);
    }
    if list.exists() {
        if ty.text() != "array" {
            must_be(&ty, "must be array if x-kubernetes-list-type is specified", faults);
        } else if list.text() == "set" {
            set_items(&schema.get("items"), faults);
        }
        list.one_of(faults, &["atomic", "map", "set"]);
    }
    let keys = schema.get("x-kubernetes-list-map-keys");
    if !keys.is_empty() && list.text() != "map" {
        must_be(&list, "must be map if x-kubernetes-list-map-keys is non-empty", faults);
    }
    if list.text() == "map" {
        map_items(&schema.get("items"), &keys, faults);
    }
    let nullable = schema.get("items").get("nullable");
    if matches!(list.text(), "set" | "map") && nullable.value == &Value::Bool(true) {
        nullable.forbidden(faults, &format!("cannot be nullable when x-kubernetes-list-type is {}", list.text()));
    }
}

/// Items of sets are told apart as wholes.
fn set_items(item: &At<'_>, faults: &mut FieldErrors) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list, map) = (item.get("x-kubernetes-list-type"), item.get("x-kubernetes-map-type"));
    match item.get("type").text() {
        "array" if list.exists() && list.text() != "atomic" => list.invalid(faults, detail),
        "object" if map.text() != "atomic" => map.invalid(faults, detail),
        _ => {}
    }
}

/// Items of lists with keys have those keys.
fn map_items(item: &At<'_>, keys: &At<'_>, faults: &mut FieldErrors) {
    keys.required(faults, "must not be empty if x-kubernetes-list-type is map");
    if !item.required(faults, "must have a schema if x-kubernetes-list-type is map") {
        return;
    }
    if item.get("type").text() != "object" {
        item.get("type").invalid(faults, "must be object if parent array's x-kubernetes-list-type is map");
        return;
    }
    let mut seen = Vec::new();
    for key in items(keys.value).iter().map(text) {
        let properties = item.get("properties");
        if seen.contains(&key) {
            keys.invalid(faults, "must not contain duplicate entries");
        }
        seen.push(key);
        let Some(value) = properties.value.get(key) else {
            keys.invalid(faults, "entries must all be names of item properties");
            continue;
        };
        let property = At { value, path: properties.path.key(key) };
        if matches!(property.get("type").text(), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            property.get("type").invalid(faults, detail);
        }
        let required = items(item.get("required").value).iter().any(|name| text(name) == key);
        if !required && !property.get("default").exists() {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            property.get("default").required(faults, detail);
        }
        if flag(&property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            property.get("nullable").forbidden(faults, detail);
        }
    }
}
