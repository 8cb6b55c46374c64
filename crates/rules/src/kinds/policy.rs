//! Budgets, limits and quotas.

use serde_json::{Value, json};

use super::workloads::int_or_percent;
use crate::faults::label_selector;
use crate::kind::{AGE, KindRules, NAME, PLAIN_COLUMNS, empty_status};
use crate::show::{created, name};
use crate::tree::{fill, items_mut, members, number, object, put, text};

pub(crate) static POD_DISRUPTION_BUDGET: KindRules = KindRules {
    first_status: Some(
        || json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
    ),
    counts_generation: true,
    validate: |at, faults| {
        let spec = at.get("spec");
        let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if least.exists() && most.exists() {
            spec.invalid(faults, "minAvailable and maxUnavailable cannot be both set");
        }
        int_or_percent(&least, faults);
        int_or_percent(&most, faults);
        label_selector(&spec.get("selector"), faults);
        spec.get("unhealthyPodEvictionPolicy").one_of(faults, &["AlwaysAllow", "IfHealthyBudget"]);
    },
    columns: &[
        NAME,
        ("Min Available", "string", 0, "How many must stay"),
        ("Max Unavailable", "string", 0, "How many may go"),
        ("Allowed Disruptions", "integer", 0, "How many may go now"),
        AGE,
    ],
    cells: |object, now| {
        let shown = |value: &Value| match value {
            Value::Null => json!("N/A"),
            Value::String(text) => json!(text),
            other => json!(other.to_string()),
        };
        let spec = &object["spec"];
        vec![
            name(object),
            shown(&spec["minAvailable"]),
            shown(&spec["maxUnavailable"]),
            number(&object["status"]["disruptionsAllowed"]).into(),
            created(object, now),
        ]
    },
    ..KindRules::new("policy", "PodDisruptionBudget")
};

pub(crate) static LIMIT_RANGE: KindRules = KindRules {
    default: |range| {
        for limit in range.pointer_mut("/spec/limits").into_iter().flat_map(items_mut) {
            if limit["type"] != "Container" {
                continue;
            }
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                for (resource, amount) in members(&limit[from].clone()) {
                    fill(object(limit, to), resource, amount.clone());
                }
            }
            for list in ["default", "defaultRequest"] {
                if members(&limit[list]).next().is_none() {
                    put(limit, list, Value::Null);
                }
            }
        }
    },
    columns: PLAIN_COLUMNS,
    cells: |object, _| vec![name(object), object["metadata"]["creationTimestamp"].clone()],
    ..KindRules::new("", "LimitRange")
};

pub(crate) static RESOURCE_QUOTA: KindRules = KindRules {
    first_status: Some(empty_status),
    columns: &[
        NAME,
        ("Request", "string", 0, "Used of what may be asked for"),
        ("Limit", "string", 0, "Used of what may be allowed"),
        AGE,
    ],
    cells: |object, now| {
        let status = &object["status"];
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in members(&status["hard"]) {
            let shown = format!("{resource}: {}/{}", text(&status["used"][resource]), text(hard));
            if resource.starts_with("limits.") { limits.push(shown) } else { requests.push(shown) }
        }
        vec![name(object), requests.join(", ").into(), limits.join(", ").into(), created(object, now)]
    },
    ..KindRules::new("", "ResourceQuota")
};
