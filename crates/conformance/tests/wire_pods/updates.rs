//! Volumes follow what they are made of while their pod runs.

use serde_json::{Value, json};
use skiff_conformance::Credentials;

use crate::support::{Api as Run, Outcome, accepted, expect, is_ready};
use crate::table::{BUSYBOX, phase, pod, server};

pub(crate) fn followed(run: &mut Run) -> Outcome {
    let home = run.home()?;
    for (collection, data) in [("configmaps", "data"), ("secrets", "stringData")] {
        for name in ["changed", "goes"] {
            run.add(&home, collection, &json!({"metadata": {"name": name}, data: {"k": "first"}}))?;
        }
    }
    let mut pod = server("follower", &[]);
    pod["metadata"]["annotations"] = json!({"note": "first"});
    let map = |name: &str| json!({"configMap": {"name": name, "optional": true}});
    let secret = |name: &str| json!({"secret": {"name": name, "optional": true}});
    let of_secret = |name: &str| json!({"secret": {"secretName": name, "optional": true}});
    let all = ["changed", "goes", "comes"];
    let mut volumes: Vec<Value> = Vec::new();
    for name in all {
        for (kind, source) in [("map", map(name)), ("secret", of_secret(name))] {
            let mut volume = source;
            volume["name"] = format!("{kind}-{name}").into();
            volumes.push(volume);
        }
        let sources: Vec<Value> = vec![map(name), secret(name)];
        for (kind, source) in ["projected-map", "projected-secret"].iter().zip(sources) {
            volumes.push(json!({"name": format!("{kind}-{name}"), "projected": {"sources": [source]}}));
        }
    }
    let fields = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}]);
    volumes.push(json!({"name": "own", "downwardAPI": {"items": fields}}));
    volumes.push(json!({"name": "projected-own", "projected": {"sources": [{"downwardAPI": {"items": fields}}]}}));
    let mount = |volume: &Value| json!({"name": volume["name"], "mountPath": format!("/v/{}", volume["name"].as_str().unwrap_or_default())});
    pod["spec"]["containers"][0]["volumeMounts"] = volumes.iter().map(mount).collect();
    pod["spec"]["volumes"] = volumes.into();
    run.serve(&home, &[pod])?;

    for (collection, data) in [("configmaps", "data"), ("secrets", "stringData")] {
        accepted(&run.merge(&format!("{home}/{collection}/changed"), &json!({data: {"k": null, "k2": "second"}}))?)?;
        if collection == "secrets" {
            accepted(&run.merge(&format!("{home}/{collection}/changed"), &json!({"data": {"k": null}}))?)?;
        }
        accepted(&run.json(http::Method::DELETE, &format!("{home}/{collection}/goes"), &Value::Null)?)?;
        run.add(&home, collection, &json!({"metadata": {"name": "comes"}, data: {"k": "came"}}))?;
    }
    let change = json!({"metadata": {"labels": {"new": "label"}, "annotations": {"note": "second"}}});
    accepted(&run.merge(&format!("{home}/pods/follower"), &change)?)?;
    for kind in ["map", "secret", "projected-map", "projected-secret"] {
        let file = |name: &str, key: &str| format!("/file?/v/{kind}-{name}/{key}");
        run.ask_until(&home, "follower", &file("changed", "k2"), |said| said.as_deref() == Ok("second"))?;
        run.ask_until(&home, "follower", &file("changed", "k"), Result::is_err)?;
        run.ask_until(&home, "follower", &file("goes", "k"), Result::is_err)?;
        run.ask_until(&home, "follower", &file("comes", "k"), |said| said.as_deref() == Ok("came"))?;
    }
    for volume in ["own", "projected-own"] {
        let holds = |part: &'static str| {
            move |said: &Result<String, String>| said.as_ref().is_ok_and(|text| text.contains(part))
        };
        run.ask_until(&home, "follower", &format!("/file?/v/{volume}/labels"), holds("new=\"label\""))?;
        run.ask_until(&home, "follower", &format!("/file?/v/{volume}/annotations"), holds("note=\"second\""))?;
    }
    Ok(())
}

pub(crate) fn immutable(run: &mut Run) -> Outcome {
    let home = run.home()?;
    for (collection, data) in [("configmaps", "data"), ("secrets", "stringData")] {
        let path = format!("{home}/{collection}/fixed");
        run.add(&home, collection, &json!({"metadata": {"name": "fixed"}, data: {"k": "v"}}))?;
        accepted(&run.merge(&path, &json!({data: {"k": "w"}}))?)?;
        accepted(&run.merge(&path, &json!({"immutable": true}))?)?;
        for change in [json!({data: {"k": "x"}}), json!({"immutable": false}), json!({"immutable": null})] {
            let refused = run.merge(&path, &change)?;
            expect(refused.code == 422, &refused)?;
        }
        accepted(&run.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}}))?)?;
        accepted(&run.json(http::Method::DELETE, &path, &Value::Null)?)?;
        let nameless =
            run.post(&format!("{home}/{collection}"), &json!({"metadata": {"name": "n"}, data: {"": "v"}}))?;
        expect(nameless.code == 422, &nameless)?;
    }
    Ok(())
}

pub(crate) fn subpath_mended(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let with = |name: &str, variable: Value| {
        let container = json!({"name": "c", "image": BUSYBOX, "command": ["sleep", "600"], "env": [variable],
            "volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(SUB)/x"}]});
        pod(name, container, json!({"volumes": [{"name": "v", "emptyDir": {}}]}))
    };
    let from_note = json!({"name": "SUB", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['sub']"}}});
    let pods = [
        with("mended", from_note),
        with("absolute", json!({"name": "SUB", "value": "/tmp"})),
        with("upwards", json!({"name": "SUB", "value": "../other"})),
    ];
    pods.iter().try_for_each(|pod| run.add(&home, "pods", pod).map(drop))?;
    let stuck = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    };
    run.pods_when("none of them starts", &home, &["mended", "absolute", "upwards"], stuck)?;
    accepted(&run.merge(&format!("{home}/pods/mended"), &json!({"metadata": {"annotations": {"sub": "good"}}}))?)?;
    let seen = run.pod_when("the mended one starts", &home, "mended", is_ready)?;
    if phase(&seen) == "Running" { Ok(()) } else { Err(seen.to_string()) }
}

/// What is declared of a pod is counted, and the node says what of it it has seen.
pub(crate) fn generations(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let mut one = server("counted", &[]);
    one["metadata"]["generation"] = 100.into();
    one["spec"]["terminationGracePeriodSeconds"] = 60.into();
    one["spec"]["activeDeadlineSeconds"] = 9_000.into();
    one["spec"]["initContainers"] = json!([{"name": "first", "image": BUSYBOX, "command": ["true"]}]);
    run.serve(&home, &[one])?;
    let path = format!("{home}/pods/counted");
    let mut expected = 1;
    let image = |kind: &str, name: &str| json!({"spec": {kind: [{"name": name, "image": "busybox:1.35-next"}]}});
    let rows = [
        ("nothing", json!({}), 0),
        ("a toleration", json!({"spec": {"tolerations": [{"key": "other", "operator": "Exists"}]}}), 1),
        ("a deadline", json!({"spec": {"activeDeadlineSeconds": 5_000}}), 1),
        ("an init container's image", image("initContainers", "first"), 1),
        ("a note", json!({"metadata": {"annotations": {"note": "x"}}}), 0),
        ("the number itself", json!({"metadata": {"generation": 1}}), 0),
    ];
    for (what, patch, more) in rows {
        let types = ("application/strategic-merge-patch+json", "application/json");
        let changed = run.wire.send(Credentials::Own, &http::Method::PATCH, &path, types, patch.to_string());
        let changed = run.runtime.block_on(changed)?;
        expected += more;
        let counted = changed.code == 200 && changed.tree()["metadata"]["generation"] == expected;
        expect(counted, &changed).map_err(|error| format!("{what}: {error}"))?;
    }
    for seconds in 1..=400 {
        accepted(&run.merge(&path, &json!({"spec": {"activeDeadlineSeconds": 5_000 - seconds}}))?)?;
        expected += 1;
    }
    let seen = run.pod_when("all of them are seen", &home, "counted", |pod| {
        let conditions = pod["status"]["conditions"].as_array();
        pod["status"]["observedGeneration"] == expected
            && conditions.is_some_and(|all| all.iter().all(|c| c["observedGeneration"] == expected))
    })?;
    if seen["metadata"]["generation"] != expected {
        return Err(seen["metadata"].to_string());
    }
    let going = run.json(http::Method::DELETE, &format!("{path}?gracePeriodSeconds=60"), &Value::Null)?;
    accepted(&going)?;
    let read = run.json(http::Method::GET, &path, &Value::Null)?;
    // It may be gone already: it ends as soon as it is asked to.
    let counted = read.code == 404 || read.tree()["metadata"]["generation"] == expected + 1;
    expect(counted && going.tree()["metadata"]["generation"] == expected + 1, &going)
}
