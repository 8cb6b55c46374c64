//! Whether the schema of a custom kind is structural, in the words of `apiserver/schema/validation.go` and
//! `apis/apiextensions/validation` upstream. Rules in CEL are looked at last, if
//! nothing else is wrong.

mod merging;

use regex::Regex;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};

use super::node::Node;
use super::{validations, values};
use crate::faults::At;
use crate::tree::{is_empty, members};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const META: &[&str] = &["apiVersion", "kind", "metadata"];
/// What a schema says that upstream does not take.
const UNSUPPORTED: &[&str] = &["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];
/// What may stand at the root when the status is validated for itself.
const AT_ROOT: &[&str] = &[
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
/// What only the structure itself may say, not the schemas below `allOf` and its like.
const STRUCTURE: &[(&str, &str)] = &[
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Why defaults may not stand here, or where we are within a resource's own metadata.
#[derive(Clone, Copy, Default)]
struct Within<'a> {
    metadata: bool,
    no_default: Option<&'a str>,
}

/// All faults of the schema of a version.
pub(crate) fn check(schema: &At<'_>, has_status: bool, faults: &mut FieldErrors) {
    if has_status {
        root_with_status(schema, faults);
    }
    if flag(schema, "nullable") {
        schema.get("nullable").forbidden(faults, "nullable cannot be true at the root");
    }
    let before = faults.len();
    let mut structure = Vec::new();
    // Upstream cannot tell the structure of what has members that it does not know.
    let known = !has_unsupported(schema.value);
    if known {
        structural(schema, Level::Root, &mut structure);
    }
    structure.sort_by_key(ToString::to_string);
    if known && structure.is_empty() {
        defaults(schema, false, faults);
    }
    faults.extend(structure);
    openapi(schema, true, Within::default(), faults);
    if !known && faults.len() == before {
        // All others are told where they stand.
        schema.invalid(faults, "OpenAPIV3Schema 'schema' is not supported");
    }
    if faults.len() == before {
        validations::check::expressions(schema, faults);
    }
}

fn flag(at: &At<'_>, name: &str) -> bool {
    at.value.get(name) == Some(&Value::Bool(true))
}

/// The members of the object at `name`, each with its path in brackets.
fn entries<'a>(at: &At<'a>, name: &str) -> Vec<(&'a str, At<'a>)> {
    let below = at.get(name);
    members(below.value).map(|(key, value)| (key.as_str(), At { value, path: below.path.key(key) })).collect()
}

/// Whether a schema, or one it is made of, says what upstream does not take at all.
fn has_unsupported(schema: &Value) -> bool {
    let below = |name: &str| schema.get(name).into_iter();
    let lists = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(below).filter_map(Value::as_array).flatten();
    let members = below("properties").filter_map(Value::as_object).flat_map(|all| all.values());
    let single = ["not", "items", "additionalProperties"].into_iter().flat_map(below);
    UNSUPPORTED.iter().chain(&["$schema"]).any(|name| schema.get(name).is_some_and(|value| !is_empty(value)))
        || schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false))
        || lists.chain(members).chain(single).any(has_unsupported)
}

fn root_with_status(schema: &At<'_>, faults: &mut FieldErrors) {
    let kind = schema.get("type");
    if !kind.is_empty() && kind.text() != "object" {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        kind.invalid(faults, detail);
        return;
    }
    if members(schema.value).any(|(name, value)| !value.is_null() && !AT_ROOT.contains(&name.as_str())) {
        let allowed = AT_ROOT.join(" ");
        let detail = format!(
            "only [{allowed}] fields are allowed at the root of the schema if the status subresource is enabled"
        );
        schema.invalid(faults, &detail);
    }
}

fn is_list(at: &At<'_>) -> bool {
    at.value.as_array().is_some_and(|items| !items.is_empty())
}

fn structural(schema: &At<'_>, level: Level, faults: &mut FieldErrors) {
    let (ty, additional) = (schema.get("type"), schema.get("additionalProperties"));
    let (embedded, preserve) =
        (flag(schema, "x-kubernetes-embedded-resource"), flag(schema, "x-kubernetes-preserve-unknown-fields"));
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    // What is neither a schema nor a list of some is none to Go.
    let items = schema.get("items");
    if items.value.is_object() || is_list(&items) {
        structural(&items, Level::Item, faults);
    } else if ty.text() == "array" {
        faults.push(FieldError::required(&items.path, "must be specified"));
    }
    for (_, property) in entries(schema, "properties") {
        structural(&property, Level::Field, faults);
    }
    if additional.exists() {
        if level == Level::Root {
            additional.forbidden(faults, "must not be used at the root");
        }
        if embedded {
            additional.forbidden(faults, "must not be used if x-kubernetes-embedded-resource is set");
        }
        if additional.value.is_object() {
            structural(&additional, Level::Field, faults);
        }
    }
    if int_or_string && preserve {
        let detail = "must be false if x-kubernetes-int-or-string is true";
        schema.get("x-kubernetes-preserve-unknown-fields").invalid(faults, detail);
    }
    if int_or_string && embedded {
        let detail = "must be false if x-kubernetes-int-or-string is true";
        schema.get("x-kubernetes-embedded-resource").invalid(faults, detail);
    }
    junctors(schema, schema, faults);
    match (ty.text(), level) {
        ("object", _) => {}
        (_, _) if embedded => must_be(&ty, "must be object if x-kubernetes-embedded-resource is true", faults),
        ("", _) if int_or_string || preserve => {}
        ("", Level::Root) => _ = ty.required(faults, "must not be empty at the root"),
        ("", Level::Item) => _ = ty.required(faults, "must not be empty for specified array items"),
        ("", Level::Field) => _ = ty.required(faults, "must not be empty for specified object fields"),
        (_, Level::Root) => ty.invalid(faults, "must be object at the root"),
        _ => {}
    }
    if level == Level::Root || embedded {
        own_metadata(schema, level, faults);
    }
    if embedded && !preserve && schema.get("properties").is_empty() {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        schema.get("properties").required(faults, detail);
    }
}

fn must_be(at: &At<'_>, detail: &str, faults: &mut FieldErrors) {
    if at.is_empty() {
        at.required(faults, detail);
    } else {
        at.invalid(faults, detail);
    }
}

/// A resource's kind is text, and of its metadata only the names may be restricted.
fn own_metadata(schema: &At<'_>, level: Level, faults: &mut FieldErrors) {
    for (name, property) in entries(schema, "properties") {
        let ty = property.get("type");
        match name {
            "kind" | "apiVersion" if ty.text() != "string" => ty.invalid(faults, "must be string"),
            "metadata" if ty.text() != "object" => ty.invalid(faults, "must be object"),
            _ => {}
        }
        let names_only = members(property.value).all(|(key, value)| match key.as_str() {
            "type" | "description" | "default" => true,
            "properties" => members(value).all(|(name, _)| name == "name" || name == "generateName"),
            _ => value.is_null(),
        });
        if name == "metadata" && level == Level::Root && !names_only {
            let detail =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            property.forbidden(faults, detail);
        }
    }
}

/// The schemas below `allOf` and its like: they restrict what the structure has, and add nothing.
fn junctors(schema: &At<'_>, structure: &At<'_>, faults: &mut FieldErrors) {
    let pattern = schema.get("pattern");
    if let Err(error) = Regex::new(pattern.text()) {
        pattern.invalid(faults, &format!("must be a valid regular expression, but isn't: {error}"));
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        let list = schema.get(name);
        if name == "anyOf" && is_int_or_string(list.value) {
            continue;
        }
        for (i, nested) in list.items().enumerate() {
            let first_any_of = name == "allOf" && i == 0 && is_int_or_string(nested.get("anyOf").value);
            if !first_any_of {
                restriction(&nested, structure, faults);
            }
        }
    }
    if schema.get("not").exists() {
        restriction(&schema.get("not"), structure, faults);
    }
}

fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

fn restriction(nested: &At<'_>, structure: &At<'_>, faults: &mut FieldErrors) {
    for (name, detail) in STRUCTURE {
        let said = nested.get(name);
        if said.exists() && said.value != &Value::Bool(false) && !said.is_empty() {
            said.forbidden(faults, detail);
        }
    }
    junctors(nested, structure, faults);
    let complete = |below: &At<'_>, in_structure: At<'_>, faults: &mut FieldErrors| {
        if in_structure.exists() {
            restriction(below, &in_structure, faults);
        } else {
            let detail = format!("because it is defined in {}", below.path);
            faults.push(FieldError::required(&in_structure.path, &detail));
        }
    };
    if nested.get("items").exists() {
        complete(&nested.get("items"), structure.get("items"), faults);
    }
    for (name, property) in entries(nested, "properties") {
        if name == "metadata" {
            property.forbidden(faults, "must not be specified in a nested context");
        }
        let known = structure.get("properties");
        let path = known.path.key(name);
        let value = known.value.get(name).unwrap_or(&Value::Null);
        complete(&property, At { value, path }, faults);
    }
}

/// Every default must be valid itself.
fn defaults(schema: &At<'_>, in_metadata: bool, faults: &mut FieldErrors) {
    let default = schema.get("default");
    if default.exists() && !in_metadata {
        let node = Node::read(Some(schema.value));
        let mut pruned = default.value.clone();
        prune(&mut pruned, &node);
        if pruned != *default.value {
            default.invalid(faults, "must not have unknown fields");
        }
        faults.extend(values::validate(default.value, None, &node, &default.path));
    }
    if schema.get("items").value.is_object() {
        defaults(&schema.get("items"), in_metadata, faults);
    }
    for (_, property) in entries(schema, "properties") {
        defaults(&property, in_metadata, faults);
    }
}

fn prune(value: &mut Value, node: &Node) {
    match value {
        Value::Object(all) => all.retain(|name, member| {
            let known = node.member(name);
            if let Some(node) = known {
                prune(member, node);
            }
            let metadata = node.embedded && META.contains(&name.as_str());
            let allowed = matches!(node.additional_properties, super::node::Additional::Allowed);
            known.is_some() || node.preserve || metadata || allowed
        }),
        Value::Array(all) => {
            if let Some(node) = &node.items {
                all.iter_mut().for_each(|item| prune(item, node));
            }
        }
        _ => {}
    }
}

fn openapi(schema: &At<'_>, is_root: bool, within: Within<'_>, faults: &mut FieldErrors) {
    own_members(schema, within, faults);
    let additional = schema.get("additionalProperties");
    if additional.exists() {
        let both = additional.value != &Value::Bool(true) && !schema.get("properties").is_empty();
        if both {
            additional.forbidden(faults, "additionalProperties and properties are mutual exclusive");
        }
        let reason = "inside additionalProperties applying to object metadata";
        let no_default = within.metadata.then_some(reason).or(within.no_default);
        if additional.value.is_object() {
            openapi(&additional, false, Within { no_default, ..within }, faults);
        }
    }
    let resource = is_root || flag(schema, "x-kubernetes-embedded-resource");
    for (name, property) in entries(schema, "properties") {
        let own_meta = resource && META.contains(&name);
        let reason = format!("in top-level {name}");
        let no_default = if own_meta && is_root { Some(&*reason) } else { within.no_default };
        openapi(&property, false, Within { metadata: within.metadata || own_meta, no_default }, faults);
    }
    for name in ["patternProperties", "definitions", "dependencies"] {
        let all = entries(schema, name);
        let schemas = all.iter().filter(|(_, nested)| nested.value.is_object());
        schemas.for_each(|(_, nested)| openapi(nested, false, within, faults));
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        schema.get(name).items().for_each(|nested| openapi(&nested, false, within, faults));
    }
    for name in ["not", "items", "additionalItems"] {
        if schema.get(name).value.is_object() {
            openapi(&schema.get(name), false, within, faults);
        }
    }
    merging::check(schema, faults);
    validations::check::form(schema, faults);
}

/// What one schema says that it may not.
fn own_members(schema: &At<'_>, within: Within<'_>, faults: &mut FieldErrors) {
    let ty = schema.get("type");
    if ty.text() == "null" {
        ty.forbidden(faults, "type cannot be set to null, use nullable as an alternative");
    } else if !ty.is_empty() {
        ty.one_of(faults, TYPES);
    }
    if let Some(reason) = within.no_default
        && schema.get("default").exists()
    {
        schema.get("default").forbidden(faults, &format!("must not be set {reason}"));
    }
    for name in UNSUPPORTED {
        if !schema.get(name).is_empty() {
            schema.get(name).forbidden(faults, &format!("{name} is not supported"));
        }
    }
    if is_list(&schema.get("items")) {
        schema.get("items").forbidden(faults, "items must be a schema object and not an array");
    }
    if flag(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        schema.get("uniqueItems").forbidden(faults, detail);
    }
    let preserve = schema.get("x-kubernetes-preserve-unknown-fields");
    if preserve.value == &Value::Bool(false) {
        preserve.invalid(faults, "must be true or undefined");
    }
    if within.metadata && flag(schema, "x-kubernetes-embedded-resource") {
        let embedded = schema.get("x-kubernetes-embedded-resource");
        embedded.forbidden(faults, "must not be used inside of resource meta");
    }
}

#[cfg(test)]
mod tests;
