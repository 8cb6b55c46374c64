//! Webhooks and what is not quite a plain object: custom kinds, definitions, connections, configurations of webhooks.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::hook::{allow, at_once, patch};
use super::{HOOKS, Run, config_map, pod, refused};
use crate::support::{accepted, expect};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GROUP: &str = "hooks.example.com";

fn rules(operations: &[&str], group: &str, version: &str, resources: &[&str]) -> Value {
    json!([{"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": resources}])
}

fn deny(why: &str) -> Value {
    json!({"allowed": false, "status": {"message": why}})
}

/// A custom kind with two versions, one of which knows less; `v1` is stored.
fn define(run: &mut Run) -> Result<(String, String), String> {
    let plural = format!("hooked{}{}", std::process::id(), run.number());
    let kind = format!("Hooked{}", &plural[6..]);
    let data = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let version = |name: &str| {
        json!({"name": name, "served": true, "storage": name == "v1", "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"data": data}}}})
    };
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")}, "spec": {"group": GROUP, "scope": "Namespaced",
        "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
        "versions": [version("v1"), version("v2")]}});
    run.make(DEFINITIONS, &definition)?;
    for version in ["v1", "v2"] {
        let objects = format!("/apis/{GROUP}/{version}/{plural}");
        run.until(|| run.json(Method::GET, &objects, &Value::Null), |answer| answer.code == 200)?;
    }
    Ok((plural, kind))
}

fn custom(kind: &str, version: &str, name: &str, data: Value) -> Value {
    json!({"apiVersion": format!("{GROUP}/{version}"), "kind": kind, "metadata": {"name": name}, "data": data})
}

/// Custom objects are changed and refused as all others; what their schema does not know goes again.
pub(super) fn of_custom_kinds(run: &mut Run) -> Result<(), String> {
    let (plural, kind) = define(run)?;
    let path = run.home_with(json!({}))?;
    let objects = |version: &str| path.replace("/api/v1/", &format!("/apis/{GROUP}/{version}/")) + "/" + &plural;
    let changing = run.hook(at_once(|_| {
        patch(&json!([
            {"op": "add", "path": "/data/hooked", "value": "yes"},
            {"op": "add", "path": "/unknown", "value": "pruned"},
        ]))
    }));
    let judging = run.hook(at_once(|request| {
        let kept = request["oldObject"]["data"]["k"] == "kept";
        let object = &request["object"]["data"]["k"];
        if object == "bad" || kept && request["operation"] == "DELETE" { deny("not this one") } else { allow() }
    }));
    let all = rules(&["*"], GROUP, "v1", &[&plural]);
    let written = rules(&["CREATE", "UPDATE"], GROUP, "v1", &[&plural]);
    let entry = |rules: &Value| json!({"rules": rules, "matchPolicy": "Equivalent"});
    let entries = json!([changing.entry("m.example.com", entry(&written))]);
    run.configure("MutatingWebhookConfiguration", &path, entries)?;
    run.configure("ValidatingWebhookConfiguration", &path, json!([judging.entry("v.example.com", entry(&all))]))?;
    let one = objects("v1");
    let why = "admission webhook \"v.example.com\" denied the request: not this one";
    let dry = format!("{one}?dryRun=All");
    let bad = || run.post(&dry, &custom(&kind, "v1", "a", json!({"k": "bad"})));
    let denied = run.until(bad, |answer| answer.code >= 300)?;
    refused(&denied, 400, why)?;
    let good = || run.post(&dry, &custom(&kind, "v1", "a", json!({"k": "kept"})));
    run.until(good, |answer| answer.tree()["data"]["hooked"] == "yes")?;
    // Another version than the one the rules name is shown to the webhook as that one.
    let made = run.post(&objects("v2"), &custom(&kind, "v2", "a", json!({"k": "kept"})))?;
    let tree = made.tree();
    let pruned = tree["data"] == json!({"k": "kept", "hooked": "yes"}) && tree.get("unknown").is_none();
    expect(made.code == 201 && pruned, &made)?;
    let asked = changing.seen.lock().last().cloned().unwrap_or_default();
    if asked["object"]["apiVersion"] != format!("{GROUP}/v1") || asked["requestResource"]["version"] != "v2" {
        return Err(asked.to_string());
    }
    let item = format!("{one}/a");
    refused(&run.merge(&item, &json!({"data": {"k": "bad"}}))?, 400, why)?;
    refused(&run.json(Method::DELETE, &item, &Value::Null)?, 400, why)?;
    accepted(&run.merge(&item, &json!({"data": {"k": "let go"}}))?)?;
    accepted(&run.json(Method::DELETE, &item, &Value::Null)?)
}

/// Definitions of kinds are refused, and who attaches to a pod.
pub(super) fn of_definitions_and_connections(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    let hook = run.hook(at_once(|_| deny("not here")));
    let namespace = path.rsplit('/').next().unwrap_or_default().to_owned();
    let attach = rules(&["CONNECT"], "", "v1", &["pods/attach"]);
    run.configure(
        "ValidatingWebhookConfiguration",
        &path,
        json!([hook.entry("a.example.com", json!({"rules": attach}))]),
    )?;
    accepted(&run.post(&format!("{path}/pods"), &pod("p", json!({})))?)?;
    let attached = || run.post(&format!("{path}/pods/p/attach?stdout=true"), &Value::Null);
    let why = |name: &str| format!("admission webhook {name:?} denied the request: not here");
    let denied = run.until(attached, |answer| answer.text("message").starts_with("admission webhook"))?;
    refused(&denied, 400, &why("a.example.com"))?;
    // Definitions have no namespace to choose by.
    let entry = hook.entry(
        "d.example.com",
        json!({"rules": rules(&["CREATE"], "apiextensions.k8s.io", "*", &["customresourcedefinitions"]),
            "objectSelector": {"matchLabels": {"refused": namespace}}}),
    );
    let tree = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"generateName": "conformance-"}, "webhooks": [entry]});
    run.make(&format!("{HOOKS}validatingwebhookconfigurations"), &tree)?;
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("refused.{GROUP}"), "labels": {"refused": namespace}},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": {"plural": "refused", "kind": "Refused"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    let create = || run.post(&format!("{DEFINITIONS}?dryRun=All"), &definition);
    let denied = run.until(create, |answer| answer.code >= 300)?;
    refused(&denied, 400, &why("d.example.com"))
}

/// Nobody is asked about configurations of webhooks, so that they can always be mended.
pub(super) fn leave_configurations_alone(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    let label = path.rsplit('/').next().unwrap_or_default().to_owned();
    let hook = run.hook(at_once(|_| deny("never")));
    let chosen = json!({"matchLabels": {"mine": label}});
    let everything = json!([
        {"operations": ["*"], "apiGroups": ["admissionregistration.k8s.io"], "apiVersions": ["*"], "resources": ["*"]},
        {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]},
    ]);
    let entry = hook.entry("all.example.com", json!({"rules": everything, "objectSelector": chosen}));
    let configuration = |kind: &str, entry: &Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"generateName": "conformance-", "labels": {"mine": label}}, "webhooks": [entry]})
    };
    let kinds = ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"];
    for kind in kinds {
        run.make(&format!("{HOOKS}{}s", kind.to_lowercase()), &configuration(kind, &entry))?;
    }
    // That it is asked is seen by another kind; the one that changes comes first.
    let mut map = config_map("a", "v");
    map["metadata"]["labels"] = json!({"mine": label});
    run.until(|| run.post(&format!("{path}/configmaps?dryRun=All"), &map), |answer| answer.code == 400)?;
    let asked = || hook.seen.lock().len();
    let idle = hook.entry("idle.example.com", json!({"rules": []}));
    let before = asked();
    for kind in kinds {
        let collection = format!("{HOOKS}{}s", kind.to_lowercase());
        let made = run.post(&collection, &configuration(kind, &idle))?;
        let unchanged = made.tree()["metadata"]["labels"] == json!({"mine": label});
        expect(made.code == 201 && unchanged, &made)?;
        let name = made.tree()["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        accepted(&run.json(Method::DELETE, &format!("{collection}/{name}"), &Value::Null)?)?;
    }
    if asked() == before { Ok(()) } else { Err(format!("{:?}", hook.seen.lock().last())) }
}

/// A webhook that never answers is waited for as long as its configuration says.
pub(super) fn have_their_time(run: &mut Run) -> Result<(), String> {
    let slow = run.hook(Arc::new(|_| Box::pin(std::future::pending())));
    for (policy, code) in [("Fail", 500), ("Ignore", 201)] {
        let path = run.home_with(json!({}))?;
        let entry = slow.entry("slow.example.com", json!({"timeoutSeconds": 1, "failurePolicy": policy}));
        run.configure("ValidatingWebhookConfiguration", &path, json!([entry]))?;
        let before = slow.seen.lock().len();
        let create = || run.post(&format!("{path}/configmaps?dryRun=All"), &config_map("a", "v"));
        // The first that the webhook hears of is judged by it.
        let answer = run.until(create, |_| slow.seen.lock().len() > before)?;
        let late = answer.text("message").ends_with("context deadline exceeded");
        expect(answer.code == code && late == (code == 500), &answer)?;
    }
    Ok(())
}

/// Configurations are found by labels, change what is asked at once, and go together; bad conditions are refused.
pub(super) fn change_and_go_together(run: &mut Run) -> Result<(), String> {
    for (kind, operation) in [("MutatingWebhookConfiguration", "add"), ("ValidatingWebhookConfiguration", "none")] {
        let path = run.home_with(json!({}))?;
        let label = path.rsplit('/').next().unwrap_or_default().to_owned();
        let hook = run.hook(at_once(move |_| match operation {
            "add" => patch(&json!([{"op": "add", "path": "/data/hooked", "value": "yes"}])),
            _ => deny("no"),
        }));
        let collection = format!("{HOOKS}{}s", kind.to_lowercase());
        let mut paths = Vec::new();
        for _ in 0..2 {
            let made = run.configure(kind, &path, json!([hook.entry("h.example.com", json!({}))]))?;
            accepted(&run.merge(&made, &json!({"metadata": {"labels": {"mine": label}}}))?)?;
            paths.push(made);
        }
        let selected = format!("{collection}?labelSelector=mine%3D{label}");
        let list = run.json(Method::GET, &selected, &Value::Null)?;
        expect(list.tree()["items"].as_array().is_some_and(|items| items.len() == 2), &list)?;
        let create = || run.post(&format!("{path}/configmaps?dryRun=All"), &config_map("a", "v"));
        let touched =
            |answer: &skiff_conformance::Answer| answer.code == 400 || answer.tree()["data"].get("hooked").is_some();
        run.until(create, touched)?;
        for operations in [json!(["UPDATE"]), json!(["CREATE"])] {
            let wanted = operations == json!(["CREATE"]);
            for made in &paths {
                let change = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": operations}]);
                let types = ("application/json-patch+json", "application/json");
                let own = skiff_conformance::Credentials::Own;
                let sent = run.wire.send(own, &Method::PATCH, made, types, change.to_string());
                accepted(&run.runtime.block_on(sent)?)?;
            }
            run.until(create, |answer| touched(answer) == wanted)?;
        }
        accepted(&run.json(Method::DELETE, &selected, &Value::Null)?)?;
        run.until(create, |answer| answer.code == 201 && !touched(answer))?;
        let condition = json!({"matchConditions": [{"name": "bad", "expression": "... [] bad expression"}]});
        let bad = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"generateName": "conformance-"}, "webhooks": [hook.entry("h.example.com", condition)]});
        let answer = run.post(&collection, &bad)?;
        let why = answer.text("message");
        expect(
            answer.code == 422 && why.contains("matchConditions[0].expression") && why.contains("compilation failed"),
            &answer,
        )?;
    }
    Ok(())
}

/// What a webhook adds to a pod is filled in like the rest of it.
pub(super) fn come_before_defaults(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    let hook = run.hook(at_once(|_| {
        let added = json!([{"name": "added", "image": "example.com/added:1"}]);
        patch(&json!([{"op": "add", "path": "/spec/initContainers", "value": added}]))
    }));
    let pods = rules(&["CREATE"], "", "v1", &["pods"]);
    run.configure("MutatingWebhookConfiguration", &path, json!([hook.entry("p.example.com", json!({"rules": pods}))]))?;
    let create = || run.post(&format!("{path}/pods?dryRun=All"), &pod("p", json!({})));
    let answer = run.until(create, |answer| answer.tree()["spec"]["initContainers"].is_array())?;
    let added = answer.tree()["spec"]["initContainers"][0].clone();
    let filled = added["imagePullPolicy"] == "IfNotPresent"
        && added["terminationMessagePath"] == "/dev/termination-log"
        && added["terminationMessagePolicy"] == "File";
    expect(filled, &answer)
}
