//! Volumes follow what they are made of while their pod runs.

use serde_json::{Value, json};

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
