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
