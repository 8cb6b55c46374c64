//! Words that the cells of many kinds' tables share.

use serde_json::Value;
use skiff_meta::LabelSelector;

use crate::view::View;

pub(crate) const NONE: &str = "<none>";

/// `text`, or `<none>`.
pub(crate) fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

/// `text`, or `<unset>`.
pub(crate) fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

/// Names and images of the containers in a spec.
pub(crate) fn containers(spec: &Value) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let texts: Vec<&str> = spec.items("containers").iter().map(|c| c.text(field)).collect();
        texts.join(",").into()
    })
}

/// `a=b,c=d` of the labels at member `name`.
pub(crate) fn labels(holder: &Value, name: &str) -> Value {
    let pairs: Vec<String> =
        holder.entries(name).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or_none(&pairs.join(",")).into()
}

/// A label selector in its text form.
pub(crate) fn selector(selector: &Value) -> Value {
    match LabelSelector::from_json(selector) {
        Ok(selector) => or_none(&selector.to_string()).into(),
        Err(_) => "<error>".into(),
    }
}

/// The number at member `name`, 0 where there is none.
pub(crate) fn count(holder: &Value, name: &str) -> Value {
    holder.int(name).unwrap_or_default().into()
}

/// At most `max` of `all`, and how many more there are.
pub(crate) fn some_of(all: &[String], max: usize) -> String {
    let shown = all.iter().take(max).map(String::as_str).collect::<Vec<_>>().join(",");
    if all.len() > max { format!("{shown} + {} more...", all.len() - max) } else { shown }
}

/// `True`, `False` or `<unset>`.
pub(crate) fn yes_no(value: &Value) -> Value {
    match value.as_bool() {
        Some(true) => "True".into(),
        Some(false) => "False".into(),
        None => "<unset>".into(),
    }
}

/// The status of a condition, by its type.
pub(crate) fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    object.get_or_null("status").find("conditions", "type", kind)
}

/// Whether a condition is true.
pub(crate) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| c.text("status") == "True")
}
