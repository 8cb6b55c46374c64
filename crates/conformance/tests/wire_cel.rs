//! What expressions decide: rules of custom kinds and policies of admission, against the API of `CONFORMANCE_KUBECONFIG`,
//! or against a server that is started for it.

#[path = "wire_cel/gatekeeper.rs"]
mod gatekeeper;
mod support;

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::Answer;
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, Outcome, accepted, expect};

const CASES: &[Case<Run>] = &[
    ("a_definition_is_refused_for_rules_that_do_not_fit", definitions_are_refused),
    ("rules_judge_objects", rules_judge),
    ("rules_compare_with_what_was", rules_compare),
    ("a_policy_is_refused_for_expressions_that_do_not_fit", policies_are_refused),
    ("policies_refuse", policies_refuse),
    ("policies_have_parameters", policies_have_parameters),
    ("policies_warn", policies_warn),
    ("policies_change_objects", policies_change),
    ("pods_are_kept_by_common_rules", gatekeeper::pods_are_kept),
    ("other_objects_are_kept_by_common_rules", gatekeeper::others_are_kept),
];

fn main() {
    std::process::exit(cases::run_with(Run::start(73), CASES));
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1";

/// Refused with a message that ends so.
fn refused(answer: &Answer, code: u16, end: &str) -> Outcome {
    expect(answer.code == code && answer.text("message").ends_with(end), answer)
        .map_err(|got| format!("wanted {code} ...{end}\ngot {got}"))
}

impl Run {
    /// A definition whose `spec` has this schema, and the path of its objects once they are served.
    fn define(&mut self, spec: Value) -> Result<String, String> {
        let plural = format!("cels{}{}", std::process::id(), self.number());
        self.make(DEFINITIONS, &definition(&plural, spec))?;
        let objects = format!("/apis/cel.example.com/v1/namespaces/default/{plural}");
        self.until(|| self.json(Method::GET, &objects, &Value::Null), |answer| answer.code == 200)?;
        Ok(objects)
    }

    /// A policy about a namespace's config maps, with its binding; the policy's name.
    fn policy(&mut self, kind: &str, path: &str, mut spec: Value, mut binding: Value) -> Result<String, String> {
        let name = format!("cel-{}-{}", std::process::id(), self.number());
        spec["matchConstraints"] = constraints();
        let namespace = path.rsplit('/').next().unwrap_or_default();
        let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
        binding["matchResources"] = json!({"namespaceSelector": selector});
        binding["policyName"] = json!(name);
        for (kind, plural, spec) in [
            (format!("{kind}Policy"), format!("{kind}policies"), spec),
            (format!("{kind}PolicyBinding"), format!("{kind}policybindings"), binding),
        ] {
            let collection = format!("{POLICIES}/{}", plural.to_ascii_lowercase());
            let api = "admissionregistration.k8s.io/v1";
            let tree = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec});
            self.make(&collection, &tree)?;
        }
        Ok(name)
    }
}

fn definition(plural: &str, spec: Value) -> Value {
    let kind = format!("Cel{}", &plural[4..]);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.cel.example.com")}, "spec": {"group": "cel.example.com",
        "scope": "Namespaced", "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
        "listKind": format!("{kind}List")}, "versions": [{"name": "v1", "served": true, "storage": true,
        "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
        "spec": spec, "status": {"type": "object", "properties": {"n": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "self < 10"}]}}}}}}}]}})
}

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}]})
}

fn object(path: &str, name: &str, spec: Value) -> Value {
    let kind = format!("Cel{}", &path[path.rfind('/').map_or(0, |i| i + 1) + 4..]);
    json!({"apiVersion": "cel.example.com/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

fn definitions_are_refused(run: &mut Run) -> Outcome {
    let exceeds = "exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, \
                   maxProperties, and maxLength where arrays, maps, and strings are declared)";
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    let shown = |rule: &str, said: &str| {
        format!(
            r#"Invalid value: {{"Rule":{rule},"Message":"","MessageExpression":"{said}","Reason":null,"FieldPath":"","OptionalOldSelf":null}}"#
        )
    };
    for (rule, end) in [
        (
            json!({"rule": "self.n > 'a'"}),
            format!(
                "is invalid: {at}.rule: {}: compilation failed: ERROR: <input>:1:8: found no matching overload for '_>_' \
                 applied to '(int, string)'\n | self.n > 'a'\n | .......^",
                shown("\"self.n \\u003e 'a'\"", "")
            ),
        ),
        (
            json!({"rule": "self.n"}),
            format!("is invalid: {at}.rule: {}: cel expression must evaluate to a bool", shown("\"self.n\"", "")),
        ),
        (
            json!({"rule": "self.n > 1 1"}),
            format!(
                "is invalid: {at}.rule: {}: compilation failed: ERROR: <input>:1:12: Syntax error: extraneous input '1' \
                 expecting <EOF>\n | self.n > 1 1\n | ...........^",
                shown("\"self.n \\u003e 1 1\"", "")
            ),
        ),
        (
            json!({"rule": "true", "messageExpression": "self.n"}),
            format!(
                "is invalid: {at}.messageExpression: {}: messageExpression must evaluate to a string",
                shown("\"true\"", "self.n")
            ),
        ),
        (
            json!({"rule": "self.n > 1", "optionalOldSelf": true}),
            format!(
                "is invalid: {at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            ),
        ),
        (
            json!({"rule": "self.n > 1", "fieldPath": ".x"}),
            format!("is invalid: {at}.fieldPath: Invalid value: \".x\": must be a valid path"),
        ),
        (
            json!({"rule": "self.l.all(x, self.l.all(y, x == y))"}),
            format!(
                "is invalid: [{at}.rule: Forbidden: estimated rule cost {exceeds}, {at}.rule: Forbidden: contributed to \
                 estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema, \
                 spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for \
                 entire OpenAPIv3 schema {exceeds}]"
            ),
        ),
    ] {
        let spec = json!({"type": "object", "x-kubernetes-validations": [rule], "properties": {"n": {"type": "integer"},
            "l": {"type": "array", "items": {"type": "string"}}}});
        refused(&run.post(DEFINITIONS, &definition("celsbad", spec))?, 422, &end)?;
    }
    Ok(())
}

fn rules_judge(run: &mut Run) -> Outcome {
    let path = run.define(json!({"type": "object", "properties": {
        "n": {"type": "integer"}, "max": {"type": "integer"}, "a-b": {"type": "string", "maxLength": 9},
        "port": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [
            {"rule": "type(self) == int ? self > 0 : self.endsWith('%')", "message": "a port"}]},
        "tags": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set",
            "items": {"type": "string", "maxLength": 9}}},
        "x-kubernetes-validations": [
            {"rule": "!has(self.n) || self.n <= self.max", "messageExpression": "'at most ' + (self.max == 2 ? 'two' : 'some')",
                "fieldPath": ".n"},
            {"rule": "!has(self.a__dash__b) || self.a__dash__b != 'x'", "reason": "FieldValueForbidden", "message": "no"},
            {"rule": "!has(self.tags) || self.tags == ['b', 'a']"}]}))?;
    for (name, spec, end) in [
        ("ok", json!({"n": 1, "max": 2, "port": 80, "tags": ["a", "b"]}), None),
        ("percent", json!({"port": "80%"}), None),
        ("n", json!({"n": 3, "max": 2}), Some("is invalid: spec.n: Invalid value: at most two")),
        (
            "missing",
            json!({"n": 3}),
            Some(
                "is invalid: spec: Invalid value: \"object\": no such key: max evaluating rule: !has(self.n) || self.n <= \
                 self.max",
            ),
        ),
        ("dash", json!({"a-b": "x"}), Some("is invalid: spec: Forbidden: no")),
        ("port", json!({"port": "x"}), Some("is invalid: spec.port: Invalid value: \"x\": a port")),
        (
            "tags",
            json!({"tags": ["c"]}),
            Some("is invalid: spec: Invalid value: failed rule: !has(self.tags) || self.tags == ['b', 'a']"),
        ),
        (
            "blocked",
            json!({"n": "x"}),
            Some(
                "spec.n: Invalid value: \"string\": spec.n in body must be of type integer: \"string\", <nil>: Invalid \
                 value: null: some validation rules were not checked because the object was invalid; correct the existing \
                 errors to complete validation]",
            ),
        ),
    ] {
        let answer = run.post(&path, &object(&path, name, spec))?;
        match end {
            None => accepted(&answer)?,
            Some(end) => refused(&answer, 422, end)?,
        }
    }
    let status = |n: i64| json!({"status": {"n": n}});
    accepted(&run.merge(&format!("{path}/ok/status"), &status(1))?)?;
    let end = "is invalid: status.n: Invalid value: 10: failed rule: self < 10";
    refused(&run.merge(&format!("{path}/ok/status"), &status(10))?, 422, end)
}

fn rules_compare(run: &mut Run) -> Outcome {
    let path = run.define(json!({"type": "object", "properties": {
        "fixed": {"type": "string", "maxLength": 9, "x-kubernetes-validations": [
            {"rule": "self == oldSelf", "message": "is fixed"}]},
        "small": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 5"}]},
        "other": {"type": "integer"},
        "first": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "oldSelf.hasValue() || self == 0", "optionalOldSelf": true, "message": "begins at 0"}]},
        "keyed": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "maxLength": 5},
            "v": {"type": "integer"}}, "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v"}]}}}}))?;
    let spec = json!({"fixed": "a", "first": 0, "keyed": [{"k": "x", "v": 2}, {"k": "y", "v": 1}]});
    accepted(&run.post(&path, &object(&path, "a", spec))?)?;
    let at = format!("{path}/a");
    let change = |spec: Value| run.merge(&at, &json!({"spec": spec}));
    refused(&change(json!({"fixed": "b"}))?, 422, "spec.fixed: Invalid value: \"b\": is fixed")?;
    accepted(&change(json!({"first": 7}))?)?;
    let begun = object(&path, "b", json!({"first": 7}));
    refused(&run.post(&path, &begun)?, 422, "spec.first: Invalid value: 7: begins at 0")?;
    accepted(&change(json!({"keyed": [{"k": "y", "v": 1}, {"k": "x", "v": 3}, {"k": "z", "v": 0}]}))?)?;
    let end = "spec.keyed[1]: Invalid value: failed rule: self.v >= oldSelf.v";
    refused(&change(json!({"keyed": [{"k": "z", "v": 0}, {"k": "x", "v": 1}]}))?, 422, end)?;
    refused(&change(json!({"small": 9}))?, 422, "spec.small: Invalid value: 9: failed rule: self < 5")
}

fn policies_are_refused(run: &mut Run) -> Outcome {
    let spec = json!({"matchConstraints": constraints(),
        "matchConditions": [{"name": "c", "expression": "variables.a == 1"}],
        "variables": [{"name": "a", "expression": "1 + 'x'"}],
        "validations": [{"expression": "1"}, {"expression": "params.x"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "1"}]});
    let tree = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "bad"}, "spec": spec});
    let end = "is invalid: [spec.matchConditions[0].expression: Invalid value: \"variables.a == 1\": compilation failed: \
               ERROR: <input>:1:1: undeclared reference to 'variables' (in container '')\n | variables.a == 1\n | ^, \
               spec.variables[0].expression: Invalid value: \"1 + 'x'\": compilation failed: ERROR: <input>:1:3: found no \
               matching overload for '_+_' applied to '(int, string)'\n | 1 + 'x'\n | ..^, \
               spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool but got int, \
               spec.validations[1].expression: Invalid value: \"params.x\": compilation failed: ERROR: <input>:1:1: \
               undeclared reference to 'params' (in container '')\n | params.x\n | ^, \
               spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string \
               null_type] but got int]";
    refused(&run.post(&format!("{POLICIES}/validatingadmissionpolicies"), &tree)?, 422, end)
}

fn policies_refuse(run: &mut Run) -> Outcome {
    let path = run.namespace(json!({}))?;
    let spec = json!({
        "variables": [{"name": "k", "expression": "object.data.k"}],
        "matchConditions": [{"name": "c", "expression": "!object.metadata.name.startsWith('free')"}],
        "validations": [
            {"expression": "variables.k != 'bad'", "messageExpression": "'no ' + variables.k"},
            {"expression": "variables.k != 'worse'", "message": "never", "reason": "Forbidden"},
            {"expression": "namespaceObject.metadata.name == request.namespace && oldObject == null"}]});
    let name = run.policy("ValidatingAdmission", &path, spec, json!({"validationActions": ["Deny"]}))?;
    let dry = format!("{path}/configmaps?dryRun=All");
    let told = format!("ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: ");
    let answer = run.until(|| run.post(&dry, &config_map("a", "bad")), |answer| answer.code >= 300)?;
    refused(&answer, 422, &format!("configmaps \"a\" is forbidden: {told}no bad"))?;
    expect(answer.text("reason") == "Invalid", &answer)?;
    let causes = answer.tree()["details"]["causes"].clone();
    expect(causes == json!([{"message": format!("{told}no bad")}]), &answer)?;
    refused(&run.post(&dry, &config_map("a", "worse"))?, 403, &format!("{told}never"))?;
    accepted(&run.post(&dry, &config_map("free", "bad"))?)?;
    accepted(&run.post(&dry, &config_map("a", "good"))?)?;
    let bare = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let end = format!(
        "{told}expression 'variables.k != 'bad'' resulted in error: composited variable \"k\" fails to evaluate: no such \
         key: data"
    );
    refused(&run.post(&dry, &bare)?, 422, &end)
}

fn policies_have_parameters(run: &mut Run) -> Outcome {
    let path = run.namespace(json!({}))?;
    let collection = format!("{path}/configmaps");
    accepted(&run.post(&collection, &config_map("limit", "5"))?)?;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "int(object.data.k) <= int(params.data.k)"}]});
    let reference = json!({"name": "limit", "parameterNotFoundAction": "Deny"});
    let binding = json!({"paramRef": reference, "validationActions": ["Deny"]});
    let name = run.policy("ValidatingAdmission", &path, spec, binding)?;
    let dry = format!("{collection}?dryRun=All");
    let told = format!("ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: ");
    let end = format!("{told}failed expression: int(object.data.k) <= int(params.data.k)");
    let answer =
        run.until(|| run.post(&dry, &config_map("a", "6")), |answer| answer.text("message").ends_with(&end))?;
    refused(&answer, 422, &end)?;
    accepted(&run.post(&dry, &config_map("a", "4"))?)?;
    accepted(&run.json(Method::DELETE, &format!("{collection}/limit"), &Value::Null)?)?;
    let end = format!(
        "{told}failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
    let answer = run.until(|| run.post(&dry, &config_map("a", "4")), |answer| answer.code >= 300)?;
    refused(&answer, 422, &end)
}

fn policies_warn(run: &mut Run) -> Outcome {
    let path = run.namespace(json!({}))?;
    let spec = json!({"validations": [{"expression": "object.data.k != 'bad'", "message": "careful"}]});
    let name = run.policy("ValidatingAdmission", &path, spec, json!({"validationActions": ["Warn"]}))?;
    let dry = format!("{path}/configmaps?dryRun=All");
    let warning = format!("Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{name}': careful");
    let told = |answer: &Answer| answer.warnings().iter().any(|text| text.contains(&warning));
    accepted(&run.until(|| run.post(&dry, &config_map("a", "bad")), told)?)
}

fn policies_change(run: &mut Run) -> Outcome {
    let path = run.namespace(json!({}))?;
    let spec = json!({"reinvocationPolicy": "Never", "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{labels: {'by': request.operation}}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/data/seen', value: object.metadata.labels['by'] + '!'}]"}}]});
    run.policy("MutatingAdmission", &path, spec, json!({}))?;
    let dry = format!("{path}/configmaps?dryRun=All");
    let changed = |answer: &Answer| answer.tree()["metadata"]["labels"] == json!({"by": "CREATE"});
    let answer = run.until(|| run.post(&dry, &config_map("a", "x")), changed)?;
    expect(answer.tree()["data"] == json!({"k": "x", "seen": "CREATE!"}), &answer)
}
