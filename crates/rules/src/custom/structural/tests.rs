use super::*;

fn faults(schema: Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(&At::root(&schema), false, &mut faults);
    faults.iter().map(ToString::to_string).collect()
}

/// The schema of one property.
fn property(schema: Value) -> Vec<String> {
    faults(json!({"type": "object", "properties": {"p": schema}}))
}

#[test]
fn what_is_structural() {
    for schema in [
        json!({"type": "string"}),
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
        json!({"x-kubernetes-int-or-string": true,
            "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"minimum": 1}]}),
        json!({"x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "additionalProperties": {"type": "string"}}),
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {
            "properties": {"a": {"enum": ["x"]}}}]}),
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}}),
        json!({"type": "object", "default": {"a": 1}, "properties": {"a": {"type": "integer"}}}),
    ] {
        assert_eq!(property(schema.clone()), [""; 0], "{schema}");
    }
}

#[test]
fn what_is_not() {
    let below = "properties[p]";
    for (schema, expected) in [
        (json!({}), ".type: Required value: must not be empty for specified object fields"),
        (json!({"type": "array"}), ".items: Required value: must be specified"),
        // Nothing more is told of such a schema.
        (
            json!({"x-kubernetes-preserve-unknown-fields": false, "properties": {"a": {}}}),
            ".x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            json!({"type": "text"}),
            ".type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ),
        (
            json!({"type": "object", "uniqueItems": true}),
            ".uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (json!({"type": "object", "$ref": "#/x"}), ".$ref: Forbidden: $ref is not supported"),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            ".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            json!({"type": "object", "allOf": [{"type": "object"}]}),
            ".allOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]}),
            ".properties[a]: Required value: because it is defined in properties[p].anyOf[0].properties[a]",
        ),
        (
            json!({"type": "integer", "default": "x"}),
            ".default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "object", "default": {"a": 1}}),
            ".default: Invalid value: {\"a\":1}: must not have unknown fields",
        ),
        (
            json!({"type": "string", "pattern": "("}),
            ".pattern: Invalid value: \"(\": must be a valid regular expression, but isn't",
        ),
        (
            json!({"type": "string", "x-kubernetes-list-type": "set"}),
            ".type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified",
        ),
        (
            json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"}),
            ".items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
            ".x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": " "}]}),
            ".x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            ".properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ),
    ] {
        let found = property(schema.clone());
        let expected = format!("{below}{expected}");
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{schema}\n{found:?}\n{expected}");
    }
}

#[test]
fn roots() {
    assert_eq!(faults(json!({"type": "string"})), ["type: Invalid value: \"string\": must be object at the root"]);
    assert_eq!(faults(json!({})), ["type: Required value: must not be empty at the root"]);
    let open = json!({"type": "object", "additionalProperties": true});
    assert_eq!(faults(open), ["additionalProperties: Forbidden: must not be used at the root"]);
    let metadata = |schema: Value| faults(json!({"type": "object", "properties": {"metadata": schema}}));
    let named = json!({"type": "object", "properties": {"name": {"type": "string", "pattern": "^a"}}});
    assert!(metadata(named).is_empty());
    let labels = json!({"type": "object", "properties": {"labels": {"type": "object"}}});
    assert_eq!(metadata(labels).len(), 1);
    let default = json!({"type": "object", "default": {}});
    assert_eq!(metadata(default), ["properties[metadata].default: Forbidden: must not be set in top-level metadata"]);
}

#[test]
fn keys_of_lists() {
    let list = |keys: Value, item: Value| {
        property(json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
            "items": item}))
    };
    let object = json!({"type": "object", "properties": {"k": {"type": "string"}, "o": {"type": "object"}}});
    assert_eq!(
        list(json!(["k"]), object.clone()),
        ["properties[p].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, \
         so it must have a default or be a required property"]
    );
    assert_eq!(list(json!(["x"]), object.clone()).len(), 1);
    assert_eq!(list(json!([]), object.clone()).len(), 1);
    assert_eq!(list(json!(["o"]), object).len(), 2);
    assert_eq!(list(json!(["k"]), json!({"type": "string"})).len(), 1);
}
