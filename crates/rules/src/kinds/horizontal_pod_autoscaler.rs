//! Who scales a workload by what its pods need.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::{Quantity, names};

use crate::age;
use crate::at::At;
use crate::cells::NONE;
use crate::podspec::resource_name;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};

/// Types of metrics, and the fields that tell of them.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
/// Longest periods, in seconds.
const LONGEST_PERIOD: i64 = 1800;
const LONGEST_WINDOW: i64 = 3600;

pub(crate) const HORIZONTAL_POD_AUTOSCALER: Row = Row {
    status: Some(|| json!({"currentMetrics": null, "desiredReplicas": 0})),
    default,
    validate,
    validate_create: |scaler, out| scaled_version(&At::member(scaler, "spec").get("scaleTargetRef"), out),
    validate_update: |new, old, out| {
        let (target, before) = (At::member(new, "spec").get("scaleTargetRef"), old.at("spec.scaleTargetRef"));
        // What was taken once may stay.
        if ["apiVersion", "kind"].iter().any(|name| target.text(name) != before.text(name)) {
            scaled_version(&target, out);
        }
    },
    validate_part: |new, _, _, out| {
        let status = At::member(new, "status");
        status.not_negative("currentReplicas", out);
        status.not_negative("desiredReplicas", out);
    },
    columns: "Name,Reference,Targets,MinPods,MaxPods,Replicas,Age",
    cells,
    ..Row::new("autoscaling", "HorizontalPodAutoscaler")
};

fn default(scaler: &mut Value) {
    let spec = scaler.child("spec");
    spec.default_to("minReplicas", 1);
    if spec.count("metrics") == 0 {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec.put("metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    let Some(behavior) = spec.existing("behavior") else { return };
    let policy = |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 15});
    let up = behavior.child("scaleUp");
    up.default_to("stabilizationWindowSeconds", 0);
    up.default_to("policies", json!([policy("Pods", 4), policy("Percent", 100)]));
    behavior.child("scaleDown").default_to("policies", json!([policy("Percent", 100)]));
    for way in ["scaleUp", "scaleDown"] {
        behavior.child(way).default_to("selectPolicy", "Max");
    }
}

fn validate(scaler: &Value, out: &mut FieldErrors) {
    let spec = At::member(scaler, "spec");
    let (least, most) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or_default());
    if least.is_some_and(|least| least < 1) {
        spec.invalid("minReplicas", "must be greater than or equal to 1", out);
    }
    match most {
        0 => spec.missing("maxReplicas", "must be set and greater than 0", out),
        ..0 => spec.invalid("maxReplicas", "must be greater than or equal to 1", out),
        _ => {}
    }
    if least.is_some_and(|least| most < least) {
        let path = spec.path("maxReplicas");
        out.push(FieldError::invalid(&path, most, "must be greater than or equal to `minReplicas`"));
    }
    reference(&spec.get("scaleTargetRef"), out);
    spec.items("metrics").for_each(|at| metric(&at, out));
    let wakes = |metric: At<'_>| ["External", "Object"].contains(&metric.text("type"));
    if least == Some(0) && !spec.items("metrics").any(wakes) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        spec.forbidden("metrics", why, out);
    }
    for way in ["scaleUp", "scaleDown"] {
        let rules = spec.get("behavior").get(way);
        if rules.is_set() {
            scaling_rules(&rules, out);
        }
    }
}

fn reference(at: &At<'_>, out: &mut FieldErrors) {
    at.require_segment("kind", out);
    at.require_segment("name", out);
}

/// Only replication controllers scale and belong to no group.
fn scaled_version(at: &At<'_>, out: &mut FieldErrors) {
    let group = version(at, out);
    if group == Some("") && at.text("kind") != "ReplicationController" {
        let path = at.path("apiVersion");
        out.push(FieldError::invalid(&path, at.text("apiVersion"), "apiVersion must specify API group"));
    }
}

/// The group of an `apiVersion`, which must be one.
fn version<'v>(at: &At<'v>, out: &mut FieldErrors) -> Option<&'v str> {
    let version = at.text("apiVersion");
    if version.matches('/').count() > 1 {
        at.invalid("apiVersion", &format!("unexpected GroupVersion string: {version}"), out);
        return None;
    }
    Some(version.split_once('/').map_or("", |(group, _)| group))
}

fn scaling_rules(rules: &At<'_>, out: &mut FieldErrors) {
    match rules.int("stabilizationWindowSeconds") {
        Some(..0) => rules.invalid("stabilizationWindowSeconds", "must be greater than or equal to zero", out),
        Some(window) if window > LONGEST_WINDOW => {
            let why = format!("must be less than or equal to {LONGEST_WINDOW}");
            rules.invalid("stabilizationWindowSeconds", &why, out);
        }
        _ => {}
    }
    rules.optional_one_of("selectPolicy", &["Disabled", "Max", "Min"], out);
    if rules.value.count("policies") == 0 {
        rules.missing("policies", "must specify at least one Policy", out);
    }
    for policy in rules.items("policies") {
        if !matches!(policy.text("type"), "Percent" | "Pods") {
            let path = policy.path("type");
            out.push(FieldError::not_supported(&path, policy.text("type"), &["Percent", "Pods"]));
        }
        for name in ["value", "periodSeconds"] {
            if policy.int(name).unwrap_or_default() <= 0 {
                policy.invalid(name, "must be greater than zero", out);
            }
        }
        if policy.int("periodSeconds").is_some_and(|seconds| seconds > LONGEST_PERIOD) {
            policy.invalid("periodSeconds", &format!("must be less than or equal to {LONGEST_PERIOD}"), out);
        }
    }
    if Quantity::from_json(rules.value.get_or_null("tolerance")).is_ok_and(Quantity::is_negative) {
        rules.invalid("tolerance", "must be greater than or equal to 0", out);
    }
}

fn metric(at: &At<'_>, out: &mut FieldErrors) {
    let kind = at.text("type");
    if kind.is_empty() {
        at.missing("type", "must specify a metric source type", out);
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    let given: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|field| at.has(field)).collect();
    if let Some(first) = given.first() {
        source(&at.get(first), first, out);
    }
    match expected {
        Some(field) if !at.has(field) => {
            at.missing(field, "must populate information for the given metric source", out);
        }
        Some(_) => {}
        None => {
            let names: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
            out.push(FieldError::not_supported(&at.path("type"), kind, &names));
        }
    }
    if given.len() != 1 {
        for field in given.into_iter().filter(|field| Some(*field) != expected) {
            at.forbidden(field, "must populate the given metric source only", out);
        }
    }
}

fn source(at: &At<'_>, kind: &str, out: &mut FieldErrors) {
    match kind {
        "resource" | "containerResource" => {
            if at.text("name").is_empty() {
                at.missing("name", "must specify a resource name", out);
            } else if kind == "containerResource" {
                resource_name(at.text("name"), &at.get("name"), true, out);
            }
            if kind == "containerResource" && at.text("container").is_empty() {
                at.missing("container", "must specify a container", out);
            }
            at.form("container", names::dns1123_label, out);
        }
        _ => {
            if kind == "object" {
                let object = at.get("describedObject");
                reference(&object, out);
                version(&object, out);
            }
            let metric = at.get("metric");
            if metric.text("name").is_empty() {
                metric.missing("name", "must specify a metric name", out);
            }
            metric.form("name", |text| names::path_segment(text, false), out);
        }
    }
    let goal = at.get("target");
    target(&goal, out);
    let (value, average, share) = (goal.has("value"), goal.has("averageValue"), goal.has("averageUtilization"));
    match kind {
        "object" if !value && !average => {
            goal.missing("averageValue", "must set either a target value or averageValue", out);
        }
        "external" if !value && !average => {
            goal.missing("averageValue", "must set either a target value for metric or a per-pod target", out);
        }
        "external" if value && average => {
            goal.forbidden("value", "may not set both a target value for metric and a per-pod target", out);
        }
        "pods" if !average => goal.missing("averageValue", "must specify a positive target averageValue", out),
        "resource" | "containerResource" if !share && !average => {
            let why = "must set either a target raw value or a target utilization";
            goal.missing("averageUtilization", why, out);
        }
        "resource" | "containerResource" if share && average => {
            goal.forbidden("averageValue", "may not set both a target raw value and a target utilization", out);
        }
        _ => {}
    }
}

fn target(at: &At<'_>, out: &mut FieldErrors) {
    if at.text("type").is_empty() {
        at.missing("type", "must specify a metric target type", out);
    }
    if !matches!(at.text("type"), "Utilization" | "Value" | "AverageValue") {
        let why = "must be either Utilization, Value, or AverageValue";
        out.push(FieldError::invalid(&at.path("type"), at.text("type"), why));
    }
    for name in ["value", "averageValue"] {
        let amount = Quantity::from_json(at.value.get_or_null(name));
        if amount.is_ok_and(|amount| amount.is_negative() || amount.is_zero()) {
            at.invalid(name, "must be positive", out);
        }
    }
    if at.int("averageUtilization").is_some_and(|share| share < 1) {
        at.invalid("averageUtilization", "must be greater than 0", out);
    }
}

fn cells(scaler: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (scaler.get_or_null("spec"), scaler.get_or_null("status"));
    let target = spec.get_or_null("scaleTargetRef");
    vec![
        name_cell(scaler),
        format!("{}/{}", target.text("kind"), target.text("name")).into(),
        targets(spec.items("metrics"), status.items("currentMetrics")).into(),
        spec.int("minReplicas").map_or_else(|| "<unset>".to_owned(), |n| n.to_string()).into(),
        crate::cells::count(spec, "maxReplicas"),
        crate::cells::count(status, "currentReplicas"),
        age::cell(scaler, now),
    ]
}

fn targets(metrics: &[Value], current: &[Value]) -> String {
    const MOST: usize = 2;
    if metrics.is_empty() {
        return NONE.to_owned();
    }
    let each = metrics.iter().enumerate().map(|(i, metric)| shown(metric, current.get(i).unwrap_or(&Value::Null)));
    let text = each.take(MOST).collect::<Vec<_>>().join(", ");
    if metrics.len() > MOST { format!("{text} + {} more...", metrics.len() - MOST) } else { text }
}

/// One metric: what it is, and what it should be.
fn shown(metric: &Value, current: &Value) -> String {
    let Some((_, field)) = SOURCES.iter().find(|(name, _)| *name == metric.text("type")) else {
        return "<unknown type>".to_owned();
    };
    let (source, now) = (metric.get_or_null(field), current.at(field).get_or_null("current"));
    let goal = source.get_or_null("target");
    let amount = |name: &str| match now.get_or_null(name).as_str() {
        Some(text) => text.to_owned(),
        None => "<unknown>".to_owned(),
    };
    let prefix = if field.ends_with("esource") { format!("{}: ", source.text("name")) } else { String::new() };
    let average = goal.text("averageValue");
    if goal.has("averageValue") {
        let suffix = if matches!(*field, "object" | "external") { " (avg)" } else { "" };
        return format!("{prefix}{}/{average}{suffix}", amount("averageValue"));
    }
    if prefix.is_empty() {
        return format!("{}/{}", amount("value"), goal.text("value"));
    }
    let share = |holder: &Value, other: &str| {
        holder.int("averageUtilization").map_or_else(|| other.to_owned(), |share| format!("{share}%"))
    };
    format!("{prefix}{}/{}", share(now, "<unknown>"), share(goal, "<auto>"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn scaler() -> Value {
        let mut scaler = json!({"metadata": {"name": "s"}, "spec": {"maxReplicas": 5, "behavior": {"scaleDown": {"selectPolicy": "Min"}},
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
        HORIZONTAL_POD_AUTOSCALER.default(&mut scaler);
        scaler
    }

    #[test]
    fn defaults() {
        let scaler = scaler();
        assert_eq!(HORIZONTAL_POD_AUTOSCALER.validate_create(&scaler), []);
        let behavior = &scaler["spec"]["behavior"];
        assert_eq!(behavior["scaleDown"]["selectPolicy"], "Min");
        assert_eq!(behavior["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
        assert_eq!(behavior["scaleDown"].get("stabilizationWindowSeconds"), None);
    }

    #[test]
    fn objects_of_the_first_group_are_described_and_not_scaled() {
        let mut scaler = scaler();
        scaler["spec"]["metrics"] = json!([{"type": "Object", "object": {"metric": {"name": "m"},
            "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "s"}, "target": {"type": "Value", "value": "1"}}}]);
        assert_eq!(HORIZONTAL_POD_AUTOSCALER.validate_create(&scaler), []);
        let old = scaler.clone();
        scaler["spec"]["scaleTargetRef"]["apiVersion"] = json!("v1");
        let refused = HORIZONTAL_POD_AUTOSCALER.validate_create(&scaler);
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(HORIZONTAL_POD_AUTOSCALER.validate_update(&scaler, &old, Part::Main).len(), 1);
        assert_eq!(HORIZONTAL_POD_AUTOSCALER.validate_update(&scaler, &scaler, Part::Main), []);
    }

    #[test]
    fn faults() {
        for (name, value, expected) in [
            (
                "minReplicas",
                json!(9),
                "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`",
            ),
            ("minReplicas", json!(0), "spec.metrics: Forbidden: must specify at least one Object or External metric"),
            ("maxReplicas", json!(0), "spec.maxReplicas: Required value: must be set and greater than 0"),
            ("scaleTargetRef", json!({}), "spec.scaleTargetRef.kind: Required value"),
            ("metrics", json!([{"type": "X"}]), "spec.metrics[0].type: Unsupported value: \"X\""),
            (
                "metrics",
                json!([{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "Value"}}}]),
                "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
            ),
            (
                "behavior",
                json!({"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 9}]}}),
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
            ),
        ] {
            let mut scaler = scaler();
            scaler["spec"][name] = value;
            let found: Vec<_> =
                HORIZONTAL_POD_AUTOSCALER.validate_create(&scaler).iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.starts_with(expected)), "{name}: {found:?}");
        }
    }

    #[test]
    fn row() {
        let mut scaler = scaler();
        scaler["status"] = json!({"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"current": {"averageUtilization": 12}}}]});
        let cells = HORIZONTAL_POD_AUTOSCALER.cells(&scaler, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..6], [json!("Deployment/web"), json!("cpu: 12%/80%"), json!("1"), json!(5), json!(2)]);
    }
}
