//! What two servers may tell differently: identities, times, versions, addresses they gave out.

use serde_json::{Value, json};

/// Replaces what may differ by its name.
pub(super) fn normalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // Descriptions of a table's columns are prose, and everybody's own.
            for column in map.get_mut("columnDefinitions").and_then(Value::as_array_mut).into_iter().flatten() {
                column["description"] = json!("");
            }
            for (key, value) in map {
                let hidden = match key.as_str() {
                    "uid"
                    | "resourceVersion"
                    | "creationTimestamp"
                    | "deletionTimestamp"
                    | "time"
                    | "token"
                    | "expirationTimestamp" => value.is_string(),
                    "nodePort" | "healthCheckNodePort" => value.as_i64().is_some_and(|p| (30_000..32_768).contains(&p)),
                    // Addresses that were given out, if any were.
                    "clusterIP" => value != "None",
                    _ => false,
                };
                if key == "clusterIPs" {
                    normalise_all(value);
                } else if hidden && value != "" {
                    *value = json!(format!("<{key}>"));
                } else {
                    normalise(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::String(text) => *text = words(&without_tree(text)),
        _ => {}
    }
}

fn normalise_all(addresses: &mut Value) {
    let given = addresses.as_array_mut().into_iter().flatten().filter(|a| **a != "None");
    given.for_each(|address| *address = json!("<clusterIP>"));
}

/// A refused patch quotes the whole object, in the order of Go's structs there and of names here.
fn without_tree(text: &str) -> String {
    let quoted = text.split_once("patch: Invalid value: \"{").and_then(|(before, rest)| {
        let (_, after) = rest.rsplit_once("}\": ").or_else(|| rest.rsplit_once("}\\n\": "))?;
        Some(format!("{before}patch: Invalid value: <object>: {after}"))
    });
    quoted.unwrap_or_else(|| text.to_owned())
}

/// Identities, versions and generated names inside of texts.
fn words(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.' | '+');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        out.push_str(hidden(word).unwrap_or(word));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn hidden(word: &str) -> Option<&'static str> {
    let dashes = word.bytes().filter(|b| *b == b'-').count();
    let hex = word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if word.len() == 36 && dashes == 4 && hex {
        return Some("<uid>");
    }
    word.starts_with("kube-api-access-").then_some("<volume>")
}

/// A text with quoted parts and numbers left out, so that equal complaints about different values are one.
pub(super) fn outline(text: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                out.push(c);
            }
            _ if quoted => {}
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            _ => out.push(c),
        }
    }
    out.chars().take(160).collect()
}
