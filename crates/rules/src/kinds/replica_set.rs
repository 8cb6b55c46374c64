//! Replica sets, and replication controllers, their elders.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::LabelSelector;
use skiff_meta::field::FieldErrors;

use crate::at::At;
use crate::disabled;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{age, cells, podspec, workload};

const COUNTS: [&str; 4] = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"];

pub(crate) const REPLICA_SET: Row = Row {
    status: Some(|| json!({"replicas": 0})),
    generation: &["spec"],
    default: |object| {
        workload::default_template(object);
        object.child("spec").default_to("replicas", 1);
    },
    validate: |object, out| {
        let spec = At::member(object, "spec");
        spec.not_negative("replicas", out);
        spec.not_negative("minReadySeconds", out);
        workload::selector(&spec, "deployment", out);
        workload::template(&spec, "ReplicaSet", out);
    },
    validate_update: |new, old, out| At::member(new, "spec").immutable("selector", old.get_or_null("spec"), out),
    validate_part: |new, _, _, out| counts(new, out),
    disabled: disabled::WORKLOAD,
    warnings: warnings::of_workload,
    selectable: |object| vec![("status.replicas", object.at("status").int("replicas").unwrap_or_default().to_string())],
    columns: "Name,#Desired,#Current,#Ready,Age,+Containers,+Images,+Selector",
    cells: |object, now| cells(object, cells::selector(object.at("spec.selector")), now),
    ..Row::new("apps", "ReplicaSet")
};

fn counts(object: &Value, out: &mut FieldErrors) {
    workload::replica_status(&At::member(object, "status"), &COUNTS, "readyReplicas", out);
}

pub(crate) const REPLICATION_CONTROLLER: Row = Row {
    status: Some(|| json!({"replicas": 0})),
    generation: &["spec"],
    default: |object| {
        workload::default_template(object);
        let labels = object.at("spec.template.metadata.labels").clone();
        if !labels.is_null() && object.at("spec").count("selector") == 0 {
            object.child("spec").put("selector", labels);
        }
        workload::label_as_template(object);
        object.child("spec").default_to("replicas", 1);
    },
    prepare_update: |object, _, _| workload::label_as_template(object),
    validate: validate_controller,
    validate_part: |new, _, _, out| counts(new, out),
    disabled: disabled::WORKLOAD,
    warnings: warnings::of_replication_controller,
    selectable: REPLICA_SET.selectable,
    columns: REPLICA_SET.columns,
    cells: |object, now| cells(object, cells::labels(object.get_or_null("spec"), "selector"), now),
    ..Row::new("", "ReplicationController")
};

fn validate_controller(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    spec.not_negative("minReadySeconds", out);
    if spec.value.count("selector") == 0 {
        spec.missing("selector", "", out);
    }
    if !spec.has("replicas") {
        spec.missing("replicas", "", out);
    }
    spec.not_negative("replicas", out);
    let template = spec.get("template");
    if !template.is_set() {
        return spec.missing("template", "", out);
    }
    let labels = spec.value.entries("selector").map(|(k, v)| (k.to_owned(), v.as_str().unwrap_or_default().to_owned()));
    workload::matches_template(&LabelSelector::from_map(&labels.collect()), &template, out);
    podspec::validate_template(&template, out);
    workload::restarts_always(&template, "ReplicationController", out);
}

fn cells(object: &Value, selector: Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (object.get_or_null("spec"), object.get_or_null("status"));
    let [names, images] = cells::containers(spec.at("template.spec"));
    vec![
        name_cell(object),
        cells::count(spec, "replicas"),
        cells::count(status, "replicas"),
        cells::count(status, "readyReplicas"),
        age::cell(object, now),
        names,
        images,
        selector,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn with_template(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"template": {
            "metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        object
    }

    #[test]
    fn replica_sets() {
        let mut object = with_template(json!({"selector": {"matchLabels": {"x": "y"}}}));
        REPLICA_SET.default(&mut object);
        assert_eq!(REPLICA_SET.validate_create(&object), []);
        let mut new = object.clone();
        new["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": -1});
        let found: Vec<_> =
            REPLICA_SET.validate_update(&new, &object, Part::Status).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            ]
        );
    }

    #[test]
    fn controllers_take_labels_from_the_template() {
        let mut object = with_template(json!({}));
        REPLICATION_CONTROLLER.default(&mut object);
        assert_eq!(
            (&object["spec"]["selector"], &object["metadata"]["labels"]),
            (&json!({"x": "y"}), &json!({"x": "y"}))
        );
        assert_eq!(REPLICATION_CONTROLLER.validate_create(&object), []);
        object["spec"]["selector"] = json!({"x": "z"});
        let found = REPLICATION_CONTROLLER.validate_create(&object);
        assert!(found[0].to_string().contains("`selector` does not match template `labels`"), "{found:?}");
        let row = REPLICATION_CONTROLLER.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[7], "x=z");
    }
}
