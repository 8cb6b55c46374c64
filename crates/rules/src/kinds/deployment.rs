//! Deployments.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::LabelSelector;
use skiff_meta::field::{FieldError, FieldErrors};

use crate::at::At;
use crate::disabled;
use crate::row::{EMPTY, Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{age, cells, workload};

pub(crate) const DEPLOYMENT: Row = Row {
    status: EMPTY,
    status_keeps: &["labels"],
    // Annotations count too, since they are copied to the replica sets.
    generation: &["spec", "metadata.annotations"],
    default,
    validate,
    validate_update: |new, old, out| At::member(new, "spec").immutable("selector", old.get_or_null("spec"), out),
    validate_part: |new, old, _, out| {
        let status = At::member(new, "status");
        let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
        workload::replica_status(&status, &counts, "readyReplicas", out);
        workload::collisions_grow(&status, old, out);
    },
    disabled: disabled::WORKLOAD,
    warnings: warnings::of_workload,
    columns: "Name,Ready,Up-to-date,Available,Age,+Containers,+Images,+Selector",
    cells,
    ..Row::new("apps", "Deployment")
};

fn default(object: &mut Value) {
    workload::default_template(object);
    let spec = object.child("spec");
    spec.default_to("replicas", 1);
    let strategy = spec.child("strategy");
    strategy.default_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.child("rollingUpdate");
        rolling.default_to("maxUnavailable", "25%");
        rolling.default_to("maxSurge", "25%");
    }
    spec.default_to("revisionHistoryLimit", 10);
    spec.default_to("progressDeadlineSeconds", 600);
}

fn validate(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    spec.not_negative("replicas", out);
    workload::selector(&spec, "deployment", out);
    workload::template(&spec, "ReplicaSet", out);
    strategy(&spec, out);
    spec.not_negative("minReadySeconds", out);
    spec.not_negative("revisionHistoryLimit", out);
    if let Some(deadline) = spec.int("progressDeadlineSeconds") {
        spec.not_negative("progressDeadlineSeconds", out);
        if deadline <= spec.int("minReadySeconds").unwrap_or_default() {
            spec.invalid("progressDeadlineSeconds", "must be greater than minReadySeconds", out);
        }
    }
}

fn strategy(spec: &At<'_>, out: &mut FieldErrors) {
    let strategy = spec.get("strategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.text("type") {
        "Recreate" => {
            if rolling.is_set() {
                strategy.forbidden("rollingUpdate", "may not be specified when strategy `type` is 'Recreate'", out);
            }
        }
        "RollingUpdate" => {
            workload::number_or_percent(&rolling, "maxUnavailable", out);
            workload::number_or_percent(&rolling, "maxSurge", out);
            let none = |name: &str| workload::amount(rolling.value.get_or_null(name)) == 0;
            if none("maxUnavailable") && none("maxSurge") {
                rolling.invalid("maxUnavailable", "may not be 0 when `maxSurge` is 0", out);
            }
            workload::at_most_all(&rolling, "maxUnavailable", out);
        }
        _ => {
            let supported = &["Recreate", "RollingUpdate"];
            out.push(FieldError::not_supported(&strategy.path, strategy.value.clone(), supported));
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (object.get_or_null("spec"), object.get_or_null("status"));
    let ready = status.int("readyReplicas").unwrap_or_default();
    let selector = LabelSelector::from_json(spec.get_or_null("selector"));
    let [names, images] = cells::containers(spec.at("template.spec"));
    vec![
        name_cell(object),
        format!("{ready}/{}", spec.int("replicas").unwrap_or_default()).into(),
        cells::count(status, "updatedReplicas"),
        cells::count(status, "availableReplicas"),
        age::cell(object, now),
        names,
        images,
        selector.map_or_else(|_| json!("<invalid>"), |s| s.to_string().into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn deployment() -> Value {
        let mut object = json!({"metadata": {"name": "web", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}}});
        DEPLOYMENT.default(&mut object);
        object
    }

    #[test]
    fn defaults_hold() {
        let object = deployment();
        assert_eq!(DEPLOYMENT.validate_create(&object), []);
        let spec = &object["spec"];
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!((&spec["replicas"], &spec["progressDeadlineSeconds"]), (&json!(1), &json!(600)));
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(spec["template"]["spec"].get("enableServiceLinks"), None);
    }

    #[test]
    fn faults() {
        for (path, value, expected) in [
            ("/spec/replicas", json!(-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
            ("/spec/selector", Value::Null, "spec.selector: Required value"),
            ("/spec/selector", json!({}), "spec.selector: Invalid value: {}: empty selector is invalid for deployment"),
            (
                "/spec/selector/matchLabels/app",
                json!("other"),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ),
            (
                "/spec/strategy/rollingUpdate/maxSurge",
                json!("x"),
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string",
            ),
            (
                "/spec/strategy/rollingUpdate/maxUnavailable",
                json!("200%"),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"200%\": must not be greater than 100%",
            ),
            (
                "/spec/strategy/type",
                json!("Recreate"),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                "/spec/progressDeadlineSeconds",
                json!(0),
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
            ),
            ("/spec/template/spec/containers", json!([]), "spec.template.spec.containers: Required value"),
        ] {
            let mut object = deployment();
            *object.pointer_mut(path).unwrap() = value;
            let found: Vec<_> = DEPLOYMENT.validate_create(&object).iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.starts_with(expected)), "{path}: {found:?}");
        }
    }

    #[test]
    fn updates_and_generation() {
        let old = {
            let mut object = deployment();
            DEPLOYMENT.prepare_create(&mut object);
            object
        };
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"]["tier"] = json!("x");
        new["spec"]["template"]["metadata"]["labels"]["tier"] = json!("x");
        let found: Vec<_> =
            DEPLOYMENT.validate_update(&new, &old, Part::Main).iter().map(ToString::to_string).collect();
        assert!(
            found[0].starts_with("spec.selector: Invalid value") && found[0].ends_with("field is immutable"),
            "{found:?}"
        );
        let mut new = old.clone();
        new["metadata"]["annotations"] = json!({"a": "b"});
        DEPLOYMENT.prepare_update(&mut new, &old, Part::Main);
        assert_eq!(new["metadata"]["generation"], 2);
    }

    #[test]
    fn row() {
        let mut object = deployment();
        object["status"] = json!({"readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1});
        let now = "2026-01-01T00:00:05Z".parse().unwrap();
        assert_eq!(
            DEPLOYMENT.cells(&object, now),
            [
                json!("web"),
                json!("1/1"),
                json!(1),
                json!(1),
                json!("5s"),
                json!("c"),
                json!("nginx:1"),
                json!("app=web")
            ]
        );
    }
}
