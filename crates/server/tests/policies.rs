//! Policies of admission, through the whole pipeline.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{CONFIG_MAPS, Server, config_map, start};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Makes an object of the group, and reads it back, so that the server has heard of it.
async fn make(server: &Server, kind: &str, name: &str, spec: Value) {
    let plural = if kind.ends_with("Policy") { kind.replace("Policy", "Policies") } else { format!("{kind}s") };
    let uri = format!("{GROUP}/{}", plural.to_ascii_lowercase());
    let api = "admissionregistration.k8s.io/v1";
    let tree = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec});
    server.post(&uri, &tree).await.ok();
    server.get(&format!("{uri}/{name}")).await.ok();
}

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}]})
}

async fn validating(server: &Server, name: &str, mut spec: Value, mut binding: Value) {
    spec["matchConstraints"] = constraints();
    make(server, "ValidatingAdmissionPolicy", name, spec).await;
    binding["policyName"] = json!(name);
    make(server, "ValidatingAdmissionPolicyBinding", &format!("{name}-binding"), binding).await;
}

#[tokio::test]
async fn policies_refuse_what_their_expressions_do_not_hold_for() {
    let server = start().await;
    let spec = json!({
        "variables": [{"name": "k", "expression": "object.data.k"}],
        "matchConditions": [{"name": "c", "expression": "!object.metadata.name.startsWith('free')"}],
        "validations": [
            {"expression": "variables.k != 'bad'", "messageExpression": "'no ' + variables.k"},
            {"expression": "variables.k != 'worse'", "message": "never", "reason": "Forbidden"},
            {"expression": "authorizer.requestResource.check('update').allowed()"},
        ],
    });
    validating(&server, "p", spec, json!({"validationActions": ["Deny"]})).await;
    server.post(CONFIG_MAPS, &config_map("good", "x")).await.ok();
    let refused = server.post(CONFIG_MAPS, &config_map("a", "bad")).await;
    let message =
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: no bad";
    assert_eq!(refused.refusal(), (422, "Invalid".to_owned(), message.to_owned()));
    let cause = "ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: no bad";
    assert_eq!(refused.json()["details"]["causes"], json!([{"message": cause}]));
    let refused = server.post(CONFIG_MAPS, &config_map("a", "worse")).await.refusal();
    assert_eq!((refused.0, &*refused.1), (403, "Forbidden"));
    server.post(CONFIG_MAPS, &config_map("free", "bad")).await.ok();
    let refused = server.merge(&format!("{CONFIG_MAPS}/good"), &json!({"data": {"k": "bad"}})).await.refusal();
    assert_eq!(refused.0, 422);
    let refused = server.post(CONFIG_MAPS, &json!({"metadata": {"name": "empty"}})).await.refusal().2;
    let error = "composited variable \"k\" fails to evaluate: no such key: data";
    assert!(refused.ends_with(&format!("resulted in error: {error}")), "{refused}");
    // Without its binding, a policy is nothing.
    server.delete(&format!("{GROUP}/validatingadmissionpolicybindings/p-binding")).await.ok();
    server.get(&format!("{GROUP}/validatingadmissionpolicybindings")).await.ok();
    server.post(CONFIG_MAPS, &config_map("a", "bad")).await.ok();
}

#[tokio::test]
async fn policies_have_parameters() {
    let server = start().await;
    server.post(CONFIG_MAPS, &config_map("limit", "5")).await.ok();
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "c", "expression": "object.metadata.name != 'limit'"}],
        "validations": [{"expression": "int(object.data.k) <= int(params.data.k)"}]});
    let reference = json!({"name": "limit", "parameterNotFoundAction": "Deny"});
    validating(&server, "p", spec, json!({"paramRef": reference, "validationActions": ["Deny"]})).await;
    server.post(CONFIG_MAPS, &config_map("small", "4")).await.ok();
    assert_eq!(server.post(CONFIG_MAPS, &config_map("large", "6")).await.code, 422);
    server.delete(&format!("{CONFIG_MAPS}/limit")).await.ok();
    server.get(CONFIG_MAPS).await.ok();
    let refused = server.post(CONFIG_MAPS, &config_map("small2", "4")).await.refusal().2;
    let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(refused.ends_with(why), "{refused}");
}

#[tokio::test]
async fn bindings_choose_where_policies_are_in_force() {
    let server = start().await;
    let spec = json!({"validations": [{"expression": "false"}]});
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    let binding = json!({"validationActions": ["Deny"], "matchResources": {"namespaceSelector": selector}});
    validating(&server, "p", spec, binding).await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    assert_eq!(server.post(&dry, &config_map("a", "x")).await.code, 422);
    let tree = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "other-"}});
    let made = server.post("/api/v1/namespaces", &tree).await.ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert_eq!(made["metadata"]["labels"], json!({"kubernetes.io/metadata.name": name}), "also of made-up names");
    server.post(&format!("/api/v1/namespaces/{name}/configmaps"), &config_map("a", "x")).await.ok();
}

#[tokio::test]
async fn policies_warn() {
    let server = start().await;
    let spec = json!({"validations": [{"expression": "object.data.k != 'bad'", "message": "careful"}]});
    validating(&server, "p", spec, json!({"validationActions": ["Warn", "Audit"]})).await;
    let made = server.post(CONFIG_MAPS, &config_map("a", "bad")).await;
    made.ok();
    let warning = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-binding': careful";
    assert_eq!(made.warnings().len(), 1);
    assert!(made.warnings()[0].contains(warning), "{:?}", made.warnings());
}

#[tokio::test]
async fn policies_change_objects() {
    let server = start().await;
    let mutations = json!([
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{labels: {'by': request.userInfo.username}}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/data/seen', value: object.metadata.labels['by'] + '!'}]"}},
    ]);
    let spec = json!({"matchConstraints": constraints(), "reinvocationPolicy": "Never", "mutations": mutations});
    make(&server, "MutatingAdmissionPolicy", "m", spec).await;
    make(&server, "MutatingAdmissionPolicyBinding", "mb", json!({"policyName": "m"})).await;
    let made = server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"app": "x", "by": "admin"}));
    assert_eq!(made["data"], json!({"k": "x", "seen": "admin!"}));
    let refused = server.post(CONFIG_MAPS, &json!({"metadata": {"name": "b"}})).await.refusal().2;
    assert!(refused.starts_with("policy 'm' with binding 'mb' denied request: JSON Patch: "), "{refused}");
}

fn crd(versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": versions}})
}

#[tokio::test]
async fn what_policies_apply_is_merged_by_the_kinds_own_lists() {
    let server = start().await;
    let list = |more: Value| {
        let item = json!({"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["name"]});
        let mut list = json!({"type": "array", "items": item});
        list.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        list
    };
    let keyed = list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}));
    let spec = json!({"type": "object", "properties": {"keyed": keyed, "whole": list(json!({}))}});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd(json!([version]))).await.ok();
    let things = json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["example.com"],
        "apiVersions": ["v1"], "resources": ["things"]}]});
    let condition = |name: &str| json!([{"name": "c", "expression": format!("object.metadata.name == '{name}'")}]);
    for (name, field) in [("keyed", "keyed"), ("whole", "whole"), ("none", "none")] {
        let expression = format!("Object{{spec: Object.spec{{{field}: [Object.spec.{field}{{name: 'b', n: 2}}]}}}}");
        let mutation = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]);
        let spec = json!({"matchConstraints": things, "matchConditions": condition(name),
            "reinvocationPolicy": "Never", "mutations": mutation});
        make(&server, "MutatingAdmissionPolicy", name, spec).await;
        make(&server, "MutatingAdmissionPolicyBinding", name, json!({"policyName": name})).await;
    }
    let uri = "/apis/example.com/v1/namespaces/default/things";
    let thing = |name: &str| {
        let items = json!([{"name": "a", "n": 1}, {"name": "b", "n": 1}]);
        json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name},
            "spec": {"keyed": items, "whole": items}})
    };
    let made = server.post(uri, &thing("keyed")).await.ok();
    assert_eq!(made["spec"]["keyed"], json!([{"name": "a", "n": 1}, {"name": "b", "n": 2}]));
    for (name, why) in [
        ("whole", "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.whole"),
        ("none", "failed to convert patch object to typed object: .spec.none: field not declared in schema"),
    ] {
        let refused = server.post(uri, &thing(name)).await.refusal();
        let wanted = format!("policy '{name}' with binding '{name}' denied request: error applying patch: {why}");
        assert_eq!(refused, (403, "Invalid".to_owned(), wanted));
    }
    let metrics = String::from_utf8_lossy(&server.get("/metrics").await.bytes).into_owned();
    let counted = |error: &str, name: &str, count: u64| {
        let labels = format!("error_type=\"{error}\",policy=\"{name}\",policy_binding=\"{name}\"");
        format!("apiserver_mutating_admission_policy_check_total{{{labels}}} {count}\n")
    };
    for line in [counted("no_error", "keyed", 1), counted("invalid_error", "whole", 1)] {
        assert!(metrics.contains(&line), "{line}");
    }
}

#[tokio::test]
async fn parameters_are_seen_in_the_version_that_is_asked_for() {
    let server = start().await;
    let field = |name: &str| {
        let spec = json!({"type": "object", "properties": {name: {"type": "integer"}, "both": {"type": "integer"}}});
        json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}})
    };
    let old = json!({"name": "v1", "served": true, "storage": true, "schema": field("old")});
    let new = json!({"name": "v2", "served": true, "storage": false, "schema": field("new")});
    server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd(json!([old, new]))).await.ok();
    let limit = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "limit"},
        "spec": {"old": 1, "both": 2}});
    server.post("/apis/example.com/v1/namespaces/default/things", &limit).await.ok();
    let spec = json!({"paramKind": {"apiVersion": "example.com/v2", "kind": "Thing"}, "validations": [
        {"expression": "false", "messageExpression": "params.apiVersion + string(has(params.spec.old)) + \
            string(params.spec.both)"}]});
    let reference = json!({"name": "limit", "parameterNotFoundAction": "Deny"});
    validating(&server, "p", spec, json!({"paramRef": reference, "validationActions": ["Deny", "Audit"]})).await;
    let refused = server.post(CONFIG_MAPS, &config_map("a", "x")).await.refusal().2;
    assert!(refused.ends_with("denied request: example.com/v2false2"), "{refused}");
    let metrics = String::from_utf8_lossy(&server.get("/metrics").await.bytes).into_owned();
    for action in ["deny", "audit"] {
        let labels = format!(
            "enforcement_action=\"{action}\",error_type=\"invalid_error\",policy=\"p\",policy_binding=\"p-binding\""
        );
        let line = format!("apiserver_validating_admission_policy_check_total{{{labels}}} 1\n");
        assert!(metrics.contains(&line), "{line}");
    }
}

#[tokio::test]
async fn types_are_checked_and_the_outcome_is_in_the_status() {
    let server = start().await;
    let uri = format!("{GROUP}/validatingadmissionpolicies/p");
    let looked = async |generation: i64| {
        let named = format!("{GROUP}/validatingadmissionpolicies?watch=1&fieldSelector=metadata.name%3Dp");
        let mut events = server.watch(&named, "application/json").await;
        loop {
            let policy = events.next().await.unwrap()["object"].clone();
            if policy["status"]["observedGeneration"] == generation {
                return policy["status"]["typeChecking"].clone();
            }
        }
    };
    let spec =
        |expression: &str| json!({"matchConstraints": constraints(), "validations": [{"expression": expression}]});
    make(&server, "ValidatingAdmissionPolicy", "p", spec("object.data.size() < 5")).await;
    assert_eq!(looked(1).await, json!({}));
    server.merge(&uri, &json!({"spec": spec("object.dat.size() < 5")})).await.ok();
    let warning =
        "/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined field 'dat'\n | object.dat.size() < 5\n | ......^\n";
    let warnings = json!([{"fieldRef": "spec.validations[0].expression", "warning": warning}]);
    assert_eq!(looked(2).await, json!({"expressionWarnings": warnings}));
}
