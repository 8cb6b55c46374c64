//! Where two answers to the same request part.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skiff_api::facts;
use skiff_meta::codec::{protobuf, yaml};

use super::normal::{normalise, outline};
use crate::Answer;

/// Something that is told differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// What kind of difference: equal ones have the same words.
    pub what: String,
    /// Our part.
    pub ours: String,
    /// Theirs.
    pub theirs: String,
}

impl Parting {
    fn new(what: String, ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        let short = |text: String| text.chars().take(6_000).collect();
        Self { what, ours: short(ours.into()), theirs: short(theirs.into()) }
    }
}

/// Compares two answers; nothing when they say the same.
pub(super) fn compare(ours: &Answer, theirs: &Answer) -> Vec<Parting> {
    let (mut a, mut b) = (tree(ours), tree(theirs));
    normalise(&mut a);
    normalise(&mut b);
    without_made_up(&mut a, &mut b);
    let message = |tree: &Value| tree["message"].as_str().unwrap_or_default().to_owned();
    if ours.code != theirs.code {
        let words = outline(&format!("{} | {}", message(&a), message(&b)));
        return vec![Parting::new(format!("code {} for {}: {words}", ours.code, theirs.code), shown(&a), shown(&b))];
    }
    // A watch that ends at once shows nothing to compare.
    if b["type"] == "ERROR" && a["type"] != "ERROR" {
        let what = format!("watch refused there: {}", outline(&message(&b["object"])));
        return vec![Parting::new(what, shown(&a), shown(&b))];
    }
    let mut partings = Vec::new();
    if a["kind"] == "Status" && a["message"] != b["message"] {
        // What comes after a difference that Go shows is told by the causes alone.
        let cut = String::from_utf8_lossy(&theirs.bytes).contains("\\n@@");
        let begins = cut && message(&a).starts_with(message(&b).trim_end_matches(']'));
        let same_parts = begins || sorted(&message(&a)) == sorted(&message(&b));
        let what =
            if same_parts { "order of messages".to_owned() } else { format!("message: {}", outline(&message(&b))) };
        partings.push(Parting::new(what, message(&a), message(&b)));
        if !same_parts {
            return partings;
        }
        // Which fault is of which field is told by the causes.
        (a["message"], b["message"]) = (Value::Null, Value::Null);
    }
    apart(&a, &b, "", &mut partings);
    let warnings = |answer: &Answer| answer.warnings().into_iter().collect::<BTreeSet<_>>();
    if warnings(ours) != warnings(theirs) {
        let (a, b) = (ours.warnings().join("; "), theirs.warnings().join("; "));
        partings.push(Parting::new(format!("warnings: {}", outline(&format!("{a} | {b}"))), a, b));
    }
    let kind = |answer: &Answer| answer.headers.get("content-type").and_then(|v| v.to_str().ok()).map(str::to_owned);
    if kind(ours) != kind(theirs) {
        partings.push(Parting::new(
            "content type".to_owned(),
            format!("{:?}", kind(ours)),
            format!("{:?}", kind(theirs)),
        ));
    }
    partings
}

/// Two refusals of an object without a name quote the names that the servers made up.
fn without_made_up(a: &mut Value, b: &mut Value) {
    const SUFFIX: usize = 5;
    let name = |tree: &Value| tree["details"]["name"].as_str().map(str::to_owned);
    let (Some(ours), Some(theirs)) = (name(a), name(b)) else { return };
    let prefix = ours.len().saturating_sub(SUFFIX);
    if ours != theirs && ours.len() == theirs.len() && ours.get(..prefix) == theirs.get(..prefix) {
        for (tree, name) in [(a, ours), (b, theirs)] {
            *tree = serde_json::from_str(&tree.to_string().replace(&name, "<name>")).unwrap_or_default();
        }
    }
}

/// The answer as a tree: of protobuf what it says, of a watch its lines.
fn tree(answer: &Answer) -> Value {
    if answer.bytes.starts_with(b"k8s\0") {
        let decoded = protobuf::decode(&answer.bytes, None, facts::schema).map(|(_, tree)| tree);
        return decoded.unwrap_or_else(|error| error.to_string().into());
    }
    let kind = answer.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind == "application/yaml" {
        return yaml::decode(&answer.bytes).map(|decoded| decoded.value).unwrap_or_default();
    }
    let mut lines = serde_json::Deserializer::from_slice(&answer.bytes).into_iter().map_while(Result::ok);
    match (lines.next(), lines.next()) {
        (Some(first), Some(second)) => [first, second].into_iter().chain(lines).collect(),
        (first, _) => first.unwrap_or_else(|| String::from_utf8_lossy(&answer.bytes).into()),
    }
}

fn sorted(message: &str) -> Vec<String> {
    let mut parts: Vec<String> = message.split([',', '[', ']', ':', '\n']).map(|p| p.trim().to_owned()).collect();
    parts.sort();
    parts
}

fn shown(value: &Value) -> String {
    if value["kind"] == "Status" { value["message"].to_string() } else { value.to_string() }
}

/// The places where two trees differ, list positions left out of their paths.
fn apart(a: &Value, b: &Value, path: &str, out: &mut Vec<Parting>) {
    match (a, b) {
        _ if a == b => {}
        (Value::Object(x), Value::Object(y)) => {
            let keys: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            for key in keys {
                // Keys below `fieldsV1` name values: one difference each would be too many.
                let step = if key.contains(':') && !key.starts_with("f:") { &key[..2] } else { key };
                let path = format!("{path}/{step}");
                match (x.get(key), y.get(key)) {
                    (Some(a), Some(b)) => apart(a, b, &path, out),
                    (a, b) => {
                        let only = if a.is_some() { "ours" } else { "theirs" };
                        let text = |v: Option<&Value>| v.map(ToString::to_string).unwrap_or_default();
                        out.push(Parting::new(format!("body at {path} ({only} only)"), text(a), text(b)));
                    }
                }
            }
        }
        (Value::Array(x), Value::Array(y)) if path.ends_with("/managedFields") => {
            let (x, y) = (by_manager(x), by_manager(y));
            for manager in x.keys().chain(y.keys()).collect::<BTreeSet<_>>() {
                match (x.get(manager), y.get(manager)) {
                    (Some(a), Some(b)) => apart(a, b, &format!("{path}/*"), out),
                    (a, b) => {
                        let only = if a.is_some() { "ours" } else { "theirs" };
                        let text = |v: Option<&&Value>| v.map(ToString::to_string).unwrap_or_default();
                        out.push(Parting::new(format!("body at {path}/* ({only} only)"), text(a), text(b)));
                    }
                }
            }
            if x.len() == y.len() && out.is_empty() {
                out.push(Parting::new(
                    format!("order of {path}"),
                    Value::from_iter(x.into_values().cloned()).to_string(),
                    Value::from_iter(y.into_values().cloned()).to_string(),
                ));
            }
        }
        (Value::Array(x), Value::Array(y)) if path.ends_with("/causes") && in_order(x) == in_order(y) => {
            out.push(Parting::new("order of messages".to_owned(), a.to_string(), b.to_string()));
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).for_each(|(a, b)| apart(a, b, &format!("{path}/*"), out));
        }
        (Value::String(x), Value::String(y)) if path.ends_with("/causes/*/message") && sorted(x) == sorted(y) => {
            out.push(Parting::new("order of messages".to_owned(), x, y));
        }
        _ => out.push(Parting::new(format!("body at {path}"), a.to_string(), b.to_string())),
    }
}

fn in_order(items: &[Value]) -> Vec<String> {
    let mut texts: Vec<String> = items.iter().map(Value::to_string).collect();
    texts.sort();
    texts
}

fn by_manager(fields: &[Value]) -> BTreeMap<String, &Value> {
    let key = |entry: &Value| format!("{} {} {}", entry["manager"], entry["operation"], entry["subresource"]);
    fields.iter().map(|entry| (key(entry), entry)).collect()
}
