//! What kinds that make pods from a template share.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;
use skiff_meta::{LabelSelector, Quantity};

use crate::at::{At, is_empty_selector};
use crate::podspec;
use crate::view::{Change, View};

/// Fills in the template at `spec.template`.
pub(crate) fn default_template(object: &mut Value) {
    if let Some(spec) = object.existing("spec").and_then(|s| s.existing("template")).and_then(|t| t.existing("spec")) {
        podspec::default_spec(spec);
    }
}

/// An owner without labels takes those of its pods, also where a write took its own away (upstream does it each time it
/// reads one).
pub(crate) fn label_as_template(object: &mut Value) {
    let labels = object.at("spec.template.metadata.labels").clone();
    if labels.is_object() && object.at("metadata").count("labels") == 0 {
        object.child("metadata").put("labels", labels);
    }
}

/// Faults of a selector that must be there and select something in particular; `kind` as upstream's message has it.
pub(crate) fn selector(spec: &At<'_>, kind: &str, out: &mut FieldErrors) {
    let selector = spec.get("selector");
    if !selector.is_set() {
        return spec.missing("selector", "", out);
    }
    selector.label_selector(out);
    if is_empty_selector(selector.value) {
        selector.wrong(&format!("empty selector is invalid for {kind}"), out);
    }
}

/// Faults of a template whose pods run on and on, and are found by `spec.selector`.
pub(crate) fn template(spec: &At<'_>, kind: &str, out: &mut FieldErrors) {
    match LabelSelector::from_json(spec.value.get_or_null("selector")) {
        Err(_) => spec.invalid("selector", "invalid label selector", out),
        Ok(selector) => {
            let template = spec.get("template");
            matches_template(&selector, &template, out);
            podspec::validate_template(&template, out);
            restarts_always(&template, kind, out);
        }
    }
}

/// The template's labels must be what the selector selects.
pub(crate) fn matches_template(selector: &LabelSelector, template: &At<'_>, out: &mut FieldErrors) {
    let labels = template.value.at("metadata.labels");
    let matches = selector.matches_with(|key| labels.get(key).and_then(Value::as_str));
    if !matches && !selector.is_everything() {
        let labels = labels.clone();
        let path = template.path("metadata").child("labels");
        out.push(FieldError::invalid(&path, labels, "`selector` does not match template `labels`"));
    }
}

/// The template's pods must be of the kind that runs on.
pub(crate) fn restarts_always(template: &At<'_>, kind: &str, out: &mut FieldErrors) {
    let pod = template.get("spec");
    pod.optional_one_of("restartPolicy", &["Always"], out);
    if pod.has("activeDeadlineSeconds") {
        pod.forbidden("activeDeadlineSeconds", &format!("activeDeadlineSeconds in {kind} is not Supported"), out);
    }
}

/// A number or a percentage must stand at `name`, where there is something.
pub(crate) fn number_or_percent(at: &At<'_>, name: &str, out: &mut FieldErrors) {
    match at.value.get_or_null(name) {
        Value::String(text) => at.faults(name, &names::percent(text), out),
        _ => at.not_negative(name, out),
    }
}

/// The number, or the number before the `%`.
pub(crate) fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) if names::percent(text).is_empty() => {
            text.trim_end_matches('%').parse().unwrap_or_default()
        }
        Value::String(text) => text.parse().unwrap_or_default(),
        other => other.as_i64().unwrap_or_default(),
    }
}

/// A percentage at `name` must not exceed 100%.
pub(crate) fn at_most_all(at: &At<'_>, name: &str, out: &mut FieldErrors) {
    let value = at.value.get_or_null(name);
    if value.as_str().is_some_and(|text| names::percent(text).is_empty()) && amount(value) > 100 {
        at.invalid(name, "must not be greater than 100%", out);
    }
}

/// Counts in a status: none negative, none of `counts` above all, and those available ready, which is called `ready`.
pub(crate) fn replica_status(status: &At<'_>, counts: &[&str], ready: &str, out: &mut FieldErrors) {
    for name in counts.iter().chain(&["observedGeneration", "collisionCount", "terminatingReplicas"]) {
        status.not_negative(name, out);
    }
    let number = |name: &str| status.int(name).unwrap_or_default();
    for name in counts.iter().filter(|name| !matches!(**name, "replicas" | "unavailableReplicas")) {
        if number(name) > number("replicas") {
            status.invalid(name, "cannot be greater than status.replicas", out);
        }
    }
    if number("availableReplicas") > number("readyReplicas") {
        status.invalid("availableReplicas", &format!("cannot be greater than {ready}"), out);
    }
}

/// The count of collisions only grows.
pub(crate) fn collisions_grow(status: &At<'_>, old: &Value, out: &mut FieldErrors) {
    let before = old.at("status.collisionCount").as_i64();
    let now = status.int("collisionCount").unwrap_or_default();
    if before.is_some_and(|before| now < before) {
        out.push(FieldError::invalid(&status.path("collisionCount"), now, "cannot be decremented"));
    }
}

/// Whether two amounts, as JSON, are the same.
pub(crate) fn same_quantity(a: &Value, b: &Value) -> bool {
    a == b || matches!((Quantity::from_json(a), Quantity::from_json(b)), (Ok(a), Ok(b)) if a == b)
}
