use super::*;

fn rules() -> CustomRules {
    CustomRules::new(&json!({
        "name": "v1", "served": true, "storage": true,
        "subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "selectableFields": [{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.size"}],
        "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
            "spec": {"type": "object", "required": ["color"], "properties": {
                "color": {"type": "string", "enum": ["red", "blue"]}, "size": {"type": "integer"},
                "replicas": {"type": "integer", "default": 1},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "phase": {"type": "string"}}},
        }}},
    }))
}

fn shown(faults: FieldErrors) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn creation() {
    let rules = rules();
    let mut object = json!({"metadata": {"name": "a"}, "spec": {"color": "red"}, "status": {"phase": "Done"}});
    rules.default(&mut object);
    rules.prepare_create(&mut object);
    let expected = json!({"metadata": {"name": "a", "generation": 1}, "spec": {"color": "red", "replicas": 1}});
    assert_eq!(object, expected);
    assert!(rules.validate_create(&object).is_empty());
    let bad = json!({"metadata": {}, "spec": {"color": "green", "replicas": -1, "tags": ["a", "a"]}});
    assert_eq!(
        shown(rules.validate_create(&bad)),
        [
            r#"spec.color: Unsupported value: "green": supported values: "blue", "red""#,
            ".spec.replicas: Invalid value: -1: should be a non-negative integer",
            r#"spec.tags[1]: Duplicate value: "a""#,
        ]
    );
    assert_eq!(shown(rules.validate_create(&json!({"metadata": {}}))), ["spec: Required value"]);
}

#[test]
fn updates_of_either_part() {
    let rules = rules();
    let old = json!({"metadata": {"name": "a", "generation": 3, "labels": {"x": "y"}}, "spec": {"color": "red"},
        "status": {"phase": "Old"}});
    let mut new = json!({"metadata": {"name": "a"}, "spec": {"color": "blue"}, "status": {"phase": "New"}});
    rules.prepare_update(&mut new, &old, Part::Main);
    assert_eq!((&new["status"], &new["metadata"]["generation"]), (&old["status"], &json!(4)));
    let mut same = json!({"metadata": {"name": "a", "labels": {}}, "spec": {"color": "red"}});
    rules.prepare_update(&mut same, &old, Part::Main);
    assert_eq!(same["metadata"]["generation"], 3);

    let mut status = json!({"metadata": {"name": "a", "managedFields": [1]}, "spec": {}, "status": {"phase": "New"}});
    rules.prepare_update(&mut status, &old, Part::Status);
    let mut expected = old.clone();
    expected["status"]["phase"] = json!("New");
    expected["metadata"]["managedFields"] = json!([1]);
    assert_eq!(status, expected);
    status["status"] = json!({"phase": 1, "replicas": "many"});
    let faults = shown(rules.validate_update(&status, &old, Part::Status));
    assert_eq!(
        faults,
        [
            r#"status.phase: Invalid value: "integer": phase in body must be of type string: "integer""#,
            r#"status.replicas: Invalid value: "string": replicas in body must be of type integer: "string""#,
            ".status.replicas: Invalid value: 0: .status.replicas accessor error: \"many\" is not an integer",
        ]
    );
}

#[test]
fn fields_to_select() {
    let rules = rules();
    assert_eq!(rules.selectable().collect::<Vec<_>>(), ["spec.color", "spec.size"]);
    let found = rules.selected(&json!({"spec": {"size": 3}}));
    assert_eq!(found, [("spec.color".to_owned(), String::new()), ("spec.size".to_owned(), "3".to_owned())]);
}

#[test]
fn finalizers_that_may_clash_are_warned_of() {
    let warn = |finalizer: &str| {
        let object = json!({"metadata": {"finalizers": [finalizer]}});
        rules().warnings(&object, None, crate::Part::Main).len()
    };
    assert_eq!((warn("a.b/c"), warn("orphan"), warn("mine"), warn("a.b")), (0, 0, 1, 1));
}
