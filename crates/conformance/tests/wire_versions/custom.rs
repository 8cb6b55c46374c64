//! Custom kinds as clients find them: in lists of definitions, in discovery, in documents, and with their fields looked at.

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::{Answer, Credentials};

use super::{DEFINITIONS, GROUP, Run, accepting, has, version};
use crate::support::{Outcome, accepted, expect};

fn text() -> Value {
    json!({"type": "string"})
}

/// Definitions are objects: found by labels, with a status of their own, watched, and deleted together.
pub(super) fn definitions_are_objects(run: &mut Run) -> Outcome {
    let versions = json!([version("v1", json!({"a": text()}), &[])]);
    let (one, two) = (
        run.define(versions.clone(), json!({"strategy": "None"}))?,
        run.define(versions, json!({"strategy": "None"}))?,
    );
    let label = format!("mine%3D{}", one.plural);
    let before = run.get(&format!("{DEFINITIONS}?limit=1"))?.tree()["metadata"]["resourceVersion"].clone();
    for defined in [&one, &two] {
        accepted(&run.merge(&defined.path, &json!({"metadata": {"labels": {"mine": one.plural}}}))?)?;
    }
    let selected = format!("{DEFINITIONS}?labelSelector={label}");
    let list = run.get(&selected)?;
    expect(list.tree()["items"].as_array().is_some_and(|items| items.len() == 2), &list)?;
    // The status is read, put and patched by itself.
    let status = format!("{}/status", one.path);
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "Told", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let told = |answer: &Answer, kind: &str| {
        let conditions = answer.tree()["status"]["conditions"].clone();
        conditions.as_array().is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["reason"] == "Told"))
    };
    let put = || {
        let mut object = run.get(&status)?.tree();
        if let Some(all) = object["status"]["conditions"].as_array_mut() {
            all.push(condition("Put"));
        }
        object["spec"]["scope"] = "Cluster".into();
        run.json(Method::PUT, &status, &object)
    };
    let answer = run.until(put, |answer| answer.code != 409)?;
    expect(answer.code == 200 && told(&answer, "Put") && answer.tree()["spec"]["scope"] == "Namespaced", &answer)?;
    let types = ("application/json-patch+json", "application/json");
    let patch = json!([{"op": "add", "path": "/status/conditions/-", "value": condition("Patched")}]).to_string();
    let patched = run.runtime.block_on(run.wire.send(Credentials::Own, &Method::PATCH, &status, types, patch))?;
    expect(patched.code == 200 && told(&patched, "Patched"), &patched)?;
    accepted(&run.json(Method::DELETE, &selected, &Value::Null)?)?;
    run.until(|| run.get(&selected), |answer| answer.tree()["items"] == json!([]))?;
    run.until(|| run.get(&one.objects("v1")), |answer| answer.code == 404)?;
    let since = before.as_str().unwrap_or_default();
    let watched = run.get(&format!("{DEFINITIONS}?watch=1&timeoutSeconds=2&resourceVersion={since}"))?;
    let gone = String::from_utf8_lossy(&watched.bytes)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["type"] == "DELETED" && event["object"]["metadata"]["labels"]["mine"] == one.plural)
        .count();
    expect(gone == 2, &watched)
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Discovery in all its forms tells of a kind as soon as it is there, and no more when it has gone.
pub(super) fn discovery(run: &mut Run) -> Outcome {
    let versions = json!([version("v1", json!({}), &[]), version("v2", json!({}), &[])]);
    let defined = run.define(versions, json!({"strategy": "None"}))?;
    let asked = |path: &str, accept: &str| accepting(run, Method::GET, path, accept, &Value::Null);
    let groups = asked("/apis", "application/json")?.tree();
    let all = groups["groups"].as_array().cloned().unwrap_or_default();
    for group in &all {
        let name = group["name"].as_str().unwrap_or_default();
        let preferred = &group["preferredVersion"];
        let own = run.get(&format!("/apis/{name}"))?.tree();
        let listed = group["versions"].as_array().is_some_and(|versions| versions.contains(preferred));
        if !listed || own["preferredVersion"] != *preferred || own["versions"] != group["versions"] {
            return Err(format!("{group}\n{own}"));
        }
        let of_version = format!("/apis/{}", preferred["groupVersion"].as_str().unwrap_or_default());
        let resources = run.get(&of_version)?.tree();
        if resources["groupVersion"] != preferred["groupVersion"] || !resources["resources"].is_array() {
            return Err(format!("{of_version}: {resources}"));
        }
    }
    let hooks = run.get("/apis/admissionregistration.k8s.io/v1")?;
    let names: Vec<Value> =
        hooks.tree()["resources"].as_array().into_iter().flatten().map(|resource| resource["name"].clone()).collect();
    for name in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        expect(names.contains(&name.into()), &hooks)?;
    }
    let of_group = |tree: &Value| {
        let items = tree["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().find(|item| item["metadata"]["name"] == GROUP)
    };
    let tells = |answer: &Answer| {
        let group = of_group(&answer.tree()).unwrap_or_default();
        let versions = group["versions"].as_array().cloned().unwrap_or_default();
        let found: Vec<Value> = versions
            .iter()
            .filter(|version| {
                let resources = version["resources"].as_array().into_iter().flatten();
                resources.clone().any(|resource| {
                    resource["resource"] == defined.plural
                        && resource["responseKind"]["kind"] == defined.kind
                        && resource["scope"] == "Namespaced"
                })
            })
            .map(|version| version["version"].clone())
            .collect();
        found == ["v2", "v1"]
    };
    let both = format!("{AGGREGATED},application/json");
    for accept in [AGGREGATED, &*both] {
        let answer = run.until(|| asked("/apis", accept), tells)?;
        has(&answer, json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2"}))?;
    }
    let core = asked("/api", AGGREGATED)?.tree();
    let pods = core["items"][0]["versions"][0]["resources"].as_array().cloned().unwrap_or_default();
    if !pods.iter().any(|resource| resource["resource"] == "pods" && resource["subresources"].is_array()) {
        return Err(core.to_string());
    }
    // Asked for plainly or by a version that is unknown, the old form comes.
    for accept in ["application/json", "", "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,*/*"] {
        has(&asked("/apis", accept)?, json!({"kind": "APIGroupList"}))?;
    }
    let resources = run.get(&format!("/apis/{GROUP}/v2"))?.tree();
    let mine = resources["resources"].as_array().cloned().unwrap_or_default();
    if !mine.iter().any(|resource| resource["name"] == defined.plural && resource["kind"] == defined.kind) {
        return Err(resources.to_string());
    }
    accepted(&run.json(Method::DELETE, &defined.path, &Value::Null)?)?;
    run.until(|| asked("/apis", AGGREGATED), |answer| !tells(answer))?;
    Ok(())
}

/// Documents follow a definition's versions, and tell the kinds of a group apart.
pub(super) fn documents_follow(run: &mut Run) -> Outcome {
    let none = || json!({"strategy": "None"});
    let one = run.define(json!([version("v1", json!({"a": text()}), &[]), version("v2", json!({}), &[])]), none())?;
    let two = run.define(json!([version("v1", json!({"b": text()}), &[])]), none())?;
    let document = |version: &str| run.get(&format!("/openapi/v3/apis/{GROUP}/{version}"));
    let schema = |answer: &Answer, version: &str, kind: &str| {
        answer.tree()["components"]["schemas"][format!("com.example.versions.{version}.{kind}")].take()
    };
    for (kind, property) in [(&one.kind, "a"), (&two.kind, "b")] {
        run.until(|| document("v1"), |answer| schema(answer, "v1", kind)["properties"][property]["type"] == "string")?;
        let name = format!("com.example.versions.v1.{kind}");
        run.until(|| run.get("/openapi/v2"), |answer| answer.tree()["definitions"][&name]["properties"].is_object())?;
    }
    run.until(|| document("v2"), |answer| schema(answer, "v2", &one.kind).is_object())?;
    // A version that is called otherwise, and one that is no more served.
    let definition = |version: &str, there: bool| {
        let name = format!("com.example.versions.{version}.{}", one.kind);
        run.until(|| run.get("/openapi/v2"), move |answer| answer.tree()["definitions"].get(&name).is_some() == there)
    };
    definition("v2", true)?;
    run.redefine(&one, json!([{"op": "replace", "path": "/spec/versions/1/name", "value": "v3"}]))?;
    run.until(|| document("v3"), |answer| answer.code == 200 && schema(answer, "v3", &one.kind).is_object())?;
    definition("v3", true)?;
    definition("v2", false)?;
    run.redefine(&one, json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]))?;
    definition("v3", false)?;
    definition("v1", true)?;
    Ok(())
}

/// Unknown and repeated fields of custom objects are told, dropped or refused as they are of all others.
pub(super) fn fields_are_looked_at(run: &mut Run) -> Outcome {
    let known = json!({"type": "object", "properties": {"a": text()}});
    let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true});
    let strict = run.define(
        json!([version("v1", json!({"spec": known, "template": embedded}), &[])]),
        json!({"strategy": "None"}),
    )?;
    let mut free = version("v1", json!({}), &[]);
    free["schema"]["openAPIV3Schema"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let free = run.define(json!([free]), json!({"strategy": "None"}))?;
    let send = |defined: &super::Defined, apply: bool, body: &str, validation: &str| {
        let body = body.replace("KIND", &defined.kind).replace("GROUP", GROUP);
        let (collection, json) = (defined.objects("v1"), "application/json");
        let query = format!("dryRun=All&fieldValidation={validation}&fieldManager=m");
        let (method, path, media) = match apply {
            true => (Method::PATCH, format!("{collection}/x?{query}"), "application/apply-patch+yaml"),
            false => (Method::POST, format!("{collection}?{query}"), json),
        };
        run.runtime.block_on(run.wire.send(Credentials::Own, &method, &path, (media, json), body))
    };
    let head = "{\"apiVersion\": \"GROUP/v1\", \"kind\": \"KIND\", \"metadata\": {\"name\": \"x\"";
    for (defined, rest, created) in [
        (&strict, "}, \"spec\": {\"a\": \"1\"}}", &[][..]),
        (&free, "}, \"spec\": {\"b\": \"1\"}, \"c\": 2}", &[]),
        (&strict, "}, \"spec\": {\"b\": \"1\"}}", &["unknown field \"spec.b\""]),
        (
            &strict,
            ", \"unknownMeta\": 1}, \"template\": {\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"y\", \
             \"unknownSub\": 1}}}",
            &["unknown field \"metadata.unknownMeta\"", "unknown field \"template.metadata.unknownSub\""],
        ),
        (&free, "}, \"c\": 1, \"c\": 2}", &["duplicate field \"c\""]),
    ] {
        let body = format!("{head}{rest}");
        let fine = created.is_empty();
        let refused = send(defined, false, &body, "Strict")?;
        let said = format!("strict decoding error: {}", created.join(", "));
        expect(
            if fine { refused.code == 201 } else { refused.code == 400 && refused.text("message").ends_with(&said) },
            &refused,
        )?;
        let warned = send(defined, false, &body, "Warn")?;
        expect(warned.code == 201 && warned.warnings() == created, &warned)?;
        let ignored = send(defined, false, &body, "Ignore")?;
        expect(ignored.code == 201 && ignored.warnings().is_empty(), &ignored)?;
        let applied = send(defined, true, &body, "Strict")?;
        expect(if fine { applied.code == 201 } else { applied.code >= 400 }, &applied)?;
    }
    Ok(())
}
