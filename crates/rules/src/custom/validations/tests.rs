use serde_json::{Value as Json, json};

use super::Validations;
use crate::faults::At;

/// The schema of an object whose `spec` is this.
fn schema(spec: Json) -> Json {
    json!({"type": "object", "properties": {"spec": spec}})
}

fn definition_faults(spec: Json) -> Vec<String> {
    let schema = schema(spec);
    let mut faults = Vec::new();
    crate::custom::structural::check(&At::root(&schema), false, &mut faults);
    faults.iter().map(ToString::to_string).collect()
}

fn faults(spec: Json, new: Json, old: Option<Json>) -> Vec<String> {
    let validations = Validations::read(Some(&schema(spec))).unwrap();
    let found = validations.faults(&json!({"spec": new}), old.map(|old| json!({"spec": old})).as_ref());
    found.iter().map(ToString::to_string).collect()
}

fn with_rule(rule: Json) -> Json {
    json!({"type": "object", "x-kubernetes-validations": [rule], "properties": {
        "n": {"type": "integer"}, "max": {"type": "integer"}, "text": {"type": "string"},
        "free": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}}}})
}

#[test]
fn definitions_are_refused_for_rules_that_cannot_be_run() {
    let at = "properties[spec].x-kubernetes-validations[0]";
    let shown = |rule: &str, said: &str| {
        format!(
            r#"Invalid value: {{"Rule":"{rule}","Message":"","MessageExpression":"{said}","Reason":null,"FieldPath":"","OptionalOldSelf":null}}"#
        )
    };
    let exceeds = "exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, \
                   maxProperties, and maxLength where arrays, maps, and strings are declared)";
    let table = [
        (json!({"rule": "self.n < self.max"}), vec![]),
        (
            json!({"rule": "self.n < 'a'"}),
            vec![format!(
                "{at}.rule: {}: compilation failed: ERROR: <input>:1:8: found no matching overload for '_<_' applied to \
                 '(int, string)'\n | self.n < 'a'\n | .......^",
                shown("self.n \\u003c 'a'", "")
            )],
        ),
        (
            json!({"rule": "self.n"}),
            vec![format!("{at}.rule: {}: cel expression must evaluate to a bool", shown("self.n", ""))],
        ),
        (
            json!({"rule": "self.text.find(')') == ''"}),
            vec![format!(
                "{at}.rule: {}: program instantiation failed: error parsing regexp: unexpected ): `)`",
                shown("self.text.find(')') == ''", "")
            )],
        ),
        (
            json!({"rule": "true", "messageExpression": "self.n"}),
            vec![format!(
                "{at}.messageExpression: {}: messageExpression must evaluate to a string",
                shown("true", "self.n")
            )],
        ),
        (
            json!({"rule": "self.n > 1", "reason": "Nope", "fieldPath": ".x"}),
            vec![
                format!(
                    "{at}.reason: Unsupported value: \"Nope\": supported values: \"FieldValueDuplicate\", \
                     \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
                ),
                format!("{at}.fieldPath: Invalid value: \".x\": must be a valid path"),
            ],
        ),
        (
            json!({"rule": "self.n > 1", "optionalOldSelf": true}),
            vec![format!("{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule")],
        ),
        (
            json!({"rule": "self.free.all(x, self.free.all(y, x == y))"}),
            vec![
                format!("{at}.rule: Forbidden: estimated rule cost {exceeds}"),
                format!(
                    "{at}.rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire \
                     OpenAPIv3 schema"
                ),
                format!(
                    "<nil>: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema \
                     {exceeds}"
                ),
            ],
        ),
    ];
    for (rule, wanted) in table {
        assert_eq!(definition_faults(with_rule(rule.clone())), wanted, "{rule}");
    }
    let uncorrelated = json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 3, "items": {
        "type": "string", "maxLength": 9, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    let wanted = "properties[spec].properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self == \
                  oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within \
                  properties[spec].properties[l]";
    assert_eq!(definition_faults(uncorrelated), [wanted]);
}

#[test]
fn objects_are_judged_by_the_rules() {
    let rule = |rule: Json| with_rule(rule);
    let table = [
        (rule(json!({"rule": "self.n <= self.max"})), json!({"n": 1, "max": 2}), vec![]),
        (
            rule(json!({"rule": "self.n <= self.max"})),
            json!({"n": 3, "max": 2}),
            vec!["spec: Invalid value: failed rule: self.n <= self.max"],
        ),
        (
            rule(json!({"rule": "self.n <= self.max", "message": "too many ", "fieldPath": ".n"})),
            json!({"n": 3, "max": 2}),
            vec!["spec.n: Invalid value: too many"],
        ),
        (
            rule(json!({"rule": "self.n < 2", "messageExpression": "'n is ' + string(self.n)", "message": "m"})),
            json!({"n": 3}),
            vec!["spec: Invalid value: n is 3"],
        ),
        (
            rule(json!({"rule": "self.n < 2", "messageExpression": "string(self.max)", "message": "m"})),
            json!({"n": 3}),
            vec!["spec: Invalid value: m"],
        ),
        (
            rule(json!({"rule": "self.n < 2", "reason": "FieldValueForbidden", "message": "no"})),
            json!({"n": 3}),
            vec!["spec: Forbidden: no"],
        ),
        (
            rule(json!({"rule": "self.n < 2"})),
            json!({}),
            vec!["spec: Invalid value: \"object\": no such key: n evaluating rule: self.n < 2"],
        ),
        (
            json!({"type": "object", "properties": {"n": {"type": "integer",
                "x-kubernetes-validations": [{"rule": "self > 1"}]}}}),
            json!({"n": 1}),
            vec!["spec.n: Invalid value: 1: failed rule: self > 1"],
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string",
                "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}}),
            json!({"x": "b", "y": "a"}),
            vec!["spec[x]: Invalid value: \"b\": failed rule: self.startsWith('a')"],
        ),
    ];
    for (spec, object, wanted) in table {
        assert_eq!(faults(spec, object.clone(), None), wanted, "{object}");
    }
    let endless = with_rule(json!({"rule": "self.free.all(x, self.free.all(y, self.free.all(z, x + y != z)))"}));
    let many: Vec<String> = (0..200).map(|i| format!("item {i}")).collect();
    let wanted = "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further \
                  validation rules will be run due to call cost exceeds limit for rule: self.free.all(x, \
                  self.free.all(y, self.free.all(z, x + y != z)))";
    assert_eq!(faults(endless, json!({"free": many}), None), [wanted]);
}

#[test]
fn transitions_and_what_did_not_change() {
    let fixed = with_rule(json!({"rule": "self.n == oldSelf.n", "message": "fixed"}));
    assert_eq!(faults(fixed.clone(), json!({"n": 1}), None), [""; 0]);
    assert_eq!(faults(fixed.clone(), json!({"n": 1}), Some(json!({"n": 1}))), [""; 0]);
    assert_eq!(faults(fixed, json!({"n": 2}), Some(json!({"n": 1}))), ["spec: Invalid value: fixed"]);
    let optional = with_rule(json!({"rule": "oldSelf.hasValue() || self.n == 0", "optionalOldSelf": true}));
    assert_eq!(faults(optional.clone(), json!({"n": 1}), None).len(), 1);
    assert_eq!(faults(optional, json!({"n": 1}), Some(json!({"n": 1}))), [""; 0]);
    // A part that breaks a rule may stay as it is.
    let small = json!({"type": "object", "properties": {
        "a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 5"}]},
        "b": {"type": "integer"},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
            "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.v < 5"}, {"rule": "self.v >= oldSelf.v"}]}}}});
    let old = json!({"a": 9, "b": 1, "keyed": [{"k": "x", "v": 9}, {"k": "y", "v": 1}]});
    let new = json!({"a": 9, "b": 2, "keyed": [{"k": "y", "v": 2}, {"k": "x", "v": 9}]});
    assert_eq!(faults(small.clone(), new, Some(old.clone())), [""; 0]);
    let worse = json!({"a": 8, "b": 1, "keyed": [{"k": "x", "v": 8}, {"k": "z", "v": 0}]});
    let wanted = [
        "spec.a: Invalid value: 8: failed rule: self < 5",
        "spec.keyed[0]: Invalid value: failed rule: self.v < 5",
        "spec.keyed[0]: Invalid value: failed rule: self.v >= oldSelf.v",
    ];
    assert_eq!(faults(small, worse, Some(old)), wanted);
}
