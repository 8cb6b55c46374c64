//! HorizontalPodAutoscalers.

use serde_json::{Value, json};

use crate::kind::{AGE, KindRules, NAME};
use crate::show::{created, name};
use crate::tree::{fill, items, number, object, text};

pub(crate) static HORIZONTAL_POD_AUTOSCALER: KindRules = KindRules {
    default: |scaler| {
        let spec = object(scaler, "spec");
        fill(spec, "minReplicas", 1);
        if items(&spec["metrics"]).is_empty() {
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        }
    },
    first_status: Some(|| json!({"currentMetrics": null, "desiredReplicas": 0})),
    validate: |at, faults| {
        let spec = at.get("spec");
        for field in ["kind", "name"] {
            spec.get("scaleTargetRef").get(field).required(faults, "");
        }
        let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
        if most.number().unwrap_or(0) < 1 {
            most.invalid(faults, "must be greater than 0");
        }
        if least.number().is_some_and(|n| n < 1) {
            least.invalid(faults, "must be greater than or equal to 1");
        }
        if most.number() < least.number() {
            most.invalid(faults, "must be greater than or equal to `minReplicas`");
        }
    },
    columns: &[
        NAME,
        ("Reference", "string", 0, "What it scales"),
        ("Targets", "string", 0, "Metrics now and wanted"),
        ("MinPods", "string", 0, "Fewest pods"),
        ("MaxPods", "string", 0, "Most pods"),
        ("Replicas", "string", 0, "Pods now"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let target = &spec["scaleTargetRef"];
        let targets: Vec<String> = items(&spec["metrics"]).iter().map(|m| metric(m, object)).collect();
        vec![
            name(object),
            format!("{}/{}", text(&target["kind"]), text(&target["name"])).into(),
            targets.join(", ").into(),
            number(&spec["minReplicas"]).to_string().into(),
            number(&spec["maxReplicas"]).into(),
            number(&object["status"]["currentReplicas"]).into(),
            created(object, now),
        ]
    },
    ..KindRules::new("autoscaling", "HorizontalPodAutoscaler")
};

fn metric(metric: &Value, scaler: &Value) -> String {
    let source = &metric["resource"];
    let resource = text(&source["name"]);
    let now = items(&scaler["status"]["currentMetrics"]).iter().find(|m| m["resource"]["name"] == source["name"]);
    match source["target"]["averageUtilization"].as_i64() {
        Some(wanted) => {
            let now = now.and_then(|m| m["resource"]["current"]["averageUtilization"].as_i64());
            format!("{resource}: {}/{wanted}%", now.map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%")))
        }
        None => format!("<unknown>/{}", text(&source["target"]["averageValue"])),
    }
}
