//! How many pods of a set may be evicted at a time.

use serde_json::{Value, json};
use skiff_meta::field::FieldErrors;
use skiff_meta::names::NameForm;

use crate::age;
use crate::at::At;
use crate::row::{Row, name_cell};
use crate::view::View;
use crate::workload::{at_most_all, number_or_percent};

pub(crate) const POD_DISRUPTION_BUDGET: Row = Row {
    // No more is asked of names here.
    name: NameForm::PathSegment,
    status: Some(|| json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})),
    generation: &["spec"],
    validate,
    validate_part: |new, _, _, out| {
        crate::metadata::conditions(&At::member(new, "status"), "conditions", out);
        for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            At::member(new, "status").not_negative(name, out);
        }
    },
    columns: "Name,Min Available,Max Unavailable,#Allowed Disruptions,Age",
    cells: |budget, now| {
        let shown = |name: &str| -> Value {
            match budget.at("spec").get_or_null(name) {
                Value::Null => "N/A".into(),
                Value::Number(number) => number.to_string().into(),
                other => other.clone(),
            }
        };
        vec![
            name_cell(budget),
            shown("minAvailable"),
            shown("maxUnavailable"),
            crate::cells::count(budget.get_or_null("status"), "disruptionsAllowed"),
            age::cell(budget, now),
        ]
    },
    ..Row::new("policy", "PodDisruptionBudget")
};

fn validate(budget: &Value, out: &mut FieldErrors) {
    let spec = At::member(budget, "spec");
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        spec.wrong("minAvailable and maxUnavailable cannot be both set", out);
    }
    for name in ["minAvailable", "maxUnavailable"] {
        number_or_percent(&spec, name, out);
        at_most_all(&spec, name, out);
    }
    spec.get("selector").label_selector(out);
    spec.optional_one_of("unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    #[test]
    fn budgets() {
        let budget = |spec: Value| json!({"metadata": {"name": "b"}, "spec": spec});
        let fine = budget(json!({"minAvailable": 2, "selector": {"matchLabels": {"a": "b"}}}));
        assert_eq!(POD_DISRUPTION_BUDGET.validate_create(&fine), []);
        let cells = POD_DISRUPTION_BUDGET.cells(&fine, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..4], [json!("2"), json!("N/A"), json!(0)]);
        for (spec, expected) in [
            (json!({"minAvailable": 1, "maxUnavailable": 1}), "spec: Invalid value"),
            (json!({"minAvailable": -1}), "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"),
            (
                json!({"maxUnavailable": "101%"}),
                "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ),
            (json!({"unhealthyPodEvictionPolicy": "X"}), "spec.unhealthyPodEvictionPolicy: Unsupported value: \"X\""),
        ] {
            let found = POD_DISRUPTION_BUDGET
                .validate_create(&budget(spec))
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>();
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        }
    }
}
