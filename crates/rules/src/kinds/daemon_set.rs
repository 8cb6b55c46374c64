//! Daemon sets.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::LabelSelector;
use skiff_meta::field::{FieldError, FieldErrors};

use crate::at::{At, is_empty_selector};
use crate::disabled;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{Part, age, cells, podspec, workload};

/// Where the count of templates is kept since it left the spec.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(crate) const DAEMON_SET: Row = Row {
    status: Some(
        || json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
    ),
    generation: &["spec"],
    default,
    prepare_create: |object| object.child("metadata").child("annotations").put(TEMPLATE_GENERATION, "1".into()),
    prepare_update,
    validate,
    validate_update: |new, old, out| At::member(new, "spec").immutable("selector", old.get_or_null("spec"), out),
    validate_part: |new, old, _, out| {
        let status = At::member(new, "status");
        for count in [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ] {
            status.not_negative(count, out);
        }
        workload::collisions_grow(&status, old, out);
    },
    disabled: disabled::WORKLOAD,
    warnings: warnings::of_daemon_set,
    columns: "Name,#Desired,#Current,#Ready,#Up-to-date,#Available,Node Selector,Age,+Containers,+Images,+Selector",
    cells,
    ..Row::new("apps", "DaemonSet")
};

fn default(object: &mut Value) {
    // Seen in every written form of a daemon set, so that whoever creates one owns it.
    object.child("metadata").child("annotations").default_text(TEMPLATE_GENERATION, "0");
    workload::default_template(object);
    let spec = object.child("spec");
    let strategy = spec.child("updateStrategy");
    strategy.default_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.child("rollingUpdate");
        rolling.default_to("maxUnavailable", 1);
        rolling.default_to("maxSurge", 0);
    }
    spec.default_to("revisionHistoryLimit", 10);
}

fn prepare_update(new: &mut Value, old: &Value, part: Part) {
    let before = old.at("metadata").get_or_null("annotations").text(TEMPLATE_GENERATION).parse().unwrap_or(1i64);
    // It belongs to the spec, which other parts do not change.
    let changed = part == Part::Main && new.at("spec.template") != old.at("spec.template");
    let generation = before.saturating_add(i64::from(changed)).to_string();
    new.child("metadata").child("annotations").put(TEMPLATE_GENERATION, generation.into());
}

fn validate(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    selector.label_selector(out);
    if let Ok(parsed) = LabelSelector::from_json(selector.value) {
        workload::matches_template(&parsed, &template, out);
    }
    if selector.is_set() && is_empty_selector(selector.value) {
        selector.wrong("empty selector is invalid for daemonset", out);
    }
    podspec::validate_template(&template, out);
    workload::restarts_always(&template, "DaemonSet", out);
    spec.not_negative("minReadySeconds", out);
    strategy(&spec.get("updateStrategy"), out);
    spec.not_negative("revisionHistoryLimit", out);
}

fn strategy(strategy: &At<'_>, out: &mut FieldErrors) {
    match strategy.text("type") {
        "OnDelete" => return,
        "RollingUpdate" => {}
        _ => {
            let supported = &["OnDelete", "RollingUpdate"];
            return out.push(FieldError::not_supported(&strategy.path, strategy.value.clone(), supported));
        }
    }
    let rolling = strategy.get("rollingUpdate");
    if !rolling.is_set() {
        return strategy.missing("rollingUpdate", "", out);
    }
    for name in ["maxUnavailable", "maxSurge"] {
        workload::number_or_percent(&rolling, name, out);
        workload::at_most_all(&rolling, name, out);
    }
    let some = |name: &str| workload::amount(rolling.value.get_or_null(name)) != 0;
    match (some("maxUnavailable"), some("maxSurge")) {
        (true, true) => rolling.invalid("maxSurge", "may not be set when maxUnavailable is non-zero", out),
        (false, false) => rolling.missing("maxUnavailable", "cannot be 0 when maxSurge is 0", out),
        _ => {}
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (object.get_or_null("spec"), object.get_or_null("status"));
    let [names, images] = cells::containers(spec.at("template.spec"));
    vec![
        name_cell(object),
        cells::count(status, "desiredNumberScheduled"),
        cells::count(status, "currentNumberScheduled"),
        cells::count(status, "numberReady"),
        cells::count(status, "updatedNumberScheduled"),
        cells::count(status, "numberAvailable"),
        cells::labels(spec.at("template.spec"), "nodeSelector"),
        age::cell(object, now),
        names,
        images,
        cells::selector(spec.get_or_null("selector")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    fn daemon_set() -> Value {
        let mut object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"selector": {"matchLabels": {"x": "y"}},
            "template": {"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        DAEMON_SET.default(&mut object);
        object
    }

    #[test]
    fn templates_are_counted() {
        let mut old = daemon_set();
        assert_eq!(DAEMON_SET.validate_create(&old), []);
        DAEMON_SET.prepare_create(&mut old);
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("j");
        DAEMON_SET.prepare_update(&mut new, &old, Part::Main);
        assert_eq!(new["metadata"]["annotations"][TEMPLATE_GENERATION], "2");
        assert_eq!(new["metadata"]["generation"], 2);
    }

    #[test]
    fn strategies() {
        for (unavailable, surge, expected) in [
            (json!(1), json!(0), None),
            (json!(0), json!("10%"), None),
            (json!(1), json!(1), Some("spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set")),
            (json!(0), json!(0), Some("spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0")),
        ] {
            let mut object = daemon_set();
            object["spec"]["updateStrategy"]["rollingUpdate"] =
                json!({"maxUnavailable": unavailable, "maxSurge": surge});
            let found: Vec<_> = DAEMON_SET.validate_create(&object).iter().map(ToString::to_string).collect();
            match expected {
                None => assert_eq!(found, [""; 0]),
                Some(expected) => assert!(found[0].starts_with(expected), "{found:?}"),
            }
        }
    }
}
