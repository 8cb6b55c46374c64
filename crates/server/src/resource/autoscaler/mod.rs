//! `autoscaling/v1`: an autoscaler with one target, the CPU; everything else it has rides in annotations, so that
//! nothing is lost on the way through the old version (upstream: `pkg/apis/autoscaling/v1/conversion.go`).

mod v1;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_meta::field::FieldErrors;
use skiff_rules::{Column, Part, Rules};

use super::convert::Conversion;
use crate::tree;
use v1::Side;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

/// The CPU's share in percent, where a metric is that (`target` or `current`).
fn cpu_share<'a>(metric: &'a Value, side: &str) -> Option<&'a Value> {
    let share = &metric["resource"][side]["averageUtilization"];
    (is_cpu(metric) && share.is_i64()).then_some(share)
}

fn stash(object: &mut Map<String, Value>, key: &str, text: String) {
    let metadata = tree::map(object.entry("metadata").or_insert(Value::Null));
    let annotations = tree::map(metadata.entry("annotations").or_insert(Value::Null));
    annotations.insert(key.to_owned(), Value::from(text));
}

fn unstash(object: &mut Map<String, Value>, key: &str) -> Option<String> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    Some(text.as_str()?.to_owned())
}

fn part<'a>(object: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name)?.as_object_mut()
}

fn list(value: Option<Value>) -> Vec<Value> {
    if let Some(Value::Array(list)) = value { list } else { Vec::new() }
}

/// From `v2`.
pub(super) fn to_v1(object: &mut Map<String, Value>) {
    object.insert("apiVersion".to_owned(), json!("autoscaling/v1"));
    for key in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
        unstash(object, key);
    }
    if let Some(spec) = part(object, "spec") {
        let behavior = spec.remove("behavior");
        let (cpu, others): (Vec<_>, Vec<_>) =
            list(spec.remove("metrics")).into_iter().partition(|metric| cpu_share(metric, "target").is_some());
        let share = cpu.last().and_then(|metric| cpu_share(metric, "target")).cloned();
        tree::put(spec, "targetCPUUtilizationPercentage", share);
        if !others.is_empty() {
            stash(object, METRICS, v1::write_metrics(&others, Side::Target));
        }
        if let Some(behavior) = behavior.filter(|b| !b.is_null()) {
            stash(object, BEHAVIOR, v1::write_behavior(&behavior));
        }
    }
    if let Some(status) = part(object, "status") {
        // Always written in this version.
        status.entry("currentReplicas").or_insert(json!(0));
        let conditions = list(status.remove("conditions"));
        // Those of the CPU too: the annotation says more of them.
        let metrics = list(status.remove("currentMetrics"));
        let share = metrics.iter().rev().find_map(|metric| cpu_share(metric, "current")).cloned();
        tree::put(status, "currentCPUUtilizationPercentage", share);
        if !metrics.is_empty() {
            stash(object, CURRENT, v1::write_metrics(&metrics, Side::Current));
        }
        if !conditions.is_empty() {
            stash(object, CONDITIONS, v1::write_conditions(&conditions));
        }
    }
}

/// To `v2`.
pub(super) fn to_v2(object: &mut Map<String, Value>) {
    object.insert("apiVersion".to_owned(), json!("autoscaling/v2"));
    let metrics = unstash(object, METRICS).and_then(|text| v1::read_metrics(&text, Side::Target));
    let current = unstash(object, CURRENT).and_then(|text| v1::read_metrics(&text, Side::Current));
    let behavior = unstash(object, BEHAVIOR).and_then(|text| v1::read_behavior(&text));
    let conditions = unstash(object, CONDITIONS).and_then(|text| serde_json::from_str::<Vec<Value>>(&text).ok());
    if let Some(spec) = part(object, "spec") {
        let mut list = metrics.unwrap_or_default();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null()) {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            list.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        tree::put(spec, "metrics", (!list.is_empty()).then_some(Value::Array(list)));
        if behavior.is_some() {
            tree::put(spec, "behavior", behavior);
        }
    }
    if let Some(status) = part(object, "status") {
        let percent = status.remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null());
        let of_cpu = |percent: Value| {
            let current = json!({"averageUtilization": percent});
            vec![json!({"type": "Resource", "resource": {"name": "cpu", "current": current}})]
        };
        // What the annotation says goes before the one number.
        let list = current.or_else(|| percent.map(of_cpu)).unwrap_or_default();
        status.insert("currentMetrics".to_owned(), if list.is_empty() { Value::Null } else { Value::Array(list) });
        if let Some(conditions) = conditions {
            tree::put(status, "conditions", Some(Value::Array(conditions)));
        }
    }
}

/// Rules of the stored version, for objects of another one.
pub(super) struct ThroughStored {
    pub(super) rules: &'static dyn Rules,
    pub(super) conversion: Conversion,
}

impl ThroughStored {
    fn stored(&self, object: &Value) -> Value {
        let mut copy = object.clone();
        self.conversion.to_stored(&mut copy);
        copy
    }
    fn within(&self, object: &mut Value, change: impl FnOnce(&mut Value)) {
        self.conversion.to_stored(object);
        change(object);
        self.conversion.to_served(object);
    }
}

impl Rules for ThroughStored {
    fn default(&self, object: &mut Value) {
        self.within(object, |o| self.rules.default(o));
    }
    fn prepare_create(&self, object: &mut Value) {
        self.within(object, |o| self.rules.prepare_create(o));
    }
    fn prepare_update(&self, new: &mut Value, old: &Value, part: Part) {
        self.within(new, |n| self.rules.prepare_update(n, &self.stored(old), part));
    }
    fn validate_create(&self, object: &Value) -> FieldErrors {
        self.rules.validate_create(&self.stored(object))
    }
    fn validate_update(&self, new: &Value, old: &Value, part: Part) -> FieldErrors {
        self.rules.validate_update(&self.stored(new), &self.stored(old), part)
    }
    fn reset_fields(&self, part: Part) -> &'static [&'static [&'static str]] {
        self.rules.reset_fields(part)
    }
    fn warnings(&self, new: &Value, old: Option<&Value>, part: Part) -> Vec<String> {
        let old = old.map(|old| self.stored(old));
        self.rules.warnings(&self.stored(new), old.as_ref(), part)
    }
    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        self.rules.selectable_fields(&self.stored(object))
    }
    fn columns(&self) -> Vec<Column> {
        self.rules.columns()
    }
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.rules.cells(&self.stored(object), now)
    }
    fn name_faults(&self, name: &str, prefix: bool) -> Vec<String> {
        self.rules.name_faults(name, prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way() {
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleDown": {"selectPolicy": "Max"}}, "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]},
            "status": {"currentMetrics": null, "currentReplicas": 0, "desiredReplicas": 1},
        });
        let mut object = v2.clone();
        Conversion::AutoscalerV1.to_served(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(object["spec"].get("metrics"), None);
        Conversion::AutoscalerV1.to_stored(&mut object);
        assert_eq!(object, v2);
    }
}
