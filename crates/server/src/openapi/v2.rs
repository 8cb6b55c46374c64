//! The older form of the same documents, for clients that know no other: one document for everything.

use serde_json::{Map, Value, json};

/// What the older form cannot say about a schema.
const UNKNOWN: &[&str] = &["oneOf", "anyOf", "not", "nullable"];

/// Joins documents of the newer form into one of the older.
pub(super) fn join(documents: impl Iterator<Item = Value>) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for mut document in documents {
        for (path, item) in take(&mut document, "paths") {
            paths.insert(path, path_item(item));
        }
        for (name, mut schema) in take(&mut document["components"], "schemas") {
            let extension = "x-kubernetes-group-version-kind";
            schema_in_place(&mut schema);
            // kubectl would take what is said of one member for a denial of all others.
            if schema["x-kubernetes-preserve-unknown-fields"] == true {
                schema = json!({"type": "object", extension: schema[extension].take()});
            }
            // A kind of everywhere says in each document that it is one of there.
            if let Some(Value::Array(here)) = schema.get_mut(extension).map(Value::take) {
                let before = definitions.get(&name).and_then(|d: &Value| d[extension].as_array());
                let mut all = before.cloned().unwrap_or_default();
                all.extend(here.into_iter().filter(|gvk| !before.is_some_and(|b| b.contains(gvk))));
                schema[extension] = all.into();
            }
            definitions.insert(name, schema);
        }
    }
    let token = json!({"type": "apiKey", "name": "authorization", "in": "header"});
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": token},
        "security": [{"BearerToken": []}],
    })
}

fn take(value: &mut Value, key: &str) -> Map<String, Value> {
    match value.get_mut(key).map(Value::take) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn path_item(mut item: Value) -> Value {
    for (key, part) in item.as_object_mut().into_iter().flatten() {
        if key == "parameters" {
            parameters(part);
        } else {
            operation(part);
        }
    }
    item
}

/// A parameter's type stands beside its name instead of below it.
fn parameters(list: &mut Value) {
    for parameter in list.as_array_mut().into_iter().flatten() {
        let schema = take(parameter, "schema");
        if let Some(parameter) = parameter.as_object_mut() {
            parameter.remove("schema");
            parameter.extend(schema);
        }
    }
}

/// Media types are listed once, and a body is a parameter.
fn operation(operation: &mut Value) {
    parameters(&mut operation["parameters"]);
    let mut produces = Vec::new();
    for response in operation["responses"].as_object_mut().into_iter().flatten().map(|(_, r)| r) {
        let content = take(response, "content");
        if let Some(response) = response.as_object_mut() {
            response.remove("content");
        }
        produces = if content.is_empty() { produces } else { content.keys().cloned().collect() };
        if let Some(media) = content.into_iter().next().map(|(_, media)| media) {
            response["schema"] = media["schema"].clone();
            schema_in_place(&mut response["schema"]);
        }
    }
    let body = operation.as_object_mut().and_then(|o| o.remove("requestBody"));
    let mut consumes = vec!["*/*".to_owned()];
    if let Some(mut body) = body {
        let content = take(&mut body, "content");
        consumes = content.keys().cloned().collect();
        if let Some((_, mut media)) = content.into_iter().next() {
            schema_in_place(&mut media["schema"]);
            let required = body["required"] == true;
            let parameter = json!({"name": "body", "in": "body", "required": required, "schema": media["schema"]});
            match &mut operation["parameters"] {
                Value::Array(list) => list.push(parameter),
                other => *other = json!([parameter]),
            }
        }
    }
    operation["consumes"] = consumes.into();
    operation["produces"] = produces.into();
    operation["schemes"] = json!(["https"]);
    if let Some(operation) = operation.as_object_mut() {
        operation.retain(|_, part| !part.is_null());
    }
}

/// References point elsewhere and stand alone; extensions stay.
fn schema_in_place(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(all)) = map.remove("allOf")
                && let Some(Value::Object(first)) = all.into_iter().next()
            {
                map.remove("default");
                map.extend(first);
            }
            if map.get("format").is_some_and(|f| f == "int-or-string") || map.contains_key("oneOf") {
                map.entry("type").or_insert_with(|| "string".into());
            }
            map.retain(|key, _| !UNKNOWN.contains(&&**key));
            for (key, part) in map.iter_mut() {
                match part {
                    Value::String(target) if key == "$ref" => {
                        *target = target.replace("#/components/schemas/", "#/definitions/");
                    }
                    _ if key == "properties" => {
                        part.as_object_mut().into_iter().flatten().for_each(|(_, property)| schema_in_place(property));
                    }
                    _ if key == "items" || key == "additionalProperties" => schema_in_place(part),
                    _ => {}
                }
            }
        }
        Value::Null => *schema = json!({}),
        _ => {}
    }
}
