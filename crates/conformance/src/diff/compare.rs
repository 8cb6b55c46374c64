//! Where two answers to the same request part.

use std::collections::BTreeSet;

use serde_json::Value;

use super::normal::{normalise, outline};
use crate::Answer;

/// The first thing that is told differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// What kind of difference: equal ones have the same words.
    pub what: String,
    /// Our part.
    pub ours: String,
    /// Theirs.
    pub theirs: String,
}

/// Compares two answers; `None` when they say the same.
pub(super) fn compare(ours: &Answer, theirs: &Answer) -> Option<Parting> {
    let (mut a, mut b) = (ours.tree(), theirs.tree());
    normalise(&mut a);
    normalise(&mut b);
    let message = |tree: &Value| tree["message"].as_str().unwrap_or_default().to_owned();
    let part = |what: String, ours: String, theirs: String| Some(Parting { what, ours, theirs });
    if ours.code != theirs.code {
        let what = format!(
            "code {} for {}: {}",
            ours.code,
            theirs.code,
            outline(&format!("{} | {}", message(&a), message(&b)))
        );
        return part(what, shown(&a), shown(&b));
    }
    if a["kind"] == "Status" && a["message"] != b["message"] {
        if sorted(&message(&a)) == sorted(&message(&b)) {
            return part("order of messages".to_owned(), message(&a), message(&b));
        }
        return part(format!("message: {}", outline(&message(&b))), message(&a), message(&b));
    }
    if let Some((path, ours, theirs)) = first(&a, &b, String::new()) {
        return part(format!("body at {path}"), ours, theirs);
    }
    let warnings = |answer: &Answer| answer.warnings().into_iter().collect::<BTreeSet<_>>();
    if warnings(ours) != warnings(theirs) {
        let (a, b) = (ours.warnings().join("; "), theirs.warnings().join("; "));
        return part(format!("warnings: {}", outline(&b)), a, b);
    }
    None
}

fn sorted(message: &str) -> Vec<String> {
    let mut parts: Vec<String> = message.split([',', '[', ']']).map(|p| p.trim().to_owned()).collect();
    parts.sort();
    parts
}

fn shown(value: &Value) -> String {
    let text = if value["kind"] == "Status" { value["message"].to_string() } else { value.to_string() };
    text.chars().take(600).collect()
}

/// The first place where two trees differ, list positions left out of its path.
fn first(a: &Value, b: &Value, path: String) -> Option<(String, String, String)> {
    match (a, b) {
        _ if a == b => None,
        (Value::Object(x), Value::Object(y)) => {
            let keys: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            keys.into_iter().find_map(|key| match (x.get(key), y.get(key)) {
                (Some(a), Some(b)) => {
                    // Keys below `fieldsV1` name values: one difference each would be too many.
                    let step = if key.contains(':') { &key[..1] } else { key };
                    first(a, b, format!("{path}/{step}"))
                }
                (a, b) => {
                    let only = if a.is_some() { "ours" } else { "theirs" };
                    let text = |v: Option<&Value>| v.map(ToString::to_string).unwrap_or_default();
                    Some((format!("{path}/{key} ({only} only)"), text(a), text(b)))
                }
            })
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).find_map(|(a, b)| first(a, b, format!("{path}/*")))
        }
        _ => Some((path, a.to_string(), b.to_string())),
    }
}
