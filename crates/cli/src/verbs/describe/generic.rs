//! Any object, field by field, with names made readable: `containerPort` becomes `Container Port`.

use serde_json::Value;

use super::Page;

/// The whole object.
pub(super) fn object(page: &mut Page, object: &Value) {
    head(page, object);
    page.known(0, "API Version", &object["apiVersion"]);
    page.known(0, "Kind", &object["kind"]);
    for (name, value) in object.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            member(page, 0, name, value);
        }
    }
}

/// What every view begins with.
pub(super) fn head(page: &mut Page, object: &Value) {
    let metadata = &object["metadata"];
    page.known(0, "Name", &metadata["name"]);
    page.known(0, "Namespace", &metadata["namespace"]);
    page.map(0, "Labels", &metadata["labels"]);
    let mut annotations = metadata["annotations"].clone();
    if let Some(map) = annotations.as_object_mut() {
        map.remove(crate::apply::LAST_APPLIED);
    }
    page.map(0, "Annotations", &annotations);
}

/// One field and what is below it.
pub(super) fn member(page: &mut Page, level: usize, name: &str, value: &Value) {
    let title = title(name);
    match value {
        Value::Object(map) if map.is_empty() => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Object(map) => {
            page.heading(level, &title);
            map.iter().for_each(|(name, value)| member(page, level + 1, name, value));
        }
        Value::Array(items) => {
            page.heading(level, &title);
            for item in items {
                match item {
                    Value::Object(map) => map.iter().for_each(|(name, value)| member(page, level + 1, name, value)),
                    other => page.text(level + 1, scalar(other).unwrap_or_default()),
                }
            }
        }
        other => page.known(level, &title, other),
    }
}

/// The text of a leaf.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(on.to_string()),
        _ => None,
    }
}

/// `podCIDR` -> `Pod CIDR`; names with dots or slashes stay.
fn title(name: &str) -> String {
    if name.contains(['.', '/', '-']) {
        return name.to_owned();
    }
    let mut out = String::new();
    let mut before_upper = true;
    for (i, c) in name.chars().enumerate() {
        if i == 0 {
            out.extend(c.to_uppercase());
            before_upper = c.is_uppercase();
        } else {
            if c.is_uppercase() && !before_upper {
                out.push(' ');
            }
            out.push(c);
            before_upper = c.is_uppercase();
        }
    }
    out
}
